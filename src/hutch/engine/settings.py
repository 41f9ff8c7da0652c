"""What a user asks of a container, and its translation into a configuration that the runtime compiles."""

from __future__ import annotations

from hutch.errors import UnsupportedError, UsageError
from hutch.image.rootfs import Layer, Rootfs
from hutch.kernel import capabilities
from hutch.kernel.features import Features
from hutch.oci import config as oci
from hutch.oci.paths import MASKED, READONLY
from hutch.record import Record
from hutch.runtime.identity import default_mappings
from hutch.runtime.process import DEFAULT_PATH
from hutch.runtime.profile import default_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

ZERO_IS_NONE = ("memory", "memory_swap", "memory_reservation", "cpu_quota", "cpu_period", "cpu_shares", "pids", "blkio_weight")  # as with Docker
MINUS_IS_NONE = ("pids", "memory_swappiness")
USERNS = ("auto", "host", "private", "single")
CONTAINER = "container:"  # in front of another's name: its network namespace
NETWORKS = ("none", "host")  # every other word is a network's name, and has an attachment

# what of the settings is not for one who only takes part in, or begins where, another container is
NO_NETWORK: dict[str, Any] = {"network": "none", "network_path": "", "attachments": (), "ports": (), "publish_all": False, "net_devices": (), "egress": ()}


class Bind(Record):
    """A host directory or file in the container. `options` are mount(8)'s words beside ``rbind``."""

    source: str
    target: str
    readonly: bool = False
    options: tuple[str, ...] = ()


class Tmpfs(Record):
    """An empty directory in memory."""

    target: str
    options: tuple[str, ...] = ()


class VolumeMount(Record):
    """A volume in the container, made if it does not exist; `subpath` of it alone. `nocopy`: an empty one does not begin with
    what the image has at that path. `source` is its directory on this machine, once it is known."""

    name: str
    target: str
    readonly: bool = False
    subpath: str = ""
    nocopy: bool = False
    source: str = ""


class ImageSource(Record):
    """Another image's files in the container, read-only; `subpath` of it alone."""

    image: str
    target: str
    subpath: str = ""


class Attachment(Record):
    """A container on a network: addresses, a MAC and further names that it asks for there."""

    network: str
    ip: str = ""
    ip6: str = ""
    mac_address: str = ""
    aliases: tuple[str, ...] = ()


class Ulimit(Record):
    """setrlimit(2) by short name, such as ``nofile``; -1 is unlimited."""

    name: str
    soft: int
    hard: int


