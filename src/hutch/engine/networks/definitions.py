"""The definitions of networks, and who is on them.

A network is a file; the kernel has nothing of it until the first container joins, and nothing again when the last one has
left. `bridge` is there without being made: the network of those who name no other.
"""

from __future__ import annotations

import hashlib
import os
import time

from hutch import jsontext
from hutch.engine.spec import arguments
from hutch.errors import StateError, UsageError
from hutch.image.store.directories import data_root
from hutch.kernel.features import features
from hutch.network import leases, spec
from hutch.network.leases import Tenant
from hutch.network.spec import Network, Subnet
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hutch.network.attach import Endpoint
    from hutch.plan import ops

DEFAULT = "bridge"
DATA = "/var/lib/hutch"  # where root's networks are, unless told otherwise
FORWARDING = "/run/hutch-forwarding"


def default_id() -> str:
    """The id of the default network: the same each time it is made, and another one for each data directory on a host."""
    return hashlib.sha256(os.path.realpath(root()).encode("utf-8", "surrogateescape")).hexdigest()[:12]


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


def _taken(parent: str = "") -> list[str]:
    """Every subnet that is somebody's: of the other networks, and of this host's own addresses and routes; but for what it
    has for the neighbours on an interface `parent`."""
    from hutch.kernel.netlink.route import Route

    found = [subnet.subnet for network in every() for subnet in network.subnets]
    with Route() as socket:
        # what a bridge of ours has is a network's, which is listed already
        own = {link.index for link in socket.links() if link.name.startswith("hutch-") or link.name == parent}
        found += [f"{item.address}/{item.prefix}" for item in socket.addresses() if item.index not in own]
        found += [f"{item.destination}/{item.prefix}" for item in socket.routes() if item.destination and item.index not in own]
    return found


def create(
    name: str, *, subnets: Iterable[str] = (), gateways: Iterable[str] = (), ranges: Iterable[str] = (), ipv6: bool = False, internal: bool = False,
    mtu: int = 0, labels: Mapping[str, str] | None = None, driver: str = spec.BRIDGE, parent: str = "", mode: str = "",
) -> Network:  # fmt: skip
    """Make a network: a bridge, or with `driver` macvlan or ipvlan one on the interface `parent` of the host's, in a `mode` of the driver's.
    Subnets that are not given are chosen: free ones, of private addresses; who stands on an interface has to name those that are there.

    Raises UsageError for a name or addresses that cannot be, and for those that something else has.
    """
    spec.check_name(arguments.text("network", name))
    subnets, gateways, ranges = arguments.texts("subnets", subnets), arguments.texts("gateways", gateways), arguments.texts("ranges", ranges)
    mtu, labels = arguments.whole("mtu", mtu), arguments.text_by_name("labels", labels or {})
    ipv6, internal = arguments.flag("ipv6", ipv6), arguments.flag("internal", internal)
    if os.path.exists(f"{place_of(name)}/network") or name == DEFAULT:
        raise UsageError(f"network {name}: exists already")
    if mtu and not spec.MIN_MTU <= mtu <= spec.MAX_MTU:
        raise UsageError(f"mtu: expected {spec.MIN_MTU} to {spec.MAX_MTU}, got {mtu}")
    identity = os.urandom(6).hex()
    mode = _check_driver(driver, parent, mode, subnets, ipv6, internal)
    chosen = _subnets(identity, subnets, gateways, ranges, ipv6, _taken(parent))
    network = Network(
        name=name, id=identity, driver=driver, parent=parent, mode=mode, bridge="" if parent else spec.bridge_name(identity), subnets=chosen,
        mtu=mtu, internal=internal, labels=labels, created=time.time(),
    )  # fmt: skip
    if not _write(network):
        raise UsageError(f"network {name}: exists already")
    return network


def _check_driver(driver: str, parent: str, mode: str, subnets: tuple[str, ...], ipv6: bool, internal: bool) -> str:
    """The mode of a network on an interface; "" for a bridge. Raises UsageError."""
    from hutch.kernel.netlink.route import Route

    if driver == spec.BRIDGE:
        if parent or mode:
            raise UsageError(f"network: a bridge stands on no interface: {parent or mode!r} is for other drivers", "--driver macvlan")
        return ""
    if driver not in spec.MODES:
        raise UsageError(f"driver: {driver!r} is not known", f"bridge, {', '.join(spec.MODES)} are")
    if not parent:
        raise UsageError(f"network: {driver} stands on an interface of the host's, and none is named", "-o parent=eth0; `ip link` lists them")
    if mode and mode not in spec.MODES[driver]:
        raise UsageError(f"network: {driver} has no mode {mode!r}", f"{', '.join(spec.MODES[driver])} are known")
    if not spec.is_interface(parent):
        raise UsageError(f"network: {parent!r} is no interface's name", "`ip link` lists them")
    if internal:
        raise UsageError(f"network: {driver} leads to whoever is on {parent}: it cannot be internal", "a bridge can")
    families = {":" in subnet for subnet in subnets}
    if False not in families or (ipv6 and True not in families):
        missing = "subnet" if not subnets else f"IPv{4 if False not in families else 6} subnet"
        raise UsageError(
            f"network: {driver} has its parent's neighbours, whose {missing} has to be named", "--subnet, --gateway and --ip-range say what is free there"
        )
    with Route() as socket:
        if socket.link(parent) is None:
            raise UsageError(f"network: this host has no interface {parent}", "`ip link` lists them")
    return mode or spec.MODES[driver][0]


