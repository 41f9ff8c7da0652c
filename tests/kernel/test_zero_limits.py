"""Limits of nothing, and of less: 0 and -1 stand for "no limit" or "as by default", as Docker says."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.root
MANY = """
import threading, time
for _ in range(300):
    threading.Thread(target=time.sleep, args=(1,)).start()
print(threading.active_count())
"""
LOTS = "x = bytearray(100 << 20); print('ok')"
PYTHON, SHELL = ["python3", "-c"], ["sh", "-c"]
UNLIMITED = {
    "memory 0": (["--memory", "0"], PYTHON, LOTS, "ok\n"),
    "memory 0b": (["-m", "0b"], PYTHON, LOTS, "ok\n"),
    "memory-swap 0": (["-m", "64m", "--memory-swap", "0"], SHELL, "echo ok", "ok\n"),
    "memory-swap 0 alone": (["--memory-swap", "0"], PYTHON, LOTS, "ok\n"),
    "memory-reservation 0": (["--memory-reservation", "0"], PYTHON, LOTS, "ok\n"),
    "memory-swappiness -1": (["--memory-swappiness", "-1"], SHELL, "echo ok", "ok\n"),
    "cpus 0": (["--cpus", "0"], SHELL, "echo ok", "ok\n"),
    "cpus 0.0": (["--cpus", "0.0"], SHELL, "echo ok", "ok\n"),
    "cpus 0 and a quota": (["--cpus", "0", "--cpu-quota", "50000"], SHELL, "echo ok", "ok\n"),
    "cpu-quota 0": (["--cpu-quota", "0"], SHELL, "echo ok", "ok\n"),
    "cpu-quota -1": (["--cpu-quota", "-1"], SHELL, "echo ok", "ok\n"),
    "cpu-period 0": (["--cpu-period", "0"], SHELL, "echo ok", "ok\n"),
    "cpu-shares 0": (["--cpu-shares", "0"], SHELL, "echo ok", "ok\n"),
    "blkio-weight 0": (["--blkio-weight", "0"], SHELL, "echo ok", "ok\n"),
    "pids-limit 0": (["--pids-limit", "0"], PYTHON, MANY, "301\n"),
    "pids-limit -1": (["--pids-limit", "-1"], PYTHON, MANY, "301\n"),
    "shm-size 0": (["--shm-size", "0"], SHELL, "df -k /dev/shm | tail -1 | awk '{print $2}'", "65536\n"),
    "oom-score-adj 0": (["--oom-score-adj", "0"], SHELL, "cat /proc/self/oom_score_adj", "0\n"),
    "all of them": (["-m", "0", "--cpus", "0", "--pids-limit", "0"], PYTHON, MANY, "301\n"),
}


@pytest.mark.parametrize("case", UNLIMITED)
def test_no_limit(hutch_cli, case):
    """The container starts, and has what it would have without the flag."""
    flags, program, script, expected = UNLIMITED[case]
    done = hutch_cli("run", *flags, "host", *program, script)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.parametrize("flags", ["--memory 0", "--cpus 0", "--pids-limit 0", "--pids-limit -1"])
def test_no_limit_for_an_ordinary_user(as_user, flags):
    """What is no limit needs no right to set limits."""
    done = as_user("-m", "hutch.cli", "run", *flags.split(), "host", "echo", "ok")
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


BAD = ["--memory -5", "--memory 1k", "--cpus -1", "--cpus nan", "--cpus 1e400", "--stop-timeout soon"]


@pytest.mark.parametrize("flags", BAD)
def test_no_number_of_anything(hutch_cli, flags):
    """What stands for nothing is refused, and named."""
    done = hutch_cli("run", *flags.split(), "host", "true")
    assert done.returncode == 125 and flags.split()[0].strip("-") in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_stop_without_patience(hutch_cli):
    """--stop-timeout 0: a container that does not hear is killed at once, not after ten seconds."""
    script = "trap 'echo heard' TERM; echo ready; while :; do sleep 0.1; done"
    made = hutch_cli("run", "-d", "--name", "deaf", "--stop-timeout", "0", "host", "sh", "-c", script)
    try:
        assert made.returncode == 0, made.stderr
        deadline = time.monotonic() + 10
        while "ready" not in hutch_cli("logs", "deaf").stdout:
            assert time.monotonic() < deadline
        begin = time.monotonic()
        assert hutch_cli("stop", "deaf").returncode == 0
        assert time.monotonic() - begin < 8
        assert "Exited (137)" in hutch_cli("ps", "-a").stdout
    finally:
        hutch_cli("rm", "-f", "deaf")
