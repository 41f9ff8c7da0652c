"""From settings to a compiled plan: names, users, the record; and templates, so that the second start is cheap."""

from __future__ import annotations

import os

from hutch import jsontext
from hutch.engine.launch.identity import Marks, new_marks, personalise
from hutch.engine.records import state
from hutch.engine.records.facts import RECORD_KEY as FACTS, Facts, facts_of
from hutch.engine.records.live import Live
from hutch.engine.spec import configuration, signals, wording
from hutch.engine.spec.check import check
from hutch.engine.spec.settings import CONTAINER, ImageSource, Settings
from hutch.errors import HutchError, UsageError
from hutch.executor.launcher import FIRST_EXTRA
from hutch.image import resolve, store
from hutch.image.rootfs import ImageMount, Rootfs
from hutch.kernel.features import Features, features
from hutch.oci.config import User
from hutch.plan.ops import HostRecord
from hutch.plan.plan import Plan
from hutch.record import Record, plain as record_of
from hutch.runtime.compile import compile_container
from hutch.runtime.request import Compiled, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hutch.engine.machines.machine_snapshots import Saved
    from hutch.engine.networks.joining import Joining
    from hutch.network.ports import Port
    from hutch.oci.config import Config
    from hutch.plan.late import Places
    from hutch.plan.ops import HoldShared, Publish, ReturnDevice
    from hutch.vm.compile import Parts


class Prepared(Record):
    """A container ready to be started. `encoded` is the plan for the executor but for the owner's pid; `template` the same
    with `marks` for id, time and the like, which stand at `places`."""

    id: str
    compiled: Compiled
    encoded: bytes
    template: bytes
    marks: Marks
    places: Places
    settings: Settings
    rootfs: Rootfs
    directory: str
    facts: Facts
    joinings: tuple[Joining, ...] = ()
    ports: tuple[Port, ...] = ()
    ipv6: bool = False
    machine: Parts | None = None
    fresh: tuple[str, ...] = ()  # anonymous volumes that were made for it, whose executor removes them at its end

    @property
    def asks(self) -> bool:
        """Whether its executor asks its owner for something while it starts."""
        return bool(self.joinings or self.settings.net_devices or self.settings.systemd)

    def live(self, open_root: Callable[[], int] | None = None) -> Live:
        """What is known of the container from now on. `open_root` gives a descriptor of its root directory, while it runs."""
        facts = self.facts.replace(
            cgroup={key: path.replace(self.marks.id, self.id) for key, path in self.facts.cgroup.items()},
            env=tuple(item.replace(self.marks.id, self.id) for item in self.facts.env),
        )
        return Live(self.id, self.directory, self.settings, facts, self.machine, rootfs=lambda: self.rootfs, open_root=open_root)


_templates: dict[object, tuple[Rootfs, Features, str, Prepared]] = {}


def prepare(
    s: Settings, *, idle: bool = False, detach: bool = False, remove: bool = True, accounting: bool = True, reopen: str = "",
    rootfs: Rootfs | None = None, inherited: tuple[str, ...] = (), machine: Parts | None = None, marks: Marks | None = None,
) -> Prepared:  # fmt: skip
    """Check, resolve, compile. Raises UsageError, UnsupportedError, ImageError for an image that is not there; nothing is touched. What
    the settings name and is not there yet is made by `create.create`.

    `reopen` is the upper directory of a container that has ended, to be gone on with. `rootfs` is used instead of the image's,
    and `inherited` lower directories above it are handed to `launch`. `machine`: the one that a container has already.

    Everything that differs from one container to the next with the same settings is its id, the time, and what is free then: the plan
    is compiled and encoded once with marks for them, and the values are written in their places. `marks`: with these, of a plan that
    was kept.
    """
    found = features()
    saved = _saved(s) if s.image.startswith(resolve.SNAPSHOT) and machine is None else None
    if saved is not None:
        s, idle, rootfs = saved.settings, saved.idle, saved.rootfs
    rootfs = rootfs or resolve.resolve(s.image, found)
    if not s.upper:  # others want to look at what a detached one changes, and it may outlive its processes
        s = s.replace(upper="disk" if detach and state.keeps_uppers() else "tmpfs")
    fresh: tuple[str, ...] = ()
    if s.volumes or (detach and not remove and rootfs.config.volumes):
        from hutch.engine.volumes import volumes

        check(s)
        s, fresh = volumes.of_container(s, rootfs, detach and not remove)
    return _prepare(s, found, rootfs, fresh, saved, idle, detach, remove, accounting, reopen, inherited, machine, marks)


