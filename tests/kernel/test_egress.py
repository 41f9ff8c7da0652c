"""--egress: what may leave a container, by address, port and name, tried against hosts that are network namespaces."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.kernel.netlink import route
from tests.hosts import Host, host, joined, processes, refused, until
from tests.kernel.test_names import resolver
from tests.kernel.test_ports import fetch, serve
from tests.namespaces import namespaces

__all__ = ["host"]
pytestmark = pytest.mark.root

SERVER = """
import socket, threading
def serve(address, port):
    s = socket.create_server((address, port))
    while True:
        c, _ = s.accept(); c.sendall(f"{address}:{port}".encode()); c.close()
for address in ("198.51.100.7", "198.51.100.8"):
    for port in (80, 81):
        threading.Thread(target=serve, args=(address, port)).start()
print("ready", flush=True)
"""
# prints what each of the places says, or why it cannot be reached
ASK = """
import socket, sys
for word in sys.argv[1:]:
    name, _, port = word.rpartition(":")
    try:
        with socket.create_connection((name, int(port)), timeout=2) as c:
            print(word, c.recv(100).decode())
    except socket.gaierror:
        print(word, "no name")
    except OSError as error:
        print(word, "refused" if error.errno in (13, 113, 111) else error)
"""


@pytest.fixture
def world(host: Host) -> Iterator[Host]:
    """A host with an outside: two servers, and a name server that knows both."""
    with namespaces(1) as (outside,):
        joined(host, outside)
        with host.route() as here, outside.route() as far:
            for number in (7, 8):
                far.do(route.new_address(far.link("uplink").index, f"198.51.100.{number}", 32))
            here.do(route.new_route("198.51.100.0", 24, gateway="192.0.2.2"))
        words = ["nsenter", f"--net=/proc/{outside.process.pid}/ns/net", "--", sys.executable, "-c", SERVER]
        servers = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert servers.stdout is not None and servers.stdout.readline() == "ready\n"
        names = resolver(outside, "192.0.2.2")
        yield host
        for process in (servers, names):
            process.kill()
            process.communicate()


def ask(host: Host, flags: tuple[str, ...], *places: str) -> list[str]:
    found = host("run", *flags, "--dns", "192.0.2.2", "host", "python3", "-c", ASK, *places).splitlines()
    return [line.partition(" ")[2] for line in found]


@pytest.mark.parametrize("network", ["mine", "bridge"])
def test_by_name_one_host_is_reached_and_no_other(world, network):
    if network != "bridge":
        world("network", "create", network)
        world("run", "-d", "--name", "near", "--network", network, "host", "sleep", "1000")
    flags = ("--network", network, "--egress", "web.example:80")
    before, after = "198.51.100.7:80", "198.51.100.7:80"
    found = ask(world, flags, before, "web.example:80", after, "web.example:81", "other.example:80", "198.51.100.8:80", "192.0.2.2:53", "192.0.2.1:9")
    assert found == ["refused", "198.51.100.7:80", "198.51.100.7:80", "refused", "no name", "refused", "refused", "refused"]
    assert ask(world, ("--network", network), "198.51.100.8:81") == ["198.51.100.8:81"], "nobody else is concerned"
    if network != "bridge":
        assert world("run", *flags, "host", "sh", "-c", "getent hosts near >/dev/null && busybox ping -c 1 -W 1 near >/dev/null; echo $?") == "0\n"
        world("rm", "-f", "near")


def test_by_address(world):
    assert ask(world, ("--network", "bridge", "--egress", "198.51.100.8:80-81/tcp"), "198.51.100.8:80", "198.51.100.8:81", "198.51.100.7:80") == [
        "198.51.100.8:80", "198.51.100.8:81", "refused",
    ]  # fmt: skip
    assert ask(world, ("--network", "bridge", "--egress", "198.51.100.0/24:81"), "198.51.100.8:80", "198.51.100.8:81") == ["refused", "198.51.100.8:81"]
    assert ask(world, ("--network", "bridge", "--egress", "none"), "198.51.100.8:80", "web.example:80") == ["refused", "no name"]
    assert ask(world, ("--network", "bridge", "--egress", "all"), "198.51.100.8:80") == ["198.51.100.8:80"]
    assert ask(world, ("--network", "bridge", "--egress", "*.example,198.51.100.8:81"), "web.example:81", "198.51.100.8:81", "198.51.100.8:80") == [
        "198.51.100.7:81", "198.51.100.8:81", "refused",
    ]  # fmt: skip


def test_what_was_refused_is_counted_and_ports_still_work(world):
    serve(world, "-p", "8080:80", "--egress", "none")
    assert fetch(world, "127.0.0.1", 8080, "/x").endswith(b"hello /x")
    world("exec", "web", "sh", "-c", "busybox ping -c 2 -W 1 198.51.100.7 >/dev/null; exit 0")
    (entry,) = json.loads(world("network", "inspect", "bridge"))[0]["Containers"].values()
    assert entry["EgressRefused"]["Packets"] == 2
    world("rm", "-f", "web")
    until(lambda: "hutch-egress" not in world.tables())


def test_ipv6(world):
    """The policy holds for what a network has beside IPv4, and what makes IPv6 go is not refused."""
    world("network", "create", "--ipv6", "six")
    up = "import socket,time; time.sleep(1); socket.create_server(('', 9), family=socket.AF_INET6); "
    listing = "import subprocess; print(subprocess.run(['ip', '-6', 'route', 'show', 'default'], capture_output=True, text=True).stdout.split()[2])"
    gateway = world("run", "--network", "six", "host", "python3", "-c", listing).strip()
    with world.inside(lambda: socket.create_server(("::", 9000), family=socket.AF_INET6)):
        flags = ("--network", "six", "--egress")
        assert ask(world, (*flags, "none"), f"{gateway}:9000") == ["refused"]
        connect = f"import socket; socket.create_connection(('{gateway}', 9000), timeout=3)"
        world("run", *flags, f"[{gateway}]:9000", "host", "python3", "-c", connect)
        assert world.try_("run", *flags, "198.51.100.7", "host", "python3", "-c", connect).returncode == 1
    world("run", "-d", "--name", "quiet", *flags, "none", "host", "python3", "-c", up + "time.sleep(100)")
    time.sleep(2)
    (entry,) = json.loads(world("network", "inspect", "six"))[0]["Containers"].values()
    assert entry["EgressRefused"] == {"Packets": 0, "Bytes": 0}
    world("rm", "-f", "quiet")


def test_killed(world):
    """Who enforces it may be killed: the container reaches less, never more; the next command mends it, and clears up."""
    world("network", "create", "mine")
    world("run", "-d", "--name", "box", "--network", "mine", "--egress", "web.example:80", "--dns", "192.0.2.2", "host", "sleep", "1000")

    def from_box(*places: str) -> list[str]:
        return [line.partition(" ")[2] for line in world("exec", "box", "python3", "-c", ASK, *places).splitlines()]

    until(lambda: len(fillers(world)) == 1)
    (filler,) = fillers(world)
    status = Path(f"/proc/{filler}/status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534" in status and "CapEff:\t0000000000001000" in status and "NoNewPrivs:\t1" in status
    os.kill(filler, 9)
    assert from_box("web.example:80", "198.51.100.7:80") == ["no name", "refused"]
    time.sleep(2)  # who is younger may be about to be made known by its own start
    world("network", "prune")
    assert from_box("web.example:80", "198.51.100.8:80") == ["198.51.100.7:80", "refused"]
    (entry,) = [json.loads(line) for line in world("ps", "--json").splitlines()]
    os.kill(entry["executor"], 9)
    world("network", "prune")
    until(lambda: world("network", "prune") is not None and "hutch-egress" not in world.tables())


def fillers(world) -> list[int]:
    """The processes that open what a host's names stand for: its name server's children."""
    servers = processes(Path(world.environment["HUTCH_DATA"]), "hutch-names")
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            if parent in servers and Path(f"/proc/{name}/comm").read_text() == "hutch-egress\n" and os.listdir(f"/proc/{name}/task/{name}/fd"):
                found.append(int(name))
        except OSError:
            continue  # it has gone, or is a zombie
    return found


def test_what_makes_no_sense(world):
    refused(world.try_("run", "--egress", "pypi.org", "host", "true"), "egress: network none has no way out", "--network bridge")
    refused(world.try_("run", "--network", "bridge", "--egress", "pypi.org:x", "host", "true"), "egress: ports are 1 to 65535")
    refused(world.try_("run", "--network", "host", "--egress", "none", "host", "true"), "network host has no way out that could be guarded")
