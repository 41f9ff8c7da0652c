"""Resources to cgroup files: pure functions from the runtime-spec's numbers to (controller, key, value).

v1: Documentation/admin-guide/cgroup-v1/; v2: Documentation/admin-guide/cgroup-v2.rst. The conversions between v1's scales
and v2's are those that the runtimes agreed on, so that one configuration means the same everywhere.
"""

from __future__ import annotations

from hutch.errors import ConfigError
from hutch.oci.config import BlockIo, DeviceRule, Resources
from hutch.record import Record

DEFAULT_PERIOD = 100_000  # microseconds


class Setting(Record):
    """One write: `controller` (``memory``), `key` (``memory.max``), `value`; `origin` in the configuration.

    `tolerated` is an errno that may be ignored, for keys that some kernels lack and whose default is right.
    """

    controller: str
    key: str
    value: str
    origin: str
    tolerated: int = 0


def shares_to_weight(shares: int) -> int:
    """cpu.shares (2 to 262144, 1024 usual) to cpu.weight (1 to 10000)."""
    return 0 if shares == 0 else 1 + (max(2, min(shares, 262144)) - 2) * 9999 // 262142


def blkio_to_io_weight(weight: int) -> int:
    """blkio.weight (10 to 1000) to io.weight (1 to 10000)."""
    return 0 if weight == 0 else 1 + (weight - 10) * 9999 // 990


def _limit(value: int) -> str:
    return "max" if value < 0 else str(value)


def _base(path: str) -> str:
    return f"{path}.resources"


