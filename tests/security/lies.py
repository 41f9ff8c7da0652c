"""What a container may say on a network, and what it may not, as frames."""

from __future__ import annotations

from tests import frames
from tests.frames import (
    AD,
    ADVERT,
    ALL_NODES,
    ALL_NODES_MAC,
    ARP,
    EVERYBODY,
    IPV4,
    IPV6,
    REDIRECT,
    REPLY,
    REQUEST,
    SOLICIT,
    Box,
    Q,
)

TAGS = {
    "no tag": (), "a tag": ((Q, 0),), "two tags": ((Q, 0), (Q, 0)),
    "three tags": ((Q, 0), (Q, 0), (Q, 0)), "a tag of 802.1ad": ((AD, 0),),
    "802.1ad and a tag": ((AD, 0), (Q, 0)), "two tags of 802.1ad": ((AD, 0), (AD, 0)),
    "VLAN 5": ((Q, 5),), "VLAN 5 in a tag": ((Q, 0), (Q, 5)),
}  # fmt: skip


def lies(evil: Box, good: Box, gateway: str, gateway6: str) -> dict[str, tuple[int, bytes, str]]:
    """What no container may send: by name, the ethertype, what follows it, and the MAC that it goes to."""
    own, bad = evil.mac, good.mac
    six = evil.six or "fd99::2"
    other6, source6 = good.six or "fd99::3", evil.local
    found = {
        "the gateway's address in an ARP reply": (ARP, frames.arp(own, gateway, good.four), bad),
        "a neighbour's address in a gratuitous ARP reply": (
            ARP,
            frames.arp(own, good.four, good.four, REPLY),
            EVERYBODY,
        ),
        "the gateway's address in a gratuitous ARP request": (
            ARP,
            frames.arp(own, gateway, gateway, REQUEST),
            EVERYBODY,
        ),
        "a neighbour's MAC for its own address in ARP": (
            ARP,
            frames.arp(bad, evil.four, evil.four, REPLY),
            EVERYBODY,
        ),
        "the gateway's address in ARP of IEEE 802's type": (
            ARP,
            frames.arp(own, gateway, good.four, hardware=6),
            bad,
        ),
        "a neighbour's IPv4 address": (
            IPV4,
            frames.ipv4(good.four, gateway, frames.udp(good.four, gateway, 9, 9)),
            EVERYBODY,
        ),
        "a stranger's IPv4 address": (
            IPV4,
            frames.ipv4("203.0.113.9", good.four, frames.udp("203.0.113.9", good.four, 9, 9)),
            bad,
        ),
        "a DHCP server's answer": (
            IPV4,
            frames.ipv4(evil.four, "255.255.255.255", frames.udp(evil.four, "255.255.255.255", 67, 68)),
            EVERYBODY,
        ),
        "a DHCP answer from another port": (
            IPV4,
            frames.ipv4(evil.four, good.four, frames.udp(evil.four, good.four, 5000, 68)),
            EVERYBODY,
        ),
        "a DHCPv6 server's answer": (
            IPV6,
            frames.ipv6(source6, ALL_NODES, frames.udp(source6, ALL_NODES, 547, 546), 17),
            ALL_NODES_MAC,
        ),
        "a DHCPv6 answer from another port": (
            IPV6,
            frames.ipv6(source6, good.local, frames.udp(source6, good.local, 5000, 546), 17),
            bad,
        ),
        "a router's advertisement": (
            IPV6,
            frames.ipv6(source6, ALL_NODES, frames.router(source6, own)),
            ALL_NODES_MAC,
        ),
        "a redirect": (
            IPV6,
            frames.ipv6(
                source6,
                good.local,
                frames.icmp6(source6, good.local, REDIRECT, bytes(4) + 2 * frames.address(six)),
            ),
            bad,
        ),
        "a neighbour's IPv6 address": (
            IPV6,
            frames.ipv6(other6, ALL_NODES, frames.icmp6(other6, ALL_NODES, 128, bytes(4))),
            ALL_NODES_MAC,
        ),
        "a neighbour's link-local address": (
            IPV6,
            frames.ipv6(good.local, ALL_NODES, frames.icmp6(good.local, ALL_NODES, 128, bytes(4))),
            ALL_NODES_MAC,
        ),
        "an advertisement of the gateway's address": (
            IPV6,
            frames.discovery(ADVERT, source6, gateway6, own),
            ALL_NODES_MAC,
        ),
        "an advertisement of a neighbour's address": (
            IPV6,
            frames.discovery(ADVERT, six, other6, own),
            ALL_NODES_MAC,
        ),
        "an advertisement of a neighbour's link-local address": (
            IPV6,
            frames.discovery(ADVERT, source6, good.local, own),
            ALL_NODES_MAC,
        ),
        "an advertisement of another's address without its MAC": (
            IPV6,
            frames.discovery(ADVERT, source6, other6),
            ALL_NODES_MAC,
        ),
        "an advertisement with another's MAC": (
            IPV6,
            frames.discovery(ADVERT, source6, source6, bad),
            ALL_NODES_MAC,
        ),
        "a solicitation with another's MAC": (
            IPV6,
            frames.discovery(SOLICIT, source6, other6, bad),
            ALL_NODES_MAC,
        ),
        "an advertisement with another's MAC in its second option": (
            IPV6,
            frames.discovery(ADVERT, source6, source6, bad, before=frames.NONCE),
            ALL_NODES_MAC,
        ),
        "a solicitation with another's MAC in its second option": (
            IPV6,
            frames.discovery(SOLICIT, source6, other6, bad, before=frames.NONCE),
            ALL_NODES_MAC,
        ),
        "a solicitation from another's link-local address": (
            IPV6,
            frames.discovery(SOLICIT, good.local, gateway6, own),
            ALL_NODES_MAC,
        ),
        "a claim to another's address (RFC 4862 5.4)": (
            IPV6,
            frames.discovery(SOLICIT, "::", other6),
            ALL_NODES_MAC,
        ),
    }
    advice = frames.router(source6, own)
    for what, header, body in (
        ("destination options", 60, bytes([58, 0, 1, 4, 0, 0, 0, 0])),
        ("a fragment header", 44, bytes([58, 0, 0, 0, 0, 0, 0, 9])),
        ("a routing header", 43, bytes([58, 0, 4, 0, 0, 0, 0, 0])),
    ):  # fmt: skip
        found[f"a router's advertisement behind {what}"] = (
            IPV6,
            frames.ipv6(source6, ALL_NODES, body + advice, header),
            ALL_NODES_MAC,
        )
    options = bytes([58, 0, 1, 4, 0, 0, 0, 0])
    found["a router's advertisement of no length"] = (
        IPV6,
        frames.ipv6(source6, ALL_NODES, options + advice, 0, length=0),
        ALL_NODES_MAC,
    )
    for kind in (
        0x0842,
        0x22F0,
        0x6558,
        0x8035,
        0x809B,
        0x8847,
        0x8863,
        0x8864,
        0x888E,
        0x88CC,
        0x88E5,
        0x9000,
        0x88B5,
    ):
        found[f"ethertype {kind:#06x}"] = (kind, bytes(46), EVERYBODY)
    found["a spanning tree's message"] = (38, b"\x42\x42\x03" + bytes(35), "01:80:c2:00:00:00")
    found["IPv4 behind an LLC header"] = (
        40,
        b"\xaa\xaa\x03\0\0\0\x08\0" + frames.ipv4(good.four, gateway, bytes(12)),
        EVERYBODY,
    )
    return found


def truths(evil: Box, good: Box) -> dict[str, tuple[int, bytes, str, tuple[()]]]:
    """What a container may say."""
    found = {
        "its own IPv4": (
            IPV4,
            frames.ipv4(evil.four, good.four, frames.udp(evil.four, good.four, 9, 9)),
            EVERYBODY,
            (),
        ),
        "its own ARP": (ARP, frames.arp(evil.mac, evil.four, good.four), EVERYBODY, ()),
    }
    if evil.six:
        claim = frames.discovery(SOLICIT, "::", evil.six, before=frames.NONCE)
        found["its own claim with a nonce"] = (IPV6, claim, ALL_NODES_MAC, ())
    for what, kind, source, about in (
        ("advertisement", ADVERT, evil.six, evil.six),
        ("link-local advertisement", ADVERT, evil.local, evil.local),
        ("solicitation", SOLICIT, evil.six, good.six), ("claim", SOLICIT, "::", evil.six),
    ):  # fmt: skip
        if evil.six:
            found[f"its own {what}"] = (
                IPV6,
                frames.discovery(kind, source, about, evil.mac if source != "::" else ""),
                ALL_NODES_MAC,
                (),
            )
    return found
