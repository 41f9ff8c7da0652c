"""Chapter 5, to run: files as the kernel has them, and layers of them: what a container's root is made of.

``python layers.py`` goes through all parts, ``python layers.py objects copy-up`` through some, ``--json`` prints data. Each part
forks a child into a mount namespace of its own, whose mounts nobody else sees and which end with it; what it writes lies in a
directory below /var/tmp that is removed.

Root is needed for the last part alone, where the kernel mounts a layer's archive without unpacking it. An ordinary user sees
the others inside a user namespace.

Sources: Documentation/filesystems/{vfs,overlayfs,erofs,path-lookup}.rst in the kernel's tree; fsopen(2), mincore(2),
proc_pid_mountinfo(5), proc_pid_pagemap(5); OCI image-spec, layer.md.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import mmap
import os
import socket
import stat
import sys
import tarfile
import tempfile
from typing import TYPE_CHECKING, Any

from hutch.image.layers.erofs import reader, writer
from hutch.image.layers.tree import Tree
from hutch.image.tar.reader import Reader
from hutch.kernel import proc, syscalls as kernel
from hutch.kernel.features import features

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = mmap.PAGESIZE
BIG = 256 * PAGE  # a file that is worth sharing
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

Account = dict[str, Any]


class Skipped(Exception):
    """This kernel, or this user, lacks what a part needs."""


# ---- small tools --------------------------------------------------------------------------------------------------------------


def write(path: str, text: str) -> None:
    """A file with this content, made where it is missing. One write(2): the id maps take nothing else."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """A file's content, without the last newline."""
    return proc.read_text(path).rstrip("\n")


def in_child(work: Callable[[], Account]) -> Account:
    """Fork, let the child do `work`, and return what it found, which comes through a pipe as JSON.

    An OSError in the child is raised again here, and so is Skipped.
    """
    sys.stdout.flush()  # what is in the buffer would be copied, and then written twice
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            try:
                answer: Account = {"found": work()}
            except OSError as error:
                answer = {"error": [error.errno, error.strerror, error.filename]}
            except Skipped as reason:
                answer = {"skipped": str(reason)}
            except Exception as error:
                answer = {"bug": f"{type(error).__name__}: {error}"}
            os.write(writing, json.dumps(answer).encode())
            status = 0
        finally:
            os._exit(status)  # never back into the parent's code
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    answer = json.loads(text or b'{"bug": "it died without an answer"}')
    if "error" in answer:
        raise OSError(*answer["error"])
    if "skipped" in answer:
        raise Skipped(answer["skipped"])
    if "bug" in answer:
        raise RuntimeError(f"in the child: {answer['bug']}")
    return dict(answer["found"])


