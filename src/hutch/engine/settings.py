"""What a user asks of a container, and what of it makes no sense."""

from __future__ import annotations

from hutch.errors import UsageError
from hutch.kernel import capabilities
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

VOLUME_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
USERNS = ("auto", "host", "private", "single")
CONTAINER = "container:"  # in front of another's name: its network namespace
DEFAULT_NETWORK = "bridge"  # of who publishes ports and names no network
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
        from hutch.engine import machine_settings

        machine_settings.check(s)
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


def check_volume_name(name: str) -> None:
    """Raise UsageError for what is no volume's name (Docker's rule)."""
    if len(name) < 2 or len(name) > 128 or set(name) - VOLUME_NAME or not name[0].isalnum():
        raise UsageError(f"volume {name!r}: expected 2 to 128 letters, digits, dots, dashes and underscores", "a directory of the host begins with / or ./")


def place(target: str) -> str:
    """A mount point in the one form that stands for all of its spellings, as Docker cleans it: ``..`` is taken from the words alone."""
    parts: list[str] = []
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
