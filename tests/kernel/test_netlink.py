"""What rtnetlink is told, as ip(8) sees it; and what it says, as ip(8) has made it."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from hutch.kernel import tun
from hutch.kernel.netlink import addresses, route
from hutch.kernel.netlink.route import Route
from hutch.kernel.netlink.socket import NetlinkError
from tests.namespaces import Namespace, namespaces

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespaces(1) as (found,):
        yield found


@pytest.fixture
def socket(host) -> Iterator[Route]:
    with host.route() as found:
        yield found


def index(socket: Route, name: str) -> int:
    link = socket.link(name)
    assert link is not None
    return link.index


def test_a_pair_across_namespaces(socket, host):
    with namespaces(1) as (other,), other.route() as inside:
        socket.do(route.bridge("br0", up=True, mtu=1400, address="02:00:00:00:00:01"))
        socket.do(route.set_link(name="br0", alias="of a test"))
        bridge = index(socket, "br0")
        socket.do(route.veth("outer", "eth0", up=True, mtu=1400, master=bridge, peer_address="02:42:0a:00:00:02", peer_namespace_fd=other.fd))
        (outer,) = host.ip("link", "show", "outer")
        assert outer["linkinfo"]["info_kind"] == "veth" and outer["master"] == "br0" and outer["mtu"] == 1400 and "UP" in outer["flags"]
        (shown,) = host.ip("link", "show", "br0")
        assert shown["address"] == "02:00:00:00:00:01" and shown["ifalias"] == "of a test" and shown["linkinfo"]["info_data"]["stp_state"] == 0
        eth0 = inside.link("eth0")
        assert eth0 is not None and eth0.address == "02:42:0a:00:00:02" and not eth0.up and eth0.kind == "veth"
        link = socket.link("outer")
        assert link is not None and link.parent == eth0.index and link.peer_namespace == socket.namespace_id(other.fd) >= 0 and link.master == bridge
        # both ends have addresses, and packets go
        socket.do(route.new_address(bridge, "10.9.0.1", 24, broadcast="10.9.0.255"))
        socket.do(route.new_address(bridge, "fd00:9::1", 64))
        inside.do(route.new_address(eth0.index, "10.9.0.2", 24))
        inside.do(route.new_address(eth0.index, "fd00:9::2", 64))
        inside.do(route.set_link(eth0.index, up=True))
        inside.do(route.new_route(gateway="10.9.0.1"))
        inside.do(route.new_route(gateway="fd00:9::1", family=addresses.AF_INET6))
        for address in ("10.9.0.1", "fd00:9::1"):
            assert other.run("busybox", "ping6" if ":" in address else "ping", "-c", "1", "-W", "5", address, check=False).returncode == 0
        assert {(item.destination, item.gateway) for item in inside.routes() if item.gateway} == {("", "10.9.0.1"), ("", "fd00:9::1")}
        (default,) = other.ip("route", "show", "default")
        assert default["gateway"] == "10.9.0.1" and default["dev"] == "eth0"
        assert {(item.address, item.prefix) for item in inside.addresses(eth0.index) if not item.address.startswith("fe80")} == {
            ("10.9.0.2", 24),
            ("fd00:9::2", 64),
        }
        assert "10.9.0.2" in {item.address for item in socket.neighbours(bridge)}
        assert "02:42:0a:00:00:02" in {item.mac for item in socket.neighbours(family=route.AF_BRIDGE)}
        socket.do(route.bridge_port(link.index, isolated=True, guard=True))
        (port,) = host.ip("link", "show", "outer")
        assert port["linkinfo"]["info_slave_data"]["isolated"] is True and port["linkinfo"]["info_slave_data"]["guard"] is True
        inside.do(route.del_route(gateway="10.9.0.1"))
        inside.do(route.del_address(eth0.index, "10.9.0.2", 24))
        assert other.ip("-4", "route", "show") == [] and not [item for item in inside.addresses(eth0.index) if item.address == "10.9.0.2"]
        socket.do(route.del_link(name="outer"))
        assert inside.link("eth0") is None and socket.link("outer") is None


@pytest.mark.parametrize(
    ("request_", "kind", "data"),
    [
        (lambda at: route.dummy("new", mtu=1300), "dummy", {}),
        (lambda at: route.macvlan("new", at, "private"), "macvlan", {"mode": "private"}),
        (lambda at: route.ipvlan("new", at, "l3"), "ipvlan", {"mode": "l3"}),
        (lambda at: route.vlan("new", at, 42), "vlan", {"id": 42}),
        (lambda at: route.vxlan("new", 77, remote="192.0.2.1", parent=at), "vxlan", {"id": 77, "remote": "192.0.2.1", "port": 4789, "link": "under"}),
        (lambda at: route.vxlan("new", 78, remote="2001:db8::1", port=8472), "vxlan", {"id": 78, "remote6": "2001:db8::1", "port": 8472}),
        (lambda at: route.bridge("new", stp=True), "bridge", {"stp_state": 1}),
    ],
    ids=["dummy", "macvlan", "ipvlan", "vlan", "vxlan", "vxlan6", "bridge"],
)
def test_kinds_of_links(socket, host, request_, kind, data):
    socket.do(route.veth("under", "under-peer", up=True))
    try:
        socket.do(request_(index(socket, "under")))
    except NetlinkError as error:
        if error.errno == 95:
            pytest.skip(f"this kernel has no {kind}")
        raise
    (found,) = host.ip("link", "show", "new")
    assert found["linkinfo"]["info_kind"] == kind
    assert {key: found["linkinfo"].get("info_data", {}).get(key) for key in data} == data
    assert next(item for item in socket.links() if item.name == "new").kind == kind


def test_what_ip_has_made_is_read(socket, host):
    host.run("ip", "link", "add", "one", "type", "veth", "peer", "name", "two-peer")
    host.run("ip", "link", "set", "two-peer", "up")
    host.run("ip", "link", "set", "one", "up", "mtu", "1234", "alias", "name it")
    host.run("ip", "addr", "add", "10.1.2.3/16", "brd", "10.1.255.255", "dev", "one")
    host.run("ip", "addr", "add", "10.7.0.1", "peer", "10.7.0.2/32", "dev", "one")
    host.run("ip", "route", "add", "192.0.2.0/24", "via", "10.1.0.9", "metric", "7", "src", "10.1.2.3")
    host.run("ip", "neigh", "add", "10.1.0.9", "lladdr", "02:00:00:00:00:09", "dev", "one", "nud", "permanent")
    link = socket.link("one")
    assert link is not None and (link.mtu, link.alias, link.up, link.kind, link.state) == (1234, "name it", True, "veth", "up")
    addresses = {item.address: item for item in socket.addresses(link.index)}
    assert (addresses["10.1.2.3"].prefix, addresses["10.1.2.3"].broadcast, addresses["10.1.2.3"].label) == (16, "10.1.255.255", "one")
    assert addresses["10.7.0.1"].peer == "10.7.0.2"
    found = next(item for item in socket.routes() if item.destination == "192.0.2.0")
    assert (found.prefix, found.gateway, found.metric, found.source, found.index) == (24, "10.1.0.9", 7, "10.1.2.3", link.index)
    neighbour = next(item for item in socket.neighbours(link.index) if item.address == "10.1.0.9")
    assert neighbour.mac == "02:00:00:00:00:09" and neighbour.state == route.NUD_PERMANENT
    assert socket.link("two") is None and socket.link(index=999) is None


def test_an_error_has_the_kernels_own_words(socket):
    socket.do(route.veth("one", "one-peer"))
    with pytest.raises(NetlinkError, match="File exists"):
        socket.do(route.veth("one", "one-peer"))
    with pytest.raises(NetlinkError, match="Operation not supported.*[Uu]nknown device type"):
        socket.do(route.new_link("two", "nonesuch"))
    with pytest.raises(NetlinkError, match=r"\(.*[Gg]ateway.*\)|\(Nexthop has invalid gateway\)"):
        socket.do(route.new_route("192.0.2.0", 24, gateway="203.0.113.1"))
    # and the socket goes on
    assert socket.link("one") is not None


def test_many_links_come_in_several_datagrams(socket):
    for number in range(300):
        socket.do(route.veth(f"d{number}", f"p{number}"))
    assert {f"d{number}" for number in range(300)} <= {link.name for link in socket.links()}


def test_a_neighbour_is_told_and_forgotten(socket):
    socket.do(route.veth("one", "one-peer", up=True))
    at = index(socket, "one")
    socket.do(route.new_address(at, "10.3.0.1", 24))
    socket.do(route.new_neighbour(at, "10.3.0.9", "02:00:00:00:00:aa"))
    assert [(item.address, item.mac) for item in socket.neighbours(at, addresses.AF_INET)] == [("10.3.0.9", "02:00:00:00:00:aa")]
    socket.do(route.del_neighbour(at, "10.3.0.9"))
    assert "02:00:00:00:00:aa" not in [item.mac for item in socket.neighbours(at, addresses.AF_INET)]


def test_a_link_moves_and_is_renamed(socket):
    with namespaces(1) as (other,), other.route() as inside:
        socket.do(route.veth("moving", "moving-peer"))
        socket.do(route.set_link(index(socket, "moving"), namespace_fd=other.fd, new_name="moved", mtu=1280, address="02:00:00:00:00:07"))
        found = inside.link("moved")
        assert found is not None and (found.mtu, found.address) == (1280, "02:00:00:00:00:07") and socket.link("moving") is None


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def read(fd: int, wanted: Callable[[bytes], bool]) -> bytes:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0] and wanted(packet := os.read(fd, 65536)):
            return packet
    raise AssertionError("no such packet")


def test_a_program_at_the_other_end_of_an_interface():
    """A ping that is written by hand, and answered by the kernel."""
    with namespaces(1) as (space,):
        fd, name = space.inside(tun.open_interface)
        try:
            assert name == "tun0"
            with space.route() as socket:
                link = socket.link(name)
                assert link is not None and link.kind == "tun"
                socket.do(route.new_address(link.index, "10.99.0.1", 24))
                socket.do(route.set_link(link.index, up=True))
            body = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + b"hutchhutch"
            body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
            head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 1, 0, bytes((10, 99, 0, 2)), bytes((10, 99, 0, 1)))
            head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
            os.write(fd, head + body)
            answer = read(fd, lambda packet: packet[0] == 0x45 and packet[9] == 1)
            assert answer[20] == 0 and answer[24:] == body[4:]
            with pytest.raises(OSError, match="busy"):
                space.inside(lambda: tun.open_interface(name))
        finally:
            os.close(fd)
        assert [link["ifname"] for link in space.ip("link")] == ["lo"]


def test_an_ethernet_interface_that_stays():
    with namespaces(1) as (space,):
        fd, name = space.inside(lambda: tun.open_interface("tap-mine", tap=True, offload_header=True, owner=12345, persist=True))
        os.close(fd)
        (link,) = [link for link in space.ip("link") if link["ifname"] == name]
        data = link["linkinfo"]["info_data"]
        assert (data["type"], data["pi"], data["vnet_hdr"], data["persist"], str(data["user"])) == ("tap", False, True, True, "12345")
        space.run("ip", "link", "del", name)
        with pytest.raises(ValueError, match="15 bytes"):
            tun.open_interface("a" * 16)
