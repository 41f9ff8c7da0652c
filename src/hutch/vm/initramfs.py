"""The guest's initial ramdisk (Documentation/filesystems/ramfs-rootfs-initramfs.rst): Hutch's executor as /init, and modules.

It is a cpio archive in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst), made once for a kernel, an
executor and a list of modules, and kept beside the unpacked kernel.
"""

from __future__ import annotations

import os

from hutch.vm import kernel as kernels, modules
from hutch.vm.kernel import Kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# What every guest needs to be spoken with; what its root and its interfaces need comes beside.
ALWAYS = ("virtio_mmio", "virtio_console")
SHARED_ROOT, DISK_ROOT, NETWORK = ("virtiofs",), ("virtio_blk", "erofs", "overlay"), ("virtio_net",)
DIRECTORY, FILE, DEVICE = 0o40755, 0o100755, 0o20600


def entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0), number: int = 0) -> bytes:
    """One member of a cpio archive, "newc"."""
    raw = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, device[0], device[1], len(raw), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def archive(executor: bytes, files: Iterable[tuple[str, bytes]]) -> bytes:
    """The archive: /init, the console that the kernel opens for it, and its log, the modules by (name, content) and their order."""
    files = list(files)
    parts = [
        entry("dev", DIRECTORY),
        entry("dev/console", DEVICE, device=(5, 1)),
        entry("dev/kmsg", DEVICE, device=(1, 11)),
        entry("init", FILE, executor),
        entry("modules", DIRECTORY),
    ]
    parts += [entry(f"modules/{name}", FILE, data) for name, data in files]
    parts.append(entry("modules/order", FILE, "".join(f"{name}\n" for name, _ in files).encode()))
    return b"".join([*parts, entry("TRAILER!!!", 0)])


def prepare(kernel: Kernel, wanted: Iterable[str], place: str, executor: str) -> tuple[str, str]:
    """The paths of the unpacked kernel and of the ramdisk, in `place`; made where they are not there yet.

    Raises UsageError, UnsupportedError.
    """
    from hashlib import sha256

    paths = modules.files(kernel, (*ALWAYS, *wanted))
    stamps = [_stamp(path) for path in (kernel.path, executor, *paths)]
    own = sha256(repr((kernel.release, stamps[0])).encode()).hexdigest()[:16]
    whole = sha256(repr((kernel.release, stamps)).encode()).hexdigest()[:16]
    elf, ramdisk = f"{place}/vmlinux-{own}", f"{place}/initramfs-{whole}"
    _kept(elf, lambda: kernels.elf_of(kernel))

    def content() -> bytes:
        with open(executor, "rb") as file:
            code = file.read()
        whole = modules.enforced(kernel)
        read = [(path, modules.read(path)) for path in paths]
        return archive(code, [(f"{modules.name_of(path)}.ko", data if whole else modules.plain(data)) for path, data in read])

    _kept(ramdisk, content)
    return elf, ramdisk


def _stamp(path: str) -> tuple[str, int, int]:
    info = os.stat(path)
    return path, info.st_mtime_ns, info.st_size


def _kept(path: str, make: Callable[[], bytes]) -> None:
    try:
        os.utime(path)  # in use again: `hutch system prune` leaves what is young
        return
    except OSError:
        pass
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with open(temporary, "wb") as file:
            file.write(make())
            os.fchmod(file.fileno(), 0o444)  # the monitor reads it, who is nobody in particular
        os.rename(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
