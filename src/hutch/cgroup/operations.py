"""A container's cgroup as operations of its plan."""

from __future__ import annotations

import os

from hutch.cgroup.settings import Setting, v1_settings, v2_settings
from hutch.errors import ConfigError, UnsupportedError
from hutch.kernel.cgroupfs import CgroupLayout
from hutch.oci.config import Resources
from hutch.plan import ops
from hutch.plan.ops import slot
from hutch.record import Record

# What the container's own numbers are read from, even with no limit asked for.
V1_ALWAYS = ("memory", "cpu", "cpuacct", "pids")
V2_ALWAYS = ("cpu", "memory", "pids")

# ReadAtExit's tags
OOM, CPU, PEAK, PIDS = 1, 2, 3, 4

O_PATH_DIRECTORY = 0o10000000 | 0o200000
O_WRONLY = 1


class CgroupOperations(Record):
    """`before` and `after` the clone on the host lane, `enter` on the container lane; `clone_into` for v2.

    `paths` are the directories made, by controller ("" is v2): the live container's record keeps them.
    """

    before: tuple[ops.Operation, ...] = ()
    after: tuple[ops.Operation, ...] = ()
    enter: tuple[ops.Operation, ...] = ()
    clone_into: ops.Slot | None = None
    paths: dict[str, str] = {}


def needed(resources: Resources | None) -> bool:
    """Whether any limit was asked for (device rules alone are no limit: a user namespace has them anyway)."""
    return resources is not None and resources.replace(devices=()) != Resources()


def operations(
    name: str,
    resources: Resources,
    layout: CgroupLayout,
    *,
    own_pid_namespace: bool = True,
    accounting: bool = True,
    scope: str = "",
    privileged: bool = True,
    shared: bool = False,
    everywhere: bool = False,
) -> CgroupOperations:
    """The operations that make the cgroup `name` (``/hutch-ID``), set it and enter it, and their inverses.

    `scope` is the path of a systemd scope (below cgroup2's mount) that the owner starts when it is asked.

    Without `privileged`, v2's parent is one that was delegated, and has what was enabled for its children.
    Without `accounting`, v1 gets no more than the controllers of the limits. `shared`: the path is somebody else's choice,
    who may have made it or parts of it, and counts in every hierarchy. `everywhere`: the container may mount what hierarchies
    it likes, so that it has a place of its own in each, the named ones and a hybrid host's v2 among them.

    Raises UnsupportedError when a limit needs a controller that this host
    has not, and ConfigError for a limit that cannot be meant.
    """
    name = f"/{name.lstrip('/')}"
    if layout.mode == "none":
        if needed(resources):
            raise UnsupportedError("limits: this host has no control groups mounted", "mount cgroup2 on /sys/fs/cgroup")
        return CgroupOperations()
    if scope:
        return _systemd(scope, resources, layout)
    if layout.mode == "v2":
        return _v2(name, resources, layout, privileged, shared)
    return _v1(name, resources, layout, own_pid_namespace, accounting, shared, everywhere)


def _write(directory: str, setting: Setting) -> ops.HostWrite:
    return ops.HostWrite(path=f"{directory}/{setting.key}", data=setting.value, tolerated=setting.tolerated, origin=setting.origin)


