"""Locks by which the living are told from the dead: an executor holds its container's record (flock(2)) until it ends."""

from __future__ import annotations

import os


def locked(path: str) -> bool:
    """Whether somebody holds the lock of a file. A file that is not there is held by nobody. Raises OSError for others."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
