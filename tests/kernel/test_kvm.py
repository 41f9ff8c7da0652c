"""/dev/kvm by its own interface: guests of a few instructions in every mode, and why each comes back."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from hutch.errors import UnsupportedError
from hutch.kernel.kvm import Kvm, Machine, Memory, Registers, Vcpu, exits, modes
from hutch.kernel.kvm.probe import probe
from hutch.kernel.kvm.system import DEVICE
from tests.guests import assemble

ENTRY, STACK, TABLES = 0x1000, 0x8000, 0x10000


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    try:
        found = Kvm()
    except UnsupportedError as error:
        pytest.skip(error.message)
    with found:
        yield found


@pytest.fixture
def machine(kvm) -> Iterator[Machine]:
    with kvm.create_machine() as found:
        found.set_task_state_address()
        yield found


def begin(machine: Machine, source: str, bits: int = 64, *, log: bool = False) -> tuple[Vcpu, Memory]:
    """A guest of 4 MiB about to run."""
    memory = machine.add_memory(0, 0x400000, log=log)
    memory.write(ENTRY, assemble(source, bits))
    processor = machine.create_processor()
    if bits == 64:
        modes.long_mode(processor, memory, ENTRY, STACK, tables=TABLES)
    else:
        (modes.protected_mode if bits == 32 else modes.real_mode)(processor, ENTRY, STACK)
    return processor, memory


def again(processor: Vcpu, memory: Memory, source: str) -> None:
    memory.write(ENTRY, assemble(source))
    processor.registers = Registers(rip=ENTRY, rsp=STACK)


def test_what_there_is(kvm):
    found = kvm.capabilities()
    assert found["user_memory"] and found["nr_memslots"] > 2
    cpuid = {(entry.function, entry.index): entry for entry in kvm.supported_cpuid()}
    leaf = cpuid[0, 0]
    assert b"".join(value.to_bytes(4, "little") for value in (leaf.ebx, leaf.edx, leaf.ecx)) in (b"AuthenticAMD", b"GenuineIntel", b"HygonGenuine")
    assert 0x174 in kvm.model_specific_registers()  # IA32_SYSENTER_CS


@pytest.mark.parametrize(
    ("bits", "sum_"), [(16, "mov $40,%ax; add $2,%ax"), (32, "mov $6,%eax; mov $7,%ecx; mul %ecx"), (64, "mov $21,%rax; shl $1,%rax; push %rax; pop %rbx")]
)
def test_it_computes_and_prints(machine, bits, sum_):
    processor, _ = begin(machine, f"{sum_}; mov $0x3f8,%dx; out %al,%dx; hlt", bits)
    out = processor.run()
    assert isinstance(out, exits.PortAccess) and (out.port, out.size, out.count, out.write, out.data) == (0x3F8, 1, 1, True, bytes((42,)))
    assert out.explain() == "the guest writes 2a to port 0x3f8"
    end = processor.run()
    assert isinstance(end, exits.Halt) and processor.registers.rax & 0xFF == 42
    special = processor.special_registers
    assert (bool(special.cr0 & 1), bool(special.cr0 >> 31), special.cs.long) == (bits > 16, bits == 64, bits == 64)


def test_a_string_at_once(machine):
    processor, memory = begin(machine, "mov $0x20000,%rsi; mov $5,%rcx; mov $0x3f8,%dx; rep outsb; hlt")
    memory.write(0x20000, b"hello")
    said = b""
    while isinstance(found := processor.run(), exits.PortAccess):
        said += found.data
    assert said == b"hello" and isinstance(found, exits.Halt)


def test_it_asks_and_is_answered(machine):
    processor, _ = begin(machine, "mov $0x60,%dx; in %dx,%al; mov $0x10000000,%rdi; mov (%rdi),%ebx; hlt")
    asked = processor.run()
    assert isinstance(asked, exits.PortAccess) and not asked.write and asked.port == 0x60
    with pytest.raises(ValueError, match="reads 1 bytes, not 2"):
        processor.answer(b"ab")
    processor.answer(b"Z")
    asked = processor.run()
    assert isinstance(asked, exits.MemoryAccess) and (asked.address, asked.size, asked.write) == (0x10000000, 4, False)
    processor.answer((0xDEADBEEF).to_bytes(4, "little"))
    assert isinstance(processor.run(), exits.Halt)
    assert processor.registers.rax & 0xFF == ord("Z") and processor.registers.rbx == 0xDEADBEEF
    with pytest.raises(ValueError, match="not come back to read"):
        processor.answer(b"Z")


HANDLER = """
    cli; xor %ax,%ax; mov %ax,%ds
    movw $handler+0x1000, 0x80; movw $0, 0x82       # vector 0x20, in the table at 0
    mov $0x11,%al; out %al,$0x20                    # the 8259: from vector 0x20 on, input 0 alone
    mov $0x20,%al; out %al,$0x21
    mov $4,%al; out %al,$0x21
    mov $1,%al; out %al,$0x21
    mov $0xfe,%al; out %al,$0x21
    out %al,$0x80
    sti
