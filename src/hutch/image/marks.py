"""What overlayfs reads in a lower directory: whiteouts and opaque directories (Documentation/filesystems/overlayfs.rst)."""

from __future__ import annotations

import os
import stat

OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")


def is_whiteout(directory: int, name: str) -> bool:
    """Whether a name in a directory hides what lower layers have there."""
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def set_opaque(fd: int) -> None:
    """Let a directory hide what lower layers have in it."""
    for mark in OPAQUE:
        try:
            os.setxattr(fd, mark, b"y")
        except OSError:
            continue  # trusted.* is root's, and user.* not of every file system


def set_opaque_at(directory: int, name: str) -> None:
    """`set_opaque` for a directory in an open one. Raises OSError when there is none."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        set_opaque(fd)
    finally:
        os.close(fd)


def forget_attributes(fd: int) -> None:
    """Remove the attributes that an earlier member of an archive has set; the mark of an opaque directory stays."""
    for name in os.listxattr(fd):
        if name.startswith(("user.", "security.")) and name not in OPAQUE:
            try:
                os.removexattr(fd, name)
            except OSError:
                continue
