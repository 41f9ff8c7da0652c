"""Netlink messages as bytes (netlink(7), Documentation/userspace-api/netlink/intro.rst): heads, attributes, nesting.

Pure: nothing here opens a socket. Every value is in the machine's byte order but for what protocols carry, which is in the
network's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST, MULTI, ACK, ECHO = 0x1, 0x2, 0x4, 0x8
DUMP = 0x300
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
NESTED, NETWORK_ORDER, KIND_MASK = 0x8000, 0x4000, 0x3FFF
HEAD = 16


def u8(value: int) -> bytes:
    """One byte."""
    return value.to_bytes(1, "little")


def u16(value: int) -> bytes:
    """Two bytes in the machine's order."""
    return value.to_bytes(2, "little")


def u32(value: int) -> bytes:
    """Four bytes in the machine's order; negative numbers as the kernel's int."""
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


def be16(value: int) -> bytes:
    """Two bytes in the network's order."""
    return value.to_bytes(2, "big")


def be32(value: int) -> bytes:
    """Four bytes in the network's order."""
    return value.to_bytes(4, "big")


def text(value: str) -> bytes:
    """A string with the NUL that ends it."""
    return value.encode("utf-8", "surrogateescape") + b"\0"


def attribute(kind: int, value: bytes) -> bytes:
    """A struct nlattr with its value, padded to four bytes."""
    return (4 + len(value)).to_bytes(2, "little") + kind.to_bytes(2, "little") + value + bytes(-len(value) % 4)


def nested(kind: int, *inside: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(inside))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in a message's tail; the flags in a kind's upper bits are left out. What is cut short ends them."""
    while len(data) >= 4:
        size = int.from_bytes(data[:2], "little")
        if size < 4 or size > len(data):
            return
        yield int.from_bytes(data[2:4], "little") & KIND_MASK, data[4:size]
        data = data[(size + 3) & ~3 :]


def table(data: bytes) -> dict[int, bytes]:
    """The attributes by their kinds; of several of one kind the last."""
    return dict(attributes(data))


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    """A struct nlmsghdr with its body. `flags` beside REQUEST."""
    head = (HEAD + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little") + (flags | REQUEST).to_bytes(2, "little")
    return head + sequence.to_bytes(4, "little") + bytes(4) + body + bytes(-len(body) % 4)


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, sequence, body) of each message in a datagram."""
    while len(data) >= HEAD:
        size = int.from_bytes(data[:4], "little")
        if size < HEAD or size > len(data):
            return
        yield int.from_bytes(data[4:6], "little"), int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:12], "little"), data[HEAD:size]
        data = data[(size + 3) & ~3 :]
