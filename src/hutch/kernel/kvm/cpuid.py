"""What `cpuid` answers (struct kvm_cpuid2, kvm_cpuid_entry2)."""

from __future__ import annotations

from hutch.kernel.kvm import abi
from hutch.record import Record


class CpuidEntry(Record):
    """What `cpuid` answers for a `function` (and an `index`, where that matters)."""

    function: int
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0

    def pack(self) -> bytes:
        """As struct kvm_cpuid_entry2."""
        return abi.CPUID_ENTRY.pack(self.function, self.index, self.flags, self.eax, self.ebx, self.ecx, self.edx)


def cpuid_entries(data: bytes) -> tuple[CpuidEntry, ...]:
    """From struct kvm_cpuid2."""
    (count,) = abi.CPUID_HEAD.unpack_from(data)
    names = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
    rows = (abi.CPUID_ENTRY.unpack_from(data, abi.CPUID_HEAD.size + i * abi.CPUID_ENTRY.size) for i in range(count))
    return tuple(CpuidEntry(**dict(zip(names, row, strict=True))) for row in rows)
