"""Operations of virtual machines: programs beside the container's process, the sockets between them, the plan of the guest."""

from __future__ import annotations

from hutch.plan.numbers import OPERATIONS, START
from hutch.plan.operation import Operation, Slot, joined

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.plan.operation import Argument
    from hutch.plan.plan import Plan

SOCK_STREAM, SOCK_SEQPACKET = 1, 5
START_TERMINAL, START_ENTER, START_RESUMED = START["START_TERMINAL"], START["START_ENTER"], START["START_RESUMED"]


class SocketPair(Operation):
    """socketpair(2): a stream between two programs."""

    code = OPERATIONS["SOCKET_PAIR"]
    lanes = "both"
    first: Slot
    second: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.first, self.second)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.first, self.second)

    def describe(self) -> str:
        return f"make a pair of sockets: {self.first}, {self.second}"


class Listen(Operation):
    """A socket that waits for connections: on a path, for this user alone; without one under a name that only its network
    namespace knows, with its first connection in `connected` (unix(7))."""

    code = OPERATIONS["LISTEN"]
    lanes = "both"
    into: Slot
    path: str = ""
    packets: bool = False
    connected: Slot | None = None

    def arguments(self) -> Iterable[Argument]:
        return (self.path, SOCK_SEQPACKET if self.packets else SOCK_STREAM, self.into, self.connected)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into, *((self.connected,) if self.connected is not None else ()))

    def describe(self) -> str:
        where = f"on {self.path}" if self.path else "under a name of the kernel's choice"
        return f"listen {where}" + (f", and connect {self.connected} to it" if self.connected is not None else "")


class Beside(Operation):
    """The `count` operations that follow, up to a program's execve, are a child's: it runs beside the container's process, and dies
    with its pid namespace."""

    code = OPERATIONS["BESIDE"]
    count: int
    name: str

    def arguments(self) -> Iterable[Argument]:
        return (self.count,)

    def describe(self) -> str:
        return f"start {self.name} in a child, by the {self.count} operations that follow"


class Tap(Operation):
    """An interface of this network namespace whose packets a program reads and writes (tuntap.rst)."""

    code = OPERATIONS["TAP"]
    name: str
    into: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.name, self.into)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"make the tap interface {self.name}"


class Memory(Operation):
    """A machine's memory of `size` bytes, as a file without a name (memfd_create(2)), so that it can be copied; with what `source`
    has in it, of another machine's."""

    code = OPERATIONS["MEMORY"]
    size: int
    into: Slot
    source: Slot | None = None

    def arguments(self) -> Iterable[Argument]:
        return (self.size, self.into, self.source)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        copied = f", with the content of {self.source}" if self.source is not None else ""
        return f"make {self.into}, the memory of a machine, {self.size >> 20} MiB{copied}"


class Detach(Operation):
    """umount2(2) with MNT_DETACH, in this process's own mount namespace."""

    code = OPERATIONS["DETACH"]
    path: str

    def arguments(self) -> Iterable[Argument]:
        return (self.path,)

    def describe(self) -> str:
        return f"detach what is mounted on {self.path}"


class Machine(Operation):
    """Stay as PID 1 of a machine: pass on to its guest what comes by `channel` and `door`, keep the end of what its console
    says, and stand for the command of the plan that the guest carries out.

    `terminal` is which of that plan's exports is its terminal (-1: none); `patience` the milliseconds in which the guest must
    be heard of; `disks` how many its root's layers are on (0: it is shared by virtiofs). `identity` makes it a copy of another
    machine: the host name, then files, each a path and its content, with a NUL behind each; its guest carries out no plan any
    more. `about` says of the machine what a reader of the plan wants to know.
    """

    code = OPERATIONS["MACHINE"]
    channel: Slot
    console: Slot
    door: Slot
    guest: Plan
    terminal: int = -1
    patience: int = 60_000
    disks: int = 0
    network: bytes = b""
    interfaces: int = 0
    identity: bytes = b""
    about: tuple[str, ...] = ()

    def arguments(self) -> Iterable[Argument]:
        flags = (START_TERMINAL if self.terminal >= 0 else 0) | (START_RESUMED if self.identity else 0)
        return (
            self.channel, self.console, self.door, flags, self.terminal, self.patience, self.disks, self.interfaces, self.guest.encode(0), self.network,
            self.identity,
        )  # fmt: skip

    def describe(self) -> str:
        words = ["with a terminal"] if self.terminal >= 0 else []
        if self.identity:
            return "stay as the machine's PID 1, and let its guest go on as a container of its own" + joined(words)
        return f"stay as the machine's PID 1, and have its guest carry out a plan of {len(self.guest.host)}+{len(self.guest.container)} operations" + joined(
            words
        )

    def appendix(self) -> tuple[str, ...]:
        about = ("the machine:", *(f"  {line}" for line in self.about))
        return about if self.identity else (*about, "in its guest:", *self.guest.describe().split("\n"))


class Remote(Operation):
    """Stand for a command in a machine that runs: its guest carries out the plan. `relay` is a connection to the machine's door,
    `group` the path of the command's own cgroup in the guest, which is killed when this process is."""

    code = OPERATIONS["REMOTE"]
    relay: Slot
    guest: Plan
    terminal: int = -1
    group: str = ""

    def arguments(self) -> Iterable[Argument]:
        flags = START_ENTER | (START_TERMINAL if self.terminal >= 0 else 0)
        return (self.relay, flags, self.terminal, self.group, self.guest.encode(0))

    def describe(self) -> str:
        return f"have the machine's guest carry out a plan of {len(self.guest.host)}+{len(self.guest.container)} operations"

    def appendix(self) -> tuple[str, ...]:
        return ("in the machine's guest:", *self.guest.describe().split("\n"))
