"""A netlink socket: requests, dumps, batches. It keeps to the network namespace in which it was opened, whoever holds it."""

from __future__ import annotations

import _socket
import os

from hutch.kernel.netlink import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

AF_NETLINK = 16
ROUTE, NETFILTER = 0, 12  # protocols: rtnetlink(7), nfnetlink
SOL_NETLINK, CAP_ACK, EXT_ACK, GET_STRICT_CHK = 270, 10, 11, 12
CAPPED, TLVS = 0x100, 0x200  # flags of an acknowledgement
ERROR_MESSAGE = 1  # NLMSGERR_ATTR_MSG
RECEIVE = 1 << 20


class NetlinkError(OSError):
    """The kernel's number, and where it says more than that, its words."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(number, words or os.strerror(number))


class Socket:
    """A netlink socket of this process's network namespace, or of the one that `fd` was opened in."""

    def __init__(self, protocol: int = ROUTE, fd: int = -1) -> None:
        if fd < 0:
            self._socket = _socket.socket(AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        else:
            self._socket = _socket.socket(fileno=os.dup(fd))
        for option in (CAP_ACK, EXT_ACK):
            try:
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            except OSError:
                pass  # older than 4.12: errors are numbers alone
        self._sequence = 0

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()

    def request(self, kind: int, body: bytes, flags: int = codec.ACK) -> list[tuple[int, bytes]]:
        """Send a request; (kind, body) of every answer. Raises NetlinkError."""
        self._sequence += 1
        sequence = self._sequence
        self._socket.send(codec.message(kind, flags, body, sequence))
        out: list[tuple[int, bytes]] = []
        while True:
            for answer, answer_flags, number, content in codec.messages(self._receive()):
                if number != sequence:
                    continue  # of an earlier request that failed halfway
                if answer == codec.NLMSG_DONE:
                    return out
                if answer == codec.NLMSG_ERROR:
                    error = error_of(content, answer_flags)
                    if error is not None:
                        raise error
                    return out
                out.append((answer, content))
                if not flags & (codec.ACK | codec.DUMP):
                    return out

    def batch(self, data: bytes, answers: int) -> list[NetlinkError | None]:
        """Send messages that were made beforehand, in one datagram; how the kernel took each that asked for an answer."""
        self._socket.send(data)
        out: list[NetlinkError | None] = []
        while len(out) < answers:
            for answer, flags, _, content in codec.messages(self._receive()):
                if answer == codec.NLMSG_ERROR:
                    out.append(error_of(content, flags))
        return out

    def _receive(self) -> bytes:
        data = self._socket.recv(RECEIVE)
        if not data:
            raise NetlinkError(104)
        return data


def error_of(content: bytes, flags: int) -> NetlinkError | None:
    """What an acknowledgement says: None for success."""
    number = -int.from_bytes(content[:4], "little", signed=True)
    if not number:
        return None
    words = b""
    if flags & TLVS:
        size = codec.HEAD if flags & CAPPED else int.from_bytes(content[4:8], "little")
        words = codec.table(content[4 + ((size + 3) & ~3) :]).get(ERROR_MESSAGE, b"")
    said = words.rstrip(b"\0").decode("utf-8", "replace")
    return NetlinkError(number, f"{os.strerror(number)} ({said})" if said else "")
