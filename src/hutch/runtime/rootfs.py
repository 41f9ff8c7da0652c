"""The root as a directory that is used as it is; layers are `layers.py`'s."""

from __future__ import annotations

from hutch.plan import ops
from hutch.plan.ops import slot
from hutch.runtime.builder import O_DIRECTORY, O_NOFOLLOW, O_PATH, Builder

BASE, ROOT, HOST_ROOT = slot("base"), slot("root"), slot("host-root")
USERNS = slot("userns")


def build(b: Builder) -> None:
    """The operations that end with the root's mount in the slot `root`, attached in the container's mount namespace."""
    open_host(b)
    root = b.config.root
    path = root.path if root else "rootfs"
    if not path.startswith("/"):
        path = f"{b.request.bundle.rstrip('/')}/{path}"
    b.container.append(ops.MakeFilesystem(kind="tmpfs", options=(("mode", "0755"),), into=BASE, origin="root"))
    b.container.append(ops.Attach(mount=BASE, root=HOST_ROOT, path="", make="", summary="a tmpfs to work in", origin="root"))
    # the directory itself, and no link that somebody puts in its place: it is used by descriptor from here on
    place, flags = slot("root-directory"), O_PATH | O_DIRECTORY | O_NOFOLLOW
    b.container.append(ops.Open(path=path, flags=flags, into=place, origin="root.path"))
    source = slot("root-source") if b.host_mounts else place
    if b.host_mounts:
        b.mapped.append(ops.Open(path=path, flags=flags, into=source, origin="root.path"))
    slave = (b.config.linux.rootfs_propagation or "").endswith("slave")
    apart = ops.PROPAGATION["slave" if slave else "private"]
    b.lane_for_trees().append(ops.OpenTree(base=source, path="", recursive=True, propagation=apart, into=ROOT, origin="root.path"))
    # where a hook that runs before the pivot looks for it: at its own path
    b.container.append(ops.Attach(mount=ROOT, root=place, path="", make="", summary="the root", origin="root.path"))


def open_host(b: Builder) -> None:
    """The host's root, which everything is attached to before the pivot."""
    b.container.append(ops.Open(path="/", flags=O_PATH | O_DIRECTORY, into=HOST_ROOT, origin="root"))
