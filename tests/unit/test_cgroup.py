"""Control groups: numbers to keys, device rules to eBPF, layouts to operations, files to numbers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import assume, given, settings, strategies as st

from hutch.cgroup import devices, live
from hutch.cgroup.operations import needed, operations
from hutch.cgroup.settings import Setting, blkio_to_io_weight, device_line, shares_to_weight, v1_settings, v2_settings
from hutch.errors import ConfigError, HutchError, UnsupportedError
from hutch.kernel.cgroupfs import CgroupLayout
from hutch.oci.config import (
    BlockIo,
    Cpu,
    DeviceRule,
    HugepageLimit,
    InterfacePriority,
    Memory,
    NetworkResources,
    Pids,
    Rdma,
    Resources,
    ThrottleDevice,
    WeightDevice,
)  # fmt: skip
from hutch.plan import ops
from tests.unit.machines import DELEGATED, HYBRID, SESSION, V2, V2_CONTROLLERS


def written(found: list[Setting]) -> list[tuple[str, str]]:
    return [(s.key, s.value) for s in found]


# Conversions


@pytest.mark.parametrize(("shares", "weight"), [(0, 0), (1, 1), (2, 1), (1024, 39), (512, 20), (262144, 10000), (2**64 - 1, 10000)])
def test_shares_to_weight(shares, weight):
    assert shares_to_weight(shares) == weight


@given(a=st.integers(1, 2**64 - 1), b=st.integers(1, 2**64 - 1))
def test_shares_keep_their_order(a, b):
    assert 1 <= shares_to_weight(a) <= 10000
    assert (a <= b) <= (shares_to_weight(a) <= shares_to_weight(b))


@pytest.mark.parametrize(("weight", "expected"), [(0, 0), (10, 1), (500, 4950), (1000, 10000)])
def test_blkio_to_io_weight(weight, expected):
    assert blkio_to_io_weight(weight) == expected


@given(a=st.integers(10, 1000), b=st.integers(10, 1000))
def test_weights_keep_their_order(a, b):
    assert 1 <= blkio_to_io_weight(a) <= 10000
    assert (a <= b) <= (blkio_to_io_weight(a) <= blkio_to_io_weight(b))


@pytest.mark.parametrize("weight", [1, 9, 1001, 65535])
def test_weights_out_of_range_are_refused(weight):
    """config-linux.md: 10 to 1000. A U16 beyond becomes -80 or 655000, which says nothing when the kernel refuses it."""
    with pytest.raises(ConfigError, match="weight"):
        v2_settings(Resources(block_io=BlockIo(weight=weight)))


# Settings

EVERYTHING = Resources(
    memory=Memory(limit=100, swap=300, reservation=50, kernel_tcp=7, swappiness=60),
    cpu=Cpu(shares=1024, quota=50000, period=100000, burst=10, idle=0, cpus="0-1", mems="0"),
    pids=Pids(limit=5),
    block_io=BlockIo(
        weight=500, weight_device=(WeightDevice(major=8, minor=0, weight=10),), throttle_read_bps_device=(ThrottleDevice(major=8, minor=0, rate=1),),
        throttle_write_bps_device=(ThrottleDevice(major=8, minor=0, rate=2),), throttle_read_iops_device=(ThrottleDevice(major=8, minor=0, rate=3),),
        throttle_write_iops_device=(ThrottleDevice(major=8, minor=0, rate=4),),
    ),
    hugepage_limits=(HugepageLimit(page_size="2MB", limit=4096),),
    rdma={"mlx5_0": Rdma(hca_handles=3, hca_objects=10), "mlx5_1": Rdma(hca_objects=1)},
)  # fmt: skip


def test_v1():
    extra = EVERYTHING.replace(
        network=NetworkResources(class_id=1048577, priorities=(InterfacePriority(name="eth0", priority=5),)),
        devices=(DeviceRule(allow=False), DeviceRule(allow=True, type="c", major=1, minor=3, access="rw")),
        memory=EVERYTHING.memory.replace(disable_oom_killer=True),
        cpu=EVERYTHING.cpu.replace(realtime_period=1000, realtime_runtime=900),
    )
    assert written(v1_settings(extra)) == [
        ("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "300"), ("memory.soft_limit_in_bytes", "50"),
        ("memory.kmem.tcp.limit_in_bytes", "7"), ("memory.swappiness", "60"), ("memory.oom_control", "1"),
        ("cpu.shares", "1024"), ("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000"), ("cpu.cfs_burst_us", "10"),
        ("cpu.rt_period_us", "1000"), ("cpu.rt_runtime_us", "900"), ("cpu.idle", "0"), ("cpuset.cpus", "0-1"), ("cpuset.mems", "0"), ("pids.max", "5"),
        ("blkio.bfq.weight", "500"), ("blkio.bfq.weight_device", "8:0 10"),
        ("blkio.throttle.read_bps_device", "8:0 1"), ("blkio.throttle.write_bps_device", "8:0 2"),
        ("blkio.throttle.read_iops_device", "8:0 3"), ("blkio.throttle.write_iops_device", "8:0 4"),
        ("hugetlb.2MB.limit_in_bytes", "4096"), ("net_cls.classid", "1048577"), ("net_prio.ifpriomap", "eth0 5"),
        ("rdma.max", "mlx5_0 hca_handle=3 hca_object=10"), ("rdma.max", "mlx5_1 hca_object=1"),
        ("devices.deny", "a"), ("devices.allow", "c 1:3 rw"),
    ]  # fmt: skip


def test_v2():
    assert written(v2_settings(EVERYTHING)) == [
        ("memory.max", "100"), ("memory.swap.max", "200"), ("memory.low", "50"), ("cpu.weight", "39"), ("cpu.max", "50000 100000"), ("cpu.max.burst", "10"),
        ("cpu.idle", "0"), ("cpuset.cpus", "0-1"), ("cpuset.mems", "0"), ("pids.max", "5"), ("io.weight", "default 4950"), ("io.weight", "8:0 1"),
        ("io.max", "8:0 rbps=1"), ("io.max", "8:0 wbps=2"), ("io.max", "8:0 riops=3"), ("io.max", "8:0 wiops=4"), ("hugetlb.2MB.max", "4096"),
        ("rdma.max", "mlx5_0 hca_handle=3 hca_object=10"), ("rdma.max", "mlx5_1 hca_object=1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(memory=Memory(limit=-1, swap=-1)), [("memory.max", "max"), ("memory.swap.max", "max")]),
        (Resources(memory=Memory(limit=100, swap=-1)), [("memory.max", "100"), ("memory.swap.max", "max")]),
        (Resources(memory=Memory(limit=100, swap=100)), [("memory.max", "100"), ("memory.swap.max", "0")]),
        (Resources(cpu=Cpu(quota=-1, period=50000)), [("cpu.max", "max 50000")]),
        (Resources(cpu=Cpu(quota=20000)), [("cpu.max", "20000 100000")]),
        (Resources(cpu=Cpu(period=50000)), [("cpu.max", "max 50000")]),
        (Resources(cpu=Cpu(shares=0, quota=0)), []),
        (Resources(pids=Pids(limit=0)), [("pids.max", "max")]),
        (Resources(pids=Pids(limit=-1)), [("pids.max", "max")]),
        (Resources(unified={"memory.high": "1M", "io.max": "8:0 rbps=1"}), [("memory.high", "1M"), ("io.max", "8:0 rbps=1")]),
        (Resources(), []),
    ],
)
def test_v2_special(resources, expected):
    assert written(v2_settings(resources)) == expected


@pytest.mark.parametrize(
    ("resources", "path"),
    [
        (Resources(memory=Memory(limit=100, swap=50)), "linux.resources.memory.swap"),
        (Resources(memory=Memory(disable_oom_killer=True)), "linux.resources.memory.disableOOMKiller"),
        (Resources(cpu=Cpu(realtime_runtime=1)), "linux.resources.cpu.realtimeRuntime"),
        (Resources(unified={"../x": "1"}), "linux.resources.unified.../x"),
        (Resources(unified={"cgroup.procs": "1"}), "linux.resources.unified.cgroup.procs"),
    ],
)
def test_v2_refuses(resources, path):
    with pytest.raises(ConfigError) as caught:
        v2_settings(resources)
    assert caught.value.path == path


def test_v1_refuses_unified():
    with pytest.raises(ConfigError, match=r"^linux\.resources\.unified: "):
        v1_settings(Resources(unified={"memory.high": "1"}))


@pytest.mark.parametrize("make", [v1_settings, v2_settings])
def test_a_device_with_a_leaf_weight_alone(make):
    """config-linux.md: weight or leafWeight, one is enough; leafWeight is CFQ's, which no kernel has any more."""
    found = make(Resources(block_io=BlockIo(weight_device=(WeightDevice(major=8, minor=0, leaf_weight=300),))))
    assert [s for s in found if "None" in s.value or s.value.endswith(" 0")] == []


