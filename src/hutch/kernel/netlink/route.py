"""Links, addresses, routes, neighbours (rtnetlink(7), include/uapi/linux/if_link.h, if_addr.h, rtnetlink.h, neighbour.h).

Functions that build a request give (message type, flags, body): to be sent by `Route`, or by a plan's operation. Nothing
here decides anything.
"""

from __future__ import annotations

from hutch.kernel.netlink import codec
from hutch.kernel.netlink.addresses import AF_INET6, family_of, mac, packed, show_mac, shown
from hutch.kernel.netlink.codec import attribute, nested, table, text, u8, u16, u32
from hutch.kernel.netlink.socket import NetlinkError, Socket
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Request = tuple[int, int, bytes]

AF_UNSPEC, AF_BRIDGE = 0, 7
NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
NEWNSID, GETNSID = 88, 90

# attributes of links
IFLA_ADDRESS, IFLA_BROADCAST, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 2, 3, 4, 5
IFLA_MASTER, IFLA_PROTINFO, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_AF_SPEC = 10, 12, 16, 18, 19, 20, 26
IFLA_NET_NS_FD, IFLA_LINK_NETNSID, IFLA_NEW_IFINDEX = 28, 37, 49
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1
IFLA_INET6_ADDR_GEN_MODE = 8
IFLA_BR_STP_STATE, IFLA_BR_VLAN_FILTERING, IFLA_BR_MCAST_SNOOPING = 5, 7, 23
IFLA_BRPORT_GUARD, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_ISOLATED = 5, 8, 9, 33
IFLA_MACVLAN_MODE, IFLA_IPVLAN_MODE, IFLA_VLAN_ID = 1, 1, 1
IFLA_VXLAN_ID, IFLA_VXLAN_GROUP, IFLA_VXLAN_LINK, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT, IFLA_VXLAN_GROUP6 = 1, 2, 3, 7, 15, 16
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IFF_UP, IFF_LOOPBACK = 0x1, 0x8

# of addresses, routes, neighbours
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 3, 4, 8
IFA_F_NODAD, IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x02, 0x80, 0x200
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 2, 4, 5, 6, 7, 15
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT, NUD_REACHABLE = 0x80, 0x02
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTPROT_BOOT, RTN_UNICAST = 3, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
STATES = ("unknown", "not present", "down", "lower layer down", "testing", "dormant", "up")


class Link(Record):
    """An interface. `address` is its MAC, `kind` its driver's ("" for hardware), `master` the bridge's index it is a port of,
    `parent` the index of what it stands on or of its peer, in the namespace `peer_namespace` (an id of this namespace's; -1: in
    this one)."""

    index: int
    name: str
    flags: int = 0
    mtu: int = 0
    address: str = ""
    kind: str = ""
    master: int = 0
    parent: int = 0
    peer_namespace: int = -1
    state: str = "unknown"
    alias: str = ""

    @property
    def up(self) -> bool:
        """Whether it is switched on."""
        return bool(self.flags & IFF_UP)


class Address(Record):
    """An address of an interface: `address` without its prefix length, `flags` are IFA_F_*; `peer` the other end's where the
    interface leads to one alone."""

    index: int
    address: str
    prefix: int
    peer: str = ""
    scope: int = 0
    flags: int = 0
    broadcast: str = ""
    label: str = ""


class RouteEntry(Record):
    """A route: `destination` is "" for the default one; `gateway`, `source` and `index` (the interface's) as far as it has them."""

    family: int
    destination: str
    prefix: int
    gateway: str = ""
    index: int = 0
    source: str = ""
    table: int = RT_TABLE_MAIN
    protocol: int = 0
    scope: int = 0
    metric: int = 0


class Neighbour(Record):
    """A line of the neighbour table (ARP, ND), or of a bridge's forwarding table, where `address` is ""."""

    index: int
    address: str
    mac: str
    state: int = 0


# links


def link_body(index: int = 0, *attributes: bytes, flags: int = 0, change: int = 0, family: int = AF_UNSPEC) -> bytes:
    """A struct ifinfomsg with attributes."""
    return u8(family) + bytes(3) + u32(index) + u32(flags) + u32(change) + b"".join(attributes)


def _common(name: str, *, mtu: int, address: str, master: int = 0, alias: str = "") -> tuple[bytes, ...]:
    out = [attribute(IFLA_IFNAME, text(name))] if name else []
    out += [attribute(IFLA_MTU, u32(mtu))] if mtu else []
    out += [attribute(IFLA_ADDRESS, mac(address))] if address else []
    out += [attribute(IFLA_MASTER, u32(master))] if master else []
    out += [attribute(IFLA_IFALIAS, text(alias)[:-1])] if alias else []
    return tuple(out)


