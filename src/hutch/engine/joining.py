"""How a container joins its networks: addresses before its start, interfaces while it waits, names when it runs."""

from __future__ import annotations

import os
import time

from hutch.engine import networks
from hutch.engine.settings import CONTAINER
from hutch.errors import HutchError, StateError, UnsupportedError, UsageError
from hutch.kernel.features import features
from hutch.network import egress, leases, names
from hutch.network.attach import Connection, connect
from hutch.network.egress import Policy
from hutch.network.spec import Network
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from hutch.engine.settings import Attachment, Settings
    from hutch.engine.usernet import UserNetwork
    from hutch.network.leases import Lease
    from hutch.plan import ops

YOUNG = 2.0  # seconds
HOST_GATEWAY = "host-gateway"
ALIAS_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
SYSTEMD_SERVERS = "/run/systemd/resolve/resolv.conf"


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

        self.network, self._joining = joining.network, joining
        self._leases: list[Lease] = []
        try:
            for count, subnet in enumerate(self.network.subnets):
                wanted = joining.ip6 if ":" in subnet.subnet else joining.ip
                self._leases.append(leases.take(f"{networks.place_of(self.network.name)}/leases-{count}", subnet, container, wanted))
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
        self._joinings = joinings
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
                places=tuple((place.network, place.endpoint) for place in self.places),
                policy=self._policy,
                guard=_guard(self._container, self._policy),
            )
            if user_network is None:
                connect(connection, namespace, netlink)
            else:
                pidfd = os.pidfd_open(pid)
                try:
                    user_network.attach(connection, namespace, netlink, pidfd)
                finally:
                    os.close(pidfd)
            known = [(item.network, (*self._names, *item.aliases), place.endpoint.addresses) for item, place in zip(self._joinings, self.places, strict=True)]
            started = _register(self._container, known, self._upstream, self._policy, pid, namespace, user_network)
        finally:
            os.close(namespace)
        if started and len({container for item in self._joinings for container, _ in networks.users(item.network)}) > 1:
            revive()

    def close(self) -> None:
        """Let go of the addresses, here. Safe to call twice."""
        for place in self.places:
            place.close()


def _register(container: str, known: Sequence[tuple[Network, tuple[str, ...], tuple[str, ...]]], upstream: tuple[str, ...],
    policy: Policy, pid: int, namespace: int, user_network: UserNetwork | None, *, again: bool = False,
) -> bool:  # fmt: skip
    """Tell the name server of a container: (network, names, addresses) of each of its networks. Whether it had to be started."""
    presences = tuple(
        names.Presence(network=network.name, names=own, addresses=addresses) for network, own, addresses in known if has_names(network)
    )  # fmt: skip
    if not presences and policy.allowed is None:
        return False
    forward = any(not network.internal for network, _, _ in known)
    registration = names.Registration(
        container=container, presences=presences, upstream=upstream, forward=forward, egress=policy.words, guard=_guard(container, policy)
    )
    sockets = names.sockets_in(namespace, again=again) if user_network is None else user_network.names(namespace, policy.allowed is not None, again)
    pidfd = -1
    try:
        pidfd = os.pidfd_open(pid)
        return names.register(networks.root(), registration, pidfd, sockets)
    finally:
        if pidfd >= 0:
            os.close(pidfd)
        for one in sockets:
            one.close()


def _guard(container: str, policy: Policy) -> str:
    """The table of a container's egress policy; "" for one that allows everything."""
    return "" if policy.allowed is None else egress.table_name(networks.root(), container)


def revive() -> None:
    """Have names again where the server was killed: it is started anew, with all containers that run. Those that have just been
    started are told of by who starts them."""
    if features().privileged:
        _revive(None)
        return
    from hutch.engine import usernet

    with usernet.reach() as user_network:
        _revive(user_network)


