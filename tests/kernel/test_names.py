"""Containers that find each other by name, and everything else as this host does."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hutch.network import dns
from tests.hosts import Host, host, joined, processes, refused, until
from tests.namespaces import Namespace, namespaces

__all__ = ["host"]
pytestmark = pytest.mark.root

LOOK = "getent ahostsv4 {} | head -1 | cut -d' ' -f1"


def servers(host) -> set[int]:
    """The name servers that run for a host, by pid."""
    return set(processes(Path(host.environment["HUTCH_DATA"]), "hutch-names"))


def started(host, before: set[int]) -> int:
    found: list[int] = []

    def one() -> bool:
        found[:] = servers(host) - before  # once: what it starts has its name for a moment
        return len(found) == 1

    until(one)
    return found[0]


def test_names_and_aliases_of_ones_own_network_alone(host):
    for name in ("red", "blue"):
        host("network", "create", "--ipv6", name)
    one = host("run", "-d", "--name", "one", "--network", "red", "--network-alias", "Store", "host", "sleep", "1000").strip()
    host("run", "-d", "--name", "two", "--network", "blue", "--network-alias", "store", "host", "sleep", "1000")
    entry = json.loads(host("network", "inspect", "red"))[0]["Containers"][one]
    script = f"""
        cat /etc/resolv.conf
        for name in one {one} store one.red ONE; do {LOOK.format("$name")}; done
        getent ahostsv6 one | head -1 | cut -d' ' -f1
        getent hosts {entry["IPv4Address"]} | tr -s ' '
        getent hosts two two.blue one.blue nobody.red; echo nothing $?
        busybox ping -c 1 -W 1 store >/dev/null && echo reached
    """
    lines = host("run", "--network", "red", "host", "sh", "-c", textwrap.dedent(script)).splitlines()
    four, six = entry["IPv4Address"], entry["IPv6Address"]
    assert lines[0] == "nameserver 127.0.0.11" and "options ndots:0" in lines
    at = lines.index(four)
    assert lines[at:] == [four] * 5 + [six, f"{four} one.red", "nothing 2", "reached"]
    # on both networks, with both networks' names, and the way out by the first
    host("run", "-d", "--name", "both", "--network", "red", "--network", "blue:alias=bridgehead", "host", "sleep", "1000")
    shown = host("exec", "both", "sh", "-c", f"{LOOK.format('one')}; {LOOK.format('two')}; ip -4 -br addr | grep -c eth; ip -4 route | grep ^default")
    first, second, count, way_out = shown.splitlines()
    assert first == four and second != four and count == "2" and "dev eth0" in way_out
    assert host("exec", "two", "sh", "-c", "busybox ping -c 1 -W 1 bridgehead >/dev/null && echo reached") == "reached\n"
    assert host("exec", "two", "sh", "-c", "getent hosts one; echo $?") == "2\n"


def test_several_containers_share_an_alias(host):
    host("network", "create", "pool")
    for number in range(3):
        host("run", "-d", "--name", f"w{number}", "--network", "pool", "--network-alias", "workers", "host", "sleep", "1000")
    assert host("run", "--network", "pool", "host", "sh", "-c", "getent ahostsv4 workers | cut -d' ' -f1 | sort -u | wc -l") == "3\n"
    host("rm", "-f", "w1")
    until(lambda: host("run", "--network", "pool", "host", "sh", "-c", "getent ahostsv4 workers | cut -d' ' -f1 | sort -u | wc -l") == "2\n")


def test_the_server_comes_and_goes_with_the_containers(host):
    before = servers(host)
    host("network", "create", "short")
    host("run", "--network", "short", "host", "true")
    until(lambda: servers(host) == before)
    host("run", "-d", "--name", "long", "--network", "short", "host", "sleep", "1000")
    pid = started(host, before)
    confined = ("Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "NoNewPrivs:\t1")
    until(lambda: all(line in Path(f"/proc/{pid}/status").read_text() for line in confined))
    host("network", "create", "second")
    host("run", "-d", "--name", "other", "--network", "second", "host", "sleep", "1000")
    assert servers(host) - before == {pid}, "one for all networks"
    host("rm", "-f", "long")
    assert host("exec", "other", "getent", "hosts", "other").split()[-1] == "other"
    host("rm", "-f", "other")
    until(lambda: servers(host) == before)


def test_a_killed_server_comes_back(host):
    before = servers(host)
    host("network", "create", "lost")
    host("run", "-d", "--name", "one", "--network", "lost", "--network-alias", "first", "host", "sleep", "1000")
    pid = started(host, before)
    time.sleep(2)  # who has just been started is told of by who starts him
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in servers(host))
    assert host("run", "--network", "lost", "host", "sh", "-c", "getent hosts first | tr -s ' ' | cut -d' ' -f2") == "first\n"
    assert host("exec", "one", "sh", "-c", "getent hosts one | tr -s ' ' | cut -d' ' -f2") == "one\n"
    pid = started(host, before)
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in servers(host))
    assert host("network", "prune") == ""
    assert host("exec", "one", "sh", "-c", "getent hosts first | tr -s ' ' | cut -d' ' -f2") == "first\n"


RESOLVER = """
import socket, struct, sys, threading
sys.path.insert(0, {source!r})
from hutch.network import dns

