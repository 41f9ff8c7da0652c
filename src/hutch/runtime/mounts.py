"""Mounts, devices, masks: everything below the root."""

from __future__ import annotations

from hutch.errors import ConfigError
from hutch.oci.config import Device, IdMapping, Mount
from hutch.plan import ops
from hutch.plan.ops import Slot, slot
from hutch.runtime.builder import O_DIRECTORY, O_PATH, Builder
from hutch.runtime.options import MountOptions, parse
from hutch.runtime.rootfs import BASE, ROOT, USERNS

# Where a symbolic link in the image would move a file system that the runtime trusts: CVE-2019-19921 and its returns.
TRUSTED = ("proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2")
DEFAULT_DEVICES = (
    ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0),
)  # fmt: skip
DEV_LINKS = (
    ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"), ("core", "/proc/kcore"),
)  # fmt: skip
DEV, PROC, DEVPTS = slot("dev"), slot("proc"), slot("devpts")
EMPTY, NULL = slot("empty"), slot("null")


def joined_slot(namespace: str) -> Slot:
    """The slot of a namespace that the container joins."""
    return slot(f"ns-{namespace}")


def build(b: Builder) -> None:
    """Attach the configuration's mounts in their order; the cgroup file systems come after the cgroup is entered."""
    made_by_host = _prepared_dev(b)
    for i, mount in enumerate(b.config.mounts):
        if mount.type in ("cgroup", "cgroup2"):
            continue
        if _destination(mount) == "/dev" and made_by_host is not None:
            b.container.append(ops.Wait(barrier=2))
            b.container.append(_attach(made_by_host, "/dev", f"mounts[{i}]", "tmpfs with the devices", trusted=True))
            continue
        _mount(b, i, mount)
    _devices(b, made_by_host is not None)


def binds(b: Builder) -> None:
    """Attach what the configuration has of the host's directories, and nothing else: the rest is mounted in a machine."""
    for i, mount in enumerate(b.config.mounts):
        _mount(b, i, mount)


def _destination(mount: Mount) -> str:
    return "/" + mount.destination.strip("/")


def _attach(mount: Slot, path: str, origin: str, summary: str, *, trusted: bool = False, make: str = "directory") -> ops.Attach:
    return ops.Attach(mount=mount, root=ROOT, path=path, make=make, no_symlinks=trusted, summary=summary, origin=origin)


def _dev_mount(b: Builder) -> tuple[int, Mount] | None:
    return next(((i, m) for i, m in enumerate(b.config.mounts) if _destination(m) == "/dev" and m.type == "tmpfs"), None)


def _prepared_dev(b: Builder) -> Slot | None:
    """As root, /dev is made on the host lane, with its nodes: a file system of a user namespace's could hold none, and
    one bind mount a node would cost more. The container's root owns the directory, and may not make nodes in it."""
    found = _dev_mount(b)
    if found is None or not b.host_mounts or ("user" in b.joined and not b.uid_mappings):
        return None  # of a joined user namespace's mapping nothing is known: whose the directory should be, neither
    i, mount = found
    origin = f"mounts[{i}]"
    options = parse(mount.options, origin)
    uid, gid = b.host_uid(0), b.host_gid(0)
    data: list[tuple[str, str]] = [(key, value) for key, value in options.data if value is not None and key not in ("uid", "gid")]
    if b.in_userns:
        data += [("uid", str(max(uid, 0))), ("gid", str(max(gid, 0)))]
    b.ready.append(ops.MakeFilesystem(kind="tmpfs", attributes=options.attributes & ~4, options=tuple(data), into=DEV, origin=origin))
    for device in _all_devices(b):
        path = _dev_path(device)
        if path is None:
            continue
        b.ready.append(_node(b, device, DEV, path))
    for name, target in DEV_LINKS:
        b.ready.append(ops.MakeSymlink(base=DEV, target=target, path=name, uid=uid, gid=gid, origin="linux.devices"))
    return DEV


