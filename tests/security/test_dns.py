"""Questions and answers that shall get around a container's egress policy, or carry more than a question."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.kernel.netlink import route
from tests.hosts import Host, host, joined
from tests.kernel.test_egress import ASK
from tests.kernel.test_rootless_networks import host as user_host
from tests.namespaces import namespaces

__all__ = ["host", "user_host"]
pytestmark = pytest.mark.root

# a name server that writes down each question as it comes: its address, what it knows, and the file
UPSTREAM = """
import json, socket, struct, sys, threading
names, log = json.loads(sys.argv[2]), open(sys.argv[3], "a")

def answer(m):
    log.write(m.hex() + "\\n"); log.flush()
    at, labels = 12, []
    while at < len(m) and 0 < m[at] < 64:
        labels.append(m[at + 1 : at + 1 + m[at]]); at += 1 + m[at]
    kind, size = m[at + 1 : at + 3], {b"\\0\\1": 4, b"\\0\\x1c": 16}.get(m[at + 1 : at + 3])
    known = names.get(b".".join(labels).decode("latin-1").lower(), [])
    found = [socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in known]
    found = [raw for raw in found if len(raw) == size]
    head = b"\\xc0\\x0c" + kind + b"\\0\\1\\0\\0\\0\\x3c"
    body = b"".join(head + struct.pack("!H", size) + raw for raw in found)
    return m[:2] + b"\\x81\\x80\\0\\1" + struct.pack("!3H", len(found), 0, 0) + m[12 : at + 5] + body

def streams(listener):
    while True:
        connection, _ = listener.accept()
        found = answer(connection.recv(65536)[2:])
        connection.sendall(struct.pack("!H", len(found)) + found)
        connection.close()

udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 53))
threading.Thread(target=streams, args=(socket.create_server((sys.argv[1], 53)),), daemon=True).start()
print("ready", flush=True)
while True:
    message, client = udp.recvfrom(65536)
    udp.sendto(answer(message), client)
"""
# asks what its further arguments are, in hexadecimal, and prints the answer to the last one
ASK_RAW = """
import socket, sys
kept = []
for text in sys.argv[2:]:
    message = bytes.fromhex(text)
    kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
    kept.append(socket.socket(socket.AF_INET, kind))
    kept[-1].settimeout(10)
    kept[-1].connect(("127.0.0.11", 53))
    kept[-1].sendall(len(message).to_bytes(2, "big") * (sys.argv[1] == "tcp") + message)
print(kept[-1].recv(65536).hex())
"""
SERVE = """
import socket
with socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept(); connection.sendall(b"reached"); connection.close()
"""
MARK = b"SMUGGLED"
QUESTION = struct.pack("!2H", 1, 1)


def header(answers=0, authorities=0, more=0, flags=0x0100, id_=0x0161) -> bytes:
    return struct.pack("!6H", id_, flags, 1, answers, authorities, more)


def name(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(*labels: bytes) -> bytes:
    """A TXT record."""
    return name(*labels) + struct.pack("!2HIH", 16, 1, 60, len(MARK) + 1) + bytes([len(MARK)]) + MARK


WWW = name(b"www", b"example", b"org")


class Upstream:
    """An outside with a name server, and its log."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def questions(self) -> list[bytes]:
        return [bytes.fromhex(line) for line in self.log.read_text().split()]


@contextlib.contextmanager
def upstream(machine: Host, known: dict[str, list[str]], place: Path) -> Iterator[Upstream]:
    """An outside: a name server, and at 198.51.100.7 and 169.254.169.254 something that answers."""
    with namespaces(1) as (outside,):
        joined(machine, outside)
        machine.run("ip", "addr", "add", "2001:db8::1/64", "dev", "uplink", "nodad")
        with machine.route() as here, outside.route() as far:
            for address in ("198.51.100.7", "169.254.169.254"):
                far.do(route.new_address(far.link("uplink").index, address, 32))
                here.do(route.new_route(address, 32, gateway="192.0.2.2"))
        log = place / "questions"
        log.touch()
        inside = ["nsenter", f"--net=/proc/{outside.process.pid}/ns/net", "--", sys.executable, "-c"]
        programs = [UPSTREAM, "192.0.2.2", json.dumps(known), str(log)], [SERVE]
        pipe = subprocess.PIPE
        started = [subprocess.Popen([*inside, *words], stdout=pipe, text=True) for words in programs]
        try:
            for process in started:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield Upstream(log)
        finally:
            for process in started:
                process.kill()
                process.communicate()


