"""Undo a plan's host operations from Python: for when the executor itself was killed.

Names in a plan are the container's alone, so an inverse whose operation never ran finds nothing and is done.
"""

from __future__ import annotations

import os
import time

from hutch.kernel.trees import remove_tree
from hutch.plan import ops
from hutch.plan.plan import Plan

SIGKILL, ENOENT = 9, 2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection


def undo(plan: Plan, replace: tuple[str, str] = ("", "")) -> None:
    """Run the inverses, last first; `replace` is (placeholder, id) of a plan that was kept as a template. What cannot be
    undone is left for the next command's clean-up.

    What has a record is undone only where the record is this plan's: an id and a cgroup's path may be chosen by somebody, and
    be another container's by now."""
    if not _ours(plan, replace):
        return
    for operation in reversed(plan.host):
        path = str(getattr(operation, "path", "")).replace(*replace) if replace[0] else str(getattr(operation, "path", ""))
        if isinstance(operation, ops.HostDirectory) and operation.undo == "tree":
            remove_tree(path)
        elif isinstance(operation, ops.HostDirectory) and operation.undo == "rmdir":
            kill(f"{path}/cgroup.procs")
            remove_cgroup(path)
        elif isinstance(operation, ops.Reserve) and operation.undo == "tree":
            give_back(path, operation.name.replace(*replace) if replace[0] else operation.name)
        elif isinstance(operation, ops.KillAtExit):
            kill(path)
        elif isinstance(operation, ops.HoldLayer) and (operation.index or operation.undo == "tree"):
            release(operation.lock, path, remove=operation.undo == "tree")
        elif isinstance(operation, ops.HoldShared):
            let_go(operation, replace)


def give_back(record: str, name: str) -> None:
    """Unlink a container's name, if it is this one's."""
    try:
        if os.path.samestat(os.lstat(record), os.lstat(name)):
            os.unlink(name)
    except FileNotFoundError:
        pass


def _ours(plan: Plan, replace: tuple[str, str]) -> bool:
    record = next((op for op in plan.host if isinstance(op, ops.HostRecord)), None)
    if record is None:
        return True
    path, text = record.path, record.data
    if replace[0]:
        # of a template the directory's name is random, and its text holds another placeholder for the time
        return True
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(len(text)) == text
    except OSError:
        return False


def kill_process(pidfd: int) -> None:
    """SIGKILL by pidfd, and wait for the end (2 s at most)."""
    import select
    import signal

    try:
        signal.pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(2000)


def kill(procs: str) -> None:
    """SIGKILL for every process of a cgroup, until none is left (2 s at most). By pidfd: a number may be somebody else's by the
    time that it is used, and is not if it is still listed after it was opened."""
    for _ in range(200):
        if not kill_listed(lambda: _members(procs)):
            return
        time.sleep(0.01)


def kill_listed(listed: Callable[[], Collection[int]]) -> bool:
    """SIGKILL, by pidfd, for the processes that are listed before and after their descriptors were opened; whether any was listed."""
    pids = listed()
    held = {}
    for pid in pids:
        try:
            held[pid] = os.pidfd_open(pid)
        except OSError:
            continue  # it has ended
    for pid in listed() if held else ():
        if pid in held:
            _kill_one(held[pid])
    for pidfd in held.values():
        os.close(pidfd)
    return bool(pids)


def _members(procs: str) -> list[int]:
    try:
        with open(procs, encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _kill_one(pidfd: int) -> None:
    """SIGKILL by pidfd; nothing for a process that has ended, or is not this user's."""
    import signal

    try:
        signal.pidfd_send_signal(pidfd, SIGKILL)
    except OSError:
        return


def remove_cgroup(path: str) -> None:
    """rmdir a cgroup with those below it; it is busy until its last process is gone, which is waited for (2 s at most)."""
    for place, _, _ in os.walk(path, topdown=False):
        if place != path:
            kill(f"{place}/cgroup.procs")
            _remove_empty(place)
    _remove_empty(path)


def _remove_empty(path: str) -> None:
    for _ in range(200):
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)


def release(lock: str, place: str, remove: bool = False) -> bool:
    """Unmount a layer that nobody holds, or remove the tree; whether it is free now."""
    import fcntl

    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return not os.path.ismount(place)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unmount(place)
        if remove:
            remove_tree(place)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def let_go(operation: ops.HoldShared, replace: tuple[str, str] = ("", "")) -> None:
    """The inverse of holding something that is shared, for an executor that was killed: its own lock has gone with it."""
    from hutch.kernel.locks import take
    from hutch.kernel.netlink.socket import Socket

    old, new = (part.encode() for part in replace)

    def send(datagrams: tuple[tuple[int, bytes], ...]) -> bool:
        done = True
        for protocol, data in datagrams:
            with Socket(protocol) as socket:
                error = socket.batch(data.replace(old, new) if old else data, 1)[0]
                done = error is None or error.errno == ENOENT  # somebody may have flushed all tables
        return done

    send(operation.own)
    fd = os.open(operation.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if take(fd) and send(operation.last) and operation.restore:
            restore_settings(fd, operation.unless)
    except OSError:
        pass
    finally:
        os.close(fd)


def restore_settings(notes: int, unless: str = "") -> None:
    """Write back what settings were: lines of a value and a path, in an open file, which is emptied. Not if the file `unless` has something
    else than 0."""
    lines = os.pread(notes, 65536, 0).decode("utf-8", "surrogateescape").splitlines()
    os.ftruncate(notes, 0)
    try:
        with open(unless or os.devnull, encoding="ascii") as file:
            if file.read().strip() not in ("", "0"):
                return
    except OSError:
        pass
    for value, path in (line.split(" ", 1) for line in lines if " " in line):
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
        except OSError:
            continue  # an interface that has gone


def unmount(place: str) -> None:
    """Detach whatever is mounted on a place. Raises OSError."""
    from hutch.kernel import syscalls

    while os.path.ismount(place):
        syscalls.umount(place, syscalls.MNT_DETACH)
