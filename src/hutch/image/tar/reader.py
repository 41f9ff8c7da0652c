"""Read a tar as it streams by: bytes are fed in pieces of any size, members come out.

Nothing is kept but the header that is being read: the archive may be of any size. A sink takes the members, and their
content if it wants it; an index wants offsets alone, so that content passes here without being looked at.
"""

from __future__ import annotations

import struct

from hutch.errors import ImageError
from hutch.image.tar.header import (
    BLOCK,
    DIRECTORY,
    HARDLINK,
    KINDS,
    MAX_SPARSE,
    REGULAR,
    SYMLINK,
    XATTR,
    Member,
    broken,
    decimal,
    moment,
    number,
    pax_records,
    show,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Sink(Protocol):
        """What takes the members. `wants` says whether `data` is to be called for the content of regular files."""

        wants: bool

        def member(self, member: Member) -> None:
            """A member begins. Raises ImageError for one that it refuses."""

        def data(self, piece: bytes) -> None:
            """The next piece of the last member's stored content."""


MAX_HEADER = 1 << 20
MAX_GLOBALS, MAX_GLOBAL_XATTRS, MAX_GLOBAL_BYTES = 256, 16, 1 << 20
MAX_MEMBERS = 10_000_000
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_FIELDS_OF_PAX = frozenset((b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid"))
_ZERO = bytes(BLOCK)


class Reader:
    """A tar's parser. `feed` it, then call `close`, which raises ImageError for an archive that ended too early."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._position = 0  # of the next byte that is fed
        self._next = 0  # of the next header
        self._carry = b""
        self._ended = False
        self._count = self._pieces = 0
        self._globals: dict[bytes, bytes] = {}
        self._numbers: dict[bytes, int] = {}  # modes, owners and times, of which archives have few
        self._need = 0  # bytes from the next header on, before it is worth looking again
        self._pax: list[tuple[bytes, bytes]] = []
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._content_end = 0  # of the member whose content the sink wants
        self._sparse_map: Member | None = None  # waits for the map at the beginning of its content (pax sparse 1.0)

    def feed(self, data: bytes, closing: bool = False) -> None:
        """The next bytes of the archive; `closing`: none follow. Raises ImageError."""
        start = self._position - len(self._carry)
        self._position += len(data)
        if self._ended:
            return
        if self._position <= self._next and not self._carry:
            if self._content_end > start:
                self._sink.data(data[: self._content_end - start])
            return
        if self._carry:
            data = self._carry + data
            self._carry = b""
        if self._content_end > start:
            self._sink.data(data[: self._content_end - start])
        length = len(data)
        while not self._ended:
            at = self._next - start
            if at + max(BLOCK, self._need) > length and not (closing and at + BLOCK <= length):
                if at < length:
                    self._carry = bytes(data[at:])
                return
            used = self._step(data, at)
            if not used:
                self._carry = bytes(data[at:])
                self._need = 2 * len(self._carry)  # what is long is not read again with every piece
                return
            self._need = 0
            if self._content_end > start + at + used:
                begin = at + used
                self._sink.data(data[begin : self._content_end - start])

    def close(self) -> None:
        """The archive has ended. Raises ImageError if it may not yet: in a header, or in a member's content."""
        if self._carry and not self._ended:
            self.feed(b"", closing=True)
        if self._ended:
            return
        left = (self._long_name, self._long_link, self._sparse_map)
        if self._position < self._next or self._carry or self._pax or any(item is not None for item in left):
            raise broken("it ends too early")

    def _step(self, data: bytes, at: int) -> int:
        """Read the header at `at`: how many bytes it took, 0 when more are needed. Sets where the next one is."""
        header = data[at : at + BLOCK]
        if self._sparse_map is not None:
            return self._read_sparse_map(data, at)
        if header == _ZERO:
            self._ended = True
            return BLOCK
        fields = _FIELDS.unpack(header)
        # the checksum counts itself as blanks; ancient tars summed signed bytes
        total = sum(header) - sum(fields[6]) + 256
        said = number(fields[6])
        if said != total and said != total - 256 * sum(1 for b in header if b > 127):
            raise broken(f"a header's checksum is wrong at byte {self._next}")
        kind = fields[7]
        size = number(fields[4])
        if size < 0 or size >= 1 << 62:
            raise broken(f"a size of {size} bytes")
        if kind in b"xgXLK":
            return self._extended(kind, size, data, at)
        if kind in b"VN":  # a volume's label; an old long name that nobody writes
            self._next += BLOCK + _padded(size)
            return BLOCK
        used = BLOCK
        pieces: list[tuple[int, int]] | None = None
        real = size
        if kind == b"S":
            found = _old_sparse(header, data, at)
            if found is None:
                return 0
            pieces, real, used = found
        member = self._member(fields, header, kind, size)
        if pieces is not None:
            member.size, member.sparse = real, _checked(pieces, real, member.stored)
        return self._begin(member, used)

    def _extended(self, kind: bytes, size: int, data: bytes, at: int) -> int:
        if size > MAX_HEADER:
            raise ImageError(f"layer: a header of {size} bytes")
        whole = BLOCK + _padded(size)
        if at + whole > len(data):
            return 0
        body = bytes(data[at + BLOCK : at + BLOCK + size])
        if kind == b"L":
            self._long_name = body.rstrip(b"\0")
        elif kind == b"K":
            self._long_link = body.rstrip(b"\0")
        elif kind == b"g":
            self._globals.update(pax_records(body))
            # they count for every member: what is many would be multiplied
            size = sum(len(key) + len(value) for key, value in self._globals.items())
            if size > MAX_GLOBAL_BYTES or len(self._globals) > MAX_GLOBALS or sum(1 for key in self._globals if key.startswith(XATTR)) > MAX_GLOBAL_XATTRS:
                raise ImageError(f"layer: {len(self._globals)} records, {size} bytes, in its global headers, which are for every member")
        else:
            self._pax = pax_records(body)
        self._next += whole
        return whole

    def _member(self, fields: tuple[bytes, ...], header: bytes, kind: bytes, size: int) -> Member:
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise ImageError(f"layer: more than {MAX_MEMBERS} members")
        name = fields[0].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0" and fields[14][0]:
            name = fields[14].split(b"\0", 1)[0] + b"/" + name
        found = KINDS.get(kind)
        if self._long_name is not None:
            name = self._long_name
        link = fields[8].split(b"\0", 1)[0] if self._long_link is None else self._long_link
        if found is None:
            raise ImageError(f"layer: {show(name)} is of an unknown type {kind!r}")
        known = self._numbers
        try:
            member = Member(name, found, known[fields[1]] & 0o7777, known[fields[2]], known[fields[3]], known[fields[5]] * 1_000_000_000, size, link)
        except KeyError:
            if len(known) > 10_000:
                known.clear()
            mode, uid, gid, mtime = (known.setdefault(field, number(field)) for field in (fields[1], fields[2], fields[3], fields[5]))
            member = Member(name, found, mode & 0o7777, uid, gid, mtime * 1_000_000_000, size, link)
        if found in "cb":
            member.rdev = (number(fields[12]), number(fields[13]))
            if not 0 <= member.rdev[0] < 1 << 12 or not 0 <= member.rdev[1] < 1 << 20:
                raise ImageError(f"layer: {show(name)} is a device {member.rdev[0]}:{member.rdev[1]}, which Linux has no number for")
        self._long_name = self._long_link = None
        if self._pax or self._globals:
            records = [*self._globals.items(), *self._pax] if self._globals else self._pax
            self._pax = []
            self._apply(member, records)
        if found == REGULAR and member.name.endswith(b"/") and kind != b"S":
            found = member.kind = DIRECTORY  # before ustar, a slash said so
        if found not in (REGULAR, DIRECTORY) or kind == b"5":
            member.size = member.stored = 0  # whatever the field says: nothing follows
        if found in (SYMLINK, HARDLINK) and (not member.link or len(member.link) > 4095 or b"\0" in member.link):
            raise ImageError(f"layer: {show(member.name)} is a link to {show(member.link)}")
        if not -(1 << 63) <= member.mtime // 1_000_000_000 < 1 << 63:
            raise ImageError(f"layer: {show(member.name)} is of a time that no clock shows")
        if not 0 <= member.uid < 2**32 - 1 or not 0 <= member.gid < 2**32 - 1:
            raise ImageError(f"layer: {show(member.name)} belongs to {member.uid}:{member.gid}, which is no user")
        return member

    def _apply(self, member: Member, records: list[tuple[bytes, bytes]]) -> None:
        sparse: dict[bytes, bytes] = {}
        pairs: list[int] = []
        fields = dict(records)
        for key, value in records:
            if value == b"" and key in _FIELDS_OF_PAX:
                continue  # it takes back what was said before
            if key in _FIELDS_OF_PAX and fields[key] != value:
                continue  # the last one counts
            if key == b"path":
                member.name = value
            elif key == b"linkpath":
                member.link = value
            elif key == b"size":
                member.size = member.stored = decimal(value, "size")
            elif key == b"mtime":
                member.mtime = moment(value)
            elif key == b"uid":
                member.uid = decimal(value, "user")
            elif key == b"gid":
                member.gid = decimal(value, "group")
            elif key.startswith(XATTR):
                member.xattrs[key[len(XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")] = value  # GNU tar's way to write those
            elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                pairs.append(decimal(value, "piece of a sparse file"))
            elif key.startswith(b"GNU.sparse."):
                sparse[key[len(b"GNU.sparse.") :]] = value
        if member.kind == DIRECTORY and member.name.endswith(b"/"):
            member.name = member.name.rstrip(b"/") or b"/"
        if sparse or pairs:
            self._sparse(member, sparse, pairs)

    def _sparse(self, member: Member, sparse: dict[bytes, bytes], pairs: list[int]) -> None:
        member.name = sparse.get(b"name", member.name)
        real = decimal(sparse.get(b"realsize", sparse.get(b"size", b"")), "size of a sparse file")
        if sparse.get(b"major") == b"1":
            member.size = real
            self._sparse_map = member
            return
        if b"map" in sparse:
            pairs = [decimal(item, "piece of a sparse file") for item in sparse[b"map"].split(b",")] if sparse[b"map"] else []
        if len(pairs) % 2 or len(pairs) // 2 > MAX_SPARSE:
            raise broken("the map of a sparse file is not one")
        member.size = real
        member.sparse = _checked(list(zip(pairs[::2], pairs[1::2], strict=True)), real, member.stored)

    def _begin(self, member: Member, used: int) -> int:
        """A member's header is read: its content follows, and after that the next header."""
        content = self._next + used
        if self._sparse_map is member:
            self._next = content
            self._content_end = 0
            return used
        if member.sparse:
            self._pieces += len(member.sparse)
            if self._pieces > MAX_SPARSE:
                raise ImageError(f"layer: its sparse files are of more than {MAX_SPARSE} pieces")
        member.offset = content
        self._next = content + _padded(member.stored)
        self._content_end = content + member.stored if self._sink.wants and member.kind == REGULAR else 0
        self._sink.member(member)
        return used

    def _read_sparse_map(self, data: bytes, at: int) -> int:
        """The map before the content (pax sparse 1.0): a count, then offsets and lengths, a line each, padded to a block."""
        member = self._sparse_map
        assert member is not None
        text = bytes(data[at : at + min(member.stored, MAX_SPARSE * 40)])
        lines = text.split(b"\n", 1)
        if len(lines) < 2 or not lines[0].isdigit() or len(lines[0]) > 8:
            raise broken("the map of a sparse file is not one")
        count = int(lines[0])
        if count > MAX_SPARSE:
            raise ImageError(f"layer: {show(member.name)} is a sparse file of {count} pieces")
        items = text.split(b"\n", 2 * count + 1)
        if len(items) < 2 * count + 2:
            if len(text) >= min(member.stored, MAX_SPARSE * 40):
                raise broken("the map of a sparse file is not one")
            return 0
        numbers = [decimal(item, "piece of a sparse file") for item in items[1:-1]]
        used = _padded(len(text) - len(items[-1]))
        if at + used > len(data):
            return 0
        self._sparse_map = None
        if used > member.stored:
            raise broken("the map of a sparse file is longer than the file")
        member.stored -= used
        member.sparse = _checked(list(zip(numbers[::2], numbers[1::2], strict=True)), member.size, member.stored)
        return self._begin(member, used)


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _old_sparse(header: bytes, data: bytes, at: int) -> tuple[list[tuple[int, int]], int, int] | None:
    """GNU's old sparse header: four pieces in the header, and 21 in each block that may follow. None: more is needed."""
    pieces = []
    used = BLOCK

    def take(block: bytes, begin: int, count: int) -> None:
        for i in range(begin, begin + 24 * count, 24):
            if block[i] or block[i + 12]:
                pieces.append((number(block[i : i + 12]), number(block[i + 12 : i + 24])))

    take(header, 386, 4)
    more = header[482]
    while more:
        block = data[at + used : at + used + BLOCK]
        if len(block) < BLOCK:
            return None
        take(block, 0, 21)
        if len(pieces) > MAX_SPARSE:
            raise ImageError("layer: a sparse file of too many pieces")
        more = block[504]
        used += BLOCK
    return pieces, number(header[483:495]), used


def _checked(pieces: list[tuple[int, int]], size: int, stored: int) -> tuple[tuple[int, int], ...]:
    """The pieces of a sparse file in order, inside the file, and all there. Raises ImageError."""
    position = total = 0
    for offset, length in pieces:
        if offset < position or length < 0 or offset + length > size:
            raise broken("the pieces of a sparse file overlap, or lie outside it")
        position = offset + length
        total += length
    if total != stored:
        raise broken("the pieces of a sparse file are not all there")
    return tuple((offset, length) for offset, length in pieces if length)
