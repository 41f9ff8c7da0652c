"""The operations of a plan: each a frozen record that can encode itself for the executor and describe itself to a person.

The numbers in `code` are the executor's (executor/executor.c). Every operation carries `origin`, the place in the
configuration that it comes from, such as ``mounts[3]``. What is known only when the plan runs is a `Slot`: a name that one
operation assigns and later ones use.
"""

from __future__ import annotations

from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import ClassVar, TypeAlias

    Argument: TypeAlias = "int | str | bytes | Slot | None"


class Slot(Record):
    """A value that is known late: a descriptor, mostly. It is assigned once."""

    name: str

    def __str__(self) -> str:
        return f"<{self.name}>"


def slot(name: str) -> Slot:
    """The slot of that name."""
    return Slot(name=name)


class Operation(Record):
    """The root of all operations."""

    code: ClassVar[int] = 0
    lanes: ClassVar[str] = "container"
    origin: str = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._fields = tuple(name for name in cls._fields if name not in ("code", "lanes"))
        cls._defaults = {name: value for name, value in cls._defaults.items() if name not in ("code", "lanes")}

    def arguments(self) -> Iterable[Argument]:
        """What the executor reads, in its order."""
        return ()

    def describe(self) -> str:
        """One line for a person, in the field's own terms."""
        raise NotImplementedError

    def assigns(self) -> tuple[Slot, ...]:
        """The slots that this operation fills."""
        return ()

    def uses(self) -> tuple[Slot, ...]:
        """The slots that must have been filled before."""
        filled = self.assigns()
        return tuple(a for a in self.arguments() if isinstance(a, Slot) and a not in filled)


# mount_setattr(2)'s attributes, by the name that mount(8) gives them.
ATTRIBUTES = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 0x10, "strictatime": 0x20, "nodiratime": 0x80}
NOSYMFOLLOW = 0x200000
ATIME_MASK = 0x70
MS_REC = 16384
PROPAGATION = {"unbindable": 1 << 17, "private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20}

# openat2(2)
RESOLVE_NO_XDEV = 1
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16

# clone(2), by the name that the runtime-spec gives the namespace.
NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "time": 0x00000080,
}


def attribute_names(bits: int) -> list[str]:
    """``5`` is ``["ro", "nodev"]``: a mount's attributes in mount(8)'s words."""
    names = [name for name, bit in ATTRIBUTES.items() if bits & bit == bit and bit not in (0x10, 0x20)]
    atime = bits & ATIME_MASK
    if atime == 0x10:
        names.append("noatime")
    elif atime == 0x20:
        names.append("strictatime")
    if bits & NOSYMFOLLOW:
        names.append("nosymfollow")
    return names


def namespace_names(flags: int) -> str:
    """The namespaces in a set of clone flags, in words."""
    return ", ".join(name for name, bit in NAMESPACES.items() if flags & bit) or "none"


def _joined(words: Iterable[str]) -> str:
    text = ",".join(words)
    return f" ({text})" if text else ""


def _shown(data: str | bytes, limit: int = 60) -> str:
    text = data if isinstance(data, str) else data.decode("utf-8", "backslashreplace")
    text = text.strip("\n").replace("\n", "; ")
    return text if len(text) <= limit else text[: limit - 1] + "…"


# Both lanes


class Wait(Operation):
    """Wait until the other lane has signalled a barrier. With `release`, the host lane then lets go of the container's
    standard streams: both lanes' descriptor tables are apart by then."""

    code = 1
    lanes = "both"
    barrier: int
    release: bool = False

    def arguments(self) -> Iterable[Argument]:
        return (self.barrier, self.release)

    def describe(self) -> str:
        return f"wait for barrier {self.barrier} of the other lane"


class Signal(Operation):
    """Tell the other lane that a barrier is reached."""

    code = 2
    lanes = "both"
    barrier: int

    def arguments(self) -> Iterable[Argument]:
        return (self.barrier,)

    def describe(self) -> str:
        return f"signal barrier {self.barrier}"


