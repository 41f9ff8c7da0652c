"""Route netlink (rtnetlink(7), Documentation/userspace-api/netlink/): messages, attributes, and the few requests that moving an
interface from one network namespace to another needs. A socket keeps to the namespace in which it was opened, whoever holds it."""

from __future__ import annotations

import _socket
import errno
import os

from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

AF_NETLINK = 16
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR = 16, 18, 20, 22
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_CREATE, NLM_F_EXCL = 1, 4, 0x300, 0x400, 0x200
IFLA_IFNAME, IFLA_NET_NS_FD = 3, 28
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_PERMANENT, RT_SCOPE_UNIVERSE = 0x80, 0
IFF_UP = 1


class Link(Record):
    """An interface: its index, and its flags (netdevice(7))."""

    index: int
    flags: int


class Address(Record):
    """An address of an interface: family, prefix length, scope, flags (IFA_F_*), and its attributes as they came."""

    family: int
    prefix: int
    scope: int
    flags: int
    attributes: tuple[tuple[int, bytes], ...]


def attribute(kind: int, value: bytes) -> bytes:
    """A struct rtattr with its value, padded to four bytes."""
    return (4 + len(value)).to_bytes(2, "little") + kind.to_bytes(2, "little") + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in a message's tail; the flags in a kind's upper bits are left out."""
    while len(data) >= 4:
        size = int.from_bytes(data[:2], "little")
        if size < 4:
            return
        yield int.from_bytes(data[2:4], "little") & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3 :]


def message(kind: int, flags: int, body: bytes) -> bytes:
    """A struct nlmsghdr with its body."""
    head = (16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little") + flags.to_bytes(2, "little")
    return head + (1).to_bytes(4, "little") + bytes(4) + body


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


class Socket:
    """A route netlink socket of this process's namespace, or `fd`, one of another's."""

    def __init__(self, fd: int = -1) -> None:
        self._socket = _socket.socket(AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0) if fd < 0 else _socket.socket(fileno=os.dup(fd))

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()

    def request(self, kind: int, body: bytes, flags: int = NLM_F_ACK) -> list[tuple[int, bytes]]:
        """Send a request; (kind, body) of every answer. Raises OSError with the kernel's number."""
        self._socket.send(message(kind, NLM_F_REQUEST | flags, body))
        out: list[tuple[int, bytes]] = []
        while True:
            data = self._socket.recv(65536)
            while len(data) >= 16:
                size, answer = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:6], "little")
                content, data = data[16:size], data[(size + 3) & ~3 :]
                if answer == NLMSG_DONE:
                    return out
                if answer == NLMSG_ERROR:
                    code = -int.from_bytes(content[:4], "little", signed=True)
                    if code:
                        raise OSError(code, os.strerror(code))
                    return out
                out.append((answer, content))
                if not flags & (NLM_F_ACK | NLM_F_DUMP):
                    return out

    def link(self, name: str) -> Link | None:
        """An interface by its name; None when there is none."""
        try:
            answers = self.request(RTM_GETLINK, bytes(16) + attribute(IFLA_IFNAME, name.encode() + b"\0"), 0)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        body = answers[0][1]
        return Link(index=int.from_bytes(body[4:8], "little"), flags=int.from_bytes(body[8:12], "little"))

    def links(self) -> set[int]:
        """The indices of every interface."""
        return {int.from_bytes(body[4:8], "little") for _, body in self.request(RTM_GETLINK, bytes(16), NLM_F_DUMP)}

    def addresses(self, index: int) -> list[Address]:
        """The addresses of an interface."""
        out = []
        for _, body in self.request(RTM_GETADDR, bytes(8), NLM_F_DUMP):
            if int.from_bytes(body[4:8], "little") != index:
                continue
            found = tuple(attributes(body[8:]))
            flags = next((int.from_bytes(value, "little") for kind, value in found if kind == IFA_FLAGS), body[2])
            out.append(Address(family=body[0], prefix=body[1], scope=body[3], flags=flags, attributes=found))
        return out

    def add_address(self, index: int, address: Address) -> None:
        """Give an interface an address that another had."""
        body = bytes((address.family, address.prefix, 0, address.scope)) + _u32(index)
        for kind, value in address.attributes:
            if kind in (IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST):
                body += attribute(kind, value)
        self.request(RTM_NEWADDR, body, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)

    def move(self, index: int, namespace: int, name: str) -> None:
        """Move an interface to another network namespace, under a new name."""
        body = bytes(4) + _u32(index) + bytes(8)
        self.request(RTM_NEWLINK, body + attribute(IFLA_NET_NS_FD, _u32(namespace)) + attribute(IFLA_IFNAME, name.encode() + b"\0"))

    def up(self, index: int) -> None:
        """Switch an interface on."""
        self.request(RTM_NEWLINK, bytes(4) + _u32(index) + _u32(IFF_UP) + _u32(IFF_UP))