def new_link(
    name: str, kind: str, data: bytes = b"", *, up: bool = False, mtu: int = 0, address: str = "", master: int = 0, parent: int = 0,
    namespace_fd: int = -1, more: Iterable[bytes] = (),
) -> Request:  # fmt: skip
    """Make an interface of a kind with its driver's own attributes; `namespace_fd`: in another namespace."""
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode()), *([attribute(IFLA_INFO_DATA | codec.NESTED, data)] if data else []))
    parts = [*_common(name, mtu=mtu, address=address, master=master), *more, info]
    parts += [attribute(IFLA_LINK, u32(parent))] if parent else []
    parts += [attribute(IFLA_NET_NS_FD, u32(namespace_fd))] if namespace_fd >= 0 else []
    on = IFF_UP if up else 0
    return NEWLINK, codec.ACK | codec.CREATE | codec.EXCL, link_body(0, *parts, flags=on, change=on)


def veth(
    name: str, peer: str, *, up: bool = False, mtu: int = 0, master: int = 0, address: str = "", peer_address: str = "",
    peer_namespace_fd: int = -1,
) -> Request:  # fmt: skip
    """A pair of interfaces: what goes in at one comes out of the other (veth(4)). `peer_namespace_fd`: the peer's namespace."""
    parts = list(_common(peer, mtu=mtu, address=peer_address))
    parts += [attribute(IFLA_NET_NS_FD, u32(peer_namespace_fd))] if peer_namespace_fd >= 0 else []
    return new_link(name, "veth", nested(VETH_INFO_PEER, link_body(0, *parts)), up=up, mtu=mtu, master=master, address=address)


def bridge(name: str, *, up: bool = False, mtu: int = 0, address: str = "", stp: bool = False) -> Request:
    """A learning switch in software (Documentation/networking/bridge.rst)."""
    return new_link(name, "bridge", attribute(IFLA_BR_STP_STATE, u32(int(stp))), up=up, mtu=mtu, address=address)


def dummy(name: str, *, up: bool = False, mtu: int = 0, address: str = "") -> Request:
    """An interface that swallows what it is sent."""
    return new_link(name, "dummy", up=up, mtu=mtu, address=address)


def macvlan(name: str, parent: int, mode: str = "bridge", *, up: bool = False, mtu: int = 0, address: str = "", namespace_fd: int = -1) -> Request:
    """An interface with a MAC of its own on another one."""
    return new_link(
        name, "macvlan", attribute(IFLA_MACVLAN_MODE, u32(MACVLAN_MODES[mode])), up=up, mtu=mtu, address=address, parent=parent, namespace_fd=namespace_fd
    )


def ipvlan(name: str, parent: int, mode: str = "l2", *, up: bool = False, mtu: int = 0, namespace_fd: int = -1) -> Request:
    """An interface with addresses of its own and its parent's MAC (Documentation/networking/ipvlan.rst)."""
    return new_link(name, "ipvlan", attribute(IFLA_IPVLAN_MODE, u16(IPVLAN_MODES[mode])), up=up, mtu=mtu, parent=parent, namespace_fd=namespace_fd)


def vlan(name: str, parent: int, number: int, *, up: bool = False) -> Request:
    """A tagged network (IEEE 802.1Q) of an interface."""
    return new_link(name, "vlan", attribute(IFLA_VLAN_ID, u16(number)), up=up, parent=parent)


def vxlan(name: str, number: int, *, remote: str = "", parent: int = 0, port: int = 4789, up: bool = False, mtu: int = 0) -> Request:
    """A network in UDP (Documentation/networking/vxlan.rst)."""
    data = attribute(IFLA_VXLAN_ID, u32(number)) + attribute(IFLA_VXLAN_PORT, codec.be16(port))
    if remote:
        data += attribute(IFLA_VXLAN_GROUP6 if ":" in remote else IFLA_VXLAN_GROUP, packed(remote))
    data += attribute(IFLA_VXLAN_LINK, u32(parent)) if parent else b""
    return new_link(name, "vxlan", data, up=up, mtu=mtu)


def set_link(
    index: int = 0, name: str = "", *, up: bool | None = None, mtu: int = 0, address: str = "", master: int | None = None, namespace_fd: int = -1,
    new_name: str = "", alias: str = "",
) -> Request:  # fmt: skip
    """Change an interface, by its index or its name. `master` 0 takes it out of its bridge."""
    parts = [attribute(IFLA_IFNAME, text(name))] if name and not index else []
    parts += _common(new_name, mtu=mtu, address=address, alias=alias)
    parts += [attribute(IFLA_MASTER, u32(master))] if master is not None else []
    parts += [attribute(IFLA_NET_NS_FD, u32(namespace_fd))] if namespace_fd >= 0 else []
    on = IFF_UP if up else 0
    return NEWLINK, codec.ACK, link_body(index, *parts, flags=on, change=IFF_UP if up is not None else 0)


