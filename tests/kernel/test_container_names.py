"""A name belongs to one container: whoever links it first has it, by every way in."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

import hutch
from hutch.engine.records import state
from tests.conftest import HUTCH

pytestmark = pytest.mark.root


def names() -> list[str]:
    """The names that are reserved now."""
    place = Path(state.root()) / state.NAMES
    return sorted(os.listdir(place)) if place.is_dir() else []


@pytest.fixture
def name(request):
    return f"n-{os.getpid()}-{abs(hash(request.node.name)) % 10000}"


def test_many_at_once_by_the_command(name):
    """Twelve begin at the same moment: one starts, the others say why they do not."""
    runs = [
        subprocess.Popen([*HUTCH, "run", "--name", name, "host", "sleep", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(12)
    ]
    ended = [(run.wait(), run.communicate()[1]) for run in runs]
    assert [code for code, _ in ended].count(0) == 1
    assert all(f"name {name}" in text.replace("'", "") and "has it" in text for code, text in ended if code)
    assert name not in names()


def test_many_at_once_in_python(name):
    """The same in one process, with containers that wait for commands."""
    made: list[hutch.Container] = []
    refused: list[hutch.HutchError] = []
    barrier = threading.Barrier(6)

    def make() -> None:
        barrier.wait()
        try:
            made.append(hutch.Container("host", name=name))
        except hutch.HutchError as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len(made) == 1 and len(refused) == 5
        assert all("has it" in error.message for error in refused)
        assert [running.id for running in hutch.containers() if running.name == name] == [made[0].id]
    finally:
        for box in made:
            box.close()
    assert name not in names()


def test_a_taken_name_in_python(name):
    """`run` and `Container` refuse a name that a container has, before they make anything."""
    with hutch.Container("host", name=name):
        for make in (lambda: hutch.run("host", ["true"], name=name), lambda: hutch.Container("host", name=name)):
            with pytest.raises(hutch.StateError, match="has it"):
                make()
    assert hutch.run("host", ["true"], name=name).ok  # it is free again


def test_of_one_that_has_ended(name):
    """It keeps its name until it is removed."""
    subprocess.run([*HUTCH, "run", "-d", "--name", name, "host", "true"], check=True, capture_output=True)
    deadline = time.monotonic() + 5
    while state.find(name).status != "exited" and time.monotonic() < deadline:
        time.sleep(0.02)
    again = subprocess.run([*HUTCH, "run", "--name", name, "host", "true"], check=False, capture_output=True, text=True)
    assert again.returncode and "`hutch rm` removes one" in again.stderr
    assert name in names()
    subprocess.run([*HUTCH, "rm", name], check=True, capture_output=True)
    assert name not in names()


@pytest.mark.parametrize("who", ["executor", "both"])
def test_of_one_that_was_killed(name, who):
    """Whoever wants the name next gets it."""
    owner = subprocess.Popen([*HUTCH, "run", "--name", name, "host", "sleep", "1000"])
    deadline = time.monotonic() + 5
    while not [r for r in hutch.containers() if r.name == name and r.pid] and time.monotonic() < deadline:
        time.sleep(0.01)
    executor = state.find(name).executor
    if who == "both":
        owner.kill()
    os.kill(executor, signal.SIGKILL)
    owner.wait()
    while Path(f"/proc/{executor}").exists() and time.monotonic() < deadline + 10:
        time.sleep(0.01)  # nobody's child: it dies, and its lock goes, when the kernel comes to it
    assert hutch.run("host", ["true"], name=name, timeout=20).ok
    assert name not in names()


def test_one_that_does_not_start_gives_it_back(name):
    result = hutch.run("host", ["/no/such/program"], name=name)
    assert result.outcome == "failed-to-start" and name not in names()
    failed = subprocess.run([*HUTCH, "run", "-d", "--name", name, "host", "/no/such/program"], check=False, capture_output=True)
    assert failed.returncode and name not in names()


def test_a_link_of_nobodys(name):
    """A name whose record is gone is nobody's."""
    place = Path(state.name_place(name))
    place.parent.mkdir(exist_ok=True)
    place.write_text('{"id": "0123456789ab"}\n')
    assert hutch.run("host", ["true"], name=name).ok and name not in names()
