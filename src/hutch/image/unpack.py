"""Unpack a layer's tar into a directory that overlayfs can use as a lower layer.

The archive is hostile: nothing in it is trusted to stay where it says. Every member's parent is resolved by the kernel
inside the layer's own directory (openat2(2), RESOLVE_IN_ROOT), and the member is made by name in that descriptor, without
following what already stands there. OCI whiteouts (image-spec, layer.md) become overlayfs's.
"""

from __future__ import annotations

import os
import stat
import tarfile

from hutch.errors import ImageError
from hutch.kernel import syscalls, trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
MAX_MEMBERS = 10_000_000
MAX_PATH = 4096
MAX_DEPTH = 512
MAX_HEADER = 1 << 20


class Member(tarfile.TarInfo):
    """A member whose header must be sound: `tarfile` takes a broken one in the middle for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]  # noqa: D102
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ in ("EOFHeaderError", "EmptyHeaderError"):
                raise
            raise ImageError(f"layer: the archive is broken: {error}") from None

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in extended and self.size > MAX_HEADER:
            raise ImageError(f"layer: a header of {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


class Unpacker:
    """One layer on its way into one directory. `owners`: as root, keep owners, devices and security attributes."""

    def __init__(self, directory: str, owners: bool) -> None:
        self.root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.owners = owners
        self.modes: list[tuple[str, int, tuple[int, int]]] = []  # directories get their modes last: 0555 takes no children

    def close(self) -> None:
        """Set what had to wait, and let go."""
        try:
            for path, mode, times in reversed(self.modes):
                try:
                    fd = syscalls.openat2(self.root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, 0, syscalls.RESOLVE_BENEATH)
                except OSError:
                    continue  # a later member replaced it
                os.fchmod(fd, mode)
                os.utime(fd, ns=times)
                os.close(fd)
        finally:
            os.close(self.root)

    def parent(self, path: str) -> tuple[int, str]:
        """A descriptor of a member's directory, made where missing, and the member's own name."""
        head, _, name = path.rpartition("/")
        try:
            return syscalls.openat2(self.root, head or ".", os.O_RDONLY | os.O_DIRECTORY, 0, IN_ROOT), name
        except FileNotFoundError:
            above, own = self.parent(head)
            try:
                os.mkdir(own, 0o755, dir_fd=above)
            except FileExistsError:
                raise ImageError(f"layer: {head!r} is a link to nothing, and {path!r} lies below it") from None
            finally:
                os.close(above)
            return syscalls.openat2(self.root, head, os.O_RDONLY | os.O_DIRECTORY, 0, IN_ROOT), name

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Make one member. Raises ImageError for what no layer may hold, OSError for the disk's own troubles."""
        path = clean(member.name)
        if not path:
            if member.isdir():
                os.fchmod(self.root, member.mode & 0o7777)
                if self.owners:
                    os.fchown(self.root, member.uid, member.gid)
            return
        directory, name = self.parent(path)
        try:
            if name.startswith(WHITEOUT):
                self._whiteout(directory, name)
                return
            self._make(archive, member, directory, name, path)
        except (NotADirectoryError, IsADirectoryError, ValueError, OverflowError, UnicodeError) as error:
            raise ImageError(f"layer: {member.name!r}: {error}") from None
        finally:
            os.close(directory)

    def _whiteout(self, directory: int, name: str) -> None:
        if name == OPAQUE:
            for attribute in ("user.overlay.opaque", "trusted.overlay.opaque"):
                try:
                    os.setxattr(directory, attribute, b"y")
                except PermissionError:
                    continue
            return
        hidden = name.removeprefix(WHITEOUT)
        if not hidden or hidden in (".", ".."):
            raise ImageError(f"layer: {name!r} is no whiteout")
        self._clear(directory, hidden)
        os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=directory)

    def _clear(self, directory: int, name: str) -> None:
        """A member replaces what stands in its place, whatever that is; a directory only with its content."""
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            trees.remove_tree(f"/proc/self/fd/{directory}/{name}")

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, directory: int, name: str, path: str) -> None:
        mode = member.mode & 0o7777
        if member.isdir():
            try:
                os.mkdir(name, 0o755, dir_fd=directory)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=directory)
                    os.mkdir(name, 0o755, dir_fd=directory)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                os.fchmod(fd, 0o755)
                self._attributes(fd, member)
            finally:
                os.close(fd)
            moment = int(member.mtime * 1_000_000_000)
            self.modes.append((path, mode, (moment, moment)))
            return
        self._clear(directory, name)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=directory)
            if self.owners:
                os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
        elif member.islnk():
            self._hard_link(member, directory, name)
        elif member.isreg() or member.type in (tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE):
            self._file(archive, member, directory, name, mode)
        elif member.isfifo():
            os.mkfifo(name, mode, dir_fd=directory)
            self._own(member, directory, name, mode)
        elif member.ischr() or member.isblk():
            if self.owners:
                kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
                os.mknod(name, kind | mode, os.makedev(member.devmajor, member.devminor), dir_fd=directory)
                self._own(member, directory, name, mode)
        else:
            raise ImageError(f"layer: {member.name!r} is of an unknown type {member.type!r}")

    def _own(self, member: tarfile.TarInfo, directory: int, name: str, mode: int) -> None:
        if self.owners:
            os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
        os.chmod(name, mode, dir_fd=directory)

    def _hard_link(self, member: tarfile.TarInfo, directory: int, name: str) -> None:
        target = clean(member.linkname)
        try:
            source, own = self.parent(target)
        except OSError as error:
            raise ImageError(f"layer: {member.name!r} links to {member.linkname!r}: {error.strerror}") from None
        try:
            # the link itself, never what it points at
            os.link(own, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            raise ImageError(f"layer: {member.name!r} links to {member.linkname!r}: {error.strerror}") from None
        finally:
            os.close(source)

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, directory: int, name: str, mode: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            content = archive.extractfile(member)
            if content is not None:
                while data := content.read(1 << 20):
                    view = memoryview(data)
                    while view:
                        view = view[os.write(fd, view) :]
            self._attributes(fd, member)
            os.fchmod(fd, mode)  # after chown, which takes set-uid bits away
            moment = int(member.mtime * 1_000_000_000)
            os.utime(fd, ns=(moment, moment))
        finally:
            os.close(fd)

    def _attributes(self, fd: int, member: tarfile.TarInfo) -> None:
        if self.owners:
            os.fchown(fd, member.uid, member.gid)
        for key, value in member.pax_headers.items():
            attribute = key.removeprefix("SCHILY.xattr.")
            if attribute == key or attribute.startswith(("trusted.", "user.overlay.", "system.")):
                continue  # overlayfs's own marks are not the archive's to set
            if attribute.startswith("security.") and not self.owners:
                continue
            try:
                os.setxattr(fd, attribute, value.encode("utf-8", "surrogateescape"))
            except OSError:
                continue


def clean(name: str) -> str:
    """A member's path without a leading slash and dots. Raises ImageError for one with ``..``, or too long."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageError(f"layer: the path {name!r} leads out of the layer")
    if len(name) > MAX_PATH or len(parts) > MAX_DEPTH or "\0" in name:
        raise ImageError(f"layer: the path {name[:60]!r}… is too long")
    return "/".join(parts)


def unpack(stream: BinaryIO, directory: str) -> None:
    """Unpack a plain tar. Raises ImageError for a broken or hostile one, OSError when the disk is full."""
    owners = os.geteuid() == 0
    unpacker = Unpacker(directory, owners)
    try:
        try:
            with tarfile.open(fileobj=stream, mode="r|", errorlevel=2, tarinfo=Member) as archive:
                for count, member in enumerate(archive):
                    if count > MAX_MEMBERS:
                        raise ImageError(f"layer: more than {MAX_MEMBERS} members")
                    unpacker.add(archive, member)
                    archive.members = []  # type: ignore[attr-defined]  # or the list of all members stays in memory
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise ImageError(f"layer: the archive is broken: {error}") from None
    finally:
        unpacker.close()
