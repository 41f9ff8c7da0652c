"""compile(config, features) -> Plan: everything that depends on the kernel, or on who asks, is decided here."""

from __future__ import annotations

from hutch.cgroup.operations import CgroupOperations
from hutch.errors import ConfigError, UnsupportedError
from hutch.kernel.features import Features
from hutch.oci.config import Config, Process
from hutch.plan import ops
from hutch.plan.ops import NAMESPACES, slot
from hutch.plan.plan import Plan
from hutch.runtime import identity, lifecycle, mounts, process, rootfs
from hutch.runtime.builder import Builder
from hutch.runtime.cgroups import cgroup_of
from hutch.runtime.request import Compiled, Request
from hutch.runtime.rootfs import BASE, ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.image.rootfs import Rootfs

PIDFD = slot("pidfd")
O_PATH_DIRECTORY = 0o10200000
JOIN_ORDER = ("user", "ipc", "uts", "network", "pid", "cgroup", "time", "mount")
SYSCTL_NAMESPACES = (
    ("net/", "network"), ("kernel/shm", "ipc"), ("kernel/msg", "ipc"), ("kernel/sem", "ipc"), ("fs/mqueue/", "ipc"),
    ("kernel/hostname", "uts"), ("kernel/domainname", "uts"), ("user/max_inotify_", "user"),
)  # fmt: skip


def compile_container(config: Config, request: Request, features: Features) -> Compiled:
    """The plan of a new container.

    Raises ConfigError for what the configuration gets wrong, UnsupportedError for what this kernel or user may not do.
    Nothing is touched.
    """
    b = Builder(config, request, features)
    if config.process is None and not request.idle:
        raise ConfigError("process", "is required and missing")
    if config.process is not None and not config.process.args and not request.idle:
        raise ConfigError("process.args", "is empty: there is no program to run")
    check(b)
    cgroup = _begin(b)
    terminal = bool(config.process and config.process.terminal) and not request.idle
    _root(b, cgroup, terminal=terminal)
    _leave_the_host(b)
    listener = _program(b, terminal=terminal)
    return _finished(b, cgroup, listener)


def _begin(b: Builder) -> CgroupOperations:
    """The identity's host operations and the container's first steps, to barrier 1. Its cgroup's operations."""
    config, request = b.config, b.request
    identity.enter_user_network(b)
    if request.keyring:
        # first of all: its own ids may have no room for another key, and it must not keep the caller's
        b.container.append(ops.Keyring(origin="process"))
    cgroup = cgroup_of(b)
    record(b)
    lifecycle.prepare(b)
    lifecycle.protect(b)
    _join_namespaces(b)
    identity.build(b)
    if config.linux.intel_rdt is not None:
        from hutch.runtime import resctrl

        resctrl.build(b, config.linux.intel_rdt)
    names(b)
    b.container.append(ops.Wait(barrier=1))
    lifecycle.protect_late(b)
    identity.become_root(b)
    return cgroup


def _root(b: Builder, cgroup: CgroupOperations, *, terminal: bool) -> None:
    """The root file system and all that is mounted in it; the cgroup is entered behind them."""
    config, request = b.config, b.request
    # private whatever is asked for: pivot_root refuses shared mounts, and the new root gets its propagation afterwards
    b.container.append(ops.Propagation(kind="private", origin="linux.rootfsPropagation"))
    if request.rootfs is None:
        rootfs.build(b)
    else:
        _layers(b, request.rootfs)
    mounts.build(b)
    if request.images:
        _late_images(b)
    if not any(isinstance(op, ops.Wait) and op.barrier == 2 for op in b.container):
        b.container.append(ops.Wait(barrier=2))
    b.container += cgroup.enter
    if "cgroup" in b.new:
        b.container.append(ops.Unshare(flags=NAMESPACES["cgroup"], origin="linux.namespaces"))
    mounts.late(b, cgroup.paths)
    for key, value in config.linux.sysctl.items():
        _sysctl(b, key, value)
    mounts.masks(b)
    if terminal:
        terminal_of(b)
    if config.root is not None and config.root.readonly:
        views = [view.path for view in request.rootfs.views if view.path != "/" and not view.extra] if request.rootfs is not None else []
        for path in ["", *views]:
            b.container.append(ops.SetAttributes(root=ROOT, path=path, set_attributes=1, origin="root.readonly"))


