"""Readers of /proc (proc(5), Documentation/filesystems/proc.rst)."""

from __future__ import annotations

import os

from hutch.record import Record


def read_text(path: str) -> str:
    """A small file whole. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "surrogateescape")


class MountInfo(Record):
    """A line of /proc/self/mountinfo: where a mount is, and what is mounted."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: tuple[str, ...]
    kind: str
    source: str
    super_options: tuple[str, ...]


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest if part[:3].isdigit())


def parse_mountinfo(text: str) -> tuple[MountInfo, ...]:
    """proc_pid_mountinfo(5), line by line."""
    out = []
    for line in text.split("\n"):
        left, _, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(rest) < 3:
            continue
        out.append(
            MountInfo(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                device=fields[2],
                root=_unescape(fields[3]),
                mount_point=_unescape(fields[4]),
                options=tuple(fields[5].split(",")),
                kind=rest[0],
                source=_unescape(rest[1]),
                super_options=tuple(rest[2].split(",")),
            )
        )
    return tuple(out)


def mounts(pid: int | str = "self") -> tuple[MountInfo, ...]:
    """The mounts that a process sees."""
    return parse_mountinfo(read_text(f"/proc/{pid}/mountinfo"))


def parse_cgroups(text: str) -> dict[str, str]:
    """/proc/PID/cgroup: controller (or ``name=...``; "" for v2) to path (cgroups(7))."""
    out = {}
    for line in text.split("\n"):
        number, colon, rest = line.partition(":")
        if not colon:
            continue
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(",") if number != "0" else [""]:
            out[controller] = path
    return out


def status(pid: int | str = "self") -> dict[str, str]:
    """/proc/PID/status by key."""
    pairs = (line.partition(":") for line in read_text(f"/proc/{pid}/status").splitlines())
    return {key: value.strip() for key, _, value in pairs}


class ProcessStat(Record):
    """What /proc/PID/stat tells (proc_pid_stat(5)): `started` is in clock ticks since boot, and names a process for ever with
    its pid."""

    state: str
    parent: int
    session: int
    started: int

    @property
    def ended(self) -> bool:
        """Whether it has ended, and only waits to be reaped."""
        return self.state in "ZX"


def stat(pid: int | str) -> ProcessStat | None:
    """A process's state now. None: no such process."""
    try:
        fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return None
    return ProcessStat(state=fields[0], parent=int(fields[1]), session=int(fields[3]), started=int(fields[19]))


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot. None: no such process."""
    found = stat(pid)
    return None if found is None else found.started
