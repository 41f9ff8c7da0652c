"""Chapter 1, to run: what virtualisation is, by experiments with the kernel and the processor.

``python virtualisation.py`` goes through all labs, ``python virtualisation.py monitor`` through one; ``--json`` prints data. The
first three labs share a processor, memory and a terminal. The others run guests: programs of a few instructions, written as bytes
beside the instructions that the bytes are (AT&T syntax: source first). A guest has a child process to itself, and this process
watches it by ptrace(2).

Root is not needed but for what /proc/PID/pagemap shows. The guests need x86-64 and a ptrace that is allowed; a lab that lacks
something says what, and is skipped. Nothing stays behind: all memory is anonymous, and all processes are children that are waited for.

Sources: ptrace(2), sched(7), proc(5), pty(7), arch_prctl(2); Intel SDM volume 2 (the instructions), volume 3, chapters 2 and 6;
arch/x86/kernel/umip.c, Documentation/admin-guide/mm/pagemap.rst and Documentation/mm/overcommit-accounting.rst in the kernel's tree.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import pty
import resource
import signal
import struct
import sys
import termios
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from hutch.kernel import proc, syscalls as kernel
from hutch.kernel.kvm.probe import probe as verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

Account = dict[str, Any]

PAGE = mmap.PAGESIZE
SIZE = 4 * PAGE  # of a guest's memory: its code at 0, its stack at the end
# linux/ptrace.h, asm/siginfo.h
PTRACE_TRACEME, PTRACE_CONT, PTRACE_SINGLESTEP, PTRACE_GETREGS, PTRACE_SETREGS = 0, 7, 9, 12, 13
PTRACE_SETOPTIONS, PTRACE_GETSIGINFO, PTRACE_O_EXITKILL = 0x4200, 0x4202, 0x100000
SI_KERNEL = 128
# /proc/PID/pagemap: eight bytes a page
PRESENT, FRAME = 1 << 63, (1 << 55) - 1
SERIAL, STATUS = 0x3F8, 0x3FD  # I/O ports of a PC's first serial line: the data, and whether it may be sent
READY = 0x20
STEPS = 2  # of the interpreter, to count what they take
ZERO_FLAG, INTERRUPT_FLAG = 1 << 6, 1 << 9
ALWAYS_SET = 1 << 1  # a bit of the flags that is 1 by definition
CR0 = 0x80000011  # what a guest shall read: paging, and protected mode. The real one has more bits
GDT_OF_UMIP = 0xFFFFFFFFFFFE0000  # what the kernel answers in the processor's place (UMIP_DUMMY_GDT_BASE)


class Skipped(Exception):
    """This machine lacks what a lab needs."""


class Guest(NamedTuple):
    """A program of a guest's: its instructions, as bytes, text, and what for. It begins at the guest's address 0."""

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
        found, at = {}, 0
        for line in self.listing:
            found[at] = line
            at += len(bytes.fromhex(line[0]))
        return found


HLT = ("f4", "hlt", "until an interrupt comes")
END = ("cc", "int3", "a breakpoint: the end")
GUESTS = {
    # what a program may not do
    "hlt": Guest((("f4", "hlt", "stop the processor"), END)),
    "cli": Guest((("fa", "cli", "no more interrupts"), END)),
    "in": Guest((("e4 80", "in $0x80,%al", "from a device"), END)),
    "out": Guest((("e6 80", "out %al,$0x80", "to a device"), END)),
    "mov cr0": Guest((("0f 20 c0", "mov %cr0,%rax", "the mode, and whether there is paging"), END)),
    "rdmsr": Guest((("0f 32", "rdmsr", "one of the processor's many other registers"), END)),
    # what it may, and should not
    "popf": Guest((
        ("6a 02", "push $0x2", "flags, of which IF is not one"),
        ("9d", "popf", "into the flags register"),
        ("9c", "pushf", "and out of it"),
        ("5b", "pop %rbx", ""),
        END,
    )),
    "sgdt": Guest((("0f 01 07", "sgdt (%rdi)", "where the descriptors of segments lie"), END)),
    "sidt": Guest((("0f 01 0f", "sidt (%rdi)", "where the handlers of interrupts lie"), END)),
    "smsw": Guest((("0f 01 e0", "smsw %eax", "CR0 by its old name, the machine status word"), END)),
    "cpuid": Guest((("0f a2", "cpuid", "what the processor is"), END)),
    "cpuid refused": Guest((
        ("b8 9e 00 00 00", "mov $158,%eax", "arch_prctl"),
        ("bf 12 10 00 00", "mov $0x1012,%edi", "(ARCH_CPUID,"),
        ("31 f6", "xor %esi,%esi", "0)"),
        ("0f 05", "syscall", ""),
        ("85 c0", "test %eax,%eax", "a negative number is an error's"),
        ("78 02", "js 1f", ""),
        ("0f a2", "cpuid", ""),
        ("cc", "1: int3", "a breakpoint: the end"),
    )),
    # a fault of another kind, to compare with
    "nowhere": Guest((("48 8b 04 25 10 00 00 00", "mov 0x10,%rax", "where no memory is"), END)),
    # a driver: it needs a machine of its own
    "driver": Guest((
        ("fa", "cli", "no interrupts now"),
        ("b9 03 00 00 00", "mov $3,%ecx", ""),
        ("ba fd 03 00 00", "1: mov $0x3fd,%edx", "the serial line's status"),
        ("ec", "in %dx,%al", ""),
        ("a8 20", "test $0x20,%al", "may be sent?"),
        ("74 f6", "jz 1b", "not yet"),
        ("ba f8 03 00 00", "mov $0x3f8,%edx", "its data"),
        ("88 c8", "mov %cl,%al", ""),
        ("04 30", "add $'0',%al", "as a digit"),
        ("ee", "out %al,%dx", "send it"),
        ("ff c9", "dec %ecx", ""),
        ("75 e8", "jnz 1b", "3, 2, 1"),
        ("0f 20 c0", "mov %cr0,%rax", "which mode is this?"),
        HLT,
    )),
    # what a kernel does around a critical section
    "hole": Guest((
        ("fa", "cli", "interrupts off"),
        ("9c", "pushf", ""),
        ("5b", "pop %rbx", "are they?"),
        ("68 02 02 00 00", "push $0x202", "flags, and IF is one of them"),
        ("9d", "popf", "interrupts on"),
        HLT,
    )),
    # for the clock
    "traps": Guest((
        ("b9 d0 07 00 00", "mov $2000,%ecx", ""),
        ("ba 80 00 00 00", "mov $0x80,%edx", "a port where nobody is"),
        ("ee", "1: out %al,%dx", ""),
        ("ff c9", "dec %ecx", ""),
        ("75 fb", "jnz 1b", ""),
        HLT,
    )),
    "calls": Guest((
        ("bb a0 86 01 00", "mov $100000,%ebx", ""),
        ("b8 6e 00 00 00", "1: mov $110,%eax", "getppid, which has nothing to do"),
        ("0f 05", "syscall", ""),
        ("ff cb", "dec %ebx", ""),
        ("75 f5", "jnz 1b", ""),
        END,
    )),
    "loop": Guest((
        ("b9 80 96 98 00", "mov $10000000,%ecx", ""),
        ("ff c9", "1: dec %ecx", ""),
        ("75 fc", "jnz 1b", ""),
        HLT,
    )),
    "short loop": Guest((
        ("b9 10 27 00 00", "mov $10000,%ecx", ""),
        ("ff c9", "1: dec %ecx", ""),
        ("75 fc", "jnz 1b", ""),
        HLT,
    )),
}  # fmt: skip


class Registers(ctypes.Structure):
    """struct user_regs_struct (sys/user.h): a thread's registers as ptrace has them. The interpreter uses the same."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs".split()
    ]

    rax: int  # the others are found by their names as well

    @property
    def al(self) -> int:
        """The lowest byte of rax."""
        return self.rax & 0xFF

    @al.setter
    def al(self, value: int) -> None:
        self.rax = (self.rax & ~0xFF) | (value & 0xFF)


