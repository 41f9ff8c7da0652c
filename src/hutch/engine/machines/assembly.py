"""The machine of a container: what a request means for it, and the programs that run it."""

from __future__ import annotations

import os

from hutch.engine.spec.machine_settings import DISK, SHARED, check
from hutch.engine.spec.settings import Settings
from hutch.errors import StateError, UnsupportedError
from hutch.executor.launcher import BINARY
from hutch.image.store.directories import private
from hutch.kernel import proc
from hutch.kernel.features import Features, features
from hutch.vm import initramfs, kernel as kernels, qemu, virtiofsd
from hutch.vm.compile import Parts
from hutch.vm.machine import DEFAULT_MEMORY, KERNEL_MEMORY, KVM, MIB, TCG, Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.image.rootfs import Rootfs
    from hutch.vm.machine import Vmm
    from hutch.vm.virtiofsd import Virtiofsd

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc/ld.so.cache")
CAPABILITY_OF_EMULATION = "--vm-accel tcg emulates in software: some thirty times slower, and no security boundary"


def memory_of(s: Settings) -> int:
    """The machine's memory in bytes: what the container may use, and what its kernel takes before. Raises UnsupportedError."""
    wanted = s.memory if s.memory is not None and s.memory > 0 else DEFAULT_MEMORY
    whole, there = -(-(wanted + KERNEL_MEMORY) // MIB) * MIB, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if whole > there:
        raise UnsupportedError(f"memory: a machine of {whole // MIB} MiB is asked for, and this host has {there // MIB}", "a smaller -m")
    return whole


def cpus_of(s: Settings, found: Features) -> int:
    """The virtual processors: as many as the limit gives time for, one without a limit."""
    if s.cpu_quota is None or s.cpu_quota <= 0:
        return 1
    return max(1, min(-(-s.cpu_quota // (s.cpu_period or 100_000)), found.cpus))


def parts(s: Settings, interfaces: int, rootfs: Rootfs) -> Parts:
    """The machine of a container, and the programs that run it. Raises UsageError, UnsupportedError, ImageError."""
    check(s)
    vmm, daemon = programs(s)
    kernel = kernels.find(s.kernel)
    found = features()
    disks: tuple[str, ...] = ()
    if s.vm_root == DISK:
        from hutch.image.layers import disks as images
        from hutch.image.store.content import Content

        disks = images.of_rootfs(Content(), rootfs, found)
    wanted = (*(initramfs.DISK_ROOT if disks else initramfs.SHARED_ROOT), *(initramfs.NETWORK if interfaces else ()))
    elf, ramdisk = initramfs.prepare(kernel, wanted, private("machines"), BINARY)
    machine = Machine(
        kernel=elf, initramfs=ramdisk, release=kernel.release, memory=memory_of(s), cpus=cpus_of(s, found), accel=s.vm_accel, interfaces=interfaces,
        disks=disks, tsc_khz=tsc_khz() if s.vm_accel == TCG else 0,
    )  # fmt: skip
    return _parts(s, machine, kernel.version, vmm, daemon)


def programs(s: Settings) -> tuple[Vmm, Virtiofsd | None]:
    """What runs machines on this host. Raises UnsupportedError where they cannot be run as asked."""
    found = features()
    if found.machine != "x86_64":
        raise UnsupportedError(f"isolation vm: Hutch's machines are for x86-64, and this is {found.machine}")
    vmm = qemu.find()
    daemon = virtiofsd.find() if s.vm_root == SHARED else None
    if s.vm_accel == KVM:
        from hutch.kernel.kvm.probe import probe

        verdict = probe()
        if not verdict.works:
            raise UnsupportedError(f"isolation vm: {verdict.reason}", "; ".join(word for word in (verdict.hint, CAPABILITY_OF_EMULATION) if word))
    return vmm, daemon


def _parts(s: Settings, machine: Machine, kernel: tuple[int, int], vmm: Vmm, daemon: Virtiofsd | None) -> Parts:
    paths = (vmm.path, *((daemon.path,) if daemon is not None else ()))
    return Parts(machine=machine, vmm=vmm, virtiofsd=daemon, kernel=kernel, privileged=s.privileged or s.userns == "host", system=system(*paths))


def record_of(parts: Parts) -> dict[str, object]:
    """A machine as JSON's types: for a container's record, and a snapshot's description."""
    from hutch.record import plain

    return {"machine": plain(parts.machine), "kernel_version": list(parts.kernel), "machine_program": list(identity_of(parts.vmm.path))}


def parts_of(data: dict[str, Any], s: Settings) -> Parts:
    """A machine from what `record_of` gave. Raises UnsupportedError where this host cannot run it any more, StateError."""
    vmm, daemon = programs(s)
    try:
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data["machine"].items()}
        major, minor = data["kernel_version"]
        return _parts(s, Machine(**fields), (major, minor), vmm, daemon)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"the description of a machine cannot be read: {error}") from None


def identity_of(path: str) -> list[Any]:
    """A program's file, as it is now: path, size in bytes, time of its last change in nanoseconds."""
    info = os.stat(path)
    return [path, info.st_size, info.st_mtime_ns]


def system(*programs: str) -> tuple[tuple[str, str], ...]:
    """The directories of this host that programs and their libraries are in, and where those lead that are links."""
    top = dict.fromkeys("/" + path.split("/")[1] for path in programs)
    found = [path for path in dict.fromkeys((*SYSTEM, *top)) if os.path.lexists(path)]
    return tuple((path, os.readlink(path) if os.path.islink(path) else "") for path in found)


def tsc_khz() -> int:
    """How fast this host's time stamp counter runs: by KVM where it answers, else as /proc/cpuinfo has it."""
    from hutch.kernel.kvm.system import Kvm

    try:
        with Kvm() as kvm, kvm.create_machine() as machine:
            return machine.create_processor().tsc_khz()
    except (UnsupportedError, OSError):
        pass
    for line in proc.read_text("/proc/cpuinfo").split("\n"):
        name, _, value = line.partition(":")
        if name.strip() == "cpu MHz":
            return int(float(value) * 1000)
    return 2_000_000
