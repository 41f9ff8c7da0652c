"""Where Hutch keeps what must not live in memory."""

from __future__ import annotations

import os

from hutch.errors import ImageError

UPPERS = "containers"  # in the data directory


def data_root(path: str | None = None) -> str:
    """The directory of all that must not live in memory: `path`, $HUTCH_DATA, /var/lib/hutch, or ~/.local/share/hutch."""
    path = path or os.environ.get("HUTCH_DATA")
    if not path and os.geteuid() == 0:
        path = "/var/lib/hutch"
    if not path:
        path = os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "hutch")
    try:
        os.makedirs(path, mode=0o711, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error.strerror, "set HUTCH_DATA to a directory that you may write") from None
    return path


def private(name: str) -> str:
    """The directory `name` of the data directory, which nobody else on this host can enter; made if it is missing.

    Everything that a container can write lies below such a directory. A container's root may give its files any mode: a
    set-uid program in a directory that others can enter would run with its owner's rights for every local user. A directory
    that an older version made with a wider mode is tightened. Raises ImageError when it belongs to another user.
    """
    return make_private(f"{data_root()}/{name}")


def make_private(path: str) -> str:
    """As `private`, for a path whose parent directory exists."""
    from hutch.kernel.private import directory

    try:
        return directory(path)
    except OSError as error:
        raise _unusable(path, error.strerror, "set HUTCH_DATA to a directory that you may write") from None


def uppers() -> str:
    """The directory of the upper directories that are kept on disk, one for each container, by its id."""
    return private(UPPERS)


def _unusable(path: str, why: str | None, hint: str | None = None) -> ImageError:
    return ImageError(f"data directory {path}: {why}", hint)
