"""Branching: new containers from a running one's files.

What the container changed so far becomes a lower layer of its own root and of all the new ones (`runtime.fork`); where that
cannot be done (a process has a file open for writing, or works in a directory of the old root; changes on disk; an older
kernel; an ordinary user) it is written into the store as a layer, once, and the new ones begin with that.
"""

from __future__ import annotations

import os

from hutch.engine.containers import create, filesystem
from hutch.errors import HutchError, StartError, UsageError
from hutch.executor.launcher import FIRST_EXTRA, Execution
from hutch.image.layers import lowers
from hutch.image.store.content import Content
from hutch.image.store.lease import Lease
from hutch.kernel import proc
from hutch.kernel.features import features
from hutch.runtime.fork import PROBE, ForkRequest, compile_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from hutch.engine.containers.container import Container
    from hutch.image.rootfs import Rootfs
    from hutch.plan.plan import Plan

EBUSY = 16
MOST = 64  # lower layers that a container's own changes may make before they are written into one


def fork(box: Container, count: int) -> list[Container]:
    """`count` new containers on what `box` has now. Raises UsageError, StartError; then there is none of them."""
    if not 0 < count <= 10_000:
        raise UsageError(f"fork: expected a number of containers, got {count}")
    box._check()
    rootfs = box.live.rootfs
    if len(rootfs.views) != 1 or rootfs.views[0].path != "/":
        raise UsageError(f"fork {box.name}: its root is {rootfs.name}, and only containers of an image or a directory can be forked")
    made: list[Container] = []
    try:
        if part(box):
            plain = box._settings.replace(name="")
            for _ in range(count):
                child = type(box).__new__(type(box))
                child._spawn(create.create(plain, idle=True, rootfs=rootfs, inherited=tuple(path for _, path in box._lowers)), plain, box._lowers)
                made.append(child)
        else:
            changed = _as_layer(box)
            plain = box._settings.replace(name="")
            for _ in range(count):
                child = type(box).__new__(type(box))
                child._spawn(create.create(plain, idle=True, rootfs=changed), plain)
                made.append(child)
        for child in made:
            child._wait()
    except BaseException:
        for child in made:
            child.close()
        raise
    return made


def part(box: Container) -> bool:
    """Let the container go on with a fresh upper directory, its changes so far frozen below; whether that could be done."""
    found = features()
    base = box._execution.descriptors.get("base-tree", -1)
    if not found.privileged or not found.detached_layers or base < 0 or len(box._lowers) > MOST:
        return False
    thaw = _freeze(box)
    try:
        pid = box.pid
        root = os.fstat(box._execution.descriptors["container-root"])
        if any(_works_inside(other, root) for other in _processes(pid)):
            return False
        plan = _plan(box, pid)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        inherited = [tree for tree, _ in box._lowers[len(box._lowers) - box._inherited :]]
        try:
            with Execution(plan, stdin=null, stdout=null, stderr=null, extra=(box._pidfd, base, *inherited)) as execution:
                execution.wait_ready()
                fresh = os.dup(execution.descriptors["container-root"])
        except StartError as error:
            if error.origin == PROBE and error.errno == EBUSY:
                return False
            box.close()  # half of it may have a new root, and half the old one
            raise StartError(
                f"fork {box.name}: {error.message}; the container was ended", operation=error.operation, origin=error.origin, errno=error.errno
            ) from None
        finally:
            os.close(null)
    finally:
        thaw()
    os.close(box._execution.descriptors["container-root"])
    box._execution.descriptors["container-root"] = fresh
    box._files = None
    box._freeze_upper()
    return True


def _freeze(box: Container):  # type: ignore[no-untyped-def]
    try:
        box.cgroup.freeze(True)
    except HutchError:
        return lambda: None
    return lambda: box.cgroup.freeze(False)


def _processes(pid: int) -> Iterator[int]:
    """Every process in the mount namespace of a container's first one."""
    own = os.stat(f"/proc/{pid}/ns/mnt")
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.path.samestat(os.stat(f"/proc/{name}/ns/mnt"), own):
                    yield int(name)
            except OSError:
                continue


def _works_inside(pid: int, root: os.stat_result) -> bool:
    """Whether a process's working or root directory lies in the root file system, and is not its top, which is exchanged."""
    for name in ("cwd", "root"):
        try:
            info = os.stat(f"/proc/{pid}/{name}")
        except OSError:
            continue
        if info.st_dev == root.st_dev and info.st_ino != root.st_ino:
            return True
    return False


def _plan(box: Container, pid: int) -> Plan:
    rows = proc.mounts(pid)
    top = next(row for row in reversed(rows) if row.mount_point == "/")
    view = box.live.rootfs.views[0]
    request = ForkRequest(
        view=view,
        layers=box.live.rootfs.layers,
        userns=f"/proc/{pid}/ns/user" if box.live.facts.user_namespace else "",
        generation=box._generation + 1,
        inherited=tuple(path for _, path in box._lowers[len(box._lowers) - box._inherited :]),
        own=_has_own(box),
        mounts=tuple(dict.fromkeys(row.mount_point for row in rows if row.parent_id == top.mount_id and row.mount_point != "/")),
        mode=view.mode,
        first_extra=FIRST_EXTRA,
        readonly=box._settings.readonly,
    )
    return compile_fork(request)


def _has_own(box: Container) -> bool:
    try:
        os.stat("layer/own-0", dir_fd=box._execution.descriptors["base-tree"])
    except OSError:
        return False
    return True


def _as_layer(box: Container) -> Rootfs:
    """The container's changes as a layer of the store, above those of its image."""
    content = Content()
    found = features()
    with box.target() as target, Lease(content) as held:
        thaw = target.frozen(True)
        try:
            digests = filesystem.layers_of(target, content, held)
        finally:
            thaw()
        rootfs = target.rootfs
        for digest in digests:
            layer = lowers.ensure(content, digest, digest, found, f"fork {box.name}")
            view = rootfs.views[0]
            rootfs = rootfs.replace(views=(view.replace(lowers=(layer.lower, *view.lowers)),), layers=(layer, *rootfs.layers))
    return rootfs