def v1_settings(resources: Resources, path: str = "linux") -> list[Setting]:
    """What to write for v1's controllers, in the order that they need."""
    where = _base(path)
    out: list[Setting] = []

    def add(controller: str, key: str, value: object, field: str, tolerated: int = 0) -> None:
        out.append(Setting(controller=controller, key=key, value=str(value), origin=f"{where}.{field}", tolerated=tolerated))

    memory, cpu = resources.memory, resources.cpu
    if memory is not None:
        # 0 is what engines send for "not set"
        if memory.limit:
            add("memory", "memory.limit_in_bytes", memory.limit, "memory.limit")
        if memory.swap:
            # without swap accounting there is no memsw file, and no swap to limit either
            add("memory", "memory.memsw.limit_in_bytes", memory.swap, "memory.swap", tolerated=2)
        if memory.reservation:
            add("memory", "memory.soft_limit_in_bytes", memory.reservation, "memory.reservation")
        if memory.kernel_tcp:
            add("memory", "memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp, "memory.kernelTCP")
        elif memory.limit and memory.limit > 0:
            # what lies unread in sockets, UDP's too, is counted apart on v1, and not at all unless this is set (memory.rst, 2.7)
            add("memory", "memory.kmem.tcp.limit_in_bytes", memory.limit, "memory.limit", tolerated=2)
        if memory.swappiness is not None:
            add("memory", "memory.swappiness", memory.swappiness, "memory.swappiness")
        if memory.disable_oom_killer:
            add("memory", "memory.oom_control", 1, "memory.disableOOMKiller")
    if cpu is not None:
        if cpu.shares:
            add("cpu", "cpu.shares", cpu.shares, "cpu.shares")
        if cpu.period:
            add("cpu", "cpu.cfs_period_us", cpu.period, "cpu.period")
        if cpu.quota:
            add("cpu", "cpu.cfs_quota_us", cpu.quota, "cpu.quota")
        if cpu.burst is not None:
            add("cpu", "cpu.cfs_burst_us", cpu.burst, "cpu.burst")
        if cpu.realtime_period:
            add("cpu", "cpu.rt_period_us", cpu.realtime_period, "cpu.realtimePeriod")
        if cpu.realtime_runtime:
            add("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime, "cpu.realtimeRuntime")
        if cpu.idle is not None:
            add("cpu", "cpu.idle", cpu.idle, "cpu.idle")
        if cpu.cpus:
            add("cpuset", "cpuset.cpus", cpu.cpus, "cpu.cpus")
        if cpu.mems:
            add("cpuset", "cpuset.mems", cpu.mems, "cpu.mems")
    if resources.pids is not None and resources.pids.limit is not None:
        add("pids", "pids.max", "max" if resources.pids.limit <= 0 else resources.pids.limit, "pids.limit")
    if resources.block_io is not None:
        out += _blkio(resources.block_io, where)
    for i, page in enumerate(resources.hugepage_limits):
        add("hugetlb", f"hugetlb.{page.page_size}.limit_in_bytes", page.limit, f"hugepageLimits[{i}]")
    if resources.network is not None:
        if resources.network.class_id:
            add("net_cls", "net_cls.classid", resources.network.class_id, "network.classID")
        for i, item in enumerate(resources.network.priorities):
            add("net_prio", "net_prio.ifpriomap", f"{item.name} {item.priority}", f"network.priorities[{i}]")
    out += _rdma(resources, where)
    check_device_list(resources.devices, where)
    for i, rule in enumerate(resources.devices):
        line = device_line(rule.type, rule.major, rule.minor, rule.access)
        add("devices", "devices.allow" if rule.allow else "devices.deny", line, f"devices[{i}]")
    if resources.unified:
        raise ConfigError(f"{where}.unified", "unified keys are v2's, and this host's controllers are v1's")
    return out


def check_device_list(rules: tuple[DeviceRule, ...], where: str = "linux.resources") -> None:
    """v1 keeps a list of what is allowed, and a denial takes entries out of it: one that is meant for a part of an entry would
    be lost without a word (Documentation/admin-guide/cgroup-v1/devices.rst). Raises ConfigError for such a rule."""
    allowed: list[tuple[str, int, int, set[str]]] = []
    listing = False
    for i, rule in enumerate(rules):
        if rule.type in (None, "a", ""):
            allowed, listing = [], not rule.allow
            continue
        device = (rule.type or "", -1 if rule.major is None else rule.major, -1 if rule.minor is None else rule.minor)
        access = set(rule.access or "rwm")
        if rule.allow:
            allowed.append((*device, access))
            continue
        for kind, major, minor, other in allowed if listing else ():
            if (kind, major, minor) == device:
                other -= access
            elif kind == device[0] and _meet(major, device[1]) and _meet(minor, device[2]) and other & access:
                raise ConfigError(
                    f"{where}.devices[{i}]", "denies a part of what an earlier rule allows, which v1's list cannot express", "deny first, allow later"
                )


def _meet(a: int, b: int) -> bool:
    return a < 0 or b < 0 or a == b


def device_line(kind: str | None, major: int | None, minor: int | None, access: str | None) -> str:
    """A rule in the words of v1's devices.allow: ``c 1:3 rwm``, ``a``."""
    if kind in (None, "a", ""):
        return "a"
    numbers = ":".join("*" if n is None or n < 0 else str(n) for n in (major, minor))
    return f"{kind} {numbers} {access or 'rwm'}"


def _blkio(block_io: BlockIo, where: str) -> list[Setting]:
    out = []

    def add(key: str, value: object, field: str) -> None:
        out.append(Setting(controller="blkio", key=key, value=str(value), origin=f"{where}.blockIO.{field}"))

    if _weight(block_io.weight, f"{where}.blockIO.weight"):
        add("blkio.bfq.weight", block_io.weight, "weight")
    for i, weight in enumerate(block_io.weight_device):
        if not _weight(weight.weight, f"{where}.blockIO.weightDevice[{i}].weight"):
            continue  # leafWeight alone: CFQ's, which no kernel has any more
        add("blkio.bfq.weight_device", f"{weight.major}:{weight.minor} {weight.weight}", f"weightDevice[{i}]")
    for name, field, rules in _throttles(block_io):
        for i, rule in enumerate(rules):
            add(f"blkio.throttle.{name}", f"{rule.major}:{rule.minor} {rule.rate}", f"{field}[{i}]")
    return out


def _weight(value: int | None, origin: str) -> int | None:
    if value is not None and value and not 10 <= value <= 1000:
        raise ConfigError(origin, f"expected a weight from 10 to 1000, got {value}")
    return value


def _throttles(block_io: BlockIo):  # type: ignore[no-untyped-def]
    return (
        ("read_bps_device", "throttleReadBpsDevice", block_io.throttle_read_bps_device),
        ("write_bps_device", "throttleWriteBpsDevice", block_io.throttle_write_bps_device),
        ("read_iops_device", "throttleReadIOPSDevice", block_io.throttle_read_iops_device),
        ("write_iops_device", "throttleWriteIOPSDevice", block_io.throttle_write_iops_device),
    )


def _rdma(resources: Resources, where: str) -> list[Setting]:
    out = []
    for name, limit in resources.rdma.items():
        words = [name]
        words += [f"hca_handle={limit.hca_handles}"] if limit.hca_handles is not None else []
        words += [f"hca_object={limit.hca_objects}"] if limit.hca_objects is not None else []
        out.append(Setting(controller="rdma", key="rdma.max", value=" ".join(words), origin=f"{where}.rdma.{name}"))
    return out


def v2_settings(resources: Resources, path: str = "linux") -> list[Setting]:
    """What to write for v2's controllers. Device rules are an eBPF program's (`devices.py`)."""
    where = _base(path)
    out: list[Setting] = []

    def add(controller: str, key: str, value: object, field: str, tolerated: int = 0) -> None:
        out.append(Setting(controller=controller, key=key, value=str(value), origin=f"{where}.{field}", tolerated=tolerated))

    memory, cpu = resources.memory, resources.cpu
    if memory is not None:
        if memory.limit:  # 0 is what engines send for "not set"
            add("memory", "memory.max", _limit(memory.limit), "memory.limit")
        if memory.swap:
            if memory.swap >= 0 and memory.limit and memory.limit >= 0:
                if memory.swap < memory.limit:
                    raise ConfigError(f"{where}.memory.swap", "is memory and swap together, and below memory.limit")
                swap = str(memory.swap - memory.limit)
            else:
                swap = _limit(memory.swap)
            add("memory", "memory.swap.max", swap, "memory.swap", tolerated=2)
        if memory.reservation:
            add("memory", "memory.low", _limit(memory.reservation), "memory.reservation")
        if memory.disable_oom_killer:
            raise ConfigError(f"{where}.memory.disableOOMKiller", "v2 cannot switch the OOM killer off")
    if cpu is not None:
        if cpu.shares:
            add("cpu", "cpu.weight", shares_to_weight(cpu.shares), "cpu.shares")
        if cpu.quota or cpu.period:
            quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
            add("cpu", "cpu.max", f"{quota} {cpu.period or DEFAULT_PERIOD}", "cpu.quota")
        if cpu.burst is not None:
            add("cpu", "cpu.max.burst", cpu.burst, "cpu.burst")
        if cpu.idle is not None:
            add("cpu", "cpu.idle", cpu.idle, "cpu.idle")
        if cpu.realtime_period or cpu.realtime_runtime:
            raise ConfigError(f"{where}.cpu.realtimeRuntime", "v2 has no real-time limits")
        if cpu.cpus:
            add("cpuset", "cpuset.cpus", cpu.cpus, "cpu.cpus")
        if cpu.mems:
            add("cpuset", "cpuset.mems", cpu.mems, "cpu.mems")
    if resources.pids is not None and resources.pids.limit is not None:
        add("pids", "pids.max", "max" if resources.pids.limit <= 0 else resources.pids.limit, "pids.limit")
    if resources.block_io is not None:
        block = resources.block_io
        if _weight(block.weight, f"{where}.blockIO.weight"):
            add("io", "io.weight", f"default {blkio_to_io_weight(block.weight or 0)}", "blockIO.weight")
        for i, weight in enumerate(block.weight_device):
            if not _weight(weight.weight, f"{where}.blockIO.weightDevice[{i}].weight"):
                continue
            value = f"{weight.major}:{weight.minor} {blkio_to_io_weight(weight.weight or 0)}"
            add("io", "io.weight", value, f"blockIO.weightDevice[{i}]")
        names = {"read_bps_device": "rbps", "write_bps_device": "wbps", "read_iops_device": "riops", "write_iops_device": "wiops"}
        for name, field, rules in _throttles(block):
            for i, rule in enumerate(rules):
                add("io", "io.max", f"{rule.major}:{rule.minor} {names[name]}={rule.rate}", f"blockIO.{field}[{i}]")
    for i, page in enumerate(resources.hugepage_limits):
        add("hugetlb", f"hugetlb.{page.page_size}.max", page.limit, f"hugepageLimits[{i}]")
    out += _rdma(resources, where)
    for key, value in resources.unified.items():
        if "/" in key or key.startswith("cgroup."):
            raise ConfigError(f"{where}.unified.{key}", "is not a controller's key")
        add(key.partition(".")[0], key, value, f"unified.{key}")
    return out
