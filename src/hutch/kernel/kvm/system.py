"""/dev/kvm: what this host's KVM can do, and machines (Documentation/virt/kvm/api.rst)."""

from __future__ import annotations

import os

from hutch.errors import UnsupportedError
from hutch.kernel.kvm import abi
from hutch.kernel.kvm.cpuid import CpuidEntry, cpuid_entries
from hutch.kernel.kvm.device import Device
from hutch.kernel.kvm.machine import Machine

DEVICE = "/dev/kvm"
E2BIG, EACCES, ENODEV, ENOENT = 7, 13, 19, 2


class Kvm(Device):
    """The device. Raises UnsupportedError where there is none, or this user may not open it."""

    def __init__(self, path: str = DEVICE) -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            hint = {
                ENOENT: "`modprobe kvm_intel` or `kvm_amd`; or virtualisation is off in the firmware, or not passed on to this virtual machine",
                ENODEV: "virtualisation is off in the firmware, or not passed on to this virtual machine",
                EACCES: "the group `kvm` may open it",
            }.get(error.errno or 0, "")
            raise UnsupportedError(f"{path}: {error.strerror}", hint) from None
        super().__init__(fd)
        try:
            version = self._ioctl(abi.GET_API_VERSION)
        except OSError as error:
            self.close()
            raise UnsupportedError(f"{path}: is not KVM: {error.strerror}") from None
        if version != abi.API_VERSION:
            self.close()
            raise UnsupportedError(f"{path}: has version {version} of KVM's interface, not {abi.API_VERSION}")

    def extension(self, name: str) -> int:
        """How much there is of a capability (0: nothing), by its name in `abi.CAPABILITIES`."""
        return self._ioctl(abi.CHECK_EXTENSION, abi.CAPABILITIES[name])

    def capabilities(self) -> dict[str, int]:
        """All that are known here."""
        return {name: self.extension(name) for name in abi.CAPABILITIES}

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """What a guest's `cpuid` may answer on this host. Raises OSError."""
        for room in (64, 256, 1024):
            try:
                data = abi.CPUID_HEAD.pack(room) + bytes(room * abi.CPUID_ENTRY.size)
                return cpuid_entries(self._exchange(abi.GET_SUPPORTED_CPUID, data))
            except OSError as error:
                if error.errno != E2BIG:
                    raise
        raise OSError(E2BIG, "more CPUID entries than there can be")

    def model_specific_registers(self) -> tuple[int, ...]:
        """The MSRs that a guest has and that can be read and set. Raises OSError."""
        room = 4096
        data = self._exchange(abi.GET_MSR_INDEX_LIST, room.to_bytes(4, "little") + bytes(4 * room))
        count = int.from_bytes(data[:4], "little")
        return tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "little") for i in range(count))

    def create_machine(self) -> Machine:
        """A virtual machine without memory or processors. Raises OSError."""
        size = self._ioctl(abi.GET_VCPU_MMAP_SIZE)
        return Machine(self._ioctl(abi.CREATE_VM), size)
