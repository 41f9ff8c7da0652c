"""Chapter 2, to run: virtual machines of a few instructions, by KVM's own interface.

``python machines.py`` goes through all labs, ``python machines.py real`` through one; ``--json`` prints data. Each lab makes a
machine, gives it memory, puts a guest there, runs it until it comes back, and says why it did. The guests are written as bytes,
beside the instructions that the bytes are (AT&T syntax: source first), so that no assembler is needed.

It needs a /dev/kvm that this user may open, and x86-64; where there is none, it says so and ends with 2. A KVM that can only emulate,
as there may be inside a virtual machine, is enough for all labs; the last one says which kind yours is. Nothing stays behind: a
machine is three kinds of descriptors and some memory of this process.

Sources: in the kernel's tree Documentation/virt/kvm/api.rst; Intel SDM volume 3, chapters 3 to 6; the data sheet of the Intel 8259A.
"""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import struct
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hutch.errors import HutchError, UnsupportedError
from hutch.kernel.kvm import Kvm, Machine, Memory, Table, Vcpu, exits, modes
from hutch.kernel.kvm.probe import probe as verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Account = dict[str, Any]
E = TypeVar("E", bound=exits.Exit)

ENTRY, HANDLER, STACK, TABLES = 0x1000, 0x2000, 0x8000, 0x10000  # where things lie in a guest's memory
GDT, IDT = 0x4000, 0x5000
SIZE = 4 << 20
NUMBERS = 0x2000
NOWHERE = 0x10000000  # an address where no guest here has memory
SERIAL, CHECKPOINT, DOORBELL = 0x3F8, 0x80, 0x500  # I/O ports: a PC's first serial line, its diagnostic port, one of our own
SERIAL_INTERRUPT = 4  # the input of the interrupt controllers to which a PC's first serial line leads
BREAKPOINT, INVALID_OPCODE = 3, 6  # exceptions' vectors
ZERO_FLAG = 1 << 6
KICKS = 1000
PATIENCE = 10_000  # milliseconds, for what takes one
STEPS = 100


class Guest(NamedTuple):
    """A program of a guest's: where it begins, for which mode, and its instructions: bytes, text, what for."""

    address: int
    bits: int
    listing: tuple[tuple[str, str, str], ...]

    @property
    def code(self) -> bytes:
        """What goes into memory."""
        return b"".join(bytes.fromhex(line[0]) for line in self.listing)

    @property
    def source(self) -> str:
        """What `as` makes the same bytes of."""
        return "\n".join(line[1] for line in self.listing)

    @property
    def places(self) -> dict[int, tuple[str, str, str]]:
        """The instructions by address."""
        found, at = {}, self.address
        for line in self.listing:
            found[at] = line
            at += len(bytes.fromhex(line[0]))
        return found


