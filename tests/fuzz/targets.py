"""What is fuzzed: each target takes any bytes. It may refuse them with Hutch's own errors, and must do nothing else but be right."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from hutch.errors import HutchError, ImageError
from hutch.image import manifest, reference
from hutch.image.layers import compress
from hutch.image.layers.ahead import reader
from hutch.image.layers.erofs import writer
from hutch.image.layers.erofs.reader import Index
from hutch.image.layers.tree import Tree
from hutch.image.layers.unpack import Unpacker
from hutch.image.registry.challenge import challenges
from hutch.image.tar.reader import Reader
from hutch.kernel.trees import remove_tree

BLOCK = 512


def summed(data: bytes) -> bytes:
    """The archive with right checksums in what look like its headers: a fuzzer does not find those by chance."""
    out = bytearray(data)
    for at in range(0, len(out) - BLOCK + 1, BLOCK):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + BLOCK])
    return bytes(out)


def _tree(data: bytes, step: int) -> Tree:
    tree = Tree()
    parser = Reader(tree)
    for at in range(0, len(data), step):
        parser.feed(data[at : at + step])
    parser.close()
    return tree


def _index(data: bytes, step: int) -> bytes | str:
    try:
        return writer.index(_tree(data, step).root, len(data), lambda offset, length: data[offset : offset + length])
    except ImageError as error:
        return error.message


def tar(data: bytes) -> None:
    """An archive becomes an index, the same one however it comes in; and what the index says can be read."""
    data = summed(data)
    whole = _index(data, max(1, len(data)))
    assert _index(data, 513) == whole, "the pieces in which an archive comes change what it is"
    if isinstance(whole, bytes):
        _walk(whole, data)


def erofs(data: bytes) -> None:
    """Any bytes as an index."""
    _walk(data, b"content" * 100)


def _walk(index: bytes, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        for name, data in (("index", index), ("tar", content)):
            with open(f"{place}/{name}", "wb") as file:
                file.write(data)
        try:
            with Index(f"{place}/index", f"{place}/tar") as found:
                left, seen = [found.root], 0
                while left and seen < 200:
                    file, seen = left.pop(), seen + 1
                    if file.mode & 0o170000 == 0o040000:
                        left += [found.get(number) for name, number in found.entries(file) if name not in (b".", b"..")]
                    elif file.mode & 0o170000 == 0o120000:
                        found.target(file)
                    elif file.mode & 0o170000 == 0o100000:
                        found.read(file, 0, 4096)
        except ImageError:
            pass


def unpack(data: bytes) -> None:
    """An archive is unpacked into its directory, and nowhere else."""
    data = summed(data)
    place = tempfile.mkdtemp()
    try:
        os.mkdir(f"{place}/tree")
        with open(f"{place}/outside", "w") as file:
            file.write("untouched")
        before = os.stat(f"{place}/outside")
        try:
            with Unpacker(f"{place}/tree", owners=False) as unpacker:
                parser = Reader(unpacker)
                parser.feed(data)
                parser.close()
        except (HutchError, OSError):
            pass
        after = os.stat(f"{place}/outside")
        assert sorted(os.listdir(place)) == ["outside", "tree"]
        assert (before.st_mode, before.st_nlink, before.st_mtime_ns) == (after.st_mode, after.st_nlink, after.st_mtime_ns)
    finally:
        remove_tree(place)


def inflate(data: bytes) -> None:
    """Any bytes as a compressed stream."""
    size = 0
    try:
        for piece in compress.plain(reader(iter([data])), "x"):
            size += len(piece)
            if size > 32 << 20:
                break
    except ImageError:
        pass


def documents(data: bytes) -> None:
    """Any bytes as a manifest, a configuration, a name, a registry's challenge."""
    for parse in (manifest.parse, manifest.parse_config):
        try:
            parse(data, "x")
        except HutchError:
            pass
    text = data.decode("utf-8", "surrogateescape")
    challenges(text)
    try:
        found = reference.parse(text)
        assert reference.parse(str(found)) == found
    except HutchError:
        pass


TARGETS: dict[str, Callable[[bytes], None]] = {item.__name__: item for item in (tar, erofs, unpack, inflate, documents)}
