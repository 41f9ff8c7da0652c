"""A root of layers: overlays, whiteouts over what is hidden, the container's own files of /etc."""

from __future__ import annotations

from hutch.errors import UnsupportedError
from hutch.image.rootfs import ImageMount, Rootfs, View
from hutch.plan import ops
from hutch.plan.ops import Slot, slot
from hutch.runtime.builder import O_DIRECTORY, O_PATH, Builder
from hutch.runtime.request import Request
from hutch.runtime.rootfs import BASE, HOST_ROOT, ROOT, USERNS, open_host

STRANGER = 65535  # an id that owns no file and is nobody's: 16-bit programs take it for "none"


def build(b: Builder, rootfs: Rootfs) -> None:
    """The operations that end with the overlays of an image's layers in the slot `root`, attached."""
    open_host(b)
    request, c = b.request, b.container
    held = dict.fromkeys((*rootfs.layers, *(layer for image in request.images for layer in image.layers)))
    b.prepare += [ops.HoldLayer(path=layer.lower, lock=layer.lock, index=layer.index, tar=layer.tar, origin="root") for layer in held]
    options: list[tuple[str, str]] = [("mode", "0755")]
    if request.upper_size and not request.upper:
        options.append(("size", str(request.upper_size)))
    if request.files and request.idle and not request.upper and b.features.detached_layers and b.features.privileged:
        # Others can be made from what will be changed here (`fork`): the file system stays on a mount of its own, which the
        # kernel lets be cloned from any namespace as it was never in one, and a clone of it is attached.
        tree = slot("base-tree")
        c.append(ops.MakeFilesystem(kind="tmpfs", options=tuple(options), into=tree, origin="root"))
        c.append(ops.OpenTree(base=tree, path="", into=BASE, origin="root"))
        b.prepare.append(ops.Export(value=tree, origin="root"))
    else:
        c.append(ops.MakeFilesystem(kind="tmpfs", options=tuple(options), into=BASE, origin="root"))
    c.append(ops.Attach(mount=BASE, root=HOST_ROOT, path="", make="", summary="a tmpfs for the layers", origin="root"))
    home = BASE
    if request.upper:
        home = _disk(b, request.upper)
    for name in ("layer", "upper", "work"):
        c.append(ops.MakeDirectory(base=BASE, path=name, origin="root"))
    if not request.reopen:
        c.append(ops.MakeDirectory(base=home, path="root", origin="root"))
    whole = len(rootfs.views) == 1 and rootfs.views[0].path == "/"
    if whole:
        _overlay(b, rootfs.views[0], 0, ROOT)
    else:
        if not request.reopen:
            _skeleton(b, rootfs, home)
        c.append(ops.OpenTree(base=home, path="root", into=ROOT, origin="root"))
    c.append(ops.Attach(mount=ROOT, root=HOST_ROOT, path="", make="", summary="the root", origin="root"))
    if not whole:
        _views(b, rootfs)
    for number, image in enumerate(request.images):
        _image(b, image, number)
        if not _below_a_mount(b, image):
            _attach_image(b, image, number)


def late_images(b: Builder) -> None:
    """Attach the images that lie below another mount, once that is there."""
    for number, image in enumerate(b.request.images):
        if _below_a_mount(b, image):
            _attach_image(b, image, number)


def _below_a_mount(b: Builder, image: ImageMount) -> bool:
    return any(f"{image.target.rstrip('/')}/".startswith(f"/{mount.destination.strip('/')}/") for mount in b.config.mounts)


def _attach_image(b: Builder, image: ImageMount, number: int) -> None:
    shown = slot(f"image-{number}")
    b.container.append(ops.Attach(mount=shown, root=ROOT, path=image.target, make="like", summary="the image", origin="mounts"))


def _disk(b: Builder, path: str) -> Slot:
    """The directory on disk for what the container changes. The way to it is open to its owner alone, whom the container's root
    is not: root clones the mount outside, and it is attached here, since overlayfs takes no directory of another namespace's."""
    if not b.host_mounts:
        return b.open_path(path, "disk", "root")
    tree, disk = slot("disk-tree"), slot("disk")
    b.mapped.append(ops.OpenTree(path=path, propagation=ops.PROPAGATION["private"], into=tree, origin="root"))
    b.container.append(ops.MakeDirectory(base=BASE, path="disk", origin="root"))
    b.container.append(ops.Attach(mount=tree, root=BASE, path="disk", make="", summary=path, origin="root"))
    b.container.append(ops.OpenAt(base=BASE, path="disk", flags=O_PATH | O_DIRECTORY, into=disk, resolve=ops.RESOLVE_BENEATH, origin="root"))
    return disk


