"""Trees that a container, or an archive, has made: removed whatever their depth."""

from __future__ import annotations

import os

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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


def remove_tree(path: str) -> None:
    """Remove a tree without recursion, with two descriptors at a time, following no link. What cannot be removed stays."""
    try:
        fd = os.open(path, DIRECTORY)
    except OSError:
        return
    names: list[str] = []  # the way down: the directories that are open above, by name
    stays: set[str] = set()  # paths below the top that cannot be removed
    while True:
        here = "/".join(names)
        down = -1
        try:
            os.fchmod(fd, 0o700)
        except OSError:
            pass  # somebody else's: what can be removed in it is
        for name in os.listdir(fd):
            full = f"{here}/{name}"
            if full in stays or _unlinked(fd, name):
                continue
            down = _open(fd, name)
            if down >= 0:
                names.append(name)
                break
            stays.add(full)
        if down >= 0:
            os.close(fd)
            fd = down
            continue
        if not names:
            break
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        os.close(fd)
        fd = above
        name = names.pop()
        if not _unlinked(fd, name):
            stays.add(f"{'/'.join(names)}/{name}")
    os.close(fd)
    try:
        os.rmdir(path)
    except OSError:
        pass
