"""`hutch kvm`."""

from __future__ import annotations

import signal
import time

from hutch.cli.output import tell
from hutch.cli.request import seconds
from hutch.engine.spec import units
from hutch.engine.spec.syntax import integer
from hutch.errors import HutchError, UsageError
from hutch.kernel.kvm import Kvm, Machine, Vcpu, exits, modes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.kernel.kvm.exits import Exit

ENTRY, MEMORY = 0x1000, "4m"
PAGE, TABLES = 4096, 3 * 4096
MOST = 1000
MODES = ("real", "protected", "long")


def run(values: dict[str, Any], rest: list[str]) -> int:
    """Run a file as a guest, and print each of its exits. The exit code is 0 where it halts."""
    if len(rest) != 1:
        raise UsageError("kvm run: expected one file", "`hutch kvm run guest.bin`")
    mode = values.get("mode", "long")
    if mode not in MODES:
        raise UsageError(f"mode: expected {', '.join(MODES)}, got {mode!r}")
    try:
        with open(rest[0], "rb") as file:
            code = file.read()
    except OSError as error:
        raise UsageError(f"{rest[0]}: {error.strerror}") from None
    size = units.size(values.get("memory", MEMORY), "memory") // PAGE * PAGE
    most = integer(values.get("exits"), "exits") or MOST
    limit = seconds(values.get("timeout"), "timeout") or 0
    room = size - ENTRY - (TABLES + PAGE)
    if len(code) > room:
        raise UsageError(f"{rest[0]}: {len(code)} bytes have no room in {size} bytes of memory", "--memory")
    if mode == "real" and ENTRY + len(code) > 1 << 16:
        raise UsageError(f"{rest[0]}: in real mode there is room for {(1 << 16) - ENTRY} bytes")
    with Kvm() as kvm, kvm.create_machine() as machine:
        try:
            return _run(machine, code, mode, size, most, limit)
        except OSError as error:
            raise HutchError(f"kvm run: {error.strerror}") from None


def _run(machine: Machine, code: bytes, mode: str, size: int, most: int, limit: float) -> int:
    machine.set_task_state_address()
    memory = machine.add_memory(0, size)
    memory.write(ENTRY, code)
    processor = machine.create_processor()
    top = size - TABLES
    if mode == "long":
        modes.long_mode(processor, memory, ENTRY, top, tables=top)
    elif mode == "protected":
        modes.protected_mode(processor, ENTRY, top)
    else:
        modes.real_mode(processor, ENTRY, min(top, 0xFFFE))
    tell(f"{size} bytes of memory at 0, the guest at {ENTRY:#x}, {mode} mode")
    if limit:
        signal.signal(signal.SIGALRM, lambda *_: processor.stop())
        signal.setitimer(signal.ITIMER_REAL, limit)
    return _exits(processor, most)


def _exits(processor: Vcpu, most: int) -> int:
    written = bytearray()
    last: Exit | None = None
    for number in range(1, most + 1):
        began = time.perf_counter()
        last = processor.run()
        took = (time.perf_counter() - began) * 1e6
        tell(f"{number:>4} {took:>8.0f} µs  {last.explain()}")
        if isinstance(last, exits.PortAccess):
            if last.write:
                written += last.data
            else:
                processor.answer(b"\xff" * last.size * last.count)  # as on a bus where nobody answers
        elif isinstance(last, exits.MemoryAccess):
            if not last.write:
                processor.answer(b"\xff" * last.size)
        else:
            break
    found = processor.registers
    shown = [f"{name} {getattr(found, name):#x}" for name in found._fields if getattr(found, name)]
    tell("registers: " + ", ".join(shown))
    if written:
        tell(f"written to ports: {bytes(written)!r}")
    if isinstance(last, exits.Interrupted):
        raise HutchError("kvm run: the time is over")
    return 0 if isinstance(last, exits.Halt) else 1


def probe(_: dict[str, Any], rest: list[str]) -> int:
    """Say whether KVM runs a kernel here. The exit code is 1 where it does not."""
    from hutch.kernel.kvm.probe import probe as ask

    if rest:
        raise UsageError(f"kvm probe: unexpected argument {rest[0]!r}")
    found = ask()
    tell("yes" if found.works else f"no: {found.reason}{f' ({found.hint})' if found.hint else ''}")
    return 0 if found.works else 1
