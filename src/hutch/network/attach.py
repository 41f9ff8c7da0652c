"""A container on a network: a pair of interfaces, one end a port of the bridge, the other in the container's namespace.

All is done from outside, by a netlink socket that was opened in the namespace: nothing of Hutch's runs inside. The pair goes
with the namespace.
"""

from __future__ import annotations

from hutch.errors import HutchError
from hutch.kernel.netlink import addresses, conntrack, netfilter, route
from hutch.kernel.netlink.socket import NetlinkError
from hutch.network import bridge, egress, forwarding, nft, parent, port_filter, spec
from hutch.network.egress import Policy
from hutch.network.spec import Network
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from hutch.kernel.netlink.route import Route


class Endpoint(Record):
    """A container's place on a network: its `addresses` (without prefix lengths, as many as the network has subnets), its MAC, the
    names of its interface inside and of the port outside. `default`: the way out is by this network."""

    addresses: tuple[str, ...]
    mac: str
    port: str
    interface: str = "eth0"
    default: bool = True


class Connection(Record):
    """What connects a container: its `places`, (network, endpoint) pairs, and its egress policy, which the table `guard` enforces.
    `later`: it runs already, and may be on other networks. `locks` is what the names of the files begin with by which this host is allowed to forward."""

    locks: str
    places: tuple[tuple[Network, Endpoint], ...]
    policy: Policy = Policy()
    guard: str = ""
    later: bool = False

    @property
    def subnets(self) -> list[str]:
        """Of its networks."""
        return [subnet.subnet for network, _ in self.places for subnet in network.subnets]

    @property
    def macs(self) -> list[str]:
        """Of its interfaces."""
        return [endpoint.mac for _, endpoint in self.places]


def connect(connection: Connection, namespace_fd: int, netlink: int) -> None:
    """Connect a container's network namespace; `netlink` is a socket that was opened in it. Raises HutchError."""
    from hutch.kernel.netlink.route import Route

    guard, guarded = connection.guard, connection.policy.allowed is not None
    _forget_connections(connection)
    if guarded:  # before there is a way out
        if connection.later and netfilter.table_exists("inet", guard):
            nft.run(egress.further(guard, connection.macs, connection.subnets))
        else:
            nft.run(egress.rules(connection.policy, guard, connection.macs, connection.subnets))
    try:
        with Route() as host, Route(netlink) as inside:
            leads_out = [network for network, _ in connection.places if network.driver == spec.BRIDGE and not network.internal]
            if leads_out:
                forwarding.allow(host, connection.locks, ipv6=any(":" in subnet for subnet in connection.subnets))
                for network in leads_out:
                    forwarding.allow_bridge(network.bridge)  # somebody may have switched all of them off
            for network, endpoint in connection.places:
                attach(host, inside, namespace_fd, network, endpoint)
    except BaseException:
        if guarded and connection.later:
            nft.run(egress.fewer(guard, connection.macs, connection.subnets))
        raise


def _forget_connections(connection: Connection) -> None:
    """The connections of whoever had these addresses before: an answer to one would pass every policy. Raises HutchError when there
    is a policy, and the kernel does not let connections be forgotten."""
    addresses = [address for network, endpoint in connection.places if network.driver == spec.BRIDGE for address in endpoint.addresses]
    try:
        done = conntrack.forget(addresses)
    except NetlinkError as error:
        raise HutchError(f"egress: the connections of the last owner of {', '.join(addresses)}: {error.strerror}") from None
    if not done and connection.policy.allowed is not None:
        raise HutchError("egress: connections of the last owner of an address would pass the policy", "`modprobe nf_conntrack_netlink`")


def disconnect(connection: Connection, netlink: int = -1, others: Collection[str] = ()) -> None:
    """Undo it, of a container that goes on; `others` are its interfaces on other networks. What has gone already is no error."""
    from hutch.kernel.netlink.route import Route

    with Route() as host:
        for network, endpoint in connection.places:
            if network.driver == spec.BRIDGE:
                detach(host, network, endpoint.port)
            else:
                with Route(netlink) as inside:
                    parent.remove(host, inside, network, endpoint.interface, others)
    if connection.policy.allowed is not None and netfilter.table_exists("inet", connection.guard):
        nft.run(egress.fewer(connection.guard, connection.macs, connection.subnets))