def _leave_the_host(b: Builder) -> None:
    """The pivot to the root, and what is done there."""
    config, request = b.config, b.request
    lifecycle.before_pivot(b)
    if request.pivot:
        b.container.append(ops.Pivot(root=ROOT, stacked=0 if _put_aside(b) else 1, origin="root"))
    else:
        b.container.append(ops.ChangeRoot(root=ROOT, origin="root"))
    if request.rootfs is not None and not request.upper and request.files:
        b.prepare.append(ops.Export(value=BASE, origin="root"))
    kind, recursive = _propagation(config)
    if kind != "private":
        flag = ops.PROPAGATION[kind]
        here = slot("new-root")
        b.container.append(ops.Open(path="/", flags=O_PATH_DIRECTORY, into=here, origin="linux.rootfsPropagation"))
        b.container.append(ops.SetAttributes(root=here, path="", propagation=flag, recursive=recursive, origin="linux.rootfsPropagation"))
    _inside(b)
    if request.files:
        root = slot("container-root")
        b.container.append(ops.Open(path="/", flags=O_PATH_DIRECTORY, into=root, origin="root"))
        b.prepare.append(ops.Export(value=root, origin="root"))
    b.prepare.append(ops.Export(value=PIDFD, origin="linux.namespaces"))


def _put_aside(b: Builder) -> bool:
    """Let the work tmpfs lie on the host's /sys, as the container's namespace sees it, where nothing is looked up there any more. On
    ``/`` itself a lookup passes below it, but an umount(2) of its own is due in the end, which waits for all processors."""
    mount = b.features.mount_at("/sys")
    if b.request.rootfs is None or not b.host_mounts or mount is None or mount.mount_point != "/sys":
        return False
    if any(isinstance(op, ops.Open | ops.OpenTree) and getattr(op, "base", None) is None and op.path != "/" for op in b.container):
        return False
    place = next(i for i, op in enumerate(b.container) if isinstance(op, ops.Attach) and op.mount == BASE)
    b.container[place] = b.container[place].replace(path="sys")
    return True


def _program(b: Builder, *, terminal: bool) -> list[ops.Operation]:
    """From the last barrier to the program. What the host lane does with a filter's listener."""
    config, request, features = b.config, b.request, b.features
    listener = lifecycle.hand_over_listener(b)
    given = tuple(lifecycle.preserved(i) for i in range(request.preserve))
    session: list[ops.Operation] = [] if terminal and not b.goes_inside else [ops.NewSession(origin="process")]
    if terminal and b.goes_inside:
        session.append(ops.ControllingTerminal(origin="process.terminal"))
    waiting = (lifecycle.COMMANDS, lifecycle.REPORT) if request.await_start else ()
    b.container.append(ops.CloseDescriptors(preserve=given, keep=waiting, origin="process"))
    b.container.append(ops.Signal(barrier=9))
    b.container += session if not b.goes_inside else ()
    own = config.process or Process(cwd="/")
    b.container += identity.limits(own, features)[1]
    b.container += process.scheduling(own)
    lifecycle.memory_policy(b)
    if request.oci:
        b.container += process.comforts(own)
    b.container += process.ending(
        own,
        config.linux.seccomp,
        features,
        set_groups=identity.can_set_groups(b),
        idle=request.idle,
        init=request.init,
        make_workdir=request.make_workdir,
        in_userns=b.in_userns,
        outlive=request.await_start,
        inside=(ops.CloneInside(origin="linux.namespaces"), *session) if b.goes_inside else (),
        start=lifecycle.at_start(b),
        hooks=lifecycle.start_hooks(b),
    )
    return list(listener)