def answer(message):
    asked = dns.question(message)
    if asked.name == "silent.example":
        return None
    known = {{"web.example": "198.51.100.7", "other.example": "198.51.100.8"}}
    if asked.name == "long.example":
        return dns.answer(message, asked, [(dns.A, bytes([10, 9, 8, n])) for n in range(200)], limit={limit})
    if asked.name not in known:
        return dns.answer(message, asked, error=dns.NAME_ERROR)
    return dns.answer(message, asked, [(dns.A, socket.inet_aton(known[asked.name]))] if asked.kind == dns.A else [])

def streams(listener):
    while True:
        connection, _ = listener.accept()
        message = connection.recv(65536)[2:]
        found = answer(message)
        connection.sendall(struct.pack("!H", len(found)) + found)
        connection.close()

udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 53))
threading.Thread(target=streams, args=(socket.create_server((sys.argv[1], 53)),), daemon=True).start()
print("ready", flush=True)
while True:
    message, client = udp.recvfrom(4096)
    found = answer(message)
    if found:
        # who forges must fail: first an answer with a wrong id, and one to another question
        udp.sendto(bytes([found[0] ^ 1]) + found[1:], client)
        udp.sendto(found[:12].replace(found[4:6], b"\\0\\1") + dns.encode_name("forged.example") + found[-4:], client)
        udp.sendto(found if len(found) <= 512 else dns.answer(message, dns.question(message), [(dns.A, b"abcd")] * 100, limit=512), client)
