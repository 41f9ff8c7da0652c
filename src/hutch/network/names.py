"""Names on networks: a small server, one process for all networks, from the first container's start to the last one's end.

It answers on sockets inside each container's network namespace, at 127.0.0.11 as Docker's does: no rule of the host's stands
between, nobody else can ask there, and the socket tells who asks. A container in a virtual machine is behind the wire of a tap
interface: it asks a link-local address that its namespace has on that. Who starts a container opens them, and sends them to the
server; the first one starts it. Queries wait in the sockets meanwhile.
"""

from __future__ import annotations

from hutch import jsontext
from hutch.errors import HutchError
from hutch.helpers import resident
from hutch.helpers.resident import Kind
from hutch.network import nft
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from hutch.network.nft import Rule

ADDRESS, PORT = "127.0.0.11", 53
MACHINE_ADDRESS = "169.254.53.53"  # RFC 3927: of no network that is routed
IP_FREEBIND = 15  # the address is given to the tap interface later (ip(7))
TABLE, MANGLE = "hutch-names", -150  # a table in the container's namespace, and its place (nft(8), "Base chain priorities")
KIND = Kind(socket=".names", module="hutch.network.server")
LARGEST = 65536  # bytes of a registration


class Presence(Record):
    """A container on one network: its `names` there, the first of which is its own, and its addresses."""

    network: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]


class Registration(Record):
    """A container as the server knows it. `upstream` are the servers that answer its other questions (those of this host where
    there are none). `forward`: whether they may be asked. `egress` is the container's
    egress policy, in words, and `guard` the table that enforces it."""

    container: str
    presences: tuple[Presence, ...]
    upstream: tuple[str, ...] = ()
    forward: bool = True
    egress: tuple[str, ...] = ()
    guard: str = ""

    def to_text(self) -> str:
        """As it is sent."""
        presences = [{"network": item.network, "names": list(item.names), "addresses": list(item.addresses)} for item in self.presences]
        return jsontext.dumps({"container": self.container, "presences": presences, "upstream": list(self.upstream), "forward": self.forward,
                               "egress": list(self.egress), "guard": self.guard})  # fmt: skip

    @classmethod
    def from_text(cls, text: str) -> Registration:
        """As it was sent. Raises ValueError, KeyError, TypeError for something else."""
        data = jsontext.loads(text)
        presences = tuple(Presence(network=item["network"], names=tuple(item["names"]), addresses=tuple(item["addresses"])) for item in data["presences"])
        return cls(container=data["container"], presences=presences, upstream=tuple(data["upstream"]), forward=data["forward"],
                   egress=tuple(data["egress"]), guard=data["guard"])  # fmt: skip


def sockets_in(namespace: int, *, again: bool = False, machine: bool = False) -> tuple[socket.socket, socket.socket]:
    """The server's two sockets (UDP, TCP) in a network namespace, by its descriptor; `again` where it has had some before, `machine`
    where those that ask are in a virtual machine behind it. Raises HutchError."""
    import socket

    from hutch.kernel import netns

    def make() -> tuple[socket.socket, socket.socket]:
        udp, tcp = found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            for one in found:
                if machine:
                    one.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((MACHINE_ADDRESS, PORT) if machine else (ADDRESS, 0))
            tcp.listen(64)
            if not machine:
                nft.run(_rules(udp.getsockname()[1], tcp.getsockname()[1], again))
        except BaseException:
            for one in found:
                one.close()
            raise
        return found

    try:
        return netns.inside(namespace, make)
    except OSError as error:
        raise HutchError(f"names: {ADDRESS} in the container: {error.strerror}") from None


def _rules(udp: int, tcp: int, again: bool) -> list[Rule]:
    """Questions to port 53 come to the server's ports, whatever else has that port in the container: a name server may run in one.
    Packets are rewritten one by one, so that the container's connections need no tracking."""
    table = nft.table("ip", TABLE)
    commands: list[Rule] = [{"add": table}, {"delete": table}] if again else []  # a removal, even of nothing, costs some 10 ms
    commands += [{"add": table}, {"add": nft.chain("ip", TABLE, "output", "filter", "output", MANGLE)}]
    for protocol, port in (("udp", udp), ("tcp", tcp)):
        for side, field, before, after in (("daddr", "dport", PORT, port), ("saddr", "sport", port, PORT)):
            key = nft.payload(protocol, field)
            found = (nft.match(nft.payload("ip", side), ADDRESS), nft.match(key, before), {"mangle": {"key": key, "value": after}})
            commands.append({"add": nft.rule("ip", TABLE, "output", *found)})
    return commands


def register(directory: str, registration: Registration, pidfd: int, sockets: tuple[socket.socket, ...]) -> bool:
    """Give a container's sockets (UDP, TCP, and one to a filler where it has one of its own) to the server, whose place is
    `directory`; it is started if there is none, and the answer says whether it was.

    The server keeps them until the container's process, by `pidfd`, ends. Raises HutchError."""
    import socket

    data = registration.to_text().encode()
    fds = [pidfd, *(one.fileno() for one in sockets)]
    for connection, started in resident.attempts(directory, KIND):
        with connection:
            try:
                socket.send_fds(connection, [data], fds)
                if started or connection.recv(1) == b"y":
                    return started
            except OSError:
                if started:
                    raise
    raise HutchError(f"names: the server of {directory} does not answer")


def running(directory: str) -> bool:
    """Whether there is a server."""
    return resident.running(directory, KIND)