class Room:
    """A guest's memory: pages that this process shares with its child, so that both see what either writes."""

    def __init__(self, code: bytes) -> None:
        if platform.machine() != "x86_64":
            raise Skipped(f"the guests are for x86-64, and this is {platform.machine()}")
        try:
            self.bytes = mmap.mmap(-1, SIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        except PermissionError as error:
            raise Skipped(f"no memory to write and to execute: {error.strerror}") from None
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))
        self.bytes[: len(code)] = code


class Stop(NamedTuple):
    """Why a guest stands still: a signal, and what the kernel says about it. `at` is where, in the guest's addresses."""

    signal: int
    code: int
    address: int
    at: int


class Traced:
    """A child process that executes a guest and nothing else, until it stops. It ends with the ``with``."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.registers = Registers()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # should the parent die between here and EXITKILL
                kernel.syscall("ptrace", PTRACE_TRACEME, 0, 0, 0)
                os.kill(os.getpid(), signal.SIGSTOP)  # from here on the parent says where it goes on
            finally:
                os._exit(1)
        try:
            _, status = os.waitpid(self.pid, 0)
            if not os.WIFSTOPPED(status):
                self.pid = 0
                raise Skipped("ptrace(2) is not allowed here")
            self._ptrace(PTRACE_SETOPTIONS, PTRACE_O_EXITKILL)
            self._ptrace(PTRACE_GETREGS, ctypes.byref(self.registers))
        except BaseException:
            self.close()
            raise

    def _ptrace(self, request: int, data: object = 0) -> None:
        kernel.syscall("ptrace", request, self.pid, 0, data)

    def start(self, **registers: int) -> None:
        """Put it at the guest's beginning, with these registers, and zero in the others."""
        for name in "rax rbx rcx rdx rsi rdi rbp r8 r9 r10 r11 r12 r13 r14 r15".split():
            setattr(self.registers, name, registers.get(name, 0))
        self.registers.rip, self.registers.rsp = self.room.base, self.room.base + SIZE
        self.registers.orig_rax = 2**64 - 1  # it is in no system call that would have to be restarted

    def run(self) -> Stop:
        """Go on from where the registers say, until a signal stops it. The signal is not delivered: the guest never has it."""
        self._ptrace(PTRACE_SETREGS, ctypes.byref(self.registers))
        while True:
            self._ptrace(PTRACE_CONT)
            _, status = os.waitpid(self.pid, 0)
            if not os.WIFSTOPPED(status):
                self.pid = 0
                raise Skipped(f"the guest ended: {os.waitstatus_to_exitcode(status)}")
            if os.WSTOPSIG(status) in (signal.SIGSEGV, signal.SIGTRAP, signal.SIGILL, signal.SIGBUS):
                break  # not what comes from a terminal, such as SIGWINCH
        self._ptrace(PTRACE_GETREGS, ctypes.byref(self.registers))
        information = (ctypes.c_char * 128)()
        self._ptrace(PTRACE_GETSIGINFO, ctypes.byref(information))
        number, _, code, address = struct.unpack_from("<iii4xQ", information)
        return Stop(number, code, address, self.registers.rip - self.room.base)

    def close(self) -> None:
        """End it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def __enter__(self) -> Traced:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Lab:
    """What is said on the way."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def say(self, who: str, words: str) -> None:
        """A line."""
        if not self._quiet:
            print(f"  {who + ':':<9} {words}")

    def listing(self, name: str) -> None:
        """A guest."""
        for address, (code, text, why) in GUESTS[name].places.items():
            self.say(f"{address:x}", f"{code:<20}  {text:<24}{' # ' + why if why else ''}".rstrip())


