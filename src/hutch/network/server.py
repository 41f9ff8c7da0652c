"""The name server: a process of its own, which ends with the last container that asks it.

It knows what the containers' starters tell it, trusts nothing that a container sends, and has no privileges: it could do no
more than answer questions wrongly. Questions about the network's own names are answered; others are handed on to this host's
resolvers, unless all of the asker's networks are internal.
"""

from __future__ import annotations

import asyncio
import os
import socket

from hutch.helpers import resident
from hutch.network import dns, egress, filler, local, names
from hutch.network.names import Presence, Registration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESOLV_CONF = "/etc/resolv.conf"
BURST = 16  # questions of a container's that are read before the others' turn comes
IN_FLIGHT = 128  # questions of a container's that may wait for an answer from elsewhere: what comes beyond is dropped
CONNECTIONS = 32  # of a container's, by TCP
TRY = 2.0  # seconds for each of the upstream servers
IDLE = 10.0  # seconds before a connection that says nothing is closed
NOBODY = 65534
SHORTEST, GRACE = 60, 30  # seconds that an address can be reached after an answer: programs ask less often than they should
GUESTS = 4096
LINGER = 0.3  # seconds: who runs one container after another finds the server there


class Guest:
    """A container, and its sockets."""

    def __init__(self, registration: Registration, pidfd: int, udp: socket.socket, tcp: socket.socket, to_filler: Filler | None) -> None:
        self.registration, self.pidfd, self.udp, self.tcp, self.filler = registration, pidfd, udp, tcp, to_filler
        self.policy = egress.parse(registration.egress)
        self.waiting: set[asyncio.Task[None]] = set()
        self.connections: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Close the sockets: the container's network namespace lives as long as they do."""
        for task in (*self.waiting, *self.connections):
            task.cancel()
        self.udp.close()
        self.tcp.close()
        if self.filler is not None:
            self.filler.close()
        os.close(self.pidfd)


