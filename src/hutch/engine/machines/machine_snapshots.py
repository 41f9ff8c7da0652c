"""Snapshots of machines: memory and processors as they are at one moment, to start copies from that go on there.

``snapshots/NAME`` holds all that a copy needs, by hard links where the store has it already: ``memory``, ``state`` (QEMU's, of
devices and processors), ``kernel``, ``initramfs``, ``disk0`` and so on, and ``snapshot``, which describes them.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress

from hutch import jsontext
from hutch.engine.machines import assembly, channel, wiring
from hutch.engine.records.facts import settings_from
from hutch.engine.spec.settings import Settings
from hutch.errors import HutchError, ImageError, StateError, UnsupportedError, UsageError
from hutch.image import resolve
from hutch.image.rootfs import ImageConfig, Rootfs
from hutch.image.store.directories import private
from hutch.kernel.features import features
from hutch.oci.config import User
from hutch.record import Record, plain as record_of
from hutch.vm import qemu
from hutch.vm.compile import Parts
from hutch.vm.machine import Descriptors, Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.engine.records.live import Live

RECORD = "snapshot"
PATIENCE = 30.0  # seconds until a guest must have fallen silent
# what a copy may have otherwise than the machine that it was made of
OWN = frozenset(
    "image name hostname labels network attachments ports publish_all expose egress dns dns_search dns_options extra_hosts pull cgroup_parent systemd "
    "cpu_shares cpuset_cpus unified isolation vm_accel vm_root snapshot command terminal interactive".split()
)


class Snapshot(Record):
    """A snapshot: `size` in bytes on disk, `created` seconds since 1970, `data` its description."""

    name: str
    created: float
    size: int
    directory: str
    data: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """As JSON's types."""
        machine = self.data["machine"]
        return {
            "Name": self.name,
            "Created": self.created,
            "Size": self.size,
            "Image": self.data["image"],
            "Command": self.data["command"],
            "Memory": machine["memory"],
            "Cpus": machine.get("cpus", 1),
            "Accelerator": machine.get("accel", "kvm"),
            "Kernel": machine["release"],
            "Interfaces": machine.get("interfaces", 0),
            "Path": self.directory,
        }


class Saved(Record):
    """What `prepare` needs of a snapshot that a copy is to be made of."""

    settings: Settings
    rootfs: Rootfs
    user: User
    home: str
    idle: bool
    parts: Parts


def _root() -> str:
    return private("snapshots")


def every() -> list[Snapshot]:
    """All of them, by name."""
    found = []
    for name in sorted(os.listdir(_root())):
        if not name.startswith("."):
            try:
                found.append(find(name))
            except StateError:
                continue  # it is being removed
    return found


def find(name: str) -> Snapshot:
    """A snapshot by its name. Raises StateError."""
    from hutch.image.collect import disk_usage

    check_name(name)
    directory = f"{_root()}/{name}"
    try:
        with open(f"{directory}/{RECORD}", encoding="utf-8") as file:
            data = jsontext.loads(file.read())
        return Snapshot(name=name, created=data["created"], size=disk_usage(directory), directory=directory, data=data)
    except FileNotFoundError:
        raise StateError(f"snapshot {name}: does not exist", "`hutch snapshot ls` lists them") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"snapshot {name}: its description cannot be read: {error}", f"`hutch snapshot rm {name}` removes it") from None


def check_name(name: str) -> None:
    """Raises UsageError."""
    good = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    if not name or name[0] in ".-" or len(name) > 128 or set(name) - good:
        raise UsageError(f"snapshot: expected a name of letters, digits and _.-, got {name!r}")


def remove(name: str) -> None:
    """Remove a snapshot; copies of it go on. Raises StateError."""
    directory = f"{_root()}/{name}"
    check_name(name)
    hidden = f"{_root()}/.old-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        os.rename(directory, hidden)
    except OSError:
        raise StateError(f"snapshot {name}: does not exist", "`hutch snapshot ls` lists them") from None
    _remove(hidden)


def _remove(directory: str) -> None:
    for entry in os.listdir(directory):
        os.unlink(f"{directory}/{entry}")
    os.rmdir(directory)


def sweep() -> None:
    """Remove what dead processes had begun to write, or to remove."""
    for entry in os.listdir(_root()):  # somebody else may be at it, too
        pid = entry.split("-")[1] if entry.startswith((".new-", ".old-")) else ""
        if pid and not os.path.exists(f"/proc/{pid}"):
            with suppress(FileNotFoundError):
                _remove(f"{_root()}/{entry}")


