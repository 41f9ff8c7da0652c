"""What runs now: one directory a container, with one file of record that its executor keeps locked.

There is no daemon to ask and no index to corrupt: a record whose lock is free belongs to nobody, and whoever sees it
first removes what it names. The file is JSON by lines: the container as asked for, then its pids.
"""

from __future__ import annotations

import os

from hutch.errors import StateError
from hutch.image.store.directories import data_root, private as private_data, uppers
from hutch.kernel import private
from hutch.kernel.locks import locked as locked
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal

RECORD = "state"
NAMES = ".names"  # a directory beside the records: each name is a link to its container's record


class Running(Record):
    """A container's record. `pid` is its first process on the host, `created` seconds since 1970; `problem` says why it ended
    where that was not its program's doing."""

    id: str
    name: str
    image: str
    command: tuple[str, ...]
    created: float
    pid: int
    executor: int
    status: Literal["creating", "running", "exited"]
    exit_code: int | None
    directory: str
    data: dict[str, Any]
    problem: str = ""


def root() -> str:
    """The directory of all records: $HUTCH_STATE, or for root /run/hutch, for a user $XDG_RUNTIME_DIR/hutch.

    Where there is none in memory, it lies on /dev/shm under a random name, which a link in a directory of its owner's keeps: a
    record lives as long as its container and should cost no disk write. It is made when it is missing, and must be this
    user's own: somebody else's would let him choose what is removed. Raises StateError.
    """
    path = os.environ.get("HUTCH_STATE") or ""
    try:
        path = path or _default_root()
        try:
            return private.directory(path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return private.directory(path)
    except OSError as error:
        place = path or error.filename or "/run/hutch"
        raise StateError(f"state directory {place}: {error.strerror}", "set HUTCH_STATE to a directory that you may write") from None


_MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")


def _default_root() -> str:
    from hutch.kernel.features import features

    if os.geteuid() != 0 or not os.access("/run", os.W_OK):
        return private.runtime_directory("hutch")
    run = features().mount_at("/run")
    return "/run/hutch" if run is None or run.kind in _MEMORY_FILESYSTEMS else private.in_memory("/run/hutch")


def _read(directory: str) -> dict[str, Any] | None:
    """The record's lines merged; None when there is none, or none that can be read."""
    import json

    data: dict[str, Any] = {}
    try:
        with open(f"{directory}/{RECORD}", encoding="utf-8") as file:
            for line in file:
                part = json.loads(line)
                if not isinstance(part, dict):
                    return None
                data.update(part)
    except (OSError, ValueError):
        return None
    return data if isinstance(data.get("id"), str) else None


def remember() -> None:
    """Leave word in the data directory that containers of this state directory use what it holds: a link, named by where it leads."""
    import zlib

    base = root()
    link = f"{private_data('states')}/{zlib.crc32(os.fsencode(base)):08x}"
    try:
        if os.readlink(link) == base:
            return
        os.unlink(link)
    except FileNotFoundError:
        pass
    try:
        os.symlink(base, link)
    except FileExistsError:
        pass  # at the same time


def everywhere() -> Iterator[Running]:
    """Every container that may use what the data directory holds: of this state directory, and of every other ($HUTCH_STATE) whose
    containers have used it. Of those nothing is reclaimed."""
    own = root()
    yield from containers()
    place = private_data("states")
    for name in os.listdir(place):
        try:
            other = os.readlink(f"{place}/{name}")
            if other != own:
                private.check(other)
                yield from containers(reclaim=False, base=other)
        except FileNotFoundError:
            os.unlink(f"{place}/{name}")  # gone, as after a boot
        except OSError:
            continue


def containers(*, reclaim: bool = True, base: str = "") -> Iterator[Running]:
    """Every container of this user's, the oldest first. With `reclaim`, what dead executors left is removed on the way. `base`: of
    this state directory."""
    base = base or root()
    found = []
    for name in sorted(os.listdir(base)):
        directory = f"{base}/{name}"
        if not _is_id(name) or os.path.islink(directory) or not os.path.isdir(directory):
            continue
        running = read(directory, reclaim=reclaim)
        if running is not None:
            found.append(running)
    yield from sorted(found, key=lambda running: running.created)


def read(directory: str, *, reclaim: bool = False) -> Running | None:
    """The container of a directory, as it is now; None for one of which nothing is known any more."""
    data = _read(directory)  # what is written is locked already: who can be read and has no lock is dead
    alive = locked(f"{directory}/{RECORD}")
    exit_code, problem = _exit(directory)
    if not alive and exit_code is None:
        if reclaim and (data is not None or _settled(directory)):
            remove(directory, data)
        return None
    if data is None:
        return None
    return Running(
        id=data["id"],
        name=str(data.get("name", "")),
        image=str(data.get("image", "")),
        command=tuple(map(str, data["command"])) if isinstance(data.get("command"), list) else (),
        created=_number(data.get("created")),
        pid=int(_number(data.get("pid"))) if alive else 0,
        executor=int(_number(data.get("executor"))) if alive else 0,
        status=("running" if data.get("pid") else "creating") if alive else "exited",
        exit_code=exit_code,
        directory=directory,
        data=data,
        problem=problem,
    )


def _is_id(name: str) -> bool:
    return len(name) == 12 and not set(name) - set("0123456789abcdef")


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0


def _settled(directory: str) -> bool:
    """Not in the moment between making the directory and locking the record."""
    import time

    try:
        return time.time() - os.stat(directory).st_mtime > 2
    except OSError:
        return False


def _exit(directory: str) -> tuple[int | None, str]:
    """The exit code, and what a lost machine said at its end."""
    try:
        with open(f"{directory}/exit", encoding="utf-8", errors="replace") as file:
            number, _, words = file.read().partition("\n")
            status = int(number)
    except (OSError, ValueError):
        return None, ""
    code = 128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF
    if not words:
        return code, ""
    from hutch.executor.explain import lost

    return code, lost(words).message


def remove(directory: str, data: dict[str, Any] | None) -> None:
    """Undo what a dead container's record names: its cgroups (killing what still lives there), its files, itself.

    A record is only believed where it names what its container alone can have: a cgroup and a directory called by its id.
    """
    from hutch.executor import undo
    from hutch.kernel.trees import remove_tree

    data = data or {}
    identity = os.path.basename(directory)
    _kill_orphan(data)
    paths = data.get("cgroup")
    for path in paths.values() if isinstance(paths, dict) else ():
        own = isinstance(path, str) and os.path.basename(path) in (f"hutch-{identity}", f"hutch-{identity}.scope")
        if own and os.path.normpath(path) == path and path.startswith("/sys/fs/cgroup/"):
            undo.kill(f"{path}/cgroup.procs")
            undo.remove_cgroup(path)
    if data.get("upper") and _is_id(identity):
        for place in (uppers(), data_root()):  # the second is where they were before they had a directory of their own
            _remove_upper(f"{place}/{identity}")
    if isinstance(name := data.get("name"), str) and name and "/" not in name:
        undo.give_back(f"{directory}/{RECORD}", f"{os.path.dirname(directory)}/{NAMES}/{name}")
    remove_tree(directory)


def _remove_upper(path: str) -> None:
    import fcntl

    from hutch.image.layers import mapped
    from hutch.kernel.features import features

    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # a copy or a commit of what it has left may be going on
        mapped.remove_tree(path, features())
    finally:
        os.close(fd)


def _kill_orphan(data: dict[str, Any]) -> None:
    """The container's first process, if it outlived its executor and its owner: a program can clear its death signal.

    Its pid may be somebody else's by now: it must be the first of a pid namespace and as old as the record says.
    """
    from hutch.executor import undo
    from hutch.kernel import proc, syscalls

    pid, created = data.get("pid"), data.get("created")
    if not isinstance(pid, int) or not isinstance(created, int | float) or pid <= 1:
        return
    try:
        pidfd = syscalls.pidfd_open(pid)
    except OSError:
        return
    try:
        ticks = proc.start_time(pid)
        boot = next(int(line.split()[1]) for line in proc.read_text("/proc/stat").split("\n") if line.startswith("btime"))
        inside = proc.status(pid).get("NSpid", "").split()
        if ticks is not None and len(inside) > 1 and inside[-1] == "1" and abs(boot + ticks / os.sysconf("SC_CLK_TCK") - created) < 5:
            undo.kill_process(pidfd)
    except OSError:
        pass
    finally:
        os.close(pidfd)


def keeps_uppers() -> bool:
    """Whether the data directory lies where overlayfs takes an upper directory: not on another overlay, nor on a network."""
    from hutch.kernel.features import features

    mount = features().mount_at(os.path.realpath(data_root()))
    return mount is not None and mount.kind not in ("overlay", "nfs", "nfs4", "cifs", "9p", "virtiofs", "vfat", "fuse")


def name_place(name: str) -> str:
    """The path that a container's executor links to its record, which fails if another one has the name; "" for no name."""
    return f"{root()}/{NAMES}/{name}" if name else ""


def check_name(name: str) -> None:
    """Raise StateError if a container has a name. That it is free is decided when the executor links it."""
    place = name_place(name)
    os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
    for running in containers():
        if running.name == name:
            raise StateError(f"name {name!r}: container {running.id} has it", "`hutch rm` removes one that has ended")
    try:
        if os.lstat(place).st_nlink == 1:
            os.unlink(place)  # its record is gone
    except FileNotFoundError:
        pass


def find(reference: str) -> Running:
    """A container by name, id, or the beginning of its id. Raises StateError."""
    matches = []
    for running in containers():
        if reference in (running.name, running.id):
            return running
        if running.id.startswith(reference):
            matches.append(running)
    if len(matches) == 1 and reference:
        return matches[0]
    what = f"{len(matches)} containers begin with" if matches else "no container is called"
    raise StateError(f"{what} {reference!r}", "`hutch ps` lists them")
