"""What the kernel knows of an address's connections is of no use to the next container that has it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.hosts import Host, host, joined, until
from tests.kernel.test_rootless_networks import host as user_host
from tests.namespaces import Namespace, namespaces

__all__ = ["host", "user_host"]
pytestmark = pytest.mark.root

# outside: answers datagrams and connections, and forgets these without a word (TCP_REPAIR)
OUTSIDE = """
import fcntl, socket, threading
def streams(family, address):
    with socket.create_server((address, 80), family=family) as server:
        while True:
            connection, _ = server.accept()
            connection.sendall(b"reached")
            while fcntl.ioctl(connection, 0x5411, bytes(4)) != bytes(4): pass
            connection.setsockopt(socket.IPPROTO_TCP, 19, 1)
            connection.close()
def datagrams(family, address):
    own = socket.socket(family, socket.SOCK_DGRAM); own.bind((address, 80))
    while True:
        data, client = own.recvfrom(100); own.sendto(b"reached", client)
for family, address in ((socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "2001:db8::2")):
    for serve in (streams, datagrams):
        threading.Thread(target=serve, args=(family, address)).start()
print("ready", flush=True)
"""
# from one port, to an address: prints what comes back; forgets its connection without a word if it may
TALK = """
import socket, struct, sys
kind, target, own = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in target else socket.AF_INET
try:
    if kind == "icmp":
        s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        s.settimeout(2); s.connect((target, 0))
        for _ in range(2):
            s.send(struct.pack("!BBHHH", 8, 0, 0xffff - 0x0800 - own, own, 0))
            assert s.recv(100)[20] == 0
        print("reached")
    else:
        s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        s.settimeout(2); s.bind(("", own)); s.connect((target, 80))
        kind == "tcp" and s.setsockopt(socket.IPPROTO_TCP, 12, 1)  # TCP_QUICKACK
        for _ in range(1 if kind == "tcp" else 2):
            kind == "udp" and s.send(b"x")
            found = s.recv(100).decode()
        print(found)
        kind == "tcp" and s.setsockopt(socket.IPPROTO_TCP, 19, 1)
except (OSError, AssertionError) as error:
    print("refused", error)