def _finished(b: Builder, cgroup: CgroupOperations, listener: list[ops.Operation]) -> Compiled:
    """The plan of both lanes."""
    request, own = b.request, b.config.process or Process(cwd="/")
    first, beside = _before_and_beside_the_start(b, cgroup)
    host = [
        *first,
        *cgroup.before,
        clone(b, cgroup),
        *([ops.Wait(barrier=1)] if b.late_namespaces else []),
        *b.mapped,
        ops.Signal(barrier=1),
        *beside,
        *cgroup.after,
        *b.ready,
        ops.Signal(barrier=2),
        *b.late,
        ops.Wait(barrier=9, release=True),
        *(listener if not b.goes_inside or not own.no_new_privileges else ()),
        *([ops.TakeOver(origin="linux.namespaces")] if b.goes_inside else []),
        *(listener if b.goes_inside and own.no_new_privileges else ()),
        *b.after,
    ]
    plan = Plan(host=tuple(host), container=tuple(b.container), detach=request.detach, leave=request.await_start, warnings=tuple(b.warnings))
    return Compiled(
        plan=plan,
        cgroup_paths=cgroup.paths,
        root_uid=max(b.host_uid(0), 0),
        root_gid=max(b.host_gid(0), 0),
        user_namespace=b.userns,
    )


def _before_and_beside_the_start(b: Builder, cgroup: CgroupOperations) -> tuple[list[ops.Operation], list[ops.Operation]]:
    """What the host lane does before it clones the container's process, and what it may as well do beside that: to write the
    record, where there is nothing on the host yet that a killed executor would leave, and no name that another may have."""
    r = b.request
    if not r.state or r.oci or r.name or r.upper or r.detach or cgroup.before:
        return b.prepare, []
    if not all(
        isinstance(op, ops.Export | ops.Inherit | ops.Protect | ops.HostRecord) or (isinstance(op, ops.HostDirectory) and op.path == r.state)
        for op in b.prepare
    ):
        return b.prepare, []
    beside: list[ops.Operation] = [op for op in b.prepare if isinstance(op, ops.HostDirectory | ops.HostRecord)]
    return [op for op in b.prepare if op not in beside], beside


def _layers(b: Builder, root: Rootfs) -> None:
    from hutch.runtime import layers  # images alone have them: an OCI bundle does without its import

    layers.build(b, root)


def _late_images(b: Builder) -> None:
    from hutch.runtime import layers

    layers.late_images(b)


def clone(b: Builder, cgroup: CgroupOperations) -> ops.Clone:
    """The clone that begins the container lane. A user namespace that the host's root makes belongs to a user whom nobody is."""
    flags = 0 if b.late_namespaces else b.clone_flags
    owner = identity.OWNER_BASE if flags & NAMESPACES["user"] and b.features.privileged else None
    return ops.Clone(flags=flags, into=PIDFD, cgroup=cgroup.clone_into, owner=owner, origin="linux.namespaces")


def check(b: Builder) -> None:
    """What this kernel and this user cannot do. Raises UnsupportedError, ConfigError."""
    f, linux = b.features, b.config.linux
    if not f.privileged and not b.in_userns:
        raise UnsupportedError(
            "linux.namespaces: without root a container needs a user namespace of its own",
            "leave --userns host out, or run as root",
        )
    if b.userns and not f.user_namespaces:
        raise UnsupportedError(
            "linux.namespaces: this kernel lets nobody here make user namespaces",
            "sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone decide; as root, --userns host does without",
        )
    if "time" in b.new and not f.time_namespaces:
        raise UnsupportedError("linux.namespaces: time namespaces that begin at execve need Linux 6.3")
    if "mount" not in b.new and "mount" not in b.joined:
        raise UnsupportedError("linux.namespaces: a container without a mount namespace of its own would mount on the host")
    if linux.mount_label and not f.selinux:
        raise UnsupportedError(f"linux.mountLabel: {linux.mount_label}: this kernel has no SELinux", "boot one that has, or leave mountLabel out")
    if linux.net_devices and "network" not in b.new and "network" not in b.joined:
        raise ConfigError("linux.netDevices", "needs a network namespace of the container's own: the devices are the host's already")


