"""KVM by its own interface: a system (`Kvm`), machines (`Machine`), processors (`Vcpu`), and why these come back (`exits`)."""

from hutch.kernel.kvm.cpuid import CpuidEntry as CpuidEntry
from hutch.kernel.kvm.machine import Machine as Machine, Memory as Memory
from hutch.kernel.kvm.registers import Registers as Registers, Segment as Segment, SpecialRegisters as SpecialRegisters, Table as Table
from hutch.kernel.kvm.system import Kvm as Kvm
from hutch.kernel.kvm.vcpu import Vcpu as Vcpu
