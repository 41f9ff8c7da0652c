"""Where an image's files are read from: a directory, or a tar that lies in a file."""

from __future__ import annotations

import os
import stat

from hutch.errors import ImageError
from hutch.image.layers import compress
from hutch.image.layers.tree import Node, Tree
from hutch.image.store.content import Content, Ingest
from hutch.image.tar.reader import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Place(Protocol):
        """Where blobs are read from."""

        def size(self, name: str) -> int:
            """A file's size in bytes. Raises ImageError when it is not there."""

        def read(self, name: str, limit: int = 8 << 20) -> bytes:
            """A small file."""

        def pieces(self, name: str, offset: int = 0) -> Iterator[bytes]:
            """A file's bytes from there on."""


class DirectoryPlace:
    """A layout as a directory."""

    def __init__(self, path: str, what: str) -> None:
        self._path, self._what = path, what

    def _open(self, name: str) -> int:
        if ".." in name.split("/"):
            raise ImageError(f"{self._what}: the name {name!r} leads out of the layout")
        try:
            fd = os.open(f"{self._path}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo must not make us wait
        except OSError as error:
            raise ImageError(f"{self._what}: {name}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageError(f"{self._what}: {name} is no regular file")
        return fd

    def size(self, name: str) -> int:
        """A file's size in bytes."""
        fd = self._open(name)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def read(self, name: str, limit: int = 8 << 20) -> bytes:
        """A small file."""
        with open(self._open(name), "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ImageError(f"{self._what}: {name} is larger than {limit} bytes")
        return data

    def pieces(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """A file's bytes from there on."""
        with open(self._open(name), "rb", buffering=0) as file:
            file.seek(offset)
            while piece := file.read(1 << 18):
                yield piece


class TarPlace:
    """An archive: a plain tar in a file that can be read anywhere."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd, self._what = fd, what
        tree = Tree()
        parser = Reader(tree)
        size = os.fstat(fd).st_size
        try:
            for offset in range(0, size, 1 << 20):
                parser.feed(os.pread(fd, 1 << 20, offset))
            parser.close()
        except ImageError as error:
            raise ImageError(f"{what}: {error.message}", "an OCI layout or an archive of `docker save` is expected") from None
        self.root = tree.root

    def find(self, name: str) -> Node | None:
        """A file of the archive; links in it are followed (Docker's name a layer that several images have)."""
        parts = [os.fsencode(part) for part in reversed(name.split("/"))]
        path = [self.root]
        for _ in range(256):
            if not parts:
                return path[-1]
            part = parts.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                path = path[:-1] or [self.root]
                continue
            node = (path[-1].children or {}).get(part)
            if node is None:
                return None
            if stat.S_ISLNK(node.mode):
                if node.target.startswith(b"/"):
                    path = [self.root]
                parts += reversed(node.target.split(b"/"))
                continue
            path.append(node)
        return None

    def _file(self, name: str) -> Node:
        node = self.find(name)
        if node is None:
            raise ImageError(f"{self._what}: {name} is missing in the archive")
        if not stat.S_ISREG(node.mode) or node.sparse is not None:
            raise ImageError(f"{self._what}: {name} is no regular file")
        return node

    def size(self, name: str) -> int:
        """A file's size in bytes."""
        return self._file(name).size

    def read(self, name: str, limit: int = 8 << 20) -> bytes:
        """A small file."""
        node = self._file(name)
        if node.size > limit:
            raise ImageError(f"{self._what}: {name} is larger than {limit} bytes")
        return os.pread(self._fd, node.size, node.offset)

    def pieces(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """A file's bytes from there on."""
        node = self._file(name)
        while offset < node.size:
            piece = os.pread(self._fd, min(1 << 18, node.size - offset), node.offset + offset)
            if not piece:
                return
            yield piece
            offset += len(piece)


class Plain:
    """An archive as a plain tar in a file: itself, or a copy that is gone when it is closed."""

    def __init__(self, content: Content, source: str | int, what: str) -> None:
        self._content, self._source, self._what = content, source, what
        self._copy: Ingest | None = None
        self._own = -1

    def __enter__(self) -> int:
        try:
            return self._open()
        except BaseException:
            self.__exit__()
            raise

    def _open(self) -> int:
        if isinstance(self._source, str):
            self._own = open_file(self._source, self._what)
        fd = self._own if self._own >= 0 else int(self._source)
        seekable = stat.S_ISREG(os.fstat(fd).st_mode)
        if seekable and not compress.kind(os.pread(fd, 6, 0)):
            return fd
        self._copy = self._content.new()
        for piece in compress.plain(lambda size: os.read(fd, size), self._what):
            self._copy.write(piece)
        return self._copy.fd

    def __exit__(self, *_: object) -> None:
        if self._copy is not None:
            self._copy.close()
        if self._own >= 0:
            os.close(self._own)


def open_file(path: str, what: str) -> int:
    """A regular file of the user's. Raises ImageError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"{what}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"{what}: is no regular file")
    return fd
