"""Why a virtual processor came back (struct kvm_run; Documentation/virt/kvm/api.rst, section 5)."""

from __future__ import annotations

import struct

from hutch.kernel.kvm import abi
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap

NAMES = {
    0: "unknown", 1: "exception", 2: "io", 3: "hypercall", 4: "debug", 5: "hlt", 6: "mmio", 7: "irq window open", 8: "shutdown", 9: "fail entry",
    10: "interrupted", 11: "set tpr", 12: "tpr access", 16: "nmi", 17: "internal error", 18: "osi", 24: "system event", 26: "ioapic eoi",
    27: "hyperv", 29: "rdmsr", 30: "wrmsr", 31: "dirty ring full", 32: "ap reset hold", 33: "bus lock", 34: "xen", 37: "notify", 38: "loongarch iocsr",
    39: "memory fault", 40: "tdx",
}  # fmt: skip
INTERRUPTED, MEMORY_FAULT = 10, 39
SUBERRORS = {
    1: "an instruction that KVM cannot emulate", 2: "exceptions at once that do not go together", 3: "an exit while an event was delivered",
    4: "an exit for a reason that KVM does not know",
}  # fmt: skip
SYSTEM_EVENTS = {1: "shutdown", 2: "reset", 3: "crash", 4: "wakeup", 5: "suspend", 6: "sev termination"}
MSR_REASONS = ((1, "not valid"), (2, "unknown"), (4, "filtered"))


class Exit(Record):
    """A reason to come back. `number` is KVM's, `name` its name."""

    number: int
    name: str

    def explain(self) -> str:
        """In a sentence."""
        return f"exit {self.number}: {self.name}"


class PortAccess(Exit):
    """The guest reads or writes (`write`) an I/O port, `count` times `size` bytes. `data` is what it writes; what it reads is put there
    by `Vcpu.answer`."""

    port: int
    size: int
    count: int
    write: bool
    data: bytes = b""

    def explain(self) -> str:
        """In a sentence."""
        what = f"writes {self.data.hex(' ')} to" if self.write else f"reads {self.count * self.size} bytes of"
        return f"the guest {what} port {self.port:#x}"


class MemoryAccess(Exit):
    """The guest reads or writes `size` bytes where there is no memory, or no memory that it may write."""

    address: int
    size: int
    write: bool
    data: bytes = b""

    def explain(self) -> str:
        """In a sentence."""
        what = f"writes {self.data.hex(' ')} to" if self.write else f"reads {self.size} bytes at"
        return f"the guest {what} {self.address:#x}, where it has no memory of that kind"


class Halt(Exit):
    """`hlt`, and no interrupt controller of KVM's that could wake it."""

    def explain(self) -> str:
        """In a sentence."""
        return "the guest halts until an interrupt comes, and nobody is there to send one but this program"


class Shutdown(Exit):
    """A triple fault: what is left when an exception's handler cannot be called, nor the double fault's."""

    def explain(self) -> str:
        """In a sentence."""
        return "the processor shuts down: a fault could not be handled, nor the one of trying to (a triple fault)"


class FailEntry(Exit):
    """The hardware would not begin: registers that do not go together. `reason` is its own word for it."""

    reason: int
    cpu: int

    def explain(self) -> str:
        """In a sentence."""
        return f"the hardware refuses to enter the guest, for reason {self.reason:#x} on processor {self.cpu}: registers that do not go together, for one"


class InternalError(Exit):
    """KVM gives up. `instruction` has the bytes of one that it could not emulate, where it says so."""

    suberror: int
    words: tuple[int, ...] = ()
    instruction: bytes = b""

    def explain(self) -> str:
        """In a sentence."""
        what = SUBERRORS.get(self.suberror, f"error {self.suberror}")
        return f"KVM gives up: {what}" + (f" ({self.instruction.hex(' ')})" if self.instruction else "")


class Debug(Exit):
    """A breakpoint or a single step (Guest debugging): `exception` 1 or 3, where the guest is, and why (`dr6`)."""

    exception: int
    address: int
    dr6: int
    dr7: int

    def explain(self) -> str:
        """In a sentence."""
        what = "one instruction further" if self.dr6 & 1 << 14 else "at a breakpoint"
        return f"the guest is {what}, at {self.address:#x}"


class Hypercall(Exit):
    """The guest calls its host (`vmcall`), by number and arguments."""

    call: int
    arguments: tuple[int, ...]
    long_mode: bool

    def explain(self) -> str:
        """In a sentence."""
        return f"the guest calls its host: {self.call}({', '.join(map(str, self.arguments))})"


class SystemEvent(Exit):
    """The machine as a whole: `kind` of `SYSTEM_EVENTS`."""

    kind: int
    words: tuple[int, ...] = ()

    def explain(self) -> str:
        """In a sentence."""
        return f"the machine asks for: {SYSTEM_EVENTS.get(self.kind, self.kind)}"


class MsrAccess(Exit):
    """A model specific register that is left to this program to read or write."""

    index: int
    write: bool
    reason: int
    data: int

    def explain(self) -> str:
        """In a sentence."""
        why = ", ".join(word for bit, word in MSR_REASONS if self.reason & bit)
        return f"the guest {'writes' if self.write else 'reads'} MSR {self.index:#x}{f' ({why})' if why else ''}"


