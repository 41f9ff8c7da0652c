"""The guest's kernel: found, unpacked to the ELF file that is booted without firmware, and its modules.

A bzImage (Documentation/arch/x86/boot.rst) carries the kernel compressed; a virtual machine monitor starts the ELF file inside by
its PVH note (Documentation/arch/x86/xen or "x86/HVM direct boot ABI"), which leaves the firmware and the decompression out.
"""

from __future__ import annotations

import os
import platform

from hutch.errors import UnsupportedError, UsageError
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PVH_NOTE = b"Xen\0"  # XEN_ELFNOTE_PHYS32_ENTRY's owner
SETUP_SECTORS, BOOT_MAGIC, VERSION_OFFSET, PAYLOAD = 0x1F1, 0x202, 0x20E, 0x248
MODULE_ROOTS = ("/lib/modules", "/usr/lib/modules")
HINT = "--kernel FILE names one; Debian's linux-image-cloud-amd64 is made for this"


class Kernel(Record):
    """A kernel's file, its release (uname -r), and the directory of its modules ("" for none)."""

    path: str
    release: str
    modules: str = ""

    @property
    def version(self) -> tuple[int, int]:
        """Such as (6, 1)."""
        major, minor = (int("".join(c for c in part if c.isdigit()) or 0) for part in [*self.release.split("-")[0].split("."), "0"][:2])
        return major, minor


def find(path: str = "") -> Kernel:
    """The kernel to boot: the one that is named, or in $HUTCH_KERNEL; this machine's own; else the newest of /boot that has modules.

    Raises UsageError for a file that is no kernel, UnsupportedError where there is none.
    """
    wanted = path or os.environ.get("HUTCH_KERNEL", "")
    if wanted:
        return describe(wanted)
    own = f"/boot/vmlinuz-{platform.release()}"
    names = sorted((name for name in _names("/boot") if name.startswith("vmlinuz-")), key=_order, reverse=True)
    for candidate in dict.fromkeys([own, *(f"/boot/{name}" for name in names)]):
        if os.access(candidate, os.R_OK):
            found = describe(candidate)
            if found.modules:
                return found
    raise UnsupportedError("isolation vm: there is no kernel for the guest: no /boot/vmlinuz-* with modules in /lib/modules", HINT)


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _order(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in "".join(c if c.isdigit() else " " for c in name).split())


def describe(path: str) -> Kernel:
    """What a kernel's file says of itself. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            head = file.read(65536)
    except OSError as error:
        raise UsageError(f"kernel {path}: {error.strerror}", HINT) from None
    if head[:4] == b"\x7fELF":
        release = _release_of_elf(path)
    elif head[BOOT_MAGIC : BOOT_MAGIC + 4] == b"HdrS":
        at = int.from_bytes(head[VERSION_OFFSET : VERSION_OFFSET + 2], "little") + 0x200
        release = head[at : at + 256].partition(b"\0")[0].partition(b" ")[0].decode("utf-8", "replace")
    else:
        raise UsageError(f"kernel {path}: is neither a bzImage nor an ELF file", HINT)
    real = os.path.realpath(path)
    beside = os.path.dirname(os.path.dirname(real))
    places = [f"{beside}/lib/modules/{release}", f"{beside}/usr/lib/modules/{release}", *(f"{root}/{release}" for root in MODULE_ROOTS)]
    return Kernel(path=real, release=release, modules=next((place for place in places if os.path.exists(f"{place}/modules.dep")), ""))


def _release_of_elf(path: str) -> str:
    import mmap

    mark = b"Linux version "
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(mark)
        text = data[at + len(mark) : at + len(mark) + 128] if at >= 0 else b""
    if not text:
        raise UsageError(f"kernel {path}: is an ELF file, but no Linux kernel", HINT)
    return text.partition(b" ")[0].decode("utf-8", "replace")


def elf_of(kernel: Kernel) -> bytes:
    """The kernel as an ELF file that can be booted directly. Raises UsageError, UnsupportedError."""
    with open(kernel.path, "rb") as file:
        image = file.read()
    found = image if image[:4] == b"\x7fELF" else unpack(image, kernel.path)
    if PVH_NOTE not in found[: 1 << 26]:
        raise UnsupportedError(f"kernel {kernel.path}: cannot be started without firmware: it was built without CONFIG_PVH", HINT)
    return found


def unpack(image: bytes, path: str) -> bytes:
    """The ELF file in a bzImage, whose payload's place its boot header tells. Raises UsageError."""
    start, size = (int.from_bytes(image[at : at + 4], "little") for at in (PAYLOAD, PAYLOAD + 4))
    start += ((image[SETUP_SECTORS] or 4) + 1) * 512
    payload = image[start : start + size]
    try:
        found = _decompress(payload)
    except UnsupportedError:
        raise
    except Exception as error:  # each of the libraries has a class of its own for damaged data
        raise UsageError(f"kernel {path}: cannot be unpacked: {error}") from None
    if found[:4] != b"\x7fELF":
        raise UsageError(f"kernel {path}: holds no ELF file")
    return found


def _decompress(payload: bytes) -> bytes:
    """By its magic number. The kernel's build appends the size to what knows no end of its own."""
    if payload[:4] == b"\x02\x21\x4c\x18":
        return _lz4(payload)
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        return _whole(zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(), payload)
    if payload[:2] == b"\x1f\x8b":
        import zlib

        return _whole(zlib.decompressobj(31), payload)
    if payload[:3] == b"BZh":
        import bz2

        return _whole(bz2.BZ2Decompressor(), payload)
    if payload[:6] == b"\xfd7zXZ\0" or payload[:3] == b"\x5d\0\0":
        import lzma

        return _whole(lzma.LZMADecompressor(), payload)
    raise ValueError(f"is compressed in a way that Hutch does not know (it begins with {payload[:4].hex()})")


def _whole(machine: Any, payload: bytes) -> bytes:
    """All of it, to the end that the format itself marks. Raises EOFError where that is missing."""
    found: bytes = machine.decompress(payload)
    if not machine.eof:
        raise EOFError("it ends too early")
    return found


def _lz4(payload: bytes) -> bytes:
    """LZ4's legacy frame, which the kernel's build writes: blocks of at most 8 MiB, each with its size in front."""
    try:
        from lz4 import block
    except ImportError:
        raise UnsupportedError("kernel: it is compressed with LZ4, and Python's lz4 package is missing", "pip install 'hutch[vm]'") from None

    out, at = [], 4
    while at + 8 <= len(payload):
        size = int.from_bytes(payload[at : at + 4], "little")
        if at + 4 + size > len(payload):
            break
        out.append(block.decompress(payload[at + 4 : at + 4 + size], uncompressed_size=8 << 20))
        at += 4 + size
    return b"".join(out)