def _v1(name: str, resources: Resources, layout: CgroupLayout, own_pids: bool, accounting: bool, shared: bool, everywhere: bool) -> CgroupOperations:
    hybrid: list[Setting] = []
    if resources.unified and layout.v2_mount:
        hybrid += [s for s in v2_settings(Resources(unified=resources.unified)) if s.controller in layout.v2_controllers]
        unknown = [key for key in resources.unified if key.partition(".")[0] not in layout.v2_controllers]
        if unknown:
            raise ConfigError(f"linux.resources.unified.{unknown[0]}", "its controller is v1's on this host")
        resources = resources.replace(unified={})
    settings = v1_settings(resources)
    for setting in list(settings):
        if layout.controller(setting.controller) is None:
            settings.remove(setting)
            if setting.controller == "hugetlb" and "hugetlb" in layout.v2_controllers:
                hybrid.append(setting.replace(key=setting.key.replace(".limit_in_bytes", ".max")))
            else:
                raise _missing(setting.controller, setting.origin)
    wanted = [c for c in V1_ALWAYS if layout.controller(c) and accounting]
    wanted += [s.controller for s in settings if s.controller not in wanted]
    if not own_pids and layout.controller("freezer"):
        wanted.append("freezer")
    if shared or everywhere:
        wanted += [c.name for c in layout.v1]
    if everywhere:
        wanted += [c.name for c in layout.named]
    wanted = list(dict.fromkeys(wanted))
    after: list[ops.Operation] = []
    enter: list[ops.Operation] = []
    paths: dict[str, str] = {}
    made: dict[str, str] = {}
    for controller in wanted:
        place = layout.controller(controller)
        assert place is not None
        directory = f"{place.mount}{name}"
        paths[controller] = directory
        own = [s for s in settings if s.controller == controller]
        if place.mount not in made:
            made[place.mount] = controller
            after += _ancestors(place.mount, name, controller)
            after.append(ops.HostDirectory(path=directory, undo="rmdir", exist_ok=shared, origin="linux.cgroupsPath"))
            tasks = slot(f"{controller.replace('=', '-')}.tasks")
            after.append(ops.Open(path=f"{directory}/tasks", flags=O_WRONLY, into=tasks, origin="linux.cgroupsPath"))
            enter.append(ops.EnterCgroup(tasks=tasks, origin="linux.cgroupsPath"))
        if controller == "cpuset":
            # a v1 cpuset takes no task before both its lists are set; a new one has neither
            for key in ("cpuset.cpus", "cpuset.mems"):
                if not any(s.key == key for s in own):
                    inherited = _inherited(place.mount, name.rpartition("/")[0], key)
                    own.append(Setting(controller="cpuset", key=key, value=inherited, origin="linux.resources.cpu"))
        after += [_write(directory, s) for s in own]
    if hybrid or (everywhere and layout.v2_mount):
        directory = f"{layout.v2_mount}{name}"
        paths[""] = directory
        for controller in dict.fromkeys(s.controller for s in hybrid):
            if controller not in layout.v2_root_subtree:
                after.append(ops.HostWrite(path=f"{layout.v2_mount}/cgroup.subtree_control", data=f"+{controller}", origin="linux.resources"))
        after += _ancestors(layout.v2_mount, name, "")
        after.append(ops.HostDirectory(path=directory, undo="rmdir", exist_ok=shared, origin="linux.cgroupsPath"))
        after += [_write(directory, s) for s in hybrid]
        procs = slot("unified.procs")
        after.append(ops.Open(path=f"{directory}/cgroup.procs", flags=O_WRONLY, into=procs, origin="linux.cgroupsPath"))
        enter.append(ops.EnterCgroup(tasks=procs, origin="linux.cgroupsPath"))
    if "memory" in paths:
        after.append(ops.ReadAtExit(path=f"{paths['memory']}/memory.max_usage_in_bytes", tag=PEAK))
        after.append(ops.ReadAtExit(path=f"{paths['memory']}/memory.oom_control", tag=OOM))
    if "cpu" in paths and any(s.key == "cpu.cfs_quota_us" for s in settings):
        after.append(ops.ReadAtExit(path=f"{paths['cpu']}/cpu.stat", tag=CPU))
    if "pids" in paths and any(s.controller == "pids" for s in settings):
        after.append(ops.ReadAtExit(path=f"{paths['pids']}/pids.events", tag=PIDS))
    if not own_pids and paths:
        after.append(ops.KillAtExit(path=f"{next(iter(paths.values()))}/cgroup.procs"))
    return CgroupOperations(after=tuple(after), enter=tuple(enter), paths=paths)


def _ancestors(mount: str, name: str, controller: str) -> list[ops.Operation]:
    """The directories above, where they are missing; they stay, as they may be shared by now."""
    out: list[ops.Operation] = []
    path = ""
    for part in name.strip("/").split("/")[:-1]:
        above, path = path, f"{path}/{part}"
        if os.path.isdir(mount + path):
            continue
        out.append(ops.HostDirectory(path=mount + path, exist_ok=True, origin="linux.cgroupsPath"))
        if controller == "cpuset":
            for key in ("cpuset.cpus", "cpuset.mems"):
                out.append(ops.HostWrite(path=f"{mount}{path}/{key}", data=_inherited(mount, above, key), origin="linux.cgroupsPath"))
    return out