# what is shared


def in_child(work: Callable[[], Account]) -> Account:
    """Fork, let the child do `work`, and return what it found."""
    return gather([start_child(work)])[0]


def start_child(work: Callable[[], Account]) -> tuple[int, int]:
    """A child that writes what it found to a pipe: (pid, the pipe)."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.write(writing, json.dumps(work()).encode())
            status = 0
        except OSError as error:
            os.write(2, f"in the child: {error}\n".encode())
        finally:
            os._exit(status)  # never back into the parent's code
    os.close(writing)
    return pid, reading


def gather(children: Iterable[tuple[int, int]]) -> list[Account]:
    """What children found."""
    texts = []
    for pid, reading in children:
        with open(reading, "rb") as file:
            texts.append(file.read())
        os.waitpid(pid, 0)
    if not all(texts):
        raise Skipped("a child died without an answer")
    return [json.loads(text) for text in texts]


def processor(lab: Lab) -> Account:
    """Processor: shared by time. One program on a CPU, and then three on the same one."""
    seconds = 0.3
    cpu = max(os.sched_getaffinity(0))
    lab.say("each", f"reads the clock again and again, for {seconds} s, and notes when it stood still for more than 1 ms")

    def switches() -> int:
        """How often this process was taken from the CPU, although it wanted to go on."""
        return int(proc.read_text("/proc/self/status").partition("nonvoluntary_ctxt_switches:")[2].split()[0])

    def hog(gate: int) -> Account:
        os.sched_setaffinity(0, {cpu})
        os.read(gate, 1)
        switched, used = switches(), time.process_time()
        begin = last = time.monotonic()
        gaps: list[float] = []
        while last - begin < seconds:
            now = time.monotonic()
            if now - last > 0.001:
                gaps.append(now - last)  # it has not seen this time pass: between two instructions the clock has jumped
            last = now
        return {"wall": last - begin, "used": time.process_time() - used, "switches": switches() - switched, "gaps": len(gaps), "away": sum(gaps)}

    found: Account = {}
    for name, count in (("alone", 1), ("three on one CPU", 3)):
        gate, open_gate = os.pipe()

        def wait_and_run(gate: int = gate, open_gate: int = open_gate) -> Account:
            os.close(open_gate)
            return hog(gate)

        children = [start_child(wait_and_run) for _ in range(count)]
        os.close(gate)
        os.close(open_gate)  # all begin
        all_of_them = gather(children)
        found[name] = {
            "time by the clock (s)": [round(one["wall"], 2) for one in all_of_them],
            "CPU time (s)": [round(one["used"], 2) for one in all_of_them],
            "involuntary switches": [one["switches"] for one in all_of_them],
            "times it stood still": [one["gaps"] for one in all_of_them],
            "together (s)": [round(one["away"], 2) for one in all_of_them],
        }
    return found


def entry(address: int) -> int | None:
    """What the page tables of this process have for an address (/proc/self/pagemap). None where the kernel does not say."""
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int.from_bytes(os.pread(fd, 8, address // PAGE * 8), "little")
    finally:
        os.close(fd)


def frame(address: int) -> int | None:
    """The number of the page of physical memory behind an address. None where it is hidden: that takes CAP_SYS_ADMIN."""
    found = entry(address)
    return found & FRAME or None if found and found & PRESENT else None


def same(one: int | None, other: int | None) -> bool | None:
    """Whether two frames are one; None where they are hidden."""
    return None if one is None or other is None else one == other


def mapping(size: int, flags: int = mmap.MAP_PRIVATE) -> tuple[mmap.mmap, int]:
    """Anonymous memory, and its address."""
    memory = mmap.mmap(-1, size, flags=flags | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_NOHUGEPAGE)  # pages of 4 KiB, so that they can be counted
        except OSError:
            pass  # a kernel without huge pages
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


def faults() -> int:
    """How many times the kernel had to make a page accessible for this process (without reading it from a disk)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def memory(lab: Lab) -> Account:
    """Memory: shared by page tables. One address that is two places, pages copied when written, memory that nobody has."""
    del lab
    return in_child(lambda: {"one address, two processes": _addresses(), "copy on write": _copies(), "more than there is": _promises()})


