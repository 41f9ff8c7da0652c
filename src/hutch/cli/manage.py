"""`hutch ps`, `logs`, `kill`, `stop`, `rm`, `stats`: what runs now."""

from __future__ import annotations

import os
import select
import time

from hutch.cli.output import binary, exact, table, tell, warn
from hutch.cli.request import patience
from hutch.engine.containers import recorded
from hutch.engine.records import live, state
from hutch.engine.spec import signals
from hutch.errors import ContainerGone, HutchError, StateError, UsageError
from hutch.kernel import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.engine.records.state import Running


def ago(moment: float) -> str:
    """``5 minutes``: how long ago, as Docker says it."""
    left = max(0, int(time.time() - moment))
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if left >= length:
            count = left // length
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{left} second{'s' if left != 1 else ''}"


def amount(value: int | None) -> str:
    """``1.5MiB``; "-" for unknown."""
    if value is None:
        return "-"
    return scaled(value, 1024, ("B", "KiB", "MiB", "GiB"), 4)


def scaled(value: int, step: int, units: tuple[str, ...], digits: int) -> str:
    """A number in the largest of some units that it reaches, each `step` times the one before."""
    number = float(value)
    for unit in units[:-1]:
        if number < step:
            return f"{number:.{digits}g}{unit}"
        number /= step
    return f"{number:.{digits}g}{units[-1]}"


def ps(values: dict[str, Any], rest: list[str]) -> int:
    """List the containers."""
    if rest:
        raise UsageError(f"ps: unexpected argument {rest[0]!r}")
    rows = [("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PID", "NAME")]
    for running in state.containers():
        if running.status == "exited" and not values.get("all"):
            continue
        if values.get("quiet"):
            tell(running.id)
            continue
        if values.get("json"):
            import json

            exact(json.dumps({k: v for k, v in running.as_dict().items() if k != "data"}))
            continue
        command = " ".join(running.command) or "(holds the container)"
        if len(command) > 30 and not values.get("no_trunc"):
            command = command[:29] + "…"
        status = f"Exited ({running.exit_code})" if running.status == "exited" else f"Up {ago(running.created)}"
        created = f"{ago(running.created)} ago"
        rows.append((running.id, running.image, command, created, status, str(running.pid or ""), running.name))
    if not values.get("quiet") and not values.get("json"):
        tell(*table(rows))
    return 0


def _one(rest: list[str], what: str) -> Running:
    if len(rest) != 1:
        raise UsageError(f"{what}: expected one container, got {len(rest)}")
    return state.find(rest[0])


def port(_: dict[str, Any], rest: list[str]) -> int:
    """Print where a container's ports are published."""
    if not 1 <= len(rest) <= 2:
        raise UsageError("port: expected a container, and at most one of its ports", "`hutch port web 80/tcp`")
    running = state.find(rest[0])
    lines = [text.replace(" ", "").partition("->") for text in running.data.get("ports", ())]
    if len(rest) == 1:
        for place, _arrow, own in lines:
            tell(f"{own} -> {place}")
        return 0
    wanted = rest[1] if "/" in rest[1] else f"{rest[1]}/tcp"
    found = [place for place, _arrow, own in lines if own == wanted]
    if not found:
        raise StateError(f"container {running.name or running.id}: port {wanted} is not published")
    tell(*found)
    return 0


def logs(values: dict[str, Any], rest: list[str]) -> int:
    """Print a detached container's output."""
    running = _one(rest, "logs")
    path = f"{running.directory}/log"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StateError(f"container {running.name or running.id}: keeps no log", "only detached containers do") from None
    with open(fd, "rb") as file:
        out = binary()
        while True:
            alive = state.locked(f"{running.directory}/{state.RECORD}")
            while data := file.read(65536):
                out.write(data)
            out.flush()
            if not values.get("follow") or not alive:
                return 0
            if reader_gone(100):
                raise BrokenPipeError


def reader_gone(milliseconds: int) -> bool:
    """Wait, and say whether what this process prints has lost its reader meanwhile."""
    poll = select.poll()
    poll.register(1, 0)  # an error, or the end of a pipe, is told in any case
    return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(milliseconds))


