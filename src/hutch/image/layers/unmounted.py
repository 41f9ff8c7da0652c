"""A file of a root file system that is not mounted yet: its users, and what a volume begins with."""

from __future__ import annotations

import os
import stat

from hutch.errors import ImageError
from hutch.image.rootfs import Layer, Rootfs

FILE_LIMIT = 4 << 20  # bytes that are looked at: a hostile passwd file may be of any size
MAX_LINKS = 40

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


class Found:
    """A file of a layer: `mode` and `target` of a link, and how to read it."""

    def __init__(self, mode: int, hidden: bool, opaque: bool, target: str, content: Callable[[int], bytes]) -> None:
        self.mode, self.hidden, self.opaque, self.target, self.content = mode, hidden, opaque, target, content


class _Directory:
    """A layer that is a directory."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fd)

    def look(self, path: str) -> Found | None:
        from hutch.image.layers import marks
        from hutch.kernel import syscalls

        beneath = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
        try:
            fd = syscalls.openat2(self._fd, path or ".", os.O_PATH | os.O_NOFOLLOW, 0, beneath)
        except OSError:
            return None
        try:
            info = os.fstat(fd)
            target = os.readlink("", dir_fd=fd) if stat.S_ISLNK(info.st_mode) else ""
            opaque = stat.S_ISDIR(info.st_mode) and marks.is_opaque(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

        def content(limit: int) -> bytes:
            file = syscalls.openat2(self._fd, path, os.O_RDONLY | os.O_NONBLOCK, 0, beneath)
            with open(file, "rb") as opened:
                return opened.read(limit)

        return Found(info.st_mode, marks.is_whiteout(info), opaque, target, content)


class _Indexed:
    """A layer that is an index of its tar."""

    def __init__(self, layer: Layer) -> None:
        from hutch.image.layers.erofs.reader import Index

        self._index = Index(layer.index, layer.tar)

    def close(self) -> None:
        self._index.close()

    def look(self, path: str) -> Found | None:
        file = self._index.lookup(os.fsencode(path))
        if file is None:
            return None
        target = os.fsdecode(self._index.target(file)) if stat.S_ISLNK(file.mode) else ""
        hidden = stat.S_ISCHR(file.mode) and file.rdev == (0, 0)
        opaque = file.xattrs.get(b"user.overlay.opaque") == b"y"
        return Found(file.mode, hidden, opaque, target, lambda limit: self._index.read(file, 0, limit))


def find(rootfs: Rootfs, path: str) -> Found | None:
    """What a container would find at a path, links followed inside its root; None for nothing."""
    return _search(rootfs, path, lambda found: found)


def read(rootfs: Rootfs, path: str, limit: int = FILE_LIMIT) -> str | None:
    """A text file of the root file system as a container would see it, its first `limit` bytes. None when it is none."""

    def content(found: Found | None) -> bytes | None:
        return None if found is None or not stat.S_ISREG(found.mode) else found.content(limit)

    try:
        data = _search(rootfs, path, content)
    except (OSError, ImageError):
        return None
    return None if data is None else data.decode("utf-8", "replace")


def _search(rootfs: Rootfs, path: str, use: Callable[[Found | None], T]) -> T:
    shared = {layer.lower: layer for layer in rootfs.layers if layer.index}
    opened: dict[str, _Directory | _Indexed] = {}

    def layers_of(view_lowers: tuple[str, ...]) -> list[_Directory | _Indexed]:
        for lower in view_lowers:
            if lower not in opened:
                opened[lower] = _Indexed(shared[lower]) if lower in shared else _Directory(lower)
        return [opened[lower] for lower in view_lowers]

    def at(parts: list[str]) -> Found | None:
        """What stands at a path without links in it."""
        full = "/" + "/".join(parts)
        for view in rootfs.views:
            top = view.path.rstrip("/")
            if full != top and not full.startswith(top + "/"):
                continue
            inside = full[len(top) :].strip("/").split("/") if full != top else [""]
            return _merged(layers_of(view.lowers), inside)
        link = dict(rootfs.links).get("/".join(parts))
        return Found(stat.S_IFLNK | 0o777, False, False, link, lambda _: b"") if link is not None else None

    try:
        done: list[str] = []
        left = [part for part in reversed(path.split("/")) if part]
        links = 0
        found: Found | None = at([])
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done[:-1]
                continue
            found = at([*done, part])
            if found is None and any(view.path.startswith("/" + "/".join([*done, part]) + "/") for view in rootfs.views):
                done.append(part)
                continue
            if found is None:
                return use(None)
            if stat.S_ISLNK(found.mode):
                links += 1
                if links > MAX_LINKS:
                    return use(None)
                if found.target.startswith("/"):
                    done = []
                left += reversed(found.target.split("/"))
                continue
            done.append(part)
        return use(found)
    finally:
        for layer in opened.values():
            layer.close()


class Layers:
    """Some lower directories of a root file system, the topmost first, open to be looked into."""

    def __init__(self, rootfs: Rootfs, lowers: tuple[str, ...]) -> None:
        shared = {layer.lower: layer for layer in rootfs.layers if layer.index}
        self._layers = [_Indexed(shared[lower]) if lower in shared else _Directory(lower) for lower in lowers]

    def find(self, path: str) -> Found | None:
        """What they show at a path that is relative to them; no link is followed."""
        return _merged(self._layers, path.split("/"))

    def close(self) -> None:
        """Close them."""
        for layer in self._layers:
            layer.close()


def _merged(layers: list[_Directory | _Indexed], parts: list[str]) -> Found | None:
    """The topmost layer's file at a path, unless something above hides it."""
    for layer in layers:
        hidden = False
        for n in range(1, len(parts)):
            above = layer.look("/".join(parts[:n]))
            if above is None:
                break
            if not stat.S_ISDIR(above.mode):
                return None  # a whiteout, or a file in the directory's place
            hidden = hidden or above.opaque
        found = layer.look("/".join(parts))
        if found is not None:
            return None if found.hidden else found
        if hidden:
            return None
    return None
