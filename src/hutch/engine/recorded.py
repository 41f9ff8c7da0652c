"""A running container from its record: for commands that come from another process than the one that made it."""

from __future__ import annotations

import os

from hutch.engine import prepare
from hutch.engine.settings import NO_NETWORK, Attachment, Bind, ImageSource, Settings, Tmpfs, Ulimit, VolumeMount
from hutch.engine.state import Running
from hutch.errors import ContainerGone, StateError
from hutch.image import resolve
from hutch.kernel import proc, syscalls
from hutch.kernel.features import features
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.cgroup.live import Cgroup
    from hutch.engine.prepare import Prepared

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


def prepared_of(running: Running) -> Prepared:
    """What `prepare` gave when the container was made, as far as a command in it needs it."""
    s = settings_of(running.data["settings"]).replace(pull="never")
    manifest = str(running.data.get("manifest") or "")  # the name may stand for another image by now, or for none
    rootfs = resolve.of_manifest(manifest, s.image, features()) if manifest else None
    if s.network != "host":
        s = s.replace(**NO_NETWORK)  # it is on its network already, or was
    machine = None
    if "machine" in running.data:
        from hutch.engine import machines

        machine = machines.parts_of(running.data, s)
        if s.snapshot and rootfs is None:
            from hutch.engine import machine_snapshots

            rootfs = machine_snapshots.rootfs_of(s.snapshot)
    found = prepare.prepare(s, idle=bool(running.data.get("idle")), rootfs=rootfs, machine=machine)
    uid, gid, *groups = (int(n) for n in running.data["user"])
    return found.replace(
        id=running.id, directory=running.directory, user=found.user.replace(uid=uid, gid=gid, additional_gids=tuple(groups)), home=running.data.get("home", "/")
    )


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