def enter() -> None:
    """A mount namespace of its own, and a user namespace around it for who is not root (chapter 3)."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWNS | (kernel.CLONE_NEWUSER if uid else 0))
    if uid:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"0 {uid} 1")
        write("/proc/self/gid_map", f"0 {gid} 1")
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def apart(work: Callable[[str, str], Account]) -> Account:
    """Do `work` in a child with mounts of its own. It gets two directories: one on a disk, and one of memory (tmpfs)."""
    with tempfile.TemporaryDirectory(prefix="hutch-book-", dir="/var/tmp") as place:

        def child() -> Account:
            enter()
            os.mkdir(f"{place}/memory")
            kernel.mount("tmpfs", f"{place}/memory", "tmpfs", 0, "size=64m,mode=0755")
            return work(place, f"{place}/memory")

        return in_child(child)


def attach(mount: int, target: str) -> None:
    """Attach a detached mount on a directory, which is made."""
    os.makedirs(target, exist_ok=True)
    kernel.move_mount(mount, target)
    os.close(mount)


def userxattr() -> bool:
    """Whether overlayfs has to keep its notes in user.overlay.*: trusted.* is for root of the first user namespace alone."""
    return read("/proc/self/uid_map").split() != ["0", "0", "4294967295"]


def need_attributes(directory: str) -> None:
    """Skip what takes an overlay without root where files have no attributes that it could use."""
    try:
        os.setxattr(directory, "user.book", b"")
        os.removexattr(directory, "user.book")
    except OSError:
        raise Skipped("without root, overlayfs needs user.* attributes, which tmpfs has since Linux 6.6") from None


def overlay(lowers: list[str], home: str, target: str) -> None:
    """An overlay at `target` of layers, the topmost first, with ``upper`` and ``work`` in `home`."""
    for name in ("upper", "work"):
        os.makedirs(f"{home}/{name}")
    options: list[tuple[str, str | int | None]] = []
    if userxattr():
        need_attributes(f"{home}/upper")
        options.append(("userxattr", None))
    found = features()
    opened = []
    if found.overlay_append and found.overlay_by_descriptor:
        # one layer at a time, each by a descriptor: no path is looked up again, and none can be too long (Linux 6.13)
        opened = [os.open(path, DIRECTORY) for path in (*lowers, f"{home}/upper", f"{home}/work")]
        keys = ("lowerdir+",) * len(lowers) + ("upperdir", "workdir")
        options += list(zip(keys, opened, strict=True))
    else:
        options += [("lowerdir", ":".join(lowers)), ("upperdir", f"{home}/upper"), ("workdir", f"{home}/work")]
    attach(kernel.make_filesystem("overlay", options), target)
    for fd in opened:
        os.close(fd)


def mount_at(path: str) -> proc.MountInfo:
    """The mount that a path was reached through: its id is that of an open file (proc_pid_fdinfo(5))."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = dict(line.split(":", 1) for line in read(f"/proc/self/fdinfo/{fd}").splitlines() if ":" in line)
    finally:
        os.close(fd)
    number = int(lines["mnt_id"])
    return next(mount for mount in proc.mounts() if mount.mount_id == number)


def refused(action: Callable[[], object]) -> str:
    """What the kernel says to something, "" when it does it."""
    try:
        action()
    except OSError as error:
        return error.strerror or errno.errorcode[error.errno or 0]
    return ""


def tree(top: str) -> list[str]:
    """Every path below a directory, as `ls -F` marks them; a whiteout is a character device 0/0."""
    found = []
    for here, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = f"{here}/{name}"
            info = os.lstat(path)
            whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
            mark = "/" if stat.S_ISDIR(info.st_mode) else "@" if stat.S_ISLNK(info.st_mode) else "(whiteout)" if whiteout else ""
            found.append(path.removeprefix(f"{top}/") + mark)
    return sorted(found)


# ---- the objects --------------------------------------------------------------------------------------------------------------