class OpenTree(Operation):
    """Clone a mount (or a directory of one) without attaching it: open_tree(2), then mount_setattr(2) on the copy.

    With `base`, the path is one that the container controls, and is resolved inside that directory. `idmap` is the slot of
    the user namespace whose mapping the copy gets.
    """

    code = 3
    lanes = "both"
    path: str
    into: Slot
    recursive: bool = False
    no_follow: bool = False
    set_attributes: int = 0
    clear_attributes: int = 0
    propagation: int = 0
    attributes_recursive: bool = False
    idmap: Slot | None = None
    base: Slot | None = None

    def arguments(self) -> Iterable[Argument]:
        flags = self.recursive * 1 | self.no_follow * 2
        yield from (self.path, flags, self.set_attributes, self.clear_attributes, self.propagation, self.idmap, self.into)
        yield from (self.base, self.attributes_recursive)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        words = attribute_names(self.set_attributes) + (["idmapped"] if self.idmap else [])
        kind = "mount tree" if self.recursive else "mount"
        where = self.path if not self.base else f"{self.path} in {self.base}" if self.path else str(self.base)
        return f"clone {kind} {where}{_joined(words)} as {self.into}"


class Open(Operation):
    """Open a path of the host."""

    code = 4
    lanes = "both"
    path: str
    flags: int
    into: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.flags, self.into)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"open {self.path} as {self.into}"


class Join(Operation):
    """Enter namespaces: setns(2) with a namespace's descriptor or a process's pidfd."""

    code = 5
    lanes = "both"
    target: Slot
    flags: int

    def arguments(self) -> Iterable[Argument]:
        return (self.target, self.flags)

    def describe(self) -> str:
        return f"join namespaces of {self.target}: {namespace_names(self.flags)}"


RLIMITS = (
    "RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS RLIMIT_NPROC RLIMIT_NOFILE RLIMIT_MEMLOCK "
    "RLIMIT_AS RLIMIT_LOCKS RLIMIT_SIGPENDING RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_RTTIME"
).split()


class ResourceLimit(Operation):
    """prlimit(2). On the host lane with the host's privileges: raising a hard limit needs CAP_SYS_RESOURCE there."""

    code = 6
    lanes = "both"
    resource: str
    soft: int
    hard: int

    def arguments(self) -> Iterable[Argument]:
        return (RLIMITS.index(self.resource), self.soft, self.hard)

    def describe(self) -> str:
        soft, hard = ("unlimited" if n == 2**64 - 1 else str(n) for n in (self.soft, self.hard))
        return f"limit {self.resource} to {soft} (hard {hard})"


class Pipe(Operation):
    """A pipe whose ends fill two slots."""

    code = 7
    lanes = "both"
    reader: Slot
    writer: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.reader, self.writer)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.reader, self.writer)

    def describe(self) -> str:
        return f"make a pipe {self.writer} to {self.reader}"


class MakeFilesystem(Operation):
    """A new file system, not attached anywhere: fsopen(2), fsconfig(2), fsmount(2).

    An option is ``(key, value)``: value None is a flag, text a string, a slot a descriptor, and a tuple of slots their paths
    ``/proc/self/fd/N``, joined by colons, for kernels whose options take no descriptors.
    """

    code = 8
    lanes = "both"
    kind: str
    into: Slot
    attributes: int = 0
    options: tuple[tuple[str, str | Slot | tuple[Slot, ...] | None], ...] = ()

    def arguments(self) -> Iterable[Argument]:
        yield from (self.kind, self.attributes, self.into, len(self.options))
        for key, value in self.options:
            if value is None:
                yield from (0, key)
            elif isinstance(value, str):
                yield from (1, key, value)
            elif isinstance(value, Slot):
                yield from (2, key, value)
            else:
                yield from (3, key, len(value))
                yield from value

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        words = attribute_names(self.attributes)
        for key, value in self.options:
            shown = ":".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(key if shown is None else f"{key}={shown}")
        return f"make {self.kind}{_joined(words)} as {self.into}"


class MakeDirectory(Operation):
    """mkdirat(2) below a directory that the plan made itself. `uid` and `gid` -1: left as created."""

    code = 9
    lanes = "both"
    base: Slot
    path: str
    mode: int = 0o755
    uid: int = -1
    gid: int = -1

    def arguments(self) -> Iterable[Argument]:
        return (self.base, self.path, self.mode, self.uid, self.gid)

    def describe(self) -> str:
        return f"make directory {self.path} in {self.base} (mode {self.mode:04o})"


