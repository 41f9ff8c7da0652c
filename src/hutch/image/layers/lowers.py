"""Layers: from a stream of compressed bytes to something that overlayfs can stack, verified on the way.

There are two ways, with one interface. Where the kernel mounts EROFS from a file (Linux 6.12, root), the layer is its plain
tar and an index of it: nothing is unpacked. Elsewhere it is a directory. ``layers/ALGORITHM-HEX`` holds what belongs to one:
``index`` and the mount point ``mount``, or ``tree``; and ``lock``, which every container on it holds (flock(2), shared).
"""

from __future__ import annotations

import hashlib
import os

from hutch.errors import ImageError
from hutch.image.layers import compress
from hutch.image.layers.ahead import Ahead, reader
from hutch.image.layers.tree import TooLarge, Tree
from hutch.image.rootfs import Layer
from hutch.image.store.content import Content, DiskError, Ingest, file_name, full
from hutch.image.tar.reader import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hutch.kernel.features import Features

_mountable: dict[int, bool] = {}  # by the device of the data directory: it depends on its file system, too


def indexed(content: Content, features: Features) -> bool:
    """Whether this kernel and this user mount an EROFS image from a file there; as far as is known before it was tried."""
    return features.privileged and features.kernel >= (6, 12) and _mountable.get(_device(content), True)


def _device(content: Content) -> int:
    return os.stat(content.root).st_dev


def directory(content: Content, diff_id: str) -> str:
    """Where what belongs to a layer is."""
    return f"{content.root}/layers/{file_name(diff_id)}"


def find(content: Content, diff_id: str, features: Features) -> Layer | None:
    """A layer that is there and can be used by this kernel and this user."""
    place = directory(content, diff_id)
    if indexed(content, features) and os.path.exists(f"{place}/index"):
        tar = content.path(diff_id)
        if os.path.exists(tar):
            return Layer(lower=f"{place}/mount", lock=f"{place}/lock", index=f"{place}/index", tar=tar)
    if os.path.isdir(f"{place}/tree"):
        return Layer(lower=f"{place}/tree", lock=f"{place}/lock")
    return None


def ensure(content: Content, diff_id: str, blob: str, features: Features, what: str) -> Layer:
    """A layer, made from what the store has: its plain tar, or the blob that it was sent as. Raises ImageError."""
    found = find(content, diff_id, features)
    if found is not None:
        return found
    for digest in (diff_id, blob):
        if content.has(digest):
            with open(content.path(digest), "rb", buffering=0) as file:
                return build(content, diff_id, iter(lambda: file.read(1 << 20), b""), features, what)
    raise ImageError(f"{what}: layer {diff_id[:19]}… is not in the store", "pull the image again")


def fetch(
    content: Content, digest: str, size: int, diff_id: str, pieces: Callable[[int], Iterator[bytes]], features: Features, what: str,
    waiting: Callable[[], None] = lambda: None, cancel: Callable[[], None] = lambda: None,
) -> Layer:  # fmt: skip
    """A layer from somewhere else: the blob is stored and the layer is made of it in one pass.

    `pieces(offset)` gives the blob's bytes from there on, in a thread of its own; `cancel` ends its waiting. Everything is
    verified before it can be used: the blob's size and digest, and the plain tar's. Raises ImageError; what was fetched
    stays, so that the next attempt goes on from there.
    """
    from hutch.image.layers import ingest

    while True:
        ingest.sweep(content, features)
        claim = content.claim(digest, waiting)
        if claim is None:
            return ensure(content, diff_id, digest, features, what)
        with claim:
            blob = _Blob(claim, digest, size, what)
            try:
                layer = _take(content, blob, diff_id, pieces, features, cancel)
            except ImageError:
                if blob.stale:
                    continue  # what an earlier attempt had stored, from another server for one, was damaged: all of it again
                raise
            claim.commit(digest)
        return layer if layer is not None else ensure(content, diff_id, digest, features, what)


