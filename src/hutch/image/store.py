"""Where layers are kept on disk: one directory a layer, complete or not there.

A layer is unpacked beside its place and renamed into it, so that a crash leaves nothing that looks whole, and two processes
that unpack the same one both end with it. Image stores to come put themselves behind `layer`.
"""

from __future__ import annotations

import os

from hutch.errors import ImageError
from hutch.kernel.trees import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


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


def layer(key: str, unpack: Callable[[str], None]) -> str:
    """The directory of a layer, unpacked by `unpack(directory)` if it is not there yet. Raises ImageError.

    The directory that is handed to `unpack` is removed again when it fails, for a full disk as for a bad archive.
    """
    base = f"{data_root()}/layers"
    os.makedirs(base, mode=0o700, exist_ok=True)  # an image's set-uid programs are not for this machine's users
    final = f"{base}/{key}"
    if os.path.isdir(final):
        return final
    _clean(base)
    fresh = f"{base}/.new-{os.getpid()}-{os.urandom(4).hex()}"
    os.mkdir(fresh, 0o755)
    try:
        unpack(fresh)
        try:
            os.rename(fresh, final)
        except OSError:
            if not os.path.isdir(final):
                raise
            remove_tree(fresh)  # somebody else was faster
    except OSError as error:
        remove_tree(fresh)
        raise ImageError(f"unpack into {base}: {error.strerror}", "free some space" if error.errno == 28 else None) from None
    except BaseException:
        remove_tree(fresh)
        raise
    return final


def _clean(base: str) -> None:
    """Remove what processes that are dead had begun."""
    for name in os.listdir(base):
        if name.startswith(".new-"):
            pid = name.split("-")[1]
            if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                remove_tree(f"{base}/{name}")
