"""Operations of the host lane: what the executor's outer process does on the host, with inverses."""

from __future__ import annotations

from hutch.plan.operation import Operation, Slot, namespace_names, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.plan.operation import Argument


class HostDirectory(Operation):
    """mkdir(2) on the host. Its inverse removes the directory: `undo` is "", "rmdir" (a cgroup), "tree", or "failed": the tree,
    when the container never started."""

    code = 20
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

    code = 21
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

    code = 22
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

    code = 107
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

    code = 23
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

    code = 106
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

    code = 105
    lanes = "host"

    def describe(self) -> str:
        return "wait for the process inside the joined pid namespace"


class ProcWrite(Operation):
    """Write a file of the container's process under /proc."""

    code = 24
    lanes = "host"
    name: str
    data: str

    def arguments(self) -> Iterable[Argument]:
        return (self.name, self.data)

    def describe(self) -> str:
        return f"write {shown(self.data)} to the process's {self.name}"


class MapHelper(Operation):
    """newuidmap(1) or newgidmap(1): a mapping over subordinate ids for a user without privileges."""

    code = 25
    lanes = "host"
    program: str
    numbers: tuple[int, ...]

    def arguments(self) -> Iterable[Argument]:
        return (1 + len(self.numbers), self.program, *(str(n) for n in self.numbers))

    def describe(self) -> str:
        return f"run {self.program} PID {' '.join(map(str, self.numbers))}"


class OpenNamespace(Operation):
    """Open a namespace of the container's process, such as ``ns/user``."""

    code = 26
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

    code = 27
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

    code = 103
    lanes = "host"
    user: Slot
    network: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.user, self.network)

    def describe(self) -> str:
        return f"enter the user's own user namespace {self.user} and network namespace {self.network}"


class Watch(Operation):
    """Last until a process ends that is another executor's container, by its pidfd. It is never touched."""

    code = 104
    lanes = "host"
    process: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.process,)

    def describe(self) -> str:
        return f"stay for as long as the process {self.process}"


class HoldShared(Operation):
    """Hold something of the host's that several containers use, by a shared lock on a file, made if it is missing.

    The inverse sends netlink datagrams, as (protocol, bytes): `own`, and when nobody else holds the lock, `last`. Where the last of them was
    done, and with `restore`, the file has lines of a value and a path (of /proc/sys), which is written back, unless the file `unless`
    has something else than 0 by then. What has gone already is no error.
    """

    code = 100
    lanes = "host"
    lock: str
    what: str
    own: tuple[tuple[int, bytes], ...] = ()
    last: tuple[tuple[int, bytes], ...] = ()
    restore: bool = False
    unless: str = ""

    def arguments(self) -> Iterable[Argument]:
        yield self.lock
        yield self.restore
        yield self.unless
        for datagrams in (self.own, self.last):
            yield len(datagrams)
            for protocol, data in datagrams:
                yield protocol
                yield data

    def describe(self) -> str:
        return f"hold {self.what} (undo: let go, and remove it as the last one)"


class Publish(Operation):
    """Pass on what comes to sockets of the host's, by a process that ends with the executor: `ports` are (the number of a
    socket's descriptor, whether it is a stream's, the container's port), `address` the container's IPv4 address, `what` says it for people."""

    code = 101
    lanes = "host"
    what: str
    address: str
    ports: tuple[tuple[int, bool, int], ...]

    def arguments(self) -> Iterable[Argument]:
        yield self.what
        yield self.address
        yield len(self.ports)
        for socket, stream, port in self.ports:
            yield socket
            yield stream
            yield port

    def describe(self) -> str:
        return f"publish {self.what} (undo: stop)"