def _all_devices(b: Builder) -> list[Device]:
    own = {d.path for d in b.config.linux.devices}
    default = [Device(path=f"/dev/{n}", type="c", major=major, minor=minor, file_mode=0o666) for n, major, minor in DEFAULT_DEVICES]
    return [d for d in default if d.path not in own] + list(b.config.linux.devices)


def _dev_path(device: Device) -> str | None:
    relative = device.path.removeprefix("/dev/")
    return relative if relative != device.path and relative else None


def _node(b: Builder, device: Device, base: Slot, path: str) -> ops.MakeNode:
    origin = f"linux.devices[{b.config.linux.devices.index(device)}]" if device in b.config.linux.devices else "linux.devices"
    uid, gid = b.host_uid(device.uid or 0), b.host_gid(device.gid or 0)
    return ops.MakeNode(
        base=base,
        path=path,
        kind=device.type,
        major=device.major or 0,
        minor=device.minor or 0,
        mode=(device.file_mode if device.file_mode is not None else 0o666) & 0o7777,
        uid=uid,
        gid=gid,
        parents="/" in path,
        origin=origin,
    )


def _devices(b: Builder, made: bool) -> None:
    """Nodes that the prepared /dev does not hold: made in place by root, bound from the host by anyone else."""
    own = [m for m in b.config.mounts if _destination(m) == "/dev"]
    if any(m.type == "bind" or {"bind", "rbind"} & set(m.options) for m in own):
        return  # the host's own /dev: nodes and links would be made there
    for device in _all_devices(b):
        if made and _dev_path(device) is not None:
            continue
        origin = f"linux.devices[{b.config.linux.devices.index(device)}]" if device in b.config.linux.devices else "linux.devices"
        if not b.in_userns and b.host_mounts and not b.userns:
            b.container.append(_node(b, device, ROOT, device.path.lstrip("/")).replace(parents=True))
            continue
        tree = slot(f"device{device.path.replace('/', '-')}")
        b.lane_for_trees().append(ops.OpenTree(path=device.path, into=tree, origin=origin))
        b.container.append(_attach(tree, device.path, origin, f"device {device.path}", make="file"))
    if made or (not own and b.request.rootfs is not None):
        return  # an image without a /dev of its own gets no links
    in_place = slot("dev-directory")
    b.container.append(ops.OpenAt(base=ROOT, path="dev", flags=0o10200000, into=in_place, resolve=4 | 8, origin="linux.devices"))
    for name, target in DEV_LINKS:
        b.container.append(ops.MakeSymlink(base=in_place, target=target, path=name, origin="linux.devices"))


