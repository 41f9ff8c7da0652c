"""A layer's files in memory, as its archive's members make them one after the other.

The rules are those of unpacking (GNU tar; OCI image-spec, layer.md): a later member replaces an earlier one, a directory
keeps its content, a link in the way is followed inside the layer and nowhere else. Whiteouts hide what lower layers have
and nothing of their own layer, in whatever order they come, and become overlayfs's (overlayfs.rst).
"""

from __future__ import annotations

import stat

from hutch.errors import ImageError
from hutch.image.tar.header import BLOCKDEVICE, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Member, path_of, show

WHITEOUT, OPAQUE, AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."
MAX_LINKS = 40  # followed in one path, as the kernel does
MAX_STEPS = 4096  # parts of all their targets
MAX_IMPLIED = 1 << 18  # directories that no member describes: a path of a kilobyte names five hundred
MAX_ATTRIBUTES = 128 << 20  # bytes of all files' extended attributes
MAX_MEMORY = 320 << 20  # bytes of the whole tree, as near as can be told
NODE, CHILDREN = 420, 250  # bytes of a file with its entry, and of a directory's table

NONE: dict[bytes, bytes] = {}  # the attributes of a file without any: never written to

_TYPES = {
    REGULAR: stat.S_IFREG, DIRECTORY: stat.S_IFDIR, SYMLINK: stat.S_IFLNK, CHARACTER: stat.S_IFCHR, BLOCKDEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO,
}  # fmt: skip


class Node:
    """A file. `mode` with its type's bits; `offset` and `sparse` where its content lies in the archive (see `Member`);
    `children` of a directory; `links` counts the names of anything else. `opaque`: what lower layers have below it is hidden.
    `hidden` are names in a directory that a whiteout of this layer hides in lower ones, whatever stands there now.
    """

    __slots__ = ("children", "gid", "hidden", "links", "mode", "mtime", "offset", "opaque", "rdev", "size", "sparse", "target", "uid", "xattrs")

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0) -> None:
        self.mode, self.uid, self.gid, self.mtime = mode, uid, gid, mtime
        self.size = self.offset = 0
        self.sparse: tuple[tuple[int, int], ...] | None = None
        self.children: dict[bytes, Node] | None = {} if stat.S_ISDIR(mode) else None
        self.target = b""
        self.rdev = (0, 0)
        self.xattrs = NONE
        self.links = 1
        self.opaque = False
        self.hidden: set[bytes] | None = None

    @property
    def whiteout(self) -> bool:
        """Whether it is overlayfs's mark for a file that lower layers have and this one has not."""
        return stat.S_ISCHR(self.mode) and self.rdev == (0, 0)


def new_directory() -> Node:
    """A directory that no member describes: root's, open to all."""
    return Node(stat.S_IFDIR | 0o755)


def xattrs_of(member: Member) -> dict[bytes, bytes]:
    """The attributes that a layer may set: overlayfs's own marks are not the archive's, ACLs have another form there."""
    return {
        name: value
        for name, value in member.xattrs.items()
        if name.startswith((b"user.", b"security.")) and not name.startswith(b"user.overlay.") and len(name) <= 255 and b"\0" not in name and len(value) < 65536
    }


def whiteout_of(name: bytes) -> bytes | None:
    """The name that a whiteout hides; b"" for an opaque directory's mark, None for a name that is no whiteout.

    Raises ImageError for one that hides nothing that can be.
    """
    if not name.startswith(WHITEOUT):
        return None
    if name == OPAQUE:
        return b""
    hidden = name[len(WHITEOUT) :]
    if hidden in (b"", b".", b".."):
        raise ImageError(f"layer: {show(name)} is no whiteout")
    return hidden


class TooLarge(ImageError):
    """More files than are kept in memory: the layer can be unpacked, and not indexed."""