def _prepare(
    s: Settings, found: Features, rootfs: Rootfs, fresh: tuple[str, ...], saved: Saved | None, idle: bool, detach: bool, remove: bool,
    accounting: bool, reopen: str, inherited: tuple[str, ...], machine: Parts | None, marks: Marks | None,
) -> Prepared:  # fmt: skip
    """The plan of a container whose image and volumes are there."""
    if s.network.startswith(CONTAINER):
        from hutch.engine.networks import joining

        s = joining.shared(s)
    joinings = _joinings(s)
    base = state.root()
    who = (saved.user, saved.home) if saved is not None else resolve.user(s.user or rootfs.config.user, s.groups, rootfs)
    resolv_conf = _resolv_conf(s, joinings)
    lent = _lent(s)
    if s.isolation == "vm" and (other := next((item.network for item in joinings if item.network.driver == "ipvlan"), None)) is not None:
        raise UsageError(f"network {other.name}: of driver ipvlan, which knows its interfaces by their addresses: a machine's are behind them", "macvlan")
    machine = saved.parts if saved is not None else machine or _machine(s, len(joinings), rootfs)
    key = (repr(machine), repr(s), repr(joinings), repr(lent), repr(who), resolv_conf, idle, detach, remove, accounting, base, reopen, inherited)
    cached = _templates.get(key)
    if cached is None or (cached[0] is not rootfs and cached[0] != rootfs) or cached[1] is not found or cached[2] != base:
        check(s)
        if len(_templates) > 64:
            _templates.clear()
        marks = marks or new_marks("\0".join((*map(str, key), repr(rootfs))))
        cached = (
            rootfs,
            found,
            base,
            _template(s, who, rootfs, found, base, idle, detach, remove, accounting, reopen, inherited, joinings, resolv_conf, lent, machine, fresh, marks),
        )
        _templates[key] = cached
    template = cached[3]
    identity, encoded = personalise(template.template, template.places)
    return template.replace(id=identity, encoded=encoded, directory=template.directory.replace(template.marks.id, identity), fresh=fresh)


def _image_mount(source: ImageSource, found: Features) -> ImageMount:
    """Another image's layers. Raises ImageError, UsageError for what has none."""
    other = resolve.resolve(source.image, found)
    if not other.layers:
        raise UsageError(f"mount: {source.image} is no image: bind a directory instead")
    return ImageMount(target=source.target, layers=other.layers, path=source.subpath)


