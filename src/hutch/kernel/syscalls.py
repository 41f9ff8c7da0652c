"""System calls that Python's library lacks, typed: for programs that build containers by hand, and for Hutch's own probes.

Each function raises OSError with the call's errno. Flags are the kernel's constants. The module costs the import of
`ctypes`, so nothing on the path of a container's start uses it.
"""

from __future__ import annotations

import ctypes
import os

from hutch.kernel import syscall_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
MACHINE = os.uname().machine
NUMBERS = syscall_table.numbers("aarch64" if MACHINE == "aarch64" else "x86_64")

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

CLONE_NEWTIME = 0x80
CLONE_VM = 0x100
CLONE_FILES = 0x400
CLONE_PIDFD = 0x1000
CLONE_VFORK = 0x4000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
MOUNT_ATTR_IDMAP = 0x100000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC = 4096, 8192, 16384
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH = 2

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_GET_ACTION_AVAIL = 2


def syscall(name: str, *args: object) -> int:
    """Any system call by name; integers, bytes and ctypes values pass as they are, strings as paths, None as NULL."""
    words = [ctypes.c_long(a) if isinstance(a, int) else os.fsencode(a) if isinstance(a, str) else a for a in args]
    result: int = _libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), name)
    return result


def clone3(flags: int, *, exit_signal: int = 17, cgroup: int | None = None) -> tuple[int, int]:
    """clone3(2) like fork(2): ``(pid, pidfd)`` in the parent, ``(0, -1)`` in the child. `cgroup`: a v2 directory's fd.

    The child of a process with threads must do nothing but system calls until it executes a program.
    """
    pidfd = ctypes.c_int(-1)
    fields = [0] * 11
    fields[0] = flags | CLONE_PIDFD
    fields[1] = ctypes.addressof(pidfd)
    fields[4] = exit_signal
    if cgroup is not None:
        fields[0] |= CLONE_INTO_CGROUP
        fields[10] = cgroup
    arguments = (ctypes.c_uint64 * 11)(*fields)
    pid = syscall("clone3", arguments, ctypes.sizeof(arguments))
    return pid, pidfd.value


def unshare(flags: int) -> None:
    """unshare(2). CLONE_NEWUSER and CLONE_NEWNS want a process of one thread."""
    syscall("unshare", flags)


def setns(fd: int, flags: int = 0) -> None:
    """setns(2): a namespace's descriptor, or a pidfd with the namespaces to enter."""
    syscall("setns", fd, flags)


def pidfd_open(pid: int) -> int:
    """pidfd_open(2)."""
    return syscall("pidfd_open", pid, 0)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """pidfd_send_signal(2)."""
    syscall("pidfd_send_signal", pidfd, signal, None, 0)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a duplicate of another process's descriptor."""
    return syscall("pidfd_getfd", pidfd, fd, 0)


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    syscall("mount", source, target, kind, flags, data.encode() if data is not None else None)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    syscall("umount2", target, flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    syscall("pivot_root", new_root, put_old)


def fsopen(kind: str) -> int:
    """fsopen(2): a file system context."""
    return syscall("fsopen", kind, 1)


def fsconfig(context: int, command: int, key: str | None = None, value: str | None = None, number: int = 0) -> None:
    """fsconfig(2)."""
    syscall("fsconfig", context, command, key, value, number)


def fsmount(context: int, attributes: int = 0) -> int:
    """fsmount(2): a detached mount."""
    return syscall("fsmount", context, 1, attributes)


def make_filesystem(kind: str, options: Iterable[tuple[str, str | int | None]] = (), attributes: int = 0) -> int:
    """A detached mount of a new file system: text options, descriptors (int), flags (None)."""
    context = fsopen(kind)
    try:
        for key, value in options:
            if value is None:
                fsconfig(context, FSCONFIG_SET_FLAG, key)
            elif isinstance(value, int):
                fsconfig(context, FSCONFIG_SET_FD, key, None, value)
            else:
                fsconfig(context, FSCONFIG_SET_STRING, key, value)
        fsconfig(context, FSCONFIG_CMD_CREATE)
        return fsmount(context, attributes)
    finally:
        os.close(context)


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2)."""
    return syscall("open_tree", directory, path, flags | OPEN_TREE_CLOEXEC)


def move_mount(mount_fd: int, target: str, directory: int = AT_FDCWD) -> None:
    """move_mount(2): attach a detached mount on a path; an empty path is the directory itself."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    syscall("move_mount", mount_fd, "", directory, target, flags)


def mount_setattr(fd: int, *, set_attributes: int = 0, clear: int = 0, propagation: int = 0, userns: int = 0, recursive: bool = False) -> None:
    """mount_setattr(2) on a mount's descriptor."""
    attributes = (ctypes.c_uint64 * 4)(set_attributes, clear, propagation, userns)
    syscall("mount_setattr", fd, "", AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0), attributes, 32)


def openat2(directory: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2)."""
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(100):
        try:
            return syscall("openat2", directory, path, how, 24)
        except BlockingIOError:
            continue  # a rename raced with `..`
    return syscall("openat2", directory, path, how, 24)


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2)."""
    return syscall("prctl", option, a, b, c, d)


def capget(pid: int = 0) -> tuple[int, int, int]:
    """capget(2): effective, permitted and inheritable masks."""
    header = (ctypes.c_uint32 * 2)(0x20080522, pid)
    data = (ctypes.c_uint32 * 6)()
    syscall("capget", header, data)
    return (data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) for the calling thread."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low = [value & 0xFFFFFFFF for value in (effective, permitted, inheritable)]
    high = [value >> 32 for value in (effective, permitted, inheritable)]
    syscall("capset", header, (ctypes.c_uint32 * 6)(*low, *high))


def seccomp_filter(program: bytes, flags: int = 0) -> int:
    """seccomp(2) SECCOMP_SET_MODE_FILTER with a classic BPF program."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    return syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(Program(len(program) // 8, program)))


def syncfs(fd: int) -> None:
    """syncfs(2): wait until the disk has all of the file system that a descriptor is on."""
    syscall("syncfs", fd)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    raw = os.fsencode(name)
    syscall("sethostname", raw, len(raw))


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    raw = os.fsencode(name)
    syscall("setdomainname", raw, len(raw))


def fstatfs_type(fd: int) -> int:
    """The magic number of the file system that a descriptor's file lies on (fstatfs(2))."""
    buffer = (ctypes.c_uint64 * 16)()
    syscall("fstatfs", fd, buffer)
    return int(buffer[0])


def setfsids(uid: int, gid: int) -> None:
    """setfsuid(2) and setfsgid(2): what files the calling thread creates belong to."""
    _libc.syscall(ctypes.c_long(NUMBERS["setfsgid"]), ctypes.c_long(gid))
    _libc.syscall(ctypes.c_long(NUMBERS["setfsuid"]), ctypes.c_long(uid))