def _mount(b: Builder, i: int, mount: Mount) -> None:
    origin = f"mounts[{i}]"
    options = parse(mount.options, origin)
    target = _destination(mount)
    if options.bind or mount.type == "bind":
        if options.data:
            raise ConfigError(f"{origin}.options", f"{options.data[0][0]!r} is not an option of a bind mount")
        _bind(b, origin, mount, options, target)
        return
    kind = mount.type or ""
    if not kind:
        raise ConfigError(f"{origin}.type", f"the mount on {target} has neither a type nor the option bind")
    if kind == "proc" and b.goes_inside and (b.host_mounts or not b.userns):
        # of the namespace that is joined, by whoever has the rights to it; this process is not in there yet
        made_as = PROC if target == "/proc" else slot(f"mount-{i}")
        attributes = options.attributes | options.recursive_attributes
        made = (*((k, v) for k, v in options.data), ("pidns", joined_slot("pid")))
        b.lane_for_trees().append(ops.MakeFilesystem(kind="proc", attributes=attributes, options=made, into=made_as, origin=origin))
        b.container.append(_attach(made_as, target, origin, kind, trusted=True))
        _propagation(b, origin, target, options)
        return
    if b.in_userns and kind == "proc" and "pid" not in b.new:
        _host_tree(b, origin, "/proc", target, options)
        return
    if b.in_userns and kind == "sysfs" and "network" not in b.new:
        _host_tree(b, origin, "/sys", target, options)
        return
    if b.in_userns and kind == "mqueue" and "ipc" not in b.new:
        if not any(m.mount_point == "/dev/mqueue" for m in b.features.mounts):
            return  # the host shows its message queues nowhere, so neither does the container
        _host_tree(b, origin, "/dev/mqueue", target, options)
        return
    into = {"proc": PROC, "devpts": DEVPTS}.get(kind) if target in ("/proc", "/dev/pts") else None
    if any(isinstance(op, ops.MakeFilesystem) and op.into == into for op in b.container):
        into = None  # a second one on the same place: masks and terminals keep to the first
    into = into or slot(f"mount-{i}")
    data = list(options.data)
    if kind == "devpts":
        # a gid that the user namespace does not map cannot own terminals
        data = [(k, v) for k, v in data if not (k == "gid" and v is not None and b.host_gid(int(v)) < 0)]
    if b.config.linux.mount_label and kind not in ("proc", "sysfs", "cgroup", "cgroup2"):
        data.append(("context", b.config.linux.mount_label))
    b.container.append(
        ops.MakeFilesystem(
            kind=kind,
            attributes=options.attributes | options.recursive_attributes,
            options=tuple((k, v) for k, v in data),
            into=into,
            origin=origin,
        )
    )
    if options.copy_up:
        if kind != "tmpfs":
            raise ConfigError(f"{origin}.options", "tmpcopyup is an option of tmpfs alone")
        b.container.append(ops.CopyUp(root=ROOT, into=into, path=target, origin=origin))
    trusted = kind in TRUSTED or target == "/dev" or target.startswith("/dev/")
    b.container.append(_attach(into, target, origin, kind, trusted=trusted))
    _propagation(b, origin, target, options)


def _host_tree(b: Builder, origin: str, source: str, target: str, options: MountOptions) -> None:
    """A user namespace may mount these only beside its own pid, network or ipc namespace: show the host's instead."""
    into = slot(f"host{source.replace('/', '-')}")
    # what lies below must stay: a mount seen without its children would show what they cover
    b.lane_for_trees().append(
        ops.OpenTree(path=source, recursive=True, set_attributes=options.attributes, attributes_recursive=False, into=into, origin=origin)
    )
    b.container.append(_attach(into, target, origin, f"the host's {source}", trusted=True))


def _bind(b: Builder, origin: str, mount: Mount, options: MountOptions, target: str) -> None:
    if not mount.source:
        raise ConfigError(f"{origin}.source", f"the bind mount on {target} has no source")
    source = mount.source if mount.source.startswith("/") else f"{b.request.bundle.rstrip('/')}/{mount.source}"
    into = slot(f"bind-{origin[7:-1]}")
    idmap = _idmap_slot(b, origin, mount, options)
    lane = b.lane_for_trees()
    # What is asked of every mount below goes with the clone; what is asked of the top one alone follows, if they differ.
    inside = next((directory for directory, path in b.request.beneath if path == source), "")
    base = slot(f"bind-{origin[7:-1]}-top") if inside else None
    if base is not None:
        lane.append(ops.Open(path=inside, flags=O_PATH | O_DIRECTORY, into=base, origin=origin))
    everywhere = bool(options.recursive_attributes or options.recursive_clear or options.idmap == "ridmap")
    lane.append(
        ops.OpenTree(
            path=source[len(inside) + 1 :] if inside else source,
            base=base,
            recursive=options.recursive,
            set_attributes=options.recursive_attributes if everywhere else options.attributes,
            clear_attributes=options.recursive_clear if everywhere else options.clear,
            attributes_recursive=everywhere,
            propagation=_clone_propagation(options),
            idmap=idmap,
            into=into,
            origin=origin,
        )
    )
    b.container.append(_attach(into, target, origin, source, make="like"))
    if everywhere and (options.attributes or options.clear):
        b.container.append(ops.SetAttributes(root=ROOT, path=target, set_attributes=options.attributes, clear_attributes=options.clear, origin=origin))
    _propagation(b, origin, target, options)


