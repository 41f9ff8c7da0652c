"""A plan: two lanes of operations, written for the executor, for a person, and for a program."""

from __future__ import annotations

from hutch.plan.numbers import FLAGS, HEAD, LIMITS
from hutch.plan.operation import Operation, Slot, printable
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC, VERSION = HEAD["PLAN_MAGIC"], HEAD["PLAN_VERSION"]
FLAG_DETACH, FLAG_LEAVE = FLAGS["FLAG_DETACH"], FLAGS["FLAG_LEAVE"]
MAX_SLOTS = LIMITS["MAX_SLOTS"]


class Plan(Record):
    """A container as plain data. `detach`: its executor becomes a monitor that outlives the owner. `leave`: the executor goes
    when the container is ready, and nothing is undone: an OCI runtime's container, whose end its caller sees to.

    `warnings` are what the compiler left out because the kernel or the user's rights lack it, in words. `typed` are (a field of
    the configuration, what its user typed) pairs for messages, the more exact ones first; of a configuration that somebody wrote
    himself there are none.
    """

    host: tuple[Operation, ...]
    container: tuple[Operation, ...]
    detach: bool = False
    leave: bool = False
    warnings: tuple[str, ...] = ()
    typed: tuple[tuple[str, str], ...] = ()

    @property
    def whole(self) -> Plan:
        """The plan itself. One that was kept encoded (`executor.kept.Stored`) is compiled for it."""
        return self

    def lanes(self) -> Iterator[tuple[str, int, Operation]]:
        """Every operation, with its lane and its place in it."""
        for name, lane in (("host", self.host), ("container", self.container)):
            for index, operation in enumerate(lane):
                yield name, index, operation

    def operation(self, lane: int, index: int) -> Operation:
        """The operation that the executor names as (lane, index)."""
        return (self.host, self.container)[lane][index]

    def exports(self) -> tuple[str, ...]:
        """The names of the slots that the owner is handed, in their order."""
        return tuple(op.value.name for op in self.host if type(op).__name__ == "Export")  # type: ignore[attr-defined]

    def encode(self, owner: int) -> bytes:
        """The plan in the executor's format: a header, then each operation as size, code and arguments.

        A number is 8 bytes, little-endian, two's complement; a string is its length, its bytes, a NUL, and zeros up to
        a multiple of 8. `owner` is the pid whose death ends the container; 0: nobody's.
        """
        return b"".join(self.segments(owner))

    def segments(self, owner: int = 0) -> list[bytes]:
        """`encode` in pieces: the header, then one operation each. An operation without slots can be exchanged for
        another's `encode_operation` without encoding the rest again."""
        numbers: dict[Slot, int] = {}
        body = [_encode(op, numbers) for lane in (self.host, self.container) for op in lane]
        head = (MAGIC, VERSION, owner, self.detach * FLAG_DETACH | self.leave * FLAG_LEAVE, len(numbers), len(self.host), len(self.container), 0)
        if len(numbers) > MAX_SLOTS:
            raise ValueError(f"a plan has at most {MAX_SLOTS} slots, this one has {len(numbers)}")
        return [b"".join(n.to_bytes(4, "little") for n in head), *body]

    def describe(self) -> str:
        """The plan in words: lane, number, origin, operation."""
        rows = [(lane, str(index), op.origin or "-", op.describe()) for lane, index, op in self.lanes()]
        width = max((len(row[2]) for row in rows), default=0)
        lines = [f"{lane:<9} {index:>3}  {origin:<{width}}  {text}" for lane, index, origin, text in rows]
        lines += [f"warning: {warning}" for warning in self.warnings]
        for _, _, op in self.lanes():
            lines += [printable(line) for line in op.appendix()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The plan as JSON's types."""
        rows: dict[str, list[object]] = {"host": [], "container": []}
        for lane, _, op in self.lanes():
            fields = {name: _plain(value) for name, value in op.as_dict().items() if name != "origin"}
            rows[lane].append({"op": type(op).__name__, "origin": op.origin, "text": op.describe(), **fields})
        return {"version": VERSION, "detach": self.detach, "warnings": list(self.warnings), **rows}


def called(typed: tuple[tuple[str, str], ...], field: str) -> str:
    """What its user typed for a field of the configuration, or for the nearest above it; "" when nothing is known."""
    return next((words for known, words in typed if field.startswith(known) and field[len(known) : len(known) + 1] in ("", ".", "[")), "")


def encode_operation(operation: Operation) -> bytes:
    """One operation that uses no slots, as it stands in an encoded plan."""
    return _encode(operation, {})


def _plain(value: object) -> object:
    if isinstance(value, Slot):
        return {"slot": value.name}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Plan):
        return value.to_json()
    return value


def _encode(operation: Operation, numbers: dict[Slot, int]) -> bytes:
    parts = [b""]
    size = 0
    for value in operation.arguments():
        if value is None:
            data = b"\xff" * 8
        elif isinstance(value, int):
            data = (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
        elif isinstance(value, Slot):
            data = numbers.setdefault(value, len(numbers)).to_bytes(8, "little")
        else:
            # surrogateescape: paths and arguments that are not UTF-8 pass unchanged
            raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
            if isinstance(value, str) and "\0" in value:
                raise ValueError(f"{operation.describe()}: a string contains a NUL, where the executor would cut it")
            data = len(raw).to_bytes(8, "little") + raw + bytes(8 - len(raw) % 8)
        parts.append(data)
        size += len(data)
    parts[0] = size.to_bytes(4, "little") + operation.code.to_bytes(4, "little")
    return b"".join(parts)
