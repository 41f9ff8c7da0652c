"""kill, delete, pause and resume (runtime.md, "Kill", "Delete")."""

from __future__ import annotations

import os
import select
import time

from hutch.errors import ContainerGone, HutchError, StateError
from hutch.kernel import proc
from hutch.kernel.trees import remove_tree
from hutch.runtime.verbs.store import CONFIG, CREATED, CREATING, PAUSED, RUNNING, STOPPED, Entry, Lock, Store, frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0  # seconds that a killed container may take to be dead
SIGNALS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
).split()
SIGKILL, RTMIN, RTMAX = 9, 34, 64


def signal_number(text: str) -> int:
    """``TERM``, ``SIGTERM``, ``15``, ``RTMIN+3``. Raises StateError for what is none."""
    name = text.upper().removeprefix("SIG")
    if name.isascii() and name.isdigit() and len(name) < 4 and 0 <= int(name) <= RTMAX:
        return int(name)
    if name in SIGNALS:
        return SIGNALS.index(name) + 1
    aliases = {"POLL": 29, "CLD": 17, "IOT": 6, "UNUSED": 31, "RTMIN": RTMIN, "RTMAX": RTMAX}
    if name in aliases:
        return aliases[name]
    for base, sign in (("RTMIN+", 1), ("RTMAX-", -1)):
        rest = name.removeprefix(base)
        if rest != name and rest.isascii() and rest.isdigit() and len(rest) < 4 and int(rest) <= RTMAX - RTMIN:
            return (RTMIN if sign > 0 else RTMAX) + sign * int(rest)
    raise StateError(f"signal {text!r}: no such signal", "a name such as TERM, or a number")


def open_process(entry: Entry) -> int:
    """A pidfd of the container's first process, once it is certain that it is that one: a number can be given to another
    process as soon as the first has been reaped. Raises ContainerGone."""
    gone = ContainerGone(f"container {entry.id}: container not running")
    try:
        pidfd = os.pidfd_open(entry.pid) if entry.pid > 0 else -1
    except OSError:
        raise gone from None
    if pidfd < 0 or not entry.alive():
        if pidfd >= 0:
            os.close(pidfd)
        raise gone
    return pidfd


def send(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2); a process that has just ended is no error."""
    from _signal import pidfd_send_signal

    try:
        pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass


def kill(store: Store, identity: str, number: int, *, everyone: bool = False) -> None:
    """Send a signal to the container's first process; to every process of its cgroup with `everyone`. Raises ContainerGone
    when it does not run."""
    entry = store.load(identity)
    if everyone:
        kill_all(entry, number)
        return
    pidfd = open_process(entry)
    try:
        send(pidfd, number)
        if number == SIGKILL and frozen(entry.cgroup):
            freeze(entry, False)  # v1: a frozen process dies when it thaws
    finally:
        os.close(pidfd)


def pids(paths: dict[str, str]) -> list[int]:
    """Every process of the cgroup and of those below it."""
    top = paths.get("freezer") or paths.get("pids") or paths.get("") or next(iter(paths.values()), "")
    found: list[int] = []
    for directory, _, files in os.walk(top) if top else ():
        if "cgroup.procs" in files:
            try:
                found += [int(word) for word in proc.read_text(f"{directory}/cgroup.procs").split()]
            except OSError:
                continue
    return [pid for pid in found if pid > 0]


def kill_all(entry: Entry, number: int) -> None:
    """A signal for every process of the container: those of its cgroup, or, without one, its first."""
    if number == SIGKILL and "" in entry.cgroup and _write(f"{entry.cgroup['']}/cgroup.kill", "1"):
        return
    held: dict[int, int] = {}
    for pid in pids(entry.cgroup):
        try:
            held[pid] = os.pidfd_open(pid)
        except OSError:
            continue
    # a number may have become another's since it was read: it must be one of the container's still, now that it is held
    still = set(pids(entry.cgroup))
    for pid, pidfd in held.items():
        if pid in still:
            send(pidfd, number)
        os.close(pidfd)
    if not entry.cgroup:
        signal_first(entry, number)
    if number == SIGKILL and frozen(entry.cgroup):
        freeze(entry, False)


def _write(path: str, text: str) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def wait_dead(entry: Entry, seconds: float) -> bool:
    """Until the container's first process has ended; False when it takes longer."""
    try:
        pidfd = open_process(entry)
    except ContainerGone:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)


