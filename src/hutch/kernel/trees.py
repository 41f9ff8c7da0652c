"""Trees that a container, or an archive, has made: removed whatever their depth and their width."""

from __future__ import annotations

import os

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NAMES = 1024  # of one directory in memory at a time,
DEEP, NAMES_DEEP = 64, 8  # and fewer where the way down is long: what is kept of all its directories is bounded


def _unlinked(directory: int, name: str) -> bool:
    for remove in (os.unlink, os.rmdir):
        try:
            remove(name, dir_fd=directory)
            return True
        except FileNotFoundError:
            return True
        except OSError:
            continue
    return False


def _open(directory: int, name: str) -> int:
    try:
        return os.open(name, DIRECTORY, dir_fd=directory)
    except PermissionError:
        try:
            os.chmod(name, 0o700, dir_fd=directory)
            return os.open(name, DIRECTORY, dir_fd=directory)
        except OSError:
            return -1
    except OSError:
        return -1


class _Level:
    """A directory on the way down: the names that were read of it and are still to be removed, and those that cannot be."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.names: list[str] = []
        self.stays: set[str] = set()

    def read(self, fd: int, most: int) -> bool:
        """Read some more names. What is removed is not read again, so that the work grows with the number of names."""
        try:
            os.fchmod(fd, 0o700)
        except OSError:
            pass  # somebody else's: what can be removed in it is
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.name not in self.stays:
                    self.names.append(entry.name)
                    if len(self.names) == most:
                        break
        return bool(self.names)


def remove_tree(path: str) -> None:
    """Remove a tree without recursion, with two descriptors at a time, following no link. What cannot be removed stays."""
    try:
        fd = os.open(path, DIRECTORY)
    except OSError:
        return
    levels = [_Level("")]
    while levels:
        level = levels[-1]
        if not level.names and not level.read(fd, NAMES if len(levels) < DEEP else NAMES_DEEP):
            levels.pop()
            if not levels:
                break
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = above
            if not _unlinked(fd, level.name):
                levels[-1].stays.add(level.name)
            continue
        name = level.names.pop()
        if _unlinked(fd, name):
            continue
        down = _open(fd, name)
        if down < 0:
            level.stays.add(name)
            continue
        os.close(fd)
        fd = down
        levels.append(_Level(name))
    os.close(fd)
    try:
        os.rmdir(path)
    except OSError:
        pass
