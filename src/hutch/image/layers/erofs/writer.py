"""Write the index of a layer: its tree, with the content of its files left in the tar. Or a disk, which has the content, too.

Two passes: every inode gets its place, which depends on its size alone; then everything is written. The same tree gives
the same bytes: names are sorted, and nothing of this machine or this moment is written.
"""

from __future__ import annotations

import stat

from hutch.errors import ImageError
from hutch.image.layers.erofs.format import (
    BLOCK_BITS,
    CHUNK,
    CHUNK_INDEXES,
    CHUNKED,
    COMPAT_MTIME,
    DEVICE,
    DEVICE_OFFSET,
    DIRENT,
    DIRENT_SIZE,
    HOLE,
    INCOMPAT_CHUNKED,
    INCOMPAT_DEVICES,
    INLINE,
    INODE,
    INODE_SIZE,
    MAGIC,
    META,
    OWN_DEVICE,
    PLAIN,
    SLOT,
    SUPER,
    SUPER_OFFSET,
    TAR_DEVICE,
    XATTR,
    XATTR_HEADER,
    XATTR_PREFIXES,
    device_number,
    inode_format,
)  # fmt: skip
from hutch.image.layers.erofs.sparse import chunk_bits, joined
from hutch.image.layers.tree import Node
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


MAX_CHUNK_BYTES = 256 << 20  # of all sparse files
MAX_OWN = 512 << 20  # bytes of sparse files that lie so that they must be copied
MAX_INDEX = 1 << 30
WINDOW = 1 << 20
MAX_BITS = 31  # of a chunk, in blocks
MAX_FILE = 1 << 44  # more than any file system of this kernel's lets a file be
_FILE_TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6, stat.S_IFLNK: 7}
_OPAQUE = {b"trusted.overlay.opaque": b"y", b"user.overlay.opaque": b"y"}  # for a mount by root, and for one in a user namespace


class _Item:
    """An inode on its way to the disk: what follows it (attributes, chunks, inline data), and its full blocks elsewhere."""

    __slots__ = ("attributes", "chunks", "format", "links", "nid", "node", "size", "tail", "union")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.attributes = _attributes(node) if node.xattrs or node.opaque else b""
        self.chunks = self.tail = b""
        self.format = inode_format(PLAIN)
        self.nid = self.size = self.union = 0
        self.links = node.links


DISK_BITS = 12  # of a disk's blocks: a page's size, which every kernel with EROFS reads (those of 512 bytes since 6.4)


class Disk(Record):
    """A disk without its content: what lies at its beginning, and where on it the content of each file is to go."""

    size: int
    head: bytes
    content: tuple[tuple[int, Node], ...]


def disk(root: Node, tar_size: int) -> Disk:
    """The EROFS image of a tree with the content of its files, that lies in a tar of `tar_size` bytes. Raises ImageError."""
    writer = _Writer(tar_size, _unread, DISK_BITS)
    head = writer.write(root, b"")
    return Disk(size=writer.total << DISK_BITS, head=head, content=tuple((item.union + writer.begin << DISK_BITS, item.node) for item in writer.whole))


def _unread(offset: int, length: int) -> bytes:
    raise ImageError("layer: a disk has its content whole")


def index(root: Node, tar_size: int, read: Callable[[int, int], bytes], tag: bytes = b"") -> bytes:
    """The EROFS image of a tree whose content lies in a tar of `tar_size` bytes.

    `read(offset, length)` gives bytes of the tar: only for pieces of sparse files that lie so that no chunk can name them.
    `tag` is written beside the device (64 bytes at most: the tar's digest). Raises ImageError for a tree that is too large.
    """
    writer = _Writer(tar_size, read)
    return writer.write(root, tag)