class MakeSymlink(Operation):
    """symlinkat(2) below a directory that the plan made itself; one that exists stays."""

    code = 10
    lanes = "both"
    base: Slot
    target: str
    path: str

    def arguments(self) -> Iterable[Argument]:
        return (self.base, self.target, self.path)

    def describe(self) -> str:
        return f"link {self.path} in {self.base} to {self.target}"


class MakeFile(Operation):
    """A new file with content, below a directory that the plan made itself."""

    code = 11
    lanes = "both"
    base: Slot
    path: str
    data: str | bytes = ""
    mode: int = 0o644

    def arguments(self) -> Iterable[Argument]:
        return (self.base, self.path, self.data, self.mode)

    def describe(self) -> str:
        return f"write {self.path} in {self.base}: {_shown(self.data) or 'empty'}"


NODE_TYPES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}


def device_number(major: int, minor: int) -> int:
    """makedev(3): the kernel's encoding of a device number."""
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12


class MakeNode(Operation):
    """mknodat(2): a device, a pipe, or (a character device 0:0) overlayfs' whiteout."""

    code = 12
    lanes = "both"
    base: Slot
    path: str
    kind: str
    major: int = 0
    minor: int = 0
    mode: int = 0o666
    uid: int = -1
    gid: int = -1
    parents: bool = False

    def arguments(self) -> Iterable[Argument]:
        number = device_number(self.major, self.minor)
        return (self.base, self.path, NODE_TYPES[self.kind] | self.mode, number, self.uid, self.gid, self.parents)

    def describe(self) -> str:
        if self.kind == "c" and not self.major and not self.minor:
            return f"hide {self.path} by a whiteout in {self.base}"
        return f"make node {self.path} in {self.base} ({self.kind} {self.major}:{self.minor}, mode {self.mode:04o})"


class SetXattr(Operation):
    """fsetxattr(2) on a directory that the plan made itself."""

    code = 13
    lanes = "both"
    base: Slot
    path: str
    name: str
    value: str

    def arguments(self) -> Iterable[Argument]:
        return (self.base, self.path, self.name, self.value)

    def describe(self) -> str:
        return f"set {self.name}={self.value} on {self.path} in {self.base}"


class OpenAt(Operation):
    """openat2(2) below a directory."""

    code = 14
    lanes = "both"
    base: Slot
    path: str
    flags: int
    into: Slot
    resolve: int = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS

    def arguments(self) -> Iterable[Argument]:
        return (self.base, self.path, self.flags, self.resolve, self.into)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"open {self.path} in {self.base} as {self.into}"


# The host lane


class HostDirectory(Operation):
    """mkdir(2) on the host. Its inverse removes the directory: `undo` is "", "rmdir" (a cgroup) or "tree"."""

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
        undo = ("", "rmdir", "tree").index(self.undo)
        return (self.path, self.mode, self.uid, self.gid, undo, self.exist_ok, self.userns)

    def uses(self) -> tuple[Slot, ...]:
        return ()  # the user namespace serves the inverse alone

    def describe(self) -> str:
        inverse = {"": "kept", "rmdir": "undo: rmdir", "tree": "undo: remove the tree"}[self.undo]
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
        return f"write {_shown(self.data)} to {self.path}"


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


class Clone(Operation):
    """clone3(2): the container lane begins, in new namespaces, and in a v2 cgroup when `cgroup` is given."""

    code = 23
    lanes = "host"
    flags: int
    into: Slot
    cgroup: Slot | None = None

    def arguments(self) -> Iterable[Argument]:
        return (self.flags, self.cgroup, self.into)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        into = f" into cgroup {self.cgroup}" if self.cgroup else ""
        return f"clone the container's process{into} with new namespaces: {namespace_names(self.flags)}"


class ProcWrite(Operation):
    """Write a file of the container's process under /proc."""

    code = 24
    lanes = "host"
    name: str
    data: str

    def arguments(self) -> Iterable[Argument]:
        return (self.name, self.data)

    def describe(self) -> str:
        return f"write {_shown(self.data)} to the process's {self.name}"


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