def network(machine: Host, kind: str, *flags: str) -> str:
    if kind != "bridge":
        machine("network", "create", *flags, kind)
    return kind


@pytest.mark.parametrize("kind", ["bridge", "mine"])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_dot_in_a_label_is_no_border(host, tmp_path, kind, protocol):
    """Labels that are an allowed name only where dots join them: nobody outside hears of them."""
    wrong = [
        (b"x.example", b"org"), (b"www.example", b"org"), (b"a", b"b.example", b"org"), (b"x.example.org",),
        (b"www.example.org",), (b"www", b"example.org"), (b"api.example", b"net"), (b"api", b"example.net"),
        (b"x\\.example", b"org"), (b"secret.EXAMPLE", b"ORG"),
    ]  # fmt: skip
    with upstream(host, {"www.example.org": ["198.51.100.7"]}, tmp_path) as outside:
        asked = [(header() + name(*labels) + QUESTION).hex() for labels in wrong]
        flags = (
            "--network",
            network(host, kind),
            "--dns",
            "192.0.2.2",
            "--egress",
            "*.example.org,api.example.net",
        )
        found = host(
            "run",
            *flags,
            "host",
            "python3",
            "-c",
            ASK_RAW,
            protocol,
            *asked,
            (header() + WWW + QUESTION).hex(),
        )
        assert socket.inet_aton("198.51.100.7") in bytes.fromhex(found)
        heard = outside.questions()
        assert WWW in heard[-1][12:] and not [text[12:] for text in heard if WWW not in text[12:]]


EDNS = b"\0\0\x29\x10\0\0\0\0\0"
OPTION = struct.pack("!2H", 65001, len(MARK)) + MARK
# into the header, where ANCOUNT is a label's length: the label leads over the question's beginning
INTO_HEADER = header(answers=5) + b"\xc0\x05" + QUESTION + b"q" + name(b"hello", b"example", b"org")
BAGGAGE = {
    "a pointer to the header": INTO_HEADER,
    "a pointer to the id": header() + b"\xc0\x00" + QUESTION,
    "a pointer behind a label": header(id_=0x0361) + b"\x01x\xc0\x04" + QUESTION,
    "bytes behind the question": header() + WWW + QUESTION + MARK * 100,
    "a second question": header() + WWW + QUESTION + name(MARK, b"example", b"net") + QUESTION,
    "an answer": header(answers=1) + WWW + QUESTION + record(MARK),
    "an authority": header(authorities=1) + WWW + QUESTION + record(MARK),
    "an additional record": header(more=1) + WWW + QUESTION + record(MARK),
    "many records": header(answers=1, authorities=1, more=3) + WWW + QUESTION + record(MARK) * 5,
    "an option of EDNS": header(more=1) + WWW + QUESTION + EDNS + struct.pack("!H", len(OPTION)) + OPTION,
    "bytes behind EDNS": header(more=1) + WWW + QUESTION + EDNS + b"\0\0" + MARK * 100,
    "flags that mean nothing": header(flags=0x06CF) + WWW + QUESTION,
}


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("egress", [(), ("--egress", "*.example.org")])
def test_a_question_carries_nothing_else(host, tmp_path, egress, protocol):
    """Another server is asked one question without pointers, and gets nothing of what came with it."""
    with upstream(host, {"www.example.org": ["198.51.100.7"]}, tmp_path) as outside:
        asked = [*BAGGAGE.values(), header(id_=9) + WWW + QUESTION]
        flags = ("--network", network(host, "mine"), "--dns", "192.0.2.2", *egress)
        words = ("python3", "-c", ASK_RAW, protocol, *(text.hex() for text in asked))
        found = host("run", *flags, "host", *words)
        assert socket.inet_aton("198.51.100.7") in bytes.fromhex(found)
        heard = outside.questions()
    carried = [text for text in heard if MARK.lower() in text.lower()]
    assert heard and not carried, "what was smuggled"
    for text in heard:
        _, flags, *counts = struct.unpack_from("!6H", text)
        assert counts in ([1, 0, 0, 0], [1, 0, 0, 1]) and not flags & ~0x0130, "RD, AD and CD alone"
        end = 12
        while text[end]:
            assert text[end] < 64, "a pointer"
            end += text[end] + 1
        assert len(text) <= end + 5 + 40 * counts[3]


