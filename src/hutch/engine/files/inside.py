"""Paths of a container, resolved by its owner with the rights of the container's root, and with no others.

The container controls every name below its root, and changes it at any moment. So a path is walked step by step, each step by a
descriptor of what was found in the last one: a link is read and followed inside the root, ``..`` goes back the way that was
come, and a file system of the kernel's (/proc, /sys) is never entered. What stands at the end is known before it is opened.

The host's root may read more than the container's root. Files whose owner the container maps are the container's own; any other is
opened with the ids of the container's root, without capabilities, as it would have to itself.
"""

from __future__ import annotations

import os
import stat
from contextlib import nullcontext

from hutch.errors import HutchError, UsageError
from hutch.kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

ELOOP, ENOTDIR = 40, 20
MAX_LINKS, MAX_DEPTH, PATH_MAX = 40, 256, 4096


class Inside:
    """A container's root directory: its descriptor, its root's ids on this host, and how many ids behind them are the container's.
    With uid 0 its root is this process's own user, whom the kernel judges."""

    def __init__(self, root: int, uid: int, gid: int, count: int) -> None:
        self.root, self.uid, self.gid, self.count = root, uid, gid, count
        self._other = bool(uid) and os.geteuid() == 0

    def owns(self, info: os.stat_result) -> bool:
        """Whether a file belongs to ids of the container's: then its root passes over permissions (capabilities(7))."""
        return self.uid <= info.st_uid < self.uid + self.count and self.gid <= info.st_gid < self.gid + self.count

    def reaching(self, info: os.stat_result) -> AbstractContextManager[None]:
        """In this context a file, or what lies in a directory, can be reached as the container's root could."""
        return files.acting_as(self.uid, self.gid) if self._other and not self.owns(info) else nullcontext()

    def creating(self, info: os.stat_result) -> AbstractContextManager[None]:
        """In this context what is created in a directory belongs to the container's root."""
        return files.acting_as(self.uid, self.gid, override=self.owns(info)) if self._other else nullcontext()

    def resolve(self, path: str, *, make: bool = False) -> int:
        """An O_PATH descriptor of what stands at a path, links followed; with `make`, directories are made where nothing is.

        Raises OSError, HutchError for a path that leads into a file system of the kernel's, UsageError for no path.
        """
        check(path)
        way = [os.dup(self.root)]
        try:
            self._walk(way, path, make)
            return way.pop()
        finally:
            for fd in way:
                os.close(fd)

    def _walk(self, way: list[int], path: str, make: bool) -> None:
        left = list(reversed(path.split("/")))
        links = 0
        while left:
            part = left.pop()
            if part in ("", "."):
                if not stat.S_ISDIR(os.fstat(way[-1]).st_mode):
                    raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), path)
                continue
            if part == "..":
                if len(way) > 1:
                    os.close(way.pop())
                continue
            if len(way) > MAX_DEPTH:
                raise HutchError(f"{path[:60]}…: leads through more than {MAX_DEPTH} directories")
            fd = self._step(way[-1], part, make)
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                way.append(fd)
                if files.of_kernel(fd):
                    raise HutchError(f"{path}: lies in a file system of the kernel's, which is not read or written from outside")
                if links and len(way) == 2 and part == "dev" and os.fstat(fd).st_dev != os.fstat(self.root).st_dev:
                    raise HutchError(f"{path}: a link leads into /dev, which is not read or written that way")
                continue
            target = os.readlink("", dir_fd=fd)
            os.close(fd)
            links += 1
            if links > MAX_LINKS:
                raise OSError(ELOOP, os.strerror(ELOOP), path)
            if target.startswith("/"):
                while len(way) > 1:
                    os.close(way.pop())
            left += reversed(target.split("/"))

    def _step(self, directory: int, name: str, make: bool) -> int:
        info = os.fstat(directory)
        try:
            with self.reaching(info):
                return files.look(name, directory)
        except FileNotFoundError:
            if not make:
                raise
        with self.creating(info):
            os.mkdir(name, 0o755, dir_fd=directory)
        return files.look(name, directory)

    def kind(self, path: str) -> int:
        """The type bits of what stands at a path, links followed; 0 for nothing that can be reached."""
        try:
            fd = self.resolve(path)
        except (OSError, HutchError):
            return 0
        try:
            return stat.S_IFMT(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def open(self, path: str, kinds: tuple[int, ...] = (stat.S_IFREG,)) -> int:
        """A file at a path, open for reading. Raises HutchError for what is of another kind (S_IFMT) or cannot be opened."""
        try:
            fd = self.resolve(path)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        try:
            return self.use(fd, path, os.O_RDONLY, kinds)
        finally:
            os.close(fd)

    def use(self, fd: int, path: str, flags: int, kinds: tuple[int, ...] = (stat.S_IFREG,)) -> int:
        """The file of an O_PATH descriptor, opened; `path` is its name for messages. Raises HutchError, as `open`."""
        info = os.fstat(fd)
        if stat.S_IFMT(info.st_mode) not in kinds:
            raise HutchError(f"{path}: {_expected(kinds)}")
        try:
            with self.reaching(info):
                return files.reopen(fd, flags | os.O_NONBLOCK)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None

    def make_directories(self, path: str) -> int:
        """A descriptor of a directory, made with its parents where missing. Raises HutchError."""
        try:
            fd = self.resolve(path, make=True)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        try:
            return self.use(fd, path, os.O_RDONLY, (stat.S_IFDIR,))
        finally:
            os.close(fd)

    def make_directory(self, parent: int, name: str, path: str) -> int:
        """A descriptor of a directory in another one, made if it is missing; a link in its place is no directory."""
        try:
            with self.creating(os.fstat(parent)):
                os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            pass
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        return self.enter(parent, name, path, (stat.S_IFDIR,))

    def enter(self, parent: int, name: str, path: str, kinds: tuple[int, ...]) -> int:
        """What a name in an open directory stands for, a link not followed, open for reading. Raises HutchError."""
        try:
            with self.reaching(os.fstat(parent)):
                fd = files.look(name, parent)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        try:
            if files.of_kernel(fd):
                raise HutchError(f"{path}: lies in a file system of the kernel's")
            return self.use(fd, path, os.O_RDONLY, kinds)
        finally:
            os.close(fd)

    def create(self, parent: int, name: str, path: str) -> int:
        """A regular file in an open directory, new or emptied, open for writing. A link in its place is followed inside the
        root. Raises HutchError."""
        for _ in range(8):
            try:
                with self.creating(os.fstat(parent)):
                    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
            except FileExistsError:
                pass
            except OSError as error:
                raise HutchError(f"{path}: {error.strerror}") from None
            try:
                with self.reaching(os.fstat(parent)):
                    fd = files.look(name, parent)
                if stat.S_ISLNK(os.fstat(fd).st_mode):
                    os.close(fd)
                    fd = self.resolve(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise HutchError(f"{path}: {error.strerror}") from None
            try:
                if files.of_kernel(fd):
                    raise HutchError(f"{path}: lies in a file system of the kernel's")
                return self.use(fd, path, os.O_WRONLY | os.O_TRUNC)
            finally:
                os.close(fd)
        raise HutchError(f"{path}: is a link to nothing, or changes all the time")

    def change_mode(self, fd: int, mode: int, path: str) -> None:
        """fchmod(2), as the container's root could. Raises HutchError."""
        try:
            with self.reaching(os.fstat(fd)):
                os.fchmod(fd, mode & 0o7777)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None

    def unlink(self, directory: int, name: str) -> None:
        """Remove a name that is no directory's, if it is there. Raises OSError."""
        try:
            with self.reaching(os.fstat(directory)):
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass


def check(path: str) -> None:
    """Raise UsageError for what cannot be a path."""
    if "\0" in path:
        raise UsageError(f"path {path!r}: contains a NUL")
    if len(path) > PATH_MAX:
        raise UsageError(f"path {path[:60]}…: has more than {PATH_MAX} characters")


def _expected(kinds: tuple[int, ...]) -> str:
    if kinds == (stat.S_IFREG,):
        return "is not a regular file"
    return "is not a directory" if kinds == (stat.S_IFDIR,) else "is neither a file nor a directory"