1:  hlt
    jmp 1b
handler:
    mov $0x41,%al; mov $0x3f8,%dx; out %al,%dx
    mov $0x20,%al; out %al,$0x20
    iret
"""


@pytest.mark.parametrize("by_eventfd", [True, False])
def test_it_takes_interrupts(machine, by_eventfd):
    machine.create_interrupt_controllers()
    processor, _ = begin(machine, HANDLER, 16)
    assert processor.run().explain().endswith("to port 0x80")
    fd = os.eventfd(0)
    try:
        if by_eventfd:
            machine.interrupt_by_eventfd(fd, 0)
        for _ in range(3):
            if by_eventfd:
                os.eventfd_write(fd, 1)
            else:
                machine.set_interrupt(0, True)
                machine.set_interrupt(0, False)
            found = processor.run()  # it sleeps in the kernel until the interrupt is there
            assert isinstance(found, exits.PortAccess) and found.data == b"A"
    finally:
        os.close(fd)


def test_an_interrupt_without_controllers(machine):
    processor, _ = begin(machine, "xor %ax,%ax; mov %ax,%ds; movw $handler+0x1000,0x84; movw $0,0x86; sti; hlt; hlt; handler: mov $7,%bx; hlt", 16)
    assert isinstance(processor.run(), exits.Halt)
    processor.interrupt(0x21)
    assert isinstance(processor.run(), exits.Halt) and processor.registers.rbx & 0xFFFF == 7


def test_a_timer(machine):
    machine.create_interrupt_controllers()
    machine.create_timer()
    timer = HANDLER.replace("    sti\n", "    mov $0x34,%al; out %al,$0x43; mov $0xff,%al; out %al,$0x40; mov $0x04,%al; out %al,$0x40; sti\n")
    processor, _ = begin(machine, timer, 16)
    assert processor.run().explain().endswith("to port 0x80")
    assert [processor.run().data for _ in range(3)] == [b"A"] * 3  # type: ignore[attr-defined]


def test_the_guest_kicks_an_eventfd(machine):
    """And goes on at once: nobody but the eventfd's reader sees it."""
    port, exact = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    try:
        machine.eventfd_by_write(port, 0x500, 1, port=True)
        machine.eventfd_by_write(exact, 0x10000000, 4, value=7)
        processor, memory = begin(
            machine, "mov $0x500,%dx; out %al,%dx; out %al,%dx; mov $7,%eax; mov $0x10000000,%rdi; mov %eax,(%rdi); inc %eax; mov %eax,(%rdi); hlt"
        )
        other = processor.run()
        assert isinstance(other, exits.MemoryAccess) and other.data == (8).to_bytes(4, "little"), "another value comes here"
        assert isinstance(processor.run(), exits.Halt)
        assert (os.eventfd_read(port), os.eventfd_read(exact)) == (2, 1)
        machine.eventfd_by_write(port, 0x500, 1, port=True, remove=True)
        again(processor, memory, "mov $0x500,%dx; out %al,%dx; hlt")
        assert isinstance(processor.run(), exits.PortAccess)
    finally:
        os.close(port)
        os.close(exact)


@pytest.mark.parametrize("source", ["ud2", "mov $0, %rax; mov %rax, %cr3; nop", "movl $1, 0x40000000"])
def test_a_fault_that_nobody_handles(machine, source):
    processor, _ = begin(machine, f"{source}; hlt")
    found = processor.run()
    assert isinstance(found, exits.Shutdown) and "triple fault" in found.explain()


def test_an_instruction_that_cannot_be_emulated(machine):
    """To no memory, whatever it is: KVM has to do it itself, and can do no such thing."""
    processor, _ = begin(machine, "mov $0x10000000,%rdi; fldl (%rdi); hlt")
    found = processor.run()
    if not isinstance(found, exits.InternalError):
        pytest.skip(f"this KVM can: {found.explain()}")
    assert found.suberror == 1 and "cannot emulate" in found.explain() and (not found.instruction or found.instruction[:2] == b"\xdd\x07")