@pytest.fixture
def machine(request) -> Host:
    """A host, with root's containers or an ordinary user's."""
    return request.getfixturevalue("host" if request.param == "root" else "user_host")


@contextlib.contextmanager
def services(machine: Host) -> Iterator[None]:
    """What listens on all of a host's addresses, among them another bridge's."""
    machine.run("ip", "link", "add", "docker0", "type", "veth", "peer", "name", "other-end")
    words = ["nsenter", f"--net=/proc/{machine.process.pid}/ns/net", "--", sys.executable, "-c", SERVE]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None and service.stdout.readline() == "ready\n"
            machine.run("ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
            machine.run("ip", "link", "set", "docker0", "up")
            machine.run("ip", "link", "set", "other-end", "up")
            yield
        finally:
            service.kill()
            machine.run("ip", "link", "del", "docker0")


CASES = [("root", "bridge"), ("root", "mine"), ("rootless", "mine")]


@pytest.mark.parametrize(("machine", "kind"), CASES, indirect=["machine"])
def test_an_allowed_name_does_not_open_the_host(machine, tmp_path, kind):
    """An allowed name answers with the host's addresses, a link-local, another network's: none is opened."""
    machine("network", "create", "--ipv6", "other")
    gateways = [
        item["Gateway"]
        for which in (network(machine, kind, "--ipv6"), "other")
        for item in json.loads(machine("network", "inspect", which))[0]["IPAM"]["Config"]
    ]
    bad = [
        "192.0.2.1",
        "2001:db8::1",
        "172.17.0.1",
        *gateways,
        "169.254.169.254",
        "127.0.0.1",
        "127.0.0.53",
        "0.0.0.0",
        "::1",
        "::ffff:192.0.2.1",
    ]
    known = {f"n{number}.example.org": [address] for number, address in enumerate(bad)}
    known |= {"both.example.org": ["192.0.2.1", "198.51.100.7"], "www.example.org": ["198.51.100.7"]}
    machine("run", "-d", "--name", "elsewhere", "--network", "other", "host", "sleep", "1000")
    with upstream(machine, known, tmp_path), services(machine):
        flags, ask = ("--network", kind, "--dns", "192.0.2.2", "--egress"), ("host", "python3", "-c", ASK)
        # each by its name, and then, as the name may have opened it, by its number
        places = [*(f"{word}:80" for word in known), *(f"{address}:80" for address in bad)]
        shown = machine("run", *flags, "*.example.org:80", *ask, *places)
        found = {line.rpartition(":80 ")[0] for line in shown.splitlines() if line.endswith(" reached")}
        names = {address: f"n{number}.example.org" for number, address in enumerate(bad)}
        opened = sorted(address for address in bad if found & {address, names[address]})
        assert "www.example.org" in found and not opened, f"{opened} can be reached"
        # where the policy names the address, too, the name leads there
        shown = machine("run", *flags, "*.example.org:80,192.0.2.1:80", *ask, "n0.example.org:80")
        assert shown == "n0.example.org:80 reached\n"