def test_origins():
    for make in (v1_settings, v2_settings):
        for setting in make(EVERYTHING):
            assert setting.origin.startswith("linux.resources.")
            assert setting.key.startswith(setting.controller)


def test_device_line():
    assert device_line(None, None, None, None) == device_line("a", 1, 2, "r") == "a"
    assert device_line("c", 1, None, "rw") == device_line("c", 1, -1, "rw") == "c 1:* rw"
    assert device_line("b", 8, 0, None) == "b 8:0 rwm"


# eBPF


def ebpf(program: bytes, access: int, kind: int, major: int, minor: int) -> int:
    """A few instructions of eBPF over ``struct bpf_cgroup_dev_ctx``."""
    assert len(program) % 8 == 0
    context = struct.pack("<III", access << 16 | kind, major, minor)
    code = [struct.unpack_from("<BBhi", program, i) for i in range(0, len(program), 8)]
    registers: dict[int, int | None] = dict.fromkeys(range(11)) | {1: -1}  # r1: the context
    pointer = {1}
    at = 0

    def read(register: int) -> int:
        value = registers[register]
        assert value is not None and register not in pointer, f"r{register} is read before it is set"
        return value

    while True:
        op, regs, offset, immediate = code[at]
        to, source = regs & 15, regs >> 4
        at += 1
        unsigned = immediate & 0xFFFFFFFFFFFFFFFF
        if op == 0x61:
            assert source in pointer and 0 <= offset <= 8 and offset % 4 == 0
            registers[to] = struct.unpack_from("<I", context, offset)[0]
            pointer.discard(to)
        elif op == 0xB7:
            registers[to] = unsigned
            pointer.discard(to)
        elif op == 0xBF:
            registers[to] = read(source)
            pointer.discard(to)
        elif op == 0x57:
            registers[to] = read(to) & unsigned
        elif op == 0x77:
            registers[to] = read(to) >> immediate
        elif op == 0x55:
            at += offset if read(to) != unsigned else 0
        elif op == 0x15:
            at += offset if read(to) == unsigned else 0
        elif op == 0x95:
            return read(0)
        else:
            raise AssertionError(f"instruction {op:#x} is not expected")
        assert at < len(code)