def attach(host: Route, inside: Route, namespace_fd: int, network: Network, endpoint: Endpoint) -> None:
    """Make the pair, give the container's end its addresses and routes. Raises HutchError; then nothing of it is there."""
    if network.driver != spec.BRIDGE:
        _on_parent(host, inside, namespace_fd, network, endpoint)
        return
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
        nft.run(port_filter.rules(bridge.table_name(network), endpoint.port, endpoint.mac, endpoint.addresses))
        _configure(inside, network, endpoint)
        host.do(route.set_link(name=endpoint.port, up=True))
    except BaseException as error:
        detach(host, network, endpoint.port)
        if isinstance(error, NetlinkError):
            raise HutchError(f"network {network.name}: {endpoint.interface}: {error.strerror}") from None
        raise


def _on_parent(host: Route, inside: Route, namespace_fd: int, network: Network, endpoint: Endpoint) -> None:
    parent.make(host, namespace_fd, network, endpoint.interface, endpoint.mac)
    try:
        _configure(inside, network, endpoint)
    except BaseException as error:
        parent.remove(host, inside, network, endpoint.interface)
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
            inside.do(_default_route(network, subnet.gateway, link.index))


def detach(host: Route, network: Network, port: str) -> None:
    """Take the pair and its port's rules away, as far as they are there."""
    _remove(host, port)
    _remove_rules(network, port)


def _remove(host: Route, port: str) -> None:
    try:
        host.do(route.del_link(name=port))
    except NetlinkError as error:
        if error.errno != bridge.ENODEV:
            raise HutchError(f"interface {port}: remove: {error.strerror}") from None


def _default_route(network: Network, gateway: str, index: int) -> tuple[int, int, bytes]:
    # in ipvlan's layer 3 nobody asks for a neighbour's MAC: the parent routes (ipvlan.rst)
    routed = network.driver == spec.IPVLAN and network.mode != "l2"
    return route.new_route(gateway="" if routed else gateway, index=index, family=addresses.family_of(gateway))


def lead_out(inside: Route, network: Network, interface: str) -> None:
    """Make a network the way out of a container, where there is none (of the same family)."""
    link = inside.link(interface)
    taken = {entry.family for entry in inside.routes() if not entry.destination}
    for subnet in network.subnets:
        family = addresses.family_of(subnet.gateway)
        if link is None or family in taken:
            continue
        try:
            inside.do(_default_route(network, subnet.gateway, link.index))
        except NetlinkError:
            continue  # the container has changed its interface


def _remove_rules(network: Network, port: str) -> None:
    chain = {"chain": {"family": "netdev", "table": bridge.table_name(network), "name": port}}
    try:
        nft.run([{"flush": chain}, {"delete": chain}])
    except nft.NftError as error:
        if "No such file" not in error.message:
            raise


def sweep(host: Route, network: Network, living: Callable[[], Collection[str]] | None = None) -> list[str]:
    """Remove the rules of ports that are gone with their containers (before Linux 6.16 the kernel did that), and the ports that are not among
    the `living`: of containers that have lost their address with the process that held it. The names of both."""
    links = {link.name: link for link in host.links()}
    there = set(links)
    if living is not None and network.bridge in links:
        own = living()  # asked behind the links: whoever has a port had an address before
        index = links[network.bridge].index
        for port in [name for name, link in links.items() if link.master == index and spec.is_port(name) and name not in own]:
            _remove(host, port)
            there.remove(port)
    name = bridge.table_name(network)
    chains = [item["chain"] for item in nft.run([{"list": {"chains": {"family": "netdev"}}}]) if "chain" in item]
    gone = [str(chain["name"]) for chain in chains if chain["table"] == name and chain["name"] not in there]
    for port in gone:
        _remove_rules(network, port)
    return gone


def endpoint_of(container: str, number: int, addresses: tuple[str, ...], mac: str = "") -> Endpoint:
    """A container's place on its `number`-th network."""
    four = next((address for address in addresses if ":" not in address), "")
    own = mac or (spec.mac_of(four) if four else f"02:{container[:2]}:{container[2:4]}:{container[4:6]}:{container[6:8]}:{container[8:10]}")
    return Endpoint(addresses=addresses, mac=own, port=spec.port_name(container, number), interface=f"eth{number}", default=number == 0)
