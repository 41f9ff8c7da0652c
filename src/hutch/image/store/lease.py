"""Leases: what a pull, a commit or a load is about to need, before any name stands for it.

Collecting removes what neither a name nor a lease reaches. A lease is a file of digests that its owner holds (flock(2)); it
is written before what it names is looked for. Collecting shuts out new leases for the moment that it takes, and no longer:
a lease is made under the shared side of one lock whose exclusive side is the collector's. No lock is held over a download.
"""

from __future__ import annotations

import fcntl
import os

from hutch.image.reference import is_digest
from hutch.image.store.content import NEW, Content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class Gate:
    """The lock between leases (shared) and collecting (exclusive)."""

    def __init__(self, content: Content, *, exclusive: bool = False) -> None:
        self._fd = os.open(f"{content.root}/collect.lock", NEW, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Lease:
    """A file under ``leases/``, held until it is closed."""

    def __init__(self, content: Content) -> None:
        self._content = content
        os.makedirs(f"{content.root}/leases", mode=0o700, exist_ok=True)
        self._path = f"{content.root}/leases/{os.getpid()}-{os.urandom(6).hex()}"
        with Gate(content):
            self._fd = os.open(self._path, NEW | os.O_EXCL | os.O_APPEND, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def add(self, *digests: str) -> None:
        """Hold blobs, and layers by the digest of their plain tar."""
        with Gate(self._content):
            os.write(self._fd, "".join(f"{digest}\n" for digest in digests).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it up. Safe to call twice."""
        if self._fd >= 0:
            os.unlink(self._path)
            os.close(self._fd)
            self._fd = -1


def held(content: Content) -> set[str]:
    """What every living lease holds; those of the dead are removed. To be called with the gate closed."""
    found: set[str] = set()
    directory = f"{content.root}/leases"
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        path = f"{directory}/{name}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        except BlockingIOError:
            with open(fd, encoding="ascii", closefd=False) as file:
                found |= {line for line in file.read().split("\n") if is_digest(line)}
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)
    return found
