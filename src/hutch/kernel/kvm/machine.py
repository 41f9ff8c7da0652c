"""A virtual machine: memory, interrupt controllers, what is signalled by eventfds, processors."""

from __future__ import annotations

import ctypes
import mmap
import struct

from hutch.kernel.kvm import abi
from hutch.kernel.kvm.device import Device
from hutch.kernel.kvm.vcpu import Vcpu

PAGE = 4096
UNUSED = 0xFFFBD000  # where no guest has memory: below the firmware's place


class Memory:
    """A part of a machine's memory: `data` are its bytes, here; `address` is where the guest has it."""

    def __init__(self, slot: int, address: int, data: mmap.mmap, *, read_only: bool = False, log: bool = False, owned: bool = True) -> None:
        self.slot, self.address, self.data = slot, address, data
        self.read_only, self.log, self._owned = read_only, log, owned

    def close(self) -> None:
        """Let go of the bytes, unless they are somebody else's."""
        if self._owned:
            self.data.close()

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)

    @property
    def host_address(self) -> int:
        """Where this process has it. Raises TypeError where it may not write there."""
        here = ctypes.c_char.from_buffer(self.data)  # holds the mapping open, so it goes before the mapping does
        try:
            return ctypes.addressof(here)
        finally:
            del here

    def flags(self) -> int:
        """KVM_MEM_*."""
        return abi.MEM_READONLY * self.read_only | abi.MEM_LOG_DIRTY_PAGES * self.log

    def write(self, address: int, data: bytes) -> None:
        """Put bytes at an address of the guest's. Raises ValueError beyond its end."""
        at = address - self.address
        if at < 0 or at + len(data) > self.size:
            raise ValueError(f"{address:#x}: {len(data)} bytes do not lie in the memory at {self.address:#x}")
        self.data[at : at + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address of the guest's. Raises ValueError beyond its end."""
        at = address - self.address
        if at < 0 or at + size > self.size:
            raise ValueError(f"{address:#x}: {size} bytes do not lie in the memory at {self.address:#x}")
        return self.data[at : at + size]


class Machine(Device):
    """A virtual machine. Its processors and its memory go with it."""

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        self._run_size = run_size
        self.memory: dict[int, Memory] = {}
        self.processors: list[Vcpu] = []

    def close(self) -> None:
        """End it. Safe to call twice."""
        for processor in self.processors:
            processor.close()
        super().close()
        for part in self.memory.values():
            part.close()
        self.memory, self.processors = {}, []

    # memory

    def add_memory(self, address: int, size: int, *, read_only: bool = False, log: bool = False, data: mmap.mmap | None = None) -> Memory:
        """Give the guest memory: `size` bytes (whole pages) at `address`, or what `data` maps, which stays the caller's. `log`: which pages it writes is noted.

        What it writes to `read_only` memory comes back as a MemoryAccess. Raises OSError (EEXIST: another part overlaps), ValueError.
        """
        if address % PAGE or size % PAGE or not size:
            raise ValueError(f"memory: {size} bytes at {address:#x} are not whole pages of {PAGE} bytes")
        slot = next(number for number in range(len(self.memory) + 1) if number not in self.memory)
        owned = data is None
        part = Memory(slot, address, data if data is not None else mmap.mmap(-1, size), read_only=read_only, log=log, owned=owned)
        try:
            self._set(part, part.size)
        except TypeError:
            raise ValueError("memory: this program may not write what is mapped, so KVM cannot be told where it is") from None
        except OSError:
            part.close()
            raise
        self.memory[slot] = part
        return part

    def remove_memory(self, part: Memory) -> None:
        """Take it away. Raises OSError."""
        self._set(part, 0)
        del self.memory[part.slot]
        part.close()

    def _set(self, part: Memory, size: int) -> None:
        self._give(abi.SET_USER_MEMORY_REGION, abi.MEMORY_REGION.pack(part.slot, part.flags(), part.address, size, part.host_address))

    def dirty_pages(self, part: Memory) -> list[int]:
        """The addresses of the pages that the guest has written since the last time this was asked. Raises OSError where that is not
        logged."""
        pages = part.size // PAGE
        bitmap = ctypes.create_string_buffer((pages + 63) // 64 * 8)
        self._give(abi.GET_DIRTY_LOG, abi.DIRTY_LOG.pack(part.slot, 0, ctypes.addressof(bitmap)))
        return [part.address + number * PAGE for number in range(pages) if bitmap.raw[number // 8] >> number % 8 & 1]

    # interrupts

    def create_interrupt_controllers(self) -> None:
        """Two 8259s, an IOAPIC, and a local APIC for every processor that is made from now on: in the kernel. Raises OSError."""
        self._ioctl(abi.CREATE_IRQCHIP)

    def create_timer(self) -> None:
        """An i8254 (PIT), which sends interrupt 0. Raises OSError."""
        self._give(abi.CREATE_PIT2, abi.PIT_CONFIG.pack(0))

    def set_interrupt(self, number: int, level: bool) -> None:
        """Raise or lower an input of the interrupt controllers. Raises OSError."""
        self._give(abi.IRQ_LINE, abi.IRQ_LEVEL.pack(number, level))

    def interrupt_by_eventfd(self, eventfd: int, number: int, *, remove: bool = False) -> None:
        """Have every write to an eventfd send an interrupt, without this program. Raises OSError."""
        self._give(abi.IRQFD, abi.IRQFD_ARGUMENT.pack(eventfd, number, abi.IRQFD_FLAG_DEASSIGN * remove, 0))

    def eventfd_by_write(self, eventfd: int, address: int, size: int = 0, *, port: bool = False, value: int | None = None, remove: bool = False) -> None:
        """Have the guest's writes to an address (or a `port`), of `size` bytes and a `value` where these are given, signal an eventfd: it
        goes on at once, and does not come back here. Raises OSError."""
        flags = (value is not None) * abi.IOEVENTFD_DATAMATCH | port * abi.IOEVENTFD_PIO | remove * abi.IOEVENTFD_DEASSIGN
        self._give(abi.IOEVENTFD, abi.IOEVENTFD_ARGUMENT.pack(value or 0, address, size, eventfd, flags))

    # what Intel's virtualisation needs for real mode

    def set_task_state_address(self, address: int = UNUSED) -> None:
        """Three pages that the guest does not use, below 4 GiB. Raises OSError."""
        self._ioctl(abi.SET_TSS_ADDR, address)

    def set_identity_map_address(self, address: int) -> None:
        """A page that the guest does not use, below 4 GiB. Raises OSError."""
        self._give(abi.SET_IDENTITY_MAP_ADDR, struct.pack("=Q", address))

    # time and processors

    def clock(self) -> int:
        """The nanoseconds that the guest's paravirtual clock shows. Raises OSError."""
        found: int = abi.CLOCK.unpack(self._get(abi.GET_CLOCK, abi.CLOCK.size))[0]
        return found

    def set_clock(self, nanoseconds: int) -> None:
        """Set it. Raises OSError."""
        self._give(abi.SET_CLOCK, abi.CLOCK.pack(nanoseconds, 0, 0, 0))

    def create_processor(self) -> Vcpu:
        """A virtual processor, in the state that a real one has after a reset. Raises OSError."""
        number = len(self.processors)
        processor = Vcpu(self._ioctl(abi.CREATE_VCPU, number), number, self._run_size)
        self.processors.append(processor)
        return processor