KINDS = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}


def bits(access: str | None) -> int:
    return sum(ACCESS[c] for c in set(access or "rwm"))


def covers(rule: DeviceRule, kind: str, major: int, minor: int) -> bool:
    if rule.type in (None, "a"):
        return True
    return rule.type == kind and all(want is None or want < 0 or want == got for want, got in ((rule.major, major), (rule.minor, minor)))


def model(rules: tuple[DeviceRule, ...], kind: str, major: int, minor: int, access: int) -> bool:
    """The last rule that matches decides: an allowing one matches when it grants all that is asked for, a denying one when
    it takes any of it away. Without one, no."""
    for rule in reversed(rules):
        if covers(rule, kind, major, minor):
            own = 7 if rule.type in (None, "a") else bits(rule.access)
            if rule.allow and access & ~own == 0:
                return True
            if not rule.allow and access & own:
                return False
    return False


NUMBER = st.sampled_from([None, -1, 0, 1, 2, 4095])
RULES = st.lists(
    st.builds(
        DeviceRule, allow=st.booleans(), type=st.sampled_from(["a", "b", "c", "c", "c", None]), major=NUMBER, minor=NUMBER,
        access=st.sampled_from([None, "", "r", "w", "m", "rw", "rm", "wm", "rwm", "mwr"]),
    ),
    max_size=6,
).map(tuple)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(rules=RULES, kind=st.sampled_from("bc"), major=st.sampled_from([0, 1, 2, 4095]), minor=st.sampled_from([0, 1, 2, 2**20 - 1]), access=st.integers(1, 7))
def test_device_program(rules, kind, major, minor, access):
    devices_named = [(rule.type, rule.major, rule.minor, rule.allow) for rule in rules]
    assume(len(set(devices_named)) == len(devices_named))  # rules for one device add up: the next test but one
    assert ebpf(devices.program(rules), access, KINDS[kind], major, minor) == model(rules, kind, major, minor, access)