def _inherited(mount: str, name: str, key: str) -> str:
    """A cpuset's list as the nearest ancestor that has one has it."""
    while True:
        text = _text(f"{mount}{name}/{key}")
        if text or not name:
            return text or "0"
        name = name.rpartition("/")[0]


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _missing(controller: str, origin: str) -> UnsupportedError:
    return UnsupportedError(
        f"{origin}: this host's cgroups have no {controller} controller for this user",
        "`hutch doctor` shows the controllers and how to have one delegated",
    )


def _v2(name: str, resources: Resources, layout: CgroupLayout, privileged: bool, shared: bool) -> CgroupOperations:
    settings = v2_settings(resources)
    above, _, leaf = name.rpartition("/")
    available = layout.v2_controllers if privileged else layout.v2_own_subtree
    for setting in settings:
        if setting.controller not in available:
            raise _missing(setting.controller, setting.origin)
    before: list[ops.Operation] = []
    wanted = list(dict.fromkeys([*(c for c in V2_ALWAYS if c in available), *(s.controller for s in settings)]))
    parent = layout.v2_mount
    if privileged:
        # a controller must be enabled in every ancestor, from the root down
        for part in ["", *(p for p in above.split("/") if p)]:
            if part:
                parent = f"{parent}/{part}"
                before.append(ops.HostDirectory(path=parent, exist_ok=True, origin="linux.cgroupsPath"))
            before += [
                ops.HostWrite(path=f"{parent}/cgroup.subtree_control", data=f"+{controller}", origin="linux.resources")
                for controller in wanted
                if part or controller not in layout.v2_root_subtree
            ]
    else:
        parent = f"{layout.v2_mount}{above}"
    directory = f"{parent}/{leaf}"
    into = slot("cgroup")
    before.append(ops.HostDirectory(path=directory, undo="rmdir", exist_ok=shared, origin="linux.cgroupsPath"))
    before.append(ops.Open(path=directory, flags=O_PATH_DIRECTORY & ~0o10000000, into=into, origin="linux.cgroupsPath"))
    after: list[ops.Operation] = [_write(directory, s) for s in settings]
    after += _v2_rest(directory, resources, into, wanted)
    return CgroupOperations(before=tuple(before), after=tuple(after), clone_into=into, paths={"": directory})


def _systemd(scope: str, resources: Resources, layout: CgroupLayout) -> CgroupOperations:
    """systemd makes the cgroup and moves the process; what it has no property for is written as in any other."""
    if layout.mode != "v2":
        raise UnsupportedError("cgroup-manager systemd: delegation needs cgroup v2", "boot with systemd.unified_cgroup_hierarchy=1, or leave the flag out")
    directory = f"{layout.v2_mount}{scope}"
    unit = scope.rpartition("/")[2]
    into = slot("cgroup")
    after: list[ops.Operation] = [
        ops.CallOwner(request=f"start {unit}", origin="linux.cgroupsPath"),
        ops.Open(path=directory, flags=O_PATH_DIRECTORY & ~0o10000000, into=into, origin="linux.cgroupsPath"),
    ]
    after += [_write(directory, s) for s in v2_settings(resources)]
    after += _v2_rest(directory, resources, into, list(V2_ALWAYS))
    return CgroupOperations(after=tuple(after), paths={"": directory})


def _v2_rest(directory: str, resources: Resources, into: ops.Slot, wanted: list[str]) -> list[ops.Operation]:
    """The device filter, and what is read and killed at the end."""
    after: list[ops.Operation] = []
    if resources.devices:
        from hutch.cgroup import devices

        after.append(
            ops.DeviceProgram(
                cgroup=into,
                program=devices.program(resources.devices),
                summary=devices.summary(resources.devices),
                origin="linux.resources.devices",
            )
        )
    if "memory" in wanted:
        after.append(ops.ReadAtExit(path=f"{directory}/memory.peak", tag=PEAK))
        after.append(ops.ReadAtExit(path=f"{directory}/memory.events", tag=OOM))
    if "cpu" in wanted:
        after.append(ops.ReadAtExit(path=f"{directory}/cpu.stat", tag=CPU))
    if "pids" in wanted:
        after.append(ops.ReadAtExit(path=f"{directory}/pids.events", tag=PIDS))
    after.append(ops.KillAtExit(path=f"{directory}/cgroup.procs", kill_file=f"{directory}/cgroup.kill"))
    return after