"""


@contextlib.contextmanager
def served(machine: Host) -> Iterator[Namespace]:
    """An outside that answers."""
    with namespaces(1) as (outside,):
        joined(machine, outside)
        machine.run("ip", "addr", "add", "2001:db8::1/64", "dev", "uplink", "nodad")
        outside.run("ip", "addr", "add", "2001:db8::2/64", "dev", "uplink", "nodad")
        words = ["nsenter", f"--net=/proc/{outside.process.pid}/ns/net", "--", sys.executable, "-c", OUTSIDE]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None and server.stdout.readline() == "ready\n"
                yield outside
            finally:
                server.kill()


@pytest.fixture
def machine(request) -> Host:
    """A host, with root's containers or an ordinary user's."""
    return request.getfixturevalue("host" if request.param == "root" else "user_host")


def network(machine: Host) -> tuple[tuple[str, ...], list[str]]:
    """A network with a container that stays; the flags that give the others one address, and the gateways."""
    machine("network", "create", "--ipv6", "--subnet", "10.90.0.0/24", "--subnet", "fd90::/64", "net")
    machine("run", "-d", "--name", "stays", "--network", "net", "--ip", "10.90.0.2", "--ip6", "fd90::2", "host", "sleep", "1000")
    (inspected,) = json.loads(machine("network", "inspect", "net"))
    gateways = [item["Gateway"] for item in inspected["IPAM"]["Config"]]
    return ("--network", "net", "--ip", "10.90.0.50", "--ip6", "fd90::50"), gateways


def run(machine: Host, flags: tuple[str, ...], *words: str) -> str:
    """What `TALK` prints in a container whose address is free afterwards."""
    found = machine.try_("run", *flags, "host", "python3", "-c", TALK, *words)
    until(lambda: "10.90.0.50" not in machine("network", "inspect", "net"))
    return found.stdout


HOWS = ["udp", "tcp", "icmp", "udp by IPv6", "tcp by IPv6"]


CASES = [*(("root", how) for how in HOWS), ("rootless", "udp")]


@pytest.mark.parametrize(("machine", "how"), CASES, indirect=["machine"])
def test_the_next_tenant_inherits_no_way_out(machine, how):
    """A container that may reach nothing has the address of one that could, and the same ports."""
    with served(machine):
        flags, _ = network(machine)
        words = (how.split()[0], "2001:db8::2" if "IPv6" in how else "192.0.2.2", "40000")
        assert run(machine, (*flags, "--cap-add", "NET_ADMIN"), *words) == "reached\n"
        assert run(machine, (*flags, "--egress", "none"), *words).startswith("refused")


def test_nor_does_one_that_is_connected_later(host):
    """Another running container, with a policy, takes over the address of one that has been disconnected."""
    with served(host):
        flags, _ = network(host)
        host("run", "-d", "--name", "first", *flags, "host", "sleep", "1000")
        plain = ("--network", "bridge", "--egress", "none")
        host("run", "-d", "--name", "next", *plain, "host", "sleep", "1000")
        talk = ("python3", "-c", TALK, "udp", "192.0.2.2", "40000")
        assert host("exec", "first", *talk) == "reached\n"
        host("network", "disconnect", "net", "first")
        host("network", "disconnect", "bridge", "next")
        host("network", "connect", "--ip", "10.90.0.50", "--ip6", "fd90::50", "net", "next")
        assert host("exec", "next", "sh", "-c", "ip route | grep -c default") == "1\n"
        assert host("exec", "next", *talk).startswith("refused")


UDP = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', {port})); "
LISTEN = UDP.format(port=40000) + "s.settimeout(3); print(s.recv(100), flush=True)"
GREET = UDP.format(port=40000) + "s.sendto(b'x', ('192.0.2.2', 81))"


def test_nor_is_it_reached_by_the_last_ones_peers(host):
    """A peer outside has heard of the first one, and sends to it: the next one never asked."""
    with (
        served(host) as outside,
        outside.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as peer,
    ):
        flags, _ = network(host)
        peer.bind(("192.0.2.2", 81))
        peer.settimeout(5)
        host("run", *flags, "host", "python3", "-c", GREET)
        _, client = peer.recvfrom(100)
        until(lambda: "10.90.0.50" not in host("network", "inspect", "net"))
        host("run", "-d", "--name", "next", *flags, "host", "python3", "-c", LISTEN)

        def heard() -> bool:
            with contextlib.suppress(OSError):  # what is closed says so
                peer.sendto(b"unasked", client)
            return "unasked" in host("logs", "next")

        until(lambda: heard() or "next" not in host("ps"))
        assert "unasked" not in host("logs", "next")


def test_nor_does_it_speak_to_the_hosts_own_peers(host):
    """The host has asked the first one: the next one, which may reach nothing, answers the same socket."""
    flags, (gateway, *_) = network(host)
    push = UDP.format(port=53) + f"s.sendto(b'inherited', ('{gateway}', 5555))"
    host(
        "run",
        "-d",
        "--name",
        "first",
        *flags,
        "host",
        "python3",
        "-c",
        UDP.format(port=53) + "s.sendto(*s.recvfrom(100))",
    )
    with host.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as peer:
        peer.settimeout(0.2)

        def asked() -> bool:
            with contextlib.suppress(OSError):
                peer.sendto(b"x", ("10.90.0.50", 53))
                return peer.recv(100) == b"x"
            return False

        peer.bind((gateway, 5555))
        until(asked)
        host("rm", "-f", "first")
        host.try_("run", *flags, "--egress", "none", "host", "python3", "-c", push)
        peer.settimeout(1)
        with pytest.raises(OSError):  # nothing comes, or that the last one's port is closed
            while peer.recv(100) != b"inherited":
                continue
            pytest.fail("a container without a way out has reached the host")
