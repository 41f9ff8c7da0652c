"""What a container has made of its image: differences, commits, exports, copies; of one that runs, or has ended.

A container that was started by somebody else is known by its record. While it runs, its root is reached through its first
process; what it changed lies in its upper directory, on disk for those that outlive the command that started them.
"""

from __future__ import annotations

import fcntl
import os
import sys

from hutch.engine.containers import create, recorded
from hutch.engine.files.changes import Change, changes as changes_of, stacked
from hutch.engine.files.export import owners_of, write_tree
from hutch.engine.files.files import Files
from hutch.engine.launch import launching
from hutch.engine.records.state import Running
from hutch.engine.spec.settings import NO_NETWORK
from hutch.errors import HutchError, StateError, UsageError
from hutch.image import making, reference as references, stored_image
from hutch.image.layers import changes, mapped
from hutch.image.store import names
from hutch.image.store.content import Content
from hutch.image.store.lease import Lease
from hutch.kernel.features import features
from hutch.oci.paths import GENERATED

EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"  # a tar without members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hutch.cgroup.live import Cgroup
    from hutch.engine.files.export import Owners
    from hutch.engine.images.images import Image
    from hutch.engine.launch.prepare import Prepared
    from hutch.engine.records.live import Live
    from hutch.engine.spec.settings import Settings
    from hutch.executor.launcher import Execution
    from hutch.image.rootfs import Rootfs


