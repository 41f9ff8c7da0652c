"""Names on networks: a small server, one process for all networks, from the first container's start to the last one's end.

It answers on sockets inside each container's network namespace, at 127.0.0.11 as Docker's does: no rule of the host's stands
between, nobody else can ask there, and the socket tells who asks. Who starts a container opens them, and sends them to the
server; the first one starts it. Queries wait in the sockets meanwhile.
"""

from __future__ import annotations

import time

from hutch import jsontext
from hutch.errors import HutchError
from hutch.network import nft, resident
from hutch.network.resident import Kind
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from hutch.network.nft import Rule

ADDRESS, PORT = "127.0.0.11", 53
TABLE, MANGLE = "hutch-names", -150  # a table in the container's namespace, and its place (nft(8), "Base chain priorities")
KIND = Kind(socket=".names", module="hutch.network.server")
LARGEST = 65536  # bytes of a registration
CLONE_NEWNET = 0x40000000


class Presence(Record):
    """A container on one network: its `names` there, the first of which is its own, and its addresses."""

    network: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]


class Registration(Record):
    """A container as the server knows it. `upstream` are the servers that answer its other questions (those of this host where
    there are none). `forward`: whether they may be asked. `allowed` is what the container's egress
    policy names, in its order, None for everything, and `guard` the table that enforces it."""

    container: str
    presences: tuple[Presence, ...]
    upstream: tuple[str, ...] = ()
    forward: bool = True
    allowed: tuple[str, ...] | None = None
    guard: str = ""

    def to_text(self) -> str:
        """As it is sent."""
        presences = [{"network": item.network, "names": list(item.names), "addresses": list(item.addresses)} for item in self.presences]
        return jsontext.dumps({"container": self.container, "presences": presences, "upstream": list(self.upstream), "forward": self.forward,
                               "allowed": None if self.allowed is None else list(self.allowed), "guard": self.guard})  # fmt: skip

    @classmethod
    def from_text(cls, text: str) -> Registration:
        """As it was sent. Raises ValueError, KeyError, TypeError for something else."""
        data = jsontext.loads(text)
        presences = tuple(Presence(network=item["network"], names=tuple(item["names"]), addresses=tuple(item["addresses"])) for item in data["presences"])
        return cls(container=data["container"], presences=presences, upstream=tuple(data["upstream"]), forward=data["forward"],
                   allowed=None if data["allowed"] is None else tuple(data["allowed"]), guard=data["guard"])  # fmt: skip


def sockets_in(namespace: int, *, again: bool = False) -> tuple[socket.socket, socket.socket]:
    """The server's two sockets (UDP, TCP) in a network namespace, by its descriptor; `again` where it has had some before. Raises
    HutchError.

    A thread of its own enters the namespace (setns(2)) and ends: no other ever runs there."""
    import socket
    import threading

    from hutch.kernel import syscalls

    found: list[socket.socket] = []
    failed: list[BaseException] = []

    def enter() -> None:
        try:
            syscalls.setns(namespace, CLONE_NEWNET)
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                one = socket.socket(socket.AF_INET, kind)
                found.append(one)
                one.bind((ADDRESS, 0))
            found[1].listen(64)
            nft.run(_rules(found[0].getsockname()[1], found[1].getsockname()[1], again))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed:
        for one in found:
            one.close()
        if isinstance(failed[0], OSError):
            raise HutchError(f"names: {ADDRESS} in the container: {failed[0].strerror}")
        raise failed[0]
    return found[0], found[1]


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
    deadline = time.monotonic() + resident.PATIENCE
    while time.monotonic() < deadline:
        started = resident.start(directory, KIND)
        if started is not None:
            with started:
                socket.send_fds(started, [data], fds)
            return True
        connection = resident.connect(directory, KIND)
        if connection is not None:
            with connection:
                try:
                    socket.send_fds(connection, [data], fds)
                    if connection.recv(1) == b"y":
                        return False
                except OSError:
                    pass
        time.sleep(0.003)  # one is about to begin, or to end
    raise HutchError(f"names: the server of {directory} does not answer")


def running(directory: str) -> bool:
    """Whether there is a server."""
    return resident.running(directory, KIND)
