"""From settings to a compiled plan: names, users, the record; and templates, so that the second start is cheap."""

from __future__ import annotations

import os

from hutch import jsontext
from hutch.engine.launch.identity import Marks, new_marks, personalise
from hutch.engine.launch.resolution import How, Resolved, image_mount, ports_of, resolve
from hutch.engine.records import state
from hutch.engine.records.facts import RECORD_KEY as FACTS, Facts, facts_of
from hutch.engine.records.live import Live
from hutch.engine.spec import configuration, signals, wording
from hutch.engine.spec.check import check
from hutch.engine.spec.settings import Settings
from hutch.errors import HutchError, UsageError
from hutch.executor.launcher import FIRST_EXTRA
from hutch.image.rootfs import ImageMount, Rootfs
from hutch.image.store import directories
from hutch.kernel.features import Features
from hutch.plan.ops import HostRecord
from hutch.plan.plan import Plan
from hutch.record import Record, plain as record_of
from hutch.runtime.compile import compile_container
from hutch.runtime.request import Compiled, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hutch.engine.networks.joining import Joining
    from hutch.executor.late import Places
    from hutch.network.ports import Port
    from hutch.oci.config import Config
    from hutch.plan.ops import HoldShared, Publish
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


_templates: dict[object, tuple[Rootfs, Features, Prepared]] = {}
_last: list[tuple[Resolved, Prepared] | None] = [None]  # what was asked for last, which most ask for again, and its template


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
    how = How(idle=idle, detach=detach, remove=remove, accounting=accounting, reopen=reopen, inherited=inherited)
    r = resolve(s, how, rootfs, machine)
    last = _last[0]  # read once: another thread may ask for something else between a look at its one half and the other
    template = last[1] if last is not None and last[0] == r else _known(r, marks)
    identity, encoded = personalise(template.template, template.places)
    return template.replace(id=identity, encoded=encoded, directory=template.directory.replace(template.marks.id, identity), fresh=r.fresh)


def _known(r: Resolved, marks: Marks | None) -> Prepared:
    """The template of a request: from before, or made now."""
    key = r.key()
    cached = _templates.get(key)
    if cached is None or (cached[0] is not r.rootfs and cached[0] != r.rootfs) or cached[1] is not r.features:
        check(r.settings)
        if len(_templates) > 64:
            _templates.clear()
        cached = _templates[key] = (r.rootfs, r.features, _template(r, marks or new_marks("\0".join((*key, repr(r.rootfs))))))
    _last[0] = (r, cached[2])
    return cached[2]


def _template(r: Resolved, marks: Marks) -> Prepared:
    """The plan, with marks for the values of the start."""
    s, how, rootfs = r.settings, r.how, r.rootfs
    hostname = s.hostname or (marks.id if s.uts == "private" else "")
    images = tuple(image_mount(source, r.features) for source in s.images)
    shared = tuple(layer for image in images for layer in image.layers)
    config = configuration.to_config(s, rootfs, r.features, identity=marks.id, hostname=hostname, user=r.user, home=r.home, shared=shared)
    names = wording.typed(s, config)
    process = config.process
    assert process is not None
    if not how.idle and not process.args:
        raise UsageError(f"{s.image}: no command: the image names none, and none was given")
    ports, ipv6 = ports_of(s, rootfs, r.joinings)
    published = _published(ports, ipv6, marks)
    request = _request(r, marks, hostname, images, _publish(ports, ipv6, marks, len(how.inherited) + 2 * _in_user_network(r)))
    try:
        compiled = _compile(config, request.replace(record=marks.id), r.features, r.machine)
    except HutchError as error:
        wording.reword(error, names)
        raise
    facts = facts_of(s, config, compiled, rootfs, r.user, r.home, how.idle)
    record = _record(r, marks, facts, request.upper, published)
    compiled = compiled.replace(plan=_with_record(compiled.plan, jsontext.dumps(record) + "\n"))
    compiled = compiled.replace(plan=compiled.plan.replace(warnings=(*rootfs.warnings, *compiled.plan.warnings), typed=names))
    template = compiled.plan.encode(0)
    return Prepared(
        id=marks.id,
        compiled=compiled,
        encoded=b"",
        template=template,
        marks=marks,
        places=(*marks.places(template, len(published)), *_network_places(template, r.machine)),
        settings=s,
        rootfs=rootfs,
        directory=request.state,
        facts=facts,
        joinings=r.joinings,
        ports=ports,
        ipv6=ipv6,
        machine=r.machine,
    )


def _in_user_network(r: Resolved) -> bool:
    """Whether its networks are in a namespace of the user's own."""
    return bool(r.joinings) and not r.features.privileged


def _request(r: Resolved, marks: Marks, hostname: str, images: tuple[ImageMount, ...], publish: Publish | None) -> Request:
    """What the compilation takes beside the configuration."""
    s, how = r.settings, r.how
    on_disk = s.upper == "disk" and (r.machine is None or not r.machine.machine.disks)  # else its changes are in the machine's memory
    whole = [(v.name, v.source.removesuffix(f"/{v.subpath.strip('/')}") if v.subpath else v.source, v) for v in s.volumes]
    return Request(
        id=marks.id,
        rootfs=r.rootfs,
        state=f"{r.base}/{marks.id}",
        name=state.name_place(s.name),
        upper=how.reopen or (f"{directories.data_root()}/{directories.UPPERS}/{marks.id}" if on_disk else ""),
        reopen=bool(how.reopen),
        inherited=how.inherited,
        held=tuple(dict.fromkeys((path, _lock(path)) for name, path, _ in whole if name not in r.fresh)),
        own=tuple((os.path.dirname(path), _lock(path)) for name, path, _ in whole if name in r.fresh),
        networks=_holds(r.joinings, s, marks),
        user_network=_in_user_network(r),
        lent=r.lent,
        publish=publish,
        images=images,
        beneath=tuple((path, v.source) for _, path, v in whole if v.subpath),  # another container may write there
        upper_size=s.upper_size,
        idle=how.idle,
        init=s.init,
        detach=how.detach,
        remove=how.remove,
        hosts=_hosts(s, r.joinings, hostname, marks),
        resolv_conf=r.resolv_conf,
        make_workdir=bool(s.workdir or r.rootfs.config.workdir),
        accounting=how.accounting,
        files=how.idle,
        systemd_scope=_scope(s, marks),
    )


def _lock(volume: str) -> str:
    """The file that every container on a volume holds."""
    return f"{os.path.dirname(volume)}/lock"


def _record(r: Resolved, marks: Marks, facts: Facts, upper: str, published: list[str]) -> dict[str, object]:
    """The container's record."""
    s = r.settings
    return {
        "id": marks.id,
        "name": s.name,
        "image": s.image,
        "command": list(facts.args) if not facts.idle else [],
        "created": float(marks.created),
        "upper": "" if r.how.reopen else upper,  # what somebody else's record names is not this one's to remove
        "manifest": r.rootfs.manifest,
        "layers": [layer.lower for layer in r.rootfs.layers],
        "cgroup": facts.cgroup,
        "settings": record_of(s),
        "stop_signal": s.stop_signal or signals.known(r.rootfs.config.stop_signal),
        "health": list(r.rootfs.config.health),
        "ports": published,
        FACTS: record_of(facts),
        **_machine_record(r.machine),
    }


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


def _compile(config: Config, request: Request, found: Features, machine: Parts | None) -> Compiled:
    if machine is None:
        return compile_container(config, request, found)
    from hutch.vm.compile import compile_machine

    return compile_machine(config, request, machine, found)


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