def _subnets(identity: str, given: tuple[str, ...], gateways: tuple[str, ...], ranges: tuple[str, ...], ipv6: bool, taken: list[str]) -> tuple[Subnet, ...]:
    import ipaddress

    def belongs(text: str, subnet: str) -> bool:
        try:
            return ipaddress.ip_network(text, strict=False).subnet_of(ipaddress.ip_network(subnet, strict=False))  # type: ignore[arg-type]
        except (ValueError, TypeError):
            return False

    texts = list(given)
    if not any(":" not in text for text in texts):
        texts.insert(0, spec.free_subnet(taken, "" if os.path.realpath(data_root()) == DATA else root()))
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


def establish() -> None:
    """Make the default network, if it is not there."""
    if not os.path.exists(f"{place_of(DEFAULT)}/network"):
        _write(_default())


def _default() -> Network:
    """The default network as it would be made now."""
    identity = default_id()
    subnets = _subnets(identity, (), (), (), False, _taken())
    return Network(name=DEFAULT, id=identity, bridge=spec.bridge_name(identity), subnets=subnets, created=time.time())


def get(name: str) -> Network:
    """A network by its name, or the beginning of its id; the default one as it would be, until it is made. Raises StateError."""
    found = _read(name) if name and not set(name) - spec.NAME_CHARACTERS else None
    if found is None and name == DEFAULT:
        found = _default()
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


def every() -> list[Network]:
    """Every network, by name."""
    return [found for name in sorted(os.listdir(root())) if (found := _read(name)) is not None]


class Member(Record):
    """A container on a network: its addresses, and what `hutch.network.leases.Tenant` says of it."""

    addresses: tuple[str, ...]
    tenant: Tenant

    @property
    def number(self) -> int:
        """Its interface's."""
        return self.tenant.number

    @property
    def endpoint(self) -> Endpoint:
        """Its place, as it was made."""
        from hutch.network.attach import endpoint_of

        return endpoint_of(self.tenant.container, self.number, self.addresses, self.tenant.mac)


def members(network: Network) -> dict[str, Member]:
    """Who is on a network, by the containers' ids."""
    found: dict[str, Member] = {}
    for number in range(len(network.subnets)):
        for address, tenant in leases.held(leases_of(network, number)):
            before = found[tenant.container].addresses if tenant.container in found else ()
            found[tenant.container] = Member(addresses=(*before, address), tenant=tenant)
    return dict(sorted(found.items()))


def memberships(container: str) -> list[tuple[Network, Member]]:
    """The networks that a container is on, in the order of its interfaces."""
    found = [(network, member) for network in every() if (member := members(network).get(container)) is not None]
    return sorted(found, key=lambda item: item[1].number)


def ports_of(network: Network) -> set[str]:
    """The host's ends of its members' pairs."""
    return {spec.port_name(container, member.number) for container, member in members(network).items()}


def leases_of(network: Network, number: int) -> str:
    """The directory of the addresses of a network's `number`-th subnet."""
    return f"{place_of(network.name)}/leases-{number}"


def locks() -> str:
    """What the names of the files begin with that are locked by all who need this host to forward: root's of every data directory, in
    this network namespace, whose settings they are. A user's are in a namespace of the user's own."""
    if not features().privileged or not os.access("/run", os.W_OK):
        return f"{root()}/.lock-"
    from hutch.image.store.content import boot_id
    from hutch.kernel.private import directory

    try:
        return f"{directory(FORWARDING)}/{boot_id()[:8]}-{os.stat('/proc/self/ns/net').st_ino}-"
    except OSError as error:
        raise StateError(f"{FORWARDING}: {error.strerror}") from None


def holds(network: Network, container: str, number: int = 0, *, guard: str = "") -> tuple[ops.HoldShared, ...]:
    """What a container's plan holds of its `number`-th network. `guard`: the table of its egress policy."""
    from hutch.network import hold

    return hold.holds(network, f"{place_of(network.name)}/lock", locks(), container, number, guard=guard)
