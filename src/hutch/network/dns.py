"""DNS messages (RFC 1035), as far as a network's name server reads and writes them: one question, addresses and names."""

from __future__ import annotations

import struct

from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

A, PTR, AAAA, ANY = 1, 12, 28, 255
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED = 0, 1, 2, 3, 4
INTERNET = 1
RESPONSE, AUTHORITATIVE, TRUNCATED, RECURSION_DESIRED, RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
OPCODE = 0x7800
AUTHENTIC, UNCHECKED = 0x20, 0x10  # RFC 4035 3.1.6, 3.2.2
PLAIN_LIMIT = 512  # bytes of an answer by UDP to who says nothing of its own limit
HEADER = struct.Struct("!6H")
TTL = 600  # seconds, as Docker says: an address is the container's as long as it lives, and its clients may ask again


class Question(Record):
    """What is asked. `labels` are the name's, in lower case (a label may hold any byte, a dot too); `end` is where the question ends
    in the message."""

    id: int
    flags: int
    labels: tuple[str, ...]
    kind: int
    end: int

    @property
    def name(self) -> str:
        """The name as text, without the last dot; a dot inside a label is written so that it is none between two."""
        return ".".join(label.replace(".", "\\.") for label in self.labels)

    @property
    def opcode(self) -> int:
        """0 is a query."""
        return (self.flags & OPCODE) >> 11


def _name(message: bytes, at: int, pointers: bool = True) -> tuple[tuple[str, ...], int]:
    labels: list[str] = []
    total = end = jumps = 0
    while True:
        if at >= len(message):
            raise ValueError("a name is cut")
        length = message[at]
        if length & 0xC0 == 0xC0 and pointers:
            if at + 1 >= len(message):
                raise ValueError("a name is cut")
            target = (length & 0x3F) << 8 | message[at + 1]
            end = end or at + 2
            jumps += 1
            if target >= at or jumps > 16:  # only backwards, or it could go in circles
                raise ValueError("a name points forwards")
            at = target
            continue
        if length & 0xC0:
            raise ValueError("a label of an unknown kind")
        at += 1
        if not length:
            return tuple(labels), end or at
        if at + length > len(message):
            raise ValueError("a name is cut")
        total += length + 1
        if total > 254:
            raise ValueError("a name is longer than 255 bytes")
        labels.append(message[at : at + length].lower().decode("latin-1"))  # ASCII's letters alone (RFC 4343)
        at += length


def question(message: bytes) -> Question:
    """The one question of a query. Raises ValueError for what is none."""
    if len(message) < HEADER.size:
        raise ValueError("shorter than a header")
    identity, flags, questions, _, _, _ = HEADER.unpack_from(message)
    if flags & RESPONSE:
        raise ValueError("is an answer")
    return _question(message, identity, flags, questions)


def _question(message: bytes, identity: int, flags: int, questions: int) -> Question:
    if questions != 1:
        raise ValueError(f"{questions} questions")
    labels, at = _name(message, HEADER.size, pointers=False)  # there is nothing yet that one could point at
    if at + 4 > len(message):
        raise ValueError("a question is cut")
    kind, class_ = struct.unpack_from("!2H", message, at)
    if class_ not in (INTERNET, ANY):
        raise ValueError(f"class {class_}")
    return Question(id=identity, flags=flags, labels=labels, kind=kind, end=at + 4)


def _extended(message: bytes, end: int) -> bool:
    """Whether an OPT record (RFC 6891) follows a query's question."""
    return HEADER.unpack_from(message)[3:6] == (0, 0, 1) and message[end : end + 3] == b"\0\0\x29" and end + 11 <= len(message)


def limit_of(message: bytes) -> int:
    """How long an answer by UDP may be: what the query's OPT record says (RFC 6891), or 512."""
    at = question(message).end
    if not _extended(message, at):
        return PLAIN_LIMIT
    return max(PLAIN_LIMIT, min(int.from_bytes(message[at + 3 : at + 5], "big"), 4096))