# The container lane


class SetIds(Operation):
    """setgroups(2), setresgid(2), setresuid(2). `groups` None: left as they are (the kernel denies setgroups)."""

    code = 40
    uid: int
    gid: int
    groups: tuple[int, ...] | None = ()

    def arguments(self) -> Iterable[Argument]:
        groups = self.groups or ()
        return (self.uid, self.gid, self.groups is not None, len(groups), *groups)

    def describe(self) -> str:
        groups = f", groups {','.join(map(str, self.groups))}" if self.groups else ""
        return f"become uid {self.uid}, gid {self.gid}{groups}"


class Propagation(Operation):
    """The propagation of every mount in the new namespace, before anything is mounted."""

    code = 41
    kind: str
    recursive: bool = True

    def arguments(self) -> Iterable[Argument]:
        return (PROPAGATION[self.kind] | (MS_REC if self.recursive else 0),)

    def describe(self) -> str:
        return f"make / {self.kind}{' recursively' if self.recursive else ''}"


class Attach(Operation):
    """move_mount(2): attach a detached mount on a path below `root`, resolved inside it.

    `make` is what to create if the path is missing: "", "directory", "file", or "like" the source.
    """

    code = 42
    mount: Slot
    root: Slot
    path: str
    make: str = "directory"
    no_symlinks: bool = False
    summary: str = ""

    def arguments(self) -> Iterable[Argument]:
        make = ("", "directory", "file", "like").index(self.make)
        return (self.mount, self.root, self.path, make, RESOLVE_NO_SYMLINKS if self.no_symlinks else 0)

    def describe(self) -> str:
        return f"attach {self.summary or self.mount} on {self.path or '/'} in {self.root}"


class SetAttributes(Operation):
    """mount_setattr(2) on a path inside `root`."""

    code = 43
    root: Slot
    path: str
    set_attributes: int = 0
    clear_attributes: int = 0
    propagation: int = 0
    recursive: bool = False

    def arguments(self) -> Iterable[Argument]:
        yield from (self.root, self.path, self.set_attributes, self.clear_attributes, self.propagation, self.recursive)

    def describe(self) -> str:
        words = attribute_names(self.set_attributes)
        words += ["-" + name for name in attribute_names(self.clear_attributes & ~ATIME_MASK)]
        words += [name for name, bit in PROPAGATION.items() if self.propagation & bit]
        return f"set {self.path or '/'} in {self.root} to {','.join(words)}{' recursively' if self.recursive else ''}"


class Pivot(Operation):
    """pivot_root(2), and detach the host's tree, with the `stacked` mounts that the plan left on the host's own ``/``."""

    code = 44
    root: Slot
    stacked: int = 0

    def arguments(self) -> Iterable[Argument]:
        return (self.root, self.stacked)

    def describe(self) -> str:
        return f"pivot_root to {self.root} and detach the old root"


class Mask(Operation):
    """Cover a path: a directory with an empty one, a file with /dev/null. A path that does not exist is left."""

    code = 45
    root: Slot
    path: str
    empty: Slot
    null: Slot
    no_symlinks: bool = False

    def arguments(self) -> Iterable[Argument]:
        return (self.root, self.empty, self.null, self.path, RESOLVE_NO_SYMLINKS if self.no_symlinks else 0)

    def describe(self) -> str:
        return f"mask {self.path} in {self.root}"


class ReadOnly(Operation):
    """Bind a path over itself, read-only. A path that does not exist is left."""

    code = 46
    root: Slot
    path: str
    no_symlinks: bool = False

    def arguments(self) -> Iterable[Argument]:
        return (self.root, self.path, RESOLVE_NO_SYMLINKS if self.no_symlinks else 0)

    def describe(self) -> str:
        return f"make {self.path} in {self.root} read-only"


class Hostname(Operation):
    """sethostname(2)."""

    code = 47
    name: str

    def arguments(self) -> Iterable[Argument]:
        return (self.name,)

    def describe(self) -> str:
        return f"set the host name to {self.name}"


class DomainName(Operation):
    """setdomainname(2)."""

    code = 48
    name: str

    def arguments(self) -> Iterable[Argument]:
        return (self.name,)

    def describe(self) -> str:
        return f"set the NIS domain name to {self.name}"


