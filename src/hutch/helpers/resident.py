"""Processes that stand by while containers run: one of each kind for a directory, started by the first who wants it.

Each holds a lock on a file there, for as long as it lives, and listens on a socket beside it. It ends by itself when nobody needs
it any more; if it was killed, the next one who wants it starts another.
"""

from __future__ import annotations

import os

from hutch.errors import HutchError
from hutch.kernel.locks import locked, take
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
LOCK_FD, LISTENER_FD = 3, 4  # what it is started with
PATIENCE = 10.0  # seconds


class Kind(Record):
    """A kind of such processes: its socket's name in the directory (no network can have such a one; the lock's ends in ``.lock``), and
    the module whose `main` it runs."""

    socket: str
    module: str


def running(directory: str, kind: Kind) -> bool:
    """Whether there is one."""
    return locked(f"{directory}/{kind.socket}.lock")


def start(directory: str, kind: Kind) -> socket.socket | None:
    """Start one, if nobody else has: a connection to it, which it will take. Raises HutchError."""
    import socket

    lock = os.open(f"{directory}/{kind.socket}.lock", FLAGS, 0o600)
    try:
        if not take(lock):
            return None
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                path = f"/proc/self/fd/{place}/{kind.socket}"  # a socket's path has room for 107 bytes, a directory's for more
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
                listener.bind(path)
                listener.listen(4096)
                own.connect(path)
                _spawn(kind, lock, listener.fileno())
        except BaseException:
            own.close()
            raise
        finally:
            os.close(place)
    except OSError as error:
        raise HutchError(f"{kind.module.rpartition('.')[2]}: {directory}: {error.strerror}") from None
    finally:
        os.close(lock)
    own.settimeout(PATIENCE)
    return own


def connect(directory: str, kind: Kind) -> socket.socket | None:
    """A connection to the one that runs, if there is one. Raises HutchError."""
    import socket

    try:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HutchError(f"{kind.module.rpartition('.')[2]}: {directory}: {error.strerror}") from None
    own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        own.settimeout(PATIENCE)
        own.connect(f"/proc/self/fd/{place}/{kind.socket}")
        return own
    except OSError:
        own.close()
        return None
    finally:
        os.close(place)


def attempts(directory: str, kind: Kind) -> Iterator[tuple[socket.socket, bool]]:
    """Connections to the one that there is, and whether it had to be started: another each time that one is asked for, as who runs may
    be about to end. They end after `PATIENCE`. Raises HutchError."""
    import time

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        started = start(directory, kind)
        connection = started or connect(directory, kind)
        if connection is not None:
            yield connection, started is not None
        time.sleep(0.003)  # one is about to begin, or to end


def _spawn(kind: Kind, lock: int, listener: int) -> None:
    import _thread
    import fcntl

    from hutch.helpers.command import command

    words = command(kind.module)
    wanted = ("PATH", "LD_LIBRARY_PATH", "HUTCH_DATA", "HUTCH_STATE", "HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")
    environment = {name: os.environ[name] for name in wanted if name in os.environ}
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    high: list[int] = []
    try:
        high += [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (null, lock, listener)]  # none is where another belongs
        places = ((high[0], 0), (high[0], 1), (high[0], 2), (high[1], LOCK_FD), (high[2], LISTENER_FD))
        actions = [(os.POSIX_SPAWN_DUP2, fd, place) for fd, place in places]
        pid = os.posix_spawn(words[0], words, environment, file_actions=actions, setsid=True, setsigmask=())
    finally:
        for fd in (*high, null):
            os.close(fd)
    _thread.start_new_thread(_reap, (pid,))  # it forks, and its first process ends at once


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # somebody waits for all of this process's children


def name_process(name: str) -> None:
    """How the process is called in ps(1): 15 letters at most."""
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)