def _addresses() -> Account:
    page, address = mapping(PAGE)
    page[:6] = b"carrot"
    before = frame(address)

    def child() -> Account:
        first = frame(address)
        page[:6] = b"turnip"
        return {"address": address, "first": first, "then": frame(address), "text": page[:6].decode()}

    other = in_child(child)
    return {
        "the same address": other["address"] == address,
        "the parent reads": page[:6].decode(),
        "the child reads": other["text"],
        "the same frame after fork": same(before, other["first"]),
        "the same frame after the write": same(frame(address), other["then"]),
    }


def _copies() -> Account:
    pages = 256
    memory, _ = mapping(pages * PAGE)
    places = list(range(0, pages * PAGE, PAGE))

    def read() -> None:
        for at in places:
            memory[at]

    def write() -> None:
        for at in places:
            memory[at] = 1

    def counted(work: Callable[[], None]) -> int:
        before = faults()
        work()
        return faults() - before

    first = counted(write)

    def child() -> Account:
        faults()
        return {"reads": counted(read), "writes": counted(write), "again": counted(write)}

    other = in_child(child)
    return {
        "pages": pages,
        "faults: the first write": first,
        "faults: the child reads all": other["reads"],
        "faults: the child writes all": other["writes"],
        "faults: and once more": other["again"],
    }


def _promises() -> Account:
    mode = proc.read_text("/proc/sys/vm/overcommit_memory").strip()
    total = int(proc.read_text("/proc/meminfo").partition("MemTotal:")[2].split()[0]) * 1024
    piece = total // 2 // PAGE * PAGE
    pieces: list[tuple[mmap.mmap, int]] = []
    refusal = None
    for _ in range(8):
        try:
            pieces.append(mapping(piece))
        except OSError as error:
            refusal = error.strerror
            break
    if not pieces:
        raise Skipped(f"half of the memory is refused at once: {refusal} (vm.overcommit_memory is {mode})")
    memory, address = pieces[0]
    checked = [address + number * PAGE for number in range(16)]

    def there() -> int | None:
        found = [entry(at) for at in checked]
        return None if None in found else sum(bool(one and one & PRESENT) for one in found)

    untouched = there()
    for number in range(3):
        memory[number * PAGE] = 1
    touched = there()
    zeros = [memory[number * PAGE] for number in (8, 9)]
    return {
        "granted, in memories of this machine": len(pieces) / 2,
        "of 16 pages there": untouched,
        "there after 3 writes": touched,
        "what 2 others hold when read": zeros,
        "those 2 are one frame": same(frame(checked[8]), frame(checked[9])),
    }


def device(lab: Lab) -> Account:
    """Device: made of software. A terminal with no wire, no keyboard and no screen."""
    del lab
    try:
        keyboard, terminal = pty.openpty()  # whoever holds the first end is the hardware
    except OSError as error:
        raise Skipped(f"no terminals of software here: {error.strerror}") from None
    try:
        speed = termios.tcgetattr(terminal)[5]
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.alarm(10)
                os.login_tty(terminal)  # a session of its own, whose terminal this is
                os.write(1, b"?")
                line = os.read(0, 100)
                os.write(1, line.rstrip().upper() + b"\n")
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        try:
            terminal_is_one = os.isatty(terminal)
            os.read(keyboard, 1)  # the program's question: it listens now
            typed = b"carrotz\x7f\n"
            os.write(keyboard, typed)
            screen = b""
            while screen.count(b"\n") < 2:
                screen += os.read(keyboard, 100)
            os.write(keyboard, b"\x03")
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(pid, 0)
    finally:
        os.close(keyboard)
        os.close(terminal)
    return {
        "is a terminal": terminal_is_one,
        "bits per second, it says": {termios.B38400: 38400, termios.B9600: 9600}.get(speed, speed),
        "sent by the keyboard": repr(typed.decode()),
        "seen on the screen": [repr(line) for line in screen.decode().split("\r\n") if line],
        "after Control-C it ended by": signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "nothing",
    }