HLT = ("f4", "hlt", "until an interrupt comes")
GUESTS = {
    "real": Guest(ENTRY, 16, (
        ("a0 00 20", "mov 0x2000,%al", "the first number"),
        ("02 06 01 20", "add 0x2001,%al", "and the second"),
        ("a2 02 20", "mov %al,0x2002", "the sum, into memory"),
        ("04 30", "add $'0',%al", "as a digit"),
        ("ba f8 03", "mov $0x3f8,%dx", "the serial line's port"),
        ("ee", "out %al,%dx", "nobody is there: an exit"),
        HLT,
    )),
    "protected": Guest(ENTRY, 32, (
        ("b8 60 ea 00 00", "mov $60000,%eax", ""),
        ("b9 70 11 01 00", "mov $70000,%ecx", "more than 16 bits can hold"),
        ("f7 e1", "mul %ecx", "edx:eax = eax * ecx"),
        ("a3 00 00 20 00", "mov %eax,0x200000", "at 2 MiB, out of real mode's reach"),
        ("ba f8 03 00 00", "mov $0x3f8,%edx", ""),
        ("ef", "out %eax,%dx", "four bytes at once"),
        HLT,
    )),
    "long": Guest(ENTRY, 64, (
        ("48 b8 00 bc a0 65 01 00 00 00", "mov $6000000000,%rax", "more than 32 bits can hold"),
        ("48 6b c0 07", "imul $7,%rax,%rax", ""),
        ("48 89 04 25 00 00 20 00", "mov %rax,0x200000", "to a virtual address"),
        HLT,
    )),
    "interrupt": Guest(ENTRY, 16, (
        ("31 db", "xor %bx,%bx", "no interrupts so far"),
        ("b0 11", "mov $0x11,%al", "the first 8259: begin to set it up,"),
        ("e6 20", "out %al,$0x20", ""),
        ("b0 20", "mov $0x20,%al", "its inputs are vectors 0x20 to 0x27,"),
        ("e6 21", "out %al,$0x21", ""),
        ("b0 04", "mov $0x04,%al", "the second 8259 is at its input 2,"),
        ("e6 21", "out %al,$0x21", ""),
        ("b0 01", "mov $0x01,%al", "the processor is of the x86 family,"),
        ("e6 21", "out %al,$0x21", ""),
        ("b0 ef", "mov $0xef,%al", "and all inputs but 4 are masked"),
        ("e6 21", "out %al,$0x21", ""),
        ("e6 80", "out %al,$0x80", "says that it is ready: an exit"),
        ("fb", "sti", "interrupts may come"),
        ("f4", "1: hlt", "sleeps in the kernel"),
        ("eb fd", "jmp 1b", ""),
    )),
    "interrupt handler": Guest(HANDLER, 16, (
        ("43", "inc %bx", "one more"),
        ("88 d8", "mov %bl,%al", ""),
        ("04 30", "add $'0',%al", ""),
        ("ba f8 03", "mov $0x3f8,%dx", ""),
        ("ee", "out %al,%dx", "prints how many: an exit"),
        ("b0 20", "mov $0x20,%al", "end of interrupt: the 8259 may send the next"),
        ("e6 20", "out %al,$0x20", ""),
        ("cf", "iret", "back to where it was"),
    )),
    "eventfd": Guest(ENTRY, 16, (
        ("ba 00 05", "mov $0x500,%dx", "the doorbell"),
        ("b9 e8 03", "mov $1000,%cx", ""),
        ("ee", "1: out %al,%dx", "a kick"),
        ("e2 fd", "loop 1b", "cx times"),
        HLT,
    )),
    "invalid": Guest(ENTRY, 64, (
        ("0f 0b", "ud2", "invalid for ever, by definition"),
        HLT,
    )),
    "handler": Guest(HANDLER, 64, (
        HLT,
    )),
    "no memory": Guest(ENTRY, 64, (
        ("c7 04 25 00 00 00 10 2a 00 00 00", "movl $42,0x10000000", "at 256 MiB, of a machine that has 4"),
        HLT,
    )),
    "read-only": Guest(ENTRY, 64, (
        ("8b 04 25 00 00 40 00", "mov 0x400000,%eax", "may be read"),
        ("c7 04 25 10 00 40 00 2a 00 00 00", "movl $42,0x400010", "may not be written"),
        HLT,
    )),
    "loop": Guest(ENTRY, 64, (
        ("eb fe", "1: jmp 1b", "for ever"),
    )),
    "step": Guest(ENTRY, 64, (
        ("31 c0", "xor %eax,%eax", "the sum"),
        ("b9 03 00 00 00", "mov $3,%ecx", ""),
        ("01 c8", "1: add %ecx,%eax", ""),
        ("ff c9", "dec %ecx", ""),
        ("75 fa", "jnz 1b", "until the zero flag is set"),
        ("50", "push %rax", ""),
        ("5b", "pop %rbx", ""),
        HLT,
    )),
    "int3": Guest(ENTRY, 64, (
        ("cc", "int3", "a debugger's breakpoint: exception 3, to whose handler"),
        HLT,
    )),
    "fld": Guest(ENTRY, 64, (
        ("bf 00 00 02 00", "mov $0x20000,%edi", ""),
        ("dd 07", "fldl (%rdi)", "a number with a fraction, from memory"),
        HLT,
    )),
    "cmpxchg16b": Guest(ENTRY, 64, (
        ("bf 00 00 02 00", "mov $0x20000,%edi", ""),
        ("f0 48 0f c7 0f", "lock cmpxchg16b (%rdi)", "16 bytes compared and exchanged at once"),
        HLT,
    )),
}  # fmt: skip


