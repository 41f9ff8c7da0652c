"""What a user asks of a container, and what of it makes no sense."""

from __future__ import annotations

from hutch.engine.spec import arguments
from hutch.errors import UsageError
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from hutch.engine.spec.arguments import AnyPath

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

    def __init__(self, source: AnyPath, target: AnyPath, readonly: bool = False, options: Iterable[str] = ()) -> None:
        super().__init__(
            source=arguments.path("Bind: source", source),
            target=arguments.path("Bind: target", target),
            readonly=arguments.flag("Bind: readonly", readonly),
            options=arguments.texts("Bind: options", options),
        )


class Tmpfs(Record):
    """An empty directory in memory."""

    target: str
    options: tuple[str, ...] = ()

    def __init__(self, target: AnyPath, options: Iterable[str] = ()) -> None:
        super().__init__(target=arguments.path("Tmpfs: target", target), options=arguments.texts("Tmpfs: options", options))


class VolumeMount(Record):
    """A volume in the container, made if it does not exist; `subpath` of it alone. `nocopy`: an empty one does not begin with
    what the image has at that path. `source` is its directory on this machine, once it is known."""

    name: str
    target: str
    readonly: bool = False
    subpath: str = ""
    nocopy: bool = False
    source: str = ""

    def __init__(
        self,
        name: str,
        target: AnyPath,
        readonly: bool = False,
        subpath: AnyPath = "",
        nocopy: bool = False,
        source: str = "",
    ) -> None:
        super().__init__(
            name=arguments.text("VolumeMount: name", name),
            target=arguments.path("VolumeMount: target", target),
            readonly=arguments.flag("VolumeMount: readonly", readonly),
            subpath=arguments.path("VolumeMount: subpath", subpath),
            nocopy=arguments.flag("VolumeMount: nocopy", nocopy),
            source=source,
        )


class ImageSource(Record):
    """Another image's files in the container, read-only; `subpath` of it alone."""

    image: str
    target: str
    subpath: str = ""

    def __init__(self, image: AnyPath, target: AnyPath, subpath: AnyPath = "") -> None:
        super().__init__(
            image=arguments.image(image),
            target=arguments.path("ImageSource: target", target),
            subpath=arguments.path("ImageSource: subpath", subpath),
        )


class Attachment(Record):
    """A container on a network: addresses, a MAC and further names that it asks for there."""

    network: str
    ip: str = ""
    ip6: str = ""
    mac_address: str = ""
    aliases: tuple[str, ...] = ()

    def __init__(self, network: str, ip: str = "", ip6: str = "", mac_address: str = "", aliases: Iterable[str] = ()) -> None:
        super().__init__(
            network=arguments.text("Attachment: network", network),
            ip=arguments.text("Attachment: ip", ip),
            ip6=arguments.text("Attachment: ip6", ip6),
            mac_address=arguments.text("Attachment: mac_address", mac_address),
            aliases=arguments.texts("Attachment: aliases", aliases),
        )


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
    upper: str = ""
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


def check_volume_name(name: str) -> None:
    """Raise UsageError for what is no volume's name (Docker's rule)."""
    arguments.text("volume", name)
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
