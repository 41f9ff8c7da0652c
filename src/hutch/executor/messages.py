"""What the executor and its owner tell each other: one fixed record (executor/plan.h, struct message)."""

from __future__ import annotations

from hutch.record import Record

READY, FAILED, EXITED, DATA, CALL = 1, 2, 3, 4, 5
SEND_SIGNAL, KILL_TREE, ANSWER = 1, 2, 4
EREMOTEIO = 121  # what an owner answers with when it could not do what it was asked for
DETAIL = 512
SIZE = 16 + 32 + DETAIL


class Message(Record):
    """`type` is one of the numbers above; `values` depend on it (READY and CALL: pid, executor's pid, a bit for each export that is sent; EXITED: wait
    status, user and system time in µs, peak resident set in KiB; DATA: length)."""

    type: int
    lane: int = 0
    index: int = 0
    error: int = 0
    values: tuple[int, int, int, int] = (0, 0, 0, 0)
    detail: bytes = b""


def _signed(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def decode(raw: bytes) -> Message:
    """A message from its bytes."""
    words = [_signed(raw[i : i + 4]) for i in range(0, 16, 4)]
    values = (_signed(raw[16:24]), _signed(raw[24:32]), _signed(raw[32:40]), _signed(raw[40:48]))
    return Message(type=words[0], lane=words[1], index=words[2], error=words[3], values=values, detail=raw[48:SIZE])


def encode(kind: int, error: int = 0, detail: str = "") -> bytes:
    """A message to the executor: a signal to send (its number in `error`), a kill, an answer."""
    text = detail.encode("utf-8", "replace")[: DETAIL - 1]
    head = kind.to_bytes(4, "little") + bytes(8) + error.to_bytes(4, "little", signed=True) + bytes(32)
    return head + text + bytes(DETAIL - len(text))


def unpack(raw: bytes) -> dict[int, str]:
    """The files that were read at the end, by tag: 2 bytes of tag, 2 of length, the content; a tag of 0 ends them."""
    out: dict[int, str] = {}
    while len(raw) > 4 and (tag := int.from_bytes(raw[:2], "little")):
        size = int.from_bytes(raw[2:4], "little")
        out[tag] = raw[4 : 4 + size].decode("utf-8", "replace")
        raw = raw[4 + size :]
    return out
