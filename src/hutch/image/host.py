"""``host``: this machine's own programs and settings, copy on write, without its homes, secrets and run-time state.

The view is an allowlist. The container's root is empty but for the system directories below, each an overlay over the
host's own; everything else (homes, /root, /var, /run, /srv, /mnt, whatever else lies in /) is not there at all.

What not everyone on this machine may read (shadow, private keys, passwords in service settings) is closed to the container's
root by the kernel: it sees the host through an overlay that was mounted with a stranger's ids (`runtime.layers`), which asks the
file's own permissions at every open, whatever has changed since. In /etc such files are hidden by whiteouts, too, so that
programs which copy or search the directory do not stumble over them.
"""

from __future__ import annotations

import os
import stat
import time

from hutch.image.rootfs import Hidden, Rootfs, View
from hutch.kernel.features import Features
from hutch.oci.paths import GENERATED

# What a distribution installs into. On a merged-usr system most are links, which are copied as links.
SYSTEM = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix", "gnu")
SCANNED = ("etc",)
EXTRA = ("opt", "nix", "gnu")
STACKED = ("overlay", "ecryptfs")  # the kernel stacks two such file systems and no more (FILESYSTEM_MAX_STACK_DEPTH)

DIRECTORIES = (
    ("tmp", 0o1777), ("var", 0o755), ("var/tmp", 0o1777), ("var/cache", 0o755), ("var/lib", 0o755), ("var/log", 0o755),
    ("var/spool", 0o755), ("run", 0o755), ("run/lock", 0o1777), ("home", 0o755), ("root", 0o700), ("mnt", 0o755),
    ("media", 0o755), ("srv", 0o755), ("proc", 0o555), ("sys", 0o555), ("dev", 0o755),
)  # fmt: skip
INVISIBLE = ("/home", "/root", "/var", "/run", "/srv", "/mnt", "/media", "/tmp", "/boot")

# Hidden although everyone may read them: they name this machine, or matter to it alone.
ALWAYS_HIDDEN = ("etc/machine-id", "etc/fstab", "etc/crypttab")

SCAN_SECONDS = 1.0
_scanned: dict[str, tuple[float, tuple[Hidden, ...]]] = {}


def scan(top: str, depth: int = 64) -> tuple[Hidden, ...]:
    """What not everyone may read below a directory, by relative path: files without the others' read bit, directories
    without their search bit. Links are left: what they name is judged where it lies. For convenience: it is out of date at once."""
    found: list[Hidden] = []

    def walk(directory: str, prefix: str, parents: tuple[int, ...], left: int) -> None:
        try:
            entries = os.scandir(directory)
        except OSError:
            return
        with entries:
            for entry in entries:
                if entry.is_symlink():
                    continue
                try:
                    mode = entry.stat(follow_symlinks=False).st_mode
                except OSError:
                    continue
                if stat.S_ISDIR(mode):
                    if mode & 0o005 != 0o005:
                        found.append(Hidden(path=prefix + entry.name, parents=parents))
                    elif not left:
                        found.append(Hidden(path=prefix + entry.name, parents=parents))  # too deep to be looked at
                    else:
                        walk(entry.path, f"{prefix}{entry.name}/", (*parents, stat.S_IMODE(mode)), left - 1)
                elif not mode & 0o004:
                    found.append(Hidden(path=prefix + entry.name, parents=parents))

    walk(top, "", (), depth)
    return tuple(sorted(found, key=lambda hidden: hidden.path))


def _secrets(name: str) -> tuple[Hidden, ...]:
    """`scan`, remembered for a second: a program that starts hundreds of containers does not read /etc for each."""
    now = time.monotonic()
    cached = _scanned.get(name)
    if cached is not None and now - cached[0] < SCAN_SECONDS:
        return cached[1]
    found = scan(f"/{name}")
    extra = [path.removeprefix(f"{name}/") for path in ALWAYS_HIDDEN if path.startswith(f"{name}/")]
    known = {hidden.path for hidden in found}
    found += tuple(Hidden(path=path) for path in extra if path not in known and os.path.lexists(f"/{name}/{path}"))
    _scanned[name] = (now, found)
    return found


def _nested(top: str, mounts: list[str]) -> tuple[Hidden, ...]:
    """The mounts below a directory that a stranger could reach. Files of /etc that every container has of its own are left."""
    found = []
    for point in mounts:
        parents = []
        above = top
        for part in point[len(top) + 1 :].split("/")[:-1]:
            above = f"{above}/{part}"
            try:
                parents.append(stat.S_IMODE(os.stat(above).st_mode))
            except OSError:
                parents.append(0)
        if all(mode & 0o001 for mode in parents) and point not in GENERATED:
            found.append(Hidden(path=point[len(top) + 1 :], parents=tuple(parents)))
    return tuple(found)


def _open_mount(point: str, path: str) -> str:
    """The mount point that a path of the host's lies on, if a stranger gets from there to the path; else the path itself."""
    return point if os.path.dirname(path) == point and os.stat(point).st_mode & 0o001 else path


def resolve(features: Features) -> Rootfs:
    """The host's view for this user. Nothing is read but directories' entries and modes."""
    views: list[View] = []
    links: list[tuple[str, str]] = []
    warnings: list[str] = []
    for name in SYSTEM:
        path = f"/{name}"
        try:
            info = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISLNK(info.st_mode):
            links.append((name, os.readlink(path)))
            continue
        if not stat.S_ISDIR(info.st_mode) or info.st_mode & 0o005 != 0o005:
            continue
        if name in EXTRA and not os.listdir(path):
            continue
        nested = sorted({m.mount_point for m in features.mounts if m.mount_point.startswith(path + "/")})
        hidden = _secrets(name) if name in SCANNED else ()
        extra = name in EXTRA
        mount = features.mount_at(path)
        stacked = not extra and mount is not None and mount.kind in STACKED
        if nested and not features.privileged:
            warnings.append(f"{path} is read-only: {', '.join(nested)} are mounted in it, and only root can look below a mount")
        elif stacked:
            warnings.append(f"{path} is read-only: this machine's own lies on {mount.kind if mount else ''}, and the kernel stacks no third layer")
        views.append(
            View(
                path=path,
                lowers=(path,),
                mode=stat.S_IMODE(info.st_mode),
                hidden=hidden,
                recursive_bind=bool(nested) and not features.privileged,
                extra=extra,
                guarded=not extra,
                mount=_open_mount(mount.mount_point, path) if mount is not None and not extra else "",
                nested=_nested(path, nested) if features.privileged else (),
                stacked=stacked,
            )
        )
    return Rootfs(
        name="host",
        views=tuple(views),
        directories=DIRECTORIES,
        links=tuple(links),
        invisible=INVISIBLE,
        warnings=tuple(warnings),
    )
