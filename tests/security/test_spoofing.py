"""A container that lies about addresses to its neighbours and its host: with CAP_NET_RAW, by any frame."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import frames
from tests.frames import (
    IPV4,
    IPV6,
    Box,
    Listener,
)
from tests.hosts import Host, host, joined, processes, until
from tests.kernel.test_rootless_networks import host as user_host
from tests.namespaces import Namespace, namespaces
from tests.security.lies import TAGS, lies, truths

__all__ = ["host", "user_host"]
pytestmark = pytest.mark.root

LAST = b"the last one"
KINDS = ["bridge", "named", "ipv6", "internal", "two", "connected", "published"]
TRICKS = [TAGS["no tag"], TAGS["a tag"], TAGS["two tags"], TAGS["802.1ad and a tag"], TAGS["three tags"]]


@pytest.fixture
def machine(request) -> Host:
    """A host, with root's containers or an ordinary user's."""
    return request.getfixturevalue("host" if request.param == "root" else "user_host")


def on_both(root: list[str], rootless: list[str]) -> pytest.MarkDecorator:
    """A test for root's networks of these kinds, and for a user's of those."""
    cases = [("root", kind) for kind in root] + [("rootless", kind) for kind in rootless]
    return pytest.mark.parametrize(("machine", "kind"), cases, indirect=["machine"])


@contextlib.contextmanager
def bridges_at(machine: Host) -> Iterator[Namespace]:
    """The network namespace that the bridges are in."""
    if not hasattr(machine, "user"):
        yield machine
        return
    (pid,) = processes(Path(machine.environment["HUTCH_DATA"]), "hutch-usernet")
    with contextlib.closing(frames.Inside(pid)) as found:
        yield found


@contextlib.contextmanager
def neighbours(machine: Host, kind: str) -> Iterator[tuple[Box, Box, str]]:
    """An attacker and a neighbour on a network of a kind, and the network's name."""
    flags = {"ipv6": ["--ipv6"], "internal": ["--internal", "--ipv6"], "two": ["--ipv6"]}.get(kind, [])
    name = "bridge" if kind == "bridge" else "net"
    if kind != "bridge":
        machine("network", "create", *flags, "net")
    joins, interface = ["--network", name], "eth0"
    if kind in ("two", "connected"):
        machine("network", "create", "first")
        joins, interface = ["--network", "first"], "eth1"
    if kind == "two":
        joins += ["--network", name]
    if kind == "published":
        joins += ["-p", "8080:80"]
    machine("run", "-d", "--name", "evil", *joins, "host", "sleep", "1000")
    machine("run", "-d", "--name", "good", "--network", name, "host", "sleep", "1000")
    if kind == "connected":
        machine("network", "connect", name, "evil")
    until(lambda: not unsettled(machine))
    evil, good = Box(machine, "evil", interface), Box(machine, "good")
    try:
        yield evil, good, name
    finally:
        evil.close()
        good.close()


def unsettled(machine: Host) -> bool:
    """Whether an address is still being checked for duplicates."""
    return any("tentative" in machine("exec", name, "ip", "-6", "addr") for name in ("evil", "good"))


def gateways(machine: Host, network: str) -> list[str]:
    """The gateways' addresses of a network: of IPv4, and of IPv6 where it has that."""
    config = json.loads(machine("network", "inspect", network))[0]["IPAM"]["Config"]
    return sorted((item["Gateway"] for item in config), key=lambda item: ":" in item)


@on_both(KINDS, ["bridge", "ipv6", "connected"])
def test_lies_arrive_nowhere(machine, kind):
    """Frames that could deceive, behind tags of every kind: neither a neighbour nor the bridge gets one."""
    with neighbours(machine, kind) as (evil, good, name):
        gateway, gateway6 = [*gateways(machine, name), "fd99::1"][:2]
        bridge = json.loads(machine("network", "inspect", name))[0]["Bridge"]
        told = lies(evil, good, gateway, gateway6).items()
        wrong = {f"{what} ({tag})": (*lie, tags) for tag, tags in TAGS.items() for what, lie in told}
        right = truths(evil, good)
        sent, marks = [], {}
        everything = {**wrong, **right, "last": right["its own IPv4"]}
        for number, (what, (type_, body, target, tags)) in enumerate(everything.items(), 1000):
            body, marks[what] = frames.marked(type_, body, number)
            sent.append(frames.ethernet(evil.mac, type_, body, target, tags))
        with (
            bridges_at(machine) as where,
            Listener(good, "eth0") as at_good,
            Listener(where, bridge) as at_host,
        ):
            evil.send(*sent[:-1])
            evil.send(sent[-1])
            arrived = at_good.heard(marks, marks["last"])
            seen_by_host = at_host.heard(marks, marks["last"])
        assert set(right) <= arrived, "what is true arrives"
        arrived = (arrived | seen_by_host) & set(wrong)
        untagged = sorted(what for what in arrived if "(no tag)" in what)
        assert not arrived, f"{len(arrived)} of {len(wrong)} arrive, without a tag: {untagged}"


