"""Files into and out of a running container.

In the container every step is taken with the rights of its root (`inside`), on the host by descriptors below the path that the
caller gave (`hostside`): either side may be changed by the container meanwhile. What is created in it belongs to its root.
"""

from __future__ import annotations

import os
import stat

from hutch.engine.files import hostside
from hutch.engine.files.inside import Inside, check
from hutch.errors import HutchError, UsageError
from hutch.kernel import syscalls
from hutch.runtime.identity import ROOT_COUNT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

READ_LIMIT = 256 << 20
FILE_OR_DIRECTORY = (stat.S_IFREG, stat.S_IFDIR)


class Files:
    """The files of one container: `root` is a descriptor of its root directory, `uid` and `gid` its root's ids here."""

    def __init__(self, root: int, uid: int, gid: int) -> None:
        self.inside = Inside(root, uid, gid, ROOT_COUNT)

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """A regular file's content. Raises HutchError when it is none, lies in /proc or /sys, or is longer than `limit` bytes."""
        with open(self.inside.open(path), "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise HutchError(f"{path}: is larger than {limit} bytes")
        return data

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Create or replace a file; missing directories are made. Raises HutchError, UsageError."""
        self.store(path, iter((data,)), mode)

    def create(self, path: str) -> int:
        """A regular file, new or emptied, open for writing; missing directories are made. Raises HutchError, UsageError."""
        check(path)
        parent, _, name = path.rstrip("/").rpartition("/")
        if not name or name in (".", ".."):
            raise UsageError(f"write {path!r}: expected the path of a file")
        directory = self.inside.make_directories(parent)
        try:
            return self.inside.create(directory, name, path)
        finally:
            os.close(directory)

    def store(self, path: str, pieces: Iterator[bytes], mode: int) -> None:
        """As `write`, of what comes in pieces."""
        self._fill(self.create(path), path, pieces, mode)

    def _fill(self, fd: int, path: str, pieces: Iterator[bytes], mode: int) -> None:
        try:
            hostside.write_all(fd, pieces)
            self.inside.change_mode(fd, mode, path)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        finally:
            os.close(fd)

    def exchange(self, path: str, before: bytes, after: bytes) -> None:
        """Change a file's content, if it is still `before` and no link leads there; by the container's root's rights. Raises
        OSError, HutchError."""
        where = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS
        seen = syscalls.openat2(self.inside.root, path.lstrip("/"), os.O_PATH, 0, where)
        try:
            fd = self.inside.use(seen, path, os.O_RDWR)
        finally:
            os.close(seen)
        try:
            if os.pread(fd, len(before) + 1, 0) == before:
                os.pwrite(fd, after, 0)
                os.ftruncate(fd, len(after))
        finally:
            os.close(fd)

    def make_directory(self, path: str, mode: int) -> None:
        """Make a directory with its parents, or leave the one that is there, with these permissions. Raises HutchError."""
        fd = self.inside.make_directories(path)
        try:
            self.inside.change_mode(fd, mode, path)
        finally:
            os.close(fd)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link in the place of what stands there, unless that is a directory. Raises HutchError."""
        head, _, name = path.rstrip("/").rpartition("/")
        directory = self.inside.make_directories(head)
        try:
            self._link_in(directory, name, path, target)
        finally:
            os.close(directory)

    def _link_in(self, directory: int, name: str, path: str, target: str) -> None:
        try:
            self.inside.unlink(directory, name)
            with self.inside.creating(os.fstat(directory)):
                os.symlink(target, name, dir_fd=directory)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None

    def put(self, source: str, target: str) -> None:
        """Copy a file or a tree of the host into the container, to exactly `target`. Links stay links, devices are left."""
        fd = hostside.open_source(source)
        if fd < 0:
            raise UsageError(f"put {source}: is neither a file nor a directory")
        try:
            info = os.fstat(fd)
            if stat.S_ISREG(info.st_mode):
                self.store(target, hostside.pieces_of(fd), stat.S_IMODE(info.st_mode))
                return
            directory = self.inside.make_directories(target)
            try:
                self._put_tree(fd, directory, target)
            finally:
                os.close(directory)
        finally:
            os.close(fd)

    def _put_tree(self, source: int, directory: int, shown: str) -> None:
        for name in os.listdir(source):
            path = f"{shown.rstrip('/')}/{name}"
            fd = hostside.open_source(name, source)
            if fd < 0:
                self._put_other(source, directory, name, path)
                continue
            try:
                info = os.fstat(fd)
                if stat.S_ISREG(info.st_mode):
                    self._fill(self.inside.create(directory, name, path), path, hostside.pieces_of(fd), stat.S_IMODE(info.st_mode))
                    continue
                below = self.inside.make_directory(directory, name, path)
                try:
                    self._put_tree(fd, below, path)
                    self.inside.change_mode(below, info.st_mode, path)
                finally:
                    os.close(below)
            finally:
                os.close(fd)

    def _put_other(self, source: int, directory: int, name: str, path: str) -> None:
        try:
            target = os.readlink(name, dir_fd=source)
        except OSError:
            return  # a device, a fifo or a socket
        self._link_in(directory, name, path, target)

    def get(self, source: str, target: str, name: str = "") -> None:
        """Copy a file or a tree of the container to exactly `target` on the host, or to `name` in the directory `target`, owned by
        the caller. Devices, fifos and sockets are left; a link stays a link and is never followed on the host. Raises HutchError,
        OSError."""
        fd = self.inside.open(source, FILE_OR_DIRECTORY)
        try:
            mode = os.fstat(fd).st_mode
            with hostside.place(target, name) as place:
                if stat.S_ISREG(mode):
                    hostside.write_file(place.directory, place.name, place.shown, hostside.pieces_of(fd), mode)
                    return
                # a link that the caller typed leads to the directory that he means
                typed = os.path.isdir(target) and not name
                out = os.open(target, hostside.DIRECTORY) if typed else hostside.enter_directory(place.directory, place.name, place.shown)
                try:
                    self._get_tree(fd, out, place.shown)
                finally:
                    os.close(out)
        finally:
            os.close(fd)

    def _get_tree(self, directory: int, out: int, shown: str) -> None:
        for name in os.listdir(directory):
            path = os.path.join(shown, name)
            try:
                info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode):
                    hostside.write_link(out, name, os.readlink(name, dir_fd=directory))
                    continue
            except FileNotFoundError:
                continue  # gone meanwhile
            if stat.S_IFMT(info.st_mode) not in FILE_OR_DIRECTORY:
                continue
            fd = self.inside.enter(directory, name, path, FILE_OR_DIRECTORY)
            try:
                mode = os.fstat(fd).st_mode
                if stat.S_ISREG(mode):
                    hostside.write_file(out, name, path, hostside.pieces_of(fd), mode)
                    continue
                below = hostside.enter_directory(out, name, path)
                try:
                    self._get_tree(fd, below, path)
                    os.fchmod(below, stat.S_IMODE(mode) & 0o777 | 0o700)
                finally:
                    os.close(below)
            finally:
                os.close(fd)