def _take(
    content: Content, blob: _Blob, diff_id: str, pieces: Callable[[int], Iterator[bytes]], features: Features, cancel: Callable[[], None]
) -> Layer | None:  # fmt: skip
    with Ahead(blob.pieces(pieces), cancel=cancel) as raw:
        try:
            found = find(content, diff_id, features)
            if found is None and blob.digest != diff_id:
                return build(content, diff_id, raw, features, blob.what)
            for _ in raw:
                pass
            return found
        except ImageError as error:
            # if the bytes are not what they should be, then that is the reason
            for _ in raw:
                pass
            if not blob.failed and not isinstance(error, DiskError):
                blob.claim.drop()
            raise


class _Blob:
    """The bytes of a blob on their way into the store, hashed; those that an earlier attempt has stored come first."""

    def __init__(self, claim: Ingest, digest: str, size: int, what: str) -> None:
        self.claim, self.digest, self.size, self.what = claim, digest, size, what
        self.failed = False
        self.stale = False  # it does not have its digest, and began with what was there before

    def pieces(self, fetch: Callable[[int], Iterator[bytes]]) -> Iterator[bytes]:
        machine = hashlib.new(self.digest.partition(":")[0])
        if self.claim.size > self.size:
            self.claim.drop()
        kept, offset = self.claim.size, 0
        while offset < self.claim.size:
            piece = os.pread(self.claim.fd, 1 << 20, offset)
            machine.update(piece)
            offset += len(piece)
            yield piece
        try:
            if offset < self.size:
                for piece in fetch(offset):
                    if self.claim.size + len(piece) > self.size:
                        self.claim.drop()
                        raise ImageError(f"{self.what}: {self.digest[:19]}… is larger than the {self.size} bytes that it should have")
                    machine.update(piece)
                    self.claim.write(piece)
                    yield piece
        except BaseException:
            self.failed = True
            raise
        if self.claim.size != self.size:
            self.failed = True
            raise ImageError(f"{self.what}: {self.digest[:19]}… has {self.claim.size} bytes instead of {self.size}")
        if machine.hexdigest() != self.digest.partition(":")[2]:
            self.failed, self.stale = True, kept > 0
            self.claim.drop()
            raise ImageError(f"{self.what}: what was sent does not have the digest {self.digest}", "the registry or the file is damaged: try again")


def build(content: Content, diff_id: str, raw: Iterator[bytes], features: Features, what: str) -> Layer:
    """A layer from the bytes of its blob, compressed or plain, which are read to their end. Nothing of it can be seen before
    its digest is verified."""
    from hutch.image.layers import ingest

    ingest.sweep(content, features)
    with Ahead(compress.plain(reader(raw), what)) as pieces:
        if not indexed(content, features):
            return _tree(content, diff_id, pieces, features, what)
        layer = _index(content, diff_id, pieces, features, what)
    if layer is None:  # the kernel would not mount it, or it has too many files for an index
        with open(content.path(diff_id), "rb", buffering=0) as file:
            return _tree(content, diff_id, iter(lambda: file.read(1 << 20), b""), features, what)
    return layer


def _about(what: str, error: ImageError) -> ImageError:
    return error if error.message.startswith(what) else type(error)(f"{what}: {error.message}", error.hint)


def _check(machine: hashlib._Hash, diff_id: str, what: str) -> None:
    if machine.hexdigest() != diff_id.partition(":")[2]:
        raise ImageError(f"{what}: the layer's content does not have the digest {diff_id} that the configuration gives")


