"""A layer as a disk: an EROFS image with the content in it, for machines that have their root on block devices.

A layer that containers mount is an index of blocks of 512 bytes over a tar. A guest's kernel may be older than Linux 6.4, which
reads blocks of a page's size alone, and a member of a tar begins on none: so the content is laid out anew, once for each
layer. The disk lies beside the layer (``layers/ALGORITHM-HEX/disk``) and goes with it.
"""

from __future__ import annotations

import os

from hutch.errors import ImageError
from hutch.image.layers.tree import Node, Tree
from hutch.image.rootfs import Layer, Rootfs
from hutch.image.store.content import Content
from hutch.image.tar.reader import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hutch.kernel.features import Features

MOST = 16  # layers of one root: a machine has few places for devices
PIECE = 1 << 20


def of_rootfs(content: Content, rootfs: Rootfs, features: Features) -> tuple[str, ...]:
    """The disks of a root's layers, the topmost first; made where they are not there yet. Raises ImageError."""
    whole = len(rootfs.views) == 1 and rootfs.views[0].path == "/"
    layers = {layer.lower: layer for layer in rootfs.layers}
    if not whole or any(lower not in layers for lower in rootfs.views[0].lowers):
        raise ImageError(
            f"{rootfs.name}: a machine cannot have it on a disk of its own: it is no image, and may change",
            "tar -C DIRECTORY -c . | hutch import - NAME makes one of a directory",
        )
    found = [layers[lower] for lower in rootfs.views[0].lowers]
    if len(found) > MOST:
        raise ImageError(
            f"{rootfs.name}: has {len(found)} layers, and a machine has room for {MOST} disks", "hutch export and hutch import make one layer of them"
        )
    return tuple(of_layer(content, layer, features, rootfs.name) for layer in found)


def of_layer(content: Content, layer: Layer, features: Features, what: str) -> str:
    """The disk of a layer. Raises ImageError."""
    path = f"{os.path.dirname(layer.lock)}/disk"
    if os.path.exists(path):
        return path
    try:
        with content.new() as fresh:
            if layer.tar:
                with open(layer.tar, "rb", buffering=0) as tar:
                    _write(tar.fileno(), fresh.fd)
            else:
                with content.new() as tar_file:
                    _pack(layer.lower, tar_file.write, features, what)
                    _write(tar_file.fd, fresh.fd)
            os.fchmod(fresh.fd, 0o444)
            os.fsync(fresh.fd)  # nothing says later whether it is whole
            os.rename(fresh.release(), path)
    except ImageError as error:
        raise error if error.message.startswith(what) else ImageError(f"{what}: {error.message}", error.hint) from None
    except OSError as error:
        raise ImageError(f"{what}: write a disk of its layer: {error.strerror}", f"{content.root} needs room for it: `hutch system df`") from None
    return path


def _pack(directory: str, out: Callable[[bytes], object], features: Features, what: str) -> None:
    """A layer that was unpacked, as a tar again; overlayfs's marks are whiteouts there."""
    from hutch.image.layers import mapped
    from hutch.image.layers.changes import Scope

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mapped.write_tree(fd, Scope(top=b"."), out, features, what)
    finally:
        os.close(fd)


def _write(tar: int, out: int) -> None:
    from hutch.image.layers.erofs import writer

    size = os.fstat(tar).st_size
    tree = Tree()
    parser = Reader(tree)
    for offset in range(0, size, PIECE):
        parser.feed(os.pread(tar, PIECE, offset))
    parser.close()
    disk = writer.disk(tree.root, size)
    os.ftruncate(out, disk.size)
    _whole(out, disk.head)
    for place, node in disk.content:
        _copy(tar, out, node, place)


def _whole(out: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(out, memoryview(data)[done:], done)


def _copy(tar: int, out: int, node: Node, place: int) -> None:
    """A file's content from the archive to the disk, by the kernel; holes stay holes."""
    at = node.offset
    for offset, length in node.sparse if node.sparse is not None else ((0, node.size),):
        done = 0
        while done < length:
            copied = os.copy_file_range(tar, out, length - done, at + done, place + offset + done)
            if not copied:
                raise ImageError("layer: the archive is broken: a file lies beyond its end")
            done += copied
        at += length