class Settings(Record):
    """A container as its user asks for it; None and "" mean: as the image, or the default, has it.

    Sizes in bytes, CPU quota in µs of each 100 ms, `user` as ``name|uid[:group|gid]``, `net_devices` as (the host's interface, its
    name in the container), `console` as the terminal's rows and columns.
    """

    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    name: str = ""
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    hostname: str = ""
    domainname: str = ""
    terminal: bool = False
    console: tuple[int, int] = (0, 0)
    interactive: bool = False
    readonly: bool = False
    memory: int | None = None
    memory_swap: int | None = None
    memory_reservation: int | None = None
    memory_swappiness: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int | None = None
    blkio_weight: int | None = None
    device_rates: tuple[tuple[str, int, int, int], ...] = ()
    unified: dict[str, str] = {}
    oom_score_adj: int | None = None
    shm_size: int = 64 << 20
    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    images: tuple[ImageSource, ...] = ()
    devices: tuple[tuple[str, str, str], ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: dict[str, str] = {}
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    seccomp: str = "default"
    no_new_privileges: bool = True
    privileged: bool = False
    network: str = "none"
    network_path: str = ""
    attachments: tuple[Attachment, ...] = ()
    ports: tuple[str, ...] = ()
    publish_all: bool = False
    expose: tuple[str, ...] = ()
    net_devices: tuple[tuple[str, str], ...] = ()
    egress: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    pid: str = "private"
    ipc: str = "private"
    uts: str = "private"
    cgroupns: str = "private"
    userns: str = "auto"
    time_offsets: dict[str, int] = {}
    init: bool = False
    stop_signal: str = ""
    stop_timeout: float | None = None
    upper: str = "tmpfs"
    upper_size: int = 0
    cgroup_parent: str = ""
    systemd: bool = False
    labels: dict[str, str] = {}
    extra_hosts: tuple[str, ...] = ()
    pull: str = "missing"
    isolation: str = "namespaces"
    vm_accel: str = "kvm"
    kernel: str = ""
    vm_root: str = "shared"
    snapshot: str = ""


def _one_of(value: str, allowed: Iterable[str], what: str) -> None:
    if value not in allowed:
        raise UsageError(f"{what}: expected {' or '.join(allowed)}, got {value!r}")


def _check_dns(s: Settings) -> None:
    from hutch.network.spec import is_address

    for server in s.dns:
        if not is_address(server):
            raise UsageError(f"dns: expected an address, got {server!r}")
    for what, words in (("dns-search", s.dns_search), ("dns-option", s.dns_options)):
        for word in words:
            if not word or any(c.isspace() or c == "\0" for c in word):
                raise UsageError(f"{what}: expected a word, got {word!r}")


def check(s: Settings) -> None:
    """Find what makes no sense before anything is touched. Raises UsageError."""
    if (s.network in NETWORKS or s.network.startswith(CONTAINER)) == bool(s.attachments):
        raise UsageError(f"network {s.network}: is named with others, or without what it is to give")
    if (s.ports or s.publish_all) and not s.attachments:
        raise UsageError(f"publish: network {s.network} has no ports to be published", "on the host's network every port is the host's; --network bridge")
    if s.egress:
        from hutch.network import egress

        if egress.parse(s.egress).allowed is not None and not s.attachments:
            raise UsageError(f"egress: network {s.network} has no way out that could be guarded", "--network bridge, or one of your own")
    _check_dns(s)
    if s.stop_signal:
        from hutch.engine import signals

        signals.number(s.stop_signal, "stop-signal")
    if s.isolation != "namespaces" or s.vm_accel != "kvm" or s.kernel or s.vm_root != "shared":
        from hutch.engine import machines

        machines.check(s)
    _one_of(s.userns, USERNS, "userns")
    for name in ("pid", "ipc", "uts", "cgroupns"):
        _one_of(getattr(s, name), ("private", "host"), name)
    _one_of(s.upper, ("tmpfs", "disk"), "upper")
    for name, value in (("name", s.name), ("hostname", s.hostname)):
        if value and (not value[0].isalnum() or not all(c.isalnum() or c in "_.-" for c in value) or len(value) > 63):
            raise UsageError(f"{name}: expected up to 63 letters, digits, dots, dashes and underscores, got {value!r}")
    texts = [s.image, s.user, s.workdir, s.domainname, *s.groups, *(t for b in s.binds for t in (b.source, b.target)), *(t.target for t in s.tmpfs)]
    if any("\0" in text for text in texts):
        raise UsageError("a path or a name contains a NUL")
    for clock in s.time_offsets:
        if clock not in ("monotonic", "boottime"):
            raise UsageError(f"time-offset: expected monotonic or boottime, got {clock!r}")
    if s.shm_size < 0 or s.upper_size < 0:
        raise UsageError("shm-size and upper-size: expected a size, got -1")
    if s.workdir and not s.workdir.startswith("/"):
        raise UsageError(f"workdir: expected an absolute path, got {s.workdir!r}")
    for item in s.env:
        if not item.partition("=")[0] or "\0" in item:
            raise UsageError(f"env: expected NAME=VALUE, got {item!r}")
    for item in (*s.command, *(s.entrypoint or ())):
        if "\0" in item:
            raise UsageError("command: an argument contains a NUL")
    targets = [mount.target for mounts in (s.binds, s.tmpfs, s.volumes, s.images) for mount in mounts]
    places = [place(target) for target in targets]
    twice = next((target for target, where in zip(targets, places, strict=True) if places.count(where) > 1), None)
    if twice is not None:
        raise UsageError(f"mount: duplicate mount point {twice}")
    for image in s.images:
        if ".." in image.subpath.split("/") or "\0" in image.image + image.target + image.subpath:
            raise UsageError(f"mount: subpath {image.subpath!r} leads out of the image")
    for volume in s.volumes:
        if ".." in volume.subpath.split("/") or "\0" in volume.name + volume.target + volume.subpath:
            raise UsageError(f"mount: subpath {volume.subpath!r} leads out of the volume")
    if (target := next((target for target, where in zip(targets, places, strict=True) if where == "/proc"), None)) is not None:
        raise UsageError(f"mount {target}: is the container's own, which shows its processes")
    for target in targets:
        if not target.startswith("/") or place(target) == "/":
            raise UsageError(f"mount: expected an absolute path below the root as target, got {target!r}")
    for bind in s.binds:
        if not bind.source.startswith("/"):
            raise UsageError(f"mount: expected an absolute path as source, got {bind.source!r}")
    if s.memory is not None and s.memory not in (-1, 0) and s.memory < 4096:
        raise UsageError(f"memory: the least is one page of 4096 bytes, got {s.memory}")
    if s.memory_swappiness is not None and not -1 <= s.memory_swappiness <= 100:
        raise UsageError(f"memory-swappiness: expected 0 to 100, or -1 for the host's own, got {s.memory_swappiness}")
    if s.memory_swap and s.memory_swap > 0 and not s.memory:
        raise UsageError("memory-swap: is memory and swap together, and needs a memory limit")
    if s.memory_swap is not None and s.memory is not None and 0 < s.memory_swap < s.memory:
        raise UsageError("memory-swap: is memory and swap together, and below the memory limit")
    for cap in (*s.cap_add, *s.cap_drop):
        if cap.upper() != "ALL":
            capabilities.canonical(cap)


def place(target: str) -> str:
    """A mount point in the one form that stands for all of its spellings, as Docker cleans it: ``..`` is taken from the words alone."""
    parts: list[str] = []
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def capability_set(s: Settings) -> tuple[str, ...]:
    """The container's capabilities: Docker's default, changed by --cap-add and --cap-drop, or all of them."""
    added = {c.upper() if c.upper() == "ALL" else capabilities.canonical(c) for c in s.cap_add}
    dropped = {c.upper() if c.upper() == "ALL" else capabilities.canonical(c) for c in s.cap_drop}
    held = set(capabilities.NUMBERS) if s.privileged or "ALL" in added else set(capabilities.DEFAULT)
    if "ALL" in dropped:
        held = set()
    held = (held - dropped) | (added - {"ALL"})
    return tuple(name for name in capabilities.NUMBERS if name in held)


def user_namespace(s: Settings, rootfs: Rootfs | None, features: Features, shared: tuple[Layer, ...] = ()) -> bool:
    """Whether the container gets a user namespace. As root, "auto" says yes where every layer can be idmapped;
    `shared` are those of other images in it."""
    if not features.privileged:
        if s.userns == "host" and s.isolation != "vm":
            raise UnsupportedError("userns: without root a container needs a user namespace of its own")
        return True
    if s.isolation == "vm":
        s = s.replace(userns="auto" if s.userns == "host" else s.userns, privileged=False)  # these are the guest's: its programs need none of the host's
    if s.userns == "host" or (s.userns == "auto" and (s.privileged or s.pid == "host" or (s.network == "host" and s.privileged))):
        return False
    lowers = rootfs.lowers if rootfs is not None else ()
    lowers += tuple(layer.lower for layer in shared if not layer.index)
    indexed = {layer.lower for layer in rootfs.layers if layer.index} if rootfs is not None else set()  # EROFS, which can be
    refused = [lower for lower in lowers if lower not in indexed and not features.can_idmap(lower)]
    able = features.user_namespaces and features.idmapped_layers and features.overlay_in_user_namespace and not refused
    if not able and s.userns != "auto":
        why = f"{refused[0]} lies on a file system that takes no idmapped mounts" if refused else "this kernel cannot idmap overlay layers (5.19 can)"
        raise UnsupportedError(f"userns: {why}", "--userns host does without a user namespace")
    return able and features.upper_user_xattrs


def namespaces(s: Settings, userns: bool) -> tuple[oci.Namespace, ...]:
    """The namespaces that the container has to itself."""
    wanted = ["mount"]
    wanted += [kind for kind, value in (("pid", s.pid), ("ipc", s.ipc), ("uts", s.uts), ("cgroup", s.cgroupns)) if value == "private"]
    wanted += ["network"] if s.network != "host" and not s.network_path else []
    wanted += ["user"] if userns else []
    wanted += ["time"] if s.time_offsets else []
    joined = (oci.Namespace(type="network", path=s.network_path),) if s.network_path else ()
    return (*(oci.Namespace(type=kind) for kind in wanted), *joined)


def id_mappings(s: Settings, features: Features) -> tuple[tuple[oci.IdMapping, ...], tuple[oci.IdMapping, ...]]:
    """The users and the groups of the container's user namespace."""
    mapper = bool(features.newuidmap and features.newgidmap) and s.userns != "single"
    subuid = (features.subuid.start, features.subuid.count) if features.subuid and mapper else None
    subgid = (features.subgid.start, features.subgid.count) if features.subgid and mapper else None
    return default_mappings(features.uid, features.gid, subuid if subgid else None, subgid if subuid else None)


def to_config(
    s: Settings, rootfs: Rootfs, features: Features, *, hostname: str, user: oci.User, home: str, shared: tuple[Layer, ...] = ()
) -> oci.Config:  # fmt: skip
    """The configuration of a container with these settings on that root file system."""
    userns = user_namespace(s, rootfs, features, shared)
    image = rootfs.config
    args = (s.entrypoint if s.entrypoint is not None else image.entrypoint) + (s.command or (image.cmd if s.entrypoint is None else ()))
    own_uts = s.uts == "private"
    mappings = id_mappings(s, features) if userns else ((), ())
    caps = capability_set(s)
    ambient: tuple[str, ...] = ()
    held = caps if user.uid == 0 else ()
    return oci.Config(
        oci_version=oci.VERSION,
        hostname=hostname if own_uts else None,
        domainname=s.domainname or None if own_uts else None,
        root=oci.Root(path="/", readonly=s.readonly),
        process=oci.Process(
            cwd=s.workdir or image.workdir or "/",
            args=args,
            env=environment(s, image.env, hostname, home),
            user=user,
            terminal=s.terminal,
            console_size=oci.ConsoleSize(height=s.console[0], width=s.console[1]) if s.terminal and all(s.console) else None,
            capabilities=oci.CapabilitySets(bounding=caps, effective=held, permitted=held, inheritable=(), ambient=ambient),
            rlimits=_rlimits(s, features),
            no_new_privileges=s.no_new_privileges and not s.privileged,
            oom_score_adj=s.oom_score_adj,
        ),
        mounts=_mounts(s, userns, features),
        linux=oci.Linux(
            namespaces=namespaces(s, userns),
            uid_mappings=mappings[0],
            gid_mappings=mappings[1],
            resources=resources_of(s, userns),
            seccomp=seccomp_of(s),
            sysctl={**_own_network(s, mappings[1], userns), **_own_share(s, features), **s.sysctls},
            devices=tuple(d for d in _devices(s) if not _bound(d.path, userns, features)),
            cgroups_path=f"{s.cgroup_parent.rstrip('/')}/hutch-{hostname}" if s.cgroup_parent else None,
            masked_paths=() if s.privileged else MASKED,
            readonly_paths=() if s.privileged else READONLY,
            net_devices={outside: oci.NetDevice(name=inside) for outside, inside in s.net_devices},
            time_offsets={clock: oci.TimeOffset(secs=seconds) for clock, seconds in s.time_offsets.items()},
        ),
    )


def _own_network(s: Settings, groups: tuple[oci.IdMapping, ...], userns: bool) -> dict[str, str]:
    """In a network namespace of its own every user of a container may bind every port, and ping, as with Docker since 20.10
    (ip-sysctl.rst). A range of groups may name those alone that the user namespace has."""
    if s.network == "host" or s.network_path or (userns and s.pid != "private"):  # the last has the host's /proc
        return {}
    last = max((m.container_id + m.size for m in groups), default=1 << 31) - 1
    return {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": f"0 {last}"}


def _own_share(s: Settings, features: Features) -> dict[str, str]:
    """Half of what an ordinary user may have of inotify's instances and watches: his container is to leave him the rest. They are
    counted in the container's user namespace, and in all above it (namespaces(7)). As root each namespace has an owner of its own."""
    if features.privileged or s.isolation == "vm" or s.pid != "private":
        return {}
    found = {}
    for name in ("max_inotify_instances", "max_inotify_watches"):
        try:
            with open(f"/proc/sys/user/{name}", encoding="ascii") as file:
                found[f"user.{name}"] = str(max(1, int(file.read()) // 2))
        except (OSError, ValueError):
            continue
    return found


def _rlimits(s: Settings, features: Features) -> tuple[oci.Rlimit, ...]:
    """What was asked for; and of what an ordinary user has of pending signals and message queues, half (setrlimit(2))."""
    wanted = {f"RLIMIT_{u.name.upper()}": (_limit(u.soft), _limit(u.hard)) for u in s.ulimits}
    if not features.privileged and s.isolation != "vm":
        for name in ("RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE"):
            if (most := features.hard_limits.get(name, 1 << 63)) < 1 << 40:
                wanted.setdefault(name, (most // 2, most // 2))
    return tuple(oci.Rlimit(type=name, soft=soft, hard=hard) for name, (soft, hard) in wanted.items())


def _limit(value: int) -> int:
    return 2**64 - 1 if value == -1 else value


_profiles: dict[tuple[str, ...], oci.Seccomp] = {}


def seccomp_of(s: Settings) -> oci.Seccomp | None:
    """The container's filter; None for none."""
    if s.privileged or s.seccomp == "unconfined":
        return None
    caps = capability_set(s)
    if s.seccomp in ("default", "compat", ""):
        key = (s.seccomp, *caps)
        if key not in _profiles:
            _profiles[key] = default_profile(caps, compat=s.seccomp == "compat")
        return _profiles[key]
    from hutch.engine.profiles import load

    return load(s.seccomp, caps)


def environment(s: Settings, image: tuple[str, ...], hostname: str, home: str) -> tuple[str, ...]:
    """PATH, HOSTNAME and HOME as Docker sets them, then the image's variables, then the user's; the last one wins."""
    values: dict[str, str] = {"PATH": DEFAULT_PATH}
    if hostname:
        values["HOSTNAME"] = hostname
    if s.terminal:
        values["TERM"] = "xterm"
    for item in (*image, *s.env):
        name, _, value = item.partition("=")
        values[name] = value
    values.setdefault("HOME", home)
    return tuple(f"{name}={value}" for name, value in values.items())


def _mounts(s: Settings, userns: bool, features: Features) -> tuple[oci.Mount, ...]:
    readonly = () if s.privileged else ("ro",)
    out = [
        oci.Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev")),
        oci.Mount(destination="/dev", type="tmpfs", source="tmpfs", options=("nosuid", "strictatime", "mode=755", "size=65536k")),
        oci.Mount(destination="/dev/pts", type="devpts", source="devpts", options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
        oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", *readonly)),
        oci.Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=("nosuid", "noexec", "nodev")),
        oci.Mount(destination="/dev/shm", type="tmpfs", source="shm", options=("nosuid", "noexec", "nodev", "mode=1777", f"size={s.shm_size}")),
    ]
    if features.cgroups.mode == "v2" or s.privileged:
        out.append(oci.Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=("nosuid", "noexec", "nodev", *readonly)))
    if s.ipc == "host":
        out = [m for m in out if m.destination != "/dev/shm"]
        out.append(oci.Mount(destination="/dev/shm", type="bind", source="/dev/shm", options=("bind", "nosuid", "noexec", "nodev")))
    asked = []
    for tmpfs in s.tmpfs:
        options = tmpfs.options or ("rw", "noexec", "nosuid", "nodev")
        asked.append(
            oci.Mount(destination=place(tmpfs.target), type="tmpfs", source="tmpfs", options=("nosuid", "nodev", *options) if tmpfs.options else options)
        )
    for bind in (*s.binds, *(Bind(source=v.source, target=v.target, readonly=v.readonly, options=("nosuid", "nodev")) for v in s.volumes)):
        words = ["rbind", *bind.options]
        if bind.readonly and "ro" not in words:
            words.append("ro")
        if not any(word.lstrip("r") in ("private", "shared", "slave", "unbindable") for word in bind.options):
            words.append("rprivate")
        if userns and features.privileged and features.can_idmap(bind.source) and "noidmap" not in words:
            words.append("idmap")
        words = [word for word in words if word not in ("noidmap", "z", "Z", "nocopy", "consistent", "cached", "delegated")]
        asked.append(oci.Mount(destination=place(bind.target), type="bind", source=bind.source, options=tuple(words)))
    # what the user mounts in the place of one of these is mounted instead; and a mount covers what was mounted below its place before
    instead = {mount.destination: mount for mount in asked}
    asked = [mount for mount in asked if mount.destination not in {m.destination for m in out}]
    out = [instead.get(mount.destination, mount) for mount in out]
    out += sorted(asked, key=lambda mount: mount.destination.count("/"))
    # where no node can be made, the host's own is bound
    out += [oci.Mount(destination=target, type="bind", source=source, options=("bind",)) for source, target, _ in s.devices if _bound(target, userns, features)]
    return tuple(out)


def _bound(target: str, userns: bool, features: Features) -> bool:
    """Whether a device is bound: an ordinary user makes no nodes; root makes them in /dev, and elsewhere in no user
    namespace's file systems."""
    return not features.privileged or (userns and not target.startswith("/dev/"))


def _devices(s: Settings) -> tuple[oci.Device, ...]:
    import os
    import stat

    out = []
    for source, target, _ in s.devices:
        try:
            info = os.stat(source)
        except OSError as error:
            raise UsageError(f"device {source}: {error.strerror}") from None
        if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
            raise UsageError(f"device {source}: is no device")
        kind = "c" if stat.S_ISCHR(info.st_mode) else "b"
        out.append(oci.Device(path=target, type=kind, major=os.major(info.st_rdev), minor=os.minor(info.st_rdev), file_mode=stat.S_IMODE(info.st_mode)))
    return tuple(out)


def resources_of(s: Settings, userns: bool) -> oci.Resources:
    """The limits, in the specification's terms."""
    memory = cpu = pids = block = None
    s = s.replace(**{name: None for name in ZERO_IS_NONE if getattr(s, name) == 0}, **{name: None for name in MINUS_IS_NONE if getattr(s, name) == -1})
    if s.memory is not None or s.memory_reservation is not None or s.memory_swappiness is not None:
        swap = s.memory_swap
        if swap is None and s.memory is not None and s.memory > 0:
            swap = 2 * s.memory  # Docker's rule
        memory = oci.Memory(limit=s.memory, swap=swap, reservation=s.memory_reservation, swappiness=s.memory_swappiness)
    if any(v is not None for v in (s.cpu_quota, s.cpu_period, s.cpu_shares)) or s.cpuset_cpus or s.cpuset_mems:
        period = s.cpu_period or (100_000 if s.cpu_quota is not None else None)
        cpu = oci.Cpu(quota=s.cpu_quota, period=period, shares=s.cpu_shares, cpus=s.cpuset_cpus or None, mems=s.cpuset_mems or None)
    if s.pids is not None:
        pids = oci.Pids(limit=s.pids)
    if s.blkio_weight is not None or s.device_rates:
        rates: dict[str, list[oci.ThrottleDevice]] = {}
        for kind, major, minor, rate in s.device_rates:
            rates.setdefault(f"throttle_{kind}_device", []).append(oci.ThrottleDevice(major=major, minor=minor, rate=rate))
        block = oci.BlockIo(weight=s.blkio_weight, **{key: tuple(value) for key, value in rates.items()})  # type: ignore[arg-type]
    # In a user namespace nothing but the nodes of /dev can be opened as a device, and no node can be made: the device
    # controller has work only without one.
    rules = () if userns or s.privileged else _device_rules(s)
    return oci.Resources(memory=memory, cpu=cpu, pids=pids, block_io=block, devices=rules, unified=s.unified)


def _device_rules(s: Settings) -> tuple[oci.DeviceRule, ...]:
    rules = [
        oci.DeviceRule(allow=False),
        oci.DeviceRule(allow=True, type="c", access="m"),
        oci.DeviceRule(allow=True, type="b", access="m"),
    ]
    numbers = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, -1))
    rules += [oci.DeviceRule(allow=True, type="c", major=major, minor=minor, access="rwm") for major, minor in numbers]
    for (_, _, access), device in zip(s.devices, _devices(s), strict=True):
        rules.append(oci.DeviceRule(allow=True, type=device.type, major=device.major, minor=device.minor, access=access))
    return tuple(rules)
