"""Documents that others name: a configuration, limits, a process. What is at their path may be something else.

The file is opened with O_PATH first, which does nothing to what stands there (open(2)), and for reading only if it is a regular
one: a fifo would make us wait, a device would act, and /dev/zero has no end.
"""

from __future__ import annotations

import os
import stat

EINVAL, EFBIG = 22, 27
LIMIT = 16 << 20  # bytes


def open_regular(path: str, flags: int = os.O_RDONLY) -> int:
    """A regular file by its path, which may lead through links. Raises OSError; with EINVAL for anything but a regular file."""
    seen = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(seen).st_mode):
            raise OSError(EINVAL, "is not a regular file", path)
        return os.open(f"/proc/self/fd/{seen}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(seen)


def read_document(path: str, limit: int = LIMIT) -> bytes:
    """The content of a document: a regular file of at most `limit` bytes. Raises OSError; with EINVAL for anything but a regular
    file, with EFBIG for a larger one."""
    fd = open_regular(path)
    with open(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(EFBIG, f"is larger than {limit >> 20} MiB", path)
    return data


def read_text(path: str, limit: int = LIMIT) -> str:
    """The text of a document (UTF-8; other bytes as surrogates). Raises OSError, as `read_document`."""
    return read_document(path, limit).decode("utf-8", "surrogateescape")