class WriteAt(Operation):
    """Write a file below a directory's descriptor without following a link or leaving the file system: /proc/sys."""

    code = 49
    base: Slot
    path: str
    data: str

    def arguments(self) -> Iterable[Argument]:
        return (self.base, self.path, self.data)

    def describe(self) -> str:
        return f"write {_shown(self.data)} to {self.path} in {self.base}"


class Loopback(Operation):
    """Bring the loopback interface up."""

    code = 50

    def describe(self) -> str:
        return "bring lo up"


class Unshare(Operation):
    """unshare(2), for namespaces that begin after the clone: cgroup (its root is where the process is) and time."""

    code = 51
    flags: int

    def arguments(self) -> Iterable[Argument]:
        return (self.flags,)

    def describe(self) -> str:
        return f"unshare namespaces: {namespace_names(self.flags)}"


class EnterCgroup(Operation):
    """Move into a cgroup: the process itself, late, so that the set-up is not charged to the container."""

    code = 52
    tasks: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.tasks,)

    def describe(self) -> str:
        return f"enter cgroup {self.tasks}"


class Keyring(Operation):
    """keyctl(2): a session keyring of the container's own."""

    code = 53
    name: str

    def arguments(self) -> Iterable[Argument]:
        return (self.name,)

    def describe(self) -> str:
        return f"join a new session keyring {self.name}"


class NewSession(Operation):
    """setsid(2)."""

    code = 54

    def describe(self) -> str:
        return "start a new session"


class Terminal(Operation):
    """A pseudoterminal from the container's own devpts, as controlling terminal and standard streams."""

    code = 55
    devpts: Slot
    master: Slot
    peer: Slot
    rows: int = 0
    columns: int = 0

    def arguments(self) -> Iterable[Argument]:
        return (self.devpts, self.master, self.rows, self.columns, self.peer)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.master, self.peer)

    def describe(self) -> str:
        size = f" of {self.columns} by {self.rows}" if self.rows else ""
        return f"open a terminal{size}: master {self.master}, standard streams on {self.peer}"


class Stdio(Operation):
    """dup2(2) descriptors onto the standard streams; None leaves one as it is."""

    code = 56
    stdin: Slot | None = None
    stdout: Slot | None = None
    stderr: Slot | None = None

    def arguments(self) -> Iterable[Argument]:
        return (self.stdin, self.stdout, self.stderr)

    def describe(self) -> str:
        named = (("stdin", self.stdin), ("stdout", self.stdout), ("stderr", self.stderr))
        return "set " + ", ".join(f"{name} to {value}" for name, value in named if value)


class CloseDescriptors(Operation):
    """close_range(2): unshare the descriptor table and let execve(2) close all but stdio and `preserve` more."""

    code = 57
    preserve: int = 0

    def arguments(self) -> Iterable[Argument]:
        return (self.preserve,)

    def describe(self) -> str:
        return f"close every descriptor from {3 + self.preserve} on at exec"


class Capabilities(Operation):
    """Bounding set, KEEPCAPS, the three sets, the ambient set: masks, bit N for capability N; None leaves a set."""

    code = 58
    bounding: int | None = None
    keep: bool = False
    effective: int | None = None
    permitted: int = 0
    inheritable: int = 0
    ambient: int | None = None

    def arguments(self) -> Iterable[Argument]:
        parts = (self.bounding is not None) | (self.effective is not None) << 1 | (self.ambient is not None) << 2
        yield from (parts | self.keep << 3, self.bounding or 0, self.effective or 0, self.permitted)
        yield from (self.inheritable, self.ambient or 0)

    def describe(self) -> str:
        words = []
        if self.bounding is not None:
            words.append(f"bounding={self.bounding:#x}")
        if self.effective is not None:
            words.append(f"effective={self.effective:#x} permitted={self.permitted:#x} inheritable={self.inheritable:#x}")
        if self.ambient is not None:
            words.append(f"ambient={self.ambient:#x}")
        if self.keep:
            words.append("kept over the change of user")
        return "set capabilities " + ", ".join(words)