def test_memory_that_may_not_be_written(machine):
    processor, _ = begin(machine, "mov 0x400000,%eax; movl $5,0x400010; hlt")
    part = machine.add_memory(0x400000, 0x1000, read_only=True)
    part.write(0x400000, b"read")
    found = processor.run()
    assert isinstance(found, exits.MemoryAccess) and (found.address, found.write, found.data) == (0x400010, True, (5).to_bytes(4, "little"))
    assert isinstance(processor.run(), exits.Halt) and processor.registers.rax.to_bytes(4, "little") == b"read" and part.read(0x400010, 1) == b"\0"
    machine.remove_memory(part)
    processor.registers = Registers(rip=ENTRY, rsp=STACK)
    assert isinstance(processor.run(), exits.MemoryAccess)


def test_what_the_guest_has_written(machine):
    processor, memory = begin(machine, "movl $5,0x20000; movl $5,0x33000; hlt", log=True)
    machine.dirty_pages(memory)
    assert isinstance(processor.run(), exits.Halt)
    assert {0x20000, 0x33000} <= set(machine.dirty_pages(memory)) <= {0x20000, 0x33000, TABLES, TABLES + 0x1000, TABLES + 0x2000}
    assert machine.dirty_pages(memory) == [] and memory.read(0x20000, 1) == b"\5"


def test_memory_that_cannot_be(machine):
    machine.add_memory(0, 0x2000)
    with pytest.raises(OSError, match="exists"):
        machine.add_memory(0x1000, 0x1000)
    for address, size in ((1, 0x1000), (0x4000, 7), (0x4000, 0)):
        with pytest.raises(ValueError, match="whole pages"):
            machine.add_memory(address, size)
    mine = mmap.mmap(-1, 0x1000)
    machine.remove_memory(machine.add_memory(0x4000, 0x1000, data=mine))
    assert mine[:1] == b"\0", "it is the caller's, still"
    with pytest.raises(ValueError, match="may not write"):
        machine.add_memory(0x4000, 0x1000, data=mmap.mmap(-1, 0x1000, prot=mmap.PROT_READ), read_only=True)
    part = machine.add_memory(0x4000, 0x1000)
    for action in (lambda: part.write(0x4FFF, b"ab"), lambda: part.write(0x3FFF, b"a"), lambda: part.read(0x4000, 0x1001)):
        with pytest.raises(ValueError, match="do not lie in the memory"):
            action()


def test_step_by_step(machine):
    processor, memory = begin(machine, "nop; nop; mov $1,%eax; nop; hlt")
    processor.debug(single_step=True)
    places = []
    for _ in range(4):
        found = processor.run()
        assert isinstance(found, exits.Debug) and "one instruction further" in found.explain()
        places.append(found.address)
    assert places == [0x1001, 0x1002, 0x1007, 0x1008]
    again(processor, memory, "nop; nop; mov $1,%eax; nop; hlt")
    processor.debug(breakpoints=[0x1007])
    found = processor.run()
    assert isinstance(found, exits.Debug) and found.address == 0x1007 and processor.registers.rax == 1
    processor.debug()
    assert isinstance(processor.run(), exits.Halt)
    with pytest.raises(ValueError, match="four"):
        processor.debug(breakpoints=range(5))


def test_it_is_interrupted(machine):
    """A guest that never ends."""
    processor, memory = begin(machine, "1: jmp 1b")
    processor.stop()
    assert isinstance(processor.run(), exits.Interrupted) and processor.registers.rip == ENTRY
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    timer = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    try:
        timer.start()
        assert isinstance(processor.run(), exits.Interrupted)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    again(processor, memory, "hlt")
    assert isinstance(processor.run(), exits.Halt)


def test_two_processors_share_the_memory(machine):
    first, memory = begin(machine, "1: mov 0x20000,%eax; test %eax,%eax; jz 1b; mov %eax,0x20004; hlt")
    second = machine.create_processor()
    memory.write(0x5000, assemble("movl $9,0x20000; 1: mov 0x20004,%ebx; test %ebx,%ebx; jz 1b; hlt"))
    modes.long_mode(second, memory, 0x5000, STACK - 0x1000, tables=TABLES)
    found: list[exits.Exit] = []
    thread = threading.Thread(target=lambda: found.append(first.run()))
    thread.start()
    assert isinstance(second.run(), exits.Halt) and second.registers.rbx == 9
    thread.join(10)
    assert isinstance(found[0], exits.Halt)