class Target:
    """A container whose files somebody wants, running or ended. Close it after use.

    `root` is a descriptor of its root directory, -1 where it has ended; `base` one of the directory in memory that holds its upper
    directories, `upper` the directory on disk that does. `earlier` are those that forks have frozen, oldest first, as (a descriptor of a
    mount, the path in it); `last` is the path of the one that it writes to.
    """

    def __init__(
        self, live: Live, *, running: bool, root: int = -1, base: int = -1, upper: str = "", cgroup: Cgroup | None = None,
        earlier: tuple[tuple[int, str], ...] = (), last: str = "upper/0",
    ) -> None:  # fmt: skip
        self.live, self.name, self.running, self.cgroup = live, live.name, running, cgroup
        self._root, self._base, self._upper, self.earlier, self._last = root, base, upper, earlier, last
        self._opened: list[int] = []
        self._reopened: Execution | None = None
        self.features = features()

    def own(self, fd: int) -> None:
        """Close a descriptor with it."""
        self._opened.append(fd)

    def _open(self, path: str) -> int:
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StateError(f"container {self.name}: {path}: {error.strerror}") from None
        self._opened.append(fd)
        return fd

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self._reopened is not None:
            self._reopened.close()
            self._reopened = None
        for fd in self._opened:
            os.close(fd)
        self._opened.clear()

    @property
    def rootfs(self) -> Rootfs:
        """What it was made from."""
        return self.live.rootfs

    @property
    def root(self) -> int:
        """A descriptor of its root directory; of one that has ended, of a container that is on its upper directory now."""
        if self._root < 0:
            self._hold_upper()
            plain = self.live.settings.replace(
                name="", seccomp="default", **NO_NETWORK, pid="private", ipc="private", uts="private", upper="disk", binds=(), tmpfs=(),
                volumes=(), images=(), devices=(), memory=None,
                memory_swap=None, memory_reservation=None, memory_swappiness=None, cpu_quota=None, cpu_period=None, cpu_shares=None,
                cpuset_cpus="", cpuset_mems="", pids=None, blkio_weight=None, device_rates=(), unified={}, cgroup_parent="", systemd=False,
                ulimits=(), sysctls={}, time_offsets={}, readonly=False,
            )  # fmt: skip
            self._reopened = _idle(create.create(plain, idle=True, reopen=self._upper, rootfs=self.rootfs))
            self._root = self._reopened.descriptors["container-root"]
        return self._root

    def _hold_upper(self) -> None:
        """Two overlays on one upper directory would spoil it (overlayfs.rst, "Sharing and copying layers"): others wait."""
        fd = os.open(self._upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._opened.append(fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not os.fstat(fd).st_nlink or not os.path.isdir(f"{self._upper}/upper-0"):
            raise StateError(f"container {self.name}: was removed meanwhile")

    def files(self) -> Files:
        """Its files."""
        return Files(self.root, self.live.facts.root_uid, self.live.facts.root_gid)

    def base(self) -> tuple[int, bool]:
        """(a descriptor of the directory that holds its upper directories, whether that is on disk). Raises StateError."""
        if self._upper:
            return self._open(self._upper), True
        if self._base < 0:
            raise StateError(f"container {self.name}: its changes are in memory, out of reach of another process", "start it with --upper disk")
        return self._base, False

    def uppers(self) -> list[int]:
        """Descriptors of what holds its changes, the oldest first: one directory, and those that forks have frozen. To be
        closed by the caller."""
        base, disk = self.base()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return [os.open(path, flags, dir_fd=tree) for tree, path in self.earlier] + [os.open("upper-0" if disk else self._last, flags, dir_fd=base)]

    def write_upper(self, upper: int, out: Callable[[bytes], object]) -> None:
        """One of its upper directories as a layer's tar."""
        skip = frozenset(os.fsencode(path.lstrip("/")) for path in GENERATED)
        spots = frozenset(os.fsencode(path.lstrip("/")) for path in self.points)
        uids, gids = self.ids()
        write_tree(upper, self.name, changes.Scope(uids=uids, gids=gids, skip=skip, points=spots), out)

    def ids(self) -> tuple[Owners, Owners]:
        """Its files' owners on disk, as `owners_of` has them."""
        return owners_of(self.live.facts)

    def frozen(self, wanted: bool) -> Callable[[], None]:
        """Stop its processes, if it has any and the kernel can; what lets them go on."""
        cgroup = self.cgroup
        if not wanted or not self.running or cgroup is None:
            return lambda: None
        try:
            cgroup.freeze(True)
        except HutchError:
            return lambda: None
        return lambda: cgroup.freeze(False)

    @property
    def points(self) -> frozenset[str]:
        """Directories and files that were made to be mounted on."""
        return points(self.live.settings)


def of_record(running: Running) -> Target:
    """A container by its record. Raises StateError, UnsupportedError for one whose files are out of reach."""
    live, upper = recorded.live_of(running), str(running.data.get("upper") or "")
    if running.status == "running":
        root = recorded.open_root(running, live.machine)
        target = Target(live, running=True, root=root, upper=upper, cgroup=recorded.cgroup_of(running))
        target.own(root)
        return target
    if not upper or not os.path.isdir(upper):
        raise StateError(f"container {live.name}: has ended, and its changes with it", "`--upper disk` keeps them until `hutch rm`")
    return Target(live, running=False, upper=upper)


def _idle(prepared: Prepared) -> Execution:
    """A container without a program, which ends when this is closed. Raises StartError."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        execution = launching.launch(prepared, stdin=null, stdout=null, stderr=null)
    finally:
        os.close(null)
    try:
        execution.wait_ready()
    except BaseException:
        execution.close()
        raise
    return execution


def points(s: Settings) -> frozenset[str]:
    """Where something is mounted in a container, with all directories above it."""
    targets = {bind.target.rstrip("/") for bind in s.binds} | {volume.target.rstrip("/") for volume in s.volumes}
    targets |= {image.target.rstrip("/") for image in s.images}
    targets |= {tmpfs.target.rstrip("/") for tmpfs in s.tmpfs} | {target for _, target, _ in s.devices}
    targets |= {"/dev", "/proc", "/sys", "/dev/pts", "/dev/shm", "/dev/mqueue"}
    return frozenset(path for target in targets for path in _parents(target))


def _parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]


def diff(target: Target) -> list[Change]:
    """What a container changed, by path: Docker's A, C and D. Raises StateError."""
    base, disk = target.base()
    own = frozenset(GENERATED) | target.points
    if not target.features.privileged:
        return _diff_mapped(target, base, own, disk)
    if not target.earlier:
        return sorted(changes_of(base, target.rootfs, own, disk), key=lambda change: change.path)
    uppers = target.uppers()
    try:
        return sorted(stacked(uppers, target.rootfs, own), key=lambda change: change.path)
    finally:
        for upper in uppers:
            os.close(upper)


def _diff_mapped(target: Target, base: int, own: frozenset[str], disk: bool) -> list[Change]:
    """`diff` by root of a user namespace: what belongs to subordinate ids may be closed to everybody else."""
    found: list[bytes] = []
    with mapped.Helper(target.features, "hutch.engine.containers.filesystem:diff_here", (base, target.rootfs, own, disk), (base,)) as helper:
        helper.receive(found.append)
        helper.finish(f"container {target.name}")
    lines = os.fsdecode(b"".join(found)).split("\0")[:-1]
    return [Change(kind=kind, path=path) for kind, _, path in (line.partition(" ") for line in lines)]  # type: ignore[arg-type]


def diff_here(base: int, rootfs: Rootfs, own: frozenset[str], disk: bool) -> None:
    """Print what a container changed, as "KIND PATH" with a NUL behind each."""
    for change in sorted(changes_of(base, rootfs, own, disk), key=lambda change: change.path):
        sys.stdout.buffer.write(os.fsencode(f"{change.kind} {change.path}\0"))


def commit(
    target: Target, name: str = "", *, changes: Iterable[str] = (), author: str = "", message: str = "", pause: bool = True
) -> Image:  # fmt: skip
    """An image of the container's: its image's layers, and one of what it changed. The same changes give the same layer.

    Volumes are not part of it. Its processes stand still meanwhile, with `pause` and where the kernel can. Raises StateError,
    UsageError, ImageError.
    """
    from hutch.engine.images import images

    reference = str(references.parse(name)) if name else ""
    content = Content()
    with Lease(content) as held:
        if not target.rootfs.manifest:
            raise UsageError(f"commit {target.name}: was not made from an image but from {target.rootfs.name}", "`hutch export` and `hutch import` make one")
        held.add(target.rootfs.manifest)
        record = names.Name(reference=names.NONE, digest=target.rootfs.manifest, manifest=target.rootfs.manifest, platform="", updated=0.0)
        base = stored_image.read(content, record)
        thaw = target.frozen(pause)
        try:
            digests = layers_of(target, content, held)
        finally:
            thaw()
        command = " ".join(target.live.facts.args)
        record = making.make(
            content, held, base, digests, target.features, reference, changes=changes, author=author, comment=message, created_by=command
        )  # fmt: skip
        found = images.image_of(content, stored_image.read(content, record))
    content.settle()
    return found


def layers_of(target: Target, content: Content, held: Lease) -> list[str]:
    """The container's changes as layers in the store, the oldest first; those that hold nothing are left out, but for one."""
    digests = []
    for upper in target.uppers():
        try:
            digests.append(making.layer_of(content, held, lambda out, upper=upper: target.write_upper(upper, out)))  # type: ignore[misc]
        finally:
            os.close(upper)
    return [digest for digest in digests if digest != EMPTY] or [EMPTY]


def export(target: Target, out: Callable[[bytes], object]) -> None:
    """The whole root file system of a container as a tar, without what is mounted in it. Raises StateError."""
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target.root)
    try:
        uids, gids = target.ids()
        write_tree(root, target.name, changes.Scope(uids=uids, gids=gids, whiteouts=False, one_device=True), out)
    finally:
        os.close(root)
