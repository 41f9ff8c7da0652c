"""Networks without root: a network namespace of the user's own, in which the bridges are, with pasta as its way out.

Whoever is not root may do nothing to the host's network. In a user namespace of theirs (user_namespaces(7)) they are root, and a network
namespace that belongs to it is theirs. A process stands by in both, `hutch-usernet`, one for the containers of a data directory; it
does there what root does on the host, and ends with the last container. The containers' own user namespaces are made inside of it,
which gives it the right to put interfaces into them; and so their executors enter it first.

Ports are sockets of the host's as ever, and names are answered as ever: nothing of that needs rights.
"""

from __future__ import annotations

import os

from hutch import jsontext
from hutch.engine.networks import definitions
from hutch.errors import HutchError, UnsupportedError
from hutch.helpers import resident
from hutch.helpers.resident import Kind
from hutch.kernel.features import features, program
from hutch.network import nft
from hutch.network.attach import Connection, Endpoint
from hutch.network.egress import parse
from hutch.network.spec import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any, Self

    from hutch.kernel.netlink.route import Route

KIND = Kind(socket=".usernet", module="hutch.engine.networks.usernet_process")
LARGEST = 1 << 18  # bytes of a message
ENTER, ATTACH, DETACH, NAMES, CLEAR, RELEASE, NETLINK, TABLE = "enter", "attach", "detach", "names", "clear", "release", "netlink", "table"


