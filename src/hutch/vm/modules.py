"""Kernel modules, by what they depend on (depmod(8), modules.dep(5))."""

from __future__ import annotations

import os

from hutch.errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.vm.kernel import Kernel


def name_of(path: str) -> str:
    """The module's name in its file's: dashes are underscores."""
    return os.path.basename(path).partition(".")[0].replace("-", "_")


def parse_dependencies(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """modules.dep: by module, its file and the files that it needs, each before those that it needs itself."""
    found = {}
    for line in text.split("\n"):
        path, colon, rest = line.partition(":")
        if colon:
            found[name_of(path)] = (path, tuple(rest.split()))
    return found


def order(wanted: Iterable[str], dependencies: dict[str, tuple[str, tuple[str, ...]]], builtin: set[str], release: str) -> list[str]:
    """The files to load, in an order in which each finds what it needs. Raises UnsupportedError for a module that there is none of."""
    out: list[str] = []
    for name in wanted:
        if name in builtin:
            continue
        if name not in dependencies:
            raise UnsupportedError(f"kernel {release}: has no module {name}, which the guest needs", "--kernel FILE names another kernel")
        path, needs = dependencies[name]
        for file in (*reversed(needs), path):
            if file not in out:
                out.append(file)
    return out


def files(kernel: Kernel, wanted: Iterable[str]) -> list[str]:
    """The module files of a kernel to load, in their order. Raises UnsupportedError."""
    wanted = list(wanted)
    if not kernel.modules:
        raise UnsupportedError(
            f"kernel {kernel.release}: its modules are not there: no /lib/modules/{kernel.release}/modules.dep", "--kernel FILE names another"
        )
    with open(f"{kernel.modules}/modules.dep", encoding="utf-8") as file:
        dependencies = parse_dependencies(file.read())
    try:
        with open(f"{kernel.modules}/modules.builtin", encoding="utf-8") as file:
            builtin = {name_of(line) for line in file.read().split()}
    except OSError:
        builtin = set()
    return [f"{kernel.modules}/{path}" for path in order(wanted, dependencies, builtin, kernel.release)]


BTF = b"\0.BTF\0"
SIGNED = b"~Module signature appended~\n"


def plain(data: bytes) -> bytes:
    """A module without what its kernel would take long to read where that is emulated: the signature behind it
    (scripts/sign-file.c), since the files are this host's, and the types for BPF (btf.rst), by another name of their section."""
    if not data.endswith(SIGNED):
        return data.replace(BTF, b"\0.xTF\0")
    head = data[-len(SIGNED) - 12 : -len(SIGNED)]  # struct module_signature, whose last field is the length of what is before it
    size = int.from_bytes(head[8:], "big")
    return data[: max(len(data) - len(SIGNED) - 12 - size, 0)].replace(BTF, b"\0.xTF\0")


def enforced(kernel: Kernel) -> bool:
    """Whether a kernel takes signed modules alone, as far as its configuration is known; where it is not, it may."""
    try:
        with open(f"{os.path.dirname(kernel.path)}/config-{kernel.release}", encoding="utf-8") as file:
            return "CONFIG_MODULE_SIG_FORCE=y" in file.read()
    except OSError:
        return True


def read(path: str) -> bytes:
    """A module as the kernel takes it, unpacked."""
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".xz"):
        import lzma

        return lzma.decompress(data)
    if path.endswith(".zst"):
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            return reader.read()
    if path.endswith(".gz"):
        import gzip

        return gzip.decompress(data)
    return data