def create(container: Live, pid: int, name: str) -> Snapshot:
    """Save a machine, by its container and the pid of its first process, as it is now; it stands still for the moment that takes, and
    goes on. Commands that were started in it beside
    its own are not part of its copies.

    Raises UsageError, UnsupportedError, StateError, ContainerGone, ImageError when the disk is full.
    """
    check_name(name)
    parts, called = container.machine, container.name
    if parts is None:
        raise UnsupportedError(f"snapshot {name}: container {called} is in no machine of its own", "--isolation vm --vm-root disk makes one that can be copied")
    if not parts.machine.disks:
        raise UnsupportedError(
            f"snapshot {name}: the root of container {called} is shared with this host, and QEMU cannot copy a machine with virtio-fs",
            "--vm-root disk gives a machine a root of its own",
        )
    if os.path.lexists(f"{_root()}/{name}"):
        raise StateError(f"snapshot {name}: exists", f"`hutch snapshot rm {name}` removes it")
    sweep()
    fresh = f"{_root()}/.new-{os.getpid()}-{os.urandom(4).hex()}"
    os.mkdir(fresh, 0o700)
    try:
        _save(container.directory, called, pid, fresh, parts.machine.memory)
        files = [("kernel", parts.machine.kernel), ("initramfs", parts.machine.initramfs), *((f"disk{i}", path) for i, path in enumerate(parts.machine.disks))]
        for link, path in files:
            try:
                os.link(path, f"{fresh}/{link}")
            except FileNotFoundError:
                raise ImageError(f"snapshot {name}: {path}, which the machine was begun with, is not there any more", "start another one") from None
        with open(f"{fresh}/{RECORD}", "w", encoding="utf-8") as file:
            file.write(jsontext.dumps(_description(container, parts)) + "\n")
        os.rename(fresh, f"{_root()}/{name}")
    except OSError as error:
        raise ImageError(f"snapshot {name}: write into {_root()}: {error.strerror}", "`hutch system df` shows what takes room") from None
    finally:
        if os.path.isdir(fresh):
            _remove(fresh)
    return find(name)


def _description(container: Live, parts: Parts) -> dict[str, Any]:
    s, facts = container.settings, container.facts
    image = container.rootfs.config
    places = wiring.addresses_of(container.id)
    return {
        "created": time.time(),
        "image": s.image,
        "manifest": facts.manifest,
        "command": list(facts.args),
        "settings": record_of(s),
        "user": list(facts.user),
        "home": facts.home,
        "idle": facts.idle,
        "config": {
            "env": list(image.env),
            "workdir": image.workdir,
            "stop_signal": image.stop_signal,
            "health": list(image.health),
            "ports": list(image.ports),
        },
        "addresses": places,
        **assembly.record_of(parts),
    }


