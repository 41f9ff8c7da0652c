"""Files into and out of a running container, and what it changed.

Every path is resolved by the kernel inside the container's root (openat2(2), RESOLVE_IN_ROOT without magic links), whatever
links the container has laid; what was opened is used by descriptor. What is created belongs to the container's root.
"""

from __future__ import annotations

import os
import stat

from hutch.errors import HutchError, UsageError
from hutch.image import lookup
from hutch.image.rootfs import Rootfs
from hutch.kernel import syscalls
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from hutch.image.lookup import Layers

    T = TypeVar("T")

IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
READ_LIMIT = 256 << 20
OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


class Change(Record):
    """A difference to the layers below: `kind` is "added", "changed" or "deleted"; `path` is the container's."""

    kind: str
    path: str


class Files:
    """The files of one container: `root` is a descriptor of its root directory, `uid` and `gid` its root's ids here."""

    def __init__(self, root: int, uid: int, gid: int) -> None:
        self.root, self.uid, self.gid = root, uid, gid

    def _open(self, path: str, flags: int, mode: int = 0) -> int:
        _check(path)
        try:
            return syscalls.openat2(self.root, path.lstrip("/") or ".", flags, mode, IN_ROOT)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None

    def _as_root(self, action: Callable[[], T]) -> T:
        """Create as the container's root: a file of the host's root could not be stored in its user namespace."""
        if not self.uid or os.geteuid() != 0:
            return action()
        syscalls.setfsids(self.uid, self.gid)
        try:
            return action()
        finally:
            syscalls.setfsids(0, 0)

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """A regular file's content. Raises HutchError when it is none, or longer than `limit` bytes."""
        fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # a fifo must not make us wait
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise HutchError(f"{path}: is not a regular file")
        with open(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise HutchError(f"{path}: is larger than {limit} bytes")
        return data

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Create or replace a file; missing directories are made."""
        _check(path)
        parent, _, name = path.rstrip("/").rpartition("/")
        if not name or name in (".", ".."):
            raise UsageError(f"write {path!r}: expected the path of a file")
        directory = self._make_directories(parent)
        try:
            self._write_in(directory, name, path, data, mode)
        finally:
            os.close(directory)

    def _write_in(self, directory: int, name: str, path: str, data: bytes, mode: int) -> None:
        def create() -> int:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY
            return syscalls.openat2(directory, name, flags | os.O_NOFOLLOW, mode, syscalls.RESOLVE_BENEATH)

        try:
            fd = self._as_root(create)
        except OSError as error:
            if error.errno != 40:
                raise HutchError(f"{path}: {error.strerror}") from None
            fd = self._open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY)  # a link: write what it names
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise HutchError(f"{path}: is not a regular file")
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fchmod(fd, mode)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        finally:
            os.close(fd)

    def exchange(self, path: str, before: bytes, after: bytes) -> None:
        """Change a file's content, if it is still `before` and no link leads there; by the container's root's rights. Raises OSError."""
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY
        where = IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
        fd = self._as_root(lambda: syscalls.openat2(self.root, path.lstrip("/"), flags, 0, where))
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode) and os.pread(fd, len(before) + 1, 0) == before:
                os.pwrite(fd, after, 0)
                os.ftruncate(fd, len(after))
        finally:
            os.close(fd)

    def _make_directories(self, path: str) -> int:
        """A descriptor of the directory, made with its parents where missing."""
        _check(path)
        try:
            return syscalls.openat2(self.root, path.lstrip("/") or ".", os.O_RDONLY | os.O_DIRECTORY, 0, IN_ROOT)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        head, _, name = path.rstrip("/").rpartition("/")
        parent = self._make_directories(head)
        try:
            self._as_root(lambda: os.mkdir(name, 0o755, dir_fd=parent))
        except FileExistsError:
            pass
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        finally:
            os.close(parent)
        return self._open(path, os.O_RDONLY | os.O_DIRECTORY)

    def make_directory(self, path: str, mode: int) -> None:
        """Make a directory with its parents, or leave the one that is there, with these permissions. Raises HutchError."""
        fd = self._make_directories(path)
        try:
            os.fchmod(fd, mode & 0o7777)
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        finally:
            os.close(fd)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link in the place of what stands there, unless that is a directory. Raises HutchError."""
        head, _, name = path.rstrip("/").rpartition("/")
        directory = self._make_directories(head)
        try:
            self._replace(directory, name)
            self._as_root(lambda: os.symlink(target, name, dir_fd=directory))
        except OSError as error:
            raise HutchError(f"{path}: {error.strerror}") from None
        finally:
            os.close(directory)

    def put(self, source: str, target: str) -> None:
        """Copy a file or a tree of the host into the container, to exactly `target`. Links stay links, devices are left."""
        info = os.lstat(source)
        if stat.S_ISREG(info.st_mode):
            with open(source, "rb") as file:
                self.write(target, file.read(), stat.S_IMODE(info.st_mode))
        elif stat.S_ISDIR(info.st_mode):
            directory = self._make_directories(target)
            try:
                self._put_tree(source, directory, target)
            finally:
                os.close(directory)
        else:
            raise UsageError(f"put {source}: is neither a file nor a directory")

    def _put_tree(self, source: str, directory: int, shown: str) -> None:
        for entry in os.scandir(source):
            path = f"{shown.rstrip('/')}/{entry.name}"
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                link = os.readlink(entry.path)
                self._replace(directory, entry.name)
                self._as_root(lambda target=link, name=entry.name: os.symlink(target, name, dir_fd=directory))  # type: ignore[misc]
            elif stat.S_ISREG(info.st_mode):
                with open(entry.path, "rb") as file:
                    self._write_in(directory, entry.name, path, file.read(), stat.S_IMODE(info.st_mode))
            elif stat.S_ISDIR(info.st_mode):
                try:
                    self._as_root(lambda name=entry.name: os.mkdir(name, 0o755, dir_fd=directory))  # type: ignore[misc]
                except FileExistsError:
                    pass
                below = syscalls.openat2(directory, entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, 0, syscalls.RESOLVE_BENEATH)
                try:
                    self._put_tree(entry.path, below, path)
                    os.fchmod(below, stat.S_IMODE(info.st_mode))
                finally:
                    os.close(below)

    def _replace(self, directory: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass

    def get(self, source: str, target: str) -> None:
        """Copy a file or a tree of the container to exactly `target` on the host, owned by the caller. Devices, fifos and
        sockets are left; a link stays a link and is never followed on the host."""
        fd = self._open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                os.makedirs(target, exist_ok=True)
                self._get_tree(fd, target)
            elif stat.S_ISREG(mode):
                _copy_out(fd, target, mode)
            else:
                raise HutchError(f"{source}: is neither a file nor a directory")
        finally:
            os.close(fd)

    def _get_tree(self, directory: int, target: str) -> None:
        for entry in os.scandir(directory):
            path = os.path.join(target, entry.name)
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                if os.path.lexists(path):
                    os.unlink(path)
                os.symlink(os.readlink(entry.name, dir_fd=directory), path)
            elif stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                fd = syscalls.openat2(directory, entry.name, flags, 0, syscalls.RESOLVE_BENEATH)
                try:
                    mode = os.fstat(fd).st_mode
                    if stat.S_ISDIR(mode):
                        if os.path.islink(path):
                            os.unlink(path)
                        os.makedirs(path, exist_ok=True)
                        self._get_tree(fd, path)
                        os.chmod(path, stat.S_IMODE(mode) & 0o777 | 0o700)
                    elif stat.S_ISREG(mode):
                        _copy_out(fd, path, mode)
                finally:
                    os.close(fd)


def _check(path: str) -> None:
    if "\0" in path:
        raise UsageError(f"path {path!r}: contains a NUL")


def _copy_out(fd: int, target: str, mode: int) -> None:
    if os.path.islink(target):
        os.unlink(target)
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while data := os.read(fd, 1 << 20):
            view = memoryview(data)
            while view:
                view = view[os.write(out, view) :]
        os.fchmod(out, stat.S_IMODE(mode) & 0o777)  # no set-uid file of a container's on the host
    finally:
        os.close(out)


def changes(base: int, rootfs: Rootfs, own: frozenset[str], disk: bool) -> Iterator[Change]:
    """What a container changed: its upper directories (by `base`, the descriptor of what holds them) against the layers.

    `own` are paths that Hutch itself put there. Directories that only hold changes are left out, as nothing of them changed.
    """
    for number, view in enumerate(rootfs.views):
        if view.recursive_bind or view.stacked:
            continue
        try:
            upper = os.open(f"upper-{number}" if disk else f"upper/{number}", os.O_RDONLY | os.O_DIRECTORY, dir_fd=base)
        except FileNotFoundError:
            continue
        try:
            layers = lookup.Layers(rootfs, view.lowers)
            try:
                hidden = frozenset(item.path for item in view.hidden)
                yield from _walk_upper(upper, "", view.path.rstrip("/"), layers, own, hidden)
            finally:
                layers.close()
        finally:
            os.close(upper)
    if not (len(rootfs.views) == 1 and rootfs.views[0].path == "/"):
        root = os.open("root", os.O_RDONLY | os.O_DIRECTORY, dir_fd=base)
        try:
            made = {path for path, _ in (*rootfs.directories, *rootfs.links)}
            made |= {view.path.lstrip("/") for view in rootfs.views}
            yield from _walk_root(root, "", made, own)
            for path in sorted(made):
                try:
                    os.stat(path, dir_fd=root, follow_symlinks=False)
                except FileNotFoundError:
                    yield Change(kind="deleted", path=f"/{path}")
        finally:
            os.close(root)


def stacked(uppers: list[int], rootfs: Rootfs, own: frozenset[str]) -> Iterator[Change]:
    """What several upper directories, the oldest first, make of an image together."""
    layers = lookup.Layers(rootfs, rootfs.views[0].lowers)
    found: dict[str, Change] = {}

    def forget(path: str) -> None:
        """What an older one had there, a newer one has removed."""
        for known in [known for known in found if known == path or known.startswith(path + "/")]:
            del found[known]

    try:
        for upper in uppers:
            for change in list(_walk_upper(upper, "", "", layers, own, frozenset(), forget)):
                found[change.path] = change
    finally:
        layers.close()
    yield from found.values()


def _walk_upper(
    directory: int, prefix: str, top: str, layers: Layers | None, own: frozenset[str], hidden: frozenset[str],
    forget: Callable[[str], None] = lambda _: None,
) -> Iterator[Change]:  # fmt: skip
    for entry in sorted(os.scandir(directory), key=lambda item: item.name):
        relative = f"{prefix}{entry.name}"
        path = f"{top}/{relative}"
        info = entry.stat(follow_symlinks=False)
        below = None if relative in hidden or layers is None else layers.find(relative)
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            forget(path)
            if below is not None or path in own:
                yield Change(kind="deleted", path=path)
            continue
        existed = below is not None or path in own
        if not stat.S_ISDIR(info.st_mode):
            yield Change(kind="changed" if existed else "added", path=path)
            continue
        inside = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            opaque = _opaque(inside)
            if opaque:
                forget(path)
            if not existed:
                yield Change(kind="added", path=path)
            elif below is not None and (opaque or not stat.S_ISDIR(below.mode) or stat.S_IMODE(below.mode) != stat.S_IMODE(info.st_mode)):
                yield Change(kind="changed", path=path)
            yield from _walk_upper(inside, f"{relative}/", top, None if opaque else layers, own, hidden, forget)
        finally:
            os.close(inside)


def _opaque(fd: int) -> bool:
    for name in OPAQUE:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError:
            continue
    return False


def _walk_root(directory: int, prefix: str, made: set[str], own: frozenset[str]) -> Iterator[Change]:
    for entry in sorted(os.scandir(directory), key=lambda item: item.name):
        relative = f"{prefix}{entry.name}"
        is_directory = entry.is_dir(follow_symlinks=False)
        if relative not in made and f"/{relative}" not in own:
            yield Change(kind="added", path=f"/{relative}")
        if is_directory:
            inside = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                yield from _walk_root(inside, f"{relative}/", made, own)
            finally:
                os.close(inside)
