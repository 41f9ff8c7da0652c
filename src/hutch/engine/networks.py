"""Networks: `hutch.networks`.

A network is a file; the kernel has nothing of it until the first container joins, and nothing again when the last one has
left. `bridge` is there without being made: the network of those who name no other.
"""

from __future__ import annotations

import os
import time

from hutch import jsontext
from hutch.errors import HutchError, StateError, UsageError
from hutch.image.store import data_root
from hutch.kernel.features import features
from hutch.network import leases, spec
from hutch.network.spec import Network, Subnet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from hutch.plan import ops

DEFAULT = "bridge"
DEFAULT_ID = "0000b41d9e00"


def root() -> str:
    """The directory of all networks."""
    path = f"{data_root()}/networks"
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from None
    return path


def place_of(name: str) -> str:
    """The directory of a network."""
    return f"{root()}/{name}"


def _taken() -> list[str]:
    """Every subnet that is somebody's: of the other networks, and of this host's own addresses and routes."""
    from hutch.kernel.netlink.route import Route

    found = [subnet.subnet for network in every() for subnet in network.subnets]
    with Route() as socket:
        # what a bridge of ours has is a network's, which is listed already
        own = {link.index for link in socket.links() if link.name.startswith("hutch-")}
        found += [f"{item.address}/{item.prefix}" for item in socket.addresses() if item.index not in own]
        found += [f"{item.destination}/{item.prefix}" for item in socket.routes() if item.destination and item.index not in own]
    return found


def create(
    name: str, *, subnets: Iterable[str] = (), gateways: Iterable[str] = (), ranges: Iterable[str] = (), ipv6: bool = False, internal: bool = False,
    mtu: int = 0, labels: dict[str, str] | None = None,
) -> Network:  # fmt: skip
    """Make a bridge network. Subnets that are not given are chosen: free ones, of private addresses.

    Raises UsageError for a name or addresses that cannot be, and for those that something else has.
    """
    spec.check_name(name)
    if os.path.exists(f"{place_of(name)}/network") or name == DEFAULT:
        raise UsageError(f"network {name}: exists already")
    if mtu and not spec.MIN_MTU <= mtu <= spec.MAX_MTU:
        raise UsageError(f"mtu: expected {spec.MIN_MTU} to {spec.MAX_MTU}, got {mtu}")
    identity = os.urandom(6).hex()
    taken = _taken()
    network = Network(
        name=name, id=identity, bridge=spec.bridge_name(identity), subnets=_subnets(identity, tuple(subnets), tuple(gateways), tuple(ranges), ipv6, taken),
        mtu=mtu, internal=internal, labels=dict(labels or {}), created=time.time(),
    )  # fmt: skip
    if not _write(network):
        raise UsageError(f"network {name}: exists already")
    return network


def _subnets(identity: str, given: tuple[str, ...], gateways: tuple[str, ...], ranges: tuple[str, ...], ipv6: bool, taken: list[str]) -> tuple[Subnet, ...]:
    import ipaddress

    def belongs(text: str, subnet: str) -> bool:
        try:
            return ipaddress.ip_network(text, strict=False).subnet_of(ipaddress.ip_network(subnet, strict=False))  # type: ignore[arg-type]
        except (ValueError, TypeError):
            return False

    texts = list(given)
    if not any(":" not in text for text in texts):
        texts.insert(0, spec.free_subnet(taken))
    if ipv6 and not any(":" in text for text in texts):
        texts.append(spec.local_subnet(identity))
    if len([text for text in texts if ":" in text]) > 1 or len([text for text in texts if ":" not in text]) > 1:
        raise UsageError("network: expected one subnet of each family at most")
    for kind, words in (("gateway", gateways), ("ip-range", ranges)):
        for word in words:
            if not any(belongs(word, text) for text in texts):
                raise UsageError(f"{kind} {word}: lies in none of {', '.join(texts)}", "--subnet says which addresses the network has")
    found = []
    for text in texts:
        gateway = next((word for word in gateways if belongs(word, text)), "")
        subnet = spec.parse_subnet(text, gateway, next((word for word in ranges if belongs(word, text)), ""))
        other = spec.overlapping(subnet.subnet, taken)
        if other:
            raise UsageError(f"subnet {text}: overlaps with {other}, which this host or another network has")
        found.append(subnet)
    return tuple(found)