def _template(
    s: Settings, who: tuple[User, str], rootfs: Rootfs, found: Features, base: str, idle: bool, detach: bool, remove: bool, accounting: bool,
    reopen: str, inherited: tuple[str, ...], joinings: tuple[Joining, ...], resolv_conf: str | None,
    lent: tuple[ReturnDevice, ...], machine: Parts | None, fresh: tuple[str, ...], marks: Marks,
) -> Prepared:  # fmt: skip
    user, home = who
    hostname = s.hostname or (marks.id if s.uts == "private" else "")
    images = tuple(_image_mount(source, found) for source in s.images)
    shared = tuple(layer for image in images for layer in image.layers)
    config = configuration.to_config(s, rootfs, found, identity=marks.id, hostname=hostname, user=user, home=home, shared=shared)
    names = wording.typed(s, config)
    process = config.process
    assert process is not None
    if not idle and not process.args:
        raise UsageError(f"{s.image}: no command: the image names none, and none was given")
    ports, ipv6 = _ports(s, rootfs, joinings)
    user_network = bool(joinings) and not found.privileged
    directory = f"{base}/{marks.id}"
    on_disk = s.upper == "disk" and (machine is None or not machine.machine.disks)  # else its changes are in the machine's memory
    upper = reopen or (f"{store.data_root()}/{store.UPPERS}/{marks.id}" if on_disk else "")
    published = _published(ports, ipv6, marks)
    record = {
        "id": marks.id,
        "name": s.name,
        "image": s.image,
        "command": list(process.args) if not idle else [],
        "created": float(marks.created),
        "upper": "" if reopen else upper,  # what somebody else's record names is not this one's to remove
        "manifest": rootfs.manifest,
        "layers": [layer.lower for layer in rootfs.layers],
        "cgroup": {},
        "settings": record_of(s),
        "stop_signal": s.stop_signal or signals.known(rootfs.config.stop_signal),
        "health": list(rootfs.config.health),
        "ports": published,
        **_machine_record(machine),
    }
    used = [(mount.name, mount.source.removesuffix(f"/{mount.subpath.strip('/')}") if mount.subpath else mount.source) for mount in s.volumes]
    request = Request(
        id=marks.id,
        rootfs=rootfs,
        state=directory,
        name=state.name_place(s.name),
        upper=upper,
        reopen=bool(reopen),
        inherited=inherited,
        held=tuple(dict.fromkeys((path, f"{os.path.dirname(path)}/lock") for name, path in used if name not in fresh)),
        own=tuple((os.path.dirname(path), f"{os.path.dirname(path)}/lock") for name, path in used if name in fresh),
        networks=_holds(joinings, s, marks),
        user_network=user_network,
        lent=lent,
        publish=_publish(ports, ipv6, marks, len(inherited) + 2 * user_network),
        images=images,
        beneath=tuple((v.source.removesuffix(f"/{v.subpath.strip('/')}"), v.source) for v in s.volumes if v.subpath),  # another container may write there
        upper_size=s.upper_size,
        idle=idle,
        init=s.init,
        detach=detach,
        remove=remove,
        hosts=_hosts(s, joinings, hostname, marks),
        resolv_conf=resolv_conf,
        make_workdir=bool(s.workdir or rootfs.config.workdir),
        accounting=accounting,
        files=idle,
        systemd_scope=_scope(s, marks),
    )
    try:
        compiled = _compile(config, request.replace(record=marks.id), found, machine)
    except HutchError as error:
        wording.reword(error, names)
        raise
    facts = facts_of(s, config, compiled, rootfs, user, home, idle)
    record["cgroup"] = compiled.cgroup_paths
    record[FACTS] = record_of(facts)
    compiled = compiled.replace(plan=_with_record(compiled.plan, jsontext.dumps(record) + "\n"))
    compiled = compiled.replace(plan=compiled.plan.replace(warnings=(*rootfs.warnings, *compiled.plan.warnings), typed=names))
    template = compiled.plan.encode(0)
    return Prepared(
        id=marks.id,
        compiled=compiled,
        encoded=b"",
        template=template,
        marks=marks,
        places=(*marks.places(template, len(published)), *_network_places(template, machine)),
        settings=s,
        rootfs=rootfs,
        directory=directory,
        facts=facts,
        joinings=joinings,
        ports=ports,
        ipv6=ipv6,
        machine=machine,
    )


def _machine_record(machine: Parts | None) -> dict[str, object]:
    if machine is None:
        return {}
    from hutch.engine.machines import assembly

    return assembly.record_of(machine)


def _network_places(template: bytes, machine: Parts | None) -> Places:
    if machine is None:
        return ()
    from hutch.engine.machines import wiring

    return wiring.network_places(template)


def _saved(s: Settings) -> Saved:
    from hutch.engine.machines import machine_snapshots

    return machine_snapshots.load(s)


