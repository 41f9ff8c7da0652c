"""Locks tell the living from the dead, and whoever looks at one disturbs nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from hutch.kernel import locks
from hutch.network import leases
from tests.conftest import HUTCH


@pytest.fixture
def file(tmp_path):
    path = str(tmp_path / "lock")
    open(path, "w").close()
    return path


def test_looking_never_takes(file):
    """Others look all the time, and everybody who wants the lock gets it at once."""
    done = threading.Event()
    looks = []

    def look() -> None:
        while not done.is_set():
            looks.append(locks.locked(file))

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(3000):
            fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            assert locks.take(fd)
            os.close(fd)
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()
    assert looks


def test_two_lookers_see_no_lock(file):
    fds = [os.open(file, os.O_RDWR | os.O_CLOEXEC) for _ in range(2)]
    assert [locks.held(fd) for fd in fds] == [False, False]
    assert locks.take(fds[0]) and locks.locked(file) and not locks.take(fds[1])
    assert not locks.held(fds[0])  # by another one
    os.close(fds[0])
    assert not locks.locked(file) and locks.take(fds[1])
    os.close(fds[1])


def test_a_lock_outlives_whoever_took_it(file):
    """It belongs to the open file: a child that inherits it holds it on."""
    fd = os.open(file, os.O_RDWR)
    os.set_inheritable(fd, True)
    assert locks.take(fd)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    os.close(fd)
    assert locks.locked(file)
    child.communicate(b"\n")
    assert not locks.locked(file)


def test_of_nothing(tmp_path):
    assert not locks.locked(str(tmp_path / "nothing"))
    os.symlink("/etc/passwd", tmp_path / "link")
    with pytest.raises(OSError):
        locks.locked(str(tmp_path / "link"))


@pytest.mark.root
def test_listing_makes_no_start_fail(tmp_path, monkeypatch):
    """`hutch ps` runs all the time; every container starts, and none is taken for a dead one."""
    monkeypatch.setenv("HUTCH_STATE", str(tmp_path / "state"))
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            subprocess.run([*HUTCH, "ps", "-aq"], capture_output=True, check=True)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(40):
            ended = subprocess.run([*HUTCH, "run", "host", "true"], capture_output=True, text=True, check=False)
            assert (ended.returncode, ended.stderr) == (0, "")
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()


def test_addresses_are_looked_at_while_they_are_taken(tmp_path):
    """Everybody looks who has which address, while all are taken and given back: each is got at the first try."""
    from hutch.network import spec

    subnet = spec.parse_subnet("10.9.8.0/29", "", "")
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            list(leases.held(str(tmp_path)))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(200):
            taken = [leases.take(str(tmp_path), subnet, leases.Tenant(container=f"{i:012x}")) for i in range(5)]
            for lease in taken:
                lease.close()
    finally:
        done.set()
        watcher.join()
