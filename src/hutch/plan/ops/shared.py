"""Operations of both lanes: barriers, descriptors, file systems and files below them."""

from __future__ import annotations

from hutch.plan.numbers import OPERATIONS
from hutch.plan.operation import PROPAGATION, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, Operation, Slot, attribute_names, joined, namespace_names, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.plan.operation import Argument


class Wait(Operation):
    """Wait until the other lane has signalled a barrier. With `release`, the host lane then lets go of the container's
    standard streams: both lanes' descriptor tables are apart by then."""

    code = OPERATIONS["WAIT"]
    lanes = "both"
    barrier: int
    release: bool = False

    def arguments(self) -> Iterable[Argument]:
        return (self.barrier, self.release)

    def describe(self) -> str:
        return f"wait for barrier {self.barrier} of the other lane"


class Signal(Operation):
    """Tell the other lane that a barrier is reached."""

    code = OPERATIONS["SIGNAL"]
    lanes = "both"
    barrier: int

    def arguments(self) -> Iterable[Argument]:
        return (self.barrier,)

    def describe(self) -> str:
        return f"signal barrier {self.barrier}"


class OpenTree(Operation):
    """Clone a mount (or a directory of one) without attaching it: open_tree(2), then mount_setattr(2) on the copy.

    With `base`, the path is one that the container controls, and is resolved inside that directory. `idmap` is the slot of
    the user namespace whose mapping the copy gets. `propagation` is the whole copy's: private unless asked otherwise, since a
    copy is a peer of the host's mount, and what is mounted below a peer appears on the host.
    """

    code = OPERATIONS["OPEN_TREE"]
    lanes = "both"
    path: str
    into: Slot
    recursive: bool = False
    no_follow: bool = False
    set_attributes: int = 0
    clear_attributes: int = 0
    propagation: int = PROPAGATION["private"]
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
        return f"clone {kind} {where}{joined(words)} as {self.into}"


class Open(Operation):
    """Open a path of the host."""

    code = OPERATIONS["OPEN"]
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

    code = OPERATIONS["JOIN"]
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

    code = OPERATIONS["RLIMIT"]
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

    code = OPERATIONS["PIPE"]
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
    ``/proc/self/fd/N``, joined by colons, for kernels whose options take no descriptors. With `stranger` it is made by this
    user and group and no other, without the capabilities that pass over permissions (setfsuid(2)).
    """

    code = OPERATIONS["MAKE_FILESYSTEM"]
    lanes = "both"
    kind: str
    into: Slot
    attributes: int = 0
    options: tuple[tuple[str, str | Slot | tuple[Slot, ...] | None], ...] = ()
    stranger: int | None = None

    def arguments(self) -> Iterable[Argument]:
        yield from (self.kind, self.attributes, self.into, -1 if self.stranger is None else self.stranger, len(self.options))
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
            text = ":".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(key if text is None else f"{key}={text}")
        by = "" if self.stranger is None else f" by uid {self.stranger}, who owns nothing"
        return f"make {self.kind}{joined(words)} as {self.into}{by}"


class MakeDirectory(Operation):
    """mkdirat(2) below a directory that the plan made itself. `uid` and `gid` -1: left as created."""

    code = OPERATIONS["MAKE_DIRECTORY"]
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

    code = OPERATIONS["MAKE_SYMLINK"]
    lanes = "both"
    base: Slot
    target: str
    path: str
    uid: int = -1
    gid: int = -1

    def arguments(self) -> Iterable[Argument]:
        return (self.base, self.target, self.path, self.uid, self.gid)

    def describe(self) -> str:
        return f"link {self.path} in {self.base} to {self.target}"


class MakeFile(Operation):
    """A new file with content, below a directory that the plan made itself."""

    code = OPERATIONS["MAKE_FILE"]
    lanes = "both"
    base: Slot
    path: str
    data: str | bytes = ""
    mode: int = 0o644

    def arguments(self) -> Iterable[Argument]:
        return (self.base, self.path, self.data, self.mode)

    def describe(self) -> str:
        return f"write {self.path} in {self.base}: {shown(self.data) or 'empty'}"


NODE_TYPES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}


def device_number(major: int, minor: int) -> int:
    """makedev(3): the kernel's encoding of a device number."""
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12


class MakeNode(Operation):
    """mknodat(2): a device, a pipe, or (a character device 0:0) overlayfs' whiteout."""

    code = OPERATIONS["MAKE_NODE"]
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

    code = OPERATIONS["SET_XATTR"]
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

    code = OPERATIONS["OPEN_AT"]
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