def _machine(s: Settings, interfaces: int, rootfs: Rootfs) -> Parts | None:
    if s.isolation == "namespaces":
        return None
    from hutch.engine.machines import assembly

    return assembly.parts(s, interfaces, rootfs)


def _compile(config: Config, request: Request, found: Features, machine: Parts | None) -> Compiled:
    if machine is None:
        return compile_container(config, request, found)
    from hutch.vm.compile import compile_machine

    return compile_machine(config, request, machine, found)


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


def _holds(joinings: tuple[Joining, ...], s: Settings, marks: Marks) -> tuple[HoldShared, ...]:
    if not joinings:
        return ()
    from hutch.engine.networks import joining

    return joining.holds(joinings, marks.id, s)


def _hosts(s: Settings, joinings: tuple[Joining, ...], hostname: str, marks: Marks) -> str:
    if not joinings and not s.extra_hosts and not s.network_path:
        return ""
    from hutch.engine.networks import resolver

    return resolver.hosts(s, joinings, hostname, marks.address)


def _ports(s: Settings, rootfs: Rootfs, joinings: tuple[Joining, ...]) -> tuple[tuple[Port, ...], bool]:
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


def _publish(wanted: tuple[Port, ...], ipv6: bool, marks: Marks, before: int) -> Publish | None:
    if not wanted:
        return None
    from hutch.network import ports
    from hutch.plan import ops

    found = [(port.protocol == "tcp", port.container) for port in wanted for _ in ports.places(port, ipv6)]
    return ops.Publish(
        what="; ".join(ports.describe(port, ipv6) for port in wanted), address=marks.address, origin="ports",
        ports=tuple((FIRST_EXTRA + before + i, stream, number) for i, (stream, number) in enumerate(found)),
    )  # fmt: skip


def _published(wanted: tuple[Port, ...], ipv6: bool, marks: Marks) -> list[str]:
    """What is published, for the record; the host's ports are known when they are bound."""
    if not wanted:
        return []
    from hutch.network import ports

    found = [(port, place) for port in wanted for place in ports.places(port, ipv6)]
    return [f"{f'[{place}]' if ':' in place else place}:{marks.port_mark(i)}->{port.container}/{port.protocol}" for i, (port, place) in enumerate(found)]


def _resolv_conf(s: Settings, joinings: tuple[Joining, ...]) -> str | None:
    if s.network == "none" and not s.net_devices:
        return ""
    from hutch.engine.networks import resolver

    return resolver.resolv_conf(s, joinings)


def _with_record(plan: Plan, text: str) -> Plan:
    """The record names the cgroups that the compilation chose, so it is written into the finished plan."""
    return plan.replace(host=tuple(op.replace(data=text) if isinstance(op, HostRecord) else op for op in plan.host))


def _scope(s: Settings, marks: Marks) -> str:
    """Where systemd will put the container, asked of systemd itself; "" when it is not to."""
    if not s.systemd:
        return ""
    from hutch.cgroup import systemd

    with systemd.Manager() as manager:
        place = systemd.slice_path(manager.control_group(), os.geteuid() != 0)
    return f"{place}/hutch-{marks.id}.scope"


def plan_of(prepared: Prepared) -> Plan:
    """The plan as it will run, with the container's id. For those who want to read it."""
    plan, mark = prepared.compiled.plan, prepared.marks.id
    return plan.replace(
        host=tuple(_substitute(op, mark, prepared.id) for op in plan.host),
        container=tuple(_substitute(op, mark, prepared.id) for op in plan.container),
    )


def _substitute(operation: Record, mark: str, identity: str) -> Record:
    def change(value: object) -> object:
        if isinstance(value, str):
            return value.replace(mark, identity)
        if isinstance(value, tuple):
            return tuple(change(item) for item in value)
        if isinstance(value, Record):
            return _substitute(value, mark, identity)
        return value

    return type(operation)(**{name: change(value) for name, value in operation.as_dict().items()})
