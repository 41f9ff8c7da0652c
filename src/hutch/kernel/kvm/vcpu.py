"""A virtual processor: its registers, and running it."""

from __future__ import annotations

import mmap
import struct

from hutch.kernel.kvm import abi, exits
from hutch.kernel.kvm.device import Device
from hutch.kernel.kvm.registers import GENERAL, Registers, SpecialRegisters
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.kernel.kvm.cpuid import CpuidEntry

SREGS_SIZE = 312
EINTR, EAGAIN, EFAULT = 4, 11, 14


class Translation(Record):
    """Where an address of the guest's program is in its memory (`None`: nowhere)."""

    physical: int | None


class Vcpu(Device):
    """A virtual processor. One thread runs it; others may only `stop` it."""

    def __init__(self, fd: int, number: int, run_size: int) -> None:
        super().__init__(fd)
        self.number = number
        try:
            self._run = mmap.mmap(fd, run_size)
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        """Let go of it. Safe to call twice."""
        if not self._run.closed:
            self._run.close()
        super().close()

    def run(self) -> exits.Exit:
        """Run the guest until it needs something (api.rst, KVM_RUN): why it came back. Other threads run meanwhile. Raises OSError.

        A signal to this thread ends it with Interrupted; so does `stop`, from any thread, as long as the guest has not yet begun.
        """
        try:
            self._ioctl(abi.RUN)
        except OSError as error:
            if error.errno == EFAULT and self._reason() == exits.MEMORY_FAULT:
                return exits.decode(self._run)
            if error.errno not in (EINTR, EAGAIN):
                raise
            self._run[abi.RUN_IMMEDIATE_EXIT] = 0
            return exits.Interrupted(number=exits.INTERRUPTED, name=exits.NAMES[exits.INTERRUPTED])
        return exits.decode(self._run)

    def _reason(self) -> int:
        found: int = struct.unpack_from("=I", self._run, abi.RUN_EXIT_REASON)[0]
        return found

    def stop(self) -> None:
        """Have the next `run` come back at once."""
        self._run[abi.RUN_IMMEDIATE_EXIT] = 1

    def answer(self, data: bytes) -> None:
        """What the guest reads, where it came back to read a port, memory or an MSR. Raises ValueError for another length."""
        number, size, at = self._reason(), 0, 0
        if number == 2:
            write, width, _, count, offset = struct.unpack_from("=BBHIQ", self._run, abi.RUN_EXIT)
            size, at = (0, 0) if write else (width * count, offset)
        elif number == 6:
            length, write = struct.unpack_from("=IB", self._run, abi.RUN_EXIT + 16)
            size, at = (0, 0) if write else (length, abi.RUN_EXIT + 8)
        elif number == 29:
            size, at = 8, abi.RUN_EXIT + 16
        if not size:
            raise ValueError("the guest has not come back to read anything")
        if len(data) != size:
            raise ValueError(f"the guest reads {size} bytes, not {len(data)}")
        self._run[at : at + size] = data

    # registers

    @property
    def registers(self) -> Registers:
        """The general ones. Raises OSError."""
        return Registers.unpack(self._get(abi.GET_REGS, GENERAL.size))

    @registers.setter
    def registers(self, value: Registers) -> None:
        self._give(abi.SET_REGS, value.pack())

    @property
    def special_registers(self) -> SpecialRegisters:
        """Segments, tables, control registers. Raises OSError."""
        return SpecialRegisters.unpack(self._get(abi.GET_SREGS, SREGS_SIZE))

    @special_registers.setter
    def special_registers(self, value: SpecialRegisters) -> None:
        self._give(abi.SET_SREGS, value.pack())

    def model_specific(self, indices: Iterable[int]) -> dict[int, int]:
        """Model specific registers, as far as they are there. Raises OSError."""
        wanted = tuple(indices)
        data = abi.MSR_HEAD.pack(len(wanted)) + b"".join(abi.MSR_ENTRY.pack(index, 0) for index in wanted)
        buffer = self._buffer(data)
        count = self._ioctl(abi.GET_MSRS, buffer)
        rows = (abi.MSR_ENTRY.unpack_from(buffer.raw, abi.MSR_HEAD.size + i * abi.MSR_ENTRY.size) for i in range(count))
        return dict(rows)

    def set_model_specific(self, values: dict[int, int]) -> int:
        """Set some; how many were set: it ends at the first that cannot be. Raises OSError."""
        entries = b"".join(abi.MSR_ENTRY.pack(index, value) for index, value in values.items())
        return self._give(abi.SET_MSRS, abi.MSR_HEAD.pack(len(values)) + entries)

    def set_cpuid(self, entries: Iterable[CpuidEntry]) -> None:
        """What `cpuid` answers. Raises OSError."""
        found = tuple(entries)
        self._give(abi.SET_CPUID2, abi.CPUID_HEAD.pack(len(found)) + b"".join(entry.pack() for entry in found))

    @property
    def state(self) -> str:
        """One of `abi.MP_STATES`. Raises OSError."""
        (number,) = struct.unpack("=I", self._get(abi.GET_MP_STATE, 4))
        return abi.MP_STATES.get(number, str(number))

    # interrupts and debugging

    def interrupt(self, vector: int) -> None:
        """Send an interrupt, where the kernel has no controllers. Raises OSError."""
        self._give(abi.INTERRUPT, struct.pack("=I", vector))

    def non_maskable_interrupt(self) -> None:
        """Send one. Raises OSError."""
        self._ioctl(abi.NMI)

    def tsc_khz(self) -> int:
        """How fast its time stamp counter runs, in kHz (KVM_GET_TSC_KHZ). Raises OSError where the host's counter is not stable."""
        return self._ioctl(abi.GET_TSC_KHZ)

    def debug(self, *, single_step: bool = False, breakpoints: Iterable[int] = ()) -> None:
        """Come back after every instruction, or at up to four addresses; nothing: as usual. Raises OSError, ValueError."""
        places = tuple(breakpoints)
        if len(places) > 4:
            raise ValueError("a processor has four breakpoints")
        control = (single_step or bool(places)) * abi.GUESTDBG_ENABLE | single_step * abi.GUESTDBG_SINGLESTEP | bool(places) * abi.GUESTDBG_USE_HW_BP
        dr7 = sum(2 << 2 * number for number in range(len(places))) | 0x400 if places else 0
        self._give(abi.SET_GUEST_DEBUG, abi.DEBUG.pack(control, *(places + (0,) * (4 - len(places))), 0, 0, 0, dr7))

    def translate(self, address: int) -> Translation:
        """Where a linear address is, by the guest's own page tables. Raises OSError."""
        data = self._exchange(abi.TRANSLATE, struct.pack("=Q16x", address))
        _, physical, valid, *_ = abi.TRANSLATION.unpack(data)  # what may be done there x86 does not say
        return Translation(physical=physical if valid else None)
