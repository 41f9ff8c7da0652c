"""Volumes: directories with a name that outlive their containers.

``volumes/NAME`` below the data directory holds ``data``, which is bound into containers (idmapped where a container's root is
not the host's, so that every container sees the same owners), and ``volume``, its record.
"""

from __future__ import annotations

import fcntl
import os
import time

from hutch import jsontext
from hutch.engine.records import state
from hutch.engine.spec import arguments
from hutch.engine.spec.settings import check_volume_name
from hutch.errors import StateError, UsageError
from hutch.image import collect
from hutch.image.layers import mapped
from hutch.image.store.directories import data_root, private
from hutch.kernel.features import features
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from hutch.engine.spec.settings import Settings
    from hutch.image.rootfs import Rootfs

PLACE = "volumes"  # in the data directory


class Volume(Record):
    """A volume: `path` is its directory on this machine, `created` seconds since 1970; `anonymous` ones were named by Hutch."""

    name: str
    path: str
    created: float
    labels: dict[str, str] = {}
    anonymous: bool = False

    @property
    def lock(self) -> str:
        """The file that every running container on it holds a lock on (flock(2)), whatever state directory its record is in."""
        return f"{os.path.dirname(self.path)}/lock"

    def remove(self) -> None:
        """Remove it with all that it holds. Raises StateError when a container uses it."""
        remove(self.name)

    def describe(self) -> dict[str, Any]:
        """As `hutch volume inspect` prints it."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.created))
        return {"Name": self.name, "Driver": "local", "Mountpoint": self.path, "CreatedAt": moment, "Labels": self.labels, "Anonymous": self.anonymous}


def root() -> str:
    """The directory of all volumes. A set-uid program in one is nobody's to start on the host."""
    return private(PLACE)


def path_of(name: str) -> str:
    """The directory of a volume's files, whether it is there or not."""
    return f"{data_root()}/{PLACE}/{name}/data"


def create(name: str = "", *, labels: Mapping[str, str] | None = None, anonymous: bool = False) -> Volume:
    """Make a volume, or give the one that has the name; without one, or with one that nobody chose, an anonymous one. Raises
    UsageError."""
    labels = arguments.text_by_name("labels", labels or {})
    anonymous = anonymous or not name
    name = name or os.urandom(32).hex()
    check_volume_name(name)
    base = root()
    place = f"{base}/{name}"
    if not os.path.exists(f"{place}/volume"):
        fresh = f"{base}/.new-{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(fresh, 0o700)
        os.mkdir(f"{fresh}/data", 0o755)
        record = {"created": time.time(), "labels": labels, "anonymous": anonymous}
        with open(f"{fresh}/volume", "w", encoding="utf-8") as file:
            file.write(jsontext.dumps(record) + "\n")
        try:
            os.rename(fresh, place)
        except OSError:
            mapped.remove_tree(fresh, features())
            if not os.path.exists(f"{place}/volume"):
                raise StateError(f"volume {name}: {place} is in the way") from None
    return get(name)


def get(name: str) -> Volume:
    """A volume by its name. Raises StateError."""
    place = f"{root()}/{name}"
    try:
        check_volume_name(name)
        with open(f"{place}/volume", encoding="utf-8") as file:
            data = jsontext.loads(file.read())
        return Volume(name=name, path=f"{place}/data", created=float(data["created"]), labels=dict(data["labels"]), anonymous=bool(data["anonymous"]))
    except (OSError, UsageError):
        raise StateError(f"no volume is called {name!r}", "`hutch volume ls` lists them") from None
    except (ValueError, KeyError, TypeError):
        raise StateError(f"volume {name}: its record cannot be read") from None


def every() -> list[Volume]:
    """Every volume, by name."""
    found = []
    for name in sorted(os.listdir(root())):
        try:
            found.append(get(name))
        except StateError:
            continue
    return found