def _image(b: Builder, image: ImageMount, number: int) -> None:
    """Another image in the container: its layers as an overlay without an upper directory, which nothing can write to."""
    c = b.container
    place = f"layer/image-{number}"
    for path in (place, f"{place}/empty", f"{place}/merged"):
        c.append(ops.MakeDirectory(base=BASE, path=path, origin="mounts"))
    empty, merged, shown = slot(f"image-{number}-empty"), slot(f"image-{number}-merged"), slot(f"image-{number}")
    c.append(ops.OpenAt(base=BASE, path=f"{place}/empty", flags=O_PATH | O_DIRECTORY, into=empty, origin="mounts"))
    # two lower directories are the least that overlayfs takes without an upper one
    layers = [empty, *(_lower(b, layer.lower, f"image-{number}-{i}") for i, layer in enumerate(image.layers))]
    c.append(ops.MakeFilesystem(kind="overlay", options=_overlay_options(b, layers, ()), attributes=1, into=merged, origin="mounts"))
    c.append(ops.Attach(mount=merged, root=BASE, path=f"{place}/merged", make="", summary="the image", origin="mounts"))
    path = f"{place}/merged/{image.path.strip('/')}".rstrip("/")
    c.append(ops.OpenTree(base=BASE, path=path, set_attributes=1 | 2 | 4, into=shown, origin="mounts"))


def _views(b: Builder, rootfs: Rootfs) -> None:
    c = b.container
    for number, view in enumerate(rootfs.views):
        if view.extra and not b.in_userns:
            # nothing would keep this root from what only the host's root may read there
            b.warnings.append(f"{view.path} is not shown in a container without a user namespace")
            continue
        mount = slot(f"view{view.path.replace('/', '-')}")
        if view.extra and b.userns and b.host_mounts:
            b.mapped.append(ops.OpenTree(path=view.path, set_attributes=1, into=mount, origin="root"))
        elif view.recursive_bind or (view.extra and b.userns):
            c.append(ops.OpenTree(path=view.path, recursive=True, set_attributes=1, attributes_recursive=True, into=mount, origin="root"))
        else:
            if view.nested and not b.in_userns:
                b.warnings.append(f"what is mounted below {view.path} is not shown in a container without a user namespace")
                view = view.replace(hidden=(*view.hidden, *view.nested), nested=())
            _overlay(b, view, number, mount)
        c.append(ops.Attach(mount=mount, root=ROOT, path=view.path, make="", summary=f"the view of {view.path}", origin="root"))
        for i, nested in enumerate(view.nested):
            # without id mapping: the container's root is nobody there, and reads what everybody may
            below, path = slot(f"nested-{number}-{i}"), f"{view.path}/{nested.path}"
            b.lane_for_trees().append(ops.OpenTree(path=path, set_attributes=1, into=below, origin="root"))
            c.append(ops.Attach(mount=below, root=ROOT, path=path, make="like", summary=path, origin="root"))


def _skeleton(b: Builder, rootfs: Rootfs, home: Slot) -> None:
    for path, mode in (*rootfs.directories, *((view.path.lstrip("/"), view.mode) for view in rootfs.views)):
        b.container.append(ops.MakeDirectory(base=home, path=f"root/{path}", mode=mode, origin="root"))
    for path, target in rootfs.links:
        b.container.append(ops.MakeSymlink(base=home, target=target, path=f"root/{path}", origin="root"))


def with_short(name: str) -> str:
    """A host name as hosts(5) has it: a name with a domain, and its first word."""
    short = name.partition(".")[0]
    return f"{name} {short}" if short != name else name


def generated_files(name: str, request: Request) -> list[tuple[str, str]]:
    """What every container has of its own in /etc: (path below /etc, content), by its host name and what it asked for."""
    files = []
    if name:
        files.append(("hostname", f"{name}\n"))
        hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        own = "" if request.networks or request.joins else f"127.0.1.1\t{with_short(name)}\n"  # on a network the name is its address there
        files.append(("hosts", f"{hosts}{own}{request.hosts}"))
    if request.resolv_conf is not None:
        files.append(("resolv.conf", request.resolv_conf))
    return files