def kill(values: dict[str, Any], rest: list[str]) -> int:
    """Send a signal to containers."""
    return _each(rest, "kill", lambda running: _send(running, signals.number(values.get("signal", "KILL"))))


def _send(running: Running, number: int) -> None:
    pidfd = live.open_pidfd(running)
    try:
        syscalls.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def _each(rest: list[str], what: str, action) -> int:  # type: ignore[no-untyped-def]
    if not rest:
        raise UsageError(f"{what}: no container was named")
    code = 0
    for name in rest:
        try:
            action(state.find(name))
            tell(name)
        except HutchError as error:
            warn(f"hutch: {error.message}")
            code = 1
    return code


def stop(values: dict[str, Any], rest: list[str]) -> int:
    """Ask containers to end; kill those that do not in time."""
    given = patience(values.get("time"), "time")
    asked = signals.number(values["signal"]) if "signal" in values else 0

    def one(running: Running) -> None:
        pidfd = live.open_pidfd(running)
        try:
            syscalls.pidfd_send_signal(pidfd, asked or signals.number(signals.known(str(running.data.get("stop_signal") or "")) or "TERM"))
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            own = running.data["settings"].get("stop_timeout")
            patience = given if given is not None else 10 if own is None else own
            if not poll.poll(patience * 1000 if patience >= 0 else None):
                syscalls.pidfd_send_signal(pidfd, 9)
                poll.poll(10_000)
        finally:
            os.close(pidfd)
        deadline = time.monotonic() + 5
        while state.locked(f"{running.directory}/{state.RECORD}") and time.monotonic() < deadline:
            time.sleep(0.002)  # its executor still writes down how it ended

    return _each(rest, "stop", one)


def pause(_: dict[str, Any], rest: list[str]) -> int:
    """Freeze containers."""
    return _each(rest, "pause", lambda running: _freeze(running, True))


def unpause(_: dict[str, Any], rest: list[str]) -> int:
    """Let frozen containers go on."""
    return _each(rest, "unpause", lambda running: _freeze(running, False))


def _freeze(running: Running, frozen: bool) -> None:
    if running.status != "running":
        raise ContainerGone(f"container {running.name or running.id}: does not run")
    recorded.cgroup_of(running).freeze(frozen)


def rm(values: dict[str, Any], rest: list[str]) -> int:
    """Remove the records of containers that have ended."""

    def one(running: Running) -> None:
        if running.status != "exited":
            if not values.get("force"):
                raise StateError(f"container {running.name or running.id}: still runs", "`hutch stop` first, or -f")
            try:
                _send(running, 9)
            except ContainerGone:
                pass
            for _ in range(500):
                if not state.locked(f"{running.directory}/{state.RECORD}"):
                    break
                time.sleep(0.01)
        state.remove(running.directory, running.data)

    return _each(rest, "rm", one)


def stats(values: dict[str, Any], rest: list[str]) -> int:
    """What containers use now."""
    found = [state.find(name) for name in rest] if rest else [r for r in state.containers() if r.status == "running"]
    rows: list[tuple[str, ...]] = [("CONTAINER ID", "NAME", "CPU TIME", "MEMORY", "PEAK", "LIMIT", "PIDS", "READ", "WRITTEN", "THROTTLED")]
    for running in found:
        numbers = recorded.cgroup_of(running).stats()
        if values.get("json"):
            import json

            plain = {k: (v.as_dict() if hasattr(v, "as_dict") else v) for k, v in numbers.as_dict().items()}
            exact(json.dumps({"id": running.id, **plain}))
            continue
        cpu = "-" if numbers.cpu_usage is None else f"{numbers.cpu_usage / 1e9:.2f}s"
        throttled = "-" if numbers.throttled_time is None else f"{numbers.throttled_time / 1e9:.2f}s"
        sizes = (numbers.memory_usage, numbers.memory_peak, numbers.memory_limit)
        pids = "-" if numbers.pids is None else str(numbers.pids)
        io = (amount(numbers.read_bytes), amount(numbers.write_bytes))
        rows.append((running.id, running.name, cpu, *(amount(n) for n in sizes), pids, *io, throttled))
    if not values.get("json"):
        tell(*table(rows))
    return 0
