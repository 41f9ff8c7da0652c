"""How a container joins its networks: addresses before its start, interfaces while it waits, names when it runs."""

from __future__ import annotations

import os

from hutch.engine.networks import definitions
from hutch.engine.networks.naming import Known, guard_of, has_names, names_of, register, revive
from hutch.engine.spec.settings import CONTAINER
from hutch.errors import StateError, UnsupportedError, UsageError
from hutch.kernel.features import features
from hutch.network import egress, leases, spec
from hutch.network.attach import Connection, connect
from hutch.network.leases import Tenant
from hutch.network.spec import Network
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.engine.networks.usernet import UserNetwork
    from hutch.engine.spec.settings import Attachment, Settings
    from hutch.network.leases import Lease
    from hutch.plan import ops

ALIAS_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


class Joining(Record):
    """What a container asks of one of its networks: fixed addresses, a MAC, names beside its own."""

    network: Network
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()


class Place:
    """A container's place on a network, from before its start: addresses that are its own as long as somebody holds `fds`."""

    def __init__(self, joining: Joining, container: str, number: int, default: bool) -> None:
        from hutch.network.attach import endpoint_of

        self.network = joining.network
        self._leases: list[Lease] = []
        self.tenant = Tenant(container=container, number=number, mac=joining.mac, aliases=joining.aliases)
        try:
            for count, subnet in enumerate(self.network.subnets):
                wanted = joining.ip6 if ":" in subnet.subnet else joining.ip
                self._leases.append(leases.take(definitions.leases_of(self.network, count), subnet, self.tenant, wanted))
        except BaseException:
            self.close()
            raise
        self.endpoint = endpoint_of(container, number, tuple(lease.address for lease in self._leases), joining.mac).replace(default=default)

    @property
    def fds(self) -> tuple[int, ...]:
        """To be handed to the executor."""
        return tuple(lease.fd for lease in self._leases)

    @property
    def address(self) -> str:
        """The IPv4 one."""
        return next(address for address in self.endpoint.addresses if ":" not in address)

    def held_by(self, holder: int) -> None:
        """Say which process holds the addresses, where that is not the container's executor."""
        for lease in self._leases:
            lease.sign(self.tenant.replace(holder=holder))

    def close(self) -> None:
        """Let go of the addresses, here. Safe to call twice."""
        for lease in self._leases:
            lease.close()
        self._leases = []


class Places:
    """All of a container's places, and its names on them."""

    def __init__(self, joinings: tuple[Joining, ...], container: str, s: Settings) -> None:
        self._container, self._names, self._upstream = container, names_of(container, s), s.dns
        self._policy = egress.parse(s.egress)
        self._joinings, self._machine = joinings, s.isolation == "vm"
        self.places: list[Place] = []
        way_out = way_out_of(joinings)
        try:
            for number, item in enumerate(joinings):
                self.places.append(Place(item, container, number, number == way_out))
        except BaseException:
            self.close()
            raise

    @property
    def fds(self) -> tuple[int, ...]:
        """To be handed to the executor."""
        return tuple(fd for place in self.places for fd in place.fds)

    @property
    def address(self) -> str:
        """The first network's IPv4 one."""
        return self.places[0].address

    def attach(self, pid: int, netlink: int, user_network: UserNetwork | None) -> None:
        """Connect a container's process, which waits meanwhile; in the user's own network, where there is one."""
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            connection = Connection(
                locks=definitions.locks(),
                places=tuple((place.network, place.endpoint) for place in self.places),
                policy=self._policy,
                guard=guard_of(self._container, self._policy),
            )
            pidfd = os.pidfd_open(pid)
            try:
                make(connection, namespace, netlink, pidfd, user_network)
                known = [
                    Known(network=item.network, names=(*self._names, *item.aliases), addresses=place.endpoint.addresses)
                    for item, place in zip(self._joinings, self.places, strict=True)
                ]
                started = register(self._container, known, self._upstream, self._policy, pidfd, namespace, user_network, machine=self._machine)
            finally:
                os.close(pidfd)
        finally:
            os.close(namespace)
        if started and len({container for item in self._joinings for container in definitions.members(item.network)}) > 1:
            revive()

    def close(self) -> None:
        """Let go of the addresses, here. Safe to call twice."""
        for place in self.places:
            place.close()


def make(connection: Connection, namespace: int, netlink: int, pidfd: int, user_network: UserNetwork | None) -> None:
    """Connect a container, by descriptors of its network namespace, of a netlink socket that was opened there, and of its process."""
    if user_network is None:
        connect(connection, namespace, netlink)
    else:
        user_network.attach(connection, namespace, netlink, pidfd)


def way_out_of(joinings: tuple[Joining, ...]) -> int:
    """Which network the default route leads by: the first one that leads out; -1 for none."""
    return next((number for number, item in enumerate(joinings) if not item.network.internal), -1)


