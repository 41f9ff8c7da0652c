"""Files that may be something else: a device, a fifo, a link, a file of the kernel's.

A path that others can change is opened with O_PATH first, which does nothing to what stands there (open(2)). What it is is asked by
that descriptor, and the same file is opened again through ``/proc/self/fd`` for what is wanted of it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from hutch.kernel import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# statfs(2): what reading or writing does there is the kernel's affair, and not a matter of bytes in a file
KERNEL_FILE_SYSTEMS = frozenset(
    (
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x1CD1,  # devpts
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xF97CFF8C,  # selinuxfs
        0x43415D53,  # smackfs
        0xCAFE4A11,  # bpf
        0x62656570,  # configfs
        0xDE5E81E4,  # efivarfs
        0x42494E4D,  # binfmt_misc
        0x6E736673,  # nsfs
        0x19800202,  # mqueue
        0x65735543,  # fusectl
        0x7655821,  # resctrl
    )
)


def of_kernel(fd: int) -> bool:
    """Whether a file lies in a file system like proc or sysfs. Raises OSError."""
    return syscalls.fstatfs_type(fd) in KERNEL_FILE_SYSTEMS


def look(name: str, directory: int | None = None, flags: int = 0) -> int:
    """An O_PATH descriptor of what a name in a directory stands for, a link not followed. Raises OSError."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=directory)


def reopen(fd: int, flags: int) -> int:
    """The file of an O_PATH descriptor, opened for use. Raises OSError."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_NOCTTY)


@contextmanager
def acting_as(uid: int, gid: int, *, override: bool = False) -> Iterator[None]:
    """Let the calling thread, which is root's, reach files as another user: it goes without the capabilities that pass over
    permissions (setfsuid(2)), or with `override` keeps them, and what it creates is the other user's all the same."""
    effective, permitted, inheritable = syscalls.capget()
    syscalls.setfsids(uid, gid)
    try:
        if override:
            syscalls.capset(effective, permitted, inheritable)
        yield
    finally:
        syscalls.setfsids(0, 0)
        syscalls.capset(effective, permitted, inheritable)