def _clone_propagation(options: MountOptions) -> int:
    """A shared bind stays the host's peer and a slave hears of it, as they were asked to; any other is cut off."""
    if options.propagation == ops.PROPAGATION["shared"]:
        return 0
    return options.propagation if options.propagation == ops.PROPAGATION["slave"] else ops.PROPAGATION["private"]


def _propagation(b: Builder, origin: str, target: str, options: MountOptions) -> None:
    if options.propagation:
        b.container.append(
            ops.SetAttributes(
                root=ROOT,
                path=target,
                propagation=options.propagation,
                recursive=options.propagation_recursive,
                origin=origin,
            )
        )


def _idmap_slot(b: Builder, origin: str, mount: Mount, options: MountOptions) -> Slot | None:
    if not options.idmap and not mount.uid_mappings:
        return None
    if not b.host_mounts:
        raise ConfigError(f"{origin}.options", "an idmapped mount needs root", "rootless containers map ids by their user namespace alone")
    wanted = (mount.uid_mappings, mount.gid_mappings)
    if not mount.uid_mappings or (b.userns and wanted == (b.uid_mappings, b.gid_mappings)):
        if not b.userns:
            raise ConfigError(f"{origin}.options", "an idmapped mount needs mappings, or a user namespace to take them from")
        return USERNS
    # a mapping of the mount's own: a user namespace that lives for it alone
    into = slot(f"mapping-{origin[7:-1]}")
    b.mapped.append(ops.MakeUserNamespace(uid_map=_map_text(wanted[0]), gid_map=_map_text(wanted[1]), into=into, origin=f"{origin}.uidMappings"))
    return into


def _map_text(mappings: tuple[IdMapping, ...]) -> str:
    return "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)


def late(b: Builder, cgroups: dict[str, str]) -> None:
    """The cgroup file systems: what they show begins at the container's own cgroup once its namespace is made; without such a
    namespace v1's own directories (`cgroups`, by controller) are bound there."""
    layout = b.features.cgroups
    for i, mount in enumerate(b.config.mounts):
        if mount.type not in ("cgroup", "cgroup2"):
            continue
        origin, target = f"mounts[{i}]", _destination(mount)
        options = parse(mount.options, origin)
        shared = "cgroup" not in b.new and "cgroup" not in b.joined
        # a new mount of v2 from the first cgroup namespace would reset the options of the host's (cgroup-v2.rst, "Mounting")
        if shared and (layout.mode == "v2" or not (b.host_mounts and cgroups)):
            _host_tree(b, origin, "/sys/fs/cgroup", target, options)
            continue
        if layout.mode == "v2":
            into = slot(f"mount-{i}")
            b.container.append(ops.MakeFilesystem(kind="cgroup2", attributes=options.attributes, into=into, origin=origin))
            b.container.append(_attach(into, target, origin, "cgroup2", trusted=True))
            continue
        if layout.mode == "none" or not cgroups:
            continue
        top = slot(f"mount-{i}")
        b.container.append(ops.MakeFilesystem(kind="tmpfs", options=(("mode", "0755"),), into=top, origin=origin))
        b.container.append(_attach(top, target, origin, "tmpfs", trusted=True))
        seen: dict[str, list[str]] = {}
        for controller in layout.v1:
            seen.setdefault(controller.mount, []).append(controller.name)
        for names in seen.values():
            name = ",".join(names)
            for alias in names if len(names) > 1 else ():
                b.container.append(ops.MakeSymlink(base=top, target=name, path=alias, origin=origin))
            if shared:
                if names[0] in cgroups:
                    _own_cgroup(b, origin, cgroups[names[0]], f"{target}/{name}", options)
                continue
            into = slot(f"cgroup-{name}")
            flags = tuple((n, None) for n in names)
            b.container.append(ops.MakeFilesystem(kind="cgroup", attributes=options.attributes, options=flags, into=into, origin=origin))
            b.container.append(_attach(into, f"{target}/{name}", origin, f"cgroup {name}"))
        if not shared:
            _further_hierarchies(b, origin, target, options, cgroups)
        if options.attributes & 1:
            b.container.append(ops.SetAttributes(root=ROOT, path=target, set_attributes=1, origin=origin))


