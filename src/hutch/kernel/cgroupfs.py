"""Where the control groups are: hierarchies, their controllers, and this process's place in each (cgroups(7))."""

from __future__ import annotations

import os

from hutch.kernel.proc import MountInfo, parse_cgroups
from hutch.record import Record


class V1Controller(Record):
    """A controller of a v1 hierarchy: where it is mounted, and this process's path below that."""

    name: str
    mount: str
    path: str


class CgroupLayout(Record):
    """The host's control groups.

    `mode` is "v2", "v1", "hybrid" (v1 controllers, and v2 beside them) or "none". `named` are v1 hierarchies without a controller, such
    as systemd's (``name=systemd``). `v2_mount` is where v2 is mounted; `v2_controllers` are those it has at its root. `v2_path` is
    where this user may make cgroups: this process's own place, or its parent, where that is the user's too and has controllers
    enabled for its children (a cgroup that holds processes can enable none for children of its own); `v2_own_subtree` are those, and
    `v2_writable` tells whether it is so.
    """

    mode: str
    v1: tuple[V1Controller, ...] = ()
    named: tuple[V1Controller, ...] = ()
    v2_mount: str = ""
    v2_path: str = "/"
    v2_controllers: tuple[str, ...] = ()
    v2_root_subtree: tuple[str, ...] = ()
    v2_own_subtree: tuple[str, ...] = ()
    v2_writable: bool = False

    def controller(self, name: str) -> V1Controller | None:
        """A v1 controller, or a named hierarchy, by name."""
        return next((c for c in (*self.v1, *self.named) if c.name == name), None)


def _words(path: str) -> tuple[str, ...]:
    try:
        with open(path, "rb") as file:
            return tuple(file.read().decode().split())
    except OSError:
        return ()


def _writable(place: str) -> bool:
    return os.access(place, os.W_OK) and os.access(f"{place}/cgroup.procs", os.W_OK)


def detect(mounts: tuple[MountInfo, ...], cgroups: str) -> CgroupLayout:
    """The layout from /proc/self/mountinfo and the text of /proc/self/cgroup."""
    own = parse_cgroups(cgroups)
    v1: list[V1Controller] = []
    named: list[V1Controller] = []
    v2_mount = ""
    for mount in mounts:
        if mount.kind == "cgroup2":
            v2_mount = v2_mount or mount.mount_point
        elif mount.kind == "cgroup":
            for option in mount.super_options:
                found = named if option.startswith("name=") else v1
                if option in own and all(c.name != option for c in found):
                    found.append(V1Controller(name=option, mount=mount.mount_point, path=own[option]))
    if not v2_mount:
        return CgroupLayout(mode="v1" if v1 else "none", v1=tuple(v1), named=tuple(named))
    path = own.get("", "/")
    place = v2_mount + path.rstrip("/")
    above = path.rpartition("/")[0] or "/"
    if above != "/" and not _words(f"{place}/cgroup.subtree_control") and _writable(v2_mount + above):
        path, place = above, v2_mount + above
    return CgroupLayout(
        mode="hybrid" if v1 else "v2",
        v1=tuple(v1),
        named=tuple(named),
        v2_mount=v2_mount,
        v2_path=path,
        v2_controllers=_words(f"{v2_mount}/cgroup.controllers"),
        v2_root_subtree=_words(f"{v2_mount}/cgroup.subtree_control"),
        v2_own_subtree=_words(f"{place}/cgroup.subtree_control"),
        v2_writable=_writable(place),
    )