def _own_layer(b: Builder, view: View, number: int) -> Slot | None:
    """A layer above the image's: whiteouts over what is hidden, and the container's own files of /etc."""
    prefix = f"layer/own-{number}"
    files = generated_files(b.config.hostname or "", b.request) if view.path in ("/", "/etc") else []
    if not files and not view.hidden:
        return None
    c = b.container
    c.append(ops.MakeDirectory(base=BASE, path=prefix, mode=view.mode, origin="root"))
    made: set[str] = set()

    def parents(path: str, modes: tuple[int, ...]) -> None:
        parts = path.split("/")[:-1]
        for i in range(len(parts)):
            parent = "/".join(parts[: i + 1])
            if parent not in made:
                made.add(parent)
                mode = modes[i] if i < len(modes) else 0o755
                c.append(ops.MakeDirectory(base=BASE, path=f"{prefix}/{parent}", mode=mode, origin="root"))

    for path, content in files:
        path = path if view.path == "/etc" else f"etc/{path}"
        parents(path, ())
        c.append(ops.MakeFile(base=BASE, path=f"{prefix}/{path}", data=content, origin="hostname"))
    gone: set[str] = set()
    for hidden in sorted(view.hidden, key=lambda hidden: hidden.path.count("/")):
        parts = hidden.path.split("/")
        if any("/".join(parts[:n]) in gone for n in range(1, len(parts) + 1)):
            continue  # with what is above it
        gone.add(hidden.path)
        parents(hidden.path, hidden.parents)
        c.append(ops.MakeNode(base=BASE, path=f"{prefix}/{hidden.path}", kind="c", mode=0, origin="root"))
    own = slot(f"own-{number}")
    c.append(ops.OpenAt(base=BASE, path=prefix, flags=O_PATH | O_DIRECTORY, into=own, origin="root"))
    return own


def _overlay(b: Builder, view: View, number: int, into: Slot) -> None:
    features, c = b.features, b.container
    if b.in_userns and not features.overlay_in_user_namespace:
        raise UnsupportedError(
            f"root: overlayfs cannot be mounted in a user namespace by Linux {features.kernel[0]}.{features.kernel[1]}",
            "Linux 5.11 can; or run as root with --userns host",
        )
    layers: list[Slot] = []
    own = _own_layer(b, view, number)
    if own is not None:
        layers.append(own)
    for i, path in enumerate(b.request.inherited):
        # what another container has changed: nothing but its descriptor leads there
        tree, clone, layer = slot(f"inherited-{i}"), slot(f"inherited-clone-{i}"), slot(f"inherited-layer-{i}")
        b.prepare.append(ops.Inherit(into=tree, number=b.request.first_extra + i, origin="root"))
        b.mapped.append(ops.OpenTree(base=tree, path="", into=clone, origin="root"))
        c.append(ops.MakeDirectory(base=BASE, path=f"layer/inherited-{i}", origin="root"))
        c.append(ops.Attach(mount=clone, root=BASE, path=f"layer/inherited-{i}", make="", summary="changes of another container", origin="root"))
        c.append(ops.OpenAt(base=BASE, path=f"layer/inherited-{i}/{path}", flags=O_PATH | O_DIRECTORY, into=layer, resolve=8, origin="root"))
        layers.append(layer)
    if view.guarded and not view.stacked:
        layers.append(_guarded(b, view, number))
    else:
        layers += [_lower(b, lower, f"{number}-{i}") for i, lower in enumerate(view.lowers)]
    if view.guarded and view.stacked:
        _guard(b, layers, into)
        return
    where = slot("disk") if b.request.upper else BASE
    upper, work = slot(f"upper-{number}"), slot(f"work-{number}")
    for kind, found, mode in (("upper", upper, view.mode), ("work", work, 0o755)):
        path = f"{kind}-{number}" if b.request.upper else f"{kind}/{number}"
        if not b.request.reopen:
            c.append(ops.MakeDirectory(base=where, path=path, mode=mode, origin="root"))
        c.append(ops.OpenAt(base=where, path=path, flags=O_PATH | O_DIRECTORY, into=found, origin="root"))
    c.append(ops.MakeFilesystem(kind="overlay", options=_overlay_options(b, layers, (upper, work)), into=into, origin="root"))