def delete(store: Store, identity: str, *, force: bool, notice: Callable[[str, str], None]) -> None:
    """Remove a stopped container: its cgroups, its record; then its poststop hooks run. A created one is killed first, as the
    other runtimes do and their callers count on, a running one only with `force`.

    Raises StateError when it runs, or does not exist (without `force`).
    """
    try:
        entry = store.load(identity)
    except StateError:
        directory = store.directory(identity)
        if not force:
            raise
        if os.path.islink(directory):
            os.unlink(directory)  # where it leads is not ours
        elif os.path.isdir(directory):
            remove_damaged(identity, directory)
        return
    status = entry.status()
    if status == CREATING:
        if not force:
            raise StateError(f"container {identity}: is being created", "delete --force waits for that")
        entry, status = _settled(store, entry)
        if status == CREATING:
            raise HutchError(f"container {identity}: is still being created after {PATIENCE:g} s")
    if status in (RUNNING, PAUSED) and not force:
        raise StateError(f"container {identity}: cannot delete a container that is not stopped: it is {status}", "`kill` it first, or delete --force")
    if status in (RUNNING, PAUSED, CREATED):
        kill_all(entry, SIGKILL)
        signal_first(entry, SIGKILL)
        if not wait_dead(entry, PATIENCE):
            raise HutchError(f"container {identity}: its process {entry.pid} is not dead {PATIENCE:g} s after SIGKILL")
    try:
        with Lock(entry.directory, identity):
            _destroy(entry, notice)
    except StateError:
        if not force and status == STOPPED:
            raise  # somebody else was quicker; with --force that is as good


def _settled(store: Store, entry: Entry) -> tuple[Entry, str]:
    """The container once its executor is done with making it, or with undoing what it made."""
    deadline = time.monotonic() + PATIENCE
    while (status := entry.status()) == CREATING and time.monotonic() < deadline:
        time.sleep(0.01)
        try:
            entry = store.load(entry.id)
        except StateError:
            return entry, STOPPED
    return entry, status


def signal_first(entry: Entry, number: int) -> None:
    """A signal for the container's first process, if it still runs."""
    try:
        pidfd = open_process(entry)
    except ContainerGone:
        return
    send(pidfd, number)
    os.close(pidfd)


def _destroy(entry: Entry, notice: Callable[[str, str], None]) -> None:
    config = None
    if entry.data.get("poststop"):
        try:
            config = entry.config()
        except HutchError as error:
            notice("warning", error.message)
    remove_cgroups(entry.cgroup)
    remove_tree(entry.directory)
    if os.path.lexists(entry.directory):
        raise HutchError(f"container {entry.id}: {entry.directory}: could not be removed")
    if config is not None:
        from hutch.runtime.verbs import hooks

        for failure in hooks.poststop(config, entry.id, entry.bundle):
            notice("warning", failure)


def remove_cgroups(paths: dict[str, str]) -> None:
    """Kill what still lives in the container's cgroups, and remove them with those that it made below. Raises HutchError."""
    from hutch.executor import undo

    deadline = time.monotonic() + PATIENCE
    for path in sorted(set(paths.values())):
        for directory, _, _ in os.walk(path, topdown=False):
            while os.path.isdir(directory):
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise HutchError(f"{directory}: remove the cgroup: {error.strerror}") from None
                    if _occupants(directory):
                        _write(f"{directory}/freezer.state", "THAWED")
                        undo.kill(f"{directory}/cgroup.procs")
                    else:
                        time.sleep(0.001)  # the last process is on its way out


def _occupants(directory: str) -> bool:
    try:
        return bool(proc.read_text(f"{directory}/cgroup.procs").strip())
    except OSError:
        return False


def remove_damaged(identity: str, directory: str) -> None:
    """What can be removed of a container whose record cannot be read: the cgroups that its configuration names (all that live
    there die), and its directory."""
    from hutch import jsontext
    from hutch.kernel.features import features

    name = f"/hutch-{identity}"
    try:
        data = jsontext.loads(proc.read_text(f"{directory}/{CONFIG}"))
        chosen = data["linux"]["cgroupsPath"]
        name = chosen if isinstance(chosen, str) and chosen.strip("/") and ".." not in chosen.split("/") else name
    except (OSError, ValueError, KeyError, TypeError):
        pass
    layout = features().cgroups
    mounts = {c.mount for c in layout.v1} | ({layout.v2_mount} if layout.v2_mount else set())
    found = {mount: f"{mount}/{name.lstrip('/')}" for mount in mounts}
    remove_cgroups({mount: path for mount, path in found.items() if os.path.isdir(path)})
    remove_tree(directory)


def freeze(entry: Entry, frozen_: bool) -> None:
    """Stop every process of the container, or let them go on. Raises HutchError."""
    from hutch.cgroup.live import Cgroup

    Cgroup(entry.cgroup).freeze(frozen_)


def pause(store: Store, identity: str) -> None:
    """Freeze a running container. Raises StateError when it does not run."""
    entry = store.load(identity)
    with Lock(entry.directory, identity):
        status = entry.status()
        if status not in (RUNNING, CREATED):
            raise StateError(f"container {identity}: cannot pause a container that is {status}")
        freeze(entry, True)


def resume(store: Store, identity: str) -> None:
    """Let a paused container go on. Raises StateError when it is not paused."""
    entry = store.load(identity)
    with Lock(entry.directory, identity):
        if not frozen(entry.cgroup):
            raise StateError(f"container {identity}: cannot resume a container that is {entry.status()}")
        freeze(entry, False)
