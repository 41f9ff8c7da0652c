"""Mount options in mount(8)'s and the runtime-spec's words, parsed to the kernel's flags (config.md, "Mounts")."""

from __future__ import annotations

from hutch.errors import ConfigError
from hutch.plan.ops import ATIME_MASK, ATTRIBUTES, NOSYMFOLLOW, PROPAGATION
from hutch.record import Record

_CLEAR = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "diratime": "nodiratime"}
_IGNORED = {"defaults", "async", "nolazytime", "mand", "nomand", "loud", "silent", "iversion", "noiversion", "remount"}
_FILESYSTEM = {"sync", "dirsync", "lazytime"}  # flags of the file system, not of the mount
_PLAIN = {*ATTRIBUTES, *_CLEAR, "relatime", "atime", "norelatime", "nostrictatime", "nosymfollow", "symfollow"}
# Every word that is understood here; any other is the file system's own.
RECOGNISED = frozenset(
    {*_PLAIN, *(f"r{word}" for word in _PLAIN), *PROPAGATION, *(f"r{word}" for word in PROPAGATION), *_IGNORED, *_FILESYSTEM}
    | {"bind", "rbind", "tmpcopyup", "idmap", "ridmap"}
)


class MountOptions(Record):
    """What the options of one mount come to.

    `attributes` and `clear` are the mount's; the `recursive_` pair is what the `r...` options ask of every mount below.
    `data` goes to the file system. `idmap` is "", "idmap" or "ridmap".
    """

    bind: bool = False
    recursive: bool = False
    attributes: int = 0
    clear: int = 0
    recursive_attributes: int = 0
    recursive_clear: int = 0
    propagation: int = 0
    propagation_recursive: bool = False
    data: tuple[tuple[str, str | None], ...] = ()
    copy_up: bool = False
    idmap: str = ""


def parse(options: tuple[str, ...], path: str) -> MountOptions:
    """Options to flags. An unknown word is the file system's own; for a bind mount it is an error."""
    bind = recursive = copy_up = propagation_recursive = False
    attributes = clear = recursive_attributes = recursive_clear = propagation = 0
    idmap = ""
    data: list[tuple[str, str | None]] = []

    def change(name: str, into: tuple[int, int]) -> tuple[int, int]:
        set_, clear_ = into
        if name in ATTRIBUTES:
            bit = ATTRIBUTES[name]
            if name in ("noatime", "strictatime"):
                return set_ & ~ATIME_MASK | bit, clear_ | ATIME_MASK
            return set_ | bit, clear_ & ~bit
        if name in _CLEAR:
            bit = ATTRIBUTES[_CLEAR[name]]
            return set_ & ~bit, clear_ | bit
        if name in ("relatime", "atime", "norelatime", "nostrictatime"):
            return set_ & ~ATIME_MASK, clear_ | ATIME_MASK
        if name == "nosymfollow":
            return set_ | NOSYMFOLLOW, clear_
        return set_ & ~NOSYMFOLLOW, clear_ | NOSYMFOLLOW  # symfollow

    for i, option in enumerate(options):
        if option in ("bind", "rbind"):
            bind, recursive = True, recursive or option == "rbind"
        elif option in _PLAIN:
            attributes, clear = change(option, (attributes, clear))
        elif option.startswith("r") and option[1:] in _PLAIN:
            recursive_attributes, recursive_clear = change(option[1:], (recursive_attributes, recursive_clear))
        elif option in PROPAGATION or (option[1:] in PROPAGATION and option[0] == "r"):
            propagation_recursive = option not in PROPAGATION
            propagation = PROPAGATION[option.removeprefix("r") if propagation_recursive else option]
        elif option == "tmpcopyup":
            copy_up = True
        elif option in ("idmap", "ridmap"):
            idmap = option
        elif option in _FILESYSTEM and not bind:
            data.append((option, None))
        elif option in _IGNORED or option in _FILESYSTEM:
            continue
        elif not option:
            raise ConfigError(f"{path}.options[{i}]", "is empty")
        else:
            key, equals, value = option.partition("=")
            data.append((key, value if equals else None))
    if bind:
        data = [item for item in data if item[0] not in _FILESYSTEM]
    if bind and data:
        raise ConfigError(f"{path}.options", f"{data[0][0]!r} is not an option of a bind mount")
    return MountOptions(
        bind=bind,
        recursive=recursive,
        attributes=attributes,
        clear=clear,
        recursive_attributes=recursive_attributes,
        recursive_clear=recursive_clear,
        propagation=propagation,
        propagation_recursive=propagation_recursive,
        data=tuple(data),
        copy_up=copy_up,
        idmap=idmap,
    )
