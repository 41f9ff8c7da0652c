"""Control groups: where the container is, what limits it, and how the limits change."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conformance.runtime import config, label, shell, until

pytestmark = pytest.mark.root
clause = pytest.mark.clause
SLEEP = ("sleep", "100")
MIB = 1 << 20


def need(controller: str, file: str = "") -> None:
    """Skip for every runtime where this machine has no such controller, or not this file of it."""
    top = Path("/sys/fs/cgroup") / controller
    if not (top / "cgroup.procs").exists() or (file and not (top / file).exists() and controller != "pids"):
        pytest.skip(f"unsupported: no {controller} {file} of v1 on this machine")


def value(container, controller: str, file: str) -> str:
    return (container.controller(controller) / file).read_text().strip()


LIMITS = [
    ("memory", {"limit": 64 * MIB}, "memory.limit_in_bytes", str(64 * MIB)),
    ("memory", {"limit": 64 * MIB, "reservation": 32 * MIB}, "memory.soft_limit_in_bytes", str(32 * MIB)),
    ("memory", {"limit": 64 * MIB, "swap": 96 * MIB}, "memory.memsw.limit_in_bytes", str(96 * MIB)),
    ("memory", {"limit": 64 * MIB, "swap": -1}, "memory.memsw.limit_in_bytes", "9223372036854771712"),
    ("memory", {"limit": -1}, "memory.limit_in_bytes", "9223372036854771712"),
    ("memory", {"swappiness": 35}, "memory.swappiness", "35"),
    ("memory", {"kernelTCP": 16 * MIB}, "memory.kmem.tcp.limit_in_bytes", str(16 * MIB)),
    ("cpu", {"shares": 512}, "cpu.shares", "512"),
    ("cpu", {"quota": 50000, "period": 200000}, "cpu.cfs_quota_us", "50000"),
    ("cpu", {"quota": 50000, "period": 200000}, "cpu.cfs_period_us", "200000"),
    ("cpu", {"quota": -1}, "cpu.cfs_quota_us", "-1"),
    ("cpu", {"quota": 50000, "period": 100000, "burst": 20000}, "cpu.cfs_burst_us", "20000"),
    ("cpu", {"idle": 1}, "cpu.idle", "1"),
    ("cpuset", {"cpus": "0", "mems": "0"}, "cpuset.cpus", "0"),
    ("pids", {"limit": 20}, "pids.max", "20"),
    ("pids", {"limit": -1}, "pids.max", "max"),
]


@clause("config-linux.md", "Control groups", "memory, cpu, cpuset, pids")
@pytest.mark.parametrize(("controller", "values", "file", "seen"), LIMITS, ids=[f"{c} {' '.join(v)} {f.partition('.')[2]} {s}" for c, v, f, s in LIMITS])
def test_resources(box, controller, values, file, seen):
    need(controller, file)
    container = box(config(*SLEEP, linux={"resources": {"cpu" if controller == "cpuset" else controller: values}}))
    container.create().ok()
    assert value(container, controller, file) == seen


@clause("config-linux.md", "Memory", "disableOOMKiller")
def test_oom_killer(box):
    need("memory", "memory.oom_control")
    container = box(config(*SLEEP, linux={"resources": {"memory": {"limit": 64 * MIB, "disableOOMKiller": True}}}))
    container.create().ok()
    assert "oom_kill_disable 1" in value(container, "memory", "memory.oom_control")


THROTTLES = {
    "throttleReadBpsDevice": "read_bps",
    "throttleWriteBpsDevice": "write_bps",
    "throttleReadIOPSDevice": "read_iops",
    "throttleWriteIOPSDevice": "write_iops",
}


@clause("config-linux.md", "Block IO", "per-device bandwidth and IO rate limits")
def test_block_io(box):
    need("blkio", "blkio.throttle.read_bps_device")
    disk = os.stat("/").st_dev
    major, minor = os.major(disk), os.minor(disk)
    limits = {key: [{"major": major, "minor": minor, "rate": 1048576 + n}] for n, key in enumerate(THROTTLES)}
    container = box(config(*SLEEP, linux={"resources": {"blockIO": limits}}))
    container.create().ok()
    seen = [value(container, "blkio", f"blkio.throttle.{file}_device") for file in THROTTLES.values()]
    assert seen == [f"{major}:{minor} {1048576 + n}" for n in range(4)]


@clause("config-linux.md", "Control groups", "a limit that no controller of the machine can keep is an error, not silence")
@pytest.mark.parametrize(("resources", "controller"), [
    ({"hugepageLimits": [{"pageSize": "2MB", "limit": 209715200}]}, "hugetlb"), ({"network": {"classID": 1048577}}, "net_cls"),
    ({"network": {"priorities": [{"name": "lo", "priority": 5}]}}, "net_prio"), ({"rdma": {"mlx5_1": {"hcaHandles": 3}}}, "rdma"),
    ({"blockIO": {"weight": 500}}, "blkio"),
], ids=["hugepageLimits", "classID", "priorities", "rdma", "blockIO weight"])  # fmt: skip
def test_missing_controllers(box, resources, controller):
    top = Path("/sys/fs/cgroup")
    if (top / controller).exists() and (controller != "blkio" or (top / "blkio/blkio.weight").exists() or (top / "blkio/blkio.bfq.weight").exists()):
        pytest.skip("unsupported: this machine has the controller")
    container = box(config(*SLEEP, linux={"resources": resources}))
    result = container.create()
    unified = top / f"unified{container.cgroup}/hugetlb.2MB.max"
    if result.code == 0 and controller == "hugetlb" and unified.exists():
        assert unified.read_text().strip() == "209715200"
    elif result.code == 0 and controller == "blkio":
        assert value(container, "blkio", "blkio.bfq.weight") == "500", "only the root of the hierarchy has no such file"
    else:
        result.failed()


@clause("config-linux.md", "Unified", "a controller that is not present or cannot be enabled MUST be an error")
def test_unified_without_a_controller(box):
    box(config("true", linux={"resources": {"unified": {"novel.max": "1"}}})).create().failed()


@clause("config-linux.md", "Control groups", "a value that the kernel refuses is an error")
@pytest.mark.parametrize(
    "resources", [{"cpu": {"quota": 10, "period": 5}}, {"cpu": {"cpus": "4096"}}, {"memory": {"limit": 64 * MIB, "swap": 32 * MIB}}], ids=label
)
def test_refused_values(box, resources):
    container = box(config("true", linux={"resources": resources}))
    container.create().failed()
    assert container.status == "" and not container.left_cgroups()


@clause("config-linux.md", "Cgroups Path", "an absolute path is relative to the cgroups mount point")
def test_absolute_path(box):
    need("pids")
    container = box(config(*SLEEP))
    container.cgroup = f"{container.cgroup}/deep/er"
    container.write(config(*SLEEP, linux={"cgroupsPath": container.cgroup}))
    container.create().ok()
    assert str(container.init) in value(container, "pids", "cgroup.procs").split()
    container.delete("--force").ok()
    for top in Path("/sys/fs/cgroup").iterdir():  # what is above the container's own was made by the runtime, and may stay
        for part in (f"{container.id}/deep", container.id):
            if (top / part).exists():
                (top / part).rmdir()


@clause("config-linux.md", "Cgroups Path", "a relative path: consistently the same place")
def test_relative_path(box):
    need("pids")
    seen = []
    for _ in range(2):
        container = box(config(*SLEEP, linux={"cgroupsPath": f"hutch-conf-relative-{os.getpid()}"}))
        container.create().ok()
        with open(f"/proc/{container.init}/cgroup") as file:
            seen.append(next(line for line in file if ":pids:" in line))
        container.delete("--force").ok()
    assert seen[0] == seen[1] and f"hutch-conf-relative-{os.getpid()}" in seen[0]


@clause("config-linux.md", "Cgroups Path", "without one the runtime MAY define the place")
def test_no_path(box):
    container = box(config(*SLEEP))
    data = config(*SLEEP)
    container.write(data)
    container.create().ok()
    with open(f"/proc/{container.init}/cgroup") as file:
        assert any(container.id in line for line in file)


@clause("config-linux.md", "Control groups", "every process of the container is in its cgroups")
def test_children_are_inside(box):
    container = box(shell("sleep 99 & sleep 99 & echo up; wait")).up()
    until(container.out, "the children")
    assert len(container.processes()) == 3


@clause("config-linux.md", "Memory", "the limit holds: what takes more is killed")
def test_memory_limit_holds(box):
    need("memory")
    result = box(shell("(tail /dev/zero); echo $?", linux={"resources": {"memory": {"limit": 24 * MIB, "swap": 24 * MIB}}})).run()
    assert "137" in result.out.split() or result.code == 137, result


@clause("config-linux.md", "PIDs", "the limit holds: what forks more fails")
def test_pids_limit_holds(box):
    result = box(shell("for n in 1 2 3 4 5 6 7 8; do sleep 9 & done; echo never", linux={"resources": {"pids": {"limit": 5}}})).run()
    assert "never" not in result.out and result.code != 0


FLAGS = [
    ("--memory=33554432", "memory", "memory.limit_in_bytes", str(32 * MIB)),
    ("--memory-reservation=16777216", "memory", "memory.soft_limit_in_bytes", str(16 * MIB)),
    ("--cpu-share=700", "cpu", "cpu.shares", "700"),
    ("--cpu-quota=30000", "cpu", "cpu.cfs_quota_us", "30000"),
    ("--cpuset-cpus=0", "cpuset", "cpuset.cpus", "0"),
    ("--pids-limit=33", "pids", "pids.max", "33"),
]


@clause("runtime.md", "Operations", "update by flags, running and created")
@pytest.mark.parametrize("state", ["created", "running"])
def test_update_flags(box, state):
    container = box(config(*SLEEP))
    container.create().ok()
    if state == "running":
        container.start().ok()
    container.call("update", *(flag for flag, *_ in FLAGS)).ok()
    for flag, controller, file, seen in FLAGS:
        need(controller, file)
        assert value(container, controller, file) == seen, flag


@clause("runtime.md", "Operations", "update --resources from a file and from the standard input; what is not named stays")
@pytest.mark.parametrize("source", ["-", "file"])
def test_update_resources(box, place, source):
    need("memory")
    container = box(config(*SLEEP, linux={"resources": {"pids": {"limit": 44}, "cpu": {"shares": 333}}}))
    container.create().ok()
    wanted = json.dumps({"memory": {"limit": 48 * MIB}, "cpu": {"quota": 20000, "period": 100000}, "pids": {"limit": 21}})
    if source == "-":
        container.call("update", "--resources", "-", stdin=wanted).ok()
    else:
        (place / "resources").write_text(wanted)
        container.call("update", "--resources", str(place / "resources")).ok()
    assert value(container, "memory", "memory.limit_in_bytes") == str(48 * MIB)
    assert (value(container, "cpu", "cpu.cfs_quota_us"), value(container, "cpu", "cpu.shares")) == ("20000", "333")
    assert value(container, "pids", "pids.max") == "21"


@clause("runtime.md", "Operations", "update of what is wrong is an error, and the container goes on")
@pytest.mark.parametrize(("words", "stdin"), [(["--memory=lots"], None), (["--cpuset-cpus=4096"], None), (["--resources", "-"], "{")], ids=label)
def test_wrong_update(box, words, stdin):
    container = box(config(*SLEEP)).up()
    container.call("update", *words, stdin=stdin).failed()
    assert container.status == "running"


@clause("runtime.md", "Operations", "pause stops every process of the container, resume lets them go on")
def test_pause(box):
    need("freezer")
    container = box(shell("while :; do echo x; sleep 0.02; done")).up()
    until(container.out, "the first line")
    container.call("pause").ok()
    assert value(container, "freezer", "freezer.state") == "FROZEN"
    length = len(container.out())
    assert len(container.out()) == length
    container.call("resume").ok()
    assert value(container, "freezer", "freezer.state") == "THAWED"
    until(lambda: len(container.out()) > length, "another line")


@clause("runtime.md", "Operations", "pause and resume of a container in another state is an error")
@pytest.mark.parametrize("command", ["resume", "pause"])
def test_wrong_pause(box, command):
    container = box(config("true") if command == "pause" else config(*SLEEP)).up()
    if command == "pause":
        container.wait()
        container.wait_status("stopped")
    container.call(command).failed()


@clause("runtime.md", "Delete", "a paused container is deleted by force")
def test_delete_a_paused_one(box):
    container = box(config(*SLEEP)).up()
    container.call("pause").ok()
    container.delete("--force").ok()
    container.wait()
    assert container.status == ""


@clause("runtime.md", "Operations", "events --stats prints one JSON object of the container's usage")
def test_events(box):
    container = box(config(*SLEEP, linux={"resources": {"memory": {"limit": 64 * MIB}}})).up()
    data = container.call("events", "--stats").json()
    assert data["type"] == "stats" and data["id"] == container.id
    stats = data["data"]
    assert stats["pids"]["current"] >= 1 and stats["cpu"]["usage"]["total"] > 0
    assert stats["memory"]["usage"]["limit"] == 64 * MIB and stats["memory"]["usage"]["usage"] > 0
    assert {"blkio", "hugetlb"} <= stats.keys()