def objects() -> Account:
    """Objects: superblock, inode, dentry, file, mount."""

    def names(memory: str) -> Account:
        """A dentry is a name, an inode is what it stands for."""
        write(f"{memory}/carrot", "orange\n")
        first = os.stat(f"{memory}/carrot")
        os.link(f"{memory}/carrot", f"{memory}/root-vegetable")
        os.symlink("carrot", f"{memory}/pointer")
        os.rename(f"{memory}/carrot", f"{memory}/lunch")
        second, link = os.stat(f"{memory}/root-vegetable"), os.lstat(f"{memory}/pointer")
        return {
            "inode": first.st_ino,
            "inode of its hard link": second.st_ino,
            "names it has": second.st_nlink,
            "inode after a rename": os.stat(f"{memory}/lunch").st_ino,
            "inode of a symbolic link": link.st_ino,
            "the symbolic link now": refused(lambda: os.stat(f"{memory}/pointer")),
        }

    def files(memory: str) -> Account:
        """A file, to the kernel, is what open(2) makes: a position in an inode."""
        path = f"{memory}/letters"
        write(path, "abcdef")
        one, two = os.open(path, os.O_RDONLY | os.O_CLOEXEC), os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        copy = os.dup(one)
        read_first = os.read(one, 2).decode()
        found = {
            "the first descriptor reads": read_first,
            "its duplicate goes on with": os.read(copy, 2).decode(),
            "another open begins with": os.read(two, 2).decode(),
        }
        os.unlink(path)
        found["names after unlink"] = os.fstat(one).st_nlink  # type: ignore[assignment]
        found["what still can be read"] = os.pread(one, 6, 0).decode()
        for fd in (one, two, copy):
            os.close(fd)
        return found

    def mounts(memory: str) -> Account:
        """A superblock is a file system, a mount is a place where a part of it can be seen."""
        for name in ("here", "there", "other", "here/inside"):
            os.mkdir(f"{memory}/{name}")
        write(f"{memory}/here/inside/file", "x\n")
        before = os.open(f"{memory}/there", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        write(f"{memory}/there/hidden", "y\n")
        bound = kernel.open_tree(kernel.AT_FDCWD, f"{memory}/here", kernel.OPEN_TREE_CLONE)
        kernel.mount_setattr(bound, set_attributes=kernel.MOUNT_ATTR_RDONLY)
        attach(bound, f"{memory}/there")
        attach(kernel.make_filesystem("tmpfs", (("size", "1m"),)), f"{memory}/other")
        a, b, c = (mount_at(f"{memory}/{name}") for name in ("here", "there", "other"))
        paths = f"{memory}/here/inside/file", f"{memory}/there/inside/file"
        same = [(os.stat(path).st_dev, os.stat(path).st_ino) for path in paths]
        found = {
            "mount": f"{a.mount_id} shows {a.root} of {a.device}",
            "bind mount": f"{b.mount_id} shows {b.root} of {b.device}",
            "another tmpfs": f"{c.mount_id} shows {c.root} of {c.device}",
            "bind mount: the same superblock": a.device == b.device,
            "bind mount: the same inode": same[0] == same[1],
            "write through the mount": refused(lambda: write(paths[0], "z\n")) or "done",
            "write through the bind mount": refused(lambda: write(paths[1], "z\n")) or "done",
            "link from the one into the other": refused(lambda: os.link(paths[1], f"{memory}/here/link")) or "done",
            "what the bind mount hides": sorted(os.listdir(before)),
        }
        os.close(before)
        return found

    return apart(lambda _, memory: {"names": names(memory), "open files": files(memory), "mounts": mounts(memory)})


# ---- layers -------------------------------------------------------------------------------------------------------------------


def copy_up() -> Account:
    """Copy-up: how a file comes from the lower layer into the upper one."""

    def work(_: str, memory: str) -> Account:
        os.makedirs(f"{memory}/lower/etc")
        for name, text in (("motd", "the image's\n"), ("issue", "linked\n"), ("mode", "m\n")):
            write(f"{memory}/lower/etc/{name}", text)
        os.link(f"{memory}/lower/etc/issue", f"{memory}/lower/etc/issue.net")
        overlay([f"{memory}/lower"], memory, f"{memory}/merged")
        merged, upper = f"{memory}/merged/etc", f"{memory}/upper"
        found: Account = {"upper at first": tree(upper)}
        old = os.open(f"{merged}/motd", os.O_RDONLY | os.O_CLOEXEC)
        mapping = mmap.mmap(old, os.fstat(old).st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        number = os.fstat(old).st_ino
        os.pread(old, 64, 0)
        found["upper after reading"] = tree(upper)
        writing = os.open(f"{merged}/motd", os.O_WRONLY | os.O_CLOEXEC)
        found |= {"upper after opening to write": tree(upper), "its content there": read(f"{upper}/etc/motd")}
        os.write(writing, b"container's")
        os.close(writing)
        found |= {
            "merged file": read(f"{merged}/motd"),
            "lower file": read(f"{memory}/lower/etc/motd"),
            "inode number stays": os.stat(f"{merged}/motd").st_ino == number,
            "descriptor from before reads": os.pread(old, 64, 0).decode().strip(),
            "mapping from before has": mapping[:].decode().strip(),
        }
        mapping.close()
        os.close(old)
        os.chmod(f"{merged}/mode", 0o600)
        found["upper after chmod of another file"] = tree(upper)
        write(f"{merged}/issue", "mine  \n")
        found |= {
            "one hard link, written to": read(f"{merged}/issue").strip(),
            "the other hard link": read(f"{merged}/issue.net"),
            "rename of the image's directory": refused(lambda: os.rename(merged, f"{memory}/merged/e")) or "done",
        }
        return found

    return apart(work)


def whiteouts() -> Account:
    """Whiteouts: how something that is below can be missing above."""

    def work(_: str, memory: str) -> Account:
        for name in ("cache", "docs"):
            os.makedirs(f"{memory}/lower/{name}")
            write(f"{memory}/lower/{name}/old", "below\n")
        write(f"{memory}/lower/secret", "below\n")
        overlay([f"{memory}/lower"], memory, f"{memory}/merged")
        merged, upper = f"{memory}/merged", f"{memory}/upper"
        write(f"{merged}/mine", "above\n")
        os.unlink(f"{merged}/mine")
        found: Account = {"upper after removing its own file": tree(upper)}
        os.unlink(f"{merged}/secret")
        os.unlink(f"{merged}/cache/old")
        info = os.lstat(f"{upper}/secret")
        found |= {
            "upper after removing the image's": tree(upper),
            "whiteout": f"{stat.filemode(info.st_mode)[0]} {os.major(info.st_rdev)},{os.minor(info.st_rdev)}",
            "merged": tree(merged),
            "lower": tree(f"{memory}/lower"),
        }
        os.unlink(f"{merged}/docs/old")
        os.rmdir(f"{merged}/docs")
        found["upper after rmdir docs"] = tree(upper)
        os.mkdir(f"{merged}/docs")
        write(f"{merged}/docs/new", "above\n")
        names = [name for name in os.listxattr(f"{upper}/docs") if name.endswith(".opaque")]
        found |= {
            "upper after mkdir docs": tree(upper),
            "mark on docs": [f"{name}={os.getxattr(f'{upper}/docs', name).decode()}" for name in names],
            "merged docs": sorted(os.listdir(f"{merged}/docs")),
        }
        write(f"{merged}/secret", "mine now\n")
        found["upper after making secret again"] = tree(upper)
        return found

    return apart(work)


# ---- a layer that is never unpacked ---------------------------------------------------------------------------------------------


def member(archive: tarfile.TarFile, name: str, content: bytes | None = None, **fields: object) -> None:
    """Add a file, or without content whatever the fields make of it."""
    info = tarfile.TarInfo(name)
    info.size = len(content or b"")
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content or b""))