class Tree:
    """The sink of a `Reader` that only wants to know where everything lies: `root` is the layer's root directory."""

    wants = False

    def __init__(self) -> None:
        self.root = new_directory()
        self.count = 0
        self._implied = self._attributes = self._memory = 0
        self._last: tuple[tuple[bytes, ...], Node] = ((), self.root)

    def data(self, piece: bytes) -> None:
        """Never called: the content stays where it is."""

    def member(self, member: Member) -> None:
        """Add a member. Raises ImageError for what no layer may hold."""
        parts = path_of(member.name)
        if not parts:
            if member.kind == DIRECTORY:
                self._describe(self.root, member)
            return
        above, name = parts[:-1], parts[-1]
        if self._last[0] != above:
            self._last = (above, self._walk(above, member.name))
        parent = self._last[1]
        children = self._children(parent, member.name)
        if name.startswith(WHITEOUT):
            self._whiteout(parent, children, name)
            return
        existing = children.get(name)
        if member.kind == DIRECTORY:
            if existing is None or existing.children is None:
                node = new_directory()
                node.opaque = (parent.hidden is not None and name in parent.hidden) or (existing is not None and existing.whiteout)
                self._put(children, name, node)
            else:
                node = existing
            self._describe(node, member)
            return
        if member.kind == HARDLINK:
            node = self._linked(member)
            if node is existing:
                return
            node.links += 1
        else:
            node = Node(_TYPES[member.kind])
            self._describe(node, member)
            node.size, node.offset, node.sparse, node.rdev = member.size, member.offset, member.sparse, member.rdev
            if member.kind == SYMLINK:
                node.target = member.link
                node.mode = stat.S_IFLNK | 0o777
        self._put(children, name, node)

    def _put(self, children: dict[bytes, Node], name: bytes, node: Node) -> None:
        old = children.get(name)
        if old is not None:
            self._last = ((), self.root)  # it may lie in what is dropped here, or behind it
            if old.children is None:
                old.links -= 1
            else:
                _unlink_all(old)
        else:
            self.count += 1
        self._memory += NODE + len(name) + len(node.target) + (CHILDREN if node.children is not None else 0)
        if self._memory + self._attributes > MAX_MEMORY:
            raise TooLarge(f"layer: its files would take more than {MAX_MEMORY >> 20} MiB of memory")
        children[name] = node

    def _describe(self, node: Node, member: Member) -> None:
        node.mode = stat.S_IFMT(node.mode) | member.mode
        node.uid, node.gid, node.mtime = member.uid, member.gid, member.mtime
        node.xattrs = xattrs_of(member) if member.xattrs else NONE
        if node.xattrs:
            self._attributes += sum([len(name) + len(value) for name, value in node.xattrs.items()])
            if self._attributes > MAX_ATTRIBUTES:
                raise ImageError(f"layer: more than {MAX_ATTRIBUTES >> 20} MiB of extended attributes")

    def _children(self, node: Node, name: bytes) -> dict[bytes, Node]:
        if node.children is None:
            raise ImageError(f"layer: {show(name)} lies below something that is no directory")
        return node.children

    def _walk(self, parts: tuple[bytes, ...], name: bytes) -> Node:
        """A directory, made with its parents where missing; links in the way are followed in the layer."""
        path: list[Node] = [self.root]
        left = list(reversed(parts))
        links = steps = 0
        while left:
            part = left.pop()
            children = self._children(path[-1], name)
            if part in (b"", b"."):
                continue
            if part == b"..":
                if len(path) > 1:
                    path.pop()
                continue
            node = children.get(part)
            if node is None or node.whiteout:
                self._implied += 1
                if self._implied > MAX_IMPLIED:
                    raise ImageError(f"layer: more than {MAX_IMPLIED} directories that are not described")
                made = new_directory()
                made.opaque = node is not None
                self._put(children, part, made)
                node = made
            elif stat.S_ISLNK(node.mode):
                target = node.target.split(b"/")
                links += 1
                steps += len(target)
                if links > MAX_LINKS or steps > MAX_STEPS:
                    raise ImageError(f"layer: {show(name)} leads through too many links")
                if not target[0]:
                    path = [self.root]
                left += reversed(target)
                continue
            path.append(node)
        return path[-1]

    def _linked(self, member: Member) -> Node:
        parts = path_of(member.link)
        node = self._walk(parts[:-1], member.link).children if parts else None
        found = node.get(parts[-1]) if node is not None else None
        if found is None or found.whiteout:
            raise ImageError(f"layer: {show(member.name)} links to {show(member.link)}, which is not in the layer")
        if found.children is not None:
            raise ImageError(f"layer: {show(member.name)} links to {show(member.link)}, which is a directory")
        return found

    def _whiteout(self, parent: Node, children: dict[bytes, Node], name: bytes) -> None:
        hidden = whiteout_of(name)
        if hidden == b"":
            parent.opaque = True
            return
        if name.startswith(AUFS) or hidden is None:
            return  # another union file system's own book-keeping
        if parent.hidden is None:
            parent.hidden = set()
        parent.hidden.add(hidden)
        existing = children.get(hidden)
        if existing is None:
            self._put(children, hidden, Node(stat.S_IFCHR))
        elif existing.children is not None:
            existing.opaque = True


def _unlink_all(directory: Node) -> None:
    """Names of files that a dropped directory held are gone, too."""
    left = [directory]
    while left:
        for child in (left.pop().children or {}).values():
            if child.children is not None:
                left.append(child)
            else:
                child.links -= 1