class Lab:
    """Machines, and what is said about them."""

    def __init__(self, kvm: Kvm, quiet: bool) -> None:
        self._kvm, self._quiet = kvm, quiet
        self.exits: list[str] = []  # the names of all so far

    def say(self, who: str, words: str) -> None:
        """A line."""
        if not self._quiet:
            print(f"  {who + ':':<9} {words}")

    @contextmanager
    def machine(self, size: int = SIZE, *, controllers: bool = False) -> Iterator[tuple[Machine, Memory]]:
        """A machine with memory from 0 on, without processors. It ends with the ``with``."""
        with self._kvm.create_machine() as machine:
            machine.set_task_state_address()
            if controllers:
                machine.create_interrupt_controllers()  # before the processors, which get a local APIC each
            yield machine, machine.add_memory(0, size)

    def load(self, memory: Memory, name: str) -> None:
        """Put a guest into memory."""
        guest = GUESTS[name]
        memory.write(guest.address, guest.code)
        for address, (code, text, why) in guest.places.items():
            self.say(f"{address:x}", f"{code:<32}  {text:<24}{' # ' + why if why else ''}".rstrip())

    def run(self, processor: Vcpu, kind: type[E]) -> E:
        """Run it until it comes back, which must be for a reason of that kind."""
        found = self.wait(processor)
        if not isinstance(found, kind):
            raise HutchError(f"expected an exit of the kind {kind.__name__}, and {found.explain()}")
        return found

    def wait(self, processor: Vcpu) -> exits.Exit:
        """Run it until it comes back."""
        found = processor.run()
        while isinstance(found, exits.Interrupted):  # by a signal that was not meant for it: a terminal's, a debugger's
            found = processor.run()
        self.report(found)
        return found

    def report(self, found: exits.Exit) -> None:
        """Note an exit."""
        self.exits.append(found.name)
        self.say("exit", f"{found.number} {found.name}: {found.explain()}")


def real(lab: Lab) -> Account:
    """Real: 16 bits, as every processor of the family begins. Two numbers from memory, and their sum through a port."""
    with lab.machine() as (machine, memory):
        lab.load(memory, "real")
        memory.write(NUMBERS, bytes((4, 5)))
        lab.say("host", f"writes 4 and 5 to {NUMBERS:#x} of the guest's memory, which is its own")
        processor = machine.create_processor()
        modes.real_mode(processor, ENTRY, STACK)
        printed = lab.run(processor, exits.PortAccess).data
        lab.run(processor, exits.Halt)
        return {"printed": printed.decode(), "sum in memory": memory.read(NUMBERS + 2, 1)[0], "exits": lab.exits}


def protected(lab: Lab) -> Account:
    """Protected: 32 bits, and segments that reach from 0 to 4 GiB. A multiplication."""
    with lab.machine() as (machine, memory):
        lab.load(memory, "protected")
        processor = machine.create_processor()
        modes.protected_mode(processor, ENTRY, STACK)
        code = processor.special_registers.cs
        lab.say("host", f"sets CR0.PE, and code and data segments with base {code.base:#x} and limit {code.limit:#x}")
        port = lab.run(processor, exits.PortAccess).data
        lab.run(processor, exits.Halt)
        number = int.from_bytes(memory.read(0x200000, 4), "little")
        return {"through the port": int.from_bytes(port, "little"), "in memory at 0x200000": number, "exits": lab.exits}


def long(lab: Lab) -> Account:
    """Long: 64 bits, which needs page tables. One of their entries leads elsewhere."""
    virtual, elsewhere = 0x200000, 0x400000
    with lab.machine(2 * SIZE) as (machine, memory):
        lab.load(memory, "long")
        processor = machine.create_processor()
        modes.long_mode(processor, memory, ENTRY, STACK, tables=TABLES)
        lab.say("host", f"puts page tables at {TABLES:#x} (modes.identity_map), and sets CR4.PAE, CR3, EFER.LME, CR0.PG")
        at = TABLES + 0x2000 + 8
        memory.write(at, (elsewhere | modes.PRESENT | modes.WRITABLE | modes.LARGE).to_bytes(8, "little"))
        lab.say("host", f"changes one entry: the second 2 MiB shall be those at {elsewhere:#x}")
        for name, table, entries in (("PML4", TABLES, 1), ("PDPT", TABLES + 0x1000, 1), ("PD", TABLES + 0x2000, 3)):
            for number in range(entries):
                value = int.from_bytes(memory.read(table + 8 * number, 8), "little")
                what = "2 MiB at" if value & modes.LARGE else "the next table is at"
                lab.say("memory", f"{name:<4} at {table:#x} [{number}] = {value:#08x}: {what} {value & ~0xFFF:#x}, may be written")
        translated = {f"{address:#x}": _place(processor, address) for address in (ENTRY, virtual, 0x40000000)}
        lab.run(processor, exits.Halt)
        found = {f"{address:#x}": int.from_bytes(memory.read(address, 8), "little") for address in (virtual, elsewhere)}
        return {"where an address leads": translated, "in memory": found, "exits": lab.exits}


