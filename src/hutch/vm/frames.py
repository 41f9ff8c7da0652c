"""Frames of a machine's control channel, as its relay takes and gives them: one packet each (executor/frames.c).

A frame is a head of 8 bytes, the content's size (u32), the frame's type and its session (u16 each), and the content. On a connection
to the relay the session is 0: the relay gives the number.
"""

from __future__ import annotations

from hutch.plan.numbers import FRAMES, LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

HEAD = 8  # bytes
MOST = LIMITS["FRAME_MOST"]  # bytes of content


def pack(name: str, content: bytes = b"") -> bytes:
    """A frame of a type, by its name in `hutch.plan.numbers`."""
    return len(content).to_bytes(4, "little") + FRAMES[name].to_bytes(2, "little") + bytes(2) + content


def unpack(packet: bytes, name: str) -> bytes | None:
    """The content of a frame of that type; None for one of another, or for what is none: a guest may send anything."""
    if len(packet) < HEAD or int.from_bytes(packet[4:6], "little") != FRAMES[name]:
        return None
    return packet[HEAD:]


def ask(door: socket, question: bytes, answer: str, patience: float) -> bytes | None:
    """Send a frame, and wait some seconds for the answer's content; None when another one comes. Raises TimeoutError when there is
    nothing at all in that time, OSError when the machine is gone."""
    import select

    door.send(question)
    poll = select.poll()
    poll.register(door.fileno(), select.POLLIN)
    if not poll.poll(patience * 1000):
        raise TimeoutError
    return unpack(door.recv(HEAD + MOST), answer)
