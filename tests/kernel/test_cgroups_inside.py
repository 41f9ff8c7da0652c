"""Cgroups that a container makes in every hierarchy, as systemd does: in its own place, gone at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.hosts import until

pytestmark = pytest.mark.root
NAME = f"hutch-inner-{os.getpid()}"

# What systemd does at its start: it makes groups in each hierarchy and moves itself and what it starts there.
INIT = f"""
for h in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -e $h/cgroup.procs ] || continue
    mkdir -p $h/{NAME}.slice/{NAME}.service $h/{NAME}.scope 2>/dev/null || continue
    echo made $h
    sleep 1000 & echo $! >$h/{NAME}.slice/{NAME}.service/cgroup.procs
    echo $$ >$h/{NAME}.scope/cgroup.procs
done 2>/dev/null
echo ready
trap 'exit 0' TERM
while :; do sleep 0.1; done
"""


def groups(name: str = NAME) -> set[str]:
    """The cgroups of the host with a name."""
    found = set()
    for place, directories, _ in os.walk("/sys/fs/cgroup"):  # other groups may go meanwhile
        found |= {f"{place}/{one}" for one in directories if name in one}
    return found


@pytest.fixture
def init(hutch_cli):
    """``init("--privileged")``: a detached container that has made its groups, and what it says."""

    def run(*flags: str) -> str:
        made = hutch_cli("run", "-d", "--name", "init", *flags, "host", "sh", "-c", INIT)
        assert made.returncode == 0, made.stderr
        until(lambda: "ready" in hutch_cli("logs", "init").stdout)
        return hutch_cli("logs", "init").stdout

    yield run
    hutch_cli("rm", "-f", "init")
    for path in sorted(groups(), key=len, reverse=True):  # what a fault has left
        until(lambda path=path: not os.path.exists(path) or not Path(f"{path}/cgroup.procs").read_text())
        subprocess.run(["rmdir", path], check=False, capture_output=True)
        above = path[: path.index(f"/{NAME}")]
        if os.path.basename(above).startswith("hutch-"):
            subprocess.run(["rmdir", above], check=False, capture_output=True)


FLAGS = [["--privileged"], ["--privileged", "--userns", "host", "-m", "256m", "--pids-limit", "100"]]


@pytest.mark.parametrize("flags", FLAGS, ids=["plain", "limits"])
def test_below_its_own(init, flags):
    """While it runs all of them lie in a cgroup of the container's, also in systemd's own hierarchy."""
    assert "made" in init(*flags)
    assert not [path for path in groups() if "/hutch-" not in path.partition(f"/{NAME}")[0]]


@pytest.mark.parametrize("flags", FLAGS, ids=["plain", "limits"])
@pytest.mark.parametrize("end", ["stop", "rm -f", "the executor is killed"])
def test_nothing_is_left(init, hutch_cli, flags, end):
    """After every kind of end none of them is left, nor the container's own."""
    init(*flags)
    record = json.loads(hutch_cli("ps", "--json").stdout)
    if end == "the executor is killed":
        stat = Path(f"/proc/{record['pid']}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
        until(lambda: not hutch_cli("ps", "-aq").stdout)
    else:
        assert hutch_cli(*end.split(), "init").returncode == 0
    for name in (NAME, record["id"]):
        until(lambda name=name: not groups(name), lambda name=name: f"left: {sorted(groups(name))}")
