"""Encoded plans kept from one command to the next, beside the records.

A plan is kept with the text of everything that it was compiled from, and used again only when that is the same, compared as
text and not by a hash, and when no module of Hutch that took part has changed. Any process may remove the directory.
"""

from __future__ import annotations

import os
import sys
from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hutch.plan.plan import Plan

SEPARATOR = b"\0\0hutch\0\0"
KEEP, LARGEST = 64, 256 << 10  # plans, and bytes of one: with the directory in memory, 16 MiB at the most
PLACE = os.path.dirname(__file__)


class Stored:
    """An encoded plan, ready to run. It is compiled after all when somebody wants to look into it, as an error does."""

    detach = leave = False

    def __init__(self, exports: tuple[str, ...], encoded: bytes, compile_: Callable[[], Plan]) -> None:
        self._exports, self._encoded, self._compile = exports, encoded, compile_
        self._whole: Plan | None = None

    @property
    def whole(self) -> Plan:
        """The plan with its operations."""
        if self._whole is None:
            self._whole = self._compile()
        return self._whole

    def encode(self, owner: int) -> bytes:
        """As `Plan.encode`; the owner is written by who starts it."""
        return self._encoded

    def exports(self) -> tuple[str, ...]:
        """As `Plan.exports`."""
        return self._exports


def _sources() -> str:
    """What of Hutch has made a plan: its modules that are loaded now, and the executor; a line each of path, time and size."""
    modules = sorted(name for name in sys.modules if name.partition(".")[0] == "hutch")
    paths = (getattr(sys.modules[name], "__file__", None) for name in modules)
    return "\n".join(_source(path) for path in (*filter(None, paths), f"{PLACE}/executor"))


def _source(path: str) -> str:
    info = os.stat(path)
    return f"{path}\t{info.st_mtime_ns}\t{info.st_size}"


def _unchanged(sources: str) -> bool:
    """Whether all of a plan's makers are as they were, edits in place included."""
    try:
        for line in sources.split("\n"):
            path, changed, size = line.split("\t")
            info = os.stat(path)
            if info.st_mtime_ns != int(changed) or info.st_size != int(size):
                return False
    except (OSError, ValueError):
        return False
    return True


def _path(base: str, own: bytes) -> str:
    return f"{base}/{crc32(own):08x}"


def _own(base: str) -> bool:
    """Whether nobody else can put a plan into a directory."""
    info = os.lstat(base)
    return info.st_uid == os.geteuid() and not info.st_mode & 0o022


def load(base: str, own: bytes) -> tuple[str, bytes] | None:
    """What was said of the plan, and the encoded plan, kept in the directory `base` under a key; None when there is none."""
    try:
        if not _own(base):
            return None
        fd = os.open(_path(base, own), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            return None
        data = os.read(fd, LARGEST + 1)
    finally:
        os.close(fd)
    stored, _, rest = data.partition(SEPARATOR)
    said, _, rest = rest.partition(SEPARATOR)
    sources, separator, encoded = rest.partition(SEPARATOR)
    if stored != own or not separator or not _unchanged(os.fsdecode(sources)):
        return None
    return said.decode("utf-8", "surrogateescape"), encoded


def save(base: str, own: bytes, said: str, encoded: bytes) -> None:
    """Keep a plan, unless it is larger than `LARGEST`. Errors are ignored: the cache is optional."""
    try:
        data = SEPARATOR.join((own, said.encode("utf-8", "surrogateescape"), os.fsencode(_sources()), encoded))
        if len(data) > LARGEST:
            return
        os.makedirs(base, mode=0o700, exist_ok=True)
        if not _own(base):
            return
        names = os.listdir(base)
        if len(names) >= KEEP:
            for name in names:
                os.unlink(f"{base}/{name}")
        fresh = f"{base}/.new-{os.getpid()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(fresh, _path(base, own))
    except OSError:
        return
