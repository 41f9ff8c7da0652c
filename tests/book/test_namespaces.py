"""Chapter 3's script: every namespace differs inside, and the host is as it was. Run as root and as an ordinary user."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs/rabbit-hole/namespaces.py"


def load():
    spec = importlib.util.spec_from_file_location("book_namespaces", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BOOK = load()


def check(name: str, found: dict) -> None:
    """What must hold of a part's account, whoever ran it."""
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert "failed" not in found, found
    inside, outside = found["inside"], found["outside"]
    assert inside["namespace"] != outside["namespace"]
    if name == "uts":
        assert inside["hostname"] == "rabbit" and outside["hostname"] == os.uname().nodename
    elif name == "pid":
        assert (inside["getpid"], inside["getppid"], inside["processes in /proc"]) == (1, 0, [1, 2])
        assert outside["pid as it sees itself"] == 1 < outside["pid of the same process"]
        assert found["all died with init"]
    elif name == "mount":
        assert inside["files"] == ["carrot"] and inside["a mount"]
        assert outside["files"] == [] and not outside["a mount"]
        assert inside["propagation"] == {"shared": True, "private": False}
    elif name == "ipc":
        assert (inside["queue there before"], inside["queue there after"], inside["queues in the namespace"]) == (True, False, 1)
        assert outside["queue still there"]
    elif name == "user":
        assert inside["uid before"] != 0 == inside["uid"] == inside["owner of its file"]
        assert inside["uid before the map"] == int(Path("/proc/sys/kernel/overflowuid").read_text())
        assert outside["owner of its file"] == inside["uid before"]
        assert inside["capabilities before"] == 0 < inside["capabilities"]
        assert inside["host's name"] == "not permitted" and inside["its own host name"] == "rabbit"
    elif name == "cgroup":
        assert inside["own"] == "/" and inside["seen from outside"] == inside["before"]
        if inside["before"] != outside["own"]:  # root, who could make a cgroup for it
            assert inside["parent"].startswith("/..")
    elif name == "time":
        assert inside["boottime"] - outside["boottime"] in range(10 * BOOK.DAY - 3600, 10 * BOOK.DAY + 60)
        assert inside["monotonic"] - outside["monotonic"] in range(BOOK.DAY - 3600, BOOK.DAY + 60)
        assert abs(inside["realtime"] - outside["realtime"]) < 3600
        assert abs(inside["uptime"] - inside["boottime"]) <= 60
        assert found["the process that made it"]["namespace"] == outside["namespace"]
    elif name == "network":
        assert "lo" in inside["interfaces"]
        assert inside["to the host's server before"] == "connected" == inside["to a server of its own on the same port"]
        assert inside["with lo down"] != "connected" and inside["with lo up"] == "Connection refused"


@pytest.mark.root
@pytest.mark.parametrize("name", BOOK.PARTS)
def test_as_root(name):
    host = os.uname().nodename, os.listdir("/proc/self/ns"), {kind: BOOK.identity(kind) for kind in BOOK.KINDS}
    done = subprocess.run([sys.executable, str(SCRIPT), "--json", name], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    check(name, json.loads(done.stdout)[name])
    assert host == (os.uname().nodename, os.listdir("/proc/self/ns"), {kind: BOOK.identity(kind) for kind in BOOK.KINDS})


@pytest.fixture
def readable_script(tmp_path_factory):
    """The script where an ordinary user can read it."""
    place = Path(f"/var/tmp/hutch-book-script-{os.getpid()}")
    place.mkdir(mode=0o755)
    copy = shutil.copy(SCRIPT, place)
    os.chmod(copy, 0o644)
    yield copy
    shutil.rmtree(place)


@pytest.mark.root
def test_as_an_ordinary_user(as_user, readable_script):
    if int(Path("/proc/sys/user/max_user_namespaces").read_text()) == 0:
        pytest.skip("no user namespaces here")
    done = as_user(str(readable_script), "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert list(found) == list(BOOK.PARTS)
    for name, account in found.items():
        check(name, account)


@pytest.mark.root
def test_the_account_is_readable():
    done = subprocess.run([sys.executable, str(SCRIPT), "uts", "user"], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "UTS: the host's name."
    assert "hostname:" in done.stdout and "rabbit" in done.stdout
    assert max(map(len, lines)) < 100


def test_an_unknown_name_is_refused():
    done = subprocess.run([sys.executable, str(SCRIPT), "moon"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "moon" in done.stderr
