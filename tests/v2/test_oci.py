"""The OCI runtime on v2: limits, freezing, devices by eBPF, and checkpoint and restore where CRIU and the kernel can."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.v2]
TREE = Path("/sys/fs/cgroup")
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done"


@pytest.fixture
def runtime(busybox_root, tmp_path):
    """``runtime("create", ...)`` runs hutch-oci; ``runtime.bundle(args, linux)`` writes a bundle."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what `create` leaves is ours to reap
    base = [sys.executable, "-m", "hutch.cli.oci", "--root", str(tmp_path / "root")]
    bundle = tmp_path / "bundle"

    def run(*words: str, output: str = "", ok: bool = True) -> str:
        # files: what `create` leaves holds on to them
        with open(output or tmp_path / "out", "ab" if output else "wb") as out, open(tmp_path / "err", "wb") as err:
            done = subprocess.run([*base, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False, timeout=120)
        said = (tmp_path / "err").read_text()
        assert not ok or done.returncode == 0, (words, done.returncode, said)
        return said if not ok else "" if output else (tmp_path / "out").read_text()

    def write(args: list[str], **linux) -> str:
        bundle.mkdir(exist_ok=True)
        subprocess.run([*base, "spec", "--bundle", str(bundle)], check=True)
        data = json.loads((bundle / "config.json").read_text())
        data["process"] |= {"terminal": False, "args": args}
        data["root"]["path"] = str(busybox_root)
        data["linux"] |= linux
        (bundle / "config.json").write_text(json.dumps(data))
        return str(bundle)

    run.bundle = write
    yield run
    subprocess.run([*base, "delete", "--force", "v2"], check=False)
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break


def test_a_life(runtime, tmp_path):
    limits = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}, "cpu": {"quota": 50000, "period": 100000}, "devices": [{"allow": False, "access": "rwm"}]}
    bundle = runtime.bundle(["sh", "-c", COUNT], resources=limits, cgroupsPath="/hutch-oci-tests/test")
    runtime("create", "--bundle", bundle, "v2", output=str(tmp_path / "log"))
    place = TREE / "hutch-oci-tests/test"
    assert [(place / key).read_text().strip() for key in ("memory.max", "pids.max", "cpu.max")] == [str(64 << 20), "20", "50000 100000"]
    runtime("start", "v2")
    assert runtime("exec", "v2", "cat", "/proc/self/cgroup") == "0::/\n", "its own cgroup namespace begins at its cgroup"
    denied = runtime("exec", "--cap", "CAP_MKNOD", "v2", "sh", "-c", "mknod /dev/shm/mem c 1 1 && head -c 1 /dev/shm/mem; echo $?")
    assert denied.strip().endswith("1")
    runtime("pause", "v2")
    assert json.loads(runtime("state", "v2"))["status"] == "paused"
    runtime("resume", "v2")
    runtime("update", "--memory", "32m", "--pids-limit", "30", "v2")
    assert (place / "memory.max").read_text().strip() == str(32 << 20) and (place / "pids.max").read_text().strip() == "30"
    data = json.loads(runtime("events", "--stats", "v2"))["data"]
    assert data["memory"]["usage"]["limit"] == 32 << 20 and data["cpu"]["usage"]["total"] > 0
    runtime("kill", "--all", "v2", "KILL")
    deadline = time.monotonic() + 20
    while json.loads(runtime("state", "v2"))["status"] != "stopped" and time.monotonic() < deadline:
        time.sleep(0.2)
    runtime("delete", "v2")
    assert not place.exists()
    place.parent.rmdir()


def test_a_megabyte_is_enough_to_start_in(runtime):
    """The set-up is charged outside."""
    runtime("run", "--bundle", runtime.bundle(["true"], resources={"memory": {"limit": 1 << 20}}), "v2")


def test_checkpoint_and_restore(runtime, tmp_path):
    if shutil.which("criu") is None or subprocess.run(["criu", "check"], capture_output=True, check=False).returncode:
        pytest.skip("CRIU is missing, or this kernel is too new for it")
    options = next(line.split(" - ")[1].split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == str(TREE))
    bundle = runtime.bundle(["sh", "-c", COUNT])
    log = tmp_path / "log"
    runtime("run", "--detach", "--bundle", bundle, "v2", output=str(log))
    time.sleep(1)
    runtime("checkpoint", "--image-path", str(tmp_path / "images"), "v2")
    assert "does not exist" in runtime("state", "v2", ok=False)
    before = log.read_text().split()
    runtime("restore", "--detach", "--bundle", bundle, "--image-path", str(tmp_path / "images"), "v2", output=str(log))
    assert json.loads(runtime("state", "v2"))["status"] == "running"
    deadline = time.monotonic() + 30
    while len(log.read_text().split()) <= len(before) + 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    numbers = [int(word) for word in log.read_text().split()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > len(before), "it went on counting where it was"
    assert runtime("exec", "v2", "echo", "in") == "in\n"
    runtime("checkpoint", "--leave-running", "--image-path", str(tmp_path / "again"), "v2")
    assert json.loads(runtime("state", "v2"))["status"] == "running"
    # CRIU mounts the tree anew for itself, which resets the options of every mount of it
    subprocess.run(["mount", "-o", f"remount,{options}", str(TREE)], check=True)
