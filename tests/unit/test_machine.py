"""Machines as plain data: their plans, kernels, modules, ramdisks, disks, and what a request means for them. No root, no boot."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from hutch.engine.machines import assembly, wiring
from hutch.engine.spec import machine_settings
from hutch.engine.spec.settings import Bind, Settings
from hutch.errors import UnsupportedError, UsageError
from hutch.image.layers.erofs import format as erofs, writer
from hutch.kernel.features import Features
from hutch.kernel.netlink import traffic
from hutch.oci import config as oci
from hutch.plan import ops
from hutch.plan.lint import lint, strands
from hutch.plan.plan import Plan
from hutch.runtime.profile import default_profile
from hutch.runtime.request import Request
from hutch.vm import frames, initramfs, kernel, modules
from hutch.vm.compile import NETWORK, NETWORK_ROOM, Parts, compile_machine
from hutch.vm.machine import KVM, TCG, Machine
from hutch.vm.qemu import Qemu
from hutch.vm.remote import RemoteRequest, compile_remote
from hutch.vm.virtiofsd import Virtiofsd
from tests.images import END, entry, tree_of
from tests.unit.machines import HOST, ID, IMAGE, ROOT_HYBRID, ROOT_V2, ROOTLESS, SINGLE, config_of

GOLDEN = Path(__file__).parent / "golden"
MIB = 1 << 20
SYSTEM = (("/usr", ""), ("/lib", "usr/lib"), ("/lib64", "usr/lib64"), ("/etc/ld.so.cache", ""))


def parts_of(**changes: object) -> Parts:
    values = {"kernel": "/data/vmlinux", "initramfs": "/data/initramfs", "release": "6.1.0", "memory": 576 * MIB, "accel": TCG, "tsc_khz": 2_500_000}
    own = {name: changes.pop(name) for name in list(changes) if name in Parts._fields}
    daemon = None if changes.get("disks") else Virtiofsd(path="/usr/lib/qemu/virtiofsd")
    return Parts(
        **{
            "machine": Machine(**{**values, **changes}),
            "vmm": Qemu(path="/usr/bin/qemu-system-x86_64"),
            "virtiofsd": daemon,
            "kernel": (6, 1),
            "system": SYSTEM,
            **own,
        }
    )


def compiled(features: Features, settings: Settings, parts: Parts, **request: object) -> Plan:
    config = config_of(features, settings)
    values = {"id": ID, "rootfs": HOST, "state": f"/run/hutch/{ID}", "record": "{}", "init": settings.init, "joins": False, **request}
    return compile_machine(config, Request(**values), parts, features).plan


def own(**changes: object) -> Settings:
    return Settings(image="host", command=("true",), isolation="vm", vm_accel="tcg", **changes)


DISKS = ("/layers/b/disk", "/layers/a/disk")
CASES = {
    "machine-root": (ROOT_HYBRID, own(), parts_of(), {}),
    "machine-root-v2": (ROOT_V2, own(memory=64 * MIB, cpu_quota=150_000), parts_of(memory=160 * MIB, cpus=2), {}),
    "machine-kvm": (ROOT_HYBRID, own(), parts_of(accel=KVM), {}),
    "machine-rootless": (ROOTLESS, own(), parts_of(), {}),
    "machine-single": (SINGLE, own(), parts_of(), {}),
    "machine-terminal": (ROOT_HYBRID, own(terminal=True, interactive=True), parts_of(), {}),
    "machine-idle": (ROOT_HYBRID, own(), parts_of(), {"idle": True, "files": True}),
    "machine-privileged": (ROOT_HYBRID, own(privileged=True), parts_of(privileged=True), {}),
    "machine-binds": (ROOT_HYBRID, own(binds=(Bind(source="/data", target="/srv/data", readonly=True),)), parts_of(), {}),
    "machine-detach-disk": (ROOT_HYBRID, own(upper="disk"), parts_of(), {"detach": True, "upper": f"/var/lib/hutch/{ID}"}),
    "machine-disks": (ROOT_HYBRID, own(vm_root="disk"), parts_of(disks=DISKS), {"rootfs": IMAGE, "hosts": "10.0.0.1\tdb\n", "resolv_conf": ""}),
    "machine-copy": (
        ROOT_HYBRID, own(vm_root="disk"), parts_of(disks=DISKS, snapshot="/data/snapshots/warm"), {"rootfs": IMAGE, "resolv_conf": "", "idle": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    features, settings, parts, request = CASES[name]
    plan = compiled(features, settings, parts, **request)
    text = plan.describe() + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("HUTCH_UPDATE_GOLDEN") == "1":
        path.write_text(text)
    assert path.exists(), "HUTCH_UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text()
    assert plan.encode(1)
    assert plan.to_json()["container"][-1]["op"] == "Machine"


@pytest.mark.parametrize("name", CASES)
def test_lint(name):
    features, settings, parts, request = CASES[name]
    assert lint(compiled(features, settings, parts, **request), privileged=settings.privileged) == []


def test_every_program_beside_pid_1_is_confined():
    """Whatever it is: no capability that it was not given, no new privileges, a filter as the last thing before its execve."""
    plan = compiled(ROOT_HYBRID, own(), parts_of())
    programs = [strand.container for strand in strands(plan)]
    assert [type(lane[-1]).__name__ for lane in programs] == ["Machine", "Execute", "Execute"]
    for lane in programs:
        kinds = [type(op) for op in lane]
        assert kinds[-2] is ops.Seccomp and ops.NoNewPrivileges in kinds
    monitor = next(lane for lane in programs if isinstance(lane[-1], ops.Execute) and lane[-1].argv[0].endswith("qemu-system-x86_64"))
    last = [op for op in monitor if isinstance(op, ops.Capabilities)][-1]
    assert (last.effective, last.permitted, last.inheritable, last.ambient) == (0, 0, 0, 0)
    assert any(isinstance(op, ops.Detach) and op.path == "/host/root" for op in monitor)


def test_a_privileged_container_is_privileged_in_its_guest_alone():
    plan = compiled(ROOT_HYBRID, own(privileged=True), parts_of(privileged=True))
    assert any(isinstance(op, ops.Clone) and op.flags & 0x10000000 for op in plan.host)  # a user namespace on the host
    guest = plan.container[-1].guest
    assert not any(isinstance(op, ops.Clone) and op.flags & 0x10000000 for op in guest.host)
    assert [op for op in guest.container if isinstance(op, ops.Capabilities)][-1].effective == ROOT_HYBRID.capabilities


@pytest.mark.parametrize(("features", "name"), [(ROOT_HYBRID, "remote-root"), (ROOTLESS, "remote-rootless")])
def test_a_command(features, name):
    process = oci.Process(
        cwd="/work", args=("sh", "-c", "true"), env=("PATH=/bin",), capabilities=oci.CapabilitySets(bounding=("CAP_KILL",)), no_new_privileges=True
    )
    plan = compile_remote(process, default_profile(()), RemoteRequest(user_namespace=True, child_cgroup="command-1"), parts_of(), features)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("HUTCH_UPDATE_GOLDEN") == "1":
        path.write_text(plan.describe() + "\n")
    assert plan.describe() + "\n" == path.read_text()
    assert lint(plan) == []


def test_constants_fit():
    assert len(NETWORK) == NETWORK_ROOM <= frames.MOST


def test_frames():
    """As the relay takes and gives them: size, type, session 0, content."""
    assert frames.pack("READ_FILE", b"/x\0") == bytes.fromhex("03000000 0900 0000") + b"/x\0"
    assert frames.unpack(bytes.fromhex("00000000 2600 0000") + b"text", "FILE_CONTENT") == b"text"
    for wrong in (b"", b"\0" * 7, bytes.fromhex("00000000 2700 0000")):
        assert frames.unpack(wrong, "FILE_CONTENT") is None


def test_a_guest_that_says_nothing():
    """It is told from one that says something else, which a guest may at any time."""
    ours, guests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, guests:
        with pytest.raises(TimeoutError):
            frames.ask(ours, frames.pack("QUIESCE"), "QUIET", 0.01)
        assert guests.recv(99) == frames.pack("QUIESCE")
        guests.send(frames.pack("HELLO"))
        assert frames.ask(ours, frames.pack("QUIESCE"), "QUIET", 5) is None
        guests.send(frames.pack("FILE_CONTENT", b"text"))
        assert frames.ask(ours, frames.pack("READ_FILE"), "FILE_CONTENT", 5) == b"text"


# The machine


def test_the_monitors_command():
    words = Qemu(path="/usr/bin/qemu-system-x86_64").command(parts_of(interfaces=2).machine)
    text = " ".join(words)
    assert "-accel tcg" in text and "tsc_early_khz=2500000" in text and "vhost-user-fs-device" in text
    assert "tap,id=net0,fd=6" in text and "tap,id=net1,fd=7" in text and "spawn=deny" in text and "-incoming" not in text
    copy = Qemu(path="/q").command(parts_of(interfaces=1, disks=DISKS, snapshot="/s").machine)
    assert "mem-path=/proc/self/fd/5,share=on" in " ".join(copy) and "-incoming" in copy and "vhost-user-fs-device" not in " ".join(copy)
    assert "fd:7" in dict(Qemu(path="/q").files(parts_of(interfaces=1, disks=DISKS, snapshot="/s").machine))["/restore.in"]
    assert "tsc" not in parts_of(accel=KVM).machine.command_line


def test_memory_and_processors():
    assert assembly.memory_of(own()) == (512 + 96) * MIB
    assert assembly.memory_of(own(memory=4096)) == 97 * MIB
    with pytest.raises(UnsupportedError, match="and this host has"):
        assembly.memory_of(own(memory=1 << 50))
    assert [assembly.cpus_of(own(cpu_quota=quota), ROOT_HYBRID) for quota in (None, 1, 100_000, 150_000, 9_900_000)] == [1, 1, 1, 2, 4]
    assert assembly.cpus_of(own(cpu_quota=50_000, cpu_period=10_000), ROOT_HYBRID) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pid": "host"}, "pid host: a machine shares no namespace"),
        ({"network": "host"}, "network host: a machine has a network of its own"),
        ({"devices": (("/dev/null", "/dev/x", "rw"),)}, "device /dev/null: a machine has no devices of the host's"),
        ({"net_devices": (("eth9", "eth0"),)}, "network device:eth9"),
        ({"vm_root": "disk", "binds": (Bind(source="/a", target="/b"),)}, "sees nothing of the host's"),
    ],
)
def test_what_has_no_meaning_in_a_machine(changes, words):
    with pytest.raises((UsageError, UnsupportedError), match=words):
        machine_settings.check(own(**changes))


def test_records_of_machines():
    parts = parts_of(disks=DISKS, interfaces=1)
    from hutch.engine.launch.prepare import record_of

    assert Machine(**{k: tuple(v) if isinstance(v, list) else v for k, v in record_of(parts.machine).items()}) == parts.machine


# Kernels


def bzimage(payload: bytes, release: str = "6.1.0-test (someone) #1") -> bytes:
    """A bzImage with nothing in it but what its header tells (boot.rst)."""
    image = bytearray(0x400 * 8)
    image[0x1F1] = 7  # setup sectors
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0xE00 - 0x200).to_bytes(2, "little")  # the version string lies at 0xe00
    image[0xE00 : 0xE00 + len(release)] = release.encode()
    start = 8 * 512
    image[0x248:0x250] = struct.pack("<II", 16, len(payload))
    return bytes(image[:start]) + bytes(16) + payload


ELF = b"\x7fELF" + bytes(100) + b"Xen\0" + os.urandom(1000)


def lz4_legacy(data: bytes) -> bytes:
    from lz4 import block

    packed = block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + len(packed).to_bytes(4, "little") + packed + len(data).to_bytes(4, "little")


def zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data) + len(data).to_bytes(4, "little")


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, lambda d: lzma.compress(d) + bytes(4), lambda d: lzma.compress(d, format=lzma.FORMAT_ALONE), __import__("bz2").compress, lz4_legacy, zstd],
    ids=["gzip", "xz", "lzma", "bzip2", "lz4", "zstd"],
)
def test_kernels_are_unpacked(tmp_path, pack):
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(pack(ELF)))
    found = kernel.describe(str(path))
    assert (found.release, found.version) == ("6.1.0-test", (6, 1))
    assert kernel.elf_of(found) == ELF


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"MZ" + bytes(70000), "is neither a bzImage nor an ELF file"),
        (bzimage(b"nonsense"), "is compressed in a way that Hutch does not know"),
        (bzimage(gzip.compress(b"no ELF")), "holds no ELF file"),
        (bzimage(gzip.compress(ELF)[:50]), "cannot be unpacked"),
        (bzimage(gzip.compress(ELF.replace(b"Xen\0", b"Yen\0"))), "built without CONFIG_PVH"),
    ],
)
def test_kernels_that_are_none(tmp_path, data, words):
    path = tmp_path / "vmlinuz"
    path.write_bytes(data)
    with pytest.raises((UsageError, UnsupportedError), match=words):
        kernel.elf_of(kernel.describe(str(path)))


DEPENDENCIES = """kernel/a.ko.xz:
kernel/b-c.ko.xz: kernel/a.ko.xz
kernel/d.ko: kernel/b-c.ko.xz kernel/a.ko.xz
kernel/e.ko.zst: kernel/a.ko.xz
"""


def test_modules_come_before_those_that_need_them():
    known = modules.parse_dependencies(DEPENDENCIES)
    assert set(known) == {"a", "b_c", "d", "e"}
    assert modules.order(["d", "e"], known, set(), "r") == ["kernel/a.ko.xz", "kernel/b-c.ko.xz", "kernel/d.ko", "kernel/e.ko.zst"]
    assert modules.order(["d"], known, {"d"}, "r") == []
    with pytest.raises(UnsupportedError, match="kernel r: has no module x"):
        modules.order(["x"], known, set(), "r")


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress), (".zst", lambda d: __import__("zstandard").compress(d))]
)
def test_modules_are_unpacked(tmp_path, suffix, pack):
    path = tmp_path / f"m.ko{suffix}"
    path.write_bytes(pack(b"module" * 99))
    assert modules.read(str(path)) == b"module" * 99


def test_the_ramdisk_is_a_cpio_archive(tmp_path):
    made = initramfs.archive(b"the executor", [("a.ko", b"A" * 7), ("b.ko", b"")])
    done = subprocess.run(["cpio", "-itv"], input=made, capture_output=True, check=False) if os.path.exists("/usr/bin/cpio") else None
    if done is None:
        pytest.skip("needs cpio")
    listed = done.stdout.decode()
    assert done.returncode == 0 and all(name in listed for name in ("init", "dev/console", "modules/a.ko", "modules/order"))
    assert b"a.ko\nb.ko\n" in made


# Disks


def test_a_disk_has_the_content_of_its_files():
    data = os.urandom(5000)
    tar = entry(b"d/", kind=b"5") + entry(b"d/one", data) + entry(b"two", b"x" * 4096) + entry(b"none", b"") + END
    made = tree_of(tar)
    disk = writer.disk(made.root, len(tar))
    assert disk.size % 4096 == 0 and len(disk.head) <= disk.size
    assert sorted(node.size for _, node in disk.content) == [4096, 5000] and all(place % 4096 == 0 for place, _ in disk.content)
    spans = sorted((place, place + node.size) for place, node in disk.content)
    assert spans[0][1] <= spans[1][0] and spans[-1][1] <= disk.size and spans[0][0] >= len(disk.head) // 4096 * 4096
    found = erofs.SUPER.unpack_from(disk.head, erofs.SUPER_OFFSET)
    assert (found[0], found[3], found[9]) == (erofs.MAGIC, 12, disk.size >> 12)
    assert writer.disk(made.root, len(tar)) == disk


# The wire


def test_packets_for_the_name_server_are_kept():
    kept = traffic.keep(7, "169.254.53.53")
    assert len(kept) == 2 and all(bytes((169, 254, 53, 53)) in body for _, _, body in kept)
    redirected = traffic.redirect(7, 8)[2]
    assert b"mirred" in redirected and b"u32" in redirected


def test_interfaces_before_a_copy_are_cleared():
    data = wiring.network_of((), ((0, "172.18.0.5", 16), (1, "172.19.0.5", 16)))
    assert len(data) == NETWORK_ROOM and bytes((172, 18, 0, 5)) in data and bytes((172, 19, 0, 5)) in data
    assert io.BytesIO(data).read(4) != bytes(4)
