"""Virtual machines: from nothing to the first command, beside plain QEMU that boots the same kernel to an empty init; and copies of a
snapshot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peers
from contest import Contestant, Missing, Shop

import hutch
from hutch.engine.machines import assembly
from hutch.engine.spec.settings import Settings
from hutch.kernel.kvm.probe import probe
from hutch.vm.initramfs import FILE, entry
from images import debian

PLAIN, SAME = "plain QEMU", "plain QEMU, our words"
SHARED, DISK, COPY = "hutch.run, vm", "hutch.run, vm, own root", "hutch.run, copy of a snapshot"
# What an emulated machine must be told, or it now and then never ends to measure its clock
CLOCK = ("tsc_early_khz=", "tsc=", "no_timer_check")


def contestants(shop: Shop, init: str) -> list[Contestant]:
    """All of them; the empty init is a static program at `init`. Raises Missing."""
    qemu = peers.need("qemu-system-x86_64")
    accel = "kvm" if probe().works else "tcg"
    options = {"isolation": "vm", "vm_accel": accel}
    try:
        machine = assembly.parts(Settings(image="host", **options), 0, None).machine  # type: ignore[arg-type]
    except hutch.HutchError as error:
        raise Missing(str(error.message)) from None
    how = "KVM" if accel == "kvm" else "software emulation"
    ramdisk = shop.directory / "empty.cpio"
    ramdisk.write_bytes(entry("dev", 0o40755) + entry("init", FILE, Path(init).read_bytes()) + entry("TRAILER!!!", 0))
    with open(debian(), "rb") as tar:
        hutch.images.import_(tar, "bench-vm")
    with hutch.Container("bench-vm", **options, vm_root="disk") as box:
        box.run(["true"])
        box.snapshot("bench")
    shop.stack.callback(hutch.snapshots.remove, "bench")

    def plain(words: str) -> list[str]:
        memory, threads = f"{machine.memory >> 20}M", "kvm" if accel == "kvm" else "tcg,thread=multi,tb-size=64"
        return [qemu, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine",
                "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,usb=off", "-accel", threads, "-cpu", "host" if accel == "kvm" else "max", "-smp", "1",
                "-m", memory, "-kernel", machine.kernel, "-initrd", str(ramdisk), "-append", words, "-serial", "file:/dev/null"]  # fmt: skip

    def run(image: str, **more: object) -> Callable[[], None]:
        def once() -> None:
            result = hutch.run(image, ["true"], **more)  # type: ignore[arg-type]
            if not result.ok:
                raise RuntimeError(str(result))

        return once

    usual = " ".join(["console=ttyS0", "reboot=t", "panic=-1", "quiet", *(word for word in machine.command_line.split() if word.startswith(CLOCK))])
    return [
        Contestant(PLAIN, f"the same kernel to an empty init, and off; {how}", plain(usual)),
        Contestant(SAME, "the same with Hutch's kernel parameters", plain(machine.command_line)),
        Contestant(SHARED, "boot, root by virtiofs, container, command, gone", once=run("host", **options)),
        Contestant(DISK, "the same with a Debian on a disk", once=run("bench-vm", **options, vm_root="disk")),
        Contestant(COPY, "memory and devices as they were, a command, gone", once=run("snapshot:bench")),
    ]