def _write(network: Network) -> bool:
    place = place_of(network.name)
    os.makedirs(place, mode=0o700, exist_ok=True)
    fresh = f"{place}/.{os.urandom(6).hex()}"
    with open(fresh, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(jsontext.dumps(network.plain()) + "\n")
    try:
        os.link(fresh, f"{place}/network")  # who comes second does not get it
    except FileExistsError:
        return False
    finally:
        os.unlink(fresh)
    return True


def get(name: str) -> Network:
    """A network by its name, or the beginning of its id. Raises StateError."""
    found = _read(name) if name and not set(name) - spec.NAME_CHARACTERS else None
    if found is None and name == DEFAULT:
        subnets = _subnets(DEFAULT_ID, (), (), (), False, _taken())
        _write(Network(name=DEFAULT, id=DEFAULT_ID, bridge=spec.bridge_name(DEFAULT_ID), subnets=subnets, created=time.time()))
        found = _read(name)
    if found is None:
        matching = [network for network in every() if len(name) >= 3 and network.id.startswith(name)]
        found = matching[0] if len(matching) == 1 else None
    if found is None:
        raise StateError(f"network {name!r}: does not exist", f"`hutch network create {name}` makes it; `hutch network ls` lists what there is")
    return found


def _read(name: str) -> Network | None:
    try:
        with open(f"{place_of(name)}/network", encoding="utf-8", errors="surrogateescape") as file:
            return Network.of_plain(jsontext.loads(file.read()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(f"network {name}: {place_of(name)}/network cannot be read: {error}", "remove the file") from None


def every() -> Iterator[Network]:
    """Every network, by name."""
    for name in sorted(os.listdir(root())):
        found = _read(name)
        if found is not None:
            yield found


def users(network: Network) -> list[tuple[str, tuple[str, ...]]]:
    """(container's id, its addresses) of those on a network."""
    found: dict[str, list[str]] = {}
    for number in range(len(network.subnets)):
        for address, container in leases.held(f"{place_of(network.name)}/leases-{number}"):
            found.setdefault(container, []).append(address)
    return [(container, tuple(addresses)) for container, addresses in sorted(found.items())]


def remove(name: str) -> None:
    """Remove a network. Raises StateError when there is none, or containers are on it."""
    network = get(name)
    found = users(network)
    if found:
        raise StateError(f"network {network.name}: container {found[0][0]} is on it", "`hutch stop` first")
    reclaim(network)
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
        from hutch.engine import usernet

        process = usernet.reach() if any(users(network) for network in every()) else usernet.reach_running()
        if process is not None:
            with process:
                process.clear()
    gone = [network.name for network in every() if network.name != DEFAULT and not users(network)]
    for name in gone:
        remove(name)
    return gone


def clear() -> None:
    """Remove what dead containers have left in this network namespace."""
    from hutch.kernel.netlink.route import Route
    from hutch.network import attach

    _sweep_policies()
    for network in every():
        if users(network):
            with Route() as socket:
                attach.sweep(socket, network)
        else:
            release(network)


def _sweep_policies() -> None:
    """Remove the tables of containers that are on no network any more. One that starts has its addresses before its table."""
    from hutch.kernel.netlink.route import Route
    from hutch.network import bridge, egress

    tables = egress.tables(root())
    on_one = {container[:12] for network in every() for container, _ in users(network)}
    with Route() as socket:  # of a container whose executor was killed, processes may still be about
        there = {link.name for link in socket.links()}
    for container in tables:
        if container not in on_one and spec.port_name(container, 0) not in there:
            bridge.drop_table("inet", egress.table_name(root(), container))


def reclaim(network: Network) -> None:
    """Remove from the kernel what a network has there, if nobody holds it: for executors that were killed."""
    if features().privileged:
        release(network)
        return
    from hutch.engine import usernet

    process = usernet.reach_running()
    if process is not None:
        with process:
            process.release(network)


def release(network: Network) -> None:
    """`reclaim`, in this network namespace."""
    from hutch.executor import undo

    for operation in holds(network, "0" * 12):
        undo.let_go(operation)


def holds(network: Network, container: str, number: int = 0, *, guard: str = "") -> tuple[ops.HoldShared, ...]:
    """What a container's plan holds of its `number`-th network. `guard`: the table of its egress policy."""
    if network.driver != "bridge":
        raise HutchError(f"network {network.name}: driver {network.driver!r} is not known")
    from hutch.network import hold

    return hold.holds(network, f"{place_of(network.name)}/lock", f"{root()}/.lock-", container, number, guard=guard)


def inspect(network: Network) -> dict[str, Any]:
    """As `hutch network inspect` prints it: Docker's names, as far as they fit."""
    from hutch.engine import usernet
    from hutch.network import egress

    on_it: dict[str, dict[str, Any]] = {
        container: {"IPv4Address": next((item for item in found if ":" not in item), ""), "IPv6Address": next((item for item in found if ":" in item), "")}
        for container, found in users(network)
    }
    with usernet.Host() as host:
        for container, entry in on_it.items():
            table = host.table("inet", egress.table_name(root(), container))
            if table:
                entry["EgressRefused"] = dict(zip(("Packets", "Bytes"), egress.refused(table), strict=True))
    pools = [{"Subnet": item.subnet, "Gateway": item.gateway, **({"IPRange": item.range} if item.range else {})} for item in network.subnets]
    return {
        "Name": network.name, "Id": network.id, "Driver": network.driver, "Internal": network.internal, "Bridge": network.bridge, "MTU": network.mtu,
        "EnableIPv6": any(":" in item.subnet for item in network.subnets), "IPAM": {"Driver": "default", "Config": pools},
        "Created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(network.created)), "Labels": network.labels, "Containers": on_it,
    }  # fmt: skip


def __getattr__(name: str) -> object:
    if name == "list":  # as everyone expects it: hutch.networks.list(); in here it is the type
        return every
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
