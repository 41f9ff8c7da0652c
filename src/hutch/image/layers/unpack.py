"""Unpack a layer into a directory that overlayfs can use as a lower layer.

The archive is hostile: nothing in it is trusted to stay where it says. Every member's parent is resolved by the kernel
inside the layer's own directory (openat2(2), RESOLVE_IN_ROOT), and the member is made by name in that descriptor, without
following what already stands there. The rules for what replaces what are those of `tree`.
"""

from __future__ import annotations

import errno
import os
import stat

from hutch.errors import ImageError
from hutch.image.layers import marks
from hutch.image.layers.tree import AUFS, MAX_LINKS, MAX_MEMORY, WHITEOUT, whiteout_of, xattrs_of
from hutch.image.tar.header import BLOCKDEVICE, CHARACTER, DIRECTORY, FIFO, HARDLINK, SYMLINK, Member, path_of, show
from hutch.image.tar.reader import Reader
from hutch.kernel import syscalls, trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Self

IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


class Unpacker:
    """One layer on its way into one directory; a sink of `Reader`.

    `owners`: keep owners, devices and security attributes, as root, or as root of a user namespace, can.
    """

    wants = True

    def __init__(self, directory: str, owners: bool) -> None:
        self.root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.owners = owners
        # Directories get their modes and times last: 0555 takes no children. By (device, inode): path without links, mode, mtime.
        self._modes: dict[tuple[int, int], tuple[str, str, int, int]] = {}  # (the parent's path, name, mode, mtime)
        self._above = ""  # the last parent's path: many have the same, which is kept once
        self._memory = 0  # bytes of all this, as near as can be told
        self._links = 0  # that were followed to places that are not there yet, for one member
        self._top = os.readlink(f"/proc/self/fd/{self.root}").rstrip("/")
        self._file = -1
        self._member: Member | None = None
        self._written = 0
        self._parent: tuple[str, int] = ("", -1)
        self._hidden: set[tuple[int, int, str]] = set()  # names that whiteouts hide in lower layers, by their directory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._finish()
            if kind is None:
                self._set_modes()
        finally:
            self._forget_parent()
            os.close(self.root)

    def _set_modes(self) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY
        # the deepest first: a directory that nobody may enter hides those in it
        for identity, (above, name, mode, mtime) in sorted(self._modes.items(), key=lambda item: -item[1][0].count("/") - bool(item[1][0])):
            path = f"{above}/{name}" if above else name
            try:
                fd = syscalls.openat2(self.root, path or ".", flags, 0, IN_ROOT)
            except OSError:
                continue  # a later member replaced it
            if _identity(fd) == identity:
                os.fchmod(fd, mode)
                os.utime(fd, ns=(mtime, mtime))
            os.close(fd)

    def _remember(self, fd: int, member: Member) -> None:
        """A directory's mode and time are this member's: of several the last one's, whatever links they came by."""
        try:
            path = self._path(fd)
        except OSError:  # longer than any path (PATH_MAX): links led there, and lead there at the end if nothing replaces them
            path = os.fsdecode(b"/".join(path_of(member.name)))
        above, _, name = path.rpartition("/")
        if above == self._above:
            above = self._above
        else:
            self._above = above
            self._remembered(len(above))
        self._remembered(400 + len(name))
        self._modes[_identity(fd)] = (above, name, member.mode, member.mtime)

    def _remembered(self, size: int) -> None:
        """Raise ImageError when what is kept until the end takes too much memory."""
        self._memory += size
        if self._memory > MAX_MEMORY:
            raise ImageError(f"layer: its directories and whiteouts would take more than {MAX_MEMORY >> 20} MiB of memory")

    def _forget_parent(self) -> None:
        if self._parent[1] >= 0:
            os.close(self._parent[1])
        self._parent = ("", -1)

    def _directory(self, path: str, name: bytes) -> int:
        """A descriptor of a directory, made with its parents where missing; kept for the next member in it."""
        if self._parent[1] >= 0 and self._parent[0] == path:
            return self._parent[1]
        self._forget_parent()
        self._links = 0
        self._parent = (path, self._open_directory(path, name))
        return self._parent[1]

    def _open_directory(self, path: str, name: bytes) -> int:
        try:
            return syscalls.openat2(self.root, path or ".", os.O_RDONLY | os.O_DIRECTORY, 0, IN_ROOT)
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            if not self._whiteout_at(path):
                raise ImageError(f"layer: {show(name)} lies below something that is no directory") from None
        except OSError as error:
            raise ImageError(f"layer: {show(name)}: {error.strerror}") from None
        head, _, own = path.rpartition("/")
        above = self._open_directory(head, name)
        try:
            replaced = marks.is_whiteout_at(above, own)
            if replaced:
                os.unlink(own, dir_fd=above)
            os.mkdir(own, 0o755, dir_fd=above)
            info = os.stat(own, dir_fd=above, follow_symlinks=False)
            self._modes.pop((info.st_dev, info.st_ino), None)  # of one that is gone, whose number it has
            if replaced:
                marks.set_opaque_at(above, own)
        except FileExistsError:
            # a link to a place that is not there yet: the place is made, as far as it lies in the layer
            return self._through_link(above, own, name)
        finally:
            os.close(above)
        return syscalls.openat2(self.root, path, os.O_RDONLY | os.O_DIRECTORY, 0, IN_ROOT)

    def _through_link(self, above: int, own: str, name: bytes) -> int:
        """The directory that a link names, made part by part as its target says."""
        try:
            target = os.readlink(own, dir_fd=above)
        except OSError:
            raise ImageError(f"layer: {show(name)} lies below something that is no directory") from None
        self._links += 1
        if self._links > MAX_LINKS:
            raise ImageError(f"layer: {show(name)} leads through too many links")
        here = os.dup(self.root if target.startswith("/") else above)
        try:
            for part in target.split("/"):
                if part in ("", "."):
                    continue
                path = self._path(here)
                below = self._open_directory(path.rpartition("/")[0] if part == ".." else f"{path}/{part}".lstrip("/"), name)
                os.close(here)
                here = below
            return os.dup(here)
        finally:
            os.close(here)

    def _path(self, directory: int) -> str:
        """An open directory's path below the root, without links."""
        return os.readlink(f"/proc/self/fd/{directory}").removeprefix(self._top).strip("/")

    def _whiteout_at(self, path: str) -> bool:
        head, _, own = path.rpartition("/")
        try:
            above = syscalls.openat2(self.root, head or ".", os.O_RDONLY | os.O_DIRECTORY, 0, IN_ROOT)
        except NotADirectoryError:
            return bool(head) and self._whiteout_at(head)
        except OSError:
            return False
        try:
            return marks.is_whiteout_at(above, own)
        finally:
            os.close(above)

    def member(self, member: Member) -> None:
        """Make one member. Raises ImageError for what no layer may hold, OSError for the disk's own troubles."""
        self._finish()
        parts = path_of(member.name)
        if not parts:
            if member.kind == DIRECTORY:
                self._attributes(self.root, member)
                self._remember(self.root, member)
            return
        path = os.fsdecode(b"/".join(parts))
        head, _, name = path.rpartition("/")
        try:
            directory = self._directory(head, member.name)
            if name.startswith(".wh."):
                self._whiteout(directory, parts[-1])
            else:
                self._make(member, directory, name)
        except (NotADirectoryError, IsADirectoryError, ValueError, OverflowError, UnicodeError, RecursionError) as error:
            raise ImageError(f"layer: {show(member.name)}: {error}") from None

    def _whiteout(self, directory: int, name: bytes) -> None:
        hidden = whiteout_of(name)
        if hidden == b"":
            marks.set_opaque(directory)
            return
        if hidden is None or name.startswith(AUFS):
            return
        own = os.fsdecode(name[len(WHITEOUT) :])
        self._hidden.add((*_identity(directory), own))
        self._remembered(300 + len(own))
        try:
            info = os.stat(own, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(own, stat.S_IFCHR, 0, dir_fd=directory)
            return
        if stat.S_ISDIR(info.st_mode):
            marks.set_opaque_at(directory, own)

    def _clear(self, directory: int, name: str) -> None:
        """A member replaces what stands in its place, whatever that is; a directory only with its content."""
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            trees.remove_tree(f"/proc/self/fd/{directory}/{name}")

    def _make(self, member: Member, directory: int, name: str) -> None:
        if member.kind == DIRECTORY:
            self._make_directory(member, directory, name)
            return
        if member.kind == HARDLINK:
            self._hard_link(member, directory, name)
            return
        self._clear(directory, name)
        if member.kind == SYMLINK:
            os.symlink(os.fsdecode(member.link), name, dir_fd=directory)
            self._chown(member, name, directory)
            os.utime(name, ns=(member.mtime, member.mtime), dir_fd=directory, follow_symlinks=False)
        elif member.kind == FIFO:
            os.mkfifo(name, member.mode, dir_fd=directory)
            self._own(member, directory, name)
        elif member.kind in (CHARACTER, BLOCKDEVICE):
            if self.owners and not self._device(member, directory, name):
                return
            if self.owners:
                self._own(member, directory, name)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(name, flags, 0o600, dir_fd=directory)
            self._member, self._written = member, 0

    def _device(self, member: Member, directory: int, name: str) -> bool:
        kind = stat.S_IFCHR if member.kind == CHARACTER else stat.S_IFBLK
        try:
            os.mknod(name, kind | member.mode, os.makedev(*member.rdev), dir_fd=directory)
        except PermissionError:
            return False  # root of a user namespace makes no devices, and its containers could open none
        return True

    def _make_directory(self, member: Member, directory: int, name: str) -> None:
        opaque = marks.is_whiteout_at(directory, name) or (bool(self._hidden) and (*_identity(directory), name) in self._hidden)
        try:
            os.mkdir(name, 0o755, dir_fd=directory)
            fresh = True
        except FileExistsError:
            fresh = not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
            if fresh:
                os.unlink(name, dir_fd=directory)
                os.mkdir(name, 0o755, dir_fd=directory)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fchmod(fd, 0o755)
            if not fresh:
                marks.forget_attributes(fd)
            self._attributes(fd, member)
            self._remember(fd, member)
            if opaque:
                marks.set_opaque(fd)
        finally:
            os.close(fd)

    def _own(self, member: Member, directory: int, name: str) -> None:
        self._chown(member, name, directory)
        os.chmod(name, member.mode, dir_fd=directory)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=directory)

    def _chown(self, member: Member, file: str | int, directory: int | None = None) -> None:
        if not self.owners:
            return
        try:
            if directory is None:
                os.chown(file, member.uid, member.gid)
            else:
                os.chown(file, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ImageError(
                f"layer: {show(member.name)} belongs to {member.uid}:{member.gid}, which is no id of this user's containers",
                "more subordinate ids (/etc/subuid, /etc/subgid) reach further",
            ) from None

    def _hard_link(self, member: Member, directory: int, name: str) -> None:
        parts = path_of(member.link)
        target = os.fsdecode(b"/".join(parts))
        head, _, own = target.rpartition("/")

        def missing(why: object) -> ImageError:
            return ImageError(f"layer: {show(member.name)} links to {show(member.link)}, which {why}")

        if not parts:
            raise missing("is a directory")
        try:
            source = syscalls.openat2(self.root, head or ".", os.O_RDONLY | os.O_DIRECTORY, 0, IN_ROOT)
        except OSError:
            raise missing("is not in the layer") from None
        try:
            info = os.stat(own, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                raise missing("is a directory")
            if marks.is_whiteout_at(source, own):
                raise missing("is not in the layer")
            try:
                if os.path.samestat(info, os.stat(name, dir_fd=directory, follow_symlinks=False)):
                    return
            except OSError:
                pass
            # the link itself, never what it points at; under another name first: it may lie below what it replaces
            fresh = f".{os.urandom(8).hex()}"
            os.link(own, fresh, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
            self._clear(directory, name)
            os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        except FileNotFoundError:
            raise missing("is not in the layer") from None
        finally:
            os.close(source)

    def data(self, piece: bytes) -> None:
        """The next piece of the file that was begun."""
        member = self._member
        if member is None:
            return
        view = memoryview(piece)
        if member.sparse is None:
            while view:
                view = view[os.write(self._file, view) :]
            return
        begin = 0
        for offset, length in member.sparse:
            inside = self._written - begin
            if 0 <= inside < length and view:
                part = view[: length - inside]
                view = view[len(part) :]
                self._written += len(part)
                place = offset + inside
                while part:
                    done = os.pwrite(self._file, part, place)
                    part, place = part[done:], place + done
            begin += length

    def _finish(self) -> None:
        """The file that was begun is whole: its owner and mode, which writing would have changed."""
        if self._file < 0 or self._member is None:
            return
        fd, member = self._file, self._member
        self._file, self._member = -1, None
        try:
            if member.sparse is not None:
                os.ftruncate(fd, member.size)
            self._attributes(fd, member)
            os.fchmod(fd, member.mode)  # after chown, which takes set-uid bits away
            os.utime(fd, ns=(member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _attributes(self, fd: int, member: Member) -> None:
        self._chown(member, fd)
        for name, value in xattrs_of(member).items() if member.xattrs else ():
            if name.startswith(b"security.") and not self.owners:
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError:
                continue


def _identity(directory: int) -> tuple[int, int]:
    info = os.fstat(directory)
    return info.st_dev, info.st_ino


def unpack(stream: BinaryIO, directory: str, owners: bool | None = None) -> None:
    """Unpack a plain tar. Raises ImageError for a broken or hostile one, OSError when the disk is full."""
    with Unpacker(directory, os.geteuid() == 0 if owners is None else owners) as unpacker:
        reader = Reader(unpacker)
        while piece := stream.read(1 << 20):
            reader.feed(piece)
        reader.close()
