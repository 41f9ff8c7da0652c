"""What may leave a container: a policy of addresses, ports and names, and the rules that are made of it.

Names cannot be seen in packets. They are enforced by the network's name server: it answers those alone that the policy names, and
the addresses that it gave, and no others, can then be reached for as long as the answer may be kept.
"""

from __future__ import annotations

import os

from hutch.errors import UsageError
from hutch.network import nft
from hutch.network.nft import ACCEPT, COUNTER, match, payload
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.network.nft import Rule

NONE, ALL = "none", "all"
PROTOCOLS = ("tcp", "udp")
TABLE = "hutch-egress-"
PRIORITY = 0  # nft(8), "Base chain priorities": filter
REFUSED = "refused"
MACS, OWN = "macs", "own"  # sets: of the container's interfaces, and of its networks' subnets
DISCOVERY = ("nd-neighbor-solicit", "nd-neighbor-advert", "nd-router-solicit", "mld2-listener-report")
LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


class Allowed(Record):
    """One thing that may be reached: a `subnet` (CIDR), or a `name` (``*.`` in front: all below it), at the ports from `first` to
    `last` (0: every port and protocol) of `protocol` ("": TCP and UDP)."""

    subnet: str = ""
    name: str = ""
    first: int = 0
    last: int = 0
    protocol: str = ""

    def __str__(self) -> str:
        host = self.name or (f"[{self.subnet}]" if ":" in self.subnet and self.first else self.subnet)
        ports = "" if not self.first else f":{self.first}" if self.first == self.last else f":{self.first}-{self.last}"
        return host + ports + (f"/{self.protocol}" if self.protocol else "")


