"""A container on a network: a pair of interfaces, one end a port of the bridge, the other in the container's namespace.

All is done from outside, by a netlink socket that was opened in the namespace: nothing of Hutch's runs inside. The pair goes
with the namespace.
"""

from __future__ import annotations

from hutch.errors import HutchError
from hutch.kernel.netlink import route
from hutch.kernel.netlink.socket import NetlinkError
from hutch.network import bridge, egress, nft, spec
from hutch.network.egress import Policy
from hutch.network.nft import ACCEPT, COUNTER, DROP, match, payload
from hutch.network.spec import Network
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.kernel.netlink.route import Route
    from hutch.network.nft import Rule

INGRESS = 0


class Endpoint(Record):
    """A container's place on a network: its `addresses` (without prefix lengths, as many as the network has subnets), its MAC, the
    names of its interface inside and of the port outside. `default`: the way out is by this network."""

    addresses: tuple[str, ...]
    mac: str
    port: str
    interface: str = "eth0"
    default: bool = True


class Connection(Record):
    """What connects a container: its `places`, (network, endpoint) pairs, and its egress policy, which the table `guard` enforces."""

    places: tuple[tuple[Network, Endpoint], ...]
    policy: Policy = Policy()
    guard: str = ""


def connect(connection: Connection, namespace_fd: int, netlink: int) -> None:
    """Connect a container's network namespace; `netlink` is a socket that was opened in it. Raises HutchError."""
    from hutch.kernel.netlink.route import Route

    if connection.policy.allowed is not None:  # before there is a way out
        macs = [endpoint.mac for _, endpoint in connection.places]
        subnets = [subnet.subnet for network, _ in connection.places for subnet in network.subnets]
        nft.run(egress.rules(connection.policy, connection.guard, macs, subnets))
    with Route() as host, Route(netlink) as inside:
        for network, endpoint in connection.places:
            attach(host, inside, namespace_fd, network, endpoint)


def attach(host: Route, inside: Route, namespace_fd: int, network: Network, endpoint: Endpoint) -> None:
    """Make the pair, give the container's end its addresses and routes. Raises HutchError; then nothing of it is there."""
    index = bridge.ensure(host, network)
    try:
        host.do(
            route.veth(
                endpoint.port, endpoint.interface, mtu=network.mtu, master=index, peer_address=endpoint.mac, peer_namespace_fd=namespace_fd
            )
        )  # fmt: skip
    except NetlinkError as error:
        raise HutchError(f"network {network.name}: make the pair {endpoint.port} and {endpoint.interface}: {error.strerror}") from None
    try:
        # the port is closed until its rules stand
        nft.run(port_rules(network, endpoint))
        _configure(inside, network, endpoint)
        host.do(route.set_link(name=endpoint.port, up=True))
    except BaseException as error:
        detach(host, network, endpoint.port)
        if isinstance(error, NetlinkError):
            raise HutchError(f"network {network.name}: {endpoint.interface}: {error.strerror}") from None
        raise


def _configure(inside: Route, network: Network, endpoint: Endpoint) -> None:
    link = inside.link(endpoint.interface)
    if link is None:
        raise HutchError(f"network {network.name}: {endpoint.interface} has gone")
    for subnet, address in zip(network.subnets, endpoint.addresses, strict=True):
        inside.do(route.new_address(link.index, address, int(subnet.subnet.partition("/")[2])))
    inside.do(route.set_link(link.index, up=True))
    if endpoint.default and not network.internal:
        for subnet in network.subnets:
            inside.do(route.new_route(gateway=subnet.gateway, family=route.family_of(subnet.gateway)))


def detach(host: Route, network: Network, port: str) -> None:
    """Take the pair and its port's rules away, as far as they are there."""
    try:
        host.do(route.del_link(name=port))
    except NetlinkError as error:
        if error.errno != bridge.ENODEV:
            raise HutchError(f"interface {port}: remove: {error.strerror}") from None
    _remove_rules(network, port)