def record(b: Builder) -> None:
    """The directory of record, the upper directory, and what a detached container's monitor keeps."""
    r = b.request
    userns = rootfs.USERNS if b.userns and not b.features.privileged else None
    stays = r.detach and not r.remove  # a container that has ended still has its changes, until its record is removed
    b.prepare += [ops.HoldLayer(path=path, lock=lock, origin="mounts") for path, lock in r.held]
    undo = "failed" if stays else "tree"
    b.prepare += [ops.HoldLayer(path=path, lock=lock, undo=undo, userns=userns, origin="mounts") for path, lock in r.own]
    if not r.state:
        return
    origin = "state"
    undo = "failed" if stays else "" if r.oci and not r.remove else "tree"
    b.prepare.append(ops.HostDirectory(path=r.state, mode=0o700, undo=undo, userns=userns, origin=origin))
    record = slot("record")
    b.prepare.append(ops.HostRecord(path=f"{r.state}/state", data=r.record, into=record, origin=origin))
    if r.name:
        b.prepare.append(ops.Reserve(path=f"{r.state}/state", name=r.name, undo=undo, origin="name"))
    if r.upper and not r.reopen:
        uid, gid = (b.host_uid(0), b.host_gid(0)) if b.features.privileged else (-1, -1)
        undo = "failed" if stays else "tree"
        b.prepare.append(ops.HostDirectory(path=r.upper, mode=0o700, uid=uid, gid=gid, undo=undo, userns=userns, origin=origin))
    (b.after if b.goes_inside else b.late).append(ops.WritePid(record=record, origin=origin))
    if stays:
        b.prepare.append(ops.ExitFile(path=f"{r.state}/exit", origin=origin))
    if r.detach:
        terminal = bool(b.config.process and b.config.process.terminal)
        sources = (process.MASTER,) if terminal else (slot("output"), slot("errors"))
        if not terminal:
            for name in ("output", "errors"):
                b.prepare.append(ops.Pipe(reader=slot(name), writer=slot(f"{name}-writer"), origin=origin))
            b.container.insert(0, ops.Stdio(stdout=slot("output-writer"), stderr=slot("errors-writer"), origin=origin))
        b.after.append(ops.Log(path=f"{r.state}/log", limit=r.log_limit, sources=sources, origin=origin))


def _join_namespaces(b: Builder) -> None:
    for name in ("pid", *(name for name in JOIN_ORDER if name != "pid")) if b.goes_inside and b.features.privileged else JOIN_ORDER:
        path = b.joined.get(name)
        if path is None:
            continue
        found = mounts.joined_slot(name)
        b.prepare.append(ops.Open(path=path, flags=0, into=found, origin="linux.namespaces"))
        # a pid namespace is entered by children alone; without privileges the rights to it come with the user namespace,
        # which the outer process enters first: it has no others to lose
        # which goes for a network namespace as well: a new user namespace has no rights to one that is there already
        outer = (name == "pid" and not b.goes_inside) or (name == "user" and not b.features.privileged) or (name == "network" and b.userns)
        lane = b.prepare if outer else b.container
        lane.append(ops.Join(target=found, flags=NAMESPACES[name], origin="linux.namespaces"))
    if b.late_namespaces:
        # what is made before the user namespace is joined would belong to the host's, and the container had no rights in it
        flags = b.clone_flags & ~NAMESPACES["pid"]
        b.container.append(ops.Unshare(flags=flags, origin="linux.namespaces"))
        if "pid" in b.new:
            b.container.append(ops.Respawn(flags=NAMESPACES["pid"], origin="linux.namespaces"))
        b.container.append(ops.Signal(barrier=1))


