"""`hutch ps`, `logs`, `kill`, `stop`, `rm`, `stats`: what runs now."""

from __future__ import annotations

import select
import time

from hutch.cli.output import binary, exact, table, tell, warn
from hutch.cli.request import patience
from hutch.engine.containers.existing import CHUNK, Existing, containers
from hutch.engine.records import state
from hutch.engine.spec import signals
from hutch.errors import HutchError, StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


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


def port(_: dict[str, Any], rest: list[str]) -> int:
    """Print where a container's ports are published."""
    if not 1 <= len(rest) <= 2:
        raise UsageError("port: expected a container, and at most one of its ports", "`hutch port web 80/tcp`")
    box = containers.get(rest[0])
    if len(rest) == 1:
        for own, place in box.ports():
            tell(f"{own} -> {place}")
        return 0
    wanted = rest[1] if "/" in rest[1] else f"{rest[1]}/tcp"
    found = [place for own, place in box.ports() if own == wanted]
    if not found:
        raise StateError(f"container {box.name}: port {wanted} is not published")
    tell(*found)
    return 0


def logs(values: dict[str, Any], rest: list[str]) -> int:
    """Print a detached container's output."""
    if len(rest) != 1:
        raise UsageError(f"logs: expected one container, got {len(rest)}")
    out = binary()
    for data in containers.get(rest[0]).logs(follow=bool(values.get("follow"))):
        out.write(data)
        if len(data) < CHUNK:
            out.flush()
        if not data and reader_gone(0):
            raise BrokenPipeError
    out.flush()
    return 0


def reader_gone(milliseconds: int) -> bool:
    """Wait, and say whether what this process prints has lost its reader meanwhile."""
    poll = select.poll()
    poll.register(1, 0)  # an error, or the end of a pipe, is told in any case
    return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(milliseconds))


def _each(rest: list[str], what: str, action: Callable[[Existing], None]) -> int:
    if not rest:
        raise UsageError(f"{what}: no container was named")
    code = 0
    for name in rest:
        try:
            action(containers.get(name))
            tell(name)
        except HutchError as error:
            warn(f"hutch: {error.message}")
            code = 1
    return code


def kill(values: dict[str, Any], rest: list[str]) -> int:
    """Send a signal to containers."""
    signals.number(wanted := values.get("signal", "KILL"))
    return _each(rest, "kill", lambda box: box.kill(wanted))


def stop(values: dict[str, Any], rest: list[str]) -> int:
    """Ask containers to end; kill those that do not in time."""
    given, asked = patience(values.get("time"), "time"), values.get("signal", "")
    if asked:
        signals.number(asked)
    return _each(rest, "stop", lambda box: box.stop(given, asked))


def pause(_: dict[str, Any], rest: list[str]) -> int:
    """Freeze containers."""
    return _each(rest, "pause", Existing.pause)


def unpause(_: dict[str, Any], rest: list[str]) -> int:
    """Let frozen containers go on."""
    return _each(rest, "unpause", Existing.resume)


def rm(values: dict[str, Any], rest: list[str]) -> int:
    """Remove the records of containers that have ended."""
    return _each(rest, "rm", lambda box: box.remove(force=bool(values.get("force"))))


def stats(values: dict[str, Any], rest: list[str]) -> int:
    """What containers use now."""
    found = [containers.get(name) for name in rest] if rest else [box for box in containers.list() if box.status == "running"]
    rows: list[tuple[str, ...]] = [("CONTAINER ID", "NAME", "CPU TIME", "MEMORY", "PEAK", "LIMIT", "PIDS", "READ", "WRITTEN", "THROTTLED")]
    for box in found:
        numbers = box.stats()
        if values.get("json"):
            import json

            plain = {k: (v.as_dict() if hasattr(v, "as_dict") else v) for k, v in numbers.as_dict().items()}
            exact(json.dumps({"id": box.id, **plain}))
            continue
        cpu = "-" if numbers.cpu_usage is None else f"{numbers.cpu_usage / 1e9:.2f}s"
        throttled = "-" if numbers.throttled_time is None else f"{numbers.throttled_time / 1e9:.2f}s"
        sizes = (numbers.memory_usage, numbers.memory_peak, numbers.memory_limit)
        pids = "-" if numbers.pids is None else str(numbers.pids)
        io = (amount(numbers.read_bytes), amount(numbers.write_bytes))
        rows.append((box.id, box.record.name, cpu, *(amount(n) for n in sizes), pids, *io, throttled))
    if not values.get("json"):
        tell(*table(rows))
    return 0