def joinings(s: Settings) -> tuple[Joining, ...]:
    """What a request for networks means. Raises StateError, UsageError, UnsupportedError; nothing is touched but the default
    network's file."""
    found = tuple(joining_of(item) for item in s.attachments)
    listed = [item.network.name for item in found]
    twice = next((name for name in listed if listed.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"network {twice}: is named twice")
    for item in found:
        check_policy(item.network, s)
    return found


def check_policy(network: Network, s: Settings) -> None:
    """Raises UnsupportedError for a network whose packets the host does not see, where they were to be judged."""
    if network.driver != spec.BRIDGE and egress.parse(s.egress).allowed is not None:
        raise UnsupportedError(f"egress: network {network.name}, of driver {network.driver}, leads past the host's rules", "a bridge does not")


def joining_of(wanted: Attachment) -> Joining:
    """What a request for one network means. Raises StateError, UsageError, UnsupportedError."""
    network = definitions.get(wanted.network)
    if not features().privileged and network.parent:
        raise UnsupportedError(f"network {network.name}: {network.driver} needs the host's interface {network.parent}, which root alone may use")
    if network.driver == spec.IPVLAN and wanted.mac_address:
        raise UsageError(f"mac-address: on network {network.name}, of driver ipvlan, all have the MAC of {network.parent}")
    if not features().privileged:
        from hutch.engine.networks import usernet

        usernet.check()
    families = {":" in subnet.subnet for subnet in network.subnets}
    for flag, text, six in (("ip", wanted.ip, False), ("ip6", wanted.ip6, True)):
        if text and six not in families:
            raise UsageError(f"{flag} {text}: network {network.name} has no IPv{6 if six else 4}")
    if wanted.mac_address:
        from hutch.kernel.netlink import addresses

        try:
            first = addresses.mac(wanted.mac_address)[0]
        except ValueError as error:
            raise UsageError(f"mac-address: {error}") from None
        if first & 1:
            raise UsageError(f"mac-address {wanted.mac_address}: is a group's, not an interface's")
    if wanted.aliases and not has_names(network):
        raise UsageError(f"network-alias {wanted.aliases[0]}: the network {network.name} has no names", "`hutch network create NAME` makes one that has")
    for alias in wanted.aliases:
        if not alias or len(alias) > 63 or set(alias) - ALIAS_CHARACTERS:
            raise UsageError(f"network-alias {alias!r}: expected up to 63 letters, digits, - and _")
    return Joining(network=network, ip=wanted.ip, ip6=wanted.ip6, mac=wanted.mac_address, aliases=wanted.aliases)


def holds(joinings: tuple[Joining, ...], container: str, s: Settings) -> tuple[ops.HoldShared, ...]:
    """What a container's plan holds of its networks."""
    found: list[ops.HoldShared] = []
    guard = guard_of(container, egress.parse(s.egress))
    for number, item in enumerate(joinings):
        found += [operation for operation in definitions.holds(item.network, container, number, guard="" if number else guard) if operation not in found]
    return tuple(found)


def lent(s: Settings) -> tuple[ops.ReturnDevice, ...]:
    """The interfaces that a container gives back, as they are now. Raises UsageError, UnsupportedError."""
    from hutch.kernel.netlink import codec, route
    from hutch.plan import ops
    from hutch.runtime.lifecycle import NETWORK_NAMESPACE

    if not features().privileged:
        raise UnsupportedError(f"network device:{s.net_devices[0][0]}: an interface is lent by root alone")
    found = []
    with route.Route() as socket:
        for outside, inside in s.net_devices:
            link = socket.link(outside)
            if link is None:
                raise UsageError(f"network device:{outside}: this host has no such interface", "`ip link` lists them")
            if outside == "lo" or inside == "lo":
                raise UsageError(f"network device:{outside}: every container has a loopback interface of its own")
            kept = [item for item in socket.addresses(link.index) if item.flags & route.IFA_F_PERMANENT and item.scope == route.RT_SCOPE_UNIVERSE]
            messages = (route.new_address(0, item.address, item.prefix, peer=item.peer, broadcast=item.broadcast, scope=item.scope) for item in kept)
            addresses = tuple(codec.message(kind, flags, body) for kind, flags, body in messages)
            found.append(ops.ReturnDevice(namespace=NETWORK_NAMESPACE, inside=inside, outside=outside, up=link.up, addresses=addresses, origin="network"))
    names_ = [name for pair in s.net_devices for name in pair[:1]] + [f"-{pair[1]}" for pair in s.net_devices]
    if len(set(names_)) != len(names_):
        raise UsageError("network device: an interface or a name is there twice")
    own = {f"eth{number}" for number in range(len(s.attachments))}
    for outside, inside in s.net_devices:
        if inside in own:
            raise UsageError(f"network device:{outside}: {inside} is the container's interface on a network", f"device:{outside}:name=NAME")
    return tuple(found)


def shared(s: Settings) -> Settings:
    """With the network namespace of the container that is named. Raises StateError, UsageError, UnsupportedError."""
    from hutch.engine.records import state

    other = state.find(s.network.removeprefix(CONTAINER))
    if not other.pid:
        raise StateError(f"network {s.network}: the container has ended")
    if not features().privileged:
        raise UnsupportedError(
            f"network {s.network}: without root, a network namespace that is there already cannot be entered", "a network of their own for both"
        )
    if other.data["settings"].get("network") == "host":
        return s.replace(network="host")
    if "machine" in other.data:
        raise UnsupportedError(f"network {s.network}: that container is in a machine, and its network with it", "--network NAME for both")
    return s.replace(network=f"{CONTAINER}{other.id}", network_path=f"/proc/{other.pid}/ns/net")
