"""What is being written into the store, and what dead processes had begun to write."""

from __future__ import annotations

import fcntl
import os

from hutch.image.layers import mapped
from hutch.image.store.content import Content
from hutch.kernel.features import Features


def sweep(content: Content, features: Features, *, partial: bool = False) -> None:
    """Remove what dead processes had begun to write; with `partial`, also the blobs that were half fetched, which the next
    pull would go on with."""
    for name in os.listdir(f"{content.root}/ingest"):
        if name.startswith("sha") and not partial:
            continue
        path = f"{content.root}/ingest/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.isdir(path):
                mapped.remove_tree(path, features)
            else:
                os.unlink(path)
        except OSError:
            pass  # somebody writes it
        finally:
            os.close(fd)
