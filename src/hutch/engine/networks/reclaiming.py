"""Networks that are removed, and what dead containers have left of others."""

from __future__ import annotations

import os

from hutch.engine.networks.definitions import DEFAULT, every, get, holds, locks, members, place_of, ports_of, root
from hutch.errors import StateError
from hutch.kernel.features import features
from hutch.kernel.locks import locked
from hutch.network import spec
from hutch.network.spec import Network


def remove(name: str) -> None:
    """Remove a network. Raises StateError when there is none, or containers are on it."""
    network = get(name)
    found = members(network)
    if found:
        raise StateError(f"network {network.name}: container {next(iter(found))} is on it", "`hutch stop` or `hutch network disconnect` first")
    if network.name == DEFAULT and locked(f"{place_of(DEFAULT)}/lock"):
        # the one that is made next has the same bridge, which they would take away at their end
        raise StateError(f"network {DEFAULT}: a container that began on it and has left still holds it", "`hutch stop` it first")
    reclaim(network, even_held=True)
    place = place_of(network.name)
    from hutch.kernel.trees import remove_tree

    os.unlink(f"{place}/network")
    remove_tree(place)


def prune() -> list[str]:
    """Remove every network that nobody is on, but for the default one, and what dead containers left of the others; the names
    of those that are gone."""
    if features().privileged:
        clear()
    else:
        from hutch.engine.networks import usernet

        process = usernet.reach() if any(members(network) for network in every()) else usernet.reach_running()
        if process is not None:
            with process:
                process.clear()
    gone = [network.name for network in every() if network.name != DEFAULT and not members(network)]
    for name in gone:
        remove(name)
    return gone


def clear() -> None:
    """Remove what dead containers have left in this network namespace."""
    from hutch.kernel.netlink.route import Route
    from hutch.network import attach, forwarding

    _sweep_policies()
    for network in every():
        if network.driver != spec.BRIDGE:
            continue  # what there is goes with the containers
        with Route() as socket:
            used = bool(members(network))
            if used and not network.internal:
                forwarding.allow(socket, locks(), ipv6=any(":" in item.subnet for item in network.subnets))
            attach.sweep(socket, network, lambda network=network: ports_of(network))  # type: ignore[misc]
        if not used:
            release(network)


def _sweep_policies() -> None:
    """Remove the tables of containers that are on no network any more. One that starts has its addresses before its table."""
    from hutch.kernel.netlink.route import Route
    from hutch.network import egress, nft

    tables = egress.tables(root())
    on_one = {container[:12] for network in every() for container in members(network)}
    with Route() as socket:  # of a container whose executor was killed, processes may still be about
        there = {link.name for link in socket.links()}
    for container in tables:
        if container not in on_one and not any(spec.is_port(name) and name[1:13] == container for name in there):
            nft.drop_table("inet", egress.table_name(root(), container))


def reclaim(network: Network, *, even_held: bool = False) -> None:
    """Remove from the kernel what a network has there, if nobody holds it: for executors that were killed. `even_held`: those who hold it
    are on it no more."""
    if features().privileged:
        release(network, even_held=even_held)
        return
    from hutch.engine.networks import usernet

    process = usernet.reach_running()
    if process is not None:
        with process:
            process.release(network, even_held)


def release(network: Network, *, even_held: bool = False) -> None:
    """`reclaim`, in this network namespace."""
    from hutch.executor import undo
    from hutch.kernel.netlink.route import Route
    from hutch.network import bridge

    if even_held and network.driver == spec.BRIDGE:
        with Route() as socket:
            bridge.remove(socket, network)
    for operation in holds(network, "0" * 12):
        undo.let_go(operation)
