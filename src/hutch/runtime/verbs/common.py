"""What create, run, exec and restore have in common."""

from __future__ import annotations

import os
import time

from hutch import jsontext
from hutch.errors import ConfigError, HutchError, StartError, StateError, UsageError
from hutch.kernel import documents, proc
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from hutch.executor.launcher import Execution
    from hutch.oci.config import Seccomp
    from hutch.runtime.verbs.store import Store


class Options(Record):
    """What `create` and `run` are told beside the bundle. The first `listening` of the preserved descriptors are sockets, of which
    the program is told (sd_listen_fds(3)); `debug` asks for the time of every operation."""

    console_socket: str = ""
    pid_file: str = ""
    pivot: bool = True
    keyring: bool = True
    preserve: int = 0
    listening: int = 0
    systemd: bool = False
    debug: bool = False


def read_configuration(bundle: str) -> str:
    """The text of a bundle's config.json. Raises UsageError."""
    try:
        return documents.read_text(f"{bundle}/config.json")
    except OSError as error:
        hint = "a bundle is a directory with a config.json: `hutch-oci spec` writes one"
        raise UsageError(f"bundle {bundle}: config.json: {error.strerror}", hint) from None


def parse_json(text: str, what: str) -> object:
    """A JSON text's value. Raises ConfigError, which names `what` it was and the place in it."""
    try:
        return jsontext.loads(text)
    except ValueError as error:
        raise ConfigError("", f"{what}: is not JSON: {error}") from None


def vacant(store: Store, identity: str) -> None:
    """Raises StateError when a container has the id; the executor's mkdir(2) is what decides."""
    if os.path.lexists(store.directory(identity)):
        raise StateError(f"container {identity}: exists already", f"`delete {identity}` removes it once it has stopped")


def occupied(paths: dict[str, str]) -> None:
    """Raises UsageError when somebody lives in the cgroup already: limits and kills would hit the wrong ones."""
    for path in paths.values():
        try:
            found = proc.read_text(f"{path}/cgroup.procs").split()
        except OSError:
            continue
        if found:
            raise UsageError(f"linux.cgroupsPath: {path} is not empty: {len(found)} processes live in it", "give every container a cgroup of its own")


def report_times(execution: Execution, notice: Callable[[str, str], None]) -> None:
    """With ``--debug``: every operation, and the milliseconds since the start at which it was done."""
    for lane, index, nanoseconds in execution.times():
        operation = execution.plan.whole.operation(0 if lane == "host" else 1, index)
        notice("debug", f"{nanoseconds / 1e6:8.3f} ms {lane}[{index}] {operation.origin}: {operation.describe()}")


def write_pid(path: str, pid: int) -> None:
    """Write a pid file at once, so that nobody reads half of it. Raises HutchError."""
    directory, name = os.path.split(os.path.abspath(path))
    fresh = f"{directory}/.{name}.{os.getpid()}"
    made = False
    try:
        # a new file, whatever somebody may have put there for us to write through
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        made = True
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)
        os.rename(fresh, path)
    except OSError as error:
        if made:
            os.unlink(fresh)
        raise HutchError(f"--pid-file {path}: {error.strerror}") from None


def hand_over(execution: Execution, console: socket | None, seccomp: Seccomp | None, pid_file: str, state: Callable[[], str]) -> None:
    """Once the program is ready: the terminal, the filter's listener and the pid go to whom they were promised. `state` is the
    container's, as text. Raises HutchError."""
    if not execution.ready:
        raise StartError("the container was killed before its program ran")
    found = execution.descriptors
    if console is not None:
        from hutch.runtime.verbs import handover

        handover.send(console, handover.TERMINAL_NAME, found["terminal"], "--console-socket")
    if seccomp is not None and "seccomp" in found:
        from hutch.runtime.verbs import handover

        handover.send_listener(seccomp.listener_path or "", seccomp.listener_metadata, found["seccomp"], execution.pid, state())
    if pid_file:
        write_pid(pid_file, execution.pid)


def utc(nanoseconds: int) -> str:
    """A moment as in RFC 3339, with nanoseconds."""
    t = time.gmtime(nanoseconds // 10**9)
    return f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}.{nanoseconds % 10**9:09}Z"
