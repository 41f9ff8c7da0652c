"""What the kernel has of a container's machine: its programs, their threads, memory and descriptors, why its processors came back.

A part of `hutch inspect --kernel`. It is read from /proc; the exits of a machine of KVM's are KVM's own counts (api.rst,
KVM_GET_STATS_FD), which it tells its own process alone, and so are asked of the monitor.
"""

from __future__ import annotations

import os

from hutch.engine.machines import channel
from hutch.engine.reports.node import Node
from hutch.errors import HutchError
from hutch.kernel import proc
from hutch.vm.machine import KVM, MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.engine.records.state import Running

PROCESSOR = "CPU "  # QEMU names its threads: "CPU 0/KVM", "CPU 0/TCG"
TICKS = os.sysconf("SC_CLK_TCK")
SHOWN = ("exits", "halt_exits", "io_exits", "mmio_exits", "irq_exits", "signal_exits", "request_irq_exits", "irq_injections", "nmi_injections")


def of_machine(running: Running) -> Node:
    """The machine of a container that runs."""
    machine = running.data["machine"]
    hardware = machine.get("accel", KVM) == KVM
    below = [_program(int(child)) for child in proc.read_text(f"/proc/{running.pid}/task/{running.pid}/children").split()]
    if hardware:
        below += _exits(running)
    else:
        below.append(Node(text="exits: none: no processor of this host is in guest mode, a program does what each instruction says"))
    how = "by KVM" if hardware else "emulated in software"
    return Node(text=f"machine with Linux {machine['release']}, {machine['memory'] // MIB} MiB, {how}", below=tuple(below))


def _program(pid: int) -> Node:
    try:
        name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        name = proc.read_text(f"/proc/{pid}/comm").strip()
    return Node(text=f"process {pid} {name}, {_resident(pid)} resident", below=(*_processors(pid), *_descriptors(pid)))


def _resident(pid: int) -> str:
    size = next((line.split()[1] for line in proc.read_text(f"/proc/{pid}/status").split("\n") if line.startswith("VmRSS")), "0")
    return f"{int(size) / 1024:.1f} MiB"


def _processors(pid: int) -> list[Node]:
    """The threads that are virtual processors: each runs for as long as some thread of its process is in KVM_RUN, or emulates it."""
    found = []
    try:
        threads = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
    except OSError:
        return []
    for thread in threads:
        name = proc.read_text(f"/proc/{pid}/task/{thread}/comm").strip()
        if name.startswith(PROCESSOR):
            words = proc.read_text(f"/proc/{pid}/task/{thread}/stat").rpartition(")")[2].split()
            spent = (int(words[11]) + int(words[12])) / TICKS if len(words) > 12 else 0.0
            found.append(Node(text=f"virtual processor {name.removeprefix(PROCESSOR).partition('/')[0]}: thread {thread}, {spent:.2f} s of processor time"))
    return found


def _descriptors(pid: int) -> list[Node]:
    """Its memory's file, its eventfds, and KVM's objects."""
    counts: dict[str, int] = {}
    found = []
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    for number in numbers:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            if target.startswith("/memfd:"):
                info = os.stat(f"/proc/{pid}/fd/{number}")
                used = info.st_blocks * 512 / MIB
                found.append(Node(text=f"memory: {target.split()[0].removeprefix('/')} of {info.st_size // MIB} MiB, {used:.1f} MiB of it are there"))
        except OSError:
            continue
        kind = target.removeprefix("anon_inode:").strip("[]")
        if kind == "eventfd" or kind.startswith("kvm"):
            counts[kind.partition(":")[0]] = counts.get(kind.partition(":")[0], 0) + 1
    names = {"eventfd": "eventfds"}
    return [*found, *(Node(text=f"{names.get(kind, kind)}: {count}") for kind, count in sorted(counts.items()))]


def _exits(running: Running) -> list[Node]:
    from hutch.vm import qmp

    try:
        counts = qmp.talk(channel.monitor(running.directory, running.name or running.id), qmp.exits)
    except HutchError:
        return []
    return [
        Node(text=f"exits of virtual processor {number}", below=tuple(Node(text=f"{name}: {known[name]}") for name in SHOWN if name in known))
        for number, known in enumerate(counts)
    ]