class ReturnDevice(Operation):
    """Nothing now; the inverse moves an interface back from the container's network namespace, under its old name, with what it
    had: `addresses` are RTM_NEWADDR messages, `up` whether it was on."""

    code = 102
    lanes = "host"
    namespace: Slot
    inside: str
    outside: str
    up: bool = False
    addresses: tuple[bytes, ...] = ()

    def arguments(self) -> Iterable[Argument]:
        return (self.namespace, self.inside, self.outside, self.up, len(self.addresses), *self.addresses)

    def describe(self) -> str:
        return f"lend {self.outside} to the container as {self.inside} (undo: take it back)"


class ReadAtExit(Operation):
    """Nothing now; when the container has ended, the file's content goes to the owner under `tag`."""

    code = 28
    lanes = "host"
    path: str
    tag: int

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.tag)

    def describe(self) -> str:
        return f"at the end, read {self.path}"


class KillAtExit(Operation):
    """Nothing now; when the container ends, whatever still lives in its cgroup is killed."""

    code = 29
    lanes = "host"
    path: str
    kill_file: str = ""

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.kill_file)

    def describe(self) -> str:
        return f"at the end, kill what lives in {self.path.rpartition('/')[0]}"


class WritePid(Operation):
    """Add the container's and the executor's pid to the record."""

    code = 30
    lanes = "host"
    record: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.record,)

    def describe(self) -> str:
        return f"add the pids to {self.record}"


class CallOwner(Operation):
    """Ask the owner to do what needs more than a system call (a bus message), and wait for its answer."""

    code = 31
    lanes = "host"
    request: str

    def describe(self) -> str:
        return f"ask the owner: {self.request}"


class Inherit(Operation):
    """A descriptor that the owner handed to the executor."""

    code = 32
    lanes = "host"
    into: Slot
    number: int

    def arguments(self) -> Iterable[Argument]:
        return (self.into, self.number)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"take descriptor {self.number} from the owner as {self.into}"


class Export(Operation):
    """Hand a slot's descriptor to the owner once the container runs."""

    code = 33
    lanes = "host"
    value: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.value,)

    def uses(self) -> tuple[Slot, ...]:
        return ()  # it is filled by the time it is sent

    def describe(self) -> str:
        return f"hand {self.value} to the owner when the container runs"


class Log(Operation):
    """Detached: keep what the container writes in a file of at most `limit` bytes, begun anew when it is full."""

    code = 34
    lanes = "host"
    path: str
    limit: int
    sources: tuple[Slot, ...]

    def arguments(self) -> Iterable[Argument]:
        padded = self.sources + (None,) * (3 - len(self.sources))
        return (self.path, self.limit, *padded)

    def describe(self) -> str:
        return f"keep the output in {self.path} (at most {self.limit} bytes)"


class ExitFile(Operation):
    """Detached: write the wait status to a file when the container has ended."""

    code = 35
    lanes = "host"
    path: str

    def arguments(self) -> Iterable[Argument]:
        return (self.path,)

    def describe(self) -> str:
        return f"at the end, write the exit status to {self.path}"


class TakeDescriptor(Operation):
    """pidfd_getfd(2): take the filter's listener, which the container's process has and the executor has not. The container
    goes on when it is taken."""

    code = 36
    lanes = "host"
    into: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.into,)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"take the filter's listener from the container's process as {self.into}"


class MakeUserNamespace(Operation):
    """A user namespace without a process: a mapping for idmapped mounts. The maps are lines ``inside outside count``."""

    code = 37
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


class HostWritePid(Operation):
    """Write the container's pid to a host's file: resctrl's ``tasks``."""

    code = 38
    lanes = "host"
    path: str

    def arguments(self) -> Iterable[Argument]:
        return (self.path,)

    def describe(self) -> str:
        return f"write the container's pid to {self.path}"


class HoldLayer(Operation):
    """Hold a layer for as long as the container lives: lock its file, shared. With an `index`, mount the EROFS image whose
    content lies in `tar` on `path`, unless somebody else has; the inverse unmounts it when nobody else holds it. `undo` "tree":
    the inverse removes the tree at `path`, if nobody else holds it; "failed": only when the container never started."""

    code = 39
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
