"""What this kernel and this user may do: one record, found once, cheaply, and given to everything that decides.

Only facts that can be read are here. What must be tried to be known (may a user namespace really be made?) is tried by
`hutch doctor`.
"""

from __future__ import annotations

import os
import resource

from hutch.kernel import capabilities, cgroupfs, proc
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# File systems whose mounts can be idmapped, by the kernel that learnt it (Documentation/filesystems/idmappings.rst and
# FS_ALLOW_IDMAP in the sources).
IDMAP_SINCE = {
    "ext4": (5, 12), "vfat": (5, 12), "xfs": (5, 13), "btrfs": (5, 15), "ntfs3": (5, 15), "f2fs": (5, 18),
    "erofs": (5, 19), "squashfs": (6, 2), "tmpfs": (6, 3), "cephfs": (6, 7), "bcachefs": (6, 7), "ext2": (6, 0), "ext3": (5, 12),
}  # fmt: skip


class SubordinateIds(Record):
    """A user's line in /etc/subuid or /etc/subgid."""

    start: int
    count: int


class Features(Record):
    """What plans are compiled for. Everything is a plain value, so that a plan can be compiled for another machine."""

    kernel: tuple[int, int]
    machine: str
    uid: int
    gid: int
    capabilities: int
    user_namespaces: bool
    time_namespaces: bool
    cgroups: cgroupfs.CgroupLayout
    mounts: tuple[proc.MountInfo, ...] = ()
    namespaces: tuple[str, ...] = ()
    subuid: SubordinateIds | None = None
    subgid: SubordinateIds | None = None
    newuidmap: str = ""
    newgidmap: str = ""
    apparmor: bool = False
    selinux: bool = False
    cpus: int = 1
    hard_limits: dict[str, int] = {}
    inotify_limits: dict[str, int] = {}  # of /proc/sys/user, by name (inotify(7)); an ordinary user's alone

    @property
    def privileged(self) -> bool:
        """Whether this user may mount, make device nodes and map ids without a user namespace."""
        return self.uid == 0 and bool(self.capabilities & capabilities.SYS_ADMIN)

    @property
    def overlay_by_descriptor(self) -> bool:
        """Whether overlayfs takes its layers by FSCONFIG_SET_FD (6.13)."""
        return self.kernel >= (6, 13)

    @property
    def overlay_append(self) -> bool:
        """Whether overlayfs takes its lower layers one by one with ``lowerdir+`` (6.7)."""
        return self.kernel >= (6, 7)

    @property
    def detached_layers(self) -> bool:
        """Whether overlayfs takes layers on detached mounts, and those can be cloned (6.15)."""
        return self.kernel >= (6, 15)

    @property
    def proc_of_namespace(self) -> bool:
        """Whether a proc file system can be made of a pid namespace that its maker is not in: option ``pidns`` (6.18)."""
        return self.kernel >= (6, 18)

    @property
    def overlay_in_user_namespace(self) -> bool:
        """Whether overlayfs may be mounted in a user namespace (5.11)."""
        return self.kernel >= (5, 11)

    @property
    def upper_user_xattrs(self) -> bool:
        """Whether tmpfs stores ``user.*`` attributes, which overlayfs in a user namespace marks directories with (6.6)."""
        return self.kernel >= (6, 6)

    @property
    def idmapped_layers(self) -> bool:
        """Whether overlayfs takes idmapped lower layers (5.19)."""
        return self.kernel >= (5, 19)

    def mount_at(self, path: str) -> proc.MountInfo | None:
        """The mount that a path lies on, by its longest mount point (the last of several mounts on one point)."""
        best = None
        for mount in self.mounts:
            point = mount.mount_point.rstrip("/")
            if (path == point or path.startswith(point + "/") or not point) and (best is None or len(mount.mount_point) >= len(best.mount_point)):
                best = mount
        return best

    def can_idmap(self, path: str) -> bool:
        """Whether the file system of a path takes idmapped mounts on this kernel."""
        mount = self.mount_at(path)
        return mount is not None and self.kernel >= IDMAP_SINCE.get(mount.kind, (999, 0))