def test_device_program_by_hand():
    rules = (DeviceRule(allow=False), DeviceRule(allow=True, type="c", major=1, minor=3, access="rw"), DeviceRule(allow=True, type="c", access="m"))
    program = devices.program(rules)
    answers = {(major, access): ebpf(program, access, 2, major, 3) for major in (1, 2) for access in (1, 2, 4, 6, 7)}
    assert answers == {(1, 1): 1, (1, 2): 1, (1, 4): 1, (1, 6): 1, (1, 7): 0, (2, 1): 1, (2, 2): 0, (2, 4): 0, (2, 6): 0, (2, 7): 0}
    assert ebpf(devices.program(()), 1, 2, 1, 3) == 0, "an empty list allows nothing"
    assert ebpf(devices.program((DeviceRule(allow=True),)), 7, 1, 8, 0) == 1


def test_rules_for_one_device_add_up():
    """v1's devices.allow (security/device_cgroup.c, dev_exception_add) merges the accesses of two lines for one device:
    after ``c 1:3 r`` and ``c 1:3 w`` an open for reading and writing is allowed."""
    rules = (DeviceRule(allow=False), *(DeviceRule(allow=True, type="c", major=1, minor=3, access=a) for a in "rw"))
    assert ebpf(devices.program(rules), 6, 2, 1, 3) == 1


def test_summary():
    assert devices.summary(()) == devices.summary((DeviceRule(allow=False),)) == "deny all"
    assert devices.summary((DeviceRule(allow=True, type="c", major=1, access="rw"), DeviceRule(allow=True))) == "allow c 1:* rw, a *:* rwm"


# Operations

LIMITS = Resources(memory=Memory(limit=1 << 20), pids=Pids(limit=5), cpu=Cpu(quota=1000))


def paths(found: tuple[ops.Operation, ...]) -> list[str]:
    return [op.path for op in found if isinstance(op, ops.HostDirectory | ops.HostWrite | ops.Open)]


def test_needed():
    assert not needed(None) and not needed(Resources()) and not needed(Resources(devices=(DeviceRule(allow=True),)))
    assert needed(LIMITS) and needed(Resources(unified={"memory.high": "1"}))


def test_no_cgroups():
    layout = CgroupLayout(mode="none")
    assert operations("/hutch-x", Resources(), layout).paths == {}
    with pytest.raises(UnsupportedError, match="no control groups mounted"):
        operations("/hutch-x", LIMITS, layout)


def test_v2_operations():
    found = operations("/hutch-x", LIMITS, V2)
    assert paths(found.before) == ["/cgroup/cgroup.subtree_control", "/cgroup/hutch-x", "/cgroup/hutch-x"]
    assert [op.data for op in found.before if isinstance(op, ops.HostWrite)] == ["+memory"], "cpu and pids are on already"
    assert found.clone_into is not None and found.enter == () and found.paths == {"": "/cgroup/hutch-x"}
    assert paths(found.after) == [f"/cgroup/hutch-x/{key}" for key in ("memory.max", "cpu.max", "pids.max")]
    assert next(op for op in found.after if isinstance(op, ops.KillAtExit)).kill_file == "/cgroup/hutch-x/cgroup.kill"
    directory = next(op for op in found.before if isinstance(op, ops.HostDirectory))
    assert directory.undo == "rmdir"


def test_v2_devices():
    found = operations("/hutch-x", Resources(devices=(DeviceRule(allow=False),)), V2)
    assert [type(op).__name__ for op in found.after][0] == "DeviceProgram"


def test_v2_missing_controller():
    with pytest.raises(UnsupportedError, match=r"linux\.resources\.cpu\.cpus: this host's cgroups have no cpuset controller"):
        operations(f"{SESSION}/hutch-x", Resources(cpu=Cpu(cpus="0")), DELEGATED, privileged=False)
    with pytest.raises(UnsupportedError, match=r"linux\.resources\.memory\.limit: .* no memory controller"):
        operations("/hutch-x", LIMITS, V2.replace(v2_controllers=("cpu", "pids")))


