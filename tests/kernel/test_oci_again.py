"""A bundle that runs again under its name: by the kept plan, and no differently."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.security import attack

pytestmark = pytest.mark.root


@pytest.fixture
def run(busybox_root, tmp_path):
    """``run("sh", "-c", ...)`` runs a bundle called again-ID; ``run.kept()`` tells whether a plan is kept."""
    root = Path(tempfile.mkdtemp(prefix="hutch-again-", dir="/var/tmp"))
    # a plan is compiled anew when a mount has come or gone: here none does, whatever other tests mount
    apart = subprocess.Popen(["unshare", "-m", "sleep", "1000"])
    attack.until(lambda: os.readlink(f"/proc/{apart.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt"))
    base = ["nsenter", "-m", f"--wd={os.getcwd()}", "-t", str(apart.pid), sys.executable, "-m", "hutch.cli.oci", "--root", str(root / "state")]
    subprocess.run([*base, "spec", "--bundle", str(tmp_path)], check=True)
    identity = f"again-{os.getpid()}"

    def once(*words: str, change=None, flags=()) -> subprocess.CompletedProcess[str]:
        data = json.loads((tmp_path / "config.json").read_text())
        data["process"] |= {"terminal": False, "args": list(words)}
        data["root"]["path"] = str(busybox_root)
        (change or (lambda _: None))(data)
        (tmp_path / "config.json").write_text(json.dumps(data))
        return subprocess.run(
            [*base, "run", *flags, "--bundle", str(tmp_path), identity], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )

    once.kept = lambda: sorted(os.listdir(root / "state.plans")) if (root / "state.plans").exists() else []
    once.root, once.base, once.identity = root, base, identity
    yield once
    apart.kill()
    apart.wait()
    shutil.rmtree(root)


def test_the_second_run_is_the_first(run):
    first, second = (run("sh", "-c", "echo $$; id -u; exit 7") for _ in range(2))
    assert (first.returncode, first.stdout, first.stderr) == (second.returncode, second.stdout, second.stderr) == (7, "1\n0\n", "")
    assert len(run.kept()) == 1 and os.listdir(run.root / "state") == []


def test_another_configuration_is_compiled(run):
    assert run("echo", "one").stdout == "one\n"
    assert run("echo", "two").stdout == "two\n" and len(run.kept()) == 2


def test_what_the_configuration_says_stays_as_it_is(run):
    """Text that stood for the moment of creation once is an argument as any other."""
    words = ("echo", "1970-01-01T00:00:00.000000000Z", "zQ7vXw0hKj3T")
    assert [run(*words).stdout.split() for _ in range(3)] == [list(words[1:])] * 3 and len(run.kept()) == 1


def test_what_needs_the_runtime_is_not_kept(run, tmp_path):
    def hooked(data):
        data["hooks"] = {"poststop": [{"path": "/bin/touch", "args": ["touch", str(tmp_path / "hook")]}]}

    for _ in range(2):
        assert run("true", change=hooked).returncode == 0 and (tmp_path / "hook").exists()
        (tmp_path / "hook").unlink()
    assert run.kept() == []


def test_errors_are_told_by_the_whole_plan(run):
    texts = [run("/no/such").stderr for _ in range(2)]
    assert texts[0] == texts[1] == "hutch-oci: /no/such: no such file or directory in the container\n"


def test_a_pid_file_and_a_record_of_this_run(run, tmp_path):
    assert run("true").returncode == 0
    assert run("true", flags=("--pid-file", str(tmp_path / "pid"))).returncode == 0
    assert (tmp_path / "pid").read_text().isdigit()


def test_a_killed_executor_leaves_nothing(run, tmp_path):
    """What a kept plan did is undone from here by the plan compiled anew, whose record must be this run's."""
    assert run("sleep", "0.1").returncode == 0
    process = subprocess.Popen([*run.base, "run", "--bundle", str(tmp_path), run.identity], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    record = run.root / "state" / run.identity / "state"
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            lines = record.read_text().splitlines()
            os.kill(json.loads(lines[1])["executor"], 9)
            break
        except (OSError, IndexError, ValueError):
            continue
    process.wait(20)
    process.stderr.close()
    assert os.listdir(run.root / "state") == []


def test_an_id_in_use_is_refused(run, tmp_path):
    assert run("sleep", "1").returncode == 0
    process = subprocess.Popen([*run.base, "run", "--bundle", str(tmp_path), run.identity], stdin=subprocess.DEVNULL)
    while not (run.root / "state" / run.identity).exists():
        time.sleep(0.01)
    second = subprocess.run([*run.base, "run", "--bundle", str(tmp_path), run.identity], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert second.returncode == 1 and "exists already" in second.stderr
    assert process.wait(20) == 0