class Filler:
    """The way to the process that fills the sets of policies: one question at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._loop, self._channel, self._turns = loop, channel, asyncio.Lock()

    async def fill(self, record: bytes) -> bool | None:
        """Whether it did; None where it has gone."""
        async with self._turns:
            try:
                await self._loop.sock_sendall(self._channel, record)
                found = await self._loop.sock_recv(self._channel, 1)
            except OSError:
                return None
        return found == b"y" if found else None

    def close(self) -> None:
        """It ends."""
        self._channel.close()


class Server:
    """All guests, and their names on each network."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, filler_socket: socket.socket | None = None) -> None:
        self._loop, self._listener = loop, listener
        self._filler = Filler(loop, filler_socket) if filler_socket is not None else None
        self._guests: list[Guest] = []
        self._names: dict[tuple[str, tuple[str, ...]], list[tuple[Guest, Presence]]] = {}  # by network and name
        self._turn = 0
        self._ended = loop.create_future()
        listener.setblocking(False)
        loop.add_reader(listener.fileno(), self._accept)
        loop.call_later(resident.PATIENCE, self._maybe_end)

    async def serve(self) -> None:
        """Until nobody is left."""
        await self._ended

    def _maybe_end(self) -> None:
        if not self._guests and not self._ended.done():
            self._accept()  # who came in the meantime
            if not self._guests:
                self._ended.set_result(None)

    # registrations

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                try:
                    data, fds, _, _ = socket.recv_fds(connection, names.LARGEST, 4)
                    if len(fds) in (3, 4) and len(self._guests) < GUESTS:
                        self._welcome(data, fds)
                        connection.send(b"y")
                    else:
                        for fd in fds:
                            os.close(fd)
                except OSError:
                    continue  # the starter has gone

    def _welcome(self, data: bytes, fds: list[int]) -> None:
        registration = Registration.from_text(data.decode())
        for known in [guest for guest in self._guests if guest.registration.container == registration.container]:
            self._forget(known)
        own = Filler(self._loop, socket.socket(fileno=fds[3])) if len(fds) > 3 else None
        guest = Guest(registration, fds[0], socket.socket(fileno=fds[1]), socket.socket(fileno=fds[2]), own)
        guest.udp.setblocking(False)
        guest.tcp.setblocking(False)
        self._guests.append(guest)
        for presence in guest.registration.presences:
            for name in _all_names(presence):
                self._names.setdefault((presence.network, name), []).append((guest, presence))
        self._loop.add_reader(guest.pidfd, self._farewell, guest)
        self._loop.add_reader(guest.udp.fileno(), self._read, guest)
        self._loop.add_reader(guest.tcp.fileno(), self._connect, guest)

    def _farewell(self, guest: Guest) -> None:
        self._forget(guest)
        if not self._guests:
            self._loop.call_later(LINGER, self._maybe_end)

    def _forget(self, guest: Guest) -> None:
        for fd in (guest.pidfd, guest.udp.fileno(), guest.tcp.fileno()):
            self._loop.remove_reader(fd)
        self._guests.remove(guest)
        for presence in guest.registration.presences:
            for name in _all_names(presence):
                key = presence.network, name
                self._names[key] = [item for item in self._names[key] if item[0] is not guest]
                if not self._names[key]:
                    del self._names[key]
        guest.close()

    # questions

    def _read(self, guest: Guest) -> None:
        for _ in range(BURST):
            try:
                message, client = guest.udp.recvfrom(4096)
            except OSError:
                return

            def reply(data: bytes, client: tuple[str, int] = client) -> None:
                try:
                    guest.udp.sendto(data, client)
                except OSError:
                    pass  # its buffer is full, or it has gone

            self._ask(guest, message, reply)

    def _ask(self, guest: Guest, message: bytes, reply: Callable[[bytes], None]) -> None:
        known = self._answer(guest, message, False)
        if known is not None:
            if known:
                reply(known)
        elif len(guest.waiting) < IN_FLIGHT:
            task = self._loop.create_task(self._forward(guest, message, reply))
            guest.waiting.add(task)
            task.add_done_callback(guest.waiting.discard)

    def _answer(self, guest: Guest, message: bytes, by_stream: bool) -> bytes | None:
        """The answer; b"" where there is to be none; None for what is somebody else's to answer."""
        try:
            asked = dns.question(message)
        except ValueError:
            # an answer to what is itself an answer, or to what has no header, would be a loop or a shot in the dark
            return dns.failure(message, dns.FORMAT_ERROR) if len(message) >= dns.HEADER.size and not message[2] & 0x80 else b""
        if asked.opcode:
            return dns.answer(message, asked, error=dns.NOT_IMPLEMENTED)
        for presence in guest.registration.presences:
            found = self._names.get((presence.network, asked.labels))
            if found is not None:
                limit = 65535 if by_stream else dns.limit_of(message)
                return dns.answer(message, asked, self._records(asked, found), limit=limit)
            own = tuple(presence.network.lower().split("."))
            if len(asked.labels) > len(own) and asked.labels[-len(own) :] == own:
                return dns.answer(message, asked, error=dns.NAME_ERROR)
        may = guest.registration.forward and (guest.policy.allowed is None or egress.matching(guest.policy, asked.labels))
        return None if may else dns.answer(message, asked, error=dns.NAME_ERROR)

    def _records(self, asked: dns.Question, found: list[tuple[Guest, Presence]]) -> Iterator[tuple[int, bytes]]:
        self._turn += 1
        first = self._turn % len(found)
        for _, presence in found[first:] + found[:first]:  # who has a name with others gets his share
            if asked.labels[-1:] == ("arpa",):
                if asked.kind in (dns.PTR, dns.ANY):
                    yield dns.PTR, dns.encode_name(f"{presence.names[0]}.{presence.network}")
                continue
            for address in presence.addresses:
                kind, family = (dns.AAAA, socket.AF_INET6) if ":" in address else (dns.A, socket.AF_INET)
                if asked.kind in (kind, dns.ANY):
                    yield kind, socket.inet_pton(family, address)

    def _connect(self, guest: Guest) -> None:
        try:
            connection, _ = guest.tcp.accept()
        except OSError:
            return
        if len(guest.connections) >= CONNECTIONS:
            connection.close()
            return
        task = self._loop.create_task(self._converse(guest, connection))
        guest.connections.add(task)
        task.add_done_callback(guest.connections.discard)

    async def _converse(self, guest: Guest, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            while True:
                async with asyncio.timeout(IDLE):
                    message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    found = self._answer(guest, message, True)
                    if found is None:
                        found = await self._resolve(guest, message, True)
                    if not found:
                        return
                    writer.write(len(found).to_bytes(2, "big") + found)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return
        finally:
            writer.close()

    # other people's names

    async def _forward(self, guest: Guest, message: bytes, reply: Callable[[bytes], None]) -> None:
        reply(await self._resolve(guest, message, False))

    async def _resolve(self, guest: Guest, message: bytes, by_stream: bool) -> bytes:
        asked = dns.question(message)
        for upstream in guest.registration.upstream or host_servers():
            try:
                async with asyncio.timeout(TRY):
                    found = await (self._by_stream if by_stream else self._by_datagram)(upstream, message, asked)
                await self._permit(guest, asked.labels, found)
                return found
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue
        return dns.answer(message, asked, error=dns.SERVER_FAILURE)

    async def _permit(self, guest: Guest, labels: tuple[str, ...], found: bytes) -> None:
        """Let a container reach the addresses of an answer, before it has the answer. Raises OSError when that cannot be.

        A name stands for somebody elsewhere: whoever answers for it could name this host, or another network's containers, and
        open them. Those are reached where the policy names their addresses."""
        if guest.policy.allowed is None:
            return
        try:
            answered = list(dns.addresses(found))
        except ValueError:
            raise OSError("an answer that cannot be read") from None
        answered = [(address, ttl) for address, ttl in answered if not local.is_local(address)] if answered else []
        for number, item in enumerate(guest.policy.allowed):
            for address, ttl in answered if item in egress.matching(guest.policy, labels) else ():
                record = filler.record(guest.registration.guard, number, address, min(max(ttl, SHORTEST) + GRACE, filler.MOST_SECONDS))
                if not await asyncio.shield(self._fill(guest, record)):  # or an answer could be left for the next one to take
                    raise OSError("its policy has gone")

    async def _fill(self, guest: Guest, record: bytes) -> bool:
        through = guest.filler or self._filler
        found = await through.fill(record) if through is not None else False
        if found is None:
            # it was killed: the next start, or `hutch network prune`, makes both anew; whoever has just asked gets an answer
            self._loop.call_later(0.01, os._exit, 1)
        return bool(found)

    async def _by_datagram(self, upstream: str, message: bytes, asked: dns.Question) -> bytes:
        # a port and an id of its own for each question: who wants to forge an answer has to guess both (RFC 5452)
        own = os.urandom(2)
        with socket.socket(socket.AF_INET6 if ":" in upstream else socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            await self._loop.sock_connect(channel, (upstream, names.PORT))
            await self._loop.sock_sendall(channel, dns.rebuilt(message, own))
            while True:
                found = await self._loop.sock_recv(channel, 65535)
                if found[:2] == own and dns.answers(found, asked):
                    return message[:2] + found[2:]

    async def _by_stream(self, upstream: str, message: bytes, asked: dns.Question) -> bytes:
        reader, writer = await asyncio.open_connection(upstream, names.PORT)
        try:
            query = dns.rebuilt(message, message[:2])
            writer.write(len(query).to_bytes(2, "big") + query)
            found = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()
        if not dns.answers(found, asked):
            raise OSError("an answer to something else")
        return found


def _all_names(presence: Presence) -> Iterator[tuple[str, ...]]:
    """Every name of a container on a network, by its labels."""
    found = {name.lower() for name in presence.names}
    for name in found:
        yield tuple(name.split("."))
        yield (*name.split("."), *presence.network.lower().split("."))
    for address in presence.addresses:
        yield tuple(dns.reverse_name(address).split("."))


def host_servers() -> list[str]:
    """This host's resolvers (resolv.conf(5)), as it has them now."""
    found = []
    try:
        with open(RESOLV_CONF, encoding="utf-8", errors="replace") as file:
            for line in file.read(65536).split("\n"):
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    found.append(words[1])
    except OSError:
        pass
    return found[:3] or ["127.0.0.1"]  # as the C library has it


def main() -> None:
    """The process: with its lock, and the socket that registrations come by."""
    if os.fork():  # its starter waits for nobody
        os._exit(0)
    resident.name_process("hutch-names")
    os.chdir("/")
    import ipaddress  # noqa: F401 -- what is imported later may lie where nobody may read

    "".encode("idna")
    to_filler = filler.start() if os.geteuid() == 0 else None
    _drop()
    listener = socket.socket(fileno=resident.LISTENER_FD)

    async def run() -> None:
        await Server(asyncio.get_running_loop(), listener, to_filler).serve()

    asyncio.run(run())
    listener.close()  # who comes from now on is refused, and starts another
    os._exit(0)  # the lock goes last


def _drop() -> None:
    from hutch.kernel import syscalls

    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    syscalls.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
