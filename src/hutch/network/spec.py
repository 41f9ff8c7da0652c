"""What a network is: its name, driver, subnets, gateways. Checked here, before anything is made of it."""

from __future__ import annotations

import hashlib

from hutch.errors import UsageError
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Network, IPv6Network
    from typing import Any

    AnyNetwork = IPv4Network | IPv6Network

BRIDGE, MACVLAN, IPVLAN = "bridge", "macvlan", "ipvlan"
MODES = {MACVLAN: ("bridge", "private", "vepa", "passthru"), IPVLAN: ("l2", "l3", "l3s")}  # the first is the default
RESERVED = ("none", "host", "default", "container", "device", "private")
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
# where subnets are taken from when nobody names one: Docker's own pools, less the first, which is Docker's default bridge's
POOLS = (("172.18.0.0/15", 16), ("172.20.0.0/14", 16), ("172.24.0.0/13", 16), ("192.168.0.0/16", 20))
MIN_MTU, MAX_MTU = 68, 65535


class Subnet(Record):
    """Addresses of a network: all are in `subnet` (CIDR); the host has `gateway` in it; containers get theirs from `range`, which
    is the whole subnet where it is ""."""

    subnet: str
    gateway: str
    range: str = ""


class Network(Record):
    """A network. `id` is 12 hexadecimal digits, `bridge` the interface of the host's that it is made of; `parent` the one that a
    macvlan or ipvlan stands on, in a `mode` of its driver's. `internal`: nothing leads out of it. `mtu` 0 is the host's own choice."""

    name: str
    id: str
    driver: str = BRIDGE
    subnets: tuple[Subnet, ...] = ()
    bridge: str = ""
    parent: str = ""
    mode: str = ""
    mtu: int = 0
    internal: bool = False
    labels: dict[str, str] = {}
    created: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON's types."""
        return {**self.as_dict(), "subnets": [subnet.as_dict() for subnet in self.subnets]}

    @classmethod
    def of_plain(cls, data: dict[str, Any]) -> Network:
        """From `plain`. Raises TypeError, KeyError for something else."""
        return cls(**{**data, "subnets": tuple(Subnet(**item) for item in data["subnets"])})


def check_name(name: str) -> str:
    """The name, if a network may have it. Raises UsageError."""
    if not name or not name[0].isalnum() or not set(name) <= NAME_CHARACTERS or len(name) > 128:
        raise UsageError(f"network {name!r}: expected letters, digits, and . _ - behind the first")
    if name in RESERVED:
        raise UsageError(f"network {name!r}: the word has a meaning of its own")
    return name


def parse_subnet(text: str, gateway: str = "", range_: str = "") -> Subnet:
    """A subnet with its gateway, the first address where none is given. Raises UsageError for what does not fit together."""
    import ipaddress

    try:
        found = ipaddress.ip_network(text, strict=True)
    except ValueError as error:
        raise UsageError(f"subnet {text!r}: {error}") from None
    if found.num_addresses < 4:
        raise UsageError(f"subnet {text}: has no room for a gateway and a container")
    if not found.prefixlen or found.is_multicast or found.is_loopback or found.is_unspecified or (found.version == 6 and found.is_link_local):
        raise UsageError(f"subnet {text}: is of addresses that no network can have")
    first = str(found.network_address + 1)
    try:
        own = ipaddress.ip_address(gateway or first)
    except ValueError:
        raise UsageError(f"gateway {gateway!r}: is no address") from None
    edges = (found.network_address, found.broadcast_address) if found.version == 4 else (found.network_address,)
    if own not in found or own in edges:
        raise UsageError(f"gateway {gateway}: is no address of a host in {text}")
    if range_:
        try:
            inside = ipaddress.ip_network(range_, strict=True)
        except ValueError as error:
            raise UsageError(f"ip-range {range_!r}: {error}") from None
        if inside.version != found.version or not inside.subnet_of(found):  # type: ignore[arg-type]
            raise UsageError(f"ip-range {range_}: does not lie in {text}")
    return Subnet(subnet=str(found), gateway=str(own), range=range_)