# what is privileged


def flags_of_processor() -> set[str]:
    """What the kernel says that the processor can, and that it uses."""
    return set(proc.read_text("/proc/cpuinfo").partition("\nflags\t\t:")[2].partition("\n")[0].split())


def attempt(name: str) -> tuple[Stop, Registers, bytes]:
    """Run a guest to its first fault or its end: (why it stopped, its registers, what it wrote to where %rdi points)."""
    room = Room(GUESTS[name].code)
    with Traced(room) as guest:
        guest.start(rdi=room.base + PAGE)
        stop = guest.run()
        return stop, guest.registers, room.bytes[PAGE : PAGE + 10]


def describe(stop: Stop) -> str:
    """A stop in words."""
    why = "SI_KERNEL, no address" if stop.code == SI_KERNEL else f"code {stop.code}, address {stop.address:#x}"
    return f"{signal.Signals(stop.signal).name} ({why})"


def privileged(lab: Lab) -> Account:
    """Privileged: which instructions a program may not execute, and which ones it may, and should not."""
    umip = "umip" in flags_of_processor()
    found: Account = {}
    for name in ("hlt", "cli", "in", "out", "mov cr0", "rdmsr", "nowhere", "popf", "sgdt", "sidt", "smsw", "cpuid", "cpuid refused"):
        stop, registers, stored = attempt(name)
        code, text, _ = GUESTS[name].listing[{"popf": 1, "cpuid refused": 6}.get(name, 0)]
        key = {"nowhere": "a bad address", "cpuid refused": "cpuid, refused"}.get(name, name)
        end = len(GUESTS[name].code)
        trapped = stop.signal == signal.SIGSEGV
        if trapped:
            words, found[key] = describe(stop), "traps" if stop.code == SI_KERNEL else "no memory"
        elif stop.signal != signal.SIGTRAP or stop.at != end:
            words = found[key] = f"{describe(stop)} at {stop.at:#x}"
        elif name == "popf":
            kept = bool(registers.rbx & INTERRUPT_FLAG)
            found[key] = "does nothing" if kept else "works"
            words = f"runs: IF was to be 0, and is {int(kept)}"
        elif name in ("sgdt", "sidt"):
            limit, base = struct.unpack("<HQ", stored)
            emulated = (umip and limit == 0) or base == GDT_OF_UMIP
            found[key] = "emulated by the kernel" if emulated else "runs"
            words = f"{'the kernel answers' if emulated else 'runs'}: base {base:#x}, limit {limit:#x}"
        elif name == "smsw":
            found[key] = "emulated by the kernel" if umip else "runs"
            words = f"{'the kernel answers' if umip else 'runs'}: {registers.rax:#x}"
        elif name == "cpuid":
            found[key] = "runs"
            words = f"runs: {vendor(registers.rbx, registers.rdx, registers.rcx)}"
        else:
            number = ctypes.c_int32(registers.rax & 0xFFFFFFFF).value
            found[key] = os.strerror(-number) if -number in errno.errorcode else "runs"
            words = f"not refused: arch_prctl says {found[key]}"
        lab.say("tries", f"{code:<25} {key if key.startswith(text) else text:<16} {words}")
    return found


# trap and emulate


