"""Networks without root: a network namespace of the user's own, in which the bridges are, with pasta as its way out.

Whoever is not root may do nothing to the host's network. In a user namespace of theirs (user_namespaces(7)) they are root, and a network
namespace that belongs to it is theirs. A process stands by in both, `hutch-usernet`, one for the containers of a data directory; it
does there what root does on the host, and ends with the last container. The containers' own user namespaces are made inside of it,
which gives it the right to put interfaces into them; and so their executors enter it first.

Ports are sockets of the host's as ever, and names are answered as ever: nothing of that needs rights.
"""

from __future__ import annotations

import time

from hutch import jsontext
from hutch.engine import networks
from hutch.errors import HutchError, UnsupportedError
from hutch.kernel.features import features, program
from hutch.network import resident
from hutch.network.attach import Connection, Endpoint
from hutch.network.egress import Policy, parse
from hutch.network.resident import Kind
from hutch.network.spec import Network, Subnet

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any, Self

KIND = Kind(socket=".usernet", module="hutch.engine.usernet_process")
LARGEST = 1 << 18  # bytes of a message
ENTER, ATTACH, NAMES, CLEAR, RELEASE, REFUSED = "enter", "attach", "names", "clear", "release", "refused"
NETLINK, TABLE = "netlink", "table"


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

    def names(self, namespace: int, guarded: bool, again: bool) -> tuple[socket.socket, ...]:
        """The name server's sockets in a container's namespace: UDP, TCP, and, for a container with a policy, the one that permits what was
        answered. Raises HutchError."""
        import socket

        _, fds = self._ask({"do": NAMES, "guarded": guarded, "again": again}, (namespace,))
        return tuple(socket.socket(fileno=fd) for fd in fds)

    def clear(self) -> None:
        """Remove what dead containers have left there."""
        self._ask({"do": CLEAR}, ())

    def release(self, network: Network) -> None:
        """Remove what the namespace has of a network, if nobody holds it."""
        self._ask({"do": RELEASE, "network": network_to_plain(network)}, ())

    def refused(self, table: str) -> tuple[int, int] | None:
        """(packets, bytes) that the policy of a table has refused; None for none."""
        found = self._ask({"do": REFUSED, "table": table}, ())[0]["found"]
        return (int(found[0]), int(found[1])) if found is not None else None

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
    deadline = time.monotonic() + resident.PATIENCE
    while time.monotonic() < deadline:
        connection = resident.start(networks.root(), KIND) or resident.connect(networks.root(), KIND)
        if connection is not None:
            return UserNetwork(connection)
        time.sleep(0.003)  # one is about to begin, or to end
    raise HutchError("network: the process of the user's network namespace does not answer")


def reach_running() -> UserNetwork | None:
    """A connection, if the process runs."""
    connection = resident.connect(networks.root(), KIND) if resident.running(networks.root(), KIND) else None
    return UserNetwork(connection) if connection is not None else None


def missing() -> str:
    """What this host lacks for networks without root; "" for nothing."""
    if not features().user_namespaces:
        return "user namespaces"
    return "" if program("pasta") else "pasta"


def check() -> None:
    """Raises UnsupportedError where networks without root cannot be."""
    lacking = missing()
    if lacking == "pasta":
        raise UnsupportedError("network: without root, pasta is the way out, and it is not installed", "install it (Debian: passt), or --network none, or host")
    if lacking:
        raise UnsupportedError(f"network: without root, networks need {lacking}, which this kernel does not let users make", "--network host, or none")


def host_address() -> str:
    """The host as its users' containers see it: by an address that is not its loopback's. "" where it has none."""
    from hutch.kernel.netlink.route import Route

    with Route() as socket:
        up = {link.index for link in socket.links() if link.up and link.name != "lo" and not link.name.startswith("hutch-")}
        return next((item.address for item in socket.addresses() if item.index in up and ":" not in item.address), "")


# as it is sent


def network_to_plain(network: Network) -> dict[str, Any]:
    """A network as JSON's types."""
    return {**network.as_dict(), "subnets": [subnet.as_dict() for subnet in network.subnets]}


def network_of(data: dict[str, Any]) -> Network:
    """A network as it was sent."""
    return Network(**{**data, "subnets": tuple(Subnet(**item) for item in data["subnets"])})


def to_plain(connection: Connection) -> dict[str, Any]:
    """A connection as JSON's types."""
    allowed = connection.policy.allowed
    return {
        "places": [[network_to_plain(network), {**endpoint.as_dict(), "addresses": list(endpoint.addresses)}] for network, endpoint in connection.places],
        "allowed": None if allowed is None else [str(item) for item in allowed],
        "guard": connection.guard,
    }


def connection_of(data: dict[str, Any]) -> Connection:
    """A connection as it was sent."""
    places = tuple((network_of(network), Endpoint(**{**endpoint, "addresses": tuple(endpoint["addresses"])})) for network, endpoint in data["places"])
    allowed = data["allowed"]
    return Connection(places=places, policy=Policy() if allowed is None else parse(allowed or ("none",)), guard=data["guard"])
