"""What may come out of a container: an allowlist of its own packets, as a chain on the port itself (nft(8), the netdev family).

CAP_NET_RAW is among a container's default capabilities, so it sends what frames it likes. Let through is what a host with one MAC
and these addresses has to say: ARP (RFC 826), IPv4, IPv6, and neighbour discovery (RFC 4861) for itself. Everything else ends at
the port: other ethertypes, VLAN tags of any kind, other senders, advice of routers and DHCP servers, and neighbour discovery that
speaks of another's address or MAC.
"""

from __future__ import annotations

from hutch.network import nft
from hutch.network.nft import ACCEPT, COUNTER, DROP, match, payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.network.nft import Rule

INGRESS = 0
ARP, IP, IP6 = 0x0806, 0x0800, 0x86DD
SOURCE_LINK, TARGET_LINK, NONCE = 1, 2, 14  # options of neighbour discovery (RFC 4861 4.6, RFC 7527)
DISCOVERY, WITH_OPTION = 24, 32  # bytes of a message without options, and with one of eight


def rules(table: str, port: str, mac: str, addresses: tuple[str, ...]) -> list[Rule]:
    """The chain of a port of `table`, for a container with one `mac` and these addresses."""
    commands: list[Rule] = [
        {"add": nft.table("netdev", table)},
        {"add": nft.chain("netdev", table, port, "filter", "ingress", INGRESS, device=port)},
        {"flush": {"chain": {"family": "netdev", "table": table, "name": port}}},
    ]

    def rule(*expressions: Rule, comment: str) -> None:
        commands.append({"add": nft.rule("netdev", table, port, *expressions, comment=comment)})

    four = [address for address in addresses if ":" not in address]
    six = [address for address in addresses if ":" in address]
    rule(match(payload("ether", "saddr"), mac, "!="), COUNTER, DROP, comment="another's MAC")
    # the type in the frame itself: one that has a tag has the tag's
    rule(match(payload("ether", "type"), {"set": [ARP, IP, IP6]}, "!="), COUNTER, DROP, comment="neither ARP nor IP, or tagged")
    if four:
        _arp(rule, mac, four)
        _ipv4(rule, four)
    if six:
        _ipv6(rule, mac, [*six, link_local(mac)])
    rule(COUNTER, DROP, comment="a family that this network has not")
    return commands


def _arp(rule, mac: str, own: list[str]) -> None:  # type: ignore[no-untyped-def]
    kind = match(payload("ether", "type"), ARP)
    rule(kind, match(payload("arp", "saddr ether"), mac, "!="), COUNTER, DROP, comment="another's MAC, in ARP")
    # an address that is asked for before it is used comes from 0.0.0.0 (RFC 5227): only one's own
    rule(kind, match(payload("arp", "saddr ip"), {"set": own}), ACCEPT, comment="its ARP")
    rule(kind, match(payload("arp", "saddr ip"), "0.0.0.0"), match(payload("arp", "daddr ip"), {"set": own}), ACCEPT, comment="its probes")
    rule(kind, COUNTER, DROP, comment="another's address, in ARP")


def _ipv4(rule, own: list[str]) -> None:  # type: ignore[no-untyped-def]
    kind = match(payload("ether", "type"), IP)
    rule(kind, match(payload("ip", "saddr"), {"set": own}, "!="), COUNTER, DROP, comment="another's address")
    rule(kind, match(payload("udp", "sport"), 67), COUNTER, DROP, comment="a DHCP server")
    rule(kind, match(payload("udp", "dport"), 68), COUNTER, DROP, comment="its answers, from whatever port")
    rule(kind, ACCEPT, comment="its IPv4")


def _ipv6(rule, mac: str, own: list[str]) -> None:  # type: ignore[no-untyped-def]
    own_set: Rule = {"set": own}
    kind, typed = match(payload("ether", "type"), IP6), payload("icmpv6", "type")
    size, target = payload("ip6", "length"), _raw(64, 128)

    def option(number: int) -> Rule:
        """The message has one option, of eight bytes, of this type."""
        return match(_raw(192, 16), number << 8 | 1)

    advice = {"set": ["nd-router-advert", "nd-redirect", "mld-listener-query"]}
    rule(kind, match(typed, advice), COUNTER, DROP, comment="a router's advice")
    link = match(_raw(208, 48), int(mac.replace(":", ""), 16))
    sender = match(payload("ip6", "saddr"), own_set)
    unknown = match(payload("ip6", "saddr"), "::")
    targets = [match(target, _number(address)) for address in own]
    for aim in targets:
        told = (kind, sender, match(typed, "nd-neighbor-advert"), aim)
        rule(*told, match(size, DISCOVERY), ACCEPT, comment="it tells of itself")
        rule(*told, match(size, WITH_OPTION), option(TARGET_LINK), link, ACCEPT, comment="and of its MAC")
        probe = (kind, unknown, match(typed, "nd-neighbor-solicit"), aim)
        rule(*probe, match(size, DISCOVERY), ACCEPT, comment="it asks whether its address is free")
        rule(*probe, match(size, WITH_OPTION), option(NONCE), ACCEPT, comment="with a nonce")
    asks = (kind, sender, match(typed, "nd-neighbor-solicit"))
    rule(*asks, match(size, DISCOVERY), ACCEPT, comment="it asks for others")
    rule(*asks, match(size, WITH_OPTION), option(SOURCE_LINK), link, ACCEPT, comment="and tells of its MAC")
    rule(kind, match(typed, {"set": ["nd-neighbor-advert", "nd-neighbor-solicit"]}), COUNTER, DROP, comment="other neighbour discovery")
    rule(kind, unknown, match(typed, "mld2-listener-report"), ACCEPT, comment="it joins groups before it has an address")
    rule(kind, match(payload("ip6", "saddr"), own_set, "!="), COUNTER, DROP, comment="another's address")
    rule(kind, match(payload("udp", "sport"), 547), COUNTER, DROP, comment="a DHCPv6 server")
    rule(kind, match(payload("udp", "dport"), 546), COUNTER, DROP, comment="its answers, from whatever port")
    rule(kind, ACCEPT, comment="its IPv6")


def _raw(offset: int, length: int) -> Rule:
    """Bits of what the IP packet carries, from its beginning on."""
    return {"payload": {"base": "th", "offset": offset, "len": length}}


def _number(address: str) -> str:
    import ipaddress

    return f"0x{int(ipaddress.IPv6Address(address)):032x}"


def link_local(mac: str) -> str:
    """The link-local address that a MAC gives (RFC 4291, appendix A), as the kernel makes it where nothing else is asked for."""
    import ipaddress

    raw = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))
