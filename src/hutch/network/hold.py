"""A network while it is used: held by every container on it, and removed from the kernel by the last one that leaves."""

from __future__ import annotations

from hutch.kernel.netlink import codec, netfilter, route
from hutch.network import bridge, forwarding, spec
from hutch.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.network.spec import Network

ROUTE, NETFILTER = 0, 12


def holds(network: Network, lock: str, all_locks: str, container: str, number: int = 0, *, guard: str = "") -> tuple[ops.HoldShared, ...]:
    """What a container's plan holds: the right to forward, with every other network, and the network itself. `lock` and
    `all_locks` are files, `guard` is the table of its egress policy. What the last one removes is what `bridge.ensure` makes."""
    if network.driver != spec.BRIDGE:  # the kernel has nothing of it but the containers' own interfaces
        return (ops.HoldShared(lock=lock, what=f"network {network.name} ({network.driver} on {network.parent})", origin="network"),)
    name = bridge.table_name(network)
    kind, flags, body = route.del_link(name=network.bridge)
    own: tuple[tuple[int, bytes], ...] = ((NETFILTER, netfilter.delete_chain("netdev", name, spec.port_name(container, number))),)
    if guard:
        own += ((NETFILTER, netfilter.delete_table("inet", guard)),)
    last = (
        (ROUTE, codec.message(kind, flags, body)),
        (NETFILTER, netfilter.delete_table("netdev", name)),
        (NETFILTER, netfilter.delete_table("inet", name)),
    )
    right = [
        ops.HoldShared(
            lock=forwarding.notes(all_locks, version), what=f"IPv{version} forwarding", origin="network", restore=True,
            last=((NETFILTER, netfilter.delete_table(family, forwarding.TABLE)),),
            # somebody else has made this host a router meanwhile, and all of its interfaces
            unless=f"{forwarding.SYSCTL}/{forwarding.SWITCH['4']}" if version == "4" else "",
        )
        for version, family in forwarding.FAMILY.items()
    ]  # fmt: skip
    return (*right, ops.HoldShared(lock=lock, what=f"network {network.name} ({network.bridge})", own=own, last=last, origin="network"))