def del_link(index: int = 0, name: str = "") -> Request:
    """Remove an interface, and its peer with it."""
    return DELLINK, codec.ACK, link_body(index, *([attribute(IFLA_IFNAME, text(name))] if name and not index else []))


def bridge_port(
    index: int, *, isolated: bool | None = None, learning: bool | None = None, unicast_flood: bool | None = None, guard: bool | None = None
) -> Request:  # fmt: skip
    """Settings of a bridge's port (bridge(8)): `isolated` ports do not reach each other, `guard` drops its BPDUs."""
    wanted = {IFLA_BRPORT_ISOLATED: isolated, IFLA_BRPORT_LEARNING: learning, IFLA_BRPORT_UNICAST_FLOOD: unicast_flood, IFLA_BRPORT_GUARD: guard}
    inside = [attribute(kind, u8(int(value))) for kind, value in wanted.items() if value is not None]
    return SETLINK, codec.ACK, link_body(index, nested(IFLA_PROTINFO, *inside), family=AF_BRIDGE)


# addresses, routes, neighbours


def new_address(index: int, address: str, prefix: int, *, peer: str = "", broadcast: str = "", scope: int = 0, flags: int = 0) -> Request:
    """Give an interface an address. An IPv6 one is used at once, without looking for a twin of it: who gives it knows."""
    family = family_of(address)
    raw = packed(address)
    flags |= IFA_F_NODAD if family == AF_INET6 else 0
    body = u8(family) + u8(prefix) + u8(flags & 0xFF) + u8(scope) + u32(index) + attribute(IFA_LOCAL, raw)
    body += attribute(IFA_ADDRESS, packed(peer) if peer else raw)
    body += attribute(IFA_BROADCAST, packed(broadcast)) if broadcast else b""
    return NEWADDR, codec.ACK | codec.CREATE | codec.EXCL, body + (attribute(IFA_FLAGS, u32(flags)) if flags else b"")


def del_address(index: int, address: str, prefix: int) -> Request:
    """Take an address away."""
    return DELADDR, codec.ACK, u8(family_of(address)) + u8(prefix) + bytes(2) + u32(index) + attribute(IFA_LOCAL, packed(address))


def _route_body(destination: str, prefix: int, gateway: str, index: int, source: str, metric: int, family: int) -> bytes:
    family = family or family_of(destination or gateway or source or "0.0.0.0")
    scope = RT_SCOPE_UNIVERSE if gateway or family == AF_INET6 else RT_SCOPE_LINK
    body = bytes((family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST)) + bytes(4)
    body += attribute(RTA_DST, packed(destination)) if destination else b""
    body += attribute(RTA_GATEWAY, packed(gateway)) if gateway else b""
    body += attribute(RTA_OIF, u32(index)) if index else b""
    body += attribute(RTA_PREFSRC, packed(source)) if source else b""
    return body + (attribute(RTA_PRIORITY, u32(metric)) if metric else b"")


def new_route(destination: str = "", prefix: int = 0, *, gateway: str = "", index: int = 0, source: str = "", metric: int = 0, family: int = 0) -> Request:
    """Add a route; without a destination the default one."""
    return NEWROUTE, codec.ACK | codec.CREATE | codec.EXCL, _route_body(destination, prefix, gateway, index, source, metric, family)


def del_route(destination: str = "", prefix: int = 0, *, gateway: str = "", index: int = 0, metric: int = 0, family: int = 0) -> Request:
    """Remove a route."""
    return DELROUTE, codec.ACK, _route_body(destination, prefix, gateway, index, "", metric, family)


def new_neighbour(index: int, address: str, hardware: str, state: int = NUD_PERMANENT) -> Request:
    """Say which MAC an address of an interface's network has."""
    body = u8(family_of(address)) + bytes(3) + u32(index) + u16(state) + bytes(2)
    return NEWNEIGH, codec.ACK | codec.CREATE | codec.REPLACE, body + attribute(NDA_DST, packed(address)) + attribute(NDA_LLADDR, mac(hardware))


def del_neighbour(index: int, address: str) -> Request:
    """Forget one."""
    return DELNEIGH, codec.ACK, u8(family_of(address)) + bytes(3) + u32(index) + bytes(4) + attribute(NDA_DST, packed(address))


# what there is