def archives() -> tuple[bytes, bytes]:
    """Two layers, the lower one first."""
    made = []
    for number in range(2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            if number == 0:
                for name in ("bin", "etc", "var", "var/cache"):
                    member(archive, name, type=tarfile.DIRTYPE, mode=0o755)
                member(archive, "bin/tool", bytes(range(256)) * (BIG // 256), mode=0o4755)
                member(archive, "bin/same-tool", type=tarfile.LNKTYPE, linkname="bin/tool")
                member(archive, "etc/motd", b"the first layer's\n", mode=0o644)
                member(archive, "etc/shadow", b"secret\n", mode=0o600, uid=0, gid=42)
                member(archive, "var/cache/old", b"old\n", uid=33, gid=33)
            else:
                member(archive, "etc/motd", b"the second layer's\n", mode=0o644)
                member(archive, "etc/.wh.shadow")
                member(archive, "var/cache/.wh..wh..opq")
                member(archive, "var/cache/new", b"new\n", uid=33, gid=33)
        made.append(buffer.getvalue())
    return made[0], made[1]


def index(tar: bytes) -> bytes:
    """An EROFS image with everything but the files' content, of which it says where in the tar it lies."""
    found = Tree()
    parser = Reader(found)
    parser.feed(tar)
    parser.close()
    return writer.index(found.root, len(tar), lambda offset, length: tar[offset : offset + length])


def need_erofs() -> None:
    """Skip what takes an EROFS mount from a file."""
    if userxattr():
        raise Skipped("EROFS cannot be mounted in a user namespace: run it as root")
    if features().kernel < (6, 12):
        raise Skipped(f"Linux {os.uname().release} mounts EROFS from block devices alone; from files it does since 6.12 (CONFIG_EROFS_FS_BACKED_BY_FILE)")


def mount_layer(place: str, tar: bytes, name: str) -> None:
    """Mount an archive as a file system, read-only, at ``place/name``: two files become a directory tree.

    They must not lie on a tmpfs, which gives EROFS no pages to read.
    """
    for suffix, data in (("tar", tar), ("index", index(tar))):
        with open(f"{place}/{name}.{suffix}", "xb") as file:
            file.write(data)
    options = (("source", f"{place}/{name}.index"), ("device", f"{place}/{name}.tar"), ("ro", None))
    try:
        attach(kernel.make_filesystem("erofs", options), f"{place}/{name}")
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENOTBLK, errno.EINVAL, errno.EOPNOTSUPP):
            raise Skipped(f"this kernel mounts no EROFS from a file: {error.strerror} (a module that is missing, or /var/tmp on a tmpfs?)") from None
        raise


def loops() -> int:
    """Loop devices with a file behind them."""
    return sum(os.path.exists(f"/sys/block/{name}/loop/backing_file") for name in os.listdir("/sys/block") if name.startswith("loop"))


def tar() -> Account:
    """Tar: a layer that is never unpacked, mounted from its archive and an index."""

    def work(place: str, memory: str) -> Account:
        need_erofs()
        before = loops()
        first, second = archives()
        for name, data in (("first", first), ("second", second)):
            mount_layer(place, data, name)
        mount = mount_at(f"{place}/first")
        with reader.Index(f"{place}/first.index", f"{place}/first.tar") as files:
            motd = files.lookup(b"etc/motd")
            mapped = files.read(motd) if motd else b""
        cleared = f"{place}/second/var/cache"
        marks = sorted(f"{name}={os.getxattr(cleared, name).decode()}" for name in os.listxattr(cleared))
        where = first.find(b"the first layer's\n")
        overlay([f"{place}/second", f"{place}/first"], memory, f"{memory}/merged")
        owner = os.stat(f"{place}/first/etc/shadow")
        tool = os.stat(f"{memory}/merged/bin/tool")
        return {
            "bytes of the tar": len(first),
            "bytes of its index": os.path.getsize(f"{place}/first.index"),
            "file system": f"{mount.kind}, {'read-only' if 'ro' in mount.super_options else 'writable'}",
            "its superblock": mount.device,
            "loop devices it took": loops() - before,
            "first layer": tree(f"{place}/first"),
            "second layer": tree(f"{place}/second"),
            "mark on var/cache": marks,
            "merged": tree(f"{memory}/merged"),
            "etc/motd in the tar, at byte": where,
            "that is a multiple of 512": where % 512 == 0,
            "the index leads to": mapped.decode().strip(),
            "merged etc/motd": read(f"{memory}/merged/etc/motd"),
            "owner and mode of etc/shadow": f"{owner.st_uid}:{owner.st_gid} {stat.S_IMODE(owner.st_mode):04o}",
            "bin/tool": f"{stat.S_IMODE(tool.st_mode):04o}, {tool.st_nlink} names, {tool.st_size} bytes",
            "write into a layer": refused(lambda: write(f"{place}/first/etc/new", "")) or "done",
            "write into the overlay": refused(lambda: write(f"{memory}/merged/etc/new", "")) or "done",
        }

    return apart(work)


# ---- the page cache -------------------------------------------------------------------------------------------------------------


class Container:
    """A process in a mount namespace of its own, with an overlay of its own over a layer that it shares; it does as it is told."""

    def __init__(self, layer: str, home: str) -> None:
        self._socket, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._socket.close()
                kernel.unshare(kernel.CLONE_NEWNS)
                os.mkdir(home)
                overlay([layer], home, f"{home}/merged")
                self._serve(theirs, f"{home}/merged/bin/tool")
            finally:
                os._exit(0)
        theirs.close()

    def _serve(self, requests: socket.socket, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        memory = mmap.mmap(fd, BIG, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)  # ctypes takes no read-only buffer
        actions: dict[str, Callable[[], Any]] = {
            "read": lambda: len(os.pread(fd, BIG, 0)),
            "resident": lambda: resident(memory),
            "frame": lambda: frame(memory),
            "inode": lambda: os.fstat(fd).st_ino,
        }
        while request := requests.recv(64):
            requests.sendall(json.dumps(actions[request.decode()]()).encode())

    def ask(self, what: str) -> Any:
        """Let it do one of its actions."""
        self._socket.sendall(what.encode())
        answer = self._socket.recv(4096)
        if not answer:
            raise RuntimeError("a container of the experiment died")
        return json.loads(answer)

    def close(self) -> None:
        """Let it end."""
        self._socket.shutdown(socket.SHUT_RDWR)  # close(2) alone would not end it: the other container inherited this end
        self._socket.close()
        os.waitpid(self._pid, 0)


def resident(memory: mmap.mmap) -> int:
    """How many pages of a mapping's file are in memory, whoever brought them there: mincore(2)."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    pages = (ctypes.c_ubyte * (BIG // PAGE))()
    kernel.syscall("mincore", address, BIG, pages)
    return sum(page & 1 for page in pages)


def frame(memory: mmap.mmap) -> int:
    """The number of the physical page behind a mapping's first one; 0 for who may not know (proc_pid_pagemap(5))."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[0]  # touched, so that it is mapped
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entry = int.from_bytes(os.pread(fd, 8, address // PAGE * 8), "little")
    finally:
        os.close(fd)
    return entry & ((1 << 55) - 1)


def cache() -> Account:
    """Cache: what one container has read is in memory for all on the same layer."""

    def work(place: str, memory: str) -> Account:
        try:
            need_erofs()
            mount_layer(place, archives()[0], "layer")
            kind = "an EROFS mount"
        except Skipped as reason:
            kind = f"a directory ({reason})"
            os.makedirs(f"{place}/plain/bin")
            with open(f"{place}/plain/bin/tool", "xb") as file:
                file.write(bytes(range(256)) * (BIG // 256))
                file.flush()
                os.fsync(file.fileno())  # what the disk does not have yet cannot be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            layer = f"{place}/plain"
        else:
            layer = f"{place}/layer"
        if userxattr():
            need_attributes(memory)
        mount = mount_at(layer)
        one, two = Container(layer, f"{memory}/one"), Container(layer, f"{memory}/two")
        try:
            found: Account = {
                "the layer": kind,
                "its superblock": mount.device,
                "pages of the file": BIG // PAGE,
                "one: in memory at first": one.ask("resident"),
                "two: in memory at first": two.ask("resident"),
                "one reads": one.ask("read"),
                "two: in memory now": two.ask("resident"),
                "one: inode": one.ask("inode"),
                "two: inode": two.ask("inode"),
            }
            frames = one.ask("frame"), two.ask("frame")
            if all(frames):
                found |= {"one: page frame of the first page": frames[0], "two: page frame of the first page": frames[1]}
        finally:
            one.close()
            two.close()
        return found

    return apart(work)


PARTS: dict[str, Callable[[], Account]] = {
    "objects": objects, "copy-up": copy_up, "whiteouts": whiteouts, "tar": tar, "cache": cache,
}  # fmt: skip


def show(account: Account, indent: str = "  ") -> None:
    """Print what was found: one thing a line."""
    for key, value in account.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        else:
            words = ("no", "yes")[value] if isinstance(value, bool) else " ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{indent}{key + ':':<38} {words if words != '' else '(none)'}")


def main(words: list[str]) -> int:
    """The command line: names of parts, all when there are none. 1 when a part was not possible here."""
    as_json = "--json" in words
    names = [word for word in words if word != "--json"] or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        print(f"{unknown[0]}: not one of {' '.join(PARTS)}", file=sys.stderr)
        return 2
    found: dict[str, Account] = {}
    failed = 0
    for name in names:
        try:
            found[name] = PARTS[name]()
        except Skipped as reason:
            found[name] = {"skipped": str(reason)}
        except OSError as error:
            failed = 1
            found[name] = {"failed": str(error), "hint": "does /proc/sys/user/max_user_namespaces, or a security module, forbid it?"}
        if not as_json:
            print((PARTS[name].__doc__ or name).splitlines()[0])
            show(found[name])
            print()
    if as_json:
        print(json.dumps(found))
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
