"""Netlink's codec: bytes that iproute2 sends, and words for people."""

from __future__ import annotations

from hypothesis import given, strategies as st

from hutch.kernel.netlink import codec, route
from hutch.kernel.netlink.describe import describe
from hutch.kernel.netlink.socket import error_of


def words(request) -> str:
    kind, _, body = request
    return describe(kind, body)


def test_words():
    assert words(route.bridge("br0", up=True, mtu=1400, address="02:00:00:00:00:01")) == "new link br0 bridge up mtu=1400 address=02:00:00:00:00:01 stp=0"
    pair = route.veth("v1", "eth0", up=True, master=4, peer_address="02:42:0a:00:00:02", peer_namespace_fd=7)
    assert words(pair) == "new link v1 veth up master=4 peer(eth0 address=02:42:0a:00:00:02 namespace=7)"
    assert words(route.set_link(5, up=False, new_name="x")) == "new link 5 name=x down"
    assert words(route.set_link(5, master=0)) == "new link 5 master=0"
    assert words(route.del_link(name="v1")) == "remove link v1"
    assert words(route.bridge_port(3, isolated=True)) == "set link 3 isolated=1"
    assert words(route.new_address(2, "10.0.0.2", 24, broadcast="10.0.0.255")) == "new address 10.0.0.2/24 broadcast=10.0.0.255 on=2"
    assert words(route.new_address(2, "10.0.0.2", 32, peer="10.0.0.1")) == "new address 10.0.0.2/32 peer=10.0.0.1 on=2"
    assert words(route.new_address(2, "fd00::2", 64)) == "new address fd00::2/64 flags=0x2 on=2"
    assert words(route.new_route(gateway="10.0.0.1")) == "new route default via=10.0.0.1"
    assert words(route.new_route("10.1.0.0", 16, index=3, metric=9)) == "new route 10.1.0.0/16 on=3 metric=9"
    assert words(route.new_neighbour(2, "10.0.0.9", "02:00:00:00:00:09")) == "new neighbour 10.0.0.9 at=02:00:00:00:00:09 on=2"
    assert words(route.vxlan("x", 7, remote="192.0.2.1", port=8472)) == "new link x vxlan id=7 port=8472 remote=192.0.2.1"
    assert words(route.macvlan("x", 3, "private")) == "new link x macvlan on=3 mode=private"
    assert describe(route.NEWLINK, route.link_body(0, codec.attribute(99, b"\x01"))) == "new link #99=01"
    assert describe(999, b"\x01") == "message 999 01"


def test_bytes():
    """rtnetlink(7) and veth.h, put together by hand."""
    kind, flags, body = route.veth("a", "b")
    assert codec.message(kind, flags, body, 0) == bytes.fromhex(
        "54000000 1000 0506 00000000 00000000"  # nlmsghdr: 84 bytes, RTM_NEWLINK, REQUEST ACK EXCL CREATE
        "00000000 00000000 00000000 00000000"  # ifinfomsg
        "0600 0300 61000000"  # IFLA_IFNAME "a"
        "2c00 1280"  # IFLA_LINKINFO
        "0800 0100 76657468"  # IFLA_INFO_KIND "veth"
        "2000 0280 1c00 0180"  # IFLA_INFO_DATA, VETH_INFO_PEER
        "00000000 00000000 00000000 00000000"  # the peer's ifinfomsg
        "0600 0300 62000000"
    )


@given(st.integers(0, 65535), st.binary(max_size=200))
def test_anything_can_be_described(kind, body):
    for number in (kind, *range(16, 31)):
        assert describe(number, body)


@given(st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=40), st.integers(0, 2**32 - 1)), max_size=5))
def test_messages_come_back(items):
    data = b"".join(codec.message(kind, 4, body, number) for kind, body, number in items)
    padded = [body + bytes(-len(body) % 4) for _, body, _ in items]
    found = list(codec.messages(data))
    assert [(kind, number) for kind, _, number, _ in found] == [(kind, number) for kind, _, number in items]
    assert [body[: len(want)] + bytes(len(want) - len(body)) for (_, _, _, body), want in zip(found, padded, strict=True)] == padded


@given(st.binary(max_size=80))
def test_what_the_kernel_never_sends(data):
    list(codec.messages(data))
    list(codec.attributes(data))
    error_of(data, 0x300)
    for parse in (route.link_of, route.address_of, route.route_of, route.neighbour_of):
        parse(data + bytes(16))


def test_errors():
    head = bytes(16)
    assert error_of(bytes(4) + head, 0) is None
    error = error_of((-17 & 0xFFFFFFFF).to_bytes(4, "little") + head + codec.attribute(1, b"said the kernel\0"), 0x300)
    assert error is not None and error.errno == 17 and error.strerror == "File exists (said the kernel)"
