"""What overlayfs reads in a lower directory: whiteouts and opaque directories (Documentation/filesystems/overlayfs.rst)."""

from __future__ import annotations

import os
import stat

OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")


def is_whiteout(info: os.stat_result) -> bool:
    """Whether a file hides what lower layers have in its place."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_whiteout_at(directory: int, name: str) -> bool:
    """`is_whiteout` for a name in an open directory, which need not be there."""
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return is_whiteout(info)


def is_opaque(file: str | int) -> bool:
    """Whether a directory (a path, or a descriptor) hides what lower layers have in it."""
    for mark in OPAQUE:
        try:
            if os.getxattr(file, mark) == b"y":
                return True
        except OSError:
            continue
    return False


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