def _propagation(config: Config) -> tuple[str, bool]:
    text = config.linux.rootfs_propagation or "rprivate"
    return (text[1:], True) if text[1:] in ops.PROPAGATION and text[0] == "r" else (text, False)


def terminal_of(b: Builder, root: ops.Slot | None = ROOT) -> None:
    """The terminal, from the devpts that the lane has made, and /dev/console in `root`. Raises ConfigError."""
    own = b.config.process
    assert own is not None
    size = own.console_size
    if not b.goes_inside:  # else the session begins in the process that goes into the pid namespace
        b.container.append(ops.NewSession(origin="process.terminal"))
    if not any(isinstance(op, ops.MakeFilesystem) and op.into == mounts.DEVPTS for op in b.container):
        raise ConfigError("process.terminal", "a terminal needs a devpts mount on /dev/pts in mounts")
    b.container.append(
        ops.Terminal(
            devpts=mounts.DEVPTS,
            master=process.MASTER,
            peer=process.PEER,
            rows=size.height if size else 0,
            columns=size.width if size else 0,
            control=not b.goes_inside,
            origin="process.terminal",
        )
    )
    if root is not None:
        console = slot("console")
        b.container.append(ops.OpenTree(base=process.PEER, path="", into=console, origin="process.terminal"))
        b.container.append(
            ops.Attach(mount=console, root=root, path="/dev/console", make="file", no_symlinks=True, summary="the terminal", origin="process.terminal")
        )
    if not b.request.detach:
        b.prepare.append(ops.Export(value=process.MASTER, origin="process.terminal"))


def names(b: Builder) -> None:
    """What the new namespaces take before any id is mapped, while the host lane writes the mappings."""
    config, c = b.config, b.container
    uts = "uts" in b.new or "uts" in b.joined
    if uts and config.hostname:
        c.append(ops.Hostname(name=config.hostname, origin="hostname"))
    if uts and config.domainname:
        c.append(ops.DomainName(name=config.domainname, origin="domainname"))
    if "network" in b.new:
        c.append(ops.Loopback(origin="linux.namespaces"))


def _inside(b: Builder) -> None:
    """What is set once the root is the container's own: keys, clocks, personality."""
    linux, c = b.config.linux, b.container
    if "time" in b.new:
        c.append(ops.Unshare(flags=NAMESPACES["time"], origin="linux.namespaces"))
        if linux.time_offsets:
            c.append(ops.Signal(barrier=5))
            c.append(ops.Wait(barrier=5))
            text = "\n".join(f"{clock} {offset.secs} {offset.nanosecs}" for clock, offset in linux.time_offsets.items())
            b.late.append(ops.Wait(barrier=5))
            b.late.append(ops.ProcWrite(name="timens_offsets", data=text, origin="linux.timeOffsets"))
            b.late.append(ops.Signal(barrier=5))
    if linux.personality is not None:
        if linux.personality.flags:
            raise ConfigError("linux.personality.flags", "the specification defines none yet")
        c.append(ops.Personality(persona=process.PERSONALITIES[linux.personality.domain], origin="linux.personality"))


def _sysctl(b: Builder, key: str, value: str) -> None:
    origin = f"linux.sysctl.{key}"
    path = key.replace(".", "/") if "/" not in key else key
    needed_namespace = next((name for prefix, name in SYSCTL_NAMESPACES if path.startswith(prefix)), None)
    if needed_namespace is None or ".." in path.split("/"):
        raise ConfigError(
            origin, "is not a setting of a namespace: it would change the host", "net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* are"
        )
    if needed_namespace not in b.new and needed_namespace not in b.joined:
        raise ConfigError(origin, f"needs a {needed_namespace} namespace of the container's own: it would change the host")
    if not any(isinstance(op, ops.MakeFilesystem) and op.into == mounts.PROC for op in (*b.container, *b.mapped)):
        raise ConfigError(origin, "needs a proc mount on /proc in mounts")
    b.container.append(ops.WriteAt(base=mounts.PROC, path=f"sys/{path}", data=value, origin=origin))