class Policy(Record):
    """What may leave a container: everything where `allowed` is None, else what it names."""

    allowed: tuple[Allowed, ...] | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """As `parse` takes them."""
        return () if self.allowed is None else tuple(map(str, self.allowed)) or (NONE,)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in it."""
        return tuple(dict.fromkeys(item.name for item in self.allowed or () if item.name))


def parse(texts: Iterable[str]) -> Policy:
    """``none``, ``all``, or what is allowed: ``HOST[:PORT[-PORT]][/PROTOCOL]``, where HOST is an address, a CIDR or a name. Raises
    UsageError."""
    words = [word for text in texts for word in text.split(",") if word]
    if not words or words == [ALL]:
        return Policy()
    if words == [NONE]:
        return Policy(allowed=())
    wrong = next((word for word in words if word in (NONE, ALL)), None)
    if wrong is not None:
        raise UsageError(f"egress: {wrong} goes with nothing else")
    return Policy(allowed=tuple(dict.fromkeys(_one(word) for word in words)))


def _one(text: str) -> Allowed:
    rest, slash, tail = text.rpartition("/")
    protocol = ""
    if slash and tail.isalpha():  # the length of a prefix is no protocol
        protocol = tail
        if protocol not in PROTOCOLS:
            raise UsageError(f"egress: expected tcp or udp behind the /, got {tail!r} in {text!r}")
    else:
        rest = text
    host, ports = _split(rest, text)
    first, last = _ports(ports, text)
    if protocol and not first:
        raise UsageError(f"egress: {text!r} names a protocol and no port", f"{host}:PORT/{protocol}")
    subnet = _subnet(host)
    if subnet:
        return Allowed(subnet=subnet, first=first, last=last, protocol=protocol)
    name = host.lower().rstrip(".")
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(0 < len(label) < 64 and set(label) <= LABEL for label in labels) or labels[-1].isdecimal():
        raise UsageError(f"egress: {host!r} in {text!r} is neither an address, a subnet nor a name", "such as 10.0.0.0/8, pypi.org:443, *.example.org:443")
    return Allowed(name=name, first=first, last=last, protocol=protocol)


def _split(rest: str, text: str) -> tuple[str, str]:
    """A host, in brackets where it has colons and a port, and its port."""
    if rest.startswith("["):
        host, bracket, ports = rest[1:].partition("]")
        if not bracket or (ports and not ports.startswith(":")):
            raise UsageError(f"egress: expected [ADDRESS]:PORT, got {text!r}")
        return host, ports[1:]
    if rest.count(":") > 1:
        return rest, ""
    host, colon, ports = rest.partition(":")
    if colon and not ports:
        raise UsageError(f"egress: no port behind the colon in {text!r}")
    return host, ports


def _ports(text: str, whole: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    first, dash, last = text.partition("-")
    if not text.isascii() or not first.isdecimal() or (dash and not last.isdecimal()) or not 0 < int(first) <= int(last or first) <= 65535:
        raise UsageError(f"egress: ports are 1 to 65535, got {text!r} in {whole!r}")
    return int(first), int(last or first)


def _subnet(host: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_network(host, strict=False))
    except ValueError:
        return ""


def matching(policy: Policy, labels: tuple[str, ...]) -> tuple[Allowed, ...]:
    """What of a policy allows a name, by its labels in lower case."""
    return tuple(item for item in policy.allowed or () if item.name and _covers(item.name, labels))


def _covers(pattern: str, labels: tuple[str, ...]) -> bool:
    """Label by label: one label may hold a dot, and end like a name."""
    first, *rest = pattern.split(".")
    if first != "*":
        return labels == (first, *rest)
    return len(labels) > len(rest) and labels[-len(rest) :] == tuple(rest)


# rules


def table_name(root: str, container: str) -> str:
    """The table of a container's policy: one for each, so that it goes as a whole. Who cleans up behind the containers of one `root`
    (the directory of its networks) leaves those of others alone."""
    from zlib import crc32

    return f"{TABLE}{crc32(os.path.realpath(root).encode()):08x}-{container[:12]}"


def set_name(number: int, six: bool) -> str:
    """The set of the addresses that the `number`-th thing allowed, a name, stands for at the moment."""
    return f"name{number}-{6 if six else 4}"


def rules(policy: Policy, name: str, macs: Iterable[str], subnets: Iterable[str]) -> list[Rule]:
    """A container's table `name`, in one transaction: what its interfaces (`macs`) send is judged where it is routed on and where the host
    itself would get it. Who sends is told by the MAC, which a port lets nobody change, so that no address gets around it.
    `subnets` are the container's own networks', whose members it may reach."""
    own = nft.table("inet", name)
    commands: list[Rule] = [{"add": own}]
    allowed = policy.allowed or ()
    for set_, kind in ((MACS, "ether_addr"), (f"{OWN}-4", "ipv4_addr"), (f"{OWN}-6", "ipv6_addr")):
        flags = {} if set_ == MACS else {"flags": ["interval"]}
        commands.append({"add": {"set": {"family": "inet", "table": name, "name": set_, "type": kind, **flags}}})
    commands += further(name, macs, subnets)
    for number, item in enumerate(allowed):
        if item.name:
            for six in (False, True):
                kind = "ipv6_addr" if six else "ipv4_addr"
                commands.append({"add": {"set": {"family": "inet", "table": name, "name": set_name(number, six), "type": kind, "flags": ["timeout"]}}})
    for hook in ("forward", "input"):
        judge = f"{hook}-judge"
        # by what matches, not by what does not: what comes from the loopback, or a tunnel, has no MAC to compare
        own_packets = (match(payload("ether", "saddr"), f"@{MACS}"), {"goto": {"target": judge}})
        commands.append({"add": {"chain": {"family": "inet", "table": name, "name": judge}}})
        commands.append({"add": nft.chain("inet", name, hook, "filter", hook, PRIORITY)})
        commands.append({"add": nft.rule("inet", name, hook, *own_packets, comment="what it sends")})

        def rule(*expressions: Rule, comment: str, chain: str = judge) -> None:
            commands.append({"add": nft.rule("inet", name, chain, *expressions, comment=comment)})

        rule(match({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT, comment="answers")
        rule(match(payload("icmpv6", "type"), {"set": [*DISCOVERY]}), ACCEPT, comment="who has which address")
        if hook == "forward":
            for protocol, version in (("ip", 4), ("ip6", 6)):
                rule(match(payload(protocol, "daddr"), f"@{OWN}-{version}"), ACCEPT, comment="its own network, where br_netfilter asks")
        for number, item in enumerate(allowed):
            for target in _targets(item, number):
                for port in _port_matches(item):
                    rule(target, *port, ACCEPT, comment=str(item))
        rule(COUNTER, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}, comment=REFUSED)
    return commands


def further(name: str, macs: Iterable[str], subnets: Iterable[str]) -> list[Rule]:
    """What a table `name` is given for interfaces and networks that come later."""
    return [{"add": element} for element in _elements(name, macs, subnets)]


def fewer(name: str, macs: Iterable[str], subnets: Iterable[str]) -> list[Rule]:
    """The inverse: whoever has the addresses next, and their MACs, is not judged by it."""
    elements = _elements(name, macs, subnets)
    return [{verb: element} for verb in ("add", "delete") for element in elements]  # what is not there cannot be deleted


def _elements(name: str, macs: Iterable[str], subnets: Iterable[str]) -> list[Rule]:
    parts: dict[str, list[object]] = {MACS: [*macs], f"{OWN}-4": [], f"{OWN}-6": []}
    for subnet in subnets:
        parts[f"{OWN}-{6 if ':' in subnet else 4}"].append(nft.prefix(subnet))
    return [{"element": {"family": "inet", "table": name, "name": set_, "elem": found}} for set_, found in parts.items() if found]


def _family(subnet: str) -> str:
    return "ip6" if ":" in subnet else "ip"


def _targets(item: Allowed, number: int) -> list[Rule]:
    if item.subnet:
        return [match(payload(_family(item.subnet), "daddr"), nft.prefix(item.subnet))]
    return [match(payload("ip6" if six else "ip", "daddr"), f"@{set_name(number, six)}") for six in (False, True)]


def _port_matches(item: Allowed) -> list[tuple[Rule, ...]]:
    if not item.first:
        return [()]
    value: object = item.first if item.first == item.last else {"range": [item.first, item.last]}
    return [(match(payload(protocol, "dport"), value),) for protocol in ((item.protocol,) if item.protocol else PROTOCOLS)]


def refused(listed: list[Rule]) -> tuple[int, int]:
    """(packets, bytes) that a policy has refused, of its table as it is listed."""
    counters = [
        part["counter"]
        for item in listed
        if item.get("rule", {}).get("comment") == REFUSED
        for part in item["rule"]["expr"]
        if "counter" in part
    ]  # fmt: skip
    return sum(int(item["packets"]) for item in counters), sum(int(item["bytes"]) for item in counters)


def tables(root: str) -> list[str]:
    """The containers of a root that have a table, by the first twelve letters of their ids."""
    start = table_name(root, "")
    listed = nft.run([{"list": {"tables": {"family": "inet"}}}])
    found = [str(item["table"]["name"]) for item in listed if "table" in item]
    return [name.removeprefix(start) for name in found if name.startswith(start)]
