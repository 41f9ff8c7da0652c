"""The modes of a processor of the x86 family: what has to be set for a guest to begin in each (Intel SDM volume 3, chapters 3, 4 and 21)."""

from __future__ import annotations

from hutch.kernel.kvm.registers import (
    CODE,
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    DATA,
    EFER_LMA,
    EFER_LME,
    Registers,
    Segment,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.kernel.kvm.machine import Memory
    from hutch.kernel.kvm.vcpu import Vcpu

CODE_SELECTOR, DATA_SELECTOR, TASK_SELECTOR = 0x08, 0x10, 0x18
PRESENT, WRITABLE, USER, LARGE = 1, 2, 4, 1 << 7
LARGE_PAGE = 1 << 21


def real_mode(processor: Vcpu, entry: int, stack: int = 0) -> None:
    """16 bits, no protection, addresses below 1 MiB: begin at `entry`, all segments at 0. Raises OSError."""
    special = processor.special_registers
    flat = Segment(base=0, limit=0xFFFF, selector=0, type=DATA)
    data = dict.fromkeys(("ds", "es", "fs", "gs", "ss"), flat)
    processor.special_registers = special.replace(cs=flat.replace(type=CODE), **data)
    processor.registers = Registers(rip=entry, rsp=stack)


def protected_mode(processor: Vcpu, entry: int, stack: int) -> None:
    """32 bits, segments of 4 GiB from 0 on, no paging. The guest has no descriptor table until it makes one: what the segment
    registers hold is enough, as long as it does not load them. Raises OSError."""
    flat = Segment(base=0, limit=0xFFFFFFFF, selector=DATA_SELECTOR, type=DATA, db=1, granular=1)
    data = dict.fromkeys(("ds", "es", "fs", "gs", "ss"), flat)
    code = flat.replace(selector=CODE_SELECTOR, type=CODE)
    processor.special_registers = processor.special_registers.replace(cs=code, **data, cr0=CR0_PE | CR0_ET | CR0_NE)
    processor.registers = Registers(rip=entry, rsp=stack)


def long_mode(processor: Vcpu, memory: Memory, entry: int, stack: int, *, tables: int) -> None:
    """64 bits: the first GiB is where it is (`identity_map`, whose three pages lie at `tables`). Raises OSError, ValueError."""
    identity_map(memory, tables)
    flat = Segment(base=0, limit=0xFFFFFFFF, selector=DATA_SELECTOR, type=DATA, db=1, granular=1)
    data = dict.fromkeys(("ds", "es", "fs", "gs", "ss"), flat)
    code = flat.replace(selector=CODE_SELECTOR, type=CODE, db=0, long=1)
    task = Segment(base=0, limit=0x67, selector=TASK_SELECTOR, type=11, system=0)
    processor.special_registers = processor.special_registers.replace(
        cs=code, **data, tr=task, cr0=CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG, cr3=tables, cr4=CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT,
        efer=EFER_LME | EFER_LMA,
    )  # fmt: skip
    processor.registers = Registers(rip=entry, rsp=stack)


def identity_map(memory: Memory, tables: int) -> None:
    """Page tables for the first GiB, in pages of 2 MiB, each at its own address: a PML4, a PDPT and a page directory, one page each,
    from `tables` on. Raises ValueError where they do not lie in the memory."""
    directory_pointers, directory = tables + 0x1000, tables + 0x2000

    def entries(*values: int) -> bytes:
        return b"".join(value.to_bytes(8, "little") for value in values)

    memory.write(tables, entries(directory_pointers | PRESENT | WRITABLE))
    memory.write(directory_pointers, entries(directory | PRESENT | WRITABLE))
    memory.write(directory, entries(*(number * LARGE_PAGE | PRESENT | WRITABLE | LARGE for number in range(512))))
