"""What `hutch-oci` shows: operations with their times, plans of bundles, help; and the life of a container by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile

import pytest

pytestmark = pytest.mark.root
OCI = [sys.executable, "-m", "hutch.cli.oci"]


@pytest.fixture
def oci(busybox_root, tmp_path):
    """``oci("run", "--bundle", oci.bundle, "x")`` on a bundle of busybox."""
    root = tempfile.mkdtemp(prefix="hutch-oci-", dir="/var/tmp")
    subprocess.run([*OCI, "spec", "--bundle", str(tmp_path)], check=True)
    data = json.loads((tmp_path / "config.json").read_text())
    data["process"] |= {"terminal": False, "args": ["sh", "-c", "echo hello; exit 3"]}
    data["root"]["path"] = str(busybox_root)
    (tmp_path / "config.json").write_text(json.dumps(data))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*OCI, "--root", f"{root}/state", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)

    run.bundle = str(tmp_path)
    yield run
    shutil.rmtree(root)


def test_debug_prints_every_operation_with_its_time(oci):
    done = oci("--debug", "run", "--bundle", oci.bundle, "shown")
    assert (done.returncode, done.stdout) == (3, "hello\n")
    lines = [line for line in done.stderr.splitlines() if " ms " in line]
    assert any("container[" in line and "pivot_root" in line for line in lines) and any(
        "host[" in line and "clone the container's process" in line for line in lines
    )
    times = [float(line.partition(" ms ")[0].split()[-1]) for line in lines]
    assert times == sorted(times) and times[0] > 0


def test_the_log_has_what_standard_error_has_not(oci, tmp_path):
    done = oci("--debug", "--log", str(tmp_path / "log"), "--log-format", "json", "run", "--bundle", oci.bundle, "shown")
    assert done.stderr == ""
    entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(entries) > 50 and {entry["level"] for entry in entries} == {"debug"} and set(entries[0]) == {"level", "msg", "time"}


def test_the_plan_of_a_bundle(oci, hutch_cli):
    done = hutch_cli("plan", "--lint", "--bundle", oci.bundle)
    assert "wait for the start on <start-commands>" in done.stdout and "execute sh -c" in done.stdout
    assert "lint: container: no seccomp filter" in done.stdout and done.returncode == 1


@pytest.mark.parametrize("words", [["--help"], ["help"], [], ["create", "--help"], ["--version"]])
def test_help(oci, words):
    done = oci(*words)
    assert done.returncode == 0 and "hutch-oci" in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("words", "text"), [(["creat"], "unknown command"), (["state"], "expected one argument"), (["--rot"], "unknown flag"), (["state", "x"], "does not exist")]
)
def test_one_line_for_what_is_wrong(oci, words, text):
    done = oci(*words)
    assert done.returncode == 1 and text in done.stderr and len(done.stderr.splitlines()) == 1 and done.stdout == ""