def _guard(b: Builder, layers: list[Slot], into: Slot) -> None:
    """A read-only overlay of the host's directories that gives what a stranger on the host could read, and nothing else.

    overlayfs asks for every access a second time with the ids of whoever mounted it (overlayfs.rst, "Permission model"). Here
    that is an id that owns nothing, without the capabilities that pass over permissions: what the host closes to others is
    closed, while the container runs, too, although its root is the owner of everything that it sees.
    """
    nothing = slot("nothing")
    if not any(isinstance(op, ops.OpenAt) and op.into == nothing for op in b.container):
        b.container.append(ops.MakeDirectory(base=BASE, path="layer/nothing", origin="root"))
        b.container.append(ops.OpenAt(base=BASE, path="layer/nothing", flags=O_PATH | O_DIRECTORY, into=nothing, origin="root"))
    # two lower directories are the least that overlayfs takes without an upper one
    options = _overlay_options(b, [*layers, nothing], ())
    stranger = STRANGER if b.host_uid(STRANGER) >= 0 and b.host_gid(STRANGER) >= 0 else None
    b.container.append(ops.MakeFilesystem(kind="overlay", options=options, attributes=1, stranger=stranger, into=into, origin="root"))


def _guarded(b: Builder, view: View, number: int) -> Slot:
    """A view's directory in the `_guard` of its mount, which all views of that mount share, as a layer. Where this container has
    a single id there is no stranger to ask for: it is its user's own, and so are the private files that it can read."""
    lower = view.lowers[0]
    if b.host_uid(STRANGER) < 0 or b.host_gid(STRANGER) < 0:
        return _lower(b, lower, f"{number}-0")
    # of the whole mount a user namespace may make no layer: it would show what is mounted over
    top = (b.host_mounts and view.mount) or lower
    below = lower[len(top) :].strip("/")
    name = top.strip("/").replace("/", "-") or "root"
    guard, layer, place = slot(f"guard-{name}"), slot(f"guarded-{number}"), f"layer/guard-{name}"
    if not any(isinstance(op, ops.MakeFilesystem) and op.into == guard for op in b.container):
        _guard(b, [_lower(b, top, name)], guard)
        # younger kernels take it as a layer unattached, but to take it apart in the end they would wait for every processor
        b.container.append(ops.MakeDirectory(base=BASE, path=place, origin="root"))
        b.container.append(ops.Attach(mount=guard, root=BASE, path=place, make="", summary="what strangers may read", origin="root"))
    path = f"{place}/{below}".rstrip("/")
    b.container.append(ops.OpenAt(base=BASE, path=path, flags=O_PATH | O_DIRECTORY, into=layer, resolve=ops.RESOLVE_BENEATH, origin="root"))
    return layer


def _lower(b: Builder, lower: str, name: str) -> Slot:
    """A lower directory, ready to be a layer: idmapped, where the container has ids of its own."""
    if not (b.userns and b.host_mounts):
        return b.open_path(lower, f"lower-{name}", "root")
    # An idmapped clone shows the layer's files as the container's root's own; the layer itself stays root's.
    clone, layer = slot(f"clone-{name}"), slot(f"lower-{name}")
    idmap = None if b.same_ids else USERNS
    b.mapped.append(ops.OpenTree(path=lower, set_attributes=1, idmap=idmap, into=clone, origin="root"))
    b.container.append(ops.MakeDirectory(base=BASE, path=f"layer/lower-{name}", origin="root"))
    # overlayfs in a user namespace takes no layer from another namespace: attach it in this one first
    b.container.append(ops.Attach(mount=clone, root=BASE, path=f"layer/lower-{name}", make="", summary=f"layer {lower}", origin="root"))
    b.container.append(ops.OpenAt(base=BASE, path=f"layer/lower-{name}", flags=O_PATH | O_DIRECTORY, into=layer, resolve=8, origin="root"))
    return layer


def _overlay_options(b: Builder, layers: list[Slot], upper: tuple[Slot, ...]) -> tuple[tuple[str, str | Slot | tuple[Slot, ...] | None], ...]:
    """The layers, the topmost first, and (upper, work) where something can be written, as this kernel's overlayfs takes them."""
    options: list[tuple[str, str | Slot | tuple[Slot, ...] | None]] = []
    if b.in_userns:
        options.append(("userxattr", None))
    names = ("upperdir", "workdir")
    if b.features.overlay_append and b.features.overlay_by_descriptor:
        options += [("lowerdir+", layer) for layer in layers]
        options += list(zip(names, upper, strict=False))
    else:
        options += [("lowerdir", tuple(layers)), *((name, (place,)) for name, place in zip(names, upper, strict=False))]
    return tuple(options)
