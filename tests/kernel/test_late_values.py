"""What is known only when a container starts is written where it belongs, and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

import hutch
from hutch.engine.records import state
from tests.conftest import HUTCH
from tests.hosts import Host, host

__all__ = ["host"]
pytestmark = pytest.mark.root

# what stood for an id, a time, an address and a port once
WORDS = ["zQ7vXw0hKj3T", "7301928465.918273", "zQ7v.Xw0h.Kj3T.", "zQ000", "1970-01-01T00:00:00.000000000Z"]


def test_variables_and_arguments():
    result = hutch.run("host", ["sh", "-c", 'echo "$A" "$@"', "sh", *WORDS], env={"A": WORDS[0]})
    assert result.stdout.split() == [WORDS[0], *WORDS]
    with hutch.Container("host", env={"A": WORDS[0]}, labels={"l": WORDS[0]}) as box:
        assert box.run(["sh", "-c", "echo $A"]).stdout.strip() == WORDS[0]
        assert state.find(box.id).data["settings"]["labels"] == {"l": WORDS[0]}


def test_the_command_line_and_its_kept_plans(tmp_path, monkeypatch):
    """The first run and those by the plan that it kept."""
    monkeypatch.setenv("HUTCH_STATE", str(tmp_path / "state"))
    for _ in range(3):
        done = subprocess.run([*HUTCH, "run", "host", "echo", *WORDS], capture_output=True, text=True, check=True)
        assert done.stdout.split() == WORDS
    assert os.listdir(tmp_path / "state/.plans")
    failed = subprocess.run([*HUTCH, "run", "host", f"/no/{WORDS[0]}"], capture_output=True, text=True, check=False)
    assert f"/no/{WORDS[0]}" in failed.stderr


def test_each_has_its_own():
    """Id, host name, record and moment, of many that begin by one plan."""
    boxes = [hutch.Container("host") for _ in range(4)]
    try:
        names = [box.run(["hostname"]).stdout.strip() for box in boxes]
        assert names == [box.id for box in boxes] and len(set(names)) == 4
        created = [state.find(box.id).created for box in boxes]
        assert created == sorted(created) and len(set(created)) == 4
    finally:
        for box in boxes:
            box.close()


def test_addresses_and_ports(host: Host):
    """What was free is where the container and its record have it."""
    flags = ("-d", "--network", "bridge", "-p", "80", "-p", "127.0.0.1::81", "-e", f"A={WORDS[2]}", "-l", f"p={WORDS[3]}")
    one, two = (host("run", *flags, "host", "sleep", "1000").strip() for _ in range(2))
    for box in (one, two):
        address = host("exec", box, "hostname", "-i").split()[-1]
        assert address.count(".") == 3 and address in host("exec", box, "cat", "/etc/hosts")
        assert host("exec", box, "sh", "-c", "echo $A").strip() == WORDS[2]
        lines = host("port", box).splitlines()
        assert lines and all(int(line.rpartition(":")[2]) > 0 for line in lines)
        assert json.loads(host("inspect", box))[0]["Settings"]["labels"] == {"p": WORDS[3]}
    assert not set(host("port", one).splitlines()) & set(host("port", two).splitlines())
