"""`--cgroup-parent`: each container has a cgroup of its own there, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import hutch
from hutch.kernel.features import features

pytestmark = pytest.mark.root


@pytest.fixture
def parent():
    """A cgroup to be the parent, in every hierarchy that Hutch makes cgroups in."""
    name = f"hutch-test-parent-{os.getpid()}"
    yield f"/{name}"
    # os.walk, since other tests' cgroups come and go meanwhile
    for top in [Path(above, name) for above, below, _ in os.walk("/sys/fs/cgroup") if name in below]:
        left = [path for path in top.iterdir() if path.is_dir()]
        top.rmdir() if not left else pytest.fail(f"left behind: {left}")


def places(box: hutch.Container) -> set[str]:
    return set(box.cgroup.paths.values())


def test_two_of_one_host_name(parent):
    """The cgroup is named by the container, not by what it calls itself."""
    wanted = {"hostname": "twin", "cgroup_parent": parent, "memory": "64m"}
    with hutch.Container("host", **wanted) as one, hutch.Container("host", **wanted) as two:
        assert places(one) and not places(one) & places(two)
        assert all(f"{parent}/hutch-{one.id}" in path for path in places(one))
        assert one.run(["hostname"]).stdout == two.run(["hostname"]).stdout == "twin\n"
        paths = places(one) | places(two)
    assert not [path for path in paths if os.path.exists(path)]


def test_one_whose_executor_was_killed(parent):
    """Its cgroup goes with its record, as any container's does."""
    box = hutch.Container("host", hostname="gone", cgroup_parent=parent, memory="64m")
    paths = places(box)
    os.kill(box._execution.executor_pid, signal.SIGKILL)
    box.close()
    deadline = time.monotonic() + 5
    while any(map(os.path.exists, paths)) and time.monotonic() < deadline:
        list(hutch.containers())
        time.sleep(0.02)
    assert not [path for path in paths if os.path.exists(path)]
    assert features().cgroups.mode != "none"