class Virtual:
    """What a guest believes to be its machine: the interrupt flag, a control register, a serial line. And who traps are reported to."""

    def __init__(self, room: Room, base: int, say: Callable[[str, str], None] | None = None) -> None:
        self.room, self.base, self._say = room, base, say
        self.interrupts = True
        self.halted = False
        self.printed = b""
        self.traps = 0

    def tell(self, words: str) -> None:
        """What was done."""
        if self._say:
            self._say("does", words)

    def out(self, port: int, value: int) -> None:
        """A byte for a device. Nobody is at any other port, and nothing happens there, as on a real bus."""
        if port == SERIAL:
            self.printed += bytes((value,))
            self.tell(f"out: prints {chr(value)}")

    def into(self, port: int) -> int:
        """A byte of a device's. Where nobody answers all bits are set."""
        value = READY if port == STATUS else 0xFF
        self.tell(f"in: port {port:#x} answers {value:#x}")
        return value

    def sensitive(self, code: bytes, registers: Registers) -> int:
        """Do what an instruction asks for, to this machine instead of the real one. Its length; 0: it is not sensitive."""
        match code[0]:
            case 0xF4:
                self.halted = True
                self.tell(f"hlt: the guest sleeps, with interrupts {'on' if self.interrupts else 'off'}")
            case 0xFA | 0xFB:
                self.interrupts = code[0] == 0xFB
                self.tell(f"{'sti' if self.interrupts else 'cli'}: the guest's interrupts are {'on' if self.interrupts else 'off'}, the host's stay on")
            case 0xEE:
                self.out(registers.rdx & 0xFFFF, registers.al)
            case 0xEC:
                registers.al = self.into(registers.rdx & 0xFFFF)
            case 0x0F if code[:3] == b"\x0f\x20\xc0":
                registers.rax = CR0
                self.tell(f"mov %cr0: {CR0:#x}, which is not the host's")
                return 3
            case 0x9C:
                seen = (registers.eflags & ~INTERRUPT_FLAG) | (INTERRUPT_FLAG if self.interrupts else 0)
                push(self, registers, seen | ALWAYS_SET)
                self.tell(f"pushf: with the guest's interrupt flag, {int(self.interrupts)}")
            case 0x9D:
                value = pop(self, registers)
                self.interrupts = bool(value & INTERRUPT_FLAG)
                registers.eflags = (registers.eflags & ~ZERO_FLAG) | (value & ZERO_FLAG)  # of the others, the labs need this one
                self.tell(f"popf: the guest's interrupts are {'on' if self.interrupts else 'off'}")
            case _:
                return 0
        return 1


def push(machine: Virtual, registers: Registers, value: int) -> None:
    """Eight bytes onto the guest's stack."""
    registers.rsp -= 8
    at = registers.rsp - machine.base
    machine.room.bytes[at : at + 8] = value.to_bytes(8, "little")


def pop(machine: Virtual, registers: Registers) -> int:
    """Eight bytes from the guest's stack."""
    at = registers.rsp - machine.base
    registers.rsp += 8
    return int.from_bytes(machine.room.bytes[at : at + 8], "little")


def monitor_guest(code: bytes, say: Callable[[str, str], None] | None = None, replaced: dict[int, bytes] | None = None) -> tuple[Virtual, Registers]:
    """Trap and emulate: let the processor run the guest, and do by hand whatever it faults at. `replaced`: what stood there before."""
    room = Room(code)
    machine = Virtual(room, room.base, say)
    with Traced(room) as guest:
        guest.start()
        while not machine.halted:
            stop = guest.run()
            instruction = (replaced or {}).get(stop.at) or room.bytes[stop.at : stop.at + 8]
            if say:
                say("trap", f"at {stop.at:x}, {signal.Signals(stop.signal).name}: {instruction[:1].hex()}")
            length = machine.sensitive(instruction, guest.registers) if stop.signal == signal.SIGSEGV and 0 <= stop.at < SIZE else 0
            if not length:
                raise Skipped(f"the guest stopped by {describe(stop)} at {stop.at:#x}, and that was no instruction for a monitor")
            machine.traps += 1
            guest.registers.rip += length  # step over it
        return machine, guest.registers


def monitor(lab: Lab) -> Account:
    """Monitor: trap and emulate. The processor runs the guest, and what it refuses is done for it."""
    lab.listing("driver")
    machine, registers = monitor_guest(GUESTS["driver"].code, lab.say)

    begin = time.perf_counter()
    many, _ = monitor_guest(GUESTS["traps"].code)
    trap = (time.perf_counter() - begin) / many.traps
    with Traced(Room(GUESTS["calls"].code)) as guest:
        guest.start()
        begin = time.perf_counter()
        guest.run()
        call = (time.perf_counter() - begin) / 100_000
    return {
        "printed": machine.printed.decode(),
        "traps": machine.traps,
        "CR0 that the guest has read": f"{registers.rax:#x}",
        "a trap, with its emulation (µs)": round(trap * 1e6, 1),
        "a system call (µs)": round(call * 1e6, 2),
    }


# emulation

NAMES = "rax rcx rdx rbx rsp rbp rsi rdi".split()  # in the order in which instructions number them
# All instructions that the interpreter has, and how long each is. The first byte is enough for the few that are here.
LENGTHS = {
    **dict.fromkeys(range(0xB8, 0xC0), 5), **dict.fromkeys(range(0x58, 0x60), 1),
    0x04: 2, 0x0F: 3, 0x68: 5, 0x74: 2, 0x75: 2, 0x88: 2, 0x9C: 1, 0x9D: 1, 0xA8: 2, 0xEC: 1, 0xEE: 1, 0xF4: 1, 0xFA: 1, 0xFB: 1, 0xFF: 2,
}  # fmt: skip


