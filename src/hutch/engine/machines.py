"""Containers in virtual machines: what a request means for the machine, its plan, commands in it."""

from __future__ import annotations

import os

from hutch.engine.machine_settings import DISK, SHARED, check
from hutch.engine.settings import Settings
from hutch.errors import ContainerGone, StateError, UnsupportedError
from hutch.executor.launcher import BINARY
from hutch.image.store import private
from hutch.kernel import proc
from hutch.kernel.features import Features, features
from hutch.plan.late import offsets
from hutch.vm import initramfs, kernel as kernels, qemu, virtiofsd
from hutch.vm.compile import NETWORK, NETWORK_ROOM, SHARED as SHARED_PATH, Parts
from hutch.vm.machine import DEFAULT_MEMORY, KERNEL_MEMORY, KVM, MIB, TCG, Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import socket
    from collections.abc import Iterable, Sequence
    from typing import Any

    from hutch.engine.joining import Place
    from hutch.image.rootfs import Rootfs
    from hutch.plan.late import Places
    from hutch.vm.machine import Vmm
    from hutch.vm.virtiofsd import Virtiofsd

NETWORK_VALUE = "network"
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
        from hutch.image import disks as images
        from hutch.image.content import Content

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


def program_of(pid: int, name: str) -> int:
    """The pid of a program beside a machine's PID 1, by its name. Raises ContainerGone."""
    for child in proc.read_text(f"/proc/{pid}/task/{pid}/children").split():
        if proc.read_text(f"/proc/{child}/comm").strip() == name[:15]:
            return int(child)
    raise ContainerGone(f"isolation vm: {name} has ended")


def addresses_of(container: str) -> list[tuple[int, str, int]]:
    """The IPv4 addresses that a container's interfaces have: (number of the interface, address, length of the prefix)."""
    from hutch.engine import networks

    found = []
    for number, (network, member) in enumerate(networks.memberships(container)):
        for subnet, address in zip(network.subnets, member.addresses, strict=False):
            if ":" not in address:
                found.append((number, address, int(subnet.subnet.partition("/")[2])))
    return found


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


def network_of(places: Iterable[Place], before: Iterable[tuple[int, str, int]] = ()) -> bytes:
    """What the guest's interfaces are given: netlink messages for the container's namespace, as long as `NETWORK`. The guest
    moves them there in their order, the first with the index 2. In a copy they have had other addresses `before`."""
    from hutch.kernel.netlink import codec, route

    requests = [route.set_link(2 + number, up=False) for number in sorted({number for number, _, _ in before})]
    requests += [route.del_address(2 + number, address, prefix) for number, address, prefix in before]
    from hutch.network.names import MACHINE_ADDRESS

    for number, place in enumerate(places):
        network, endpoint, index = place.network, place.endpoint, 2 + number
        requests.append(route.set_link(index, new_name=endpoint.interface, address=endpoint.mac, mtu=network.mtu))
        for subnet, address in zip(network.subnets, endpoint.addresses, strict=True):
            requests.append(route.new_address(index, address, int(subnet.subnet.partition("/")[2])))
        requests.append(route.set_link(index, up=True))
        if number == 0:
            requests.append(route.new_route(MACHINE_ADDRESS, 32, index=index))
        if endpoint.default and not network.internal:
            requests += [route.new_route(gateway=subnet.gateway, index=index, family=route.family_of(subnet.gateway)) for subnet in network.subnets]
    data = b"".join(codec.message(kind, flags, body) for kind, flags, body in requests)
    if len(data) > NETWORK_ROOM:
        raise UnsupportedError("network: a machine's interfaces have too many addresses to be handed over")
    return data + bytes(NETWORK_ROOM - len(data))


def network_places(encoded: bytes) -> Places:
    """Where an encoded plan has room for the interfaces' settings."""
    return tuple((NETWORK_VALUE, at) for at in offsets(encoded, NETWORK))


def join_taps(netlink: int, places: Sequence[Place]) -> None:
    """Let each tap carry what its container's interface does: frames go from one to the other, past the host's own stack. The
    addresses are the guest's alone; what it asks the name server comes in here.

    Raises HutchError.
    """
    from hutch.errors import HutchError
    from hutch.kernel.netlink import route, traffic
    from hutch.kernel.netlink.socket import NetlinkError
    from hutch.network.names import MACHINE_ADDRESS

    with route.Route(netlink) as inside:
        for number, place in enumerate(places):
            try:
                ends = [inside.link(f"{kind}{number}") for kind in ("eth", "tap")]
                first, second = (link.index if link is not None else 0 for link in ends)
                mtu = ends[0].mtu if ends[0] is not None else 0
                inside.do(route.set_link(second, mtu=mtu))
                for subnet, address in zip(place.network.subnets, place.endpoint.addresses, strict=True):
                    inside.do(route.del_address(first, address, int(subnet.subnet.partition("/")[2])))
                if number == 0:
                    for request in (traffic.ingress(second), *traffic.keep(second, MACHINE_ADDRESS), route.new_address(second, MACHINE_ADDRESS, 32)):
                        inside.do(request)
                    traffic.join(inside, first, second, prepared=True)
                else:
                    traffic.join(inside, first, second)
                inside.do(route.set_link(second, up=True))
                if number == 0:
                    inside.do(route.new_route(place.address, 32, index=second))
            except NetlinkError as error:
                raise HutchError(
                    f"network: join tap{number} to eth{number}: {error.strerror}", "the kernel's act_mirred, cls_u32 and sch_ingress do it"
                ) from None


def shared_root(machine: Parts, name: str) -> str:
    """Where a machine's PID 1 has the container's root, below its own. Raises UnsupportedError for one that the host does not see."""
    if machine.machine.disks:
        raise UnsupportedError(f"container {name}: its files are in its machine's memory, and nothing of them is seen from here", "--vm-root shared")
    return SHARED_PATH


def root_of(pid: int, machine: Parts, name: str) -> str:
    """A path by which this user reaches the root of a container in a machine, by the pid of its PID 1. Raises UnsupportedError,
    ContainerGone."""
    place = shared_root(machine, name)
    if features().privileged:
        return f"/proc/{pid}/root/{place}"
    # that process has never executed a program in the user namespace, so the kernel keeps it from its user; virtiofsd has, and has made
    # what it shows its own root
    return f"/proc/{program_of(pid, 'virtiofsd')}/root"


def connect(directory: str, name: str) -> int:
    """A connection to the relay of a machine that runs. Raises ContainerGone."""
    import _socket

    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    _connect(made, directory, "door", name)
    return made.detach()


def monitor(directory: str, name: str) -> socket.socket:
    """A connection to the monitor of a machine that runs, which has one at a time. Raises ContainerGone."""
    import socket

    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    _connect(made, directory, "monitor", name)
    return made


def _connect(made: _socket.socket, directory: str, which: str, name: str) -> None:
    try:
        place = os.open(directory, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)  # its name may be longer than an address has room for
        try:
            made.connect(f"/proc/self/fd/{place}/{which}")
        finally:
            os.close(place)
    except OSError:
        made.close()
        raise ContainerGone(f"container {name}: its machine has ended") from None


def pause(directory: str, name: str, still: bool) -> None:
    """Stop a machine's processors, or let them go on. Raises ContainerGone, HutchError, UnsupportedError."""
    from hutch.vm import qmp

    qmp.talk(monitor(directory, name), qmp.pause if still else qmp.resume)
