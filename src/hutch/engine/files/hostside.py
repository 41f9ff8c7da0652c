"""Files of this host that a container may reach, too: the other end of a copy.

A directory that is shared with a container is the container's to change while a copy goes on. The path that a user typed is
followed as any path is. Below it every step is by a descriptor and follows no link, and a file is written under a new name that
takes the old one's place when it is whole: nothing that is there is ever opened for writing.
"""

from __future__ import annotations

import os
import stat

from hutch.errors import HutchError
from hutch.kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Placed:
    """A name in a directory of this host: where a copy goes. A context manager that closes the directory."""

    def __init__(self, directory: int, name: str, shown: str) -> None:
        self.directory, self.name, self.shown = directory, name, shown

    def __enter__(self) -> Placed:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.directory)


def place(path: str, name: str = "") -> Placed:
    """Where to write: `name` in the directory `path`, or, without a name, the last part of `path` in what lies before it.
    Raises OSError when there is no such directory."""
    if name:
        return Placed(os.open(path, DIRECTORY), name, os.path.join(path, name))
    parent, last = os.path.split(path.rstrip("/") or "/")
    if last in ("", ".", ".."):
        return Placed(os.open(path, DIRECTORY), ".", path)
    return Placed(os.open(parent or ".", DIRECTORY), last, path)


def enter_directory(parent: int, name: str, shown: str) -> int:
    """A descriptor of a directory in another one, made if it is missing. A link in its place is removed, and never followed.
    Raises OSError, HutchError when another file is there."""
    for _ in range(8):
        try:
            return os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError:
            if not stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise HutchError(f"{shown}: is there, and is not a directory") from None
            os.unlink(name, dir_fd=parent)
        try:
            os.mkdir(name, 0o777, dir_fd=parent)
        except FileExistsError:
            continue
    raise HutchError(f"{shown}: changes all the time")


def write_file(parent: int, name: str, shown: str, pieces: Iterator[bytes], mode: int) -> None:
    """Put a new file in a name's place, whole, with these permissions but for set-uid bits. Raises OSError, HutchError when a
    directory is there."""
    fresh = f".{os.urandom(6).hex()}.part"
    out = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        try:
            write_all(out, pieces)
            os.fchmod(out, stat.S_IMODE(mode) & 0o777)  # no set-uid file of a container's on the host
        finally:
            os.close(out)
        os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException as error:
        try:
            os.unlink(fresh, dir_fd=parent)
        except FileNotFoundError:
            pass
        if isinstance(error, IsADirectoryError):
            raise HutchError(f"{shown}: is a directory") from None
        raise


def write_link(parent: int, name: str, target: str) -> None:
    """A symbolic link in the place of what stands there, unless that is a directory. Raises OSError."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    os.symlink(target, name, dir_fd=parent)


def write_all(fd: int, pieces: Iterator[bytes]) -> None:
    """Write everything. Raises OSError."""
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(fd, view) :]


def pieces_of(fd: int) -> Iterator[bytes]:
    """A file's content, in pieces."""
    while piece := os.read(fd, 1 << 20):
        yield piece


def open_source(name: str, directory: int | None = None) -> int:
    """A file or a directory to be copied, open for reading; in a directory a link is not followed. -1: it is of another kind.
    Raises OSError."""
    seen = files.look(name, directory) if directory is not None else os.open(name, os.O_PATH | os.O_CLOEXEC)
    try:
        mode = os.fstat(seen).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return -1
        return files.reopen(seen, os.O_RDONLY | os.O_NONBLOCK)
    finally:
        os.close(seen)