def _place(processor: Vcpu, address: int) -> str:
    physical = processor.translate(address).physical
    return "nowhere" if physical is None else f"{physical:#x}"


def interrupt(lab: Lab) -> Account:
    """Interrupt: the kernel's interrupt controllers, a handler, and an eventfd that sends the interrupt (irqfd)."""
    printed = b""
    vector = 0x20 + SERIAL_INTERRUPT
    with lab.machine(controllers=True) as (machine, memory):
        lab.load(memory, "interrupt")
        lab.load(memory, "interrupt handler")
        # real mode's interrupt vector table: at 0, four bytes for each, the offset and the segment
        memory.write(4 * vector, struct.pack("<HH", HANDLER, 0))
        lab.say("host", f"enters the handler as vector {vector:#x} in the table at 0")
        processor = machine.create_processor()
        modes.real_mode(processor, ENTRY, STACK)
        lab.run(processor, exits.PortAccess)  # without waiting for this, the first interrupt would meet a controller that is not set up
        eventfd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            machine.interrupt_by_eventfd(eventfd, SERIAL_INTERRUPT)
            for _ in range(3):
                lab.say("host", "another thread shall write to the eventfd in 20 ms; this one runs the guest, which sleeps")
                sender = threading.Timer(0.02, os.eventfd_write, (eventfd, 1))
                sender.start()
                try:
                    printed += lab.run(processor, exits.PortAccess).data
                finally:
                    sender.join()
        finally:
            os.close(eventfd)
    return {"printed": printed.decode(), "exits": lab.exits}


def eventfd(lab: Lab) -> Account:
    """Eventfd: the guest kicks an eventfd by writing to a port, and another thread of the host sees it (ioeventfd)."""
    with lab.machine() as (machine, memory):
        lab.load(memory, "eventfd")
        processor = machine.create_processor()
        modes.real_mode(processor, ENTRY, STACK)
        lab.say("host", f"has KVM signal an eventfd when a byte is written to port {DOORBELL:#x}; another thread polls it")
        start = time.perf_counter()
        kicks = _counted(machine, lambda: lab.run(processor, exits.Halt))
        lab.say("took", f"{(time.perf_counter() - start) * 1e3:.1f} ms")
    attached = len(lab.exits)
    with lab.machine() as (machine, memory):
        memory.write(ENTRY, GUESTS["eventfd"].code)
        other = machine.create_processor()
        modes.real_mode(other, ENTRY, STACK)
        lab.say("host", "the same guest, without the eventfd")
        start = time.perf_counter()
        _until_it_halts(lab, other)
        lab.say("took", f"{(time.perf_counter() - start) * 1e3:.1f} ms")
    return {"kicks": kicks, "exits with the eventfd": attached, "exits without it": len(lab.exits) - attached}


def _counted(machine: Machine, run: Callable[[], object]) -> int:
    """How often the guest kicks an eventfd while it runs, as another thread sees it."""
    total = 0
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def count() -> None:
        nonlocal total
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        while total < KICKS and poller.poll(PATIENCE):
            total += os.eventfd_read(fd)  # an eventfd is a counter: all kicks since the last time come in one read

    try:
        machine.eventfd_by_write(fd, DOORBELL, 1, port=True)
        reader = threading.Thread(target=count)
        reader.start()
        try:
            run()
        finally:
            reader.join()
    finally:
        os.close(fd)
    return total


