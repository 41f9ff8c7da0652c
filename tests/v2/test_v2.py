"""cgroup v2 on a host that has nothing else: every controller, events, freezing, devices, and systemd's delegation.

Run by `make test-v2`, in an emulated machine: few containers, and no assumption about time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hutch
from hutch.oci.config import Cpu, Memory, Pids, Resources

pytestmark = [pytest.mark.root, pytest.mark.v2]
TREE = "/sys/fs/cgroup"


def test_the_layout_is_v2():
    layout = hutch.features().cgroups
    assert layout.mode == "v2" and {"cpu", "memory", "pids", "io"} <= set(layout.v2_controllers)


def test_every_limit_is_written_where_the_kernel_has_it():
    with hutch.Container("host", memory="128m", memory_swap="256m", cpus=0.5, cpu_shares=512, cpuset="0", pids=50, unified={"memory.high": "100M"}) as box:
        directory = box.cgroup.paths[""]
        expected = {
            "memory.max": str(128 << 20), "memory.high": str(100 << 20), "cpu.max": "50000 100000", "cpu.weight": "20",
            "cpuset.cpus": "0", "pids.max": "50",
        }  # fmt: skip
        assert {key: Path(directory, key).read_text().strip() for key in expected} == expected
        assert os.readlink(f"/proc/{box.pid}/ns/cgroup") != os.readlink("/proc/self/ns/cgroup")
        inside = box.run(["sh", "-c", "cat /proc/self/cgroup /sys/fs/cgroup/pids.max; touch /sys/fs/cgroup/x"])
        assert inside.stdout.startswith("0::/\n50\n") and inside.exit_code != 0
        stats = box.stats()
        assert stats.memory_limit == 128 << 20 and stats.pids_limit == 50 and stats.cpu_usage and stats.memory_pressure is not None
        box.cgroup.update(Resources(memory=Memory(limit=256 << 20), pids=Pids(limit=60), cpu=Cpu(shares=1024)))
        assert box.stats().memory_limit == 256 << 20 and box.stats().pids_limit == 60


def test_out_of_memory_and_events():
    with hutch.Container("host", memory="64m") as box:
        r = box.run(["python3", "-c", "bytearray(300 << 20)"])
        assert (r.outcome, r.exit_code) == ("out-of-memory", 137)
        assert next(box.events()).kind == "oom" and box.stats().memory_max_events
    r = hutch.run("host", ["python3", "-c", "bytearray(300 << 20)"], memory="64m")
    assert r.outcome == "out-of-memory" and r.usage.oom_kills == 1 and r.usage.memory_peak


def test_throttling_is_counted():
    r = hutch.run("host", ["timeout", "3", "sh", "-c", "while :; do :; done"], cpus=0.2)
    assert r.usage.throttled_periods


def test_pids():
    code = "import os\nn = 0\ntry:\n  while True:\n    if os.fork() == 0:\n      import time; time.sleep(60)\n    n += 1\nexcept OSError: print(n)"
    r = hutch.run("host", ["python3", "-c", code], pids=16)
    assert r.stdout == "15\n" and r.usage.pids_refused


def test_freezing():
    with hutch.Container("host") as box:
        box.pause()
        assert "frozen 1" in Path(box.cgroup.paths[""], "cgroup.events").read_text()
        box.resume()
        assert box.run(["true"]).ok


def test_devices_without_a_user_namespace():
    """A node can be made; an eBPF program says which may be opened."""
    r = hutch.run("host", ["sh", "-c", "mknod /tmp/kmsg c 1 11; cat /tmp/kmsg; cat /dev/null && echo null"], userns="host")
    assert "Operation not permitted" in r.stderr and r.stdout == "null\n"


def test_a_command_that_is_out_of_time_is_killed_with_its_tree():
    with hutch.Container("host") as box:
        assert box.run(["sh", "-c", "setsid sleep 500 & sleep 501"], timeout=3).outcome == "timeout"
        assert "sleep" not in box.run(["ps", "-e", "-o", "comm"]).stdout


def test_bad_limits_leave_nothing():
    before = set(os.listdir(TREE))
    with pytest.raises(hutch.ConfigError, match="below memory.limit"):
        from hutch.cgroup.settings import v2_settings

        v2_settings(Resources(memory=Memory(limit=100, swap=50)))
    r = hutch.run("host", ["true"], unified={"memory.high": "nonsense"})
    assert r.outcome == "failed-to-start" and "memory.high" in str(r.error)
    with pytest.raises(hutch.UnsupportedError, match="have no nonsense controller"):
        hutch.run("host", ["true"], unified={"nonsense.max": "1"})
    assert set(os.listdir(TREE)) == before


def test_a_shared_pid_namespace_is_killed_by_its_cgroup():
    assert hutch.run("host", ["sh", "-c", "setsid sleep 987 & exit 0"], pid="host").ok


def test_a_user_with_a_delegated_cgroup(as_user, ordinary_user):
    """Delegation by hand: a directory of the user's, with controllers enabled for its children."""
    tree = f"{TREE}/hutch-delegated-user"
    os.mkdir(tree)
    try:
        Path(f"{tree}/cgroup.subtree_control").write_text("+memory +pids")
        os.mkdir(f"{tree}/shell")
        for path in (tree, f"{tree}/cgroup.procs", f"{tree}/cgroup.subtree_control", f"{tree}/shell", f"{tree}/shell/cgroup.procs"):
            os.chown(path, ordinary_user.pw_uid, ordinary_user.pw_gid)
        code = (
            "import hutch\n"
            "r = hutch.run('host', ['cat', '/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/pids.max'], memory='64m', pids=20)\n"
            "print(r.outcome, r.stdout.split(), r.error)\n"
            "print(hutch.run('host', ['python3', '-c', 'bytearray(300 << 20)'], memory='64m').outcome)\n"
        )
        # only root may move a process into the delegated tree: do it for the child before it becomes the user
        r = as_user("-c", code, preexec_fn=lambda: Path(f"{tree}/shell/cgroup.procs").write_text("0"))
        assert r.stdout.splitlines() == [f"exited ['{64 << 20}', '20'] None", "out-of-memory"], r.stdout + r.stderr
    finally:
        os.rmdir(f"{tree}/shell")
        os.rmdir(tree)


@pytest.mark.skipif(not os.path.exists("/lib/systemd/systemd"), reason="needs systemd")
def test_systemd_delegation():
    """A user's own systemd, really started, makes the scopes."""
    site = next(path for path in sys.path if path.endswith("site-packages"))
    script = Path(__file__).parent / "systemd.sh"
    r = subprocess.run(["bash", str(script), str(Path(__file__).parents[2] / "src"), site], capture_output=True, text=True, timeout=300, check=False)
    assert r.stdout.splitlines() == ["67108864", "20", "exit 137", "left: 0"], r.stdout + r.stderr
