"""A virtual machine as plain data, and what whoever runs one must be able to say of it."""

from __future__ import annotations

from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Vmm(Protocol):
        """A virtual machine monitor: the program that runs a machine. Everything that depends on which one it is, is here."""

        @property
        def name(self) -> str:
            """What it is called in a plan."""

        @property
        def path(self) -> str:
            """Its program's file."""

        def command(self, machine: Machine) -> tuple[str, ...]:
            """Its program and arguments. In its root, the kernel is /kernel, the ramdisk /initramfs, disks /disk0 and so on;
            the descriptors are those of `Descriptors`."""

        def files(self, machine: Machine) -> tuple[tuple[str, str], ...]:
            """What else must lie in its root: (path, content), which it may write to."""

        def describe(self, machine: Machine) -> list[str]:
            """The machine for a person: devices, memory, the kernel's command line."""


KVM, TCG = "kvm", "tcg"
MIB = 1 << 20
DEFAULT_MEMORY = 512 * MIB
KERNEL_MEMORY = 96 * MIB  # of the guest's: what its kernel takes of the memory before the container has any
OVERHEAD = {KVM: 64 * MIB, TCG: 160 * MIB}  # the monitor's own: devices, stacks, page tables; translated code
PATIENCE = {KVM: 20_000, TCG: 60_000}  # milliseconds until a guest that has not been heard of is given up
MOST_INTERFACES = 6  # of microvm's 24 places for virtio devices, 16 may be disks, and one is the control channel

KERNEL, INITRAMFS = "/kernel", "/initramfs"


class Descriptors:
    """The monitor's descriptors: the guest's control channel, QMP, the root's file system (where the root is on disks: the machine's
    memory), then an interface each, then the state that a copy begins with."""

    CONTROL, MONITOR, ROOT, FIRST_TAP = 3, 4, 5, 6


class Machine(Record):
    """A machine: sizes in bytes, `interfaces` its number of network interfaces, `disks` the images of its root's layers, the topmost first, where
    the root is not shared. `snapshot`: a directory with the state and the memory that it begins with, of another machine's.

    `kernel` and `initramfs` are files of the host's; `accel` is "kvm" or "tcg" (software emulation, which is no boundary). `tsc_khz` is what
    the time stamp counter runs at under emulation: at the host's rate.
    """

    kernel: str
    initramfs: str
    release: str
    memory: int
    cpus: int = 1
    accel: str = KVM
    interfaces: int = 0
    disks: tuple[str, ...] = ()
    tsc_khz: int = 0
    snapshot: str = ""

    @property
    def command_line(self) -> str:
        """The kernel's (Documentation/admin-guide/kernel-parameters.rst). Under emulation the time stamp counter is not measured,
        which now and then never ends there."""
        words = ["console=ttyS0", "reboot=t", "panic=-1", "quiet", "cgroup_no_v1=all", "random.trust_cpu=on", "rcupdate.rcu_expedited=1", "cryptomgr.notests"]
        if self.accel == TCG:
            words += [f"tsc_early_khz={self.tsc_khz}", "tsc=reliable", "no_timer_check", "mitigations=off"]
        return " ".join(words)

    def mac(self, number: int) -> str:
        """The MAC that the monitor gives an interface: the guest knows it by that, and sets the container's own."""
        return f"52:54:00:00:00:{number:02d}"
