"""Operations of the host lane: what the executor's outer process does on the host, with inverses."""

from __future__ import annotations

from hutch.plan.numbers import OPERATIONS
from hutch.plan.operation import Operation, Slot, namespace_names, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.plan.operation import Argument


class HostDirectory(Operation):
    """mkdir(2) on the host. Its inverse removes the directory: `undo` is "", "rmdir" (a cgroup), "tree", or "failed": the tree,
    when the container never started."""

    code = OPERATIONS["HOST_DIRECTORY"]
    lanes = "host"
    path: str
    mode: int = 0o755
    uid: int = -1
    gid: int = -1
    undo: str = ""
    exist_ok: bool = False
    userns: Slot | None = None

    def arguments(self) -> Iterable[Argument]:
        undo = ("", "rmdir", "tree", "failed").index(self.undo)
        return (self.path, self.mode, self.uid, self.gid, undo, self.exist_ok, self.userns)

    def uses(self) -> tuple[Slot, ...]:
        return ()  # the user namespace serves the inverse alone

    def describe(self) -> str:
        inverse = {"": "kept", "rmdir": "undo: rmdir", "tree": "undo: remove the tree", "failed": "kept once it runs"}[self.undo]
        return f"make host directory {self.path} ({inverse})"


class HostWrite(Operation):
    """Open a host's file and write it at once: a cgroup's key, or a file of the container's record.

    `tolerated` is an errno that counts as success: a key that this kernel lacks and the request can live without.
    """

    code = OPERATIONS["HOST_WRITE"]
    lanes = "host"
    path: str
    data: str | bytes
    create: bool = False
    tolerated: int = 0

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.data, 0o1000 | 0o100 if self.create else 0, self.tolerated)

    def describe(self) -> str:
        return f"write {shown(self.data)} to {self.path}"


class HostRecord(Operation):
    """Write the container's record and lock it: the executor holds the lock until it ends, which tells living from dead."""

    code = OPERATIONS["HOST_RECORD"]
    lanes = "host"
    path: str
    data: str
    into: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.data, self.into)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"write and lock the record {self.path}"


class Reserve(Operation):
    """link(2) the container's record to its name, which fails if the name is taken: nobody looks first and takes it then.

    `undo` is "tree" to give it back at the end, "failed" to give it back only if the container never ran, as `HostDirectory` has it.
    """

    code = OPERATIONS["RESERVE"]
    lanes = "host"
    path: str
    name: str
    undo: str = "tree"

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.name, self.undo == "failed")

    def describe(self) -> str:
        return f"link {self.path} to {self.name}"


class Clone(Operation):
    """clone3(2): the container lane begins, in new namespaces, and in a v2 cgroup when `cgroup` is given. A new user namespace
    belongs to the user `owner` plus the executor's pid, whom nobody else is; None: to whoever makes it."""

    code = OPERATIONS["CLONE"]
    lanes = "host"
    flags: int
    into: Slot
    cgroup: Slot | None = None
    owner: int | None = None

    def arguments(self) -> Iterable[Argument]:
        return (self.flags, self.cgroup, self.into, -1 if self.owner is None else self.owner)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        into = f" into cgroup {self.cgroup}" if self.cgroup else ""
        owner = f", the user namespace owned by uid {self.owner} + PID" if self.owner is not None else ""
        return f"clone the container's process{into} with new namespaces: {namespace_names(self.flags)}{owner}"


class CheckRoom(Operation):
    """Refuse to go on when a cgroup has as many processes as its limit allows: on v1 it is asked of those who fork alone."""

    code = OPERATIONS["CHECK_ROOM"]
    lanes = "host"
    current: str
    limit: str

    def arguments(self) -> Iterable[Argument]:
        return (self.current, self.limit)

    def describe(self) -> str:
        return f"check that {self.current} is below {self.limit}"


