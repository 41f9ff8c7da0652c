"""Networks of a container that runs already: `hutch network connect` and `disconnect`.

The place on a network is held as it is for containers that start there: by an executor, one of its own, which lasts as long as the
container does, and gives back what it has. Its plan is `plan`.
"""

from __future__ import annotations

import fcntl
import os
import signal

from hutch.engine.networks import definitions, joining, naming, reclaiming, resolver, usernet
from hutch.engine.records import live, state
from hutch.engine.records.facts import settings_from
from hutch.engine.spec.settings import CONTAINER, Attachment
from hutch.errors import HutchError, StateError, UnsupportedError, UsageError
from hutch.executor.launcher import FIRST_EXTRA, Execution
from hutch.kernel.features import features
from hutch.kernel.netlink import codec, route
from hutch.network import attach, egress, leases, spec
from hutch.network.attach import Connection, Endpoint
from hutch.network.spec import Network
from hutch.plan import ops
from hutch.plan.plan import Plan
from hutch.runtime.identity import user_network_operations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from hutch.engine.networks.definitions import Member
    from hutch.engine.networks.usernet import UserNetwork
    from hutch.engine.records.state import Running
    from hutch.engine.spec.settings import Settings
    from hutch.kernel.netlink.route import Route

MOST = 16  # networks of a container: one digit of the name of a pair's end
MAKE = "make the pair of interfaces"
CONTAINER_PROCESS = ops.slot("container")


def connect(name: str, container: str, *, ip: str = "", ip6: str = "", mac_address: str = "", aliases: Iterable[str] = ()) -> str:
    """Connect a running container, by its name or id, to another network; the name of its interface there.

    Raises StateError for one that is on the network already, ContainerGone for one that has ended, UsageError for addresses that cannot be.
    """
    if name == definitions.DEFAULT:
        definitions.establish()
    wanted = joining.joining_of(Attachment(network=name, ip=ip, ip6=ip6, mac_address=mac_address, aliases=tuple(aliases)))
    with Connected(container) as there:
        return there.connect(wanted)


def disconnect(name: str, container: str) -> None:
    """Take a running container off a network. Raises StateError for one that is not on it."""
    network = definitions.get(name)
    with Connected(container) as there:
        there.disconnect(network)


def plan(network: Network, container: str, number: int, *, user_network: bool = False) -> Plan:
    """What holds a container's place on a network from now on. `user_network`: inside of the user's own namespaces."""
    port = spec.port_name(container, number)
    kind, flags, body = route.del_link(name=port)
    own: list[ops.Operation] = [ops.Inherit(into=CONTAINER_PROCESS, number=FIRST_EXTRA, origin="network")]
    if user_network:
        own += user_network_operations(FIRST_EXTRA + 1)
    for held in definitions.holds(network, container, number):
        # the pair outlives a `connect` that is killed half way, if nobody takes it away
        own.append(held.replace(own=((0, codec.message(kind, flags, body)), *held.own)) if held.own else held)
    return Plan(host=(*own, ops.CallOwner(request=MAKE, origin="network"), ops.Watch(process=CONTAINER_PROCESS, origin="network")), container=(), detach=True)