def link_of(body: bytes) -> Link:
    """A link from its message's body."""
    found = table(body[16:])
    info = table(found.get(IFLA_LINKINFO, b""))
    state = found.get(IFLA_OPERSTATE, b"\0")[0]
    return Link(
        index=int.from_bytes(body[4:8], "little", signed=True),
        name=_word(found.get(IFLA_IFNAME, b"")),
        flags=int.from_bytes(body[8:12], "little"),
        mtu=_number(found.get(IFLA_MTU, b"")),
        address=show_mac(found.get(IFLA_ADDRESS, b"")),
        kind=_word(info.get(IFLA_INFO_KIND, b"")),
        master=_number(found.get(IFLA_MASTER, b"")),
        parent=_number(found.get(IFLA_LINK, b"")),
        peer_namespace=int.from_bytes(found[IFLA_LINK_NETNSID], "little", signed=True) if IFLA_LINK_NETNSID in found else -1,
        state=STATES[state] if state < len(STATES) else "unknown",
        alias=_word(found.get(IFLA_IFALIAS, b"")),
    )


def address_of(body: bytes) -> Address:
    """An address from its message's body."""
    found = table(body[8:])
    local = shown(found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b"")))
    peer = shown(found.get(IFA_ADDRESS, b""))
    return Address(
        index=int.from_bytes(body[4:8], "little"),
        address=local,
        prefix=body[1],
        peer=peer if peer != local else "",
        scope=body[3],
        flags=_number(found[IFA_FLAGS]) if IFA_FLAGS in found else body[2],
        broadcast=shown(found.get(IFA_BROADCAST, b"")),
        label=_word(found.get(IFA_LABEL, b"")),
    )


def route_of(body: bytes) -> RouteEntry:
    """A route from its message's body."""
    found = table(body[12:])
    return RouteEntry(
        family=body[0],
        destination=shown(found.get(RTA_DST, b"")),
        prefix=body[1],
        gateway=shown(found.get(RTA_GATEWAY, b"")),
        index=_number(found.get(RTA_OIF, b"")),
        source=shown(found.get(RTA_PREFSRC, b"")),
        table=_number(found[RTA_TABLE]) if RTA_TABLE in found else body[4],
        protocol=body[5],
        scope=body[6],
        metric=_number(found.get(RTA_PRIORITY, b"")),
    )


def neighbour_of(body: bytes) -> Neighbour:
    """A neighbour from its message's body."""
    found = table(body[12:])
    return Neighbour(
        index=int.from_bytes(body[4:8], "little"),
        address=shown(found.get(NDA_DST, b"")),
        mac=show_mac(found.get(NDA_LLADDR, b"")),
        state=int.from_bytes(body[8:10], "little"),
    )


def _word(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(data: bytes) -> int:
    return int.from_bytes(data[:4], "little")


class Route(Socket):
    """A route netlink socket, with the questions that are asked of one."""

    def __init__(self, fd: int = -1) -> None:
        super().__init__(fd=fd)

    def do(self, request: Request) -> None:
        """Send a request that wants no more than to be done. Raises NetlinkError."""
        kind, flags, body = request
        self.request(kind, body, flags)

    def link(self, name: str = "", index: int = 0) -> Link | None:
        """An interface by its name or index; None when there is none."""
        try:
            answers = self.request(GETLINK, link_body(index, *([attribute(IFLA_IFNAME, text(name))] if name else [])), 0)
        except NetlinkError as error:
            if error.errno == 19:  # ENODEV
                return None
            raise
        return link_of(answers[0][1])

    def links(self) -> list[Link]:
        """Every interface."""
        return [link_of(body) for _, body in self.request(GETLINK, link_body(), codec.DUMP)]

    def addresses(self, index: int = 0) -> list[Address]:
        """Every address, or those of one interface."""
        found = [address_of(body) for _, body in self.request(GETADDR, bytes(8), codec.DUMP)]
        return [item for item in found if not index or item.index == index]

    def routes(self, table: int = RT_TABLE_MAIN) -> list[RouteEntry]:
        """The routes of a table; of all with 0."""
        found = [route_of(body) for _, body in self.request(GETROUTE, bytes(12), codec.DUMP)]
        return [item for item in found if table in (0, item.table)]

    def neighbours(self, index: int = 0, family: int = AF_UNSPEC) -> list[Neighbour]:
        """The neighbour table; with AF_BRIDGE the bridges' forwarding tables."""
        found = [neighbour_of(body) for _, body in self.request(GETNEIGH, u8(family) + bytes(11), codec.DUMP)]
        return [item for item in found if not index or item.index == index]

    def namespace_id(self, fd: int) -> int:
        """The number by which this namespace knows another one, given when first asked for (-1: it has none)."""
        try:
            self.request(NEWNSID, bytes(4) + attribute(3, u32(fd)) + attribute(1, u32(-1)))  # NETNSA_FD, NETNSA_NSID
        except NetlinkError as error:
            if error.errno != 17:  # EEXIST: it has one already
                raise
        answers = self.request(GETNSID, bytes(4) + attribute(3, u32(fd)), 0)
        found = table(answers[0][1][4:]).get(1, b"\xff\xff\xff\xff")
        return int.from_bytes(found, "little", signed=True)
