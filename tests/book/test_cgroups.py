"""Chapter 4's script: every limit holds, and the cgroups are gone afterwards."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs/rabbit-hole/cgroups.py"

pytestmark = pytest.mark.root


def load():
    spec = importlib.util.spec_from_file_location("book_cgroups", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BOOK = load()


def run(name: str) -> dict:
    with subprocess.Popen([sys.executable, str(SCRIPT), "--json", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.terminate()  # not kill: it removes its cgroups
            raise
    assert process.returncode == 0, err
    found = json.loads(out)[name]
    left = [p for top in ("/sys/fs/cgroup/", "/sys/fs/cgroup/*/") for p in glob.glob(f"{top}hutch-book-*-{process.pid}")]
    assert not left
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert err == ""
    return found


def test_pids():
    found = run("pids")
    assert found["processes"] == found["pids.max"] <= found["forks refused (EAGAIN)"]
    assert found["pids.events"]["max"] >= 1


def test_memory():
    found = run("memory")
    assert found["ended by"] == "SIGKILL" and found["oom_kill"] >= 1
    assert 0 < found["had when it died (MiB)"] <= found["limit (MiB)"] < found["wanted (MiB)"]
    assert found["peak (MiB)"] is None or found["peak (MiB)"] <= found["limit (MiB)"]


def test_quota():
    found = run("quota")
    assert found["periods throttled"] >= 1 and found["time throttled (ms)"] > 0
    assert found["share obtained"] < 2.5 * found["share allowed"]


def test_weight():
    found = run("weight")
    assert min(found["seconds of CPU time"]) > 0
    assert found["ratio asked"] / 2 < found["ratio obtained"] < found["ratio asked"] * 2


def test_io():
    found = run("io")
    assert found["seconds with"] > found["seconds demanded"] / 2


def test_freezer():
    found = run("freezer")
    assert found["steps running"] > 0 == found["steps frozen"] < found["steps thawed"]


def test_cpuset():
    found = run("cpuset")
    assert found["CPUs inside"] == found["cpuset.cpus"]


def test_a_file_on_no_disk_is_skipped(tmp_path):
    with pytest.raises(BOOK.Skipped):
        BOOK.whole_disk("/proc/self/status")


def test_the_account_is_readable():
    done = subprocess.run([sys.executable, str(SCRIPT), "cpuset"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith("cpuset: which CPUs there are.")


def test_a_signal_leaves_nothing_behind():
    before = set(glob.glob("/sys/fs/cgroup/*/hutch-book-*"))
    with subprocess.Popen([sys.executable, str(SCRIPT), "weight"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and set(glob.glob("/sys/fs/cgroup/*/hutch-book-*")) == before:
            os.sched_yield()
        process.terminate()
        process.wait(20)
    assert not glob.glob(f"/sys/fs/cgroup/*/hutch-book-*-{process.pid}")
