"""Containers that another process started, from Python: `hutch.containers`."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
import time

import pytest

import hutch
from tests.conftest import HUTCH

pytestmark = pytest.mark.root
TRAP = "trap 'echo asked; exit 3' TERM USR1; echo begun; while :; do sleep 0.05; done"


@pytest.fixture
def name():
    """A name, of a container that is gone afterwards."""
    found = f"existing-{os.getpid()}-{os.urandom(2).hex()}"
    yield found
    for box in hutch.containers.list():
        if box.name == found:
            box.remove(force=True)


def start(name: str, *words: str, flags: tuple[str, ...] = (), image: str = "host") -> hutch.Existing:
    subprocess.run([*HUTCH, "run", "-d", "--name", name, *flags, image, *words], check=True, capture_output=True)
    return hutch.containers.get(name)


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_found_and_listed(name):
    box = start(name, "sleep", "1000")
    assert (box.name, box.status, box.exit_code, box.alive) == (name, "running", None, True)
    assert hutch.containers.get(box.id[:6]).id == box.id
    assert box.id in [other.id for other in hutch.containers.list()] and box.id in [record.id for record in hutch.containers()]
    assert name in repr(box) and box.stats().pids
    for wrong in ("", "no-such-container"):
        with pytest.raises(hutch.HutchError):
            hutch.containers.get(wrong)


def test_it_is_asked_to_end(name):
    """It says how it ended by the time that `stop` returns."""
    box = start(name, "sh", "-c", TRAP)
    until(lambda: b"begun" in b"".join(box.logs()))
    box.stop(timeout=10)
    ended = hutch.containers.get(name)
    assert (ended.status, ended.exit_code, ended.alive) == ("exited", 3, False)
    assert b"".join(ended.logs()) == b"begun\nasked\n"
    for late in (ended.stop, ended.kill, ended.pause):
        with pytest.raises(hutch.ContainerGone):
            late()


def test_it_says_what_it_is_now(name):
    """Not as it was when it was found: what has been stopped can be removed, and what is gone is not said to run."""
    box = start(name, "sleep", "1000")
    other = hutch.containers.get(name)
    assert (box.status, other.status) == ("running", "running")
    box.stop(timeout=0)
    assert (other.status, other.exit_code, other.alive) == ("exited", 137, False)
    box.remove()
    assert (box.status, other.status) == ("exited", "exited") and box.name == name
    assert name not in [one.name for one in hutch.containers.list()]


def test_what_does_not_listen_is_killed(name):
    box = start(name, "sh", "-c", "trap '' TERM; echo begun; while :; do sleep 0.05; done")
    until(lambda: b"begun" in b"".join(box.logs()))
    box.stop(timeout=0)
    assert hutch.containers.get(name).exit_code == 137


def test_another_signal(name):
    box = start(name, "sh", "-c", TRAP)
    until(lambda: b"begun" in b"".join(box.logs()))
    with pytest.raises(hutch.UsageError, match="NOSUCH"):
        box.kill("NOSUCH")
    box.stop(signal="SIGUSR1")
    assert hutch.containers.get(name).exit_code == 3


def test_following_its_log(name):
    """Pieces as they come, to its end."""
    box = start(name, "sh", "-c", "echo one; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo two")
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(box.logs(follow=True)))
    reader.start()
    until(lambda: b"one\n" in b"".join(seen))
    subprocess.run([*HUTCH, "exec", name, "touch", "/tmp/go"], check=True)
    reader.join(10)
    assert not reader.is_alive() and b"".join(seen) == b"one\ntwo\n"


def test_frozen_and_going_on(name):
    box = start(name, "sh", "-c", "while :; do date +%N >/tmp/now; done")
    try:
        box.pause()
    except hutch.UnsupportedError:
        pytest.skip("no freezer here")
    text = subprocess.run([*HUTCH, "cp", f"{name}:/tmp/now", "-"], check=True, capture_output=True).stdout
    assert subprocess.run([*HUTCH, "cp", f"{name}:/tmp/now", "-"], check=True, capture_output=True).stdout == text
    box.resume()
    box.stop(timeout=0)


def test_one_that_runs_is_not_removed(name):
    box = start(name, "sleep", "1000")
    with pytest.raises(hutch.StateError, match="still runs"):
        box.remove()
    box.remove(force=True)
    with pytest.raises(hutch.StateError):
        hutch.containers.get(name)


def test_its_changes(name, busybox_root):
    """Of one that runs, and of one that has ended: its upper directory is on disk."""
    box = start(name, "sh", "-c", "echo x >/etc/new; mkdir /srv; echo x >/srv/new; sleep 1000", image=str(busybox_root))
    until(lambda: "/etc/new" in [change.path for change in box.diff()])
    box.stop(timeout=0)
    ended = hutch.containers.get(name)
    assert "/etc/new" in [change.path for change in ended.diff()]
    out = io.BytesIO()
    ended.export(out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert "srv/new" in [member.name.removeprefix("./") for member in tar]
    with pytest.raises(hutch.UsageError, match="was not made from an image"):
        ended.commit("mine:1")
    assert not ended.ports()
    with hutch.Container("host") as own, pytest.raises(hutch.StateError, match="keeps no log"):
        list(hutch.containers.get(own.id).logs())
