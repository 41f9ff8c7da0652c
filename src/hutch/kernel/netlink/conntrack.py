"""Connection tracking by netlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h): forget the connections of an address.

What a firewall let through once, it lets through for as long as the kernel remembers the connection: two minutes and more after
its end, and by whoever has the address and the ports then.
"""

from __future__ import annotations

from hutch.kernel.netlink import codec
from hutch.kernel.netlink.addresses import family_of
from hutch.kernel.netlink.codec import nested, u8
from hutch.kernel.netlink.socket import NetlinkError, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NETFILTER, SUBSYSTEM = 12, 1  # NETLINK_NETFILTER, NFNL_SUBSYS_CTNETLINK
GET, DELETE = 1, 2  # IPCTNL_MSG_CT_*
TUPLE_ORIGINAL, TUPLE_REPLY, ZONE = 1, 2, 18  # CTA_*
TUPLE_IP = 1  # CTA_TUPLE_IP
ADDRESSES = {2: (1, 2), 10: (3, 4)}  # CTA_IP_V4_SRC and _DST, CTA_IP_V6_SRC and _DST, by family
ENOENT, EINVAL, EOPNOTSUPP, EPROTONOSUPPORT = 2, 22, 95, 93


def forget(addresses: Iterable[str]) -> bool:
    """Delete every connection from or to these addresses in this network namespace, by whichever end of a translation; False where
    the kernel cannot (no nf_conntrack_netlink). Raises NetlinkError."""
    import socket

    wanted: dict[int, set[bytes]] = {}
    for address in addresses:
        family = family_of(address)
        wanted.setdefault(family, set()).add(socket.inet_pton(family, address))
    try:
        with Socket(NETFILTER) as channel:
            for family, raw in wanted.items():
                for entry in _every(channel, family):
                    if _touches(entry, family, raw):
                        _delete(channel, family, entry)
    except NetlinkError as error:
        if error.errno in (EINVAL, EOPNOTSUPP, EPROTONOSUPPORT):
            return False
        raise
    return True


def _every(channel: Socket, family: int) -> list[dict[int, bytes]]:
    answers = channel.request(SUBSYSTEM << 8 | GET, u8(family) + bytes(3), codec.DUMP)
    return [codec.table(body[4:]) for _, body in answers]


def _touches(entry: dict[int, bytes], family: int, wanted: set[bytes]) -> bool:
    for side in (TUPLE_ORIGINAL, TUPLE_REPLY):
        ends = codec.table(codec.table(entry.get(side, b"")).get(TUPLE_IP, b""))
        if any(ends.get(kind) in wanted for kind in ADDRESSES[family]):
            return True
    return False


def _delete(channel: Socket, family: int, entry: dict[int, bytes]) -> None:
    zone = codec.attribute(ZONE, entry[ZONE]) if ZONE in entry else b""
    try:
        channel.request(SUBSYSTEM << 8 | DELETE, u8(family) + bytes(3) + nested(TUPLE_ORIGINAL, entry[TUPLE_ORIGINAL]) + zone)
    except NetlinkError as error:
        if error.errno != ENOENT:  # it has ended meanwhile
            raise
