"""Where an OCI runtime keeps its containers: one directory each, below ``--root``.

A directory holds ``state`` (JSON by lines: the container as it was asked for, then its pids, both written by the executor),
``config.json`` (the configuration as it was at creation; what changes later has no effect), and the pipes ``start`` and
``report``. Nothing in it says whether the container runs: that is asked of the kernel, every time.
"""

from __future__ import annotations

import os
import stat as modes

from hutch import jsontext
from hutch.errors import StateError, UsageError
from hutch.kernel import private, proc
from hutch.kernel.locks import locked
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

    from hutch.oci.config import Config

RECORD, CONFIG, START, REPORT = "state", "config.json", "start", "report"
CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


def default_root() -> str:
    """/run/hutch-oci for root; for a user, also one who is root in a user namespace alone, below $XDG_RUNTIME_DIR, else where
    `private.runtime_directory` finds it. Raises StateError."""
    if os.geteuid() == 0 and os.access("/run", os.W_OK):
        return "/run/hutch-oci"
    try:
        return private.runtime_directory("hutch-oci")
    except OSError as error:
        raise StateError(f"state directory {error.filename or ''}: {error.strerror}", "name a directory that you may write with --root") from None


def check_id(identity: str) -> str:
    """A container's id: letters, digits, ``_+-.``; it becomes the name of a directory. Raises UsageError."""
    if not identity or set(identity) - LETTERS or identity in (".", "..") or len(identity) > 255:
        raise UsageError(f"container id {identity!r}: expected letters, digits and _+-. (at most 255), and neither . nor ..")
    return identity


