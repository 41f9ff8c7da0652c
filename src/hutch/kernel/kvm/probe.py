"""Whether KVM runs a real guest here. That /dev/kvm opens does not say so: where this host is itself a virtual machine, there may be a
KVM that emulates, instruction by instruction, what its processor cannot do, and no kernel ever boots."""

from __future__ import annotations

import platform

from hutch.errors import UnsupportedError
from hutch.kernel.kvm import exits, modes
from hutch.kernel.kvm.system import Kvm
from hutch.record import Record

# mov $0x20000,%edi; fldl (%rdi); fstp %st(0); lock cmpxchg16b (%rdi); hlt: what every processor does, and KVM's emulator cannot
GUEST = bytes.fromhex("bf00000200 dd07 ddd8 f0480fc70f f4")
ENTRY, STACK, TABLES, SIZE = 0x1000, 0x8000, 0x10000, 0x30000
PATIENCE = 16  # exits


class Verdict(Record):
    """Whether there is hardware virtualisation that a kernel can boot on, and if not, why, and what might help."""

    works: bool
    reason: str = ""
    hint: str = ""


def probe() -> Verdict:
    """Run a guest of a few instructions: some milliseconds. Raises nothing."""
    if platform.machine() != "x86_64":
        return Verdict(works=False, reason=f"Hutch's virtual machines are for x86-64, and this is {platform.machine()}")
    try:
        with Kvm() as kvm, kvm.create_machine() as machine:
            machine.set_task_state_address()
            memory = machine.add_memory(0, SIZE)
            memory.write(ENTRY, GUEST)
            processor = machine.create_processor()
            modes.long_mode(processor, memory, ENTRY, STACK, tables=TABLES)
            found = processor.run()
            for _ in range(PATIENCE):
                if isinstance(found, exits.Interrupted):  # by a signal that was for somebody else
                    found = processor.run()
    except UnsupportedError as error:
        return Verdict(works=False, reason=error.message, hint=error.hint or "")
    except OSError as error:
        return Verdict(works=False, reason=f"/dev/kvm: a guest of a few instructions: {error.strerror}")
    if isinstance(found, exits.Halt):
        return Verdict(works=True)
    hint = "this host is a virtual machine without nested virtualisation" if isinstance(found, exits.InternalError) else ""
    return Verdict(works=False, reason=f"a guest of a few instructions does not run: {found.explain()}", hint=hint)
