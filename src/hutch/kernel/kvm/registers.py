"""A virtual processor's registers (struct kvm_regs, kvm_sregs; Intel SDM volume 3, chapters 2 and 3)."""

from __future__ import annotations

import struct

from hutch.record import Record

GENERAL = struct.Struct("=18Q")
SEGMENT = struct.Struct("=QIH9Bx")
TABLE = struct.Struct("=QH6x")
CONTROL = struct.Struct("=7Q")
BITMAP = struct.Struct("=4Q")

CR0_PE, CR0_MP, CR0_ET, CR0_NE, CR0_WP, CR0_AM, CR0_PG = 1, 1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 18, 1 << 31
CR4_PAE, CR4_OSFXSR, CR4_OSXMMEXCPT = 1 << 5, 1 << 9, 1 << 10
EFER_SCE, EFER_LME, EFER_LMA, EFER_NX = 1, 1 << 8, 1 << 10, 1 << 11
RFLAGS_RESERVED, RFLAGS_IF = 0x2, 1 << 9
CODE, DATA = 11, 3  # segment types: execute and read, accessed; read and write, accessed


class Registers(Record):
    """The general ones."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = RFLAGS_RESERVED

    def pack(self) -> bytes:
        """As struct kvm_regs."""
        return GENERAL.pack(*(getattr(self, name) for name in self._fields))

    @classmethod
    def unpack(cls, data: bytes) -> Registers:
        """From struct kvm_regs."""
        return cls(**dict(zip(cls._fields, GENERAL.unpack(data), strict=True)))


class Segment(Record):
    """A segment register with the hidden part that the processor has loaded from a descriptor: `base`, `limit` in bytes, `type` (four
    bits), `dpl` the privilege level; `db` 32-bit, `long` 64-bit code, `granular` limits in pages, `system` 0 for a system's own."""

    base: int = 0
    limit: int = 0xFFFF
    selector: int = 0
    type: int = DATA
    present: int = 1
    dpl: int = 0
    db: int = 0
    system: int = 1
    long: int = 0
    granular: int = 0
    available: int = 0
    unusable: int = 0

    def pack(self) -> bytes:
        """As struct kvm_segment."""
        return SEGMENT.pack(*(getattr(self, name) for name in self._fields))

    @classmethod
    def unpack(cls, data: bytes) -> Segment:
        """From struct kvm_segment."""
        return cls(**dict(zip(cls._fields, SEGMENT.unpack(data), strict=True)))


class Table(Record):
    """Where a descriptor table is: GDTR or IDTR."""

    base: int = 0
    limit: int = 0

    def pack(self) -> bytes:
        """As struct kvm_dtable."""
        return TABLE.pack(self.base, self.limit)


class SpecialRegisters(Record):
    """Segments, tables, control registers."""

    cs: Segment
    ds: Segment
    es: Segment
    fs: Segment
    gs: Segment
    ss: Segment
    tr: Segment
    ldt: Segment
    gdt: Table
    idt: Table
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    efer: int
    apic_base: int
    interrupts: tuple[int, ...] = (0, 0, 0, 0)

    def pack(self) -> bytes:
        """As struct kvm_sregs."""
        segments = (self.cs, self.ds, self.es, self.fs, self.gs, self.ss, self.tr, self.ldt)
        control = CONTROL.pack(self.cr0, self.cr2, self.cr3, self.cr4, self.cr8, self.efer, self.apic_base)
        return b"".join(item.pack() for item in segments) + self.gdt.pack() + self.idt.pack() + control + BITMAP.pack(*self.interrupts)

    @classmethod
    def unpack(cls, data: bytes) -> SpecialRegisters:
        """From struct kvm_sregs."""
        segments = [Segment.unpack(data[i : i + SEGMENT.size]) for i in range(0, 8 * SEGMENT.size, SEGMENT.size)]
        at = 8 * SEGMENT.size
        gdt, idt = (Table(base=base, limit=limit) for base, limit in (TABLE.unpack_from(data, at), TABLE.unpack_from(data, at + TABLE.size)))
        values = CONTROL.unpack_from(data, at + 2 * TABLE.size)
        bitmap = BITMAP.unpack_from(data, at + 2 * TABLE.size + CONTROL.size)
        cs, ds, es, fs, gs, ss, tr, ldt = segments
        cr0, cr2, cr3, cr4, cr8, efer, apic_base = values
        return cls(
            cs=cs, ds=ds, es=es, fs=fs, gs=gs, ss=ss, tr=tr, ldt=ldt, gdt=gdt, idt=idt,
            cr0=cr0, cr2=cr2, cr3=cr3, cr4=cr4, cr8=cr8, efer=efer, apic_base=apic_base, interrupts=bitmap,
        )  # fmt: skip
