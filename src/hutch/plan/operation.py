"""What an operation of a plan is, and the kernel's numbers that several of them share."""

from __future__ import annotations

from hutch.record import Record
from hutch.words import printable as printable

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
        if "describe" in cls.__dict__:
            own = cls.__dict__["describe"]
            # what comes from an image or a command line may hold anything; a terminal must not act on it
            cls.describe = lambda self: printable(own(self))  # type: ignore[method-assign]

    def arguments(self) -> Iterable[Argument]:
        """What the executor reads, in its order."""
        return ()

    def describe(self) -> str:
        """One line for a person, in the field's own terms."""
        raise NotImplementedError

    def appendix(self) -> tuple[str, ...]:
        """Lines that stand below the whole plan, for what takes more than one."""
        return ()

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


def joined(words: Iterable[str]) -> str:
    """Words in brackets behind a description; nothing for none."""
    text = ",".join(words)
    return f" ({text})" if text else ""


def shown(data: str | bytes, limit: int = 60) -> str:
    """Data as one short line."""
    text = data if isinstance(data, str) else data.decode("utf-8", "backslashreplace")
    text = text.strip("\n").replace("\n", "; ")
    return text if len(text) <= limit else text[: limit - 1] + "…"
