"""From settings to a configuration that the runtime compiles."""

from __future__ import annotations

from hutch.engine.spec.settings import Bind, Settings, place
from hutch.errors import UnsupportedError, UsageError
from hutch.image.rootfs import Layer, Rootfs
from hutch.kernel import capabilities
from hutch.kernel.features import Features
from hutch.oci import config as oci
from hutch.oci.paths import MASKED, READONLY
from hutch.runtime.identity import default_mappings
from hutch.runtime.process import DEFAULT_PATH
from hutch.runtime.profile import default_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ZERO_IS_NONE = ("memory", "memory_swap", "memory_reservation", "cpu_quota", "cpu_period", "cpu_shares", "pids", "blkio_weight")  # as with Docker
MINUS_IS_NONE = ("pids", "memory_swappiness")


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
    s: Settings, rootfs: Rootfs, features: Features, *, identity: str, hostname: str, user: oci.User, home: str, shared: tuple[Layer, ...] = ()
) -> oci.Config:  # fmt: skip
    """The configuration of the container `identity` with these settings on that root file system."""
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
            seccomp=seccomp_of(profile_of(s), caps),
            sysctl={**_own_network(s, mappings[1], userns), **_own_share(s, features), **s.sysctls},
            devices=tuple(d for d in _devices(s) if not _bound(d.path, userns, features)),
            cgroups_path=f"{s.cgroup_parent.rstrip('/')}/hutch-{identity}" if s.cgroup_parent else None,
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
    return {f"user.{name}": str(max(1, most // 2)) for name, most in features.inotify_limits.items()}


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


def profile_of(s: Settings) -> str | dict[str, Any]:
    """The container's filter as its record has it: "" for none, "default" or "compat", or a profile in the runtime-spec's JSON. Raises
    UsageError."""
    if s.privileged or s.seccomp == "unconfined":
        return ""
    if s.seccomp in ("default", "compat", ""):
        return s.seccomp or "default"
    from hutch.engine.spec.profiles import read

    return read(s.seccomp, capability_set(s))


def seccomp_of(profile: str | dict[str, Any], capabilities: tuple[str, ...]) -> oci.Seccomp | None:
    """A filter that `profile_of` gave, for a container with these capabilities; None for none."""
    if isinstance(profile, dict):
        from hutch.oci.decode import decode

        return decode(oci.Seccomp, profile)
    if not profile:
        return None
    key = (profile, *capabilities)
    if key not in _profiles:
        _profiles[key] = default_profile(capabilities, compat=profile == "compat")
    return _profiles[key]


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
