"""Numbers and layouts of /dev/kvm (include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h; Documentation/virt/kvm/api.rst)."""

from __future__ import annotations

import struct

IO, WRITE, READ = 0, 1, 2


def request(direction: int, number: int, size: int = 0) -> int:
    """An ioctl's number (asm-generic/ioctl.h): whether bytes go in (WRITE) or come out (READ), of KVM's, `size` bytes."""
    return direction << 30 | size << 16 | 0xAE << 8 | number


API_VERSION = 12

# of /dev/kvm
GET_API_VERSION = request(IO, 0x00)
CREATE_VM = request(IO, 0x01)
GET_MSR_INDEX_LIST = request(READ | WRITE, 0x02, 4)
CHECK_EXTENSION = request(IO, 0x03)
GET_VCPU_MMAP_SIZE = request(IO, 0x04)
GET_SUPPORTED_CPUID = request(READ | WRITE, 0x05, 8)

# of a machine
CREATE_VCPU = request(IO, 0x41)
GET_DIRTY_LOG = request(WRITE, 0x42, 16)
SET_USER_MEMORY_REGION = request(WRITE, 0x46, 32)
SET_TSS_ADDR = request(IO, 0x47)
SET_IDENTITY_MAP_ADDR = request(WRITE, 0x48, 8)
CREATE_IRQCHIP = request(IO, 0x60)
IRQ_LINE = request(WRITE, 0x61, 8)
IRQFD = request(WRITE, 0x76, 32)
CREATE_PIT2 = request(WRITE, 0x77, 64)
IOEVENTFD = request(WRITE, 0x79, 64)
SET_CLOCK = request(WRITE, 0x7B, 48)
GET_CLOCK = request(READ, 0x7C, 48)

# of a virtual processor
RUN = request(IO, 0x80)
GET_REGS, SET_REGS = request(READ, 0x81, 144), request(WRITE, 0x82, 144)
GET_SREGS, SET_SREGS = request(READ, 0x83, 312), request(WRITE, 0x84, 312)
TRANSLATE = request(READ | WRITE, 0x85, 24)
INTERRUPT = request(WRITE, 0x86, 4)
GET_MSRS, SET_MSRS = request(READ | WRITE, 0x88, 8), request(WRITE, 0x89, 8)
SET_CPUID2, GET_CPUID2 = request(WRITE, 0x90, 8), request(READ | WRITE, 0x91, 8)
GET_MP_STATE, SET_MP_STATE = request(READ, 0x98, 4), request(WRITE, 0x99, 4)
NMI = request(IO, 0x9A)
GET_TSC_KHZ = request(IO, 0xA3)
SET_GUEST_DEBUG = request(WRITE, 0x9B, 72)

CAPABILITIES = {
    "irqchip": 0, "hlt": 1, "user_memory": 3, "set_tss_addr": 4, "ext_cpuid": 7, "nr_vcpus": 9, "nr_memslots": 10, "pit": 11, "mp_state": 14,
    "coalesced_mmio": 15, "sync_mmu": 16, "set_guest_debug": 23, "irq_routing": 25, "irqfd": 32, "pit2": 33, "ioeventfd": 36,
    "set_identity_map_addr": 37, "adjust_clock": 39, "internal_error_data": 40, "vcpu_events": 41, "debugregs": 50, "xsave": 55, "xcrs": 56,
    "tsc_control": 60, "max_vcpus": 66, "tsc_deadline_timer": 72, "readonly_mem": 81, "split_irqchip": 121, "immediate_exit": 136,
    "exit_hypercall": 201, "memory_fault_info": 232,
}  # fmt: skip

MEMORY_REGION = struct.Struct("=IIQQQ")  # struct kvm_userspace_memory_region: slot, flags, address, size, our address
MEM_LOG_DIRTY_PAGES, MEM_READONLY = 1, 2
DIRTY_LOG = struct.Struct("=IIQ")
IRQ_LEVEL = struct.Struct("=II")
IRQFD_ARGUMENT = struct.Struct("=IIII16x")  # descriptor, interrupt, flags, descriptor of the resampler
IRQFD_FLAG_DEASSIGN, IRQFD_FLAG_RESAMPLE = 1, 2
IOEVENTFD_ARGUMENT = struct.Struct("=QQIiI36x")  # what is written, where, its length, descriptor, flags
IOEVENTFD_DATAMATCH, IOEVENTFD_PIO, IOEVENTFD_DEASSIGN = 1, 2, 4
PIT_CONFIG = struct.Struct("=I60x")
CLOCK = struct.Struct("=QI4xQQ16x")
CPUID_HEAD = struct.Struct("=I4x")
CPUID_ENTRY = struct.Struct("=IIIIIII12x")
CPUID_SIGNIFICANT_INDEX = 1
MSR_HEAD = struct.Struct("=I4x")
MSR_ENTRY = struct.Struct("=I4xQ")
TRANSLATION = struct.Struct("=QQBBB5x")
DEBUG = struct.Struct("=I4x8Q")  # struct kvm_guest_debug: control, debug registers
GUESTDBG_ENABLE, GUESTDBG_SINGLESTEP, GUESTDBG_USE_SW_BP, GUESTDBG_USE_HW_BP = 1, 2, 0x10000, 0x20000
MP_STATES = {0: "runnable", 1: "uninitialized", 2: "init received", 3: "halted", 4: "sipi received"}

# struct kvm_run: what is shared with the kernel
RUN_IMMEDIATE_EXIT, RUN_EXIT_REASON, RUN_EXIT = 1, 8, 32
