"""One member of a tar archive, and the numbers and records of its header.

Formats: POSIX ustar and pax (IEEE Std 1003.1, pax), GNU tar's extensions (GNU tar manual, "Basic Tar Format", "Storing
Sparse Files"). Names are bytes: what a layer calls a file need not be UTF-8.
"""

from __future__ import annotations

from hutch.errors import ImageError

BLOCK = 512
REGULAR, DIRECTORY, SYMLINK, HARDLINK, CHARACTER, BLOCKDEVICE, FIFO = "-", "d", "l", "h", "c", "b", "p"

# What a type flag stands for; 7 is a "contiguous file", D a directory of GNU's incremental dumps.
KINDS = {
    b"0": REGULAR, b"\0": REGULAR, b"7": REGULAR, b"S": REGULAR, b"1": HARDLINK, b"2": SYMLINK, b"3": CHARACTER, b"4": BLOCKDEVICE,
    b"5": DIRECTORY, b"D": DIRECTORY, b"6": FIFO,
}  # fmt: skip

MAX_PATH = 4096
MAX_NAME = 255
MAX_DEPTH = 512
MAX_SPARSE = 1 << 20  # pieces of one sparse file
XATTR = b"SCHILY.xattr."
_NOWHERE = (b"", b".")


class Member:
    """A file of the archive. `name` as written there, `mtime` in nanoseconds, `offset` of its content in the archive.

    `stored` bytes lie there; `size` is the file's own, which differs for a sparse file: `sparse` lists its pieces as
    (offset in the file, length), stored one behind the other. `link` is where a link points. `rdev` is (major, minor).
    """

    __slots__ = ("gid", "kind", "link", "mode", "mtime", "name", "offset", "rdev", "size", "sparse", "stored", "uid", "xattrs")

    def __init__(self, name: bytes, kind: str, mode: int = 0, uid: int = 0, gid: int = 0, mtime: int = 0, size: int = 0, link: bytes = b"") -> None:
        self.name, self.kind, self.mode, self.uid, self.gid, self.mtime = name, kind, mode, uid, gid, mtime
        self.size = self.stored = size
        self.link = link
        self.offset = 0
        self.rdev = (0, 0)
        self.sparse: tuple[tuple[int, int], ...] | None = None
        self.xattrs: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return f"<{self.kind}{self.mode:04o} {show(self.name)} {self.size}>"


def show(name: bytes) -> str:
    """A name of an archive for a message: one line, not too long."""
    text = ascii(name.decode("utf-8", "surrogateescape")) if not name.isascii() or not name.decode().isprintable() else repr(name.decode())
    return text if len(text) <= 80 else text[:60] + "…'"


def broken(why: str) -> ImageError:
    """The error for an archive that is none."""
    return ImageError(f"layer: the archive is broken: {why}")


def number(field: bytes) -> int:
    """A numeric field: octal, or GNU's base 256 when its first bit is set. Raises ImageError."""
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            raise broken(f"{digits!r} is no octal number") from None
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:  # two's complement: a negative time, for one
            value -= 1 << (8 * len(field) - 1)
        return value
    digits = digits.split(b"\0", 1)[0].rstrip(b" ")
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise broken(f"{digits!r} is no octal number")
    return int(digits, 8)


def path_of(name: bytes) -> tuple[bytes, ...]:
    """A name's parts, without leading slash and dots. Raises ImageError for one that leads out, or that no disk can hold."""
    parts = tuple([part for part in name.split(b"/") if part not in _NOWHERE])
    if b".." in parts:
        raise ImageError(f"layer: the path {show(name)} leads out of the layer")
    if len(name) > MAX_NAME:
        if len(name) > MAX_PATH:
            raise ImageError(f"layer: the path {show(name)} is too long ({len(name)} bytes)")
        if len(parts) > MAX_DEPTH:
            raise ImageError(f"layer: the path {show(name)} is nested too deeply")
        if any(len(part) > MAX_NAME for part in parts):
            raise ImageError(f"layer: no file can be called {show(name)}")
    if b"\0" in name:
        raise ImageError(f"layer: no file can be called {show(name)}")
    return parts


def pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of an extended header: ``LENGTH KEY=VALUE\\n``, in their order. Raises ImageError."""
    out = []
    position = 0
    while position < len(data):
        blank = data.find(b" ", position, position + 20)
        digits = data[position:blank] if blank > 0 else b""
        end = position + int(digits) if digits.isdigit() else 0
        if end <= blank + 1 or end > len(data) or data[end - 1] != 10:
            if not data[position:].strip(b"\0"):
                break  # padding
            raise broken("an extended header is no list of records")
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise broken("a record of an extended header has no key")
        out.append((key, value))
        position = end
    return out


def decimal(value: bytes, what: str, limit: int = 1 << 62) -> int:
    """A decimal number of an extended header. Raises ImageError."""
    if not value.isdigit() or len(value) > 19 or int(value) > limit:
        raise broken(f"{value[:40]!r} is no {what}")
    return int(value)


def moment(value: bytes) -> int:
    """A time of an extended header, such as ``1700000000.123``, in nanoseconds. Raises ImageError."""
    whole, _, fraction = value.lstrip(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > 15 or (fraction and not fraction.isdigit()):
        raise broken(f"{value[:40]!r} is no time")
    found = int(whole) * 1_000_000_000 + int((fraction + b"000000000")[:9])
    return -found if value.startswith(b"-") else found
