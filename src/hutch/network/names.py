"""Names on networks: a small server, one process for all networks, from the first container's start to the last one's end.

It answers on sockets inside each container's network namespace, at 127.0.0.11 as Docker's does: no rule of the host's stands
between, nobody else can ask there, and the socket tells who asks. Who starts a container opens them, and sends them to the
server; the first one starts it. Queries wait in the sockets meanwhile.
"""

from __future__ import annotations

import os
import time

from hutch import jsontext
from hutch.errors import HutchError
from hutch.network import nft
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from hutch.network.nft import Rule

ADDRESS, PORT = "127.0.0.11", 53
TABLE, MANGLE = "hutch-names", -150  # a table in the container's namespace, and its place (nft(8), "Base chain priorities")
FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
LOCK_FD, LISTENER_FD = 3, 4  # what the server is started with
SOCKET, LOCK = ".names", ".names.lock"  # no network can have such a name
LARGEST = 65536  # bytes of a registration
PATIENCE = 10.0  # seconds
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


def sockets_in(namespace: int) -> tuple[socket.socket, socket.socket]:
    """The server's two sockets (UDP, TCP) in a network namespace, by its descriptor. Raises HutchError.

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
            nft.run(_rules(found[0].getsockname()[1], found[1].getsockname()[1]))
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


def _rules(udp: int, tcp: int) -> list[Rule]:
    """Questions to port 53 come to the server's ports, whatever else has that port in the container: a name server may run in one.
    Packets are rewritten one by one, so that the container's connections need no tracking."""
    table = nft.table("ip", TABLE)
    commands = [{"add": table}, {"delete": table}, {"add": table}, {"add": nft.chain("ip", TABLE, "output", "filter", "output", MANGLE)}]
    for protocol, port in (("udp", udp), ("tcp", tcp)):
        for side, field, before, after in (("daddr", "dport", PORT, port), ("saddr", "sport", port, PORT)):
            key = nft.payload(protocol, field)
            found = (nft.match(nft.payload("ip", side), ADDRESS), nft.match(key, before), {"mangle": {"key": key, "value": after}})
            commands.append({"add": nft.rule("ip", TABLE, "output", *found)})
    return commands


def register(directory: str, registration: Registration, pidfd: int, sockets: tuple[socket.socket, socket.socket]) -> bool:
    """Give a container's sockets to the server, whose place is `directory`; it is started if there is none, and the answer says
    whether it was.

    The server keeps them until the container's process, by `pidfd`, ends. Raises HutchError."""
    data = registration.to_text().encode()
    fds = [pidfd, sockets[0].fileno(), sockets[1].fileno()]
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if _start(directory, data, fds):
            return True
        if _tell(directory, data, fds):
            return False
        time.sleep(0.003)  # one is about to begin, or to end
    raise HutchError(f"names: the server of {directory} does not answer")


def running(directory: str) -> bool:
    """Whether there is a server."""
    from hutch.kernel.locks import locked

    return locked(f"{directory}/{LOCK}")


def _start(directory: str, data: bytes, fds: list[int]) -> bool:
    """Start a server, if nobody else has one; whether it was."""
    import fcntl
    import socket

    lock = os.open(f"{directory}/{LOCK}", FLAGS, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as own:
                path = f"/proc/self/fd/{place}/{SOCKET}"  # a socket's path has room for 107 bytes, a directory's for more
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
                listener.bind(path)
                listener.listen(4096)
                own.connect(path)
                socket.send_fds(own, [data], fds)
                _spawn(lock, listener.fileno())
        finally:
            os.close(place)
    except OSError as error:
        raise HutchError(f"names: {directory}: {error.strerror}") from None
    finally:
        os.close(lock)
    return True


def _spawn(lock: int, listener: int) -> None:
    import _thread
    import fcntl
    import sys

    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    code = f"import sys; sys.path.insert(0, {source!r}); from hutch.network.server import main; main()"
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    high: list[int] = []
    try:
        high += [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (null, lock, listener)]  # none is where another belongs
        places = ((high[0], 0), (high[0], 1), (high[0], 2), (high[1], LOCK_FD), (high[2], LISTENER_FD))
        actions = [(os.POSIX_SPAWN_DUP2, fd, place) for fd, place in places]
        pid = os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "-c", code], environment, file_actions=actions, setsid=True, setsigmask=())
    finally:
        for fd in (*high, null):
            os.close(fd)
    _thread.start_new_thread(_reap, (pid,))  # it forks, and its first process ends at once


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # somebody waits for all of this process's children


def _tell(directory: str, data: bytes, fds: list[int]) -> bool:
    """Register with a server that runs; whether it has said yes."""
    import socket

    try:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HutchError(f"names: {directory}: {error.strerror}") from None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as own:
            own.settimeout(PATIENCE)
            own.connect(f"/proc/self/fd/{place}/{SOCKET}")
            socket.send_fds(own, [data], fds)
            return own.recv(1) == b"y"
    except OSError:
        return False
    finally:
        os.close(place)
