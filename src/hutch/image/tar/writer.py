"""Write a tar: the same members give the same bytes. POSIX ustar, with pax records for what its fields cannot hold."""

from __future__ import annotations

import stat

from hutch.errors import ImageError
from hutch.image.tar.header import BLOCK, BLOCKDEVICE, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, XATTR, Member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_FLAGS = {REGULAR: b"0", HARDLINK: b"1", SYMLINK: b"2", CHARACTER: b"3", BLOCKDEVICE: b"4", DIRECTORY: b"5", FIFO: b"6"}
KINDS = {
    stat.S_IFREG: REGULAR, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHARACTER, stat.S_IFBLK: BLOCKDEVICE, stat.S_IFIFO: FIFO,
}  # fmt: skip


class Writer:
    """Writes members to `out`, in the order that they are added."""

    def __init__(self, out: Callable[[bytes], object]) -> None:
        self._out = out

    def add(self, member: Member, content: Iterable[bytes] = ()) -> None:
        """A member, and its content of exactly `member.size` bytes. Raises ImageError when it has changed meanwhile."""
        pax = _records(member)
        if pax:
            body = b"".join(_record(key, value) for key, value in sorted(pax.items()))
            self._out(_header(b"PaxHeaders/" + member.name.rstrip(b"/").rpartition(b"/")[2][:80], b"x", len(body), 0o644, Member(b"", REGULAR)))
            self._out(body + bytes(-len(body) % BLOCK))
        name = member.name + (b"/" if member.kind == DIRECTORY and not member.name.endswith(b"/") else b"")
        self._out(_header(name, _FLAGS[member.kind], member.size if member.kind == REGULAR else 0, member.mode, member))
        if member.kind != REGULAR:
            return
        left = member.size
        for piece in content:
            left -= len(piece)
            if left < 0:
                break
            self._out(piece)
        if left:
            raise ImageError(f"{member.name!r} changed while it was being read", "stop or pause the container first")
        self._out(bytes(-member.size % BLOCK))

    def close(self) -> None:
        """The archive's end: two blocks of zeros."""
        self._out(bytes(2 * BLOCK))


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) as ustar's two fields hold it; None when they do not."""
    if len(name) <= 100:
        return b"", name
    at = name.find(b"/", len(name) - 101)
    if 0 < at <= 155 and at < len(name) - 1:
        return name[:at], name[at + 1 :]
    return None


def _records(member: Member) -> dict[bytes, bytes]:
    """What a ustar header has no room for."""
    out: dict[bytes, bytes] = {}
    name = member.name + (b"/" if member.kind == DIRECTORY and not member.name.endswith(b"/") else b"")
    if _split(name) is None or not name.isascii():
        out[b"path"] = name
    if len(member.link) > 100 or not member.link.isascii():
        out[b"linkpath"] = member.link
    if member.size >= 8**11:
        out[b"size"] = b"%d" % member.size
    for key, value in ((b"uid", member.uid), (b"gid", member.gid)):
        if value >= 8**7:
            out[key] = b"%d" % value
    seconds, nanoseconds = divmod(member.mtime, 1_000_000_000)
    if nanoseconds or not 0 <= seconds < 8**11:
        sign, (seconds, nanoseconds) = (b"-", divmod(-member.mtime, 1_000_000_000)) if member.mtime < 0 else (b"", (seconds, nanoseconds))
        out[b"mtime"] = sign + b"%d" % seconds + (b".%09d" % nanoseconds).rstrip(b"0").rstrip(b".")
    for attribute, data in member.xattrs.items():
        out[XATTR + attribute] = data
    return out


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value if 0 <= value < 8 ** (width - 1) else 0)


def _header(name: bytes, flag: bytes, size: int, mode: int, member: Member) -> bytes:
    prefix, short = _split(name) or (b"", name[:100])
    out = bytearray(BLOCK)
    fields = (
        (0, short), (100, _octal(mode, 8)), (108, _octal(member.uid, 8)), (116, _octal(member.gid, 8)), (124, _octal(size, 12)),
        (136, _octal(member.mtime // 1_000_000_000, 12)), (148, b" " * 8), (156, flag), (157, member.link[:100]), (257, b"ustar\x0000"),
        (329, _octal(member.rdev[0], 8)), (337, _octal(member.rdev[1], 8)), (345, prefix),
    )  # fmt: skip
    for at, field in fields:
        out[at : at + len(field)] = field
    out[148:156] = b"%06o\0 " % sum(out)
    return bytes(out)
