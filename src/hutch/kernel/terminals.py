"""Descriptors that are more than a stream of bytes."""

from __future__ import annotations

import os
import stat


def is_device(fd: int) -> bool:
    """Whether a descriptor is a terminal's, or another character device's: whoever has it can change how it works (ioctl(2))."""
    return stat.S_ISCHR(os.fstat(fd).st_mode)


def open_missing() -> None:
    """Open /dev/null for each standard stream that the caller has closed: the next file that is opened would become it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