def users(name: str) -> Iterator[str]:
    """The containers that use a volume, running or not, whatever state directory they are recorded in."""
    for running in state.everywhere():
        settings = running.data.get("settings")
        mounts = settings.get("volumes") if isinstance(settings, dict) else None
        if any(isinstance(item, dict) and item.get("name") == name for item in mounts or ()):
            yield running.name or running.id


def remove(name: str) -> None:
    """Remove a volume with all that it holds. Raises StateError."""
    volume = get(name)
    for user in users(name):
        raise StateError(f"volume {name}: container {user} uses it", "remove the container first")
    fd = os.open(volume.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        going = f"{root()}/.going-{os.urandom(6).hex()}"
        os.rename(os.path.dirname(volume.path), going)  # nobody finds it any more, however long the rest takes
    except BlockingIOError:
        raise StateError(f"volume {name}: a container uses it, whose record is in another state directory (HUTCH_STATE)", "stop it first") from None
    finally:
        os.close(fd)
    mapped.remove_tree(going, features())


def prune(*, named: bool = False) -> tuple[list[str], int]:
    """Remove volumes that no container uses: the anonymous ones, with `named` all. (their names, bytes of disk)."""
    removed, size = [], 0
    for volume in every():
        if (named or volume.anonymous) and not any(True for _ in users(volume.name)):
            freed = collect.disk_usage(volume.path)
            try:
                remove(volume.name)
            except StateError:
                continue
            removed.append(volume.name)
            size += freed
    base = root()
    for name in os.listdir(base):
        pid = name.split("-")[1] if name.startswith(".new-") else ""
        if name.startswith(".going-") or (pid.isdigit() and not os.path.exists(f"/proc/{pid}")):
            mapped.remove_tree(f"{base}/{name}", features())
    return removed, size


def of_container(s: Settings, rootfs: Rootfs, keeps: bool) -> tuple[Settings, tuple[str, ...]]:
    """(the settings with the volumes' names and directories, the names of those that are this container's own). Nothing is made. What
    the image wants as volumes becomes some where the container is kept: in one that is removed at its end they would go with it, as all
    of its changes do. Raises UsageError for a place where no volume can be."""
    from hutch.engine.spec.settings import VolumeMount, place

    taken = {place(mount.target) for mounts in (s.binds, s.tmpfs, s.volumes) for mount in mounts}
    own = [VolumeMount(name="", target=path) for path in rootfs.config.volumes if keeps and path.startswith("/") and place(path) not in taken]
    found, fresh = [], []
    for mount in (*s.volumes, *own):
        check_target(mount.target, rootfs)
        name = mount.name or os.urandom(32).hex()
        if not mount.name:
            fresh.append(name)
        check_volume_name(name)
        found.append(mount.replace(name=name, source="/".join(filter(None, (path_of(name), mount.subpath.strip("/"))))))
    return s.replace(volumes=tuple(found)), tuple(fresh)


def check_target(target: str, rootfs: Rootfs) -> None:
    """Raise UsageError for what no volume can be mounted on."""
    import stat

    from hutch.engine.spec.settings import place
    from hutch.image.layers import unmounted

    path = place(target)
    if path == "/" or path in ("/proc", "/sys", "/dev") or path.startswith("/proc/"):
        what = "the container's root" if path == "/" else "where the kernel shows the container its own files"
        raise UsageError(f"volume {target}: is {what}", "mount it on another directory")
    found = None if rootfs.name == "host" else unmounted.find(rootfs, path)
    if found is not None and not stat.S_ISDIR(found.mode):
        raise UsageError(f"volume {target}: is a file in {rootfs.name}, and no directory", "mount it on another path")


def forget(names: Iterable[str]) -> None:
    """Remove the volumes of a container that does not come to be. One that cannot be removed now is left to `prune`: what kept the
    container from coming to be is what its user is told."""
    for name in names:
        if os.path.lexists(f"{root()}/{name}"):
            try:
                remove(name)
            except StateError:
                continue