def _remove_rules(network: Network, port: str) -> None:
    chain = {"chain": {"family": "netdev", "table": bridge.table_name(network), "name": port}}
    try:
        nft.run([{"flush": chain}, {"delete": chain}])
    except nft.NftError as error:
        if "No such file" not in error.message:
            raise


def sweep(host: Route, network: Network) -> list[str]:
    """Remove the rules of ports that are gone with their containers; their names. (Before Linux 6.16 the kernel did that.)"""
    there = {link.name for link in host.links()}
    name = bridge.table_name(network)
    chains = [item["chain"] for item in nft.run([{"list": {"chains": {"family": "netdev"}}}]) if "chain" in item]
    gone = [str(chain["name"]) for chain in chains if chain["table"] == name and chain["name"] not in there]
    for port in gone:
        _remove_rules(network, port)
    return gone


def port_rules(network: Network, endpoint: Endpoint) -> list[Rule]:
    """What may come out of a container: packets of its own MAC and addresses, and no advice to its neighbours about routers.

    They are a chain on the port itself (nft(8), the netdev family), where nothing that the container sends gets around it.
    """
    name, port = bridge.table_name(network), endpoint.port

    def rule(*expressions: Rule, comment: str) -> Rule:
        return {"add": nft.rule("netdev", name, port, *expressions, comment=comment)}

    def kind(value: str) -> Rule:
        return match({"meta": {"key": "protocol"}}, value)

    four = [address for address in endpoint.addresses if ":" not in address]
    six = [address for address in endpoint.addresses if ":" in address]
    commands = [
        {"add": nft.table("netdev", name)},
        {"add": nft.chain("netdev", name, port, "filter", "ingress", INGRESS, device=port)},
        {"flush": {"chain": {"family": "netdev", "table": name, "name": port}}},
        rule(match(payload("ether", "saddr"), endpoint.mac, "!="), COUNTER, DROP, comment="another's MAC"),
    ]
    if four:
        own: object = {"set": [*four, "0.0.0.0"]}
        commands.append(rule(match(payload("arp", "saddr ip"), own, "!="), COUNTER, DROP, comment="another's address, in ARP"))
        commands.append(rule(match(payload("ip", "saddr"), {"set": four}, "!="), COUNTER, DROP, comment="another's address"))
        commands.append(rule(match(payload("udp", "sport"), 67), COUNTER, DROP, comment="a DHCP server"))
    else:
        commands.append(rule(kind("arp"), COUNTER, DROP, comment="a network without IPv4"))
        commands.append(rule(kind("ip"), COUNTER, DROP, comment="a network without IPv4"))
    if six:
        advice = {"set": ["nd-router-advert", "nd-redirect"]}
        allowed = {"set": [*six, "::", prefix_of_link_local()]}
        commands.append(rule(match(payload("icmpv6", "type"), advice), COUNTER, DROP, comment="a router's advice"))
        commands.append(rule(match(payload("ip6", "saddr"), allowed, "!="), COUNTER, DROP, comment="another's address"))
    else:
        commands.append(rule(kind("ip6"), COUNTER, DROP, comment="a network without IPv6"))
    commands.append(rule(ACCEPT, comment="its own"))
    return commands


def prefix_of_link_local() -> Rule:
    """fe80::/10."""
    return nft.prefix("fe80::/10")


def endpoint_of(container: str, number: int, addresses: tuple[str, ...], mac: str = "") -> Endpoint:
    """A container's place on its `number`-th network."""
    four = next((address for address in addresses if ":" not in address), "")
    own = mac or (spec.mac_of(four) if four else f"02:{container[:2]}:{container[2:4]}:{container[4:6]}:{container[6:8]}:{container[8:10]}")
    return Endpoint(addresses=addresses, mac=own, port=spec.port_name(container, number), interface=f"eth{number}", default=number == 0)