def _index(content: Content, diff_id: str, pieces: Iterator[bytes], features: Features, what: str) -> Layer | None:
    from hutch.image.layers.erofs import writer

    machine = hashlib.new(diff_id.partition(":")[0])
    tar = None if content.has(diff_id) else content.new()
    tree = Tree()
    parser = Reader(tree)
    size = 0
    large = False
    try:
        for piece in pieces:
            machine.update(piece)
            size += len(piece)
            if tar is not None:
                tar.write(piece)
            if not large:
                try:
                    parser.feed(piece)
                except TooLarge:
                    large = True
                    tree = Tree()
        if not large:
            parser.close()
        _check(machine, diff_id, what)
        if large:
            if tar is not None:
                tar.commit(diff_id)
            return None
        fd = tar.fd if tar is not None else os.open(content.path(diff_id), os.O_RDONLY | os.O_CLOEXEC)
        try:
            image = writer.index(tree.root, size, lambda offset, length: os.pread(fd, length, offset), diff_id.encode())
        finally:
            if tar is None:
                os.close(fd)
        if tar is not None:
            tar.commit(diff_id)
    except ImageError as error:
        raise _about(what, error) from None
    finally:
        if tar is not None:
            tar.close()
    if not _try_mount(content, image, content.path(diff_id)):
        return None
    place = directory(content, diff_id)
    os.makedirs(f"{place}/mount", mode=0o755, exist_ok=True)
    content.mark(os.path.relpath(f"{place}/index", content.root))
    with content.new() as fresh:
        fresh.write(image)
        os.rename(fresh.release(), f"{place}/index")
    return find(content, diff_id, features)


def index_bytes(content: Content, diff_id: str) -> bytes:
    """The index of a layer whose plain tar is in the store. Raises ImageError."""
    from hutch.image.layers.erofs import writer

    tree = Tree()
    parser = Reader(tree)
    fd = os.open(content.path(diff_id), os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        for offset in range(0, size, 1 << 20):
            parser.feed(os.pread(fd, 1 << 20, offset))
        parser.close()
        return writer.index(tree.root, size, lambda offset, length: os.pread(fd, length, offset), diff_id.encode())
    finally:
        os.close(fd)


def _try_mount(content: Content, image: bytes, tar: str) -> bool:
    """Whether this kernel mounts an index from a file, tried once by this process, without a place in the file system."""
    device = _device(content)
    if device in _mountable:
        return _mountable[device]
    from hutch.kernel import syscalls

    with content.new() as file:
        file.write(image)
        try:
            os.close(syscalls.make_filesystem("erofs", (("source", f"/proc/self/fd/{file.fd}"), ("device", tar), ("ro", None))))
            _mountable[device] = True
        except OSError:
            _mountable[device] = False
    return _mountable[device]


def _tree(content: Content, diff_id: str, pieces: Iterator[bytes], features: Features, what: str) -> Layer:
    from hutch.image.layers import mapped

    machine = hashlib.new(diff_id.partition(":")[0])
    place = directory(content, diff_id)
    lock, fresh = content.new_directory()
    try:
        os.mkdir(f"{fresh}/tree", 0o755)

        def hashed() -> Iterator[bytes]:
            for piece in pieces:
                machine.update(piece)
                yield piece

        mapped.unpack(hashed(), f"{fresh}/tree", features, what)
        for _ in pieces:
            pass
        _check(machine, diff_id, what)
        os.makedirs(place, mode=0o700, exist_ok=True)
        content.mark(os.path.relpath(f"{place}/tree", content.root))
        try:
            os.rename(f"{fresh}/tree", f"{place}/tree")
        except OSError:
            if not os.path.isdir(f"{place}/tree"):
                raise  # else somebody else was faster
    except ImageError as error:
        raise _about(what, error) from None
    except OSError as error:
        raise DiskError(f"unpack into {content.root}: {error.strerror}", full(error)) from None
    finally:
        mapped.remove_tree(fresh, features)
        os.close(lock)
    return Layer(lower=f"{place}/tree", lock=f"{place}/lock")


def root_mode(layer: Layer) -> int:
    """The permission bits of a layer's root directory."""
    if not layer.index:
        return os.stat(layer.lower).st_mode & 0o7777
    # three small reads, without what a whole reader of the format would import
    fd = os.open(layer.index, os.O_RDONLY | os.O_CLOEXEC)
    try:
        nid = int.from_bytes(os.pread(fd, 2, 1024 + 14), "little")
        return int.from_bytes(os.pread(fd, 2, nid * 32 + 4), "little") & 0o7777
    finally:
        os.close(fd)
