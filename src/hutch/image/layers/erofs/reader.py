"""Read files of a layer through its index, without mounting it: a container's users are looked up before it exists.

It also serves as a check of what the writer wrote. The index is trusted no more than any file: every place in it is
checked before it is used.
"""

from __future__ import annotations

import mmap
import os
import stat

from hutch.errors import ImageError
from hutch.image.layers.erofs.format import (
    BLOCK,
    BLOCK_BITS,
    CHUNK,
    CHUNK_BITS_MASK,
    CHUNK_INDEXES,
    CHUNKED,
    DIRENT,
    DIRENT_SIZE,
    HOLE,
    INLINE,
    INODE,
    INODE_SIZE,
    MAGIC,
    PLAIN,
    SLOT,
    SUPER,
    SUPER_OFFSET,
    TAR_DEVICE,
    XATTR,
    XATTR_HEADER,
    XATTR_PREFIXES,
    device_pair,
)  # fmt: skip
from hutch.record import Record

MAX_READ = 256 << 20


class File(Record):
    """A file of an index: stat(2)'s numbers, `mtime` in nanoseconds, and where the rest of its inode lies."""

    number: int
    mode: int
    uid: int
    gid: int
    mtime: int
    links: int
    size: int
    union: int
    layout: int
    place: int
    xattrs: dict[bytes, bytes]

    @property
    def rdev(self) -> tuple[int, int]:
        """(major, minor) of a device."""
        return device_pair(self.union)


class Index:
    """An open index. `tar` is the path of the layer's tar, opened when content is first read. Raises ImageError."""

    def __init__(self, path: str, tar: str) -> None:
        self._tar = tar
        self._tar_fd = -1
        self._names: dict[int, dict[bytes, int]] = {}
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size < SUPER_OFFSET + 128:
                raise ImageError(f"{path}: is no index")
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        found = SUPER.unpack_from(self._map, SUPER_OFFSET)
        if found[0] != MAGIC or found[3] != BLOCK_BITS:
            raise ImageError(f"{path}: is no index")
        self._root = found[5]
        self.count: int = found[6]

    def close(self) -> None:
        """Let go of the files."""
        self._map.close()
        if self._tar_fd >= 0:
            os.close(self._tar_fd)
            self._tar_fd = -1

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def root(self) -> File:
        """The root directory."""
        return self._inode(self._root)

    def _part(self, at: int, length: int) -> bytes:
        if at < 0 or length < 0 or at + length > len(self._map):
            raise ImageError("the index is damaged: it points outside itself")
        return self._map[at : at + length]

    def _inode(self, nid: int) -> File:
        at = nid * SLOT
        kind, count, mode, _, size, union, number, uid, gid, seconds, nanoseconds, links = INODE.unpack(self._part(at, INODE_SIZE))
        if not kind & 1:
            raise ImageError("the index is damaged: an inode of an unknown form")
        length = XATTR_HEADER + 4 * (count - 1) if count else 0
        seconds -= (seconds >> 63) << 64
        return File(
            number=number, mode=mode, uid=uid, gid=gid, mtime=seconds * 1_000_000_000 + nanoseconds, links=links, size=size, union=union,
            layout=kind >> 1 & 7, place=at + INODE_SIZE + length, xattrs=self._attributes(at + INODE_SIZE, length),
        )  # fmt: skip

    def _attributes(self, at: int, length: int) -> dict[bytes, bytes]:
        found = {}
        position = XATTR_HEADER
        data = self._part(at, length)
        while position + XATTR.size <= length:
            short, prefix, size = XATTR.unpack_from(data, position)
            position += XATTR.size
            name = dict(XATTR_PREFIXES).get(prefix, b"") + data[position : position + short]
            found[name] = data[position + short : position + short + size]
            position += (short + size + 3) // 4 * 4
        return found

    def _data(self, file: File) -> bytes:
        """The whole content of a directory or a link."""
        if file.layout == INLINE:
            full = file.size // BLOCK * BLOCK
            return self._part(file.union << BLOCK_BITS, full) + self._part(file.place, file.size - full) if full else self._part(file.place, file.size)
        if file.layout != PLAIN:
            raise ImageError("the index is damaged: a directory of an unknown form")
        return self._part(file.union << BLOCK_BITS, file.size)

    def entries(self, directory: File) -> list[tuple[bytes, int]]:
        """(name, inode) of a directory, without itself and its parent, in the order of their bytes."""
        if not stat.S_ISDIR(directory.mode):
            raise ImageError("is no directory")
        data = self._data(directory)
        out = []
        for begin in range(0, len(data), BLOCK):
            block = data[begin : begin + BLOCK]
            count = DIRENT.unpack_from(block)[1] // DIRENT_SIZE if len(block) >= DIRENT_SIZE else 0
            if not 0 < count * DIRENT_SIZE <= len(block):
                raise ImageError("the index is damaged: a directory's block is none")
            rows = [DIRENT.unpack_from(block, i * DIRENT_SIZE) for i in range(count)]
            ends = [row[1] for row in rows[1:]] + [len(block)]
            for (nid, start, _), end in zip(rows, ends, strict=True):
                name = block[start:end].rstrip(b"\0")
                if name not in (b".", b".."):
                    out.append((name, nid))
        return out

    def get(self, nid: int) -> File:
        """The file with an inode's number."""
        return self._inode(nid)

    def lookup(self, path: bytes) -> File | None:
        """A file by its path in the layer; no link is followed. None when it is not there."""
        file = self.root
        for part in path.split(b"/"):
            if not part or part == b".":
                continue
            if not stat.S_ISDIR(file.mode):
                return None
            if file.number not in self._names:
                if len(self._names) > 256:
                    self._names.clear()
                self._names[file.number] = dict(self.entries(file))
            nid = self._names[file.number].get(part)
            if nid is None:
                return None
            file = self._inode(nid)
        return file

    def target(self, link: File) -> bytes:
        """What a symbolic link points at."""
        return self._data(link)

    def read(self, file: File, offset: int = 0, length: int = -1) -> bytes:
        """A part of a regular file's content, to its end by default. Raises ImageError."""
        end = file.size if length < 0 else min(file.size, offset + length)
        if not stat.S_ISREG(file.mode) or (file.layout != CHUNKED and file.size):
            raise ImageError("is no regular file")
        if end - offset > MAX_READ:
            raise ImageError(f"a file of {file.size} bytes is not read at once")
        out = []
        chunk = BLOCK << (file.union & CHUNK_BITS_MASK)
        table = (file.place + 7) // 8 * 8
        while offset < end:
            number, inside = divmod(offset, chunk)
            size = min(chunk - inside, end - offset)
            if not file.union & CHUNK_INDEXES:
                raise ImageError("the index is damaged: chunks of an unknown form")
            _, device, block = CHUNK.unpack(self._part(table + number * CHUNK.size, CHUNK.size))
            if block == HOLE:
                piece = bytes(size)
            elif device == TAR_DEVICE:
                piece = self._content((block << BLOCK_BITS) + inside, size)
            else:
                piece = self._part((block << BLOCK_BITS) + inside, size)
            out.append(piece)
            offset += size
        return b"".join(out)

    def _content(self, offset: int, length: int) -> bytes:
        if self._tar_fd < 0:
            self._tar_fd = os.open(self._tar, os.O_RDONLY | os.O_CLOEXEC)
        found = os.pread(self._tar_fd, length, offset)
        if len(found) < length:
            raise ImageError(f"{self._tar}: is shorter than its index says")
        return found
