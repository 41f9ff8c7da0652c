"""virtiofsd: the program that shows the guest its root (vhost-user, virtio-fs). There are two, whose options differ."""

from __future__ import annotations

import os

from hutch.errors import UnsupportedError
from hutch.record import Record

PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd")
LISTENER = 3  # its descriptor of the socket that QEMU is connected to
# What it keeps to itself: files of every owner, and device nodes. The rest is for its own sandbox, and given up there.
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_MKNOD", "CAP_SETFCAP",
    "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETPCAP",
)  # fmt: skip


class Virtiofsd(Record):
    """It, by its path; `rust`: the one of its own project, that Debian has from 13 on, and not QEMU's own in C."""

    path: str
    rust: bool = False

    def command(self, directory: str, descriptors: int) -> tuple[str, ...]:
        """Its program and arguments: it shows `directory`, and what is mounted in it, and nothing else. It may hold `descriptors` open."""
        limit = f"--rlimit-nofile={descriptors}"
        if self.rust:
            return (
                self.path, f"--fd={LISTENER}", "--shared-dir", directory, "--sandbox", "namespace", "--seccomp", "kill", "--xattr",
                "--announce-submounts", "--cache", "auto", "--log-level", "error", limit,
            )  # fmt: skip
        return (
            self.path, f"--fd={LISTENER}", "-o", f"source={directory},sandbox=namespace,cache=auto,xattr,announce_submounts,log_level=err", limit,
        )  # fmt: skip


def find() -> Virtiofsd:
    """The one of this machine. Raises UnsupportedError."""
    for path in PLACES:
        if os.access(path, os.X_OK):
            return Virtiofsd(path=path, rust=not path.startswith("/usr/lib/qemu/"))
    raise UnsupportedError("isolation vm: virtiofsd is not installed", "apt-get install virtiofsd; in Debian 12 it comes with qemu-system-common")
