"""Commands that come into a container count against its limits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import hutch
from hutch.errors import HutchError
from tests.conformance import runtime as rt
from tests.conftest import HUTCH
from tests.security import attack, test_oci_tools as tools

pytestmark = pytest.mark.root
place, boxes = tools.place, tools.boxes
LIMIT = 10
FILL = "i=1; while [ $i -lt 10 ]; do sleep 1000 & i=$((i+1)); done; : >/tmp/full; wait"
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.mark.parametrize("detach", [False, True], ids=["waiting", "detached"])
def test_exec_of_hutch_oci_stays_below_the_limit_of_processes(boxes, detach):
    """Five commands come into a container that is at its limit: none makes it go over, and each says why."""
    box = boxes(rt.shell(FILL, linux={"resources": {"pids": {"limit": LIMIT}}})).up()
    rt.until(lambda: (box.rootfs / "tmp/full").exists() and len(box.processes()) == LIMIT, "the limit")
    said = [box.bundle / f"said{n}" for n in range(5)]
    commands = []
    for path in said:
        with open(path, "wb") as file:
            words = ["exec", *(["--detach"] if detach else []), box.id, "sleep", "1000"]
            commands.append(box.runtime.spawn(*words, **{**QUIET, "stderr": file}))
    try:
        attack.until(lambda: len(box.processes()) > LIMIT or all(command.poll() for command in commands), 4)
        assert len(box.processes()) == LIMIT
        assert all(command.poll() for command in commands), "a command came in"
        assert all(path.read_text().strip() and "Traceback" not in path.read_text() for path in said)
    finally:
        box.kill("KILL").ok()
        rt.until(lambda: rt.reap() or not box.processes(), "their end")
        for command in commands:
            command.wait()


@pytest.mark.parametrize("way", ["api", "command"])
def test_exec_stays_below_the_limit_of_processes(busybox_root, way):
    """The same for a container of Hutch's."""
    with hutch.Container(str(busybox_root), pids=LIMIT) as box:
        paths = box.cgroup.paths
        current = Path(paths.get("pids") or paths[""]) / "pids.current"
        with box.start(["sh", "-c", f"while [ ! -e /tmp/go ]; do :; done; {FILL.replace('-lt 10', '-lt 9')}"]):
            # the process that brought the shell in is counted until it is reaped
            assert attack.until(lambda: int(current.read_text()) == 2)
            box.write("/tmp/go", "")
            assert attack.until(lambda: int(current.read_text()) >= LIMIT)
            commands = []
            for _ in range(5):
                if way == "command":
                    commands.append(subprocess.Popen([*HUTCH, "exec", box.id, "sleep", "1000"], **QUIET))
                    rt.expect(commands[-1].pid)
                else:
                    try:
                        commands.append(box.start(["sleep", "1000"]))
                    except HutchError:
                        continue
            attack.until(lambda: int(current.read_text()) > LIMIT, 1)
            try:
                assert int(current.read_text()) <= LIMIT
            finally:
                for command in commands:
                    command.kill() if way == "command" else command.close()
                    if way == "command":
                        command.wait()