class UserNetwork:
    """A connection to the process, which is started if there is none. It stays for as long as there is one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()

    def enter(self) -> tuple[int, int]:
        """Descriptors of its (user namespace, network namespace). Raises HutchError."""
        _, fds = self._ask({"do": ENTER}, ())
        if len(fds) != 2:
            raise HutchError("network: the process of the user's network namespace gave no namespaces")
        return fds[0], fds[1]

    def attach(self, connection: Connection, namespace: int, netlink: int, pidfd: int) -> None:
        """Connect a container, by descriptors of its network namespace, of a netlink socket that was opened there, and of its process, with
        which it goes. Raises HutchError."""
        self._ask({"do": ATTACH, "connection": to_plain(connection)}, (namespace, netlink, pidfd))

    def names(self, namespace: int, guarded: bool, again: bool, machine: bool) -> tuple[socket.socket, ...]:
        """The name server's sockets in a container's namespace: UDP, TCP, and, for a container with a policy, the one that permits what was
        answered. Raises HutchError."""
        import socket

        _, fds = self._ask({"do": NAMES, "guarded": guarded, "again": again, "machine": machine}, (namespace,))
        return tuple(socket.socket(fileno=fd) for fd in fds)

    def clear(self) -> None:
        """Remove what dead containers have left there."""
        self._ask({"do": CLEAR}, ())

    def release(self, network: Network, even_held: bool) -> None:
        """Remove what the namespace has of a network, if nobody holds it, or by force."""
        self._ask({"do": RELEASE, "network": network.plain(), "even_held": even_held}, ())

    def detach(self, connection: Connection) -> None:
        """Undo `attach`, of a container that goes on."""
        self._ask({"do": DETACH, "connection": to_plain(connection)}, ())

    def netlink(self, namespace: int) -> int:
        """A netlink socket's descriptor, in a container's network namespace (by its descriptor), or in this one (-1)."""
        return self._ask({"do": NETLINK}, (namespace,) if namespace >= 0 else ())[1][0]

    def table(self, family: str, name: str) -> list[dict[str, Any]]:
        """An nftables table; nothing where it is not there."""
        found: list[dict[str, Any]] = self._ask({"do": TABLE, "family": family, "table": name}, ())[0]["found"]
        return found

    def _ask(self, request: dict[str, Any], fds: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
        import socket

        try:
            socket.send_fds(self._connection, [jsontext.dumps(request).encode()], fds)
            data, found, _, _ = socket.recv_fds(self._connection, LARGEST, 4)
        except OSError as error:
            raise HutchError(f"network: the process of the user's network namespace: {error.strerror or error}") from None
        if not data:
            raise HutchError("network: the process of the user's network namespace has ended", "`hutch network prune` clears up; try again")
        answer = jsontext.loads(data.decode())
        if "error" in answer:
            kind = UnsupportedError if answer.get("unsupported") else HutchError
            raise kind(str(answer["error"]), answer.get("hint"))
        return answer, list(found)


def reach() -> UserNetwork:
    """A connection; the process is started if there is none. Raises HutchError, UnsupportedError."""
    check()
    for connection, _ in resident.attempts(definitions.root(), KIND):
        return UserNetwork(connection)
    raise HutchError("network: the process of the user's network namespace does not answer")


def reach_running() -> UserNetwork | None:
    """A connection, if the process runs."""
    connection = resident.connect(definitions.root(), KIND) if resident.running(definitions.root(), KIND) else None
    return UserNetwork(connection) if connection is not None else None


def check() -> None:
    """Raises UnsupportedError where networks without root cannot be."""
    if not features().user_namespaces:
        raise UnsupportedError("network: without root, networks need user namespaces, which this kernel does not let users make", "--network host, or none")
    if not program("pasta"):
        raise UnsupportedError("network: without root, pasta is the way out, and it is not installed", "install it (Debian: passt), or --network none, or host")


def host_address() -> str:
    """The host as its users' containers see it: by an address that is not its loopback's. "" where it has none."""
    from hutch.kernel.netlink.route import Route

    with Route() as socket:
        up = {link.index for link in socket.links() if link.up and link.name != "lo" and not link.name.startswith("hutch-")}
        return next((item.address for item in socket.addresses() if item.index in up and ":" not in item.address), "")


class Host:
    """The network namespace that the bridges are in: this one, or the user's own."""

    def __init__(self) -> None:
        self._process = None if features().privileged else reach_running()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.close()

    def route(self) -> Route:
        """A socket in it."""
        from hutch.kernel.netlink import route

        if self._process is None:
            return route.Route()
        return _taken(self._process.netlink(-1))

    def route_in(self, namespace: int) -> Route:
        """A socket in a container's, by a descriptor of it. Raises HutchError."""
        return entered(namespace) if self._process is None else _taken(self._process.netlink(namespace))

    def route_of(self, pid: int) -> Route:
        """A socket in a container's. Raises HutchError."""
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise HutchError(f"process {pid}: its network namespace: {error.strerror}") from None
        try:
            return self.route_in(namespace)
        finally:
            os.close(namespace)

    def table(self, family: str, name: str) -> list[dict[str, Any]]:
        """An nftables table, as libnftables-json(5) has it; nothing where it is not there."""
        if self._process is not None:
            return self._process.table(family, name)
        return nft.listed(family, name)


def _taken(fd: int) -> Route:
    from hutch.kernel.netlink import route

    try:
        return route.Route(fd)
    finally:
        os.close(fd)


def entered(namespace: int) -> Route:
    """A socket in a network namespace, by its descriptor. Raises HutchError."""
    from hutch.kernel import netns
    from hutch.kernel.netlink import route

    try:
        return netns.inside(namespace, route.Route)
    except OSError as error:
        raise HutchError(f"network namespace: {error.strerror}") from None


# as it is sent


def to_plain(connection: Connection) -> dict[str, Any]:
    """A connection as JSON's types."""
    return {
        "places": [[network.plain(), {**endpoint.as_dict(), "addresses": list(endpoint.addresses)}] for network, endpoint in connection.places],
        "locks": connection.locks,
        "egress": list(connection.policy.words),
        "guard": connection.guard,
        "later": connection.later,
    }


def connection_of(data: dict[str, Any]) -> Connection:
    """A connection as it was sent."""
    places = tuple((Network.of_plain(network), Endpoint(**{**endpoint, "addresses": tuple(endpoint["addresses"])})) for network, endpoint in data["places"])
    return Connection(locks=data["locks"], places=places, policy=parse(data["egress"]), guard=data["guard"], later=data["later"])