class Interpreter:
    """A processor as a program: fetch, decode, execute. Of the flags it has the zero flag and, in the virtual machine, IF."""

    def __init__(self, code: bytes, say: Callable[[str, str], None] | None = None) -> None:
        self.registers = Registers(rsp=SIZE)
        self.room = Room(code)
        self.machine = Virtual(self.room, 0, say)
        self.count = 0

    def step(self) -> None:
        """One instruction of the guest's."""
        registers = self.registers
        code = self.room.bytes[registers.rip : registers.rip + 8]
        length = LENGTHS.get(code[0])
        if length is None:
            raise Skipped(f"the interpreter does not know {code.hex(' ')}")
        self.count += 1
        registers.rip += length
        if self.machine.sensitive(code, registers):
            return
        short = ctypes.c_int8(code[1]).value
        match code[0]:
            case number if 0xB8 <= number < 0xC0:  # mov $imm,%reg
                setattr(registers, NAMES[number - 0xB8], int.from_bytes(code[1:5], "little"))
            case number if 0x58 <= number < 0x60:  # pop %reg
                setattr(registers, NAMES[number - 0x58], pop(self.machine, registers))
            case 0x68:  # push $imm
                push(self.machine, registers, int.from_bytes(code[1:5], "little"))
            case 0x04:  # add $imm,%al
                registers.al += code[1]
                self._zero(registers.al)
            case 0xA8:  # test $imm,%al
                self._zero(registers.al & code[1])
            case 0x74:  # jz
                registers.rip += short if registers.eflags & ZERO_FLAG else 0
            case 0x75:  # jnz
                registers.rip += 0 if registers.eflags & ZERO_FLAG else short
            case 0x88 if code[1] == 0xC8:  # mov %cl,%al
                registers.al = registers.rcx
            case 0xFF if code[1] == 0xC9:  # dec %ecx
                registers.rcx = (registers.rcx - 1) & 0xFFFFFFFF
                self._zero(registers.rcx)
            case _:
                raise Skipped(f"the interpreter does not know {code.hex(' ')}")

    def _zero(self, result: int) -> None:
        self.registers.eflags = (self.registers.eflags & ~ZERO_FLAG) | (0 if result else ZERO_FLAG)

    def run(self) -> None:
        """To the guest's end."""
        while not self.machine.halted:
            self.step()


def host_instructions(work: Callable[[], object]) -> int:
    """How many instructions a child executes for some work: each is a trap by itself (PTRACE_SINGLESTEP)."""

    def nothing() -> None:
        pass

    pid = os.fork()
    if pid == 0:
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            kernel.syscall("ptrace", PTRACE_TRACEME, 0, 0, 0)
            for what in (nothing, nothing, work):  # the first time is for what only a first time needs, the second for what the signals cost
                os.kill(os.getpid(), signal.SIGSTOP)
                what()
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)
    try:
        counts: list[int] = []
        while len(counts) < 4:
            _, status = os.waitpid(pid, 0)
            if not os.WIFSTOPPED(status):
                pid = 0
                raise Skipped("the child ended while it was counted, or ptrace(2) is not allowed here")
            if os.WSTOPSIG(status) == signal.SIGSTOP:
                counts.append(0)
            else:
                counts[-1] += 1
            kernel.syscall("ptrace", PTRACE_SINGLESTEP, pid, 0, 0)
        return counts[2] - counts[1]
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def interpreter(lab: Lab) -> Account:
    """Interpreter: emulation. The same bytes are data for a program, and the processor never runs them."""
    emulated = Interpreter(GUESTS["driver"].code, lab.say)
    emulated.run()

    counted = Interpreter(GUESTS["short loop"].code)
    begin = time.perf_counter()
    counted.run()
    slow = (time.perf_counter() - begin) / counted.count
    with Traced(Room(GUESTS["loop"].code)) as guest:
        guest.start()
        begin = time.perf_counter()
        guest.run()
        fast = (time.perf_counter() - begin) / 20_000_000
    stepped = Interpreter(GUESTS["short loop"].code)

    def steps() -> None:
        for _ in range(STEPS):
            stepped.step()

    steps()  # for what only a first time needs
    return {
        "printed": emulated.machine.printed.decode(),
        "traps": emulated.machine.traps,
        "instructions of the guest's": emulated.count,
        "CR0 that the guest has read": f"{emulated.registers.rax:#x}",
        "one, interpreted (ns)": round(slow * 1e9),
        "one, by the processor (ns)": round(fast * 1e9, 2),
        "instructions of the host's for one": host_instructions(steps) // STEPS,
    }