def _flag(path: str, default: int) -> int:
    try:
        with open(path, "rb") as file:
            return int(file.read() or b"0")
    except (OSError, ValueError):
        return default


def subordinate_ids(text: str, uid: int, name: str) -> SubordinateIds | None:
    """The largest range of a user in the text of /etc/subuid (subuid(5))."""
    best: SubordinateIds | None = None
    for line in text.split("\n"):
        owner, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if owner in (name, str(uid)) and (start + count.strip()).isascii() and start.isdigit() and count.strip().isdigit():
            found = SubordinateIds(start=int(start), count=int(count))
            if best is None or found.count > best.count:
                best = found
    return best


def user_name(uid: int) -> str:
    """The name of a user in /etc/passwd, or the number: without `pwd`, which may ask the network."""
    try:
        for line in proc.read_text("/etc/passwd").split("\n"):
            fields = line.split(":")
            if len(fields) > 2 and fields[2] == str(uid):
                return fields[0]
    except OSError:
        pass
    return str(uid)


def _subordinate(path: str, uid: int, name: str) -> SubordinateIds | None:
    try:
        return subordinate_ids(proc.read_text(path), uid, name)
    except OSError:
        return None


def program(name: str) -> str:
    """Where a program of the system's lies; "" for nowhere."""
    for directory in ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"):
        if os.access(f"{directory}/{name}", os.X_OK):
            return f"{directory}/{name}"
    return ""


def probe() -> Features:
    """Read this machine's features: some ten small files, no more than half a millisecond."""
    uname = os.uname()
    major, minor = (int("".join(c for c in part if c.isdigit()) or 0) for part in uname.release.split("-")[0].split(".")[:2])
    uid, gid = os.geteuid(), os.getegid()
    status = proc.status()
    mounts = proc.mounts()
    userns = (
        os.path.exists("/proc/self/ns/user")
        and _flag("/proc/sys/user/max_user_namespaces", 1) > 0
        and (uid == 0 or _flag("/proc/sys/kernel/unprivileged_userns_clone", 1) != 0)
    )
    sub: dict[str, Any] = {}
    if uid != 0:
        name = user_name(uid)
        sub = {
            "subuid": _subordinate("/etc/subuid", uid, name),
            "subgid": _subordinate("/etc/subgid", uid, name),
            "newuidmap": program("newuidmap"),
            "newgidmap": program("newgidmap"),
        }
    return Features(
        kernel=(major, minor),
        machine=uname.machine,
        uid=uid,
        gid=gid,
        capabilities=int(status["CapEff"], 16),
        user_namespaces=userns,
        # a time namespace is entered at execve since 6.3 (fs/exec.c: switch timens when a task gets a new mm)
        time_namespaces=os.path.exists("/proc/self/ns/time_for_children") and (major, minor) >= (6, 3),
        cgroups=cgroupfs.detect(mounts, proc.read_text("/proc/self/cgroup")),
        mounts=mounts,
        namespaces=tuple(sorted(os.listdir("/proc/self/ns"))),
        apparmor=os.path.isdir("/sys/kernel/security/apparmor"),
        selinux=os.path.isdir("/sys/fs/selinux/class"),
        cpus=os.cpu_count() or 1,
        hard_limits=_hard_limits(),
        inotify_limits=_inotify_limits() if os.geteuid() else {},
        **sub,
    )


def _inotify_limits() -> dict[str, int]:
    found = {}
    for name in ("max_inotify_instances", "max_inotify_watches"):
        text = proc.read_text(f"/proc/sys/user/{name}").strip()
        if text.isdigit():
            found[name] = int(text)
    return found


def _hard_limits() -> dict[str, int]:
    out = {}
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            hard = resource.getrlimit(getattr(resource, name))[1]
            out[name] = 2**64 - 1 if hard < 0 else hard
    return out


_cache: list[Features] = []


def features() -> Features:
    """This machine's features, probed once a process and again after a change of user."""
    if _cache and _cache[0].uid == os.geteuid():
        return _cache[0]
    _cache[:] = [probe()]
    return _cache[0]
