"""A container's changes as a layer: what overlayfs has put into its upper directory, as OCI's changesets have it.

overlayfs.rst says what an upper directory holds: files that were copied up or made, whiteouts (a character device 0/0) for
what was removed, and a mark on directories that hide what lies below. layer.md has ``.wh.`` names for the last two. Names are
sorted and what differs from run to run is left out, so that the same changes give the same bytes.
"""

from __future__ import annotations

import os
import stat

from hutch.errors import ImageError
from hutch.image.layers import marks
from hutch.image.layers.tree import OPAQUE, WHITEOUT
from hutch.image.tar.header import DIRECTORY, HARDLINK, REGULAR, SYMLINK, Member, show
from hutch.image.tar.writer import KINDS, Writer
from hutch.kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OVERLAY = ("user.overlay.", "trusted.overlay.")
OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_DEPTH = 512


class Scope:
    """What of a tree becomes a layer.

    `uids` and `gids` are (first id on disk, first in the archive, count) lines that ids are mapped by; () leaves them.
    `skip` are paths that are left out with all below them, `points` empty directories that are. `whiteouts`: the tree is an
    upper directory. `one_device`: directories of other file systems are taken as empty ones, as those of the kernel are. `top` is a name for the tree's own
    directory (b"": it is no member).
    """

    def __init__(
        self, *, uids: tuple[tuple[int, int, int], ...] = (), gids: tuple[tuple[int, int, int], ...] = (), skip: frozenset[bytes] = frozenset(),
        points: frozenset[bytes] = frozenset(), whiteouts: bool = True, one_device: bool = False,
        top: bytes = b"",
    ) -> None:  # fmt: skip
        self.uids, self.gids, self.skip, self.points = uids, gids, skip, points
        self.whiteouts, self.one_device, self.top = whiteouts, one_device, top


def mapped(number: int, lines: tuple[tuple[int, int, int], ...]) -> int:
    """An id on disk as the archive has it. What no line maps is nobody's (65534), as the container sees it."""
    if not lines:
        return number
    for outside, inside, count in lines:
        if outside <= number < outside + count:
            return inside + number - outside
    return 65534


def write(root: int, scope: Scope, out: Callable[[bytes], object]) -> int:
    """Write a tree, by its directory's descriptor, as a tar; how many members it has. Raises ImageError, OSError."""
    writer = Writer(out)
    count = 0
    links: dict[tuple[int, int], bytes] = {}
    device = os.fstat(root).st_dev

    def walk(directory: int, prefix: bytes, depth: int) -> None:
        nonlocal count
        if depth > MAX_DEPTH:
            raise ImageError(f"{show(prefix)}: is nested too deeply for a layer")
        for name in sorted(os.fsencode(item) for item in os.listdir(directory)):
            path = prefix + name
            if path in scope.skip:
                continue
            try:
                info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone meanwhile
            if stat.S_ISSOCK(info.st_mode):
                continue  # no archive holds one
            if scope.whiteouts and marks.is_whiteout(info):
                writer.add(Member(prefix + WHITEOUT + name, REGULAR))
                count += 1
                continue
            if scope.whiteouts and name.startswith(WHITEOUT):
                raise ImageError(f"{show(path)}: in a layer this name would remove another file", "rename it, and try again")
            member = _member(path, info, scope)
            if stat.S_ISDIR(info.st_mode):
                inside = os.open(name, OPEN, dir_fd=directory)
                foreign = (scope.one_device and info.st_dev != device) or files.of_kernel(inside)
                try:
                    if path in scope.points and not os.listdir(inside):
                        continue
                    opaque = _attributes(inside, member)
                    writer.add(member)
                    count += 1
                    if opaque and scope.whiteouts:
                        writer.add(Member(path + b"/" + OPAQUE, REGULAR))
                    if not foreign:
                        walk(inside, path + b"/", depth + 1)
                finally:
                    os.close(inside)
                continue
            count += 1
            first = links.get((info.st_dev, info.st_ino)) if info.st_nlink > 1 else None
            if first is not None:
                member.kind, member.link, member.size = HARDLINK, first, 0
                writer.add(member)
                continue
            links[info.st_dev, info.st_ino] = path
            _file(writer, directory, name, info, member)

    if scope.top:
        member = _member(scope.top, os.fstat(root), scope)
        _attributes(root, member)
        writer.add(member)
    walk(root, scope.top + b"/" if scope.top else b"", 0)
    writer.close()
    return count


def _member(path: bytes, info: os.stat_result, scope: Scope) -> Member:
    kind = KINDS[stat.S_IFMT(info.st_mode)]
    member = Member(
        path, kind, stat.S_IMODE(info.st_mode), mapped(info.st_uid, scope.uids), mapped(info.st_gid, scope.gids),
        info.st_mtime_ns // 1_000_000_000 * 1_000_000_000, info.st_size if kind == REGULAR else 0,
    )  # fmt: skip
    if kind in "cb":
        member.rdev = (os.major(info.st_rdev), os.minor(info.st_rdev))
    return member


def _file(writer: Writer, directory: int, name: bytes, info: os.stat_result, member: Member) -> None:
    if member.kind == SYMLINK:
        member.link = os.readlink(name, dir_fd=directory)
    if member.kind != REGULAR:
        writer.add(member)
        return
    seen = files.look(os.fsdecode(name), directory)
    try:
        if not stat.S_ISREG(os.fstat(seen).st_mode):
            raise ImageError(f"{show(member.name)} changed while it was being read", "stop or pause the container first")
        fd = files.reopen(seen, os.O_RDONLY | os.O_NONBLOCK)
    finally:
        os.close(seen)
    try:
        now = os.fstat(fd)
        member.size = now.st_size
        _attributes(fd, member)
        writer.add(member, pieces(fd, now.st_size))
    finally:
        os.close(fd)


def pieces(fd: int, size: int) -> Iterator[bytes]:
    """A file's first `size` bytes: it may grow while it is read."""
    done = 0
    while done < size:
        piece = os.read(fd, min(1 << 20, size - done))
        if not piece:
            return
        done += len(piece)
        yield piece


def _attributes(fd: int, member: Member) -> bool:
    """The extended attributes that a layer has; whether the directory hides what lies below it."""
    opaque = False
    try:
        names = os.listxattr(fd)
    except OSError:
        return False
    for name in names:
        if name.startswith(OVERLAY):
            if name.endswith(".opaque") and member.kind == DIRECTORY:
                opaque = opaque or os.getxattr(fd, name) == b"y"
            elif name.endswith(".redirect"):
                raise ImageError(f"{show(member.name)}: was renamed by overlayfs's redirect_dir, which no layer can say", "turn it off")
            continue
        if not name.startswith(("user.", "security.capability")):
            continue
        try:
            value = os.getxattr(fd, name)
        except OSError:
            continue
        if name == "security.capability" and len(value) == 24:
            # a user namespace's root wrote its own id behind it (capabilities(7), version 3): a layer is nobody's
            value = (0x02000000 | (value[0] & 1)).to_bytes(4, "little") + value[4:20]
        member.xattrs[os.fsencode(name)] = value
    return opaque