def translate(code: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Binary translation at its smallest: what is sensitive and does not trap becomes what traps, of the same length.

    Returns the new code, and what stood at the places that were changed.
    """
    new, replaced, at = bytearray(code), {}, 0
    while at < len(code):
        if code[at] in (0x9C, 0x9D):
            replaced[at] = code[at : at + 1]
            new[at] = 0xF4
        at += LENGTHS[code[at]]
    return bytes(new), replaced


def hole(lab: Lab) -> Account:
    """Hole: a guest that a monitor cannot run rightly, and two ways out."""
    lab.listing("hole")
    code = GUESTS["hole"].code
    found: Account = {}

    def note(name: str, machine: Virtual, registers: Registers) -> None:
        found[name] = {
            "traps": machine.traps,
            "after cli the guest reads IF as": int(bool(registers.rbx & INTERRUPT_FLAG)),
            "at hlt interrupts are": "on" if machine.interrupts else "off",
            "wakes up again": machine.interrupts,
        }

    lab.say("lab", "trap and emulate")
    note("trap and emulate", *monitor_guest(code, lab.say))
    lab.say("lab", "interpreted")
    emulated = Interpreter(code, lab.say)
    emulated.run()
    note("interpreted", emulated.machine, emulated.registers)
    lab.say("lab", "translated")
    new, replaced = translate(code)
    lab.say("was", code.hex(" "))
    lab.say("is", new.hex(" "))
    note("translated", *monitor_guest(new, lab.say, replaced))
    return found


# hardware


def vendor(*words: int) -> str:
    """The name that three registers spell."""
    return b"".join((word & 0xFFFFFFFF).to_bytes(4, "little") for word in words).rstrip(b"\0").decode("ascii", "replace")


def hardware(lab: Lab) -> Account:
    """Hardware: what the processor says about itself, and whether KVM can run a guest with it."""
    with Traced(Room(GUESTS["cpuid"].code)) as guest:

        def cpuid(leaf: int) -> tuple[int, int, int, int]:
            guest.start(rax=leaf)
            guest.run()
            registers = guest.registers
            found = (registers.rax, registers.rbx, registers.rcx, registers.rdx)
            lab.say("cpuid", f"{leaf:#010x}: eax {found[0]:08x}  ebx {found[1]:08x}  ecx {found[2]:08x}  edx {found[3]:08x}")
            return found

        _, ebx, ecx, edx = cpuid(0)
        maker = vendor(ebx, edx, ecx)
        _, _, features, _ = cpuid(1)
        extended = cpuid(0x80000000)[0]
        more = cpuid(0x80000001)[2] if extended > 0x80000000 else 0
        is_guest = bool(features >> 31 & 1)
        who = vendor(*cpuid(0x40000000)[1:]) if is_guest else None
    kvm = verdict()
    return {
        "maker": maker,
        "VMX (Intel)": bool(features >> 5 & 1),
        "SVM (AMD)": bool(more >> 2 & 1),
        "under a hypervisor": is_guest,
        "whose name is": who,
        "flags in /proc/cpuinfo": sorted(flags_of_processor() & {"vmx", "svm", "hypervisor", "ept", "npt", "umip", "cpuid_fault"}),
        "nesting allowed here": _nesting(),
        "KVM runs a guest here": kvm.works,
        **({"because": kvm.reason} if not kvm.works else {}),
    }


def _nesting() -> bool | None:
    """Whether this kernel's KVM offers hardware virtualisation to its guests. None: no such module."""
    for module in ("kvm_intel", "kvm_amd"):
        try:
            return proc.read_text(f"/sys/module/{module}/parameters/nested").strip() in ("1", "Y")
        except OSError:
            pass
    return None


LABS: dict[str, Callable[[Lab], Account]] = {
    "processor": processor, "memory": memory, "device": device, "privileged": privileged, "monitor": monitor, "interpreter": interpreter,
    "hole": hole, "hardware": hardware,
}  # fmt: skip


def text_of(value: object) -> str:
    """A value for people."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return ("no", "yes")[value]
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def show(account: Account, indent: str = "  ") -> None:
    """Print what was found: one thing a line."""
    for key, value in account.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{key + ':':<{42 - len(indent)}} {text_of(value)}")


def main(words: list[str]) -> int:
    """The command line: names of labs, all when there are none. 1 when one failed; that one was skipped is no failure."""
    flags = {word for word in words if word.startswith("--")}
    names = [word for word in words if word not in flags] or list(LABS)
    if unknown := [*(flags - {"--json"}), *(name for name in names if name not in LABS)]:
        print(f"{unknown[0]}: not one of {' '.join(LABS)} --json", file=sys.stderr)
        return 2
    quiet = "--json" in flags
    found: dict[str, Account] = {}
    failed = 0
    for name in names:
        if not quiet:
            print((LABS[name].__doc__ or name).splitlines()[0])
        try:
            found[name] = LABS[name](Lab(quiet))
        except Skipped as error:
            found[name] = {"skipped": str(error)}
        except OSError as error:
            failed = 1
            found[name] = {"failed": str(error)}
        if not quiet:
            show(found[name])
            print()
    if quiet:
        print(json.dumps(found))
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
