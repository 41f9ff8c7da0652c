"""What the executor and its owner tell each other: one fixed record (executor/executor.h, struct message)."""

from __future__ import annotations

from hutch.plan.numbers import LIMITS, MESSAGES, ORDERS
from hutch.record import Record

READY, FAILED, EXITED, DATA, CALL = MESSAGES["READY"], MESSAGES["FAILED"], MESSAGES["EXITED"], MESSAGES["DATA"], MESSAGES["CALL"]
SEND_SIGNAL, KILL_TREE, ANSWER = ORDERS["SEND_SIGNAL"], ORDERS["KILL_TREE"], ORDERS["ANSWER"]
EREMOTEIO = 121  # what an owner answers with when it could not do what it was asked for
DETAIL = LIMITS["DETAIL"]
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


def decode(raw: bytes) -> Message:
    """A message from its bytes, which are in the machine's byte order."""
    view = memoryview(raw)
    kind, lane, index, error = view[:16].cast("i")
    first, second, third, fourth = view[16:48].cast("q")
    return Message(type=kind, lane=lane, index=index, error=error, values=(first, second, third, fourth), detail=raw[48:SIZE])


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
