"""Published ports: what ``-p`` means, and the host's sockets, bound before anything is started.

They are this host's own sockets: its rules for incoming packets hold, as they do for any program's, and nothing is opened
that they close. A process beside the container passes the bytes on (`executor/ports.c`).
"""

from __future__ import annotations

import os
import socket

from hutch.errors import HutchError, UnsupportedError, UsageError
from hutch.network import spec
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PROTOCOLS = ("tcp", "udp", "sctp")
MOST = 512  # sockets of one container's
IP_PKTINFO, IPV6_RECVPKTINFO = 8, 49
EADDRINUSE, EADDRNOTAVAIL, EACCES = 98, 99, 13


class Port(Record):
    """A container's port to be published: on `address` ("": all of the host's), at one of the host's ports from `first` to `last`
    (0: a free one)."""

    container: int
    protocol: str = "tcp"
    address: str = ""
    first: int = 0
    last: int = 0


class Published(Record):
    """A container's port as it is published: the host's address and port."""

    container: int
    protocol: str
    address: str
    port: int

    def __str__(self) -> str:
        place = f"[{self.address}]" if ":" in self.address else self.address
        return f"{place}:{self.port}->{self.container}/{self.protocol}"


def _range(text: str, whole: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not text.isascii() or not first.isdecimal() or (dash and not last.isdecimal()):
        raise UsageError(f"publish: expected a port or a range of them, got {text!r} in {whole!r}")
    low, high = int(first), int(last or first)
    if not 0 < low <= high <= 65535:
        raise UsageError(f"publish: ports are 1 to 65535, got {text!r} in {whole!r}")
    return low, high


def _protocol(text: str, whole: str) -> str:
    if text not in PROTOCOLS:
        raise UsageError(f"publish: expected tcp, udp or sctp, got {text!r} in {whole!r}")
    return text


def parse(text: str) -> tuple[Port, ...]:
    """``[[ADDRESS:][HOST]:]CONTAINER[/PROTOCOL]``, as Docker writes it; ports may be ranges (8000-8010). Raises UsageError."""
    rest, _, protocol = text.partition("/")
    protocol = _protocol(protocol or "tcp", text)
    rest, _, container = rest.rpartition(":")
    low, high = _range(container, text)
    address, host = "", rest
    if ":" in rest:
        address, _, host = rest.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if address and not spec.is_address(address):
        raise UsageError(f"publish: expected one of this host's addresses, got {address!r} in {text!r}", "[ADDRESS]:HOST:CONTAINER of IPv6")
    if not host:
        return tuple(Port(container=number, protocol=protocol, address=address) for number in range(low, high + 1))
    first, last = _range(host, text)
    if low == high:
        return (Port(container=low, protocol=protocol, address=address, first=first, last=last),)
    if last - first != high - low:
        raise UsageError(f"publish: the ranges in {text!r} are of different lengths")
    return tuple(Port(container=low + i, protocol=protocol, address=address, first=first + i, last=first + i) for i in range(high - low + 1))


def exposed(texts: Iterable[str]) -> tuple[Port, ...]:
    """``80``, ``80/udp``, ``8000-8010/tcp``: ports that are published wherever there is room. Raises UsageError."""
    found = []
    for text in texts:
        ports, _, protocol = text.partition("/")
        low, high = _range(ports, text)
        found += [Port(container=number, protocol=_protocol(protocol or "tcp", text)) for number in range(low, high + 1)]
    return tuple(dict.fromkeys(found))


def check(ports: Iterable[Port]) -> None:
    """Raises UsageError for ports that cannot all be had, UnsupportedError for a protocol that this kernel lacks."""
    seen: dict[tuple[str, str, int], Port] = {}
    count = 0
    for port in ports:
        count += 1
        if port.protocol == "sctp":
            # sockets of it could not be bound, and nobody could have tried the rest
            raise UnsupportedError(f"publish: {port.container}/sctp: ports of SCTP are not passed on", "connect to the container's own address")
        if port.first and port.first == port.last:
            key = (port.protocol, port.address, port.first)
            if key in seen:
                raise UsageError(f"publish: port {port.first}/{port.protocol} is asked for twice")
            seen[key] = port
    if count > MOST // 2:
        raise UsageError(f"publish: {count} ports are more than the {MOST // 2} that a container can have")


def has_ipv6() -> bool:
    """Whether this host has IPv6."""
    return os.path.exists("/proc/net/if_inet6")


def places(port: Port, ipv6: bool) -> tuple[str, ...]:
    """The addresses of a port's sockets: one for each family, where they are to be everywhere."""
    return (port.address,) if port.address else ("0.0.0.0", "::") if ipv6 else ("0.0.0.0",)


def describe(port: Port, ipv6: bool) -> str:
    """A port that is asked for, as people read it: ``0.0.0.0:8080, [::]:8080 -> 80/tcp``."""
    number = "any" if not port.first else f"{port.first}" if port.first == port.last else f"{port.first}-{port.last}"
    found = ", ".join(f"[{place}]:{number}" if ":" in place else f"{place}:{number}" for place in places(port, ipv6))
    return f"{found} -> {port.container}/{port.protocol}"


class Sockets:
    """The host's sockets of a container's published ports. Safe to close twice."""

    def __init__(self, ports: Iterable[Port], ipv6: bool) -> None:
        self._ipv6 = ipv6
        self.sockets: list[socket.socket] = []
        self.published: list[Published] = []
        try:
            for port in ports:
                self._bind(port)
        except BaseException:
            self.close()
            raise

    def _bind(self, port: Port) -> None:
        error: OSError | None = None
        if port.first:
            for number in range(port.first, port.last + 1):
                error = self._try(port, number)
                if error is None:
                    return
            assert error is not None
            raise _refused(port, error)
        for _ in range(64):
            error = self._try(port, 0)
            if error is None:
                return
            if error.errno != EADDRINUSE:
                break  # the same number was not free for the other family
        assert error is not None
        raise _refused(port, error)

    def _try(self, port: Port, number: int) -> OSError | None:
        """Bind a port at all of its addresses, or at none; the error."""
        made: list[socket.socket] = []
        for address in places(port, self._ipv6):
            try:
                made.append(_bound(port, address, made[0].getsockname()[1] if made else number))
            except OSError as error:
                for one in made:
                    one.close()
                return error
        for one in made:
            self.sockets.append(one)
            place, found = one.getsockname()[:2]
            self.published.append(Published(container=port.container, protocol=port.protocol, address=place, port=found))
        return None

    def close(self) -> None:
        """Close them here; who has been given them goes on."""
        for one in self.sockets:
            one.close()
        self.sockets = []


def _bound(port: Port, address: str, number: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, (socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM) | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port.protocol == "tcp":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last one may not be forgotten yet
        else:
            made.setsockopt(*((socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1) if family == socket.AF_INET6 else (socket.IPPROTO_IP, IP_PKTINFO, 1)))
        made.bind((address, number))
        if port.protocol == "tcp":
            made.listen(4096)
    except BaseException:
        made.close()
        raise
    return made


def _refused(port: Port, error: OSError) -> HutchError:
    numbers = f"{port.first}" if port.first == port.last else f"{port.first} to {port.last}"
    place = f"{port.address or 'this host'}, port {numbers if port.first else 'any'}/{port.protocol}"
    if error.errno == EADDRINUSE:
        return HutchError(f"publish: {place}: is in use", f"`ss -lnp{port.protocol[0]}` says by whom")
    if error.errno == EADDRNOTAVAIL:
        return UsageError(f"publish: {place}: is no address of this host")
    if error.errno == EACCES:
        return HutchError(f"publish: {place}: {error.strerror}", "ports below net.ipv4.ip_unprivileged_port_start are root's")
    return HutchError(f"publish: {place}: {error.strerror}")
