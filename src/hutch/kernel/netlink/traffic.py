"""Traffic control, as far as it hands packets from one interface to another (tc(8), tc-u32(8), tc-mirred(8),
include/uapi/linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h)."""

from __future__ import annotations

from hutch.kernel.netlink import codec
from hutch.kernel.netlink.addresses import packed
from hutch.kernel.netlink.codec import attribute, be16, be32, nested, text, u8, u16, u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.kernel.netlink.route import Request, Route

NEWQDISC, NEWTFILTER = 36, 44
INGRESS_HANDLE, INGRESS_PARENT = 0xFFFF0000, 0xFFFFFFF1
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_U32_CLASSID, TCA_U32_SEL, TCA_U32_ACT, U32_TERMINAL = 1, 5, 7, 1
TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_MIRRED_PARMS = 1, 2, 2
ACT_STOLEN, EGRESS_REDIR = 4, 1
ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 3, 0x0800, 0x0806
LAST = 100  # the preference of what everything is redirected by


def _head(index: int, handle: int, parent: int, info: int) -> bytes:
    """A struct tcmsg."""
    return u8(0) + bytes(3) + u32(index) + u32(handle) + u32(parent) + u32(info)


def ingress(index: int) -> Request:
    """The place where an interface's incoming packets are looked at."""
    return NEWQDISC, codec.ACK | codec.CREATE | codec.EXCL, _head(index, INGRESS_HANDLE, INGRESS_PARENT, 0) + attribute(TCA_KIND, text("ingress"))


def keep(index: int, address: str) -> list[Request]:
    """Leave to this host what comes in at an interface for an IPv4 address, and who asks for its MAC; before `redirect` sees it."""
    value = be32(int.from_bytes(packed(address), "big"))
    out: list[Request] = []
    for preference, protocol, offset in ((1, ETH_P_IP, 16), (2, ETH_P_ARP, 24)):  # where the address lies: ip(7)'s header, RFC 826
        key = be32(0xFFFFFFFF) + value + u32(offset) + u32(0)
        # a class, and no action: the packet goes on as it would have
        options = nested(TCA_OPTIONS, attribute(TCA_U32_CLASSID, u32(1)), attribute(TCA_U32_SEL, _selector(key)))
        body = _head(index, 0, INGRESS_HANDLE, preference << 16 | int.from_bytes(be16(protocol), "little")) + attribute(TCA_KIND, text("u32")) + options
        out.append((NEWTFILTER, codec.ACK | codec.CREATE | codec.EXCL, body))
    return out


def _selector(key: bytes) -> bytes:
    """A struct tc_u32_sel with one key."""
    return u8(U32_TERMINAL) + u8(0) + u8(1) + u8(0) + be16(0) + u16(0) + u16(0) + u16(0) + be32(0) + key


def redirect(index: int, target: int) -> Request:
    """Send every packet that comes in at an interface out of another one, and nowhere else."""
    key = be32(0) + be32(0) + u32(0) + u32(0)  # matches what it does not look at
    mirred = u32(0) + u32(0) + u32(ACT_STOLEN) + u32(0) + u32(0) + u32(EGRESS_REDIR) + u32(target)
    action = nested(1, attribute(TCA_ACT_KIND, text("mirred")), nested(TCA_ACT_OPTIONS, attribute(TCA_MIRRED_PARMS, mirred)))
    options = nested(TCA_OPTIONS, attribute(TCA_U32_SEL, _selector(key)), nested(TCA_U32_ACT, action))
    protocol = int.from_bytes(be16(ETH_P_ALL), "little")
    body = _head(index, 0, INGRESS_HANDLE, LAST << 16 | protocol) + attribute(TCA_KIND, text("u32")) + options
    return NEWTFILTER, codec.ACK | codec.CREATE | codec.EXCL, body


def join(socket: Route, first: int, second: int, *, prepared: bool = False) -> None:
    """What comes in at one of two interfaces goes out of the other, both ways; `prepared`: the second one has its `ingress` already.
    Raises NetlinkError."""
    for index, target in ((first, second), (second, first)):
        if index == first or not prepared:
            socket.do(ingress(index))
        socket.do(redirect(index, target))
