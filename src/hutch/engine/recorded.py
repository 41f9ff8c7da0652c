"""A running container from its record: for commands that come from another process than the one that made it."""

from __future__ import annotations

import os

from hutch.engine.facts import RECORD_KEY, Made, facts_from
from hutch.engine.settings import Attachment, Bind, ImageSource, Settings, Tmpfs, Ulimit, VolumeMount
from hutch.engine.state import Running
from hutch.errors import ContainerGone, StateError
from hutch.kernel import proc, syscalls
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.cgroup.live import Cgroup
    from hutch.vm.compile import Parts

_ITEMS: dict[str, type[Record]] = {"binds": Bind, "tmpfs": Tmpfs, "ulimits": Ulimit, "volumes": VolumeMount, "images": ImageSource, "attachments": Attachment}


def settings_of(data: dict[str, Any]) -> Settings:
    """The settings in a record's JSON. Raises StateError when they are not ones."""

    def value(name: str, item: Any) -> Any:
        if name in _ITEMS:
            kind = _ITEMS[name]
            return tuple(kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in part.items()}) for part in item)
        if isinstance(item, list):
            return tuple(tuple(part) if isinstance(part, list) else part for part in item)
        return item

    try:
        return Settings(**{name: value(name, item) for name, item in data.items()})
    except (TypeError, AttributeError) as error:
        raise StateError(f"the container's record cannot be read: {error}") from None


def made_of(running: Running) -> Made:
    """A container as it was made. Raises StateError when its record cannot be read."""
    s = settings_of(running.data["settings"])
    machine = None
    if "machine" in running.data:
        from hutch.engine import machines

        machine = machines.parts_of(running.data, s)
    reachable = running.pid and (machine is None or not machine.machine.disks)
    open_root = (lambda: open_root_of(running, machine)) if reachable else None
    return Made(running.id, running.directory, s, facts_from(running.data.get(RECORD_KEY)), machine, open_root=open_root)


def open_root_of(running: Running, machine: Parts | None) -> int:
    """A descriptor of a running container's root directory. Raises ContainerGone, UnsupportedError, StateError."""
    name = running.name or running.id
    pidfd = open_pidfd(running)
    os.close(pidfd)
    path = f"/proc/{running.pid}/root"
    if machine is not None:
        from hutch.engine import machines

        path = machines.root_of(running.pid, machine, name)
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"container {name}: {path}: {error.strerror}") from None


def cgroup_of(running: Running) -> Cgroup:
    """The cgroup of a container: numbers, freezing."""
    if "machine" in running.data:
        from hutch.engine.guest_cgroup import GuestCgroup

        return GuestCgroup(running.directory, running.name or running.id)
    from hutch.cgroup.live import Cgroup

    return Cgroup(running.data.get("cgroup", {}))


def open_pidfd(running: Running) -> int:
    """A pidfd of the container's first process. Raises ContainerGone when it is gone, or its pid is somebody else's.

    The record is locked by its executor for as long as the process lives; the executor is the process's parent, so that a
    pid read between the two is the container's, and once the pidfd is open its number can be reused without harm.
    """
    if not running.pid:
        raise ContainerGone(f"container {running.name or running.id}: does not run")
    try:
        pidfd = syscalls.pidfd_open(running.pid)
    except OSError:
        raise ContainerGone(f"container {running.name or running.id}: has ended") from None
    found = proc.stat(running.pid)
    if found is None or found.parent != running.executor:
        os.close(pidfd)
        raise ContainerGone(f"container {running.name or running.id}: has ended")
    return pidfd
