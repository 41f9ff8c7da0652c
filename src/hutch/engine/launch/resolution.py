"""What a request for a container means on this machine: everything that is looked up before its plan is compiled."""

from __future__ import annotations

from hutch.engine.records import state
from hutch.engine.spec.check import check
from hutch.engine.spec.settings import CONTAINER, ImageSource, Settings
from hutch.errors import UsageError
from hutch.image import resolve as images
from hutch.image.rootfs import ImageMount, Rootfs
from hutch.kernel.features import Features, features
from hutch.oci.config import User
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.engine.machines.machine_snapshots import Saved
    from hutch.engine.networks.joining import Joining
    from hutch.network.ports import Port
    from hutch.plan.ops import ReturnDevice
    from hutch.vm.compile import Parts


class How(Record):
    """How a container is to run, beside its settings: without a program (`idle`), with a monitor in its owner's place (`detach`), removed
    at its end (`remove`), with a cgroup for its numbers alone (`accounting`), on the upper directory of one that has ended (`reopen`),
    above lower directories that its owner hands over (`inherited`)."""

    idle: bool = False
    detach: bool = False
    remove: bool = True
    accounting: bool = True
    reopen: str = ""
    inherited: tuple[str, ...] = ()


class Resolved(Record):
    """A request with all that was looked up for it. `base` is the directory of records, `fresh` the volumes of its own, `lent` the
    interfaces of the host's that it gives back, `machine` the virtual machine that it is in."""

    settings: Settings
    how: How
    rootfs: Rootfs
    features: Features
    base: str
    user: User
    home: str
    joinings: tuple[Joining, ...]
    resolv_conf: str | None
    lent: tuple[ReturnDevice, ...]
    machine: Parts | None
    fresh: tuple[str, ...]

    def key(self) -> tuple[str, ...]:
        """All that a plan depends on but for the root file system and the features, as text."""
        parts = (self.machine, self.settings, self.joinings, self.lent, self.user, self.home, self.resolv_conf, self.how, self.base)
        return tuple(map(repr, parts))


def resolve(s: Settings, how: How, rootfs: Rootfs | None = None, machine: Parts | None = None) -> Resolved:
    """Look up what a request names. `rootfs` is used instead of the image's, `machine` is one that the container has already.

    Raises UsageError, UnsupportedError, StateError, ImageError for an image that is not there; nothing is touched.
    """
    found = features()
    saved = _saved(s) if s.image.startswith(images.SNAPSHOT) and machine is None else None
    if saved is not None:
        s, how, rootfs, machine = saved.settings, how.replace(idle=saved.idle), saved.rootfs, saved.parts
    rootfs = rootfs or images.resolve(s.image, found)
    if not s.upper:  # others want to look at what a detached one changes, and it may outlive its processes
        s = s.replace(upper="disk" if how.detach and state.keeps_uppers() else "tmpfs")
    fresh: tuple[str, ...] = ()
    keeps = how.detach and not how.remove
    if s.volumes or (keeps and rootfs.config.volumes):
        from hutch.engine.volumes import volumes

        check(s)
        s, fresh = volumes.of_container(s, rootfs, keeps)
    if s.network.startswith(CONTAINER):
        from hutch.engine.networks import joining

        s = joining.shared(s)
    joinings = _joinings(s)
    base = state.root()
    user, home = (saved.user, saved.home) if saved is not None else images.user(s.user or rootfs.config.user, s.groups, rootfs)
    resolv_conf, lent = _resolv_conf(s, joinings), _lent(s)
    if s.isolation == "vm" and (other := next((item.network for item in joinings if item.network.driver == "ipvlan"), None)) is not None:
        raise UsageError(f"network {other.name}: of driver ipvlan, which knows its interfaces by their addresses: a machine's are behind them", "macvlan")
    return Resolved(
        settings=s, how=how, rootfs=rootfs, features=found, base=base, user=user, home=home, joinings=joinings, resolv_conf=resolv_conf, lent=lent,
        machine=machine or _machine(s, len(joinings), rootfs), fresh=fresh,
    )  # fmt: skip


def _saved(s: Settings) -> Saved:
    from hutch.engine.machines import machine_snapshots

    return machine_snapshots.load(s)


def _machine(s: Settings, interfaces: int, rootfs: Rootfs) -> Parts | None:
    if s.isolation == "namespaces":
        return None
    from hutch.engine.machines import assembly

    return assembly.parts(s, interfaces, rootfs)


def _joinings(s: Settings) -> tuple[Joining, ...]:
    if not s.attachments:
        return ()
    from hutch.engine.networks import joining

    return joining.joinings(s)


def _lent(s: Settings) -> tuple[ReturnDevice, ...]:
    if not s.net_devices:
        return ()
    from hutch.engine.networks import joining

    return joining.lent(s)


def _resolv_conf(s: Settings, joinings: tuple[Joining, ...]) -> str | None:
    if s.network == "none" and not s.net_devices:
        return ""
    from hutch.engine.networks import resolver

    return resolver.resolv_conf(s, joinings)


def ports_of(s: Settings, rootfs: Rootfs, joinings: tuple[Joining, ...]) -> tuple[tuple[Port, ...], bool]:
    """What is to be published, and whether this host has IPv6."""
    if not (s.ports or s.publish_all or s.expose):
        return (), False
    from hutch.network import ports

    found = [port for text in s.ports for port in ports.parse(text)]
    exposed = ports.exposed((*rootfs.config.ports, *s.expose))
    if s.publish_all:
        known = {(port.container, port.protocol) for port in found}
        found += [port for port in exposed if (port.container, port.protocol) not in known]
    ports.check(found)
    if found and joinings[0].network.parent:
        name, driver = joinings[0].network.name, joinings[0].network.driver
        raise UsageError(f"publish: this host does not reach network {name}, of driver {driver}", "its neighbours do, at the container's own address")
    if found and joinings[0].network.internal:
        raise UsageError(f"publish: network {joinings[0].network.name} is internal: nothing leads into it", "name one that is not as the first --network")
    return tuple(found), ports.has_ipv6()


def image_mount(source: ImageSource, found: Features) -> ImageMount:
    """Another image's layers. Raises ImageError, UsageError for what has none."""
    other = images.resolve(source.image, found)
    if not other.layers:
        raise UsageError(f"mount: {source.image} is no image: bind a directory instead")
    return ImageMount(target=source.target, layers=other.layers, path=source.subpath)