"""


def resolver(outside: Namespace, address: str) -> subprocess.Popen[str]:
    source = os.path.abspath("src")
    code = RESOLVER.format(source=source, limit=65535)
    process = subprocess.Popen(
        ["nsenter", f"--net=/proc/{outside.process.pid}/ns/net", "--", sys.executable, "-c", code, address], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_other_names_are_asked_for_elsewhere(host):
    with namespaces(1) as (outside,):
        joined(host, outside)
        process = resolver(outside, "192.0.2.2")
        try:
            host("network", "create", "out")
            host("network", "create", "--internal", "closed")
            run = ("run", "--network", "out", "--dns", "192.0.2.2", "host", "sh", "-c")
            assert host(*run, "getent ahostsv4 web.example | head -1 | cut -d' ' -f1; getent hosts nobody.example; echo $?") == "198.51.100.7\n2\n"
            # an answer that is too long for UDP comes by TCP
            assert host(*run, "getent ahostsv4 long.example | cut -d' ' -f1 | sort -u | wc -l") == "200\n"
            # an internal network is a way out for no question, either
            assert host("run", "--network", "closed", "--dns", "192.0.2.2", "host", "sh", "-c", "getent hosts web.example; echo $?") == "2\n"
            # the default network's containers ask by themselves
            shown = host("run", "--network", "bridge", "--dns", "192.0.2.2", "--dns-search", "example", "--dns-option", "timeout:1", "host", "sh", "-c",
                         "cat /etc/resolv.conf; getent ahostsv4 web | head -1 | cut -d' ' -f1")  # fmt: skip
            assert shown == "nameserver 192.0.2.2\nsearch example\noptions timeout:1\n198.51.100.7\n"
        finally:
            process.kill()
            process.communicate()


def test_a_flood_of_questions_disturbs_nobody(host):
    """One container asks as fast as it can, for what nobody answers; the other's questions are answered, and memory is bounded."""
    before = servers(host)
    host("network", "create", "flood")
    flood = (
        "import socket, os\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.11', 53))\n"
        "import struct\nn = 0\nwhile True:\n n += 1\n q = struct.pack('!6H', n & 65535, 256, 1, 0, 0, 0) + b'\\x06silent\\x07example\\0\\0\\1\\0\\1'\n"
        " try:\n  s.send(q if n % 3 else os.urandom(40))\n except OSError: pass\n"
    )
    host("run", "-d", "--name", "loud", "--network", "flood", "--dns", "127.0.0.9", "host", "python3", "-c", flood)
    host("run", "-d", "--name", "quiet", "--network", "flood", "host", "sleep", "1000")
    pid = started(host, before)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert host("exec", "quiet", "sh", "-c", "getent hosts loud | tr -s ' ' | cut -d' ' -f2") == "loud\n"
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    assert int(line.split()[1]) < 64 << 10
    assert len(os.listdir(f"/proc/{pid}/fd")) < 200


def ask(host: Host, script: str) -> str:
    return host("run", "--network", "raw", "host", "python3", "-c", f"import socket, struct\n{script}")


def test_what_is_no_question_is_no_trouble(host):
    host("network", "create", "raw")
    host("run", "-d", "--name", "stays", "--network", "raw", "host", "sleep", "1000")
    bad = [b"", b"\0", b"\xff" * 40, b"\0" * 12, struct.pack("!6H", 1, 0x2800, 1, 0, 0, 0) + dns.encode_name("x") + b"\0\1\0\1"]
    script = f"""
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("127.0.0.11", 53)); s.settimeout(0.3)
for bad in {bad!r}:
    s.send(bad)
    try: print(s.recv(512)[3] & 15 if bad else None)
    except TimeoutError: print("-")
t = socket.create_connection(("127.0.0.11", 53)); t.send(b"\\xff\\xff" + b"a" * 100); t.close()
many = [socket.create_connection(("127.0.0.11", 53)) for _ in range(60)]
print(socket.gethostbyname("stays"))
"""
    lines = ask(host, script).splitlines()
    assert lines[:5] == ["None", "-", "-", "1", "4"] and socket.inet_aton(lines[5])


def test_hosts(host):
    host("network", "create", "--subnet", "10.55.0.0/24", "here")
    shown = host(
        "run",
        "--network",
        "here",
        "--add-host",
        "up:host-gateway",
        "--add-host",
        "v6:[fd00::9]",
        "host",
        "sh",
        "-c",
        "grep -E 'up|v6' /etc/hosts | tr -s '\\t' ' '",
    )
    assert shown == "10.55.0.1 up\nfd00::9 v6\n"
    refused(
        host.try_("run", "--add-host", "up:host-gateway", "host", "true"), "host-gateway is this host's address on the container's network", "--network bridge"
    )
    refused(host.try_("run", "--network", "bridge", "--network-alias", "x", "host", "true"), "the network bridge has no names", "network create")
    refused(host.try_("run", "--network", "here", "--network", "here", "host", "true"), "network here: is named twice")
    refused(host.try_("run", "--network", "here", "--network-alias", "a b", "host", "true"), "network-alias 'a b'")
