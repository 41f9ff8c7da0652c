"""QEMU's microvm (docs/system/i386/microvm.rst of QEMU's manual): no firmware, no PCI, virtio-mmio devices."""

from __future__ import annotations

import os

from hutch.errors import UnsupportedError
from hutch.record import Record
from hutch.vm.machine import INITRAMFS, KERNEL, KVM, MIB, Descriptors, Machine

PROGRAM = "qemu-system-x86_64"
TRANSLATIONS = 64  # MiB of translated code: as much as is kept, and counts as the machine's overhead


class Qemu(Record):
    """QEMU, by its path."""

    path: str

    @property
    def name(self) -> str:
        """What it is called in a plan."""
        return "qemu"

    def command(self, machine: Machine) -> tuple[str, ...]:
        """Its program and arguments."""
        size = f"{machine.memory // MIB}M"
        accel = "kvm" if machine.accel == KVM else f"tcg,thread=multi,tb-size={TRANSLATIONS}"
        words = [
            self.path, "-name", "hutch", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            # spawn: no programs; elevateprivileges: no set-user-ID ones; resourcecontrol: no scheduling of its own (qemu(1), "-sandbox")
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            # by ACPI the guest finds its devices and interrupt controllers: without it, it has no timer under emulation
            "-machine", "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,usb=off,memory-backend=memory",
            "-global", "virtio-mmio.force-legacy=false",  # virtio 1.0, which virtiofsd asks for
            "-accel", accel, "-cpu", "host" if machine.accel == KVM else "max", "-smp", str(machine.cpus), "-m", size,
            # shared: virtiofsd reads and writes the guest's buffers where they are (vhost-user)
            "-object", f"memory-backend-memfd,id=memory,size={size},share=on",
            "-kernel", KERNEL, "-initrd", INITRAMFS, "-append", machine.command_line,
            "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
            "-device", "virtio-serial-device,max_ports=2",
            "-chardev", f"socket,id=control,fd={Descriptors.CONTROL}", "-device", "virtserialport,chardev=control,name=hutch",
            "-chardev", f"socket,id=monitor,fd={Descriptors.MONITOR},server=on,wait=off", "-mon", "chardev=monitor,mode=control",
        ]  # fmt: skip
        if not machine.disks:
            words += ["-chardev", f"socket,id=root,fd={Descriptors.ROOT}", "-device", "vhost-user-fs-device,chardev=root,tag=root,queue-size=1024"]
        for number in range(len(machine.disks)):
            words += ["-drive", f"id=disk{number},file=/disk{number},format=raw,if=none,readonly=on", "-device", f"virtio-blk-device,drive=disk{number}"]
        for number in range(machine.interfaces):
            words += ["-netdev", f"tap,id=net{number},fd={Descriptors.FIRST_TAP + number},vhost=off"]
            words += ["-device", f"virtio-net-device,netdev=net{number},mac={machine.mac(number)}"]
        return tuple(words)

    def describe(self, machine: Machine) -> list[str]:
        """The machine for a person."""
        how = "hardware virtualisation by KVM" if machine.accel == KVM else "software emulation (TCG), which is no security boundary"
        devices = ["serial port ttyS0: the console, kept for messages", "virtio-serial port 1: the control channel"]
        devices.append("virtio-fs root: the container's root, by virtiofsd" if not machine.disks else f"virtio-blk x {len(machine.disks)}: the root's layers")
        devices += [f"virtio-net {machine.mac(number)}: tap{number}, joined to eth{number}" for number in range(machine.interfaces)]
        return [
            f"monitor: {self.path}, machine microvm, {how}",
            f"kernel: Linux {machine.release}, {machine.kernel} (started by its PVH entry, without firmware)",
            f"initial ramdisk: {machine.initramfs}",
            f"command line: {machine.command_line}",
            f"memory: {machine.memory // MIB} MiB from 0x0 (shared with virtiofsd, by a memfd); virtual CPUs: {machine.cpus}",
            *(f"device: {device}" for device in devices),
        ]


def find() -> Qemu:
    """QEMU of this machine. Raises UnsupportedError."""
    for directory in os.environ.get("PATH", "/usr/bin:/bin").split(":"):
        path = f"{directory}/{PROGRAM}"
        if directory.startswith("/") and os.access(path, os.X_OK):
            return Qemu(path=os.path.realpath(path))
    raise UnsupportedError(f"isolation vm: {PROGRAM} is not installed", "apt-get install qemu-system-x86")