def believed(where: Namespace, interface: str) -> dict[str, str]:
    """Which MAC a host believes its neighbours on an interface to have."""
    found = where.ip("neigh", "show", "dev", interface)
    return {item["dst"]: item["lladdr"] for item in found if "lladdr" in item}


@on_both(["bridge", "ipv6", "published"], ["ipv6"])
def test_nobody_is_deceived(machine, kind):
    """A neighbour and the host know each other's MACs and the way out, and believe no lie."""
    with neighbours(machine, kind) as (evil, good, name), bridges_at(machine) as where:
        found = gateways(machine, name)
        bridge = json.loads(machine("network", "inspect", name))[0]["Bridge"]
        for gateway in found:
            address = good.six if ":" in gateway else good.four
            ping = "ping6" if ":" in gateway else "ping"
            good.run("busybox", ping, "-c", "1", gateway)
            where.run("busybox", ping, "-c", "1", address)
        before = believed(good, "eth0"), believed(where, bridge)
        for tags in TRICKS:
            told = lies(evil, good, *[*found, "fd99::1"][:2]).values()
            evil.send(*(frames.ethernet(evil.mac, type_, body, target, tags) for type_, body, target in told))
        for then, now in zip(before, (believed(good, "eth0"), believed(where, bridge)), strict=True):
            others = {address: mac for address, mac in now.items() if address not in evil.addresses}
            changed = {address: mac for address, mac in others.items() if mac == evil.mac}
            assert not changed and then == {address: now.get(address, mac) for address, mac in then.items()}
        routers = [item.get("gateway") for item in good.ip("-6", "route", "show", "default")]
        assert set(routers) <= set(found), f"a way out by {routers}"


@pytest.mark.parametrize("egress", [(), ("--egress", "none")])
def test_foreign_sources_leave_nowhere(host, egress):
    """Nobody outside gets a packet that a neighbour or a stranger seems to have sent."""
    with namespaces(1) as (outside,):
        joined(host, outside)
        host.run("ip", "addr", "add", "2001:db8::1/64", "dev", "uplink", "nodad")
        outside.run("ip", "addr", "add", "2001:db8::2/64", "dev", "uplink", "nodad")
        host("network", "create", "--ipv6", "net")
        host("run", "-d", "--name", "evil", "--network", "net", *egress, "host", "sleep", "1000")
        host("run", "-d", "--name", "good", "--network", "net", "host", "sleep", "1000")
        until(lambda: not unsettled(host))
        (link,) = host.ip("link", "show", json.loads(host("network", "inspect", "net"))[0]["Bridge"])
        with (
            contextlib.closing(Box(host, "evil")) as evil,
            contextlib.closing(Box(host, "good")) as good,
            Listener(outside, "uplink") as far,
        ):
            own = [evil.four, evil.six] if egress else []
            sent, marks = [], {}
            for source in (good.four, "203.0.113.9", good.six, "2001:db8:9::9", *own):
                kind, pack, target = IPV4, frames.ipv4, "192.0.2.2"
                if ":" in source:
                    kind, pack, target = IPV6, frames.ipv6, "2001:db8::2"
                for tags in TRICKS:
                    mark = f"{source} behind {len(tags)} tags, {tags[:1]}."
                    marks[mark] = mark.encode()
                    packet = pack(source, target, frames.udp(source, target, 9, 9, mark.encode()), frames.UDP)
                    sent.append(frames.ethernet(evil.mac, kind, packet, link["address"], tags))
            evil.send(*sent)
            good.run(
                "python3",
                "-c",
                f"from socket import *; socket(AF_INET, SOCK_DGRAM).sendto({LAST}, ('192.0.2.2', 9))",
            )
            assert far.heard(marks, LAST) == set()