def _further_hierarchies(b: Builder, origin: str, target: str, options: MountOptions, cgroups: dict[str, str]) -> None:
    """Named hierarchies and a hybrid host's v2, where the container has places of its own in them: systemd wants to find its own."""
    layout = b.features.cgroups
    for named in layout.named:
        if named.name in cgroups:
            name, into = named.name.removeprefix("name="), slot(f"cgroup-{named.name.replace('=', '-')}")
            flags = (("none", None), ("name", name))
            b.container.append(ops.MakeFilesystem(kind="cgroup", attributes=options.attributes, options=flags, into=into, origin=origin))
            b.container.append(_attach(into, f"{target}/{name}", origin, f"cgroup {named.name}"))
    if "" in cgroups and layout.v2_mount:
        into = slot("cgroup-unified")
        b.container.append(ops.MakeFilesystem(kind="cgroup2", attributes=options.attributes, into=into, origin=origin))
        b.container.append(_attach(into, f"{target}/unified", origin, "cgroup2"))


def _own_cgroup(b: Builder, origin: str, source: str, target: str, options: MountOptions) -> None:
    into = slot(f"bind{target.replace('/', '-')}")
    b.ready.append(ops.OpenTree(path=source, set_attributes=options.attributes, into=into, origin=origin))
    b.container.append(_attach(into, target, origin, f"the container's cgroup {source}"))


def masks(b: Builder) -> None:
    """Hide and freeze paths. Below /proc and /sys that this plan mounted, by their own descriptors."""
    linux = b.config.linux
    mounted = {_destination(m): s for m, s in _api_mounts(b)}
    if linux.masked_paths:
        options = [("nr_inodes", "1"), ("mode", "0755")]
        if b.host_mounts and b.in_userns:
            options += [("uid", str(max(b.host_uid(0), 0))), ("gid", str(max(b.host_gid(0), 0)))]
        lane = b.ready if b.host_mounts else b.container
        lane.append(ops.MakeFilesystem(kind="tmpfs", attributes=1, options=tuple(options), into=EMPTY, origin="linux.maskedPaths"))
        b.lane_for_trees().append(ops.OpenTree(path="/dev/null", set_attributes=1, into=NULL, origin="linux.maskedPaths"))
        # attached out of sight: the kernel clones no mount that lies in another user namespace
        b.container.append(ops.Attach(mount=EMPTY, root=BASE, path="empty", origin="linux.maskedPaths"))
        b.container.append(ops.Attach(mount=NULL, root=BASE, path="null", make="file", origin="linux.maskedPaths"))
    for field, paths in (("maskedPaths", linux.masked_paths), ("readonlyPaths", linux.readonly_paths)):
        for i, path in enumerate(paths):
            origin = f"linux.{field}[{i}]"
            if not path.startswith("/"):
                raise ConfigError(origin, f"expected an absolute path, got {path!r}")
            base, relative = ROOT, path
            for top, mount in mounted.items():
                if path.startswith(top + "/"):
                    base, relative = mount, path[len(top) + 1 :]
            trusted = base is not ROOT
            if field == "maskedPaths":
                b.container.append(ops.Mask(root=base, path=relative, empty=EMPTY, null=NULL, no_symlinks=trusted, origin=origin))
            else:
                b.container.append(ops.ReadOnly(root=base, path=relative, no_symlinks=trusted, origin=origin))


def _api_mounts(b: Builder) -> list[tuple[Mount, Slot]]:
    made = {op.into for op in b.container if isinstance(op, ops.MakeFilesystem)}
    out = []
    for i, mount in enumerate(b.config.mounts):
        target = _destination(mount)
        candidate = PROC if mount.type == "proc" and target == "/proc" else slot(f"mount-{i}")
        if mount.type in ("proc", "sysfs") and candidate in made:
            out.append((mount, candidate))
    return out