def test_registers_of_all_kinds(machine, kvm):
    processor, _ = begin(machine, "mov $1,%eax; cpuid; hlt")
    values = Registers(**{name: number + 1 for number, name in enumerate(Registers._fields) if name not in ("rip", "rflags")}, rip=ENTRY)
    processor.registers = values
    assert processor.registers == values
    special = processor.special_registers
    processor.special_registers = special
    assert processor.special_registers == special
    assert processor.set_model_specific({0x174: 5}) == 1 and processor.model_specific([0x174]) == {0x174: 5}
    assert processor.model_specific([0x40FFFFFF]) == {}
    changed = [entry.replace(ebx=0x12345678) if entry.function == 1 else entry for entry in kvm.supported_cpuid()]
    processor.set_cpuid(changed)
    assert processor.state == "runnable"
    here = processor.translate(ENTRY)
    assert here.physical == ENTRY and processor.translate(1 << 40).physical is None
    before = machine.clock()
    machine.set_clock(before + 10**12)
    assert machine.clock() - before >= 10**12


def test_without_the_device():
    before = len(os.listdir("/proc/self/fd"))
    for path, said in (("/dev/nonesuch", "No such file"), ("/dev/null/kvm", "Not a directory"), ("/dev/null", "is not KVM: Inappropriate ioctl")):
        with pytest.raises(UnsupportedError, match=said):
            Kvm(path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert DEVICE == "/dev/kvm"


def test_it_is_closed_at_the_end(kvm):
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    action: Callable[[], object]
    with kvm.create_machine() as machine:
        begin(machine, "hlt")
        action = machine.create_processor
    assert descriptors() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        action()


def test_the_probe():
    """It runs a few instructions, and says what came of them."""
    found = probe()
    if found.works:
        assert not found.reason
    else:
        assert found.reason
        if os.access(DEVICE, os.R_OK | os.W_OK):
            assert "a guest of a few instructions" in found.reason or "x86-64" in found.reason


def test_kvm_run(hutch_cli, tmp_path, kvm):
    guest = tmp_path / "guest.bin"
    guest.write_bytes(assemble("mov $0x3f8,%dx; mov $72,%al; out %al,%dx; mov $105,%al; out %al,%dx; in $0x60,%al; mov 0x10000000,%ebx; hlt"))
    done = hutch_cli("kvm", "run", str(guest))
    assert done.returncode == 0 and "written to ports: b'Hi'" in done.stdout and "rax 0xff" in done.stdout and "rbx 0xffffffff" in done.stdout, done
    assert [line.split("  ")[-1] for line in done.stdout.splitlines()[1:4]] == [
        "the guest writes 48 to port 0x3f8", "the guest writes 69 to port 0x3f8", "the guest reads 1 bytes of port 0x60",
    ]  # fmt: skip
    for mode, source, bits in (("real", "mov $1,%ax; hlt", 16), ("protected", "mov $1,%eax; push %eax; hlt", 32)):
        guest.write_bytes(assemble(source, bits))
        assert hutch_cli("kvm", "run", "--mode", mode, "-m", "128k", str(guest)).returncode == 0
    guest.write_bytes(assemble("ud2"))
    done = hutch_cli("kvm", "run", str(guest))
    assert done.returncode == 1 and "triple fault" in done.stdout
    guest.write_bytes(assemble("1: jmp 1b"))
    done = hutch_cli("kvm", "run", "--timeout", "0.2", str(guest))
    assert done.returncode == 125 and "the time is over" in done.stderr and "rip 0x1000" in done.stdout
    for words, said in (
        ((), "expected one file"), (("/nonesuch",), "No such file"), (("--mode", "odd", str(guest)), "mode: expected"), (("-m", "x", str(guest)), "memory"),
        (("-m", "16k", str(guest)), "have no room"), (("--timeout", "x", str(guest)), "timeout: expected seconds"), (("--exits", "x", str(guest)), "whole number"),
    ):  # fmt: skip
        done = hutch_cli("kvm", "run", *words)
        assert done.returncode == 125 and said in done.stderr and "Traceback" not in done.stderr, done
    done = hutch_cli("kvm", "probe")
    assert (done.returncode, done.stdout[:3]) == ((0, "yes") if probe().works else (1, "no:"))
    assert "virtual machines" in hutch_cli("doctor").stdout