def _save(directory: str, called: str, pid: int, into: str, size: int) -> None:
    """The memory and the state, while the guest is silent and its processors stand still."""
    import socket

    from hutch.vm import frames, qmp

    monitor = channel.program_of(pid, qemu.PROGRAM)
    door = socket.socket(fileno=channel.connect(directory, called))
    memory = _memory_of(monitor, size)
    state = os.open(f"{into}/state", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if not qmp.talk(channel.monitor(directory, called), qmp.running):
            raise StateError(f"snapshot: container {called} is paused", f"hutch unpause {called}")
        try:
            quiet = frames.ask(door, frames.pack("QUIESCE"), "QUIET", PATIENCE)
        except TimeoutError:
            raise HutchError(f"snapshot: the guest of container {called} does not answer") from None
        if quiet is None:
            raise HutchError(f"snapshot: container {called} is being saved already, or has ended")
        try:
            qmp.talk(channel.monitor(directory, called), qmp.save(state))
            _copy(memory, f"{into}/memory")
        except BaseException:
            with suppress(HutchError):  # what went wrong is to be told, and not what came of it
                qmp.talk(channel.monitor(directory, called), qmp.resume)
            raise
        qmp.talk(channel.monitor(directory, called), qmp.resume)
    finally:
        door.close()  # the guest goes on when this ends, however it ends
        os.close(memory)
        os.close(state)


def _memory_of(monitor: int, size: int) -> int:
    """A descriptor of a machine's memory. Its monitor may have been taken over, and have something else under that number."""
    path = f"/proc/{monitor}/fd/{Descriptors.ROOT}"
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    info = os.fstat(fd)
    if not os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:machine") or not stat.S_ISREG(info.st_mode) or info.st_size != size:
        os.close(fd)
        raise HutchError("snapshot: the machine's monitor has not the memory that it was given")
    return fd


def _copy(source: int, path: str) -> None:
    """A sparse file's copy, by the kernel."""
    size = os.fstat(source).st_size
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(out, size)
        at = 0
        while at < size:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
            except OSError:
                return  # there is no more
            end = os.lseek(source, at, os.SEEK_HOLE)
            os.lseek(out, at, os.SEEK_SET)
            while at < end:
                copied = os.sendfile(out, source, at, end - at)
                if not copied:
                    raise HutchError("snapshot: the machine's memory has become smaller")
                at += copied
    finally:
        os.close(out)


def load(wanted: Settings) -> Saved:
    """What a request for a copy of a snapshot means. Raises StateError, UsageError, UnsupportedError."""
    found = find(wanted.image.removeprefix(resolve.SNAPSHOT))
    data = found.data
    s = settings_from(data["settings"])
    changed = sorted(key for key, value in wanted.as_dict().items() if key not in OWN and value != Settings._defaults.get(key) and value != getattr(s, key))
    changed += [key for key in ("vm_accel", "vm_root") if getattr(wanted, key) not in (Settings._defaults[key], getattr(s, key))]
    if changed:
        raise UsageError(f"{changed[0].replace('_', '-')}: a copy of a snapshot has it as the snapshot has", "make another snapshot")
    if wanted.command and list(wanted.command) != list(s.command):
        raise UsageError(
            f"command: a copy of snapshot {found.name} goes on with what runs in it", "`hutch exec`, or Container.run, runs commands in it beside that"
        )
    kept = {key: value for key, value in wanted.as_dict().items() if key in OWN and key not in ("command", "isolation", "vm_accel", "vm_root")}
    merged = s.replace(**{**kept, "terminal": s.terminal, "interactive": s.interactive or wanted.interactive, "snapshot": found.name, "kernel": ""})
    uid, gid, *groups = data["user"]
    return Saved(
        settings=merged,
        rootfs=_rootfs(found),
        user=User(uid=uid, gid=gid, additional_gids=tuple(groups)),
        home=data["home"],
        idle=bool(data["idle"]),
        parts=_parts(found, merged),
    )


def rootfs_of(name: str) -> Rootfs:
    """What is known of the root of a snapshot's copies, whether it is still there or not."""
    try:
        return _rootfs(find(name))
    except StateError:
        return Rootfs(name=f"{resolve.SNAPSHOT}{name}", views=())


def _rootfs(found: Snapshot) -> Rootfs:
    """The image that it was made from, for users' names; where the store has it no more, what the snapshot knows of it."""
    config: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.data["config"].items()}
    try:
        known = resolve.of_manifest(found.data["manifest"], found.name, features()) if found.data["manifest"] else None
    except HutchError:
        known = None
    return known or Rootfs(name=f"{resolve.SNAPSHOT}{found.name}", views=(), config=ImageConfig(**config))


def _parts(found: Snapshot, s: Settings) -> Parts:
    parts = assembly.parts_of(found.data, s)
    made_by = found.data["machine_program"]
    if assembly.identity_of(parts.vmm.path) != made_by:
        raise UnsupportedError(
            f"snapshot {found.name}: was made by another QEMU ({made_by[0]}), or that has been updated since",
            "a state fits the QEMU that wrote it: make it anew",
        )
    asked, there = len(s.attachments), parts.machine.interfaces
    if asked != there:
        raise UsageError(
            f"network: snapshot {found.name} has {there} interface{'s' if there != 1 else ''}, and {asked} network{'s are' if asked != 1 else ' is'} asked for",
            "as many as the machine had that it was made of",
        )
    place = found.directory
    machine: Machine = parts.machine.replace(
        kernel=f"{place}/kernel",
        initramfs=f"{place}/initramfs",
        disks=tuple(f"{place}/disk{i}" for i in range(len(parts.machine.disks))),
        snapshot=place,
    )
    return parts.replace(machine=machine, addresses=tuple((int(number), str(address), int(prefix)) for number, address, prefix in found.data["addresses"]))