class Interrupted(Exit):
    """A signal came, or `Vcpu.stop` was called: the guest goes on where it is."""

    def explain(self) -> str:
        """In a sentence."""
        return "this program was asked to look at something else"


class EndOfInterrupt(Exit):
    """The guest is done with an interrupt that is level triggered, of a vector."""

    vector: int

    def explain(self) -> str:
        """In a sentence."""
        return f"the guest is done with interrupt vector {self.vector}"


class MemoryFault(Exit):
    """Memory that is described, and cannot be had."""

    address: int
    size: int

    def explain(self) -> str:
        """In a sentence."""
        return f"the memory at {self.address:#x} ({self.size} bytes) cannot be had"


class Unknown(Exit):
    """The hardware came back for a `reason` that KVM does not know."""

    reason: int

    def explain(self) -> str:
        """In a sentence."""
        return f"the hardware came back for reason {self.reason:#x}, which KVM does not know"


def _port(run: mmap, head: dict[str, object]) -> Exit:
    direction, size, port, count, offset = struct.unpack_from("=BBHIQ", run, abi.RUN_EXIT)
    data = run[offset : offset + size * count] if direction else b""
    return PortAccess(**head, port=port, size=size, count=count, write=bool(direction), data=data)  # type: ignore[arg-type]


def _memory(run: mmap, head: dict[str, object]) -> Exit:
    address, data, size, write = struct.unpack_from("=Q8sIB", run, abi.RUN_EXIT)
    return MemoryAccess(**head, address=address, size=size, write=bool(write), data=data[:size] if write else b"")  # type: ignore[arg-type]


def _internal(run: mmap, head: dict[str, object]) -> Exit:
    suberror, count = struct.unpack_from("=II", run, abi.RUN_EXIT)
    words = struct.unpack_from(f"={min(count, 16)}Q", run, abi.RUN_EXIT + 8)
    instruction = b""
    if suberror == 1 and len(words) > 2 and words[0] & 1:
        at = abi.RUN_EXIT + 16
        instruction = run[at + 1 : at + 1 + min(run[at], 15)]
    return InternalError(**head, suberror=suberror, words=words, instruction=instruction)  # type: ignore[arg-type]


def _hypercall(run: mmap, head: dict[str, object]) -> Exit:
    call, *words, long_mode = struct.unpack_from("=QQQQQQQQI", run, abi.RUN_EXIT)
    return Hypercall(**head, call=call, arguments=tuple(words[:6]), long_mode=bool(long_mode))  # type: ignore[arg-type]


def _event(run: mmap, head: dict[str, object]) -> Exit:
    kind, count = struct.unpack_from("=II", run, abi.RUN_EXIT)
    return SystemEvent(**head, kind=kind, words=struct.unpack_from(f"={min(count, 16)}Q", run, abi.RUN_EXIT + 8))  # type: ignore[arg-type]


def _msr(run: mmap, head: dict[str, object]) -> Exit:
    reason, index, data = struct.unpack_from("=8xIIQ", run, abi.RUN_EXIT)
    return MsrAccess(**head, index=index, write=head["number"] == 30, reason=reason, data=data)  # type: ignore[arg-type]


def _debug(run: mmap, head: dict[str, object]) -> Exit:
    exception, address, dr6, dr7 = struct.unpack_from("=I4xQQQ", run, abi.RUN_EXIT)
    return Debug(**head, exception=exception, address=address, dr6=dr6, dr7=dr7)  # type: ignore[arg-type]


def _fail(run: mmap, head: dict[str, object]) -> Exit:
    reason, cpu = struct.unpack_from("=QI", run, abi.RUN_EXIT)
    return FailEntry(**head, reason=reason, cpu=cpu)  # type: ignore[arg-type]


def _fault(run: mmap, head: dict[str, object]) -> Exit:
    _, address, size = struct.unpack_from("=QQQ", run, abi.RUN_EXIT)
    return MemoryFault(**head, address=address, size=size)  # type: ignore[arg-type]


_DECODERS: dict[int, Callable[[mmap, dict[str, object]], Exit]] = {
    0: lambda run, head: Unknown(**head, reason=struct.unpack_from("=Q", run, abi.RUN_EXIT)[0]),  # type: ignore[arg-type]
    2: _port, 3: _hypercall, 4: _debug, 5: lambda _, head: Halt(**head), 6: _memory, 8: lambda _, head: Shutdown(**head), 9: _fail,  # type: ignore[arg-type]
    10: lambda _, head: Interrupted(**head), 17: _internal, 24: _event,  # type: ignore[arg-type]
    26: lambda run, head: EndOfInterrupt(**head, vector=run[abi.RUN_EXIT]), 29: _msr, 30: _msr, 39: _fault,  # type: ignore[arg-type]
}  # fmt: skip


def decode(run: mmap) -> Exit:
    """What the kernel has left in a processor's shared page."""
    (number,) = struct.unpack_from("=I", run, abi.RUN_EXIT_REASON)
    head: dict[str, object] = {"number": number, "name": NAMES.get(number, "of a newer kernel")}
    decoder = _DECODERS.get(number)
    return decoder(run, head) if decoder is not None else Exit(**head)  # type: ignore[arg-type]
