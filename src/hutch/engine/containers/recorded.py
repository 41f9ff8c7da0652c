"""A container by its record: for commands that come from another process than the one that made it."""

from __future__ import annotations

from hutch.engine.records import live
from hutch.engine.records.facts import RECORD_KEY, facts_from, settings_from
from hutch.engine.records.live import Live
from hutch.engine.records.state import Running
from hutch.image import resolve
from hutch.kernel.features import features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.cgroup.live import Cgroup
    from hutch.engine.records.facts import Facts
    from hutch.engine.spec.settings import Settings
    from hutch.image.rootfs import Rootfs
    from hutch.vm.compile import Parts


def live_of(running: Running) -> Live:
    """A container as it was made. Raises StateError when its record cannot be read."""
    s, facts = settings_from(running.data["settings"]), facts_from(running.data.get(RECORD_KEY))
    machine = None
    if "machine" in running.data:
        from hutch.engine.machines import assembly

        machine = assembly.parts_of(running.data, s)
    reachable = running.pid and (machine is None or not machine.machine.disks)
    root = (lambda: open_root(running, machine)) if reachable else None
    return Live(running.id, running.directory, s, facts, machine, rootfs=lambda: rootfs_of(s, facts), open_root=root)


def open_root(running: Running, machine: Parts | None) -> int:
    """A descriptor of a running container's root directory. Raises ContainerGone, UnsupportedError, StateError."""
    if machine is None:
        return live.open_root(running)
    from hutch.engine.machines import channel

    return live.open_root(running, channel.root_of(running.pid, machine, running.name or running.id))


def rootfs_of(s: Settings, facts: Facts) -> Rootfs:
    """What a container was made from. Raises ImageError when it is not there any more."""
    if facts.manifest:  # the name may stand for another image by now, or for none
        return resolve.of_manifest(facts.manifest, s.image, features())
    if s.snapshot:
        from hutch.engine.machines import machine_snapshots

        return machine_snapshots.rootfs_of(s.snapshot)
    return resolve.resolve(facts.image, features())


def cgroup_of(running: Running) -> Cgroup:
    """The cgroup of a container: numbers, freezing."""
    if "machine" in running.data:
        from hutch.engine.machines.guest_cgroup import GuestCgroup

        return GuestCgroup(running.directory, running.name or running.id)
    from hutch.cgroup.live import Cgroup

    return Cgroup(running.data.get("cgroup", {}))