class NoNewPrivileges(Operation):
    """prctl(2) PR_SET_NO_NEW_PRIVS."""

    code = 59

    def describe(self) -> str:
        return "set no_new_privs"


class Seccomp(Operation):
    """seccomp(2): a filter in classic BPF."""

    code = 60
    program: bytes
    flags: int = 0
    summary: str = ""
    listener: Slot | None = None

    def arguments(self) -> Iterable[Argument]:
        return (self.flags, self.listener, self.program)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.listener,) if self.listener else ()

    def describe(self) -> str:
        return f"install a seccomp filter of {len(self.program) // 8} instructions{f' ({self.summary})' if self.summary else ''}"


class Umask(Operation):
    """umask(2)."""

    code = 61
    mask: int

    def arguments(self) -> Iterable[Argument]:
        return (self.mask,)

    def describe(self) -> str:
        return f"set the umask to {self.mask:04o}"


class ChangeDirectory(Operation):
    """chdir(2), and proof that the place lies inside the root."""

    code = 62
    path: str
    make: bool = False

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.make)

    def describe(self) -> str:
        return f"change directory to {self.path}{', made if missing' if self.make else ''}"


class Personality(Operation):
    """personality(2)."""

    code = 63
    persona: int

    def arguments(self) -> Iterable[Argument]:
        return (self.persona,)

    def describe(self) -> str:
        return f"set the personality to {self.persona:#x}"


class Scheduler(Operation):
    """sched_setattr(2), with the kernel's struct sched_attr."""

    code = 64
    attributes: bytes
    summary: str

    def arguments(self) -> Iterable[Argument]:
        return (self.attributes,)

    def describe(self) -> str:
        return f"schedule as {self.summary}"


class IoPriority(Operation):
    """ioprio_set(2)."""

    code = 65
    value: int
    summary: str

    def arguments(self) -> Iterable[Argument]:
        return (self.value,)

    def describe(self) -> str:
        return f"set the I/O priority to {self.summary}"


class Affinity(Operation):
    """sched_setaffinity(2): a mask of CPUs, least significant first."""

    code = 66
    mask: bytes
    summary: str

    def arguments(self) -> Iterable[Argument]:
        return (self.mask,)

    def describe(self) -> str:
        return f"run on CPUs {self.summary}"


class FindProgram(Operation):
    """Choose the first candidate that can be executed, before the filter is on, so that a failure can be explained."""

    code = 67
    candidates: tuple[str, ...]

    def arguments(self) -> Iterable[Argument]:
        return (len(self.candidates), *self.candidates)

    def describe(self) -> str:
        return f"find the program: {', '.join(self.candidates)}"


class Execute(Operation):
    """execve(2): the container's lane ends, its program begins."""

    code = 68
    argv: tuple[str, ...]
    environment: tuple[str, ...]

    def arguments(self) -> Iterable[Argument]:
        return (len(self.argv), len(self.environment), *self.argv, *self.environment)

    def describe(self) -> str:
        return f"execute {' '.join(self.argv)} with {len(self.environment)} variables"


class Init(Operation):
    """Stay as PID 1: adopt, reap, pass signals on. With a child, that child goes on to the program."""

    code = 69
    child: bool

    def arguments(self) -> Iterable[Argument]:
        return (self.child,)

    def describe(self) -> str:
        return "stay as PID 1, which reaps and passes signals on" + (", and start a child" if self.child else "")


class ParentDeath(Operation):
    """PR_SET_PDEATHSIG, set again here because a change of ids or capabilities clears it."""

    code = 70
    signal: int = 9

    def arguments(self) -> Iterable[Argument]:
        return (self.signal,)

    def describe(self) -> str:
        return f"die by signal {self.signal} with the executor"


class Protect(Operation):
    """PR_SET_DUMPABLE 0: nothing in a container that this process joins can look into it."""

    code = 71

    def describe(self) -> str:
        return "hide this process from debuggers"


class CopyUp(Operation):
    """Copy what the image has at a path into the tmpfs that will cover it."""

    code = 72
    root: Slot
    into: Slot
    path: str

    def arguments(self) -> Iterable[Argument]:
        return (self.root, self.into, self.path)

    def describe(self) -> str:
        return f"copy {self.path} in {self.root} up into {self.into}"