def _until_it_halts(lab: Lab, processor: Vcpu) -> None:
    """Let every kick come back here. The first is printed, the rest are counted."""
    found: exits.Exit = lab.run(processor, exits.PortAccess)
    more = 0
    while isinstance(found, exits.PortAccess | exits.Interrupted):
        found = processor.run()
        if isinstance(found, exits.PortAccess):
            lab.exits.append(found.name)
            more += 1
    lab.say("exit", f"the same, {more} times more")
    lab.report(found)
    if not isinstance(found, exits.Halt):
        raise HutchError(f"expected that it halts at its end, and {found.explain()}")


def faults(lab: Lab) -> Account:
    """Faults, on purpose: no handler, no memory, memory that may not be written, no end."""
    found: Account = {}

    for name, handled in (("an invalid instruction", False), ("with a handler", True)):
        with lab.machine() as (machine, memory):
            lab.say("lab", name)
            lab.load(memory, "invalid")
            processor = machine.create_processor()
            modes.long_mode(processor, memory, ENTRY, STACK, tables=TABLES)
            if handled:
                lab.load(memory, "handler")
                _tables(processor, memory)
                lab.say("host", f"makes an IDT at {IDT:#x}, whose gate {INVALID_OPCODE} leads to {HANDLER:#x}, and the GDT that it needs")
            found[name] = lab.run(processor, exits.Halt if handled else exits.Shutdown).name

    with lab.machine() as (machine, memory):
        lab.say("lab", "a write to where there is no memory")
        lab.load(memory, "no memory")
        processor = machine.create_processor()
        modes.long_mode(processor, memory, ENTRY, STACK, tables=TABLES)
        access = lab.run(processor, exits.MemoryAccess)
        lab.run(processor, exits.Halt)  # that nobody has done anything with the write is not the guest's business
        found["no memory"] = access.name

    with lab.machine() as (machine, memory):
        lab.say("lab", "a write to read-only memory")
        lab.load(memory, "read-only")
        part = machine.add_memory(SIZE, 0x1000, read_only=True)
        part.write(SIZE, b"firmware")
        processor = machine.create_processor()
        modes.long_mode(processor, memory, ENTRY, STACK, tables=TABLES)
        access = lab.run(processor, exits.MemoryAccess)
        lab.run(processor, exits.Halt)
        found["read-only memory"] = access.name
        found["what it read, and what is there"] = [processor.registers.rax.to_bytes(4, "little").decode(), part.read(SIZE + 0x10, 4).hex(" ")]

    with lab.machine() as (machine, memory):
        lab.say("lab", "a guest that never ends")
        lab.load(memory, "loop")
        processor = machine.create_processor()
        modes.long_mode(processor, memory, ENTRY, STACK, tables=TABLES)
        found["an endless loop"] = _interrupted(lab, processor).name
        lab.say("guest", f"is at {processor.registers.rip:#x}, as before, and could go on")
    return found


def _tables(processor: Vcpu, memory: Memory) -> None:
    """Descriptor tables for long mode, with one handler for two exceptions."""
    # An exception loads CS anew, from the table, so what the segment registers hold is no longer enough: entry 1 is 64-bit code, of
    # privilege 0, as modes.CODE_SELECTOR says. The other entry is the one that must not be used.
    memory.write(GDT, struct.pack("<QQ", 0, 0x00AF9B000000FFFF))
    for vector in (BREAKPOINT, INVALID_OPCODE):
        # the handler's address is in three parts (bits 0 to 15, 16 to 31, 32 to 63); 0x8E: present, an interrupt gate
        memory.write(IDT + 16 * vector, struct.pack("<HHBBHII", HANDLER & 0xFFFF, modes.CODE_SELECTOR, 0, 0x8E, HANDLER >> 16, 0, 0))
    processor.special_registers = processor.special_registers.replace(
        gdt=Table(base=GDT, limit=2 * 8 - 1), idt=Table(base=IDT, limit=16 * (INVALID_OPCODE + 1) - 1)
    )


def _interrupted(lab: Lab, processor: Vcpu) -> exits.Exit:
    """Run a guest that does not end, until a signal comes."""
    # A signal that comes just before the run is no reason for it to end. The handler sees to that: it asks the next run to come back
    # at once. Should even that be too late, the next signal is not far.
    before = signal.signal(signal.SIGALRM, lambda *_: processor.stop())
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    lab.say("host", "a timer shall send a signal in 50 ms")
    try:
        found = processor.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    lab.report(found)
    if not isinstance(found, exits.Interrupted):
        raise HutchError(f"expected that a signal ends it, and {found.explain()}")
    return found


