"""Route netlink messages for people: what a plan sends, in one line each.

``new link eth0 veth up mtu=1500 master=4 peer(eth0 address=02:42:0a:00:00:02 namespace=<netns>)``. What is not known here is shown
as ``#kind=hex``: nothing is left out.
"""

from __future__ import annotations

from hutch.kernel.netlink import addresses, codec, route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Show = Callable[[bytes], str]

VERBS = {
    route.NEWLINK: ("new link", 16), route.DELLINK: ("remove link", 16), route.SETLINK: ("set link", 16), route.GETLINK: ("get link", 16),
    route.NEWADDR: ("new address", 8), route.DELADDR: ("remove address", 8), route.GETADDR: ("get address", 8),
    route.NEWROUTE: ("new route", 12), route.DELROUTE: ("remove route", 12), route.GETROUTE: ("get route", 12),
    route.NEWNEIGH: ("new neighbour", 12), route.DELNEIGH: ("remove neighbour", 12), route.GETNEIGH: ("get neighbour", 12),
}  # fmt: skip


def _number(data: bytes) -> str:
    return str(int.from_bytes(data, "little"))


def _signed(data: bytes) -> str:
    return str(int.from_bytes(data, "little", signed=True))


def _word(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "backslashreplace")


def _mode(names: dict[str, int]) -> Show:
    return lambda data: next((name for name, value in names.items() if value == int.from_bytes(data, "little")), _number(data))


LINK: dict[int, tuple[str, Show]] = {
    route.IFLA_IFNAME: ("", _word), route.IFLA_ADDRESS: ("address", addresses.show_mac), route.IFLA_MTU: ("mtu", _number), route.IFLA_LINK: ("on", _number),
    route.IFLA_MASTER: ("master", _number), route.IFLA_IFALIAS: ("alias", _word), route.IFLA_NET_NS_FD: ("namespace", _number),
    route.IFLA_NET_NS_PID: ("namespace-of", _number),
}  # fmt: skip
ADDRESS: dict[int, tuple[str, Show]] = {
    route.IFA_LOCAL: ("", addresses.shown), route.IFA_ADDRESS: ("peer", addresses.shown), route.IFA_BROADCAST: ("broadcast", addresses.shown),
    route.IFA_FLAGS: ("flags", lambda data: f"{int.from_bytes(data, 'little'):#x}"), route.IFA_LABEL: ("label", _word),
}  # fmt: skip
ROUTE: dict[int, tuple[str, Show]] = {
    route.RTA_DST: ("", addresses.shown), route.RTA_GATEWAY: ("via", addresses.shown), route.RTA_OIF: ("on", _number),
    route.RTA_PREFSRC: ("from", addresses.shown),
    route.RTA_PRIORITY: ("metric", _number), route.RTA_TABLE: ("table", _number),
}  # fmt: skip
NEIGHBOUR: dict[int, tuple[str, Show]] = {route.NDA_DST: ("", addresses.shown), route.NDA_LLADDR: ("at", addresses.show_mac)}
PORT: dict[int, tuple[str, Show]] = {
    route.IFLA_BRPORT_ISOLATED: ("isolated", _number), route.IFLA_BRPORT_LEARNING: ("learning", _number),
    route.IFLA_BRPORT_UNICAST_FLOOD: ("unicast-flood", _number), route.IFLA_BRPORT_GUARD: ("guard", _number),
}  # fmt: skip
KINDS: dict[str, dict[int, tuple[str, Show]]] = {
    "bridge": {
        route.IFLA_BR_STP_STATE: ("stp", _number), route.IFLA_BR_VLAN_FILTERING: ("vlan-filtering", _number),
        route.IFLA_BR_MCAST_SNOOPING: ("multicast-snooping", lambda data: str(data[0])),
    },
    "macvlan": {route.IFLA_MACVLAN_MODE: ("mode", _mode(route.MACVLAN_MODES))},
    "ipvlan": {route.IFLA_IPVLAN_MODE: ("mode", _mode(route.IPVLAN_MODES))},
    "vlan": {route.IFLA_VLAN_ID: ("id", _number)},
    "vxlan": {
        route.IFLA_VXLAN_ID: ("id", _number), route.IFLA_VXLAN_GROUP: ("remote", addresses.shown), route.IFLA_VXLAN_GROUP6: ("remote", addresses.shown),
        route.IFLA_VXLAN_LINK: ("on", _number), route.IFLA_VXLAN_PORT: ("port", lambda data: str(int.from_bytes(data, "big"))),
    },
}  # fmt: skip


def describe(kind: int, body: bytes) -> str:
    """A request in words: its type and its body, as `route` builds them."""
    verb, size = VERBS.get(kind, (f"message {kind}", 0))
    if len(body) < size:
        return f"{verb} cut short"
    words = [verb]
    if size == 16:
        words += _link(body)
    elif size == 8:
        words += _plain(body[8:], ADDRESS)
        if len(words) > 1 and not words[1].startswith("#"):
            words[1] += f"/{body[1]}"
        words = [word for word in words if not word.startswith("peer=") or word[5:] != words[1].partition("/")[0]]
        words.append(f"on={_number(body[4:8])}")
    elif size == 12 and kind in (route.NEWROUTE, route.DELROUTE, route.GETROUTE):
        found = _plain(body[12:], ROUTE)
        words += [f"{found[0]}/{body[1]}", *found[1:]] if body[1] and found else ["default", *found]
    elif size == 12:
        words += [*_plain(body[12:], NEIGHBOUR), f"on={_number(body[:8][4:])}"]
    else:
        words.append(body.hex())
    return " ".join(words)


def _plain(data: bytes, names: dict[int, tuple[str, Show]]) -> list[str]:
    out = []
    for kind, value in codec.attributes(data):
        name, show = names.get(kind, (f"#{kind}", bytes.hex))
        out.append(f"{name}={show(value)}" if name else show(value))
    return out


def _link(body: bytes) -> list[str]:
    index, flags, change = (int.from_bytes(body[at : at + 4], "little") for at in (4, 8, 12))
    words = [str(index)] if index else []
    info: list[str] = []
    plain = b""
    for kind, value in codec.attributes(body[16:]):
        if kind == route.IFLA_LINKINFO:
            info = _info(value)
        elif kind == route.IFLA_PROTINFO:
            info = _plain(value, PORT)
        else:
            plain += codec.attribute(kind, value)
    shown = _plain(plain, LINK)
    names = [word for kind, word in zip([kind for kind, _ in codec.attributes(plain)], shown, strict=True) if kind == route.IFLA_IFNAME]
    words += names[:1] + info[:1] if not index else info[:1] + [f"name={name}" for name in names]
    if change & route.IFF_UP:
        words.append("up" if flags & route.IFF_UP else "down")
    return words + [word for word in shown if word not in names] + info[1:]


def _info(data: bytes) -> list[str]:
    found = codec.table(data)
    kind = _word(found.get(route.IFLA_INFO_KIND, b""))
    inside = found.get(route.IFLA_INFO_DATA, b"")
    words = [kind]
    if kind == "veth":
        for number, value in codec.attributes(inside):
            words.append(f"peer({' '.join(_link(value))})" if number == route.VETH_INFO_PEER and len(value) >= 16 else f"#{number}={value.hex()}")
        return words
    return words + _plain(inside, KINDS.get(kind, {}))