def overlapping(subnet: str, others: Iterable[str]) -> str:
    """The first of `others` (CIDR) that shares addresses with a subnet; "" for none."""
    import ipaddress

    own = ipaddress.ip_network(subnet)
    for other in others:
        found = ipaddress.ip_network(other, strict=False)
        if found.version == own.version and found.prefixlen and own.overlaps(found):
            return other
    return ""


def free_subnet(taken: Iterable[str], salt: str = "") -> str:
    """An IPv4 subnet of the pools that overlaps with nothing in `taken` (CIDR). With a `salt` the search begins elsewhere, so that
    installations which do not know each other rarely choose the same. Raises UsageError when there is none."""
    import ipaddress

    used = [ipaddress.ip_network(item, strict=False) for item in taken]
    used = [item for item in used if item.version == 4 and item.prefixlen]
    pool = [candidate for pool, size in POOLS for candidate in ipaddress.ip_network(pool).subnets(new_prefix=size)]
    first = int.from_bytes(hashlib.sha256(salt.encode("utf-8", "surrogateescape")).digest()[:4], "big") % len(pool) if salt else 0
    for candidate in pool[first:] + pool[:first]:
        if not any(candidate.overlaps(item) for item in used):
            return str(candidate)
    raise UsageError("network: every subnet that could be chosen is in use", "--subnet names one, `hutch network prune` removes networks that nobody uses")


def local_subnet(identity: str) -> str:
    """An IPv6 subnet of one's own (RFC 4193): its global id comes of the network's, where the RFC asks for chance."""
    number = hashlib.sha256(f"hutch {identity}".encode()).digest()[:5]
    return f"fd{number[0]:02x}:{number[1:3].hex()}:{number[3:5].hex()}::/64"


def hosts(subnet: Subnet, start: int = 0) -> Iterator[str]:
    """The addresses that containers may have, in a circle from the `start`-th on (modulo their number), each once."""
    import ipaddress

    whole = ipaddress.ip_network(subnet.subnet)
    inside = ipaddress.ip_network(subnet.range or subnet.subnet)
    gateway = ipaddress.ip_address(subnet.gateway)
    count = min(inside.num_addresses, 1 << 20)  # of an IPv6 subnet more than any machine can use
    first = int(inside.network_address)
    edges = {int(whole.network_address), int(gateway), *([int(whole.broadcast_address)] if whole.version == 4 else [])}
    make = ipaddress.IPv4Address if whole.version == 4 else ipaddress.IPv6Address
    for step in range(count):
        number = first + (start + step) % count
        if number not in edges:
            yield str(make(number))


def mac_of(address: str) -> str:
    """The MAC of an IPv4 address, as Docker chooses it: who gets the address again has the MAC again, and no neighbour's table is
    wrong."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def bridge_name(identity: str) -> str:
    """The name of a network's bridge: an interface's has at most 15 characters."""
    return f"hutch-{identity[:8]}"


def port_name(container: str, number: int) -> str:
    """The host's end of a container's `number`-th pair."""
    return f"v{container[:12]}{number:x}"


def is_port(text: str) -> bool:
    """Whether an interface is called as `port_name` calls them."""
    return len(text) == 14 and text[0] == "v" and not set(text[1:]) - set("0123456789abcdef")


def is_interface(text: str) -> bool:
    """Whether an interface could have that name (dev_valid_name in the kernel's net/core/dev.c)."""
    return 0 < len(text.encode("utf-8", "surrogateescape")) < 16 and text not in (".", "..") and not any(c in "/:%\0" or c.isspace() for c in text)


def is_address(text: str) -> bool:
    """Whether a text is an IPv4 or IPv6 address."""
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
