"""Locks by which the living are told from the dead: an executor holds its container's record until it ends.

They are open file description locks (fcntl(2), "Open file description locks"): they go with the last descriptor of the open file,
in whatever process that is, and whether one is held can be asked without taking it, so that looking disturbs nobody.
"""

from __future__ import annotations

import os

GETLK, SETLK = 36, 37  # F_OFD_*, linux/fcntl.h
READ, WRITE, UNLOCKED = 0, 1, 2  # F_RDLCK, F_WRLCK, F_UNLCK


def _lock(kind: int) -> bytes:
    """``struct flock`` for a whole file: type, whence, start, length, pid."""
    return kind.to_bytes(2, "little") + bytes(30)


def take(fd: int) -> bool:
    """Lock an open file, for its open file description alone; False when another one has a lock on it. The file is open for writing."""
    import fcntl

    try:
        fcntl.fcntl(fd, SETLK, _lock(WRITE))
    except (BlockingIOError, PermissionError):  # either, fcntl(2)
        return False
    return True


def held(fd: int) -> bool:
    """Whether another open file description has a lock on an open file."""
    import fcntl

    return int.from_bytes(fcntl.fcntl(fd, GETLK, _lock(WRITE))[:2], "little") != UNLOCKED


def locked(path: str) -> bool:
    """Whether somebody holds the lock of a file. A file that is not there is held by nobody. Raises OSError for others."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return held(fd)
    finally:
        os.close(fd)
