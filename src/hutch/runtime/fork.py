"""The plan that parts a running container from what it has changed so far, so that others can begin with it.

Its upper directory becomes a lower one: a new overlay with a fresh upper directory takes the root's place, the mounts below
the root move over, and pivot_root(2) exchanges the root of every process that has it. The old root is made read-only first,
which the kernel refuses as long as anybody has a file of it open for writing (mount_setattr(2), EBUSY): from then on nothing
can change what the new containers see. Nothing is copied, so that it takes as long for a gigabyte as for a byte.
"""

from __future__ import annotations

from hutch.image.rootfs import Layer, View
from hutch.plan import ops
from hutch.plan.ops import NAMESPACES, slot
from hutch.plan.plan import Plan
from hutch.record import Record
from hutch.runtime.builder import O_DIRECTORY, O_PATH
from hutch.runtime.compile import PIDFD

TARGET, HOME, OLD, NEW, USERNS, BASE = slot("target"), slot("home"), slot("old-root"), slot("root"), slot("userns"), slot("base")

PROBE = "fork: files open for writing"


class ForkRequest(Record):
    """A container to be parted from its changes.

    `view` is its root, `layers` what is shared of it; `userns` the path of its user namespace ("": it has none). `generation`
    numbers the upper directories in its tmpfs, whose tree is the descriptor `first_extra` + 1 (the first is its pidfd); the trees
    of the `inherited` lower directories that it began with are the descriptors behind that. `own`: it has a layer of Hutch's own.
    `mounts` are the mount points right below its root, `mode` the root directory's; `readonly`: nothing of
    the root can be written.
    """

    view: View
    layers: tuple[Layer, ...]
    userns: str
    generation: int
    inherited: tuple[str, ...]
    own: bool
    mounts: tuple[str, ...]
    mode: int
    first_extra: int
    readonly: bool = False


def compile_fork(request: ForkRequest) -> Plan:
    """The plan; it exports the new root as ``container-root``. It is for root, on a kernel that takes detached mounts as an
    overlay's layers (6.15)."""
    r = request
    host: list[ops.Operation] = [
        ops.Export(value=slot("container-root"), origin="fork"),
        ops.Inherit(into=TARGET, number=r.first_extra, origin="fork"),
        ops.Inherit(into=HOME, number=r.first_extra + 1, origin="fork"),
    ]
    c: list[ops.Operation] = [ops.Protect(origin="fork")]
    if r.userns:
        host.append(ops.Open(path=r.userns, flags=0, into=USERNS, origin="fork"))
    clones: list[tuple[ops.Slot, str]] = []  # mounts to be attached in the container's namespace, and the directory that is meant
    for number, path in enumerate(r.inherited):
        tree = slot(f"inherited-{number}")
        host.append(ops.Inherit(into=tree, number=r.first_extra + 2 + number, origin="fork"))
        clones.append((slot(f"inherited-clone-{number}"), path))
        host.append(ops.OpenTree(base=tree, path="", into=clones[-1][0], origin="fork"))
    for number, path in enumerate(r.view.lowers):
        clones.append((slot(f"clone-{number}"), ""))
        host.append(ops.OpenTree(path=path, set_attributes=1, idmap=USERNS if r.userns else None, into=clones[-1][0], origin="fork"))
    host += [ops.Clone(flags=0, into=PIDFD, origin="fork"), ops.Wait(barrier=9, release=True)]
    c.append(ops.Join(target=TARGET, flags=NAMESPACES["mount"] | (NAMESPACES["user"] if r.userns else 0), origin="fork"))
    if r.userns:
        c.append(ops.SetIds(uid=0, gid=0, groups=(), origin="fork"))
    c.append(ops.Open(path="/", flags=O_PATH | O_DIRECTORY, into=OLD, origin="fork"))
    # refused while a file is open for writing: found out before anything is changed
    c.append(ops.SetAttributes(root=OLD, path="", set_attributes=1, origin=PROBE))
    c.append(ops.SetAttributes(root=OLD, path="", clear_attributes=1, origin="fork"))
    # overlayfs in a user namespace takes no layer from another namespace: the clones are attached in this one first
    c.append(ops.MakeFilesystem(kind="tmpfs", options=(("mode", "0700"),), into=BASE, origin="fork"))
    c.append(ops.Attach(mount=BASE, root=OLD, path="", make="", summary="a tmpfs for the layers", origin="fork"))
    lowers = []
    for number, (clone, path) in enumerate(clones):
        place = f"lower-{number}"
        c.append(ops.MakeDirectory(base=BASE, path=place, origin="fork"))
        c.append(ops.Attach(mount=clone, root=BASE, path=place, make="", summary=f"layer {number}", origin="fork"))
        lowers.append(slot(place))
        c.append(ops.OpenAt(base=BASE, path=f"{place}/{path}".rstrip("/"), flags=O_PATH | O_DIRECTORY, into=lowers[-1], resolve=8, origin="fork"))
    upper, work = slot("upper"), slot("work")
    for name, into, mode in (("upper", upper, r.mode), ("work", work, 0o755)):
        c.append(ops.MakeDirectory(base=HOME, path=f"{name}/{r.generation}", mode=mode, origin="fork"))
        c.append(ops.OpenAt(base=HOME, path=f"{name}/{r.generation}", flags=O_PATH | O_DIRECTORY, into=into, origin="fork"))
    earlier = []
    for number in range(r.generation - 1, -1, -1):
        earlier.append(slot(f"upper-{number}"))
        c.append(ops.OpenAt(base=HOME, path=f"upper/{number}", flags=O_PATH | O_DIRECTORY, into=earlier[-1], origin="fork"))
    own = []
    if r.own:
        own = [slot("own")]
        c.append(ops.OpenAt(base=HOME, path="layer/own-0", flags=O_PATH | O_DIRECTORY, into=own[0], origin="fork"))
    options: list[tuple[str, str | ops.Slot | tuple[ops.Slot, ...] | None]] = [("userxattr", None)] if r.userns else []
    options += [("lowerdir+", layer) for layer in (*earlier, *own, *lowers)]
    options += [("upperdir", upper), ("workdir", work)]
    c.append(ops.MakeFilesystem(kind="overlay", options=tuple(options), into=NEW, origin="fork"))
    c.append(ops.SetAttributes(root=OLD, path="", set_attributes=1, origin="fork"))
    c.append(ops.Attach(mount=NEW, root=OLD, path="", make="", summary="the new root", origin="fork"))
    for number, path in enumerate(r.mounts):
        moved = slot(f"mount-{number}")
        c.append(ops.OpenAt(base=OLD, path=path.lstrip("/"), flags=O_PATH, into=moved, resolve=ops.RESOLVE_IN_ROOT | ops.RESOLVE_NO_SYMLINKS, origin="fork"))
        c.append(ops.Attach(mount=moved, root=NEW, path=path, make="", summary=f"what is mounted on {path}", origin="fork"))
    if r.readonly:
        c.append(ops.SetAttributes(root=NEW, path="", set_attributes=1, origin="root.readonly"))
    c.append(ops.Pivot(root=NEW, stacked=1, origin="fork"))
    c.append(ops.Open(path="/", flags=O_PATH | O_DIRECTORY, into=slot("container-root"), origin="fork"))
    c.append(ops.CloseDescriptors(origin="fork"))
    c.append(ops.Signal(barrier=9))
    return Plan(host=tuple(host), container=tuple(c))