def _revive(user_network: UserNetwork | None) -> None:
    from hutch.engine import recorded, state

    listed = {network.name: network for network in networks.every()}
    on_it = {name: dict(networks.users(network)) for name, network in listed.items()}
    for running in state.containers():
        if running.status != "running" or time.time() - running.created < YOUNG:
            continue
        s = recorded.settings_of(running.data["settings"])
        known = [
            (listed[item.network], (*names_of(running.id, s), *item.aliases), on_it[item.network][running.id])
            for item in s.attachments
            if running.id in on_it.get(item.network, ())
        ]
        try:
            namespace = os.open(f"/proc/{running.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # it has just ended
        try:
            _register(running.id, known, s.dns, egress.parse(s.egress), running.pid, namespace, user_network, again=True)
        except HutchError:
            continue  # it is about to end
        finally:
            os.close(namespace)


def revive_if_lost() -> None:
    """`revive`, where there is no server and somebody who would ask it."""
    if not names.running(networks.root()) and any(networks.users(network) for network in networks.every()):
        revive()


def names_of(container: str, s: Settings) -> tuple[str, ...]:
    """By which others find a container on its networks: its name first, where it has one."""
    return tuple(dict.fromkeys(filter(None, (s.name, container, s.hostname))))


def has_names(network: Network) -> bool:
    """Whether containers find each other by name: not on the default network, as with Docker."""
    return network.name != networks.DEFAULT


def way_out_of(joinings: tuple[Joining, ...]) -> int:
    """Which network the default route leads by: the first one that leads out; -1 for none."""
    return next((number for number, item in enumerate(joinings) if not item.network.internal), -1)


def joinings(s: Settings) -> tuple[Joining, ...]:
    """What a request for networks means. Raises StateError, UsageError, UnsupportedError; nothing is touched but the default
    network's file."""
    found = tuple(_joining(item) for item in s.attachments)
    listed = [item.network.name for item in found]
    twice = next((name for name in listed if listed.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"network {twice}: is named twice")
    return found


def _joining(wanted: Attachment) -> Joining:
    network = networks.get(wanted.network)
    if not features().privileged:
        from hutch.engine import usernet

        usernet.check()
    families = {":" in subnet.subnet for subnet in network.subnets}
    for flag, text, six in (("ip", wanted.ip, False), ("ip6", wanted.ip6, True)):
        if text and six not in families:
            raise UsageError(f"{flag} {text}: network {network.name} has no IPv{6 if six else 4}")
    if wanted.mac_address:
        from hutch.kernel.netlink import route

        try:
            first = route.mac(wanted.mac_address)[0]
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
    guard = _guard(container, egress.parse(s.egress))
    for number, item in enumerate(joinings):
        found += [operation for operation in networks.holds(item.network, container, number, guard="" if number else guard) if operation not in found]
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


# the files by which programs find names


def shared(s: Settings) -> Settings:
    """With the network namespace of the container that is named. Raises StateError, UsageError, UnsupportedError."""
    from hutch.engine import state

    other = state.find(s.network.removeprefix(CONTAINER))
    if not other.pid:
        raise StateError(f"network {s.network}: the container has ended")
    if not features().privileged:
        raise UnsupportedError(
            f"network {s.network}: without root, a network namespace that is there already cannot be entered", "a network of their own for both"
        )
    if other.data["settings"].get("network") == "host":
        return s.replace(network="host")
    return s.replace(network=f"{CONTAINER}{other.id}", network_path=f"/proc/{other.pid}/ns/net")


def _other(s: Settings) -> tuple[Settings, tuple[Joining, ...], str]:
    """Of the container whose network namespace is shared: its settings, networks, and its line of /etc/hosts."""
    from hutch.engine import recorded, state

    other = state.find(s.network.removeprefix(CONTAINER))
    theirs = recorded.settings_of(other.data["settings"])
    found = joinings(theirs)
    address = next((addresses[0] for item in found[:1] for container, addresses in networks.users(item.network) if container == other.id), "")
    return theirs, found, f"{address}\t{theirs.hostname or other.id}\n" if address else ""


def hosts(s: Settings, joinings: tuple[Joining, ...], hostname: str, address: str) -> str:
    """The lines of /etc/hosts beside localhost's. Raises UsageError."""
    lines = f"{address}\t{hostname}\n" if joinings and hostname else ""
    if s.network_path:
        lines = _other(s)[2]
    for item in s.extra_hosts:
        name, _, place = item.replace("=", ":", 1).partition(":")
        place = place.removeprefix("[").removesuffix("]")
        if not name or not place or any(c.isspace() for c in item):
            raise UsageError(f"add-host: expected NAME:ADDRESS, got {item!r}")
        lines += f"{_host_gateway(s, joinings) if place == HOST_GATEWAY else place}\t{name}\n"
    return lines


def _host_gateway(s: Settings, joinings: tuple[Joining, ...]) -> str:
    if joinings and not features().privileged:
        from hutch.engine import usernet

        return usernet.host_address() or joinings[0].network.subnets[0].gateway
    if joinings:
        return joinings[0].network.subnets[0].gateway
    if s.network == "host":
        return "127.0.0.1"
    raise UsageError(f"add-host: {HOST_GATEWAY} is this host's address on the container's network, and it has none", "--network bridge")


def resolv_conf(s: Settings, joinings: tuple[Joining, ...]) -> str | None:
    """The resolver's settings (resolv.conf(5)): the network's own server, or else the host's less what only the host itself can ask.
    None leaves the image's."""
    if s.network == "none" and not s.net_devices:
        return ""
    if s.network_path and not (s.dns or s.dns_search or s.dns_options):
        theirs, found, _ = _other(s)
        return resolv_conf(theirs, found)
    text = _read("/etc/resolv.conf")
    own = bool(joinings) and (any(has_names(item.network) for item in joinings) or egress.parse(s.egress).allowed is not None)
    if text is None and not own and not s.dns:
        return None
    lines = [line.split() for line in (text or "").split("\n")]
    servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    search = next((words[1:] for words in reversed(lines) if words and words[0] in ("search", "domain")), [])
    options = [word for words in lines if words and words[0] == "options" for word in words[1:]]
    if s.network == "host" and not (s.dns or s.dns_search or s.dns_options):
        return text
    if own:
        servers, options = [names.ADDRESS], [*(word for word in options if not word.startswith("ndots:")), "ndots:0"]
    elif s.dns:
        servers = [*s.dns]
    elif joinings or s.net_devices:
        # the host's loopback is not the container's; behind it, systemd-resolved says whom it asks itself
        servers = _reachable(servers) or _reachable(
            [words[1] for line in (_read(SYSTEMD_SERVERS) or "").split("\n") if (words := line.split())[:1] == ["nameserver"] and words[1:]]
        )
    search = [] if s.dns_search == (".",) else [*s.dns_search] or search
    options = [*s.dns_options] or options
    out = [f"nameserver {server}" for server in servers]
    out += [f"search {' '.join(search)}"] if search else []
    out += [f"options {' '.join(options)}"] if options else []
    return "".join(f"{line}\n" for line in out)


def _reachable(servers: list[str]) -> list[str]:
    return [server for server in servers if not server.startswith("127.") and server != "::1"]


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return None