def test_v2_delegated():
    found = operations(f"{SESSION}/hutch-x", LIMITS, DELEGATED, privileged=False)
    assert paths(found.before) == [f"/cgroup{SESSION}/hutch-x"] * 2
    assert found.paths == {"": f"/cgroup{SESSION}/hutch-x"}


def test_v2_below_a_parent():
    """A controller is there only where every ancestor hands it down."""
    found = operations("/a/b/hutch-x", Resources(pids=Pids(limit=1)), V2.replace(v2_root_subtree=V2_CONTROLLERS))
    assert paths(found.before) == [
        "/cgroup/a", *["/cgroup/a/cgroup.subtree_control"] * 3, "/cgroup/a/b", *["/cgroup/a/b/cgroup.subtree_control"] * 3, *["/cgroup/a/b/hutch-x"] * 2,
    ]  # fmt: skip


def test_v2_root_in_a_session():
    """Root in an SSH session sits in /user.slice/…/session-1.scope, whose subtree has no controllers; the container's
    cgroup is made at the root of the hierarchy all the same, and has them all."""
    layout = V2.replace(v2_path="/user.slice/user-0.slice/session-1.scope", v2_root_subtree=V2_CONTROLLERS)
    found = operations("/hutch-x", LIMITS, layout)
    assert found.paths == {"": "/cgroup/hutch-x"}
    assert "/cgroup/hutch-x/memory.max" in paths(found.after)


def test_v1_operations():
    found = operations("/hutch-x", LIMITS, HYBRID)
    assert found.before == () and found.clone_into is None
    assert found.paths == {c: f"/cgroup/{c}/hutch-x" for c in ("memory", "cpu", "cpuacct", "pids")}
    assert len(found.enter) == 4
    assert "/cgroup/memory/hutch-x/memory.limit_in_bytes" in paths(found.after)
    few = operations("/hutch-x", Resources(pids=Pids(limit=1)), HYBRID, accounting=False)
    assert set(few.paths) == {"pids"}


def test_v1_shared_mount():
    joined = tuple(c.replace(mount="/cgroup/cpu,cpuacct") if c.name in ("cpu", "cpuacct") else c for c in HYBRID.v1)
    found = operations("/hutch-x", LIMITS, HYBRID.replace(v1=joined))
    assert paths(found.after).count("/cgroup/cpu,cpuacct/hutch-x") == 1
    assert len(found.enter) == 3


def test_v1_cpuset_gets_both_lists():
    found = operations("/hutch-x", Resources(cpu=Cpu(cpus="0")), HYBRID)
    assert [p for p in paths(found.after) if "cpuset." in p and "tasks" not in p] == [f"/cgroup/cpuset/hutch-x/cpuset.{k}" for k in ("cpus", "mems")]


def test_hybrid_takes_from_v2():
    found = operations("/hutch-x", Resources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=1),), unified={"rdma.max": "a hca_handle=1"}), HYBRID)
    assert found.paths[""] == "/cgroup/unified/hutch-x"
    assert {"/cgroup/unified/hutch-x/hugetlb.2MB.max", "/cgroup/unified/hutch-x/rdma.max"} <= set(paths(found.after))
    with pytest.raises(ConfigError, match=r"^linux\.resources\.unified\.memory\.high: its controller is v1's"):
        operations("/hutch-x", Resources(unified={"memory.high": "1"}), HYBRID)


def test_host_pids_are_killed_by_cgroup():
    found = operations("/hutch-x", Resources(), HYBRID, own_pid_namespace=False)
    assert "freezer" in found.paths and any(isinstance(op, ops.KillAtExit) for op in found.after)
    assert not any(isinstance(op, ops.KillAtExit) for op in operations("/hutch-x", Resources(), HYBRID).after)


def test_device_rules_are_never_dropped_in_silence():
    """Without a v1 devices controller the rules of a container without a user namespace would be gone: its root, with
    CAP_MKNOD, could make and open the host's disks. v2's eBPF filter, or an error, must stand in."""
    layout = HYBRID.replace(v1=tuple(c for c in HYBRID.v1 if c.name != "devices"))
    try:
        found = operations("/hutch-x", Resources(devices=(DeviceRule(allow=False),)), layout)
    except HutchError:
        return
    assert any(isinstance(op, ops.DeviceProgram) for op in (*found.before, *found.after))


