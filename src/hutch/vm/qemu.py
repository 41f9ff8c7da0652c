"""QEMU's microvm (docs/system/i386/microvm.rst of QEMU's manual): no firmware, no PCI, virtio-mmio devices."""

from __future__ import annotations

import os

from hutch.errors import UnsupportedError
from hutch.record import Record
from hutch.vm.machine import INITRAMFS, KERNEL, KVM, MIB, Descriptors, Machine

PROGRAM = "qemu-system-x86_64"
SCRIPT = "/restore"
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
        memory = f"memory-backend-memfd,id=memory,size={size},share=on"  # virtiofsd reads and writes the guest's buffers where they are (vhost-user)
        if machine.disks:
            memory = f"memory-backend-file,id=memory,size={size},mem-path=/proc/self/fd/{Descriptors.ROOT},share=on"
        words = [
            self.path, "-name", "hutch,debug-threads=on", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            # spawn: no programs; elevateprivileges: no set-user-ID ones; resourcecontrol: no scheduling of its own (qemu(1), "-sandbox")
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            # by ACPI the guest finds its devices and interrupt controllers: without it, it has no timer under emulation
            "-machine", "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,usb=off,memory-backend=memory",
            "-global", "virtio-mmio.force-legacy=false",  # virtio 1.0, which virtiofsd asks for
            "-accel", accel, "-cpu", "host" if machine.accel == KVM else "max", "-smp", str(machine.cpus), "-m", size,
            "-object", memory,
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
        if machine.snapshot:
            words += ["-incoming", "defer", "-chardev", f"pipe,id=script,path={SCRIPT}", "-mon", "chardev=script,mode=control"]
        return tuple(words)

    def files(self, machine: Machine) -> tuple[tuple[str, str], ...]:
        """For a copy, what its monitor is told as soon as it listens: to take the memory as it lies in its file, and the state.
        That the memory is no part of the state can be said there alone (qapi/migration.json, x-ignore-shared)."""
        if not machine.snapshot:
            return ()
        number = Descriptors.FIRST_TAP + machine.interfaces
        words = (
            '{"execute":"qmp_capabilities"}',
            '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"x-ignore-shared","state":true}]}}',
            f'{{"execute":"migrate-incoming","arguments":{{"uri":"fd:{number}"}}}}',
        )
        return (f"{SCRIPT}.in", "\n".join(words)), (f"{SCRIPT}.out", "")

    def describe(self, machine: Machine) -> list[str]:
        """The machine for a person."""
        how = "hardware virtualisation by KVM" if machine.accel == KVM else "software emulation (TCG), which is no security boundary"
        devices = ["serial port ttyS0: the console, kept for messages", "virtio-serial port 1: the control channel"]
        shared = not machine.disks
        backing = "a memfd that virtiofsd shares" if shared else "a memfd that can be copied"
        devices += ["virtio-fs root: the container's root, by virtiofsd"] if shared else [f"virtio-blk disk{i}: {path}" for i, path in enumerate(machine.disks)]
        devices += [f"virtio-net {machine.mac(number)}: tap{number}, joined to eth{number}" for number in range(machine.interfaces)]
        return [
            f"monitor: {self.path}, machine microvm, {how}",
            f"kernel: Linux {machine.release}, {machine.kernel} (started by its PVH entry, without firmware)",
            f"initial ramdisk: {machine.initramfs}",
            f"command line: {machine.command_line}",
            f"memory: {machine.memory // MIB} MiB from 0x0, {backing}; virtual CPUs: {machine.cpus}",
            *((f"begins with the memory and the state of {machine.snapshot}",) if machine.snapshot else ()),
            *(f"device: {device}" for device in devices),
        ]


def find() -> Qemu:
    """QEMU of this machine. Raises UnsupportedError."""
    for directory in os.environ.get("PATH", "/usr/bin:/bin").split(":"):
        path = f"{directory}/{PROGRAM}"
        if directory.startswith("/") and os.access(path, os.X_OK):
            return Qemu(path=os.path.realpath(path))
    raise UnsupportedError(f"isolation vm: {PROGRAM} is not installed", "apt-get install qemu-system-x86")
