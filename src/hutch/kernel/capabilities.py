"""Capability numbers (linux/capability.h, capabilities(7)) and masks of them."""

from __future__ import annotations

from hutch.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
NUMBERS = {f"CAP_{name}": number for number, name in enumerate(NAMES)}
ALL = (1 << len(NAMES)) - 1

SYS_ADMIN = 1 << NUMBERS["CAP_SYS_ADMIN"]
SYS_RESOURCE = 1 << NUMBERS["CAP_SYS_RESOURCE"]
SETUID = 1 << NUMBERS["CAP_SETUID"]
MKNOD = 1 << NUMBERS["CAP_MKNOD"]

# What Docker and Podman grant when nothing is said.
DEFAULT = tuple(
    f"CAP_{name}"
    for name in ("CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE").split()
)


def canonical(name: str) -> str:
    """``net_admin`` and ``CAP_NET_ADMIN`` are the same. Raises ConfigError for a name that Linux does not know."""
    full = name.upper()
    full = full if full.startswith("CAP_") else f"CAP_{full}"
    if full not in NUMBERS:
        raise ConfigError("", f"unknown capability {name!r}", "capabilities(7) lists them; ALL stands for every one")
    return full


def mask(names: Iterable[str], path: str = "") -> int:
    """Bit N for capability N. Raises ConfigError, with `path`, for an unknown name."""
    bits = 0
    for name in names:
        if name not in NUMBERS:
            raise ConfigError(path, f"unknown capability {name}")
        bits |= 1 << NUMBERS[name]
    return bits


def names(bits: int) -> list[str]:
    """The capabilities of a mask, by number."""
    return [name for name, number in NUMBERS.items() if bits >> number & 1]