@pytest.mark.parametrize(("layout", "privileged"), [(V2, True), (DELEGATED, False), (HYBRID, True)], ids=["v2", "delegated", "hybrid"])
@pytest.mark.parametrize("name", ["machine/c1", "/a/b"])
def test_relative_cgroups_path(layout, privileged, name):
    """config-linux.md: cgroupsPath is absolute or relative; either way it lies below the mount."""
    found = operations(name, LIMITS, layout, privileged=privileged)
    mounts = {c.mount for c in layout.v1} | {layout.v2_mount}
    for path in (*paths(found.before), *paths(found.after), *found.paths.values()):
        assert any(path.startswith(f"{mount}/") for mount in mounts), path


# Numbers of running containers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}), ("", {}), ("a 1\nb 2\n", {"a": 1, "b": 2}), ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", {"oom_kill_disable": 0, "under_oom": 0, "oom_kill": 3}),
        ("a max\nb\n\nc -5", {"c": -5}), ("a 1 2\n", {}),
    ],
)  # fmt: skip
def test_parse_keyed(text, expected):
    assert live.parse_keyed(text) == expected


@given(st.text(max_size=60))
def test_parse_keyed_takes_anything(text):
    assert all(isinstance(v, int) for v in live.parse_keyed(text).values())


def test_parse_pressure():
    text = "some avg10=1.50 avg60=0.10 avg300=0.00 total=12345\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=99\n"
    assert live.parse_pressure(text) == live.Pressure(some_avg10=1.5, some_total=12345, full_avg10=0.25, full_total=99)
    assert live.parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n") == live.Pressure()
    assert live.parse_pressure(None) is None and live.parse_pressure("") is None


def put(directory, **files: str) -> str:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return str(directory)


def test_v2_stats(tmp_path):
    path = put(
        tmp_path / "c", cpu__stat="usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\nthrottled_usec 7\n", memory__current="4096\n",
        memory__peak="8192\n", memory__max="max\n", memory__events="low 0\nhigh 1\nmax 2\noom 1\noom_kill 1\n", pids__current="3\n", pids__max="10\n",
        pids__events="max 4\n", io__stat="8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=10 wbytes=20 rios=30 wios=40\n",
        cpu__pressure="some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n",
    )  # fmt: skip
    stats = live.Cgroup({"": path}).stats()
    assert live.Cgroup({"": path}).oom_kills() == 1
    assert (stats.cpu_usage, stats.cpu_user, stats.periods, stats.throttled_periods) == (10000, 6000, 3, 2)
    assert (stats.memory_usage, stats.memory_peak, stats.memory_limit, stats.oom_kills) == (4096, 8192, None, 1)
    assert (stats.pids, stats.pids_limit, stats.pids_refused) == (3, 10, 4)
    assert (stats.read_bytes, stats.write_bytes, stats.read_operations, stats.write_operations) == (11, 22, 33, 44)
    assert stats.cpu_pressure == live.Pressure(some_avg10=1.0, some_total=5)
    assert stats.memory_pressure is None


def test_v1_stats(tmp_path):
    found = {
        "cpu": put(tmp_path / "cpu", cpu__stat="nr_periods 3\nnr_throttled 2\nthrottled_time 7\n"),
        "cpuacct": put(tmp_path / "cpuacct", cpuacct__usage="10\n", cpuacct__usage_user="6\n", cpuacct__usage_sys="4\n"),
        "memory": put(tmp_path / "memory", memory__usage_in_bytes="4096\n", memory__limit_in_bytes="9223372036854771712\n", memory__oom_control="oom_kill 2\n"),
        "pids": put(tmp_path / "pids", pids__current="3\n", pids__max="max\n"),
    }
    stats = live.Cgroup(found).stats()
    assert live.Cgroup(found).oom_kills() == 2
    assert live.Cgroup({"pids": found["pids"]}).oom_kills() is live.Cgroup({"": "/nonexistent"}).oom_kills() is None
    assert (stats.cpu_usage, stats.cpu_user, stats.throttled_time) == (10, 6, 7)
    assert (stats.memory_usage, stats.memory_limit, stats.oom_kills, stats.swap_usage) == (4096, None, 2, None)
    assert (stats.pids, stats.pids_limit) == (3, None)


def test_stats_of_nothing(tmp_path):
    empty = live.Cgroup({"": str(tmp_path / "gone")}).stats()
    assert all(v in (None, {}) for v in empty.as_dict().values())