def step(lab: Lab) -> Account:
    """Step: guest debugging. After each instruction the guest comes back, and its registers can be read."""
    with lab.machine() as (machine, memory):
        lab.load(memory, "step")
        places = GUESTS["step"].places
        processor = machine.create_processor()
        modes.long_mode(processor, memory, ENTRY, STACK, tables=TABLES)
        processor.debug(single_step=True)
        path: list[str] = []
        at = ENTRY
        while places[at] != HLT and len(path) < STEPS:
            found = processor.run()
            if isinstance(found, exits.Interrupted):
                continue
            if not isinstance(found, exits.Debug) or found.address not in places:
                raise HutchError(f"expected a step to the next instruction, and {found.explain()}")
            lab.exits.append(found.name)
            now = processor.registers
            done = places[at][1].partition(": ")[2] or places[at][1]
            zero = "ZF" if now.rflags & ZERO_FLAG else ""
            lab.say("step", f"{at:x}  {done:<16} rax {now.rax}  rbx {now.rbx}  rcx {now.rcx}  rsp {now.rsp:#x}  {zero}".rstrip())
            path.append(f"{at:x}")
            at = found.address
        processor.debug()
        lab.run(processor, exits.Halt)
        now = processor.registers
        return {"steps": len(path), "path": path, "rax": now.rax, "rbx": now.rbx}


def probe(lab: Lab) -> Account:
    """Probe: whether the hardware runs the guest, or somebody who reads its instructions one by one."""
    found: Account = {}
    for name in ("int3", "fld", "cmpxchg16b"):
        with lab.machine() as (machine, memory):
            lab.load(memory, name)
            memory.write(HANDLER, GUESTS["handler"].code)
            processor = machine.create_processor()
            modes.long_mode(processor, memory, ENTRY, STACK, tables=TABLES)
            _tables(processor, memory)
            end = lab.wait(processor)
            found[name] = "runs" if isinstance(end, exits.Halt) else end.name
    found["a kernel could boot"] = verdict().works
    return found


LABS: dict[str, Callable[[Lab], Account]] = {
    "real": real, "protected": protected, "long": long, "interrupt": interrupt, "eventfd": eventfd, "faults": faults, "step": step, "probe": probe,
}  # fmt: skip


def show(account: Account, indent: str = "  ") -> None:
    """Print what was found: one thing a line."""
    for key, value in account.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        else:
            words = ("no", "yes")[value] if isinstance(value, bool) else " ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{indent}{key + ':':<34} {words}")


def usable() -> Kvm:
    """A KVM that can make machines for the guests here. Raises UnsupportedError, OSError."""
    if platform.machine() != "x86_64":
        raise UnsupportedError(f"its guests are for x86-64, and this is {platform.machine()}")
    kvm = Kvm()
    try:
        kvm.create_machine().close()  # another hypervisor may have the processors: then it opens, and this fails
    except OSError:
        kvm.close()
        raise
    return kvm


def main(words: list[str]) -> int:
    """The command line: names of labs, all when there are none. 1 when one was not possible here, 2 when there is no KVM."""
    flags = {word for word in words if word.startswith("--")}
    names = [word for word in words if word not in flags] or list(LABS)
    if unknown := [*(flags - {"--json"}), *(name for name in names if name not in LABS)]:
        print(f"{unknown[0]}: not one of {' '.join(LABS)} --json", file=sys.stderr)
        return 2
    try:
        kvm = usable()
    except UnsupportedError as error:
        print(f"machines.py cannot use KVM here: {error.message}{f' ({error.hint})' if error.hint else ''}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"machines.py cannot use KVM here: /dev/kvm: {error.strerror}", file=sys.stderr)
        return 2
    found: dict[str, Account] = {}
    failed = 0
    with kvm:
        for name in names:
            quiet = "--json" in flags
            if not quiet:
                print((LABS[name].__doc__ or name).splitlines()[0])
            try:
                found[name] = {"found": LABS[name](Lab(kvm, quiet))}
                if not quiet:
                    show(found[name]["found"])
            except (OSError, HutchError) as error:
                failed = 1
                found[name] = {"failed": str(error)}
                print(f"{name}: {error}", file=sys.stderr)
            if not quiet:
                print()
    if "--json" in flags:
        print(json.dumps(found))
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
