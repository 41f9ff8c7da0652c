"""What differs from one container to the next: its id, the moment of its making, the address and ports that were free.

A plan is compiled once with marks in their place, encoded, and where each mark stands is noted: a start writes its values there, and
searches for nothing. Marks are random, and none is chosen that occurs in anything that went into the plan, so whatever a user or an
image names is left as it is. (They are text, and no operation's arguments, because they stand within paths, within the record, and
within messages to the kernel's netlink.)
"""

from __future__ import annotations

import os
import time

from hutch.executor.late import fill, offsets
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.executor.late import Places

ID_LENGTH = 12
ADDRESS_LENGTH = 15  # of the longest IPv4 address
PORT_LENGTH = 5  # of the longest port
ID, CREATED, ADDRESS, PORT = "id", "created", "address", "port"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz!#%&()*+,;<=>?@^_`{|}~"


class Marks(Record):
    """What stands for the values: each as long as its value; `port` is the first two of a port's characters, its number follows."""

    id: str
    created: str
    address: str
    port: str

    def port_mark(self, number: int) -> str:
        """What stands for the `number`-th published port."""
        return f"{self.port}{number:03d}"

    def places(self, encoded: bytes, ports: int) -> Places:
        """Where they stand in an encoded plan."""
        wanted = [(ID, self.id), (CREATED, self.created), (ADDRESS, self.address), *((f"{PORT}{i}", self.port_mark(i)) for i in range(ports))]
        return tuple((name, at) for name, mark in wanted for at in offsets(encoded, mark.encode()))

    def words(self) -> list[str]:
        """For a plan that is kept."""
        return [self.id, self.created, self.address, self.port]


def new_marks(inputs: str) -> Marks:
    """Marks that do not occur in a text."""
    return Marks(
        id=_absent(inputs, new_id),
        created=_absent(inputs, _moment),
        address=_absent(inputs, lambda: f"{os.urandom(7).hex()}."),
        port=_absent(inputs, lambda: "".join(LETTERS[byte % len(LETTERS)] for byte in os.urandom(2))),
    )


def _absent(inputs: str, draw):  # type: ignore[no-untyped-def]
    while (mark := draw()) in inputs:
        pass
    return mark


def _moment() -> str:
    """A number as long as the time in seconds with six decimal places, which JSON has as it is written."""
    while True:
        number = float(f"{1 + os.urandom(1)[0] % 8}{int.from_bytes(os.urandom(6), 'little') % 10**9:09d}.{int.from_bytes(os.urandom(4), 'little') % 10**6:06d}")
        if len(repr(number)) == 17:
            return repr(number)


def new_id() -> str:
    """Twelve random hexadecimal digits."""
    return os.urandom(ID_LENGTH // 2).hex()


def personalise(template: bytes, places: Places) -> tuple[str, bytes]:
    """A new id, and an encoded plan with it and the time in their places."""
    identity = new_id()
    return identity, fill(template, places, {ID: identity.encode(), CREATED: f"{time.time():017.6f}".encode()})
