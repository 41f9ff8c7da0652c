"""A network that is a bridge of the host's: the bridge, its addresses, and its rules.

The rules are a table for each network. They let its containers out (masqueraded), and answers in; nobody else's packets
are forwarded to them, whether they come from another network or from outside. What the host's other tables refuse stays
refused: an `accept` in one table is no more than the absence of a `drop` there.
"""

from __future__ import annotations

from hutch.errors import HutchError
from hutch.kernel.netlink import route
from hutch.kernel.netlink.socket import NetlinkError
from hutch.network import forwarding, nft, spec
from hutch.network.nft import ACCEPT, COUNTER, DROP, match, meta, payload, prefix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.kernel.netlink.route import Route
    from hutch.network.nft import Rule
    from hutch.network.spec import Network

EEXIST, ENODEV = 17, 19
FORWARD, SOURCE_NAT = 0, 100  # priorities (nft(8), "Base chain priorities")


def table_name(network: Network) -> str:
    """Of a network's tables."""
    return f"hutch-{network.id[:8]}"


def ensure(socket: Route, network: Network) -> int:
    """Make what is missing of a network; its bridge's index. Anybody else may do the same at the same time. Raises HutchError."""
    link = socket.link(network.bridge)
    if link is None or not link.up:
        _check_overlap(socket, network)
        try:
            _make(socket, network)
        except NetlinkError as error:
            raise HutchError(f"network {network.name}: bridge {network.bridge}: {error.strerror}") from None
        link = socket.link(network.bridge)
    if link is None:
        raise HutchError(f"network {network.name}: bridge {network.bridge}: has just been removed")
    if link.kind != "bridge":
        raise HutchError(f"network {network.name}: {network.bridge} is an interface of another kind ({link.kind or 'hardware'})")
    return link.index


def _check_overlap(socket: Route, network: Network) -> None:
    """Raises HutchError for a subnet that another network of Hutch's has by now, of another installation: it was free when the network
    was created. A tunnel of the host's may come and go: its neighbours are reached by their own routes."""
    links = {link.index: link.name for link in socket.links()}
    taken = [(f"{item.address}/{item.prefix}", item.index) for item in socket.addresses()]
    taken += [(f"{item.destination}/{item.prefix}", item.index) for item in socket.routes() if item.destination]
    for subnet in network.subnets:
        for other, index in taken:
            name = links.get(index, "")
            if name.startswith("hutch-") and name != network.bridge and spec.overlapping(subnet.subnet, [other]):
                raise HutchError(
                    f"network {network.name}: its subnet {subnet.subnet} overlaps with {other} on {name}",
                    "another network, or another installation, has it: create one with another --subnet",
                )


def _make(socket: Route, network: Network) -> None:
    _tolerating(socket, route.bridge(network.bridge, mtu=network.mtu, address=_bridge_mac(network)))
    link = socket.link(network.bridge)
    if link is None:
        return
    forwarding.write(f"ipv6/conf/{network.bridge}/accept_ra", "0")  # the host takes no advice from its containers
    if not any(":" in subnet.subnet for subnet in network.subnets):
        forwarding.write(f"ipv6/conf/{network.bridge}/disable_ipv6", "1")
    for subnet in network.subnets:
        length = int(subnet.subnet.partition("/")[2])
        _tolerating(socket, route.new_address(link.index, subnet.gateway, length))
    try:
        nft.run(rules(network))
    except nft.NftError as error:
        if "exists" not in error.message:
            raise
    if not network.internal:
        forwarding.allow_bridge(network.bridge)
    socket.do(route.set_link(link.index, up=True, alias=f"hutch network {network.name}"[:255]))  # last: who sees it up sees it whole


def _bridge_mac(network: Network) -> str:
    # fixed: a bridge without one takes the lowest of its ports', and changes it as they come and go
    return "02:" + ":".join(network.id[i : i + 2] for i in range(0, 10, 2))


def _tolerating(socket: Route, request: tuple[int, int, bytes]) -> None:
    try:
        socket.do(request)
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise


def rules(network: Network) -> list[Rule]:
    """The network's table, in one transaction, which fails if it is there: then it is there whole."""
    name, bridge = table_name(network), network.bridge
    inside = match(meta("iifname"), bridge)
    to_it = match(meta("oifname"), bridge)
    own = nft.table("inet", name)
    commands = [{"create": own}]
    commands.append({"add": nft.chain("inet", name, "forward", "filter", "forward", FORWARD)})
    added = [
        nft.rule("inet", name, "forward", inside, to_it, ACCEPT, comment="between its containers, where br_netfilter asks"),
        nft.rule("inet", name, "forward", to_it, match({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT, comment="answers"),
        nft.rule("inet", name, "forward", to_it, COUNTER, DROP, comment="nobody else comes in"),
    ]
    if network.internal:
        added.append(nft.rule("inet", name, "forward", inside, COUNTER, DROP, comment="and nobody gets out"))
    else:
        commands.append({"add": nft.chain("inet", name, "postrouting", "nat", "postrouting", SOURCE_NAT)})
        for subnet in network.subnets:
            protocol = "ip6" if ":" in subnet.subnet else "ip"
            from_it = match(payload(protocol, "saddr"), prefix(subnet.subnet))
            added.append(nft.rule("inet", name, "postrouting", from_it, match(meta("oifname"), bridge, "!="), {"masquerade": None}, comment="the way out"))
    return commands + [{"add": item} for item in added]


def remove(socket: Route, network: Network) -> None:
    """Remove what `ensure` has made, as far as it is there."""
    try:
        socket.do(route.del_link(name=network.bridge))
    except NetlinkError as error:
        if error.errno != ENODEV:
            raise HutchError(f"network {network.name}: remove bridge {network.bridge}: {error.strerror}") from None
    for family in ("inet", "netdev"):
        nft.drop_table(family, table_name(network))