def rebuilt(message: bytes, identity: bytes) -> bytes:
    """The query that a message stands for, made anew of what was read in it and of nothing else: its question as it came, whether
    recursion and checks are wanted, and where it had an OPT record one without options. `identity` is its id."""
    asked = question(message)
    head = identity + struct.pack("!5H", asked.flags & (RECURSION_DESIRED | AUTHENTIC | UNCHECKED), 1, 0, 0, int(_extended(message, asked.end)))
    text = message[HEADER.size : asked.end]
    if not _extended(message, asked.end):
        return head + text
    flags = message[asked.end + 7] & 0x80  # whether signatures are wanted (RFC 3225)
    return head + text + b"\0" + struct.pack("!2H4BH", 41, limit_of(message), 0, 0, flags, 0, 0)


def encode_name(name: str) -> bytes:
    """A name in the message's form. Raises ValueError for one that has none."""
    out = b""
    for label in name.rstrip(".").split("."):
        raw = label.encode("latin-1")
        if not 0 < len(raw) < 64:
            raise ValueError(f"{name!r} is no name")
        out += bytes([len(raw)]) + raw
    if len(out) > 254:
        raise ValueError(f"{name!r} is no name")
    return out + b"\0"


def answer(message: bytes, asked: Question, records: Iterable[tuple[int, bytes]] = (), error: int = NO_ERROR, limit: int = 65535) -> bytes:
    """The answer to a query: records of the name that was asked, (type, data). One that is longer than `limit` is cut to its
    head, and says so."""
    body, count = b"", 0
    for kind, data in records:
        body += struct.pack("!3HIH", 0xC000 | HEADER.size, kind, INTERNET, TTL, len(data)) + data
        count += 1
    flags = RESPONSE | AUTHORITATIVE | RECURSION_AVAILABLE | (asked.flags & (OPCODE | RECURSION_DESIRED)) | error
    text = message[HEADER.size : asked.end]
    if HEADER.size + len(text) + len(body) > limit:
        return HEADER.pack(asked.id, flags | TRUNCATED, 1, 0, 0, 0) + text
    return HEADER.pack(asked.id, flags, 1, count, 0, 0) + text + body


def failure(message: bytes, error: int) -> bytes:
    """An answer to what could not be read beyond its header."""
    identity, flags = struct.unpack_from("!2H", message)
    return HEADER.pack(identity, RESPONSE | (flags & (OPCODE | RECURSION_DESIRED)) | error, 0, 0, 0, 0)


def answers(message: bytes, asked: Question) -> bool:
    """Whether a message is an answer to a question: the same name and type. (Who compares ids does that beside.)"""
    if len(message) < HEADER.size:
        return False
    identity, flags, questions, _, _, _ = HEADER.unpack_from(message)
    try:
        found = _question(message, identity, flags, questions)
    except ValueError:
        return False
    return bool(flags & RESPONSE) and (found.labels, found.kind) == (asked.labels, asked.kind)


def addresses(message: bytes) -> Iterator[tuple[str, int]]:
    """(address, seconds that it may be kept) of an answer's A and AAAA records. Raises ValueError for what cannot be read."""
    import socket

    if len(message) < HEADER.size:
        raise ValueError("shorter than a header")
    identity, flags, questions, count, _, _ = HEADER.unpack_from(message)
    at = _question(message, identity, flags, questions).end
    for _ in range(count):
        _, at = _name(message, at)
        if at + 10 > len(message):
            raise ValueError("a record is cut")
        kind, class_, ttl, length = struct.unpack_from("!2HIH", message, at)
        data, at = message[at + 10 : at + 10 + length], at + 10 + length
        if at > len(message):
            raise ValueError("a record is cut")
        if class_ == INTERNET and (kind, length) in ((A, 4), (AAAA, 16)):
            yield socket.inet_ntop(socket.AF_INET if kind == A else socket.AF_INET6, data), ttl


def reverse_name(address: str) -> str:
    """The name under which an address's own name is asked for (RFC 1035 3.5, RFC 3596 2.5)."""
    import ipaddress

    return ipaddress.ip_address(address).reverse_pointer
