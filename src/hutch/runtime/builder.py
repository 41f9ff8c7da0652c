"""The state of one compilation: the lanes as they grow, and the questions that every part of it asks."""

from __future__ import annotations

from hutch.kernel.features import Features
from hutch.oci.config import Config, IdMapping
from hutch.plan import ops
from hutch.plan.ops import NAMESPACES, Slot, slot
from hutch.runtime.request import Request

O_PATH = 0o10000000
O_DIRECTORY = 0o200000
O_NOFOLLOW = 0o400000


class Builder:
    """Both lanes of a plan in the making. The host lane grows in four parts, in the order in which they run:
    `prepare` before the clone, `mapped` up to barrier 1 (ids, idmapped mounts), `ready` up to barrier 2 (cgroup, devices),
    `late` up to the last barrier; `after` behind it."""

    def __init__(self, config: Config, request: Request, features: Features) -> None:
        self.config = config
        self.request = request
        self.features = features
        self.prepare: list[ops.Operation] = []
        self.mapped: list[ops.Operation] = []
        self.ready: list[ops.Operation] = []
        self.late: list[ops.Operation] = []
        self.after: list[ops.Operation] = []
        self.container: list[ops.Operation] = []
        self.labels: list[ops.Operation] = []  # writes that come after the last hook of the host's
        self.warnings: list[str] = []
        linux = config.linux
        self.new = {n.type for n in linux.namespaces if not n.path}
        self.joined = {n.type: n.path for n in linux.namespaces if n.path}
        self.userns = "user" in self.new
        self.in_userns = self.userns or "user" in self.joined
        # Mounting and idmapping by the host's rights, or by those that the container's own user namespace gives.
        self.host_mounts = features.privileged
        self.uid_mappings = linux.uid_mappings
        self.gid_mappings = linux.gid_mappings

    @property
    def same_ids(self) -> bool:
        """Whether the container's ids are the same outside."""
        return all(m.container_id == m.host_id for m in (*self.uid_mappings, *self.gid_mappings))

    @property
    def goes_inside(self) -> bool:
        """Whether the container lane enters a joined pid namespace last of all, when it has nothing of the host's any more. Before
        6.18 it has to be in there from the beginning, or its /proc would be the host's."""
        return "pid" in self.joined and self.features.proc_of_namespace

    @property
    def late_namespaces(self) -> bool:
        """Whether the container lane makes the new namespaces itself: those that are to belong to a user namespace that is joined,
        by root, once it is; and beside a joined pid namespace, which it needs the host's rights to join."""
        return bool(self.clone_flags) and (self.goes_inside or ("user" in self.joined and self.features.privileged))

    @property
    def clone_flags(self) -> int:
        """New namespaces made by the clone; cgroup and time begin later."""
        return sum(NAMESPACES[name] for name in self.new if name not in ("cgroup", "time"))

    def map_id(self, mappings: tuple[IdMapping, ...], number: int) -> int:
        """A container's id on the host; the id itself without mappings, -1 when it is not mapped."""
        if not self.userns and not ("user" in self.joined and mappings):
            return number
        for mapping in mappings:
            if mapping.container_id <= number < mapping.container_id + mapping.size:
                return mapping.host_id + number - mapping.container_id
        return -1

    def host_uid(self, uid: int) -> int:
        """A uid of the container on the host."""
        return self.map_id(self.uid_mappings, uid)

    def host_gid(self, gid: int) -> int:
        """A gid of the container on the host."""
        return self.map_id(self.gid_mappings, gid)

    def open_path(self, path: str, into: str, origin: str) -> Slot:
        """Open a host directory for the container lane, before it pivots."""
        found = slot(into)
        self.container.append(ops.Open(path=path, flags=O_PATH | O_DIRECTORY, into=found, origin=origin))
        return found

    def lane_for_trees(self) -> list[ops.Operation]:
        """Where a host's mount is cloned: on the host lane by root, whose view of the path is the user's; in the
        container's own mount namespace by anyone else, whose rights begin there."""
        return self.mapped if self.host_mounts else self.container