class Connected:
    """A container that runs, and its networks, while they are changed: by nobody else at the same time."""

    def __init__(self, container: str) -> None:
        self.running: Running = state.find(container)
        self.name = self.running.name or self.running.id
        self.settings: Settings = settings_from(self.running.data["settings"])
        self._policy = egress.parse(self.settings.egress)
        self._fds: list[int] = []
        self._user_network: UserNetwork | None = None
        if self.settings.network == "host" or self.settings.network.startswith(CONTAINER):
            raise UsageError(f"network: container {self.name} has no network of its own: it is on {self.settings.network}'s")
        if "machine" in self.running.data:
            raise UnsupportedError(f"network: container {self.name} is in a machine, whose interfaces come and go with it", "--network NAME at its start")
        if not features().privileged and not self.settings.attachments:
            raise UnsupportedError(
                f"network: container {self.name} was started without a network, and without root none can be added", "--network bridge at its start"
            )
        try:
            self._pidfd = self._keep(live.open_pidfd(self.running))
            self._namespace = self._keep(os.open(f"/proc/{self.running.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            signal.pidfd_send_signal(self._pidfd, 0)  # its process, still: so the namespace is its own
            fcntl.flock(self._keep(os.open(self.running.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)), fcntl.LOCK_EX)
            if not features().privileged:
                self._user_network = usernet.reach()
            self._memberships = definitions.memberships(self.running.id)
        except (FileNotFoundError, ProcessLookupError):
            self.close()
            raise StateError(f"container {self.name}: has just ended") from None
        except BaseException:
            self.close()
            raise

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others change it."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        if self._user_network is not None:
            self._user_network.close()

    def _member(self, network: Network) -> Member | None:
        return next((member for other, member in self._memberships if other.id == network.id), None)

    def _inside(self) -> Route:
        with usernet.Host() as host:
            return host.route_in(self._namespace)

    # on

    def connect(self, wanted: joining.Joining) -> str:
        """Join a network; the interface's name."""
        network = wanted.network
        if self._member(network) is not None:
            raise StateError(f"network {network.name}: container {self.name} is on it already")
        joining.check_policy(network, self.settings)
        with self._inside() as inside:
            number = self._free_number(inside)
            place = joining.Place(wanted, self.running.id, number, default=False)
            try:
                self._hold(place, inside)
                if not network.internal:
                    attach.lead_out(inside, network, place.endpoint.interface)
            finally:
                place.close()
        self._memberships.append((network, definitions.Member(addresses=place.endpoint.addresses, tenant=place.tenant)))
        self._tell(network)
        if naming.has_names(network):
            resolver.change(self.running, self.settings, tuple(joining.Joining(network=item) for item, _ in self._memberships))
        return place.endpoint.interface

    def _free_number(self, inside: Route) -> int:
        taken = {link.name for link in inside.links()} | {f"eth{member.number}" for _, member in self._memberships}
        number = next((number for number in range(MOST) if f"eth{number}" not in taken), None)
        if number is None:
            raise UsageError(f"container {self.name}: is on {MOST} networks, which is the most")
        return number

    def _connection(self, network: Network, endpoint: Endpoint) -> Connection:
        guard = naming.guard_of(self.running.id, self._policy)
        return Connection(locks=definitions.locks(), places=((network, endpoint),), policy=self._policy, guard=guard, later=True)

    def _hold(self, place: joining.Place, inside: Route) -> None:
        own = self._user_network.enter() if self._user_network is not None else ()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        failed: list[Exception] = []

        def on_call(_: str, __: int, executor: int) -> None:
            place.held_by(executor)
            connection = self._connection(place.network, place.endpoint)
            try:
                joining.make(connection, self._namespace, inside.fileno(), self._pidfd, self._user_network)
            except HutchError as error:
                failed.append(error)
                raise

        try:
            holding = plan(place.network, self.running.id, place.tenant.number, user_network=bool(own))
            extra = (self._pidfd, *own, *place.fds)
            with Execution(holding, stdin=null, stdout=null, stderr=null, extra=extra, on_call=on_call) as execution:
                execution.wait_ready()
                if not execution.ready:
                    raise StateError(f"container {self.name}: has just ended")
                execution.detach()
        except HutchError:
            if failed:
                raise failed[0] from None  # in its own words, not in those of an executor that was told of it
            raise
        finally:
            for fd in (*own, null):
                os.close(fd)

    # off

    def disconnect(self, network: Network) -> None:
        """Leave a network."""
        member = self._member(network)
        if member is None:
            raise StateError(f"network {network.name}: container {self.name} is not on it", f"`hutch network inspect {network.name}` lists who is")
        if not member.number and not member.tenant.holder and self.running.data.get("ports"):
            # whoever has the address next would be what they lead to
            raise StateError(f"network {network.name}: the published ports of container {self.name} lead to its address there", "`hutch stop` it")
        connection = self._connection(network, member.endpoint)
        self._memberships = [item for item in self._memberships if item[1] is not member]
        with self._inside() as inside:
            if self._user_network is not None:
                self._user_network.detach(connection)
            else:
                attach.disconnect(connection, inside.fileno(), {f"eth{other.number}" for _, other in self._memberships})
            for number in range(len(network.subnets)):
                for address in member.addresses:
                    leases.drop(definitions.leases_of(network, number), address, self.running.id)
            if member.tenant.holder:
                _end(member.tenant.holder)
            for other, theirs in self._memberships:
                if not other.internal:
                    attach.lead_out(inside, other, f"eth{theirs.number}")
        self._tell(network)
        if not definitions.members(network):
            reclaiming.reclaim(network)

    # names

    def _tell(self, network: Network) -> None:
        """Tell the name server of what has changed by a network."""
        known = naming.known_of(self.running.id, self.settings, self._memberships)
        always = naming.has_names(network)  # it has known of the container, then
        dns = self.settings.dns
        if naming.register(self.running.id, known, dns, self._policy, self._pidfd, self._namespace, self._user_network, again=True, always=always):
            naming.revive()


def _end(pid: int) -> None:
    """End the executor that held a place: what it would do at its end has been done."""
    from hutch.executor import undo

    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
            if file.read().strip() == "hutch-executor":
                undo.kill_process(pidfd)
    except OSError:
        pass  # it has just ended
    finally:
        os.close(pidfd)