class Entry(Record):
    """A container's record. `started` is when its process began, in clock ticks since boot: 0 while it is being made."""

    id: str
    directory: str
    pid: int
    started: int
    data: dict[str, Any]

    @property
    def bundle(self) -> str:
        """The bundle's absolute path."""
        return str(self.data.get("bundle", ""))

    @property
    def cgroup(self) -> dict[str, str]:
        """The container's cgroup directories by controller ("" is v2)."""
        found = self.data.get("cgroup")
        return found if isinstance(found, dict) else {}

    def alive(self) -> bool:
        """Whether the container's first process lives: not a zombie, and not another one under its number."""
        found = proc.stat(self.pid) if self.pid > 0 else None
        return found is not None and not found.ended and found.started == self.started

    def status(self) -> str:
        """The container's status, as the kernel has it now (runtime.md, "State")."""
        if not self.pid:
            return CREATING if self.making() else STOPPED
        if not self.alive():
            return STOPPED
        if frozen(self.cgroup):
            return PAUSED
        return CREATED if self.waits() else RUNNING

    def making(self) -> bool:
        """Whether an executor is at work on it: it holds the record's lock."""
        try:
            return locked(f"{self.directory}/{RECORD}")
        except OSError:
            return False

    def waits(self) -> bool:
        """Whether the container waits for its start: then, and only then, the pipe has a reader."""
        try:
            os.close(os.open(f"{self.directory}/{START}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
        except OSError:
            return False
        return True

    def config(self) -> Config:
        """The configuration that the container was made from. Raises StateError."""
        from hutch.oci.decode import decode_config

        path = f"{self.directory}/{CONFIG}"
        try:
            data = jsontext.loads(proc.read_text(path))
        except (OSError, ValueError) as error:
            raise StateError(f"container {self.id}: {path} cannot be read: {error}") from None
        return decode_config(data if isinstance(data, dict) else {})


def frozen(paths: dict[str, str]) -> bool:
    """Whether the cgroup is frozen, by v1's freezer or v2's."""
    try:
        if "freezer" in paths:
            return proc.read_text(f"{paths['freezer']}/freezer.state").strip() != "THAWED"
        return "" in paths and "frozen 1" in proc.read_text(f"{paths['']}/cgroup.events")
    except OSError:
        return False


class Store:
    """The containers below one directory, which is made, private, when the first container is.

    What its records say is done to the host: a directory of somebody else's is refused by every command. Raises StateError.
    """

    def __init__(self, root: str = "") -> None:
        self.root = os.path.abspath(root or default_root())
        try:
            private.check(self.root)
        except FileNotFoundError:
            pass  # no container yet
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> StateError:
        return StateError(f"--root {self.root}: {error.strerror}", "name a directory of your own with --root")

    def prepare(self) -> None:
        """Make the directory. Raises StateError when that cannot be, or when it is not this user's."""
        try:
            os.makedirs(os.path.dirname(self.root), exist_ok=True)
            private.directory(self.root)
        except OSError as error:
            raise self._refused(error) from None

    def directory(self, identity: str) -> str:
        """Where a container of this id is kept. Raises UsageError."""
        return f"{self.root}/{check_id(identity)}"

    def load(self, identity: str) -> Entry:
        """A container's record. Raises StateError when there is none, or none that can be read."""
        directory = self.directory(identity)
        if os.path.islink(directory):
            raise damaged(identity, "its directory is a link")
        data: dict[str, Any] = {}
        try:
            text = proc.read_text(f"{directory}/{RECORD}")
        except FileNotFoundError:
            if not os.path.isdir(directory):
                raise StateError(f"container {identity}: does not exist") from None
            raise damaged(identity, "its state file is missing") from None
        except OSError as error:
            raise StateError(f"container {identity}: {directory}/{RECORD}: {error.strerror}") from None
        try:
            for line in text.splitlines():
                data.update(jsontext.loads(line))
        except (ValueError, TypeError, AttributeError) as error:
            raise damaged(identity, f"its state file cannot be read ({error})") from None
        if data.get("id") != identity or not sound(data):
            raise damaged(identity, "its state file is not a record of it")
        return Entry(id=identity, directory=directory, pid=data.get("pid", 0), started=data.get("started", 0), data=data)

    def ids(self) -> Iterator[str]:
        """Every id that has a directory, sorted."""
        try:
            names = sorted(os.listdir(self.root))
        except OSError:
            return
        for name in names:
            try:
                if not set(name) - LETTERS and modes.S_ISDIR(os.lstat(f"{self.root}/{name}").st_mode):
                    yield name
            except OSError:
                continue


PLAIN = {"bundle": str, "rootfs": str, "created": str, "owner": int, "ociVersion": str, "annotations": dict, "options": dict}


def sound(data: dict[str, Any]) -> bool:
    """Whether a record is of the right types. A pid without the moment of its start could be any process's."""
    pid, started = data.get("pid", 0), data.get("started", 0)
    if type(pid) is not int or type(started) is not int or not 0 <= pid < 2**31 or bool(pid) != (started > 0):
        return False
    if any(name in data and type(data[name]) is not kind for name, kind in PLAIN.items()):
        return False
    paths, lists = data.get("cgroup", {}), [data.get(name, []) for name in ("namespaces", "joined")]
    return isinstance(paths, dict) and all(isinstance(p, str) and p.startswith("/") for p in paths.values()) and all(isinstance(x, list) for x in lists)


def damaged(identity: str, problem: str) -> StateError:
    """The error for a record that is of no use."""
    return StateError(f"container {identity}: {problem}", f"`delete --force {identity}` removes what is left of it")


class Lock:
    """One command at a time on a container: an flock(2) on its directory. A context manager; raises StateError when the
    container is deleted while it waits."""

    def __init__(self, entry_directory: str, identity: str) -> None:
        self._path, self._identity = entry_directory, identity
        self._fd = -1

    def __enter__(self) -> Self:
        import fcntl

        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            same = os.fstat(self._fd).st_nlink > 0 and os.stat(self._path).st_ino == os.fstat(self._fd).st_ino
        except FileNotFoundError:
            same = False
        if not same:
            self.__exit__()
            raise StateError(f"container {self._identity}: does not exist")
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