class _Writer:
    def __init__(self, tar_size: int, read: Callable[[int, int], bytes], bits: int = BLOCK_BITS) -> None:
        self.bits, self.block = bits, 1 << bits
        self.whole: list[_Item] = []  # of a disk: files whose content lies on it
        self.begin = self.total = 0
        if tar_size >> self.bits >= HOLE:
            raise ImageError(f"layer: an archive of {tar_size} bytes")
        self.tar_size = tar_size
        self.read = read
        self.items: list[_Item] = []
        self.position = META
        self.blocks: list[tuple[int, bytes | bytearray]] = []  # full blocks behind the inodes: (number counted from their beginning, data)
        self.block_count = 0
        self.chunk_bytes = 0
        self.own_chunks: list[tuple[_Item, list[tuple[int, int]]]] = []

    def write(self, root: Node, tag: bytes) -> bytes:
        seen: dict[int, _Item] = {}
        directories: list[tuple[_Item, list[tuple[bytes, _Item]], _Item]] = []
        top = _Item(root)
        self._place_directory(top, root.children or {})
        queue: list[tuple[_Item, _Item]] = [(top, top)]
        while queue:
            item, parent = queue.pop()
            entries: list[tuple[bytes, _Item]] = []
            below: list[tuple[_Item, _Item]] = []
            for name, node in sorted((item.node.children or {}).items()):
                found = seen.get(id(node)) if node.links > 1 else None
                if found is None:
                    found = _Item(node)
                    if node.children is not None:
                        self._place_directory(found, node.children)
                        below.append((found, item))
                        item.links += 1
                    else:
                        self._place_file(found)
                        if node.links > 1:
                            seen[id(node)] = found
                entries.append((name, found))
            item.links += 1  # "."
            directories.append((item, entries, parent))
            queue += reversed(below)
        begin = self.begin = (self.position + self.block - 1) // self.block
        for item, entries, parent in directories:
            self._fill_directory(item, entries, parent)
        return self._assemble(begin, top, tag)

    def _place(self, item: _Item, follows: int, whole: int = 0) -> None:
        """Give an inode its place: its first 64 bytes in one block, and its inline data in one block, too."""
        at = self.position
        head = INODE_SIZE + len(item.attributes)
        while at % self.block > self.block - INODE_SIZE or (whole and (at + head) % self.block + whole > self.block):
            at += SLOT
        item.nid = at // SLOT
        end = at + head
        if item.chunks:
            end = (end + 7) // 8 * 8
        self.position = (end + follows + SLOT - 1) // SLOT * SLOT
        self.items.append(item)
        if self.position > MAX_INDEX:
            raise ImageError("layer: has too many files for one index")

    def _place_directory(self, item: _Item, children: dict[bytes, Node]) -> None:
        # its size is known from its names; its entries only when everything has its place
        used, size = 0, 0
        for name in sorted([b".", b"..", *children]):
            need = DIRENT_SIZE + len(name)
            if used + need > self.block:
                size, used = size + self.block, 0
            used += need
        item.size = size + used
        if size == 0 and used <= self.block - INODE_SIZE:
            item.format = inode_format(INLINE)
            self._place(item, used, used)
        else:
            item.union = self.block_count
            self.block_count += (item.size + self.block - 1) // self.block
            self._place(item, 0)

    def _fill_directory(self, item: _Item, entries: list[tuple[bytes, _Item]], parent: _Item) -> None:
        rows = sorted([(b".", item), (b"..", parent), *entries], key=_by_name)
        blocks: list[bytes] = []
        group: list[tuple[bytes, _Item]] = []
        used = 0
        for row in rows:
            need = DIRENT_SIZE + len(row[0])
            if used + need > self.block:
                blocks.append(_directory_block(group))
                group, used = [], 0
            group.append(row)
            used += need
        blocks.append(_directory_block(group))
        if item.format == inode_format(INLINE):
            item.tail = blocks[0]
            return
        data = b"".join(block.ljust(self.block, b"\0") for block in blocks)
        self.blocks.append((item.union, data))

    def _place_file(self, item: _Item) -> None:
        node = item.node
        kind = stat.S_IFMT(node.mode)
        if kind == stat.S_IFREG and node.size:
            if node.size > MAX_FILE:
                raise ImageError(f"layer: a file of {node.size} bytes")
            item.size = node.size
            item.format = inode_format(CHUNKED)
            if self.bits == DISK_BITS:
                if node.offset + (node.size if node.sparse is None else sum(length for _, length in node.sparse)) > self.tar_size:
                    raise ImageError("layer: the archive is broken: a file lies beyond its end")
                item.format = inode_format(PLAIN)
                self.whole.append(item)
            elif node.sparse is None:
                if node.offset + node.size > self.tar_size:
                    raise ImageError("layer: the archive is broken: a file lies beyond its end")
                bits = max((node.size - 1).bit_length() - self.bits, 0)
                if bits > MAX_BITS:
                    raise ImageError(f"layer: a file of {node.size} bytes")
                item.union = CHUNK_INDEXES | bits  # one chunk is enough for all of it
                item.chunks = CHUNK.pack(0, TAR_DEVICE, node.offset >> self.bits)
            else:
                self._sparse(item)
            self._place(item, len(item.chunks))
        elif kind == stat.S_IFLNK:
            item.size = len(node.target)
            if item.size <= self.block - INODE_SIZE:
                item.format = inode_format(INLINE)
                item.tail = node.target
                self._place(item, item.size, item.size)
            else:
                item.union = self.block_count
                self.block_count += (item.size + self.block - 1) // self.block
                self.blocks.append((item.union, node.target))
                self._place(item, 0)
        else:
            if kind in (stat.S_IFCHR, stat.S_IFBLK):
                item.union = device_number(*node.rdev)
            self._place(item, 0)

    def _sparse(self, item: _Item) -> None:
        """The chunks of a sparse file: in the tar where the pieces lie on its blocks, else in blocks of the index's own."""
        node = item.node
        assert node.sparse is not None
        if node.offset + sum(length for _, length in node.sparse) > self.tar_size:
            raise ImageError("layer: the archive is broken: a file lies beyond its end")
        pieces = joined(node.sparse)
        bits, aligned = chunk_bits(node, pieces)
        chunk = self.block << bits
        count = (node.size + chunk - 1) // chunk
        self.chunk_bytes += CHUNK.size * count
        if self.chunk_bytes > MAX_CHUNK_BYTES:
            raise ImageError("layer: its sparse files need too large an index")
        chunks = bytearray(b"\xff") * (CHUNK.size * count)  # holes
        item.union = CHUNK_INDEXES | bits
        stored = node.offset
        if aligned:
            for offset, length in pieces:
                for i in range(offset // chunk, (offset + length + chunk - 1) // chunk):
                    CHUNK.pack_into(chunks, i * CHUNK.size, 0, TAR_DEVICE, (stored + i * chunk - offset) >> self.bits)
                stored += length
            item.chunks = bytes(chunks)
            return
        item.chunks = bytes(chunks)
        touched = sorted({i for offset, length in pieces for i in range(offset // chunk, (offset + length - 1) // chunk + 1)})
        if (len(touched) << bits) + self.block_count > MAX_OWN >> self.bits:
            raise ImageError("layer: a sparse file is too fragmented for an index")
        order = {i: n for n, i in enumerate(touched)}
        region = bytearray(len(touched) * chunk)
        window, begin = b"", 0  # of the archive, read in large pieces: there may be half a million small ones
        for offset, length in pieces:
            done = 0
            while done < length:
                if not begin <= stored + done < begin + len(window):
                    window, begin = self.read(stored + done, WINDOW), stored + done
                    if not window:
                        raise ImageError("layer: the archive is broken: a file lies beyond its end")
                i, inside = divmod(offset + done, chunk)
                at = stored + done - begin
                part = window[at : at + min(length - done, chunk - inside)]
                region[order[i] * chunk + inside : order[i] * chunk + inside + len(part)] = part
                done += len(part)
            stored += length
        self.own_chunks.append((item, [(i, self.block_count + (n << bits)) for i, n in order.items()]))
        self.blocks.append((self.block_count, region))
        self.block_count += len(touched) << bits

    def _assemble(self, begin: int, top: _Item, tag: bytes) -> bytes:
        if (begin + self.block_count) << self.bits > MAX_INDEX + MAX_OWN:
            raise ImageError("layer: its index would be too large")
        out = bytearray((begin + self.block_count) << self.bits)
        for item in self.whole:
            item.union = self.block_count
            self.block_count += (item.size + self.block - 1) // self.block
        total = self.total = begin + self.block_count
        if total >= HOLE:
            raise ImageError("layer: is too large for a disk")
        for item, places in self.own_chunks:
            chunks = bytearray(item.chunks)
            for i, place in places:
                CHUNK.pack_into(chunks, i * CHUNK.size, 0, OWN_DEVICE, begin + place)
            item.chunks = bytes(chunks)
        pack = INODE.pack_into
        for number, item in enumerate(self.items, 1):
            node = item.node
            at = item.nid * SLOT
            union = item.union
            if item.format == inode_format(PLAIN) and item.size:
                union += begin
            seconds, nanoseconds = divmod(node.mtime, 1_000_000_000)
            count = (len(item.attributes) - XATTR_HEADER) // 4 + 1 if item.attributes else 0
            pack(
                out, at, item.format, count, node.mode, 0, item.size, union, number,
                node.uid, node.gid, seconds & 0xFFFFFFFFFFFFFFFF, nanoseconds, item.links if node.children is not None else node.links,
            )  # fmt: skip
            at += INODE_SIZE
            if item.attributes:
                out[at : at + len(item.attributes)] = item.attributes
                at += len(item.attributes)
            if item.chunks:
                at = (at + 7) // 8 * 8
                out[at : at + len(item.chunks)] = item.chunks
            elif item.tail:
                out[at : at + len(item.tail)] = item.tail
        for block, data in self.blocks:
            at = (begin + block) << self.bits
            out[at : at + len(data)] = data
        features, devices = (0, 0) if self.bits == DISK_BITS else (INCOMPAT_CHUNKED | INCOMPAT_DEVICES, 1)
        SUPER.pack_into(
            out, SUPER_OFFSET, MAGIC, 0, COMPAT_MTIME, self.bits, 0, top.nid, len(self.items), 0, 0, total, 0, 0, bytes(16), bytes(16),
            features, 0, devices, DEVICE_OFFSET // 128 if devices else 0,
        )  # fmt: skip
        if not devices:
            return bytes(out)
        DEVICE.pack_into(out, DEVICE_OFFSET, tag[:64], (self.tar_size + self.block - 1) >> self.bits, 0, 0)
        return bytes(out)


def _by_name(row: tuple[bytes, _Item]) -> bytes:
    return row[0]


def _directory_block(rows: list[tuple[bytes, _Item]]) -> bytes:
    offset = DIRENT_SIZE * len(rows)
    entries = bytearray(offset)
    at = 0
    for name, item in rows:
        DIRENT.pack_into(entries, at, item.nid, offset, _FILE_TYPES[stat.S_IFMT(item.node.mode)])
        offset += len(name)
        at += DIRENT_SIZE
    return bytes(entries) + b"".join([row[0] for row in rows])


def _attributes(node: Node) -> bytes:
    """A file's extended attributes: a header, then (length of the name, its prefix, length of the value), name, value."""
    found = {**node.xattrs, **_OPAQUE} if node.opaque else node.xattrs
    out = bytearray(XATTR_HEADER)
    for name, value in sorted(found.items()):
        for number, prefix in XATTR_PREFIXES:
            if name.startswith(prefix):
                short = name[len(prefix) :]
                out += XATTR.pack(len(short), number, len(value)) + short + value
                out += bytes(-len(out) % 4)
    if len(out) > 4 * 0xFFFF:
        raise ImageError("layer: a file with more than 256 KiB of extended attributes")
    return bytes(out) if len(out) > XATTR_HEADER else b""
