"""Operations of the container lane on its mounts. Paths are resolved inside the root, by the kernel, when they run."""

from __future__ import annotations

from hutch.plan.numbers import OPERATIONS
from hutch.plan.operation import ATIME_MASK, MS_REC, PROPAGATION, RESOLVE_NO_SYMLINKS, Operation, Slot, attribute_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.plan.operation import Argument


class Propagation(Operation):
    """The propagation of every mount in the new namespace, before anything is mounted."""

    code = OPERATIONS["PROPAGATION"]
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

    code = OPERATIONS["ATTACH"]
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

    code = OPERATIONS["SET_ATTRIBUTES"]
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

    code = OPERATIONS["PIVOT"]
    root: Slot
    stacked: int = 0

    def arguments(self) -> Iterable[Argument]:
        return (self.root, self.stacked)

    def describe(self) -> str:
        return f"pivot_root to {self.root} and detach the old root"


class ChangeRoot(Operation):
    """chroot(2) to a root that covers the old one: for an initial ramdisk, which pivot_root(2) refuses. The old root stays
    mounted below."""

    code = OPERATIONS["CHANGE_ROOT"]
    root: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.root,)

    def describe(self) -> str:
        return f"change the root to {self.root}, and leave the old one below it"


class Mask(Operation):
    """Cover a path: a directory with an empty one, a file with /dev/null. A path that does not exist is left."""

    code = OPERATIONS["MASK"]
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

    code = OPERATIONS["READ_ONLY"]
    root: Slot
    path: str
    no_symlinks: bool = False

    def arguments(self) -> Iterable[Argument]:
        return (self.root, self.path, RESOLVE_NO_SYMLINKS if self.no_symlinks else 0)

    def describe(self) -> str:
        return f"make {self.path} in {self.root} read-only"


class CopyUp(Operation):
    """Copy what the image has at a path into the tmpfs that will cover it."""

    code = OPERATIONS["COPY_UP"]
    root: Slot
    into: Slot
    path: str

    def arguments(self) -> Iterable[Argument]:
        return (self.root, self.into, self.path)

    def describe(self) -> str:
        return f"copy {self.path} in {self.root} up into {self.into}"