class TakeOver(Operation):
    """Wait until the container's process goes on inside the pid namespace that it joins (`CloneInside`): it is the one to be
    watched from now on."""

    code = OPERATIONS["TAKE_OVER"]
    lanes = "host"

    def describe(self) -> str:
        return "wait for the process inside the joined pid namespace"


class ProcWrite(Operation):
    """Write a file of the container's process under /proc."""

    code = OPERATIONS["PROC_WRITE"]
    lanes = "host"
    name: str
    data: str

    def arguments(self) -> Iterable[Argument]:
        return (self.name, self.data)

    def describe(self) -> str:
        return f"write {shown(self.data)} to the process's {self.name}"


class MapHelper(Operation):
    """newuidmap(1) or newgidmap(1): a mapping over subordinate ids for a user without privileges."""

    code = OPERATIONS["MAP_HELPER"]
    lanes = "host"
    program: str
    numbers: tuple[int, ...]

    def arguments(self) -> Iterable[Argument]:
        return (1 + len(self.numbers), self.program, *(str(n) for n in self.numbers))

    def describe(self) -> str:
        return f"run {self.program} PID {' '.join(map(str, self.numbers))}"


class OpenNamespace(Operation):
    """Open a namespace of the container's process, such as ``ns/user``."""

    code = OPERATIONS["OPEN_NAMESPACE"]
    lanes = "host"
    name: str
    into: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.name, self.into)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"open the process's {self.name} as {self.into}"


class DeviceProgram(Operation):
    """Load and attach an eBPF program that decides on the cgroup's device accesses (v2)."""

    code = OPERATIONS["DEVICE_PROGRAM"]
    lanes = "host"
    cgroup: Slot
    program: bytes
    summary: str = ""

    def arguments(self) -> Iterable[Argument]:
        return (self.cgroup, self.program)

    def describe(self) -> str:
        return f"attach an eBPF device filter of {len(self.program) // 8} instructions to {self.cgroup}: {self.summary}"


class EnterUserNetwork(Operation):
    """setns(2) into a user namespace of the user's own and its network namespace, where the user's networks are."""

    code = OPERATIONS["ENTER_USER_NETWORK"]
    lanes = "host"
    user: Slot
    network: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.user, self.network)

    def describe(self) -> str:
        return f"enter the user's own user namespace {self.user} and network namespace {self.network}"


class MakeUserNamespace(Operation):
    """A user namespace without a process: a mapping for idmapped mounts. The maps are lines ``inside outside count``."""

    code = OPERATIONS["MAKE_USER_NAMESPACE"]
    lanes = "host"
    uid_map: str
    gid_map: str
    into: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.uid_map, self.gid_map, self.into)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"make a user namespace for its mapping (uids {shown(self.uid_map)}, gids {shown(self.gid_map)}) as {self.into}"


class HoldLayer(Operation):
    """Hold a layer for as long as the container lives: lock its file, shared. With an `index`, mount the EROFS image whose
    content lies in `tar` on `path`, unless somebody else has; the inverse unmounts it when nobody else holds it. `undo` "tree":
    the inverse removes the tree at `path`, if nobody else holds it; "failed": only when the container never started."""

    code = OPERATIONS["HOLD_LAYER"]
    lanes = "host"
    path: str
    lock: str
    index: str = ""
    tar: str = ""
    undo: str = ""
    userns: Slot | None = None

    def arguments(self) -> Iterable[Argument]:
        return (self.lock, self.index, self.tar, self.path, ("", "tree", "failed").index(self.undo), self.userns)

    def uses(self) -> tuple[Slot, ...]:
        return ()  # the user namespace serves the inverse alone

    def describe(self) -> str:
        if not self.index:
            inverse = {"": "", "tree": " (undo: remove it)", "failed": " (undo, if the container never starts: remove it)"}[self.undo]
            return f"hold {self.path}, so that nobody removes it{inverse}"
        return f"hold the layer {self.path}: mount erofs {self.index} with the content of {self.tar} (shared; undo: unmount when the last one leaves)"
