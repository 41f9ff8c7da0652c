"""Where Hutch keeps what must not live in memory."""

from __future__ import annotations

import os

from hutch.errors import ImageError


def data_root() -> str:
    """Where what must not live in memory goes: $HUTCH_DATA, /var/lib/hutch, or ~/.local/share/hutch."""
    path = os.environ.get("HUTCH_DATA")
    if not path and os.geteuid() == 0:
        path = "/var/lib/hutch"
    if not path:
        path = os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "hutch")
    try:
        os.makedirs(path, mode=0o711, exist_ok=True)
    except OSError as error:
        raise ImageError(f"data directory {path}: {error.strerror}", "set HUTCH_DATA to a directory that you may write") from None
    return path
