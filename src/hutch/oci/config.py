"""The runtime-spec's ``config.json``, version 1.3.0 (opencontainers/runtime-spec, config.md and config-linux.md), as records.

A field's name is the specification's in snake case; `None` means absent. Integer widths are the specification's: `U32`,
`U64`, `I64` and so on are integers to Python and ranges to the decoder. What a text may be is in `names`.
"""

from __future__ import annotations

from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    U16: TypeAlias = int
    U32: TypeAlias = int
    U64: TypeAlias = int
    I64: TypeAlias = int
    I32: TypeAlias = int

VERSION = "1.3.0"


class ConsoleSize(Record):
    """A terminal's size in characters."""

    height: U16
    width: U16


class User(Record):
    """Ids inside the container; `umask` as an integer (0o022 is 18)."""

    uid: U32 = 0
    gid: U32 = 0
    umask: U32 | None = None
    additional_gids: tuple[U32, ...] = ()
    username: str | None = None


class CapabilitySets(Record):
    """Capability names, such as ``CAP_CHOWN``, set by set (capabilities(7))."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Record):
    """setrlimit(2)."""

    type: str
    hard: U64
    soft: U64


class Scheduler(Record):
    """sched_setattr(2); times in nanoseconds."""

    policy: str
    nice: I32 | None = None
    priority: I32 | None = None
    flags: tuple[str, ...] = ()
    runtime: U64 | None = None
    deadline: U64 | None = None
    period: U64 | None = None


class IoPriority(Record):
    """ioprio_set(2)."""

    class_: str
    priority: I32 = 0


class ExecCpuAffinity(Record):
    """CPU lists before and after entering the container's cgroup."""

    initial: str | None = None
    final: str | None = None


class Process(Record):
    """The container's process."""

    cwd: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: User = User()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    capabilities: CapabilitySets | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str | None = None
    selinux_label: str | None = None
    oom_score_adj: I32 | None = None
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    exec_cpu_affinity: ExecCpuAffinity | None = None


class Root(Record):
    """The root file system: a path, relative to the bundle unless absolute."""

    path: str
    readonly: bool = False


class IdMapping(Record):
    """`size` ids from `container_id` on inside are those from `host_id` on outside."""

    container_id: U32
    host_id: U32
    size: U32


class Mount(Record):
    """One mount, in mount(8)'s words."""

    destination: str
    type: str | None = None
    source: str | None = None
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class Hook(Record):
    """A program that the runtime calls; `timeout` in seconds."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: I64 | None = None


class Hooks(Record):
    """Programs by the moment of a container's life."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(Record):
    """A namespace to make, or with `path` to join."""

    type: str
    path: str | None = None


class Device(Record):
    """A device node to be made in the container."""

    path: str
    type: str
    major: I64 | None = None
    minor: I64 | None = None
    file_mode: U32 | None = None
    uid: U32 | None = None
    gid: U32 | None = None


class NetDevice(Record):
    """A network interface to be moved into the container; `name` is its new one."""

    name: str | None = None


class DeviceRule(Record):
    """A rule of the cgroup's device list."""

    allow: bool
    type: str | None = None
    major: I64 | None = None
    minor: I64 | None = None
    access: str | None = None


class Memory(Record):
    """Bytes; -1 is unlimited. `swap` is memory and swap together."""

    limit: I64 | None = None
    reservation: I64 | None = None
    swap: I64 | None = None
    kernel: I64 | None = None
    kernel_tcp: I64 | None = None
    swappiness: U64 | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class Cpu(Record):
    """Times in microseconds, CPU and node lists as in cpuset(7)."""

    shares: U64 | None = None
    quota: I64 | None = None
    burst: U64 | None = None
    period: U64 | None = None
    realtime_runtime: I64 | None = None
    realtime_period: U64 | None = None
    cpus: str | None = None
    mems: str | None = None
    idle: I64 | None = None


class Pids(Record):
    """How many tasks; 0 or less is unlimited."""

    limit: I64 | None = None


class WeightDevice(Record):
    """A weight (10 to 1000) for one block device."""

    major: I64
    minor: I64
    weight: U16 | None = None
    leaf_weight: U16 | None = None


class ThrottleDevice(Record):
    """A rate (bytes or operations a second) for one block device."""

    major: I64
    minor: I64
    rate: U64


class BlockIo(Record):
    """Weights and throttles of block devices."""

    weight: U16 | None = None
    leaf_weight: U16 | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()


class HugepageLimit(Record):
    """Bytes of huge pages of one size, such as ``2MB``."""

    page_size: str
    limit: U64


class InterfacePriority(Record):
    """net_prio, by interface."""

    name: str
    priority: U32


class NetworkResources(Record):
    """net_cls and net_prio (v1)."""

    class_id: U32 | None = None
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(Record):
    """RDMA resources of one device."""

    hca_handles: U32 | None = None
    hca_objects: U32 | None = None


class Resources(Record):
    """What the container's cgroup grants."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIo | None = None
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkResources | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


class SeccompArgument(Record):
    """A comparison of one argument (0 to 5) of a system call."""

    index: U32
    value: U64
    op: str
    value_two: U64 = 0


class SeccompRule(Record):
    """System calls by name, and what happens to them."""

    names: tuple[str, ...]
    action: str
    errno_ret: U32 | None = None
    args: tuple[SeccompArgument, ...] = ()


class Seccomp(Record):
    """A system call filter."""

    default_action: str
    default_errno_ret: U32 | None = None
    flags: tuple[str, ...] = ()
    listener_path: str | None = None
    listener_metadata: str | None = None
    architectures: tuple[str, ...] = ()
    syscalls: tuple[SeccompRule, ...] = ()


class IntelRdt(Record):
    """Intel's resource director (resctrl)."""

    clos_id: str | None = None
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str | None = None
    mem_bw_schema: str | None = None
    enable_cmt: bool | None = None
    enable_mbm: bool | None = None
    enable_monitoring: bool | None = None


class MemoryPolicy(Record):
    """set_mempolicy(2)."""

    mode: str
    nodes: str | None = None
    flags: tuple[str, ...] = ()


class Personality(Record):
    """personality(2)."""

    domain: str
    flags: tuple[str, ...] = ()


class TimeOffset(Record):
    """What a clock of the time namespace is ahead (time_namespaces(7))."""

    secs: I64 = 0
    nanosecs: U32 = 0


class Linux(Record):
    """What is Linux' own."""

    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    sysctl: dict[str, str] = {}
    resources: Resources | None = None
    cgroups_path: str | None = None
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    net_devices: dict[str, NetDevice] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str | None = None
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str | None = None
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = {}


class Config(Record):
    """A whole ``config.json``. Properties that the specification does not know are ignored, as it asks."""

    oci_version: str
    root: Root | None = None
    process: Process | None = None
    hostname: str | None = None
    domainname: str | None = None
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux = Linux()
