"""compile_machine(config, request, machine) -> Plan: a container whose programs are QEMU and virtiofsd, and whose own is in a guest.

On the host it is an ordinary container: its cgroup, its record, its root of layers with all that is mounted in it, its
network namespace and interfaces are made by the same operations as any other's. What differs is the end of the container
lane: beside PID 1 run virtiofsd, which shows that root to the guest and sees nothing else, and QEMU, which sees neither;
PID 1 passes on between the guest and the world. The guest carries out a plan of its own, compiled for its kernel from the
same configuration, so that the container has its namespaces, capabilities, limits and filter there too.
"""

from __future__ import annotations

import os

from hutch.errors import UnsupportedError
from hutch.image.rootfs import Rootfs, View
from hutch.kernel.features import Features
from hutch.oci.config import CapabilitySets, Config, IdMapping, Linux, Memory, Namespace, Process, Resources, Root, User
from hutch.plan import ops
from hutch.plan.ops import NAMESPACES, slot
from hutch.plan.plan import Plan
from hutch.record import Record
from hutch.runtime import cgroups, compile as runtime, identity, layers, lifecycle, mounts, process as steps
from hutch.runtime.builder import O_DIRECTORY, O_PATH, Builder
from hutch.runtime.profile import default_profile
from hutch.runtime.request import Compiled, Request
from hutch.runtime.rootfs import BASE, HOST_ROOT, ROOT, open_host
from hutch.runtime.seccomp import rule
from hutch.vm.features import guest_features
from hutch.vm.machine import INITRAMFS, KERNEL, KVM, OVERHEAD, PATIENCE, Descriptors, Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.oci.config import Seccomp
    from hutch.vm.machine import Vmm
    from hutch.vm.virtiofsd import Virtiofsd

PROGRAMS = slot("programs")  # the root that QEMU and virtiofsd see
CONTROL, CONTROL_END, CONSOLE, CONSOLE_END = slot("control"), slot("control-qemu"), slot("console"), slot("console-writer")
SHARE, SHARE_END, DOOR, MONITOR, QUIET = slot("share"), slot("share-qemu"), slot("door"), slot("monitor"), slot("quiet")
SHARED = "host/root"  # where virtiofsd finds the container's root
READ_ONLY = 1 | 2 | 4  # ro, nosuid, nodev
MONITOR_ID = 65533  # QEMU's user in the container's user namespace: nobody else's, and no file's
MOST_FILES = 1_000_000
MOST_IDENTITY = 12_000  # bytes: with the rest, a frame of the control channel's
NETWORK_ROOM = 4096
NETWORK = b"zQ7vNetworkXw0h" + bytes(NETWORK_ROOM - 15)  # what the interfaces are given, when it is known: as long as this
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("urandom", 1, 9))
KVM_DEVICE = ("kvm", 10, 232)
GUEST_CGROUP = "/container"  # the same in every machine: a copy has another name than the one that it was made of
GUEST_NAMESPACES = ("mount", "pid", "ipc", "uts", "cgroup", "network")


class Parts(Record):
    """The programs of a machine, and the machine: what `compile_machine` needs beside a container's request. `privileged`: its container
    has no user namespace in the guest; on the host it has one all the same. `system`: this
    host's directories and files that the programs need, each with the target of the link that it is ("": none).
    `addresses`: of a copy, the IPv4 addresses that its interfaces had before: (number, address, length of the prefix)."""

    machine: Machine
    vmm: Vmm
    virtiofsd: Virtiofsd | None
    kernel: tuple[int, int]
    system: tuple[tuple[str, str], ...] = ()
    privileged: bool = False
    addresses: tuple[tuple[int, str, int], ...] = ()

    @property
    def user_namespace(self) -> bool:
        """Whether the container may have one in the guest. On disks, its root's upper directory is a tmpfs of the guest's, which
        cannot hold what overlayfs writes in a user namespace before Linux 6.6."""
        return not self.privileged and (not self.machine.disks or self.kernel >= (6, 6))


def machine_resources(given: Resources, parts: Parts, features: Features, in_memory: bool) -> Resources:
    """The limits of a machine's programs on the host, by those of its container. `in_memory`: what the container changes is kept there."""
    limit = given.memory.limit if given.memory is not None else None
    able = features.uid == 0 or features.cgroups.v2_writable  # the guest's own memory holds the limit where there is no cgroup
    memory = None
    if limit is not None and limit > 0 and able:
        # virtiofsd writes the changes: as much as the container could have written without a machine
        most = parts.machine.memory + OVERHEAD[parts.machine.accel] + (limit if in_memory else 0)
        memory = Memory(limit=most, swap=most)
    return given.replace(memory=memory, pids=None, devices=(), unified={})


def host_config(config: Config, parts: Parts, features: Features, in_memory: bool = False) -> Config:
    """What of a configuration is the host's: the root and what is mounted in it of the host's own, limits of the machine. `in_memory`:
    what the container changes is kept there, too."""
    linux = config.linux
    given = linux.resources or Resources()
    resources = machine_resources(given, parts, features, in_memory)
    return config.replace(
        mounts=tuple(mount for mount in config.mounts if mount.type == "bind"),
        process=config.process.replace(rlimits=()) if config.process is not None else None,
        root=Root(path="/"),
        linux=linux.replace(
            resources=resources, seccomp=None, sysctl={}, devices=(), masked_paths=(), readonly_paths=(), time_offsets={}, personality=None,
        ),
    )  # fmt: skip


def guest_config(config: Config, user_namespace: bool) -> Config:
    """What of a configuration is the guest's: the container as it is seen from inside."""
    linux = config.linux
    given = linux.resources or Resources()
    own = user_namespace and any(n.type == "user" for n in linux.namespaces)
    # the ids are the container's own already: on the host, virtiofsd is in its user namespace
    size = max((m.container_id + m.size for m in linux.uid_mappings), default=0)
    whole = (IdMapping(container_id=0, host_id=0, size=size),) if own else ()
    kinds = (*GUEST_NAMESPACES, *(("user",) if own else ()), *(n.type for n in linux.namespaces if n.type == "time"))
    process = config.process
    return config.replace(
        mounts=tuple(mount for mount in config.mounts if mount.type != "bind"),
        root=Root(path="/root", readonly=bool(config.root and config.root.readonly)),
        process=process.replace(oom_score_adj=None) if process is not None else None,
        linux=Linux(
            namespaces=tuple(Namespace(type=kind) for kind in kinds),
            uid_mappings=whole,
            gid_mappings=whole,
            resources=Resources(memory=given.memory, pids=given.pids, unified=given.unified),
            seccomp=linux.seccomp,
            sysctl=linux.sysctl,
            masked_paths=linux.masked_paths,
            readonly_paths=linux.readonly_paths,
            time_offsets=linux.time_offsets,
            personality=linux.personality,
            cgroups_path=GUEST_CGROUP,
        ),
    )


def compile_guest(config: Config, request: Request, parts: Parts, features: Features) -> Compiled:
    """The plan that the guest carries out. Raises ConfigError, UnsupportedError."""
    disks = parts.machine.disks
    inside = Request(
        id=request.id,
        idle=request.idle,
        init=request.init,
        make_workdir=request.make_workdir,
        files=False,
        joins=parts.machine.interfaces > 0,
        rootfs=Rootfs(name="disks", views=(View(path="/", lowers=tuple(f"/layers/{i}" for i in range(len(disks)))),)) if disks else None,
        hosts=request.hosts,
        resolv_conf=request.resolv_conf,
        upper_size=request.upper_size,
    )
    found = guest_features(parts.kernel, features.machine, parts.machine.cpus)
    return runtime.compile_container(guest_config(config, parts.user_namespace), inside, found)


def identity_of(config: Config, request: Request) -> bytes:
    """What a copy is told to be: its host name, and the files of /etc that name it (`ops.Machine`)."""
    files = layers.generated_files(config.hostname or "", request)
    found = "\0".join([config.hostname or "", *(word for name, text in files for word in (f"/etc/{name}", text))]).encode() + b"\0"
    if len(found) > MOST_IDENTITY:
        raise UnsupportedError(f"host names: a copy can be told {MOST_IDENTITY} bytes of /etc/hosts and /etc/resolv.conf, and these are {len(found)}")
    return found


def terminal_of(plan: Plan) -> int:
    """Which of a plan's exports is its terminal; -1: it has none."""
    exports = plan.exports()
    return exports.index(steps.MASTER.name) if steps.MASTER.name in exports else -1


def compile_machine(config: Config, request: Request, parts: Parts, features: Features) -> Compiled:
    """The plan of a container in a machine. Raises ConfigError for what the configuration gets wrong, UnsupportedError for what
    a machine, this kernel or this user may not do. Nothing is touched."""
    if request.rootfs is None:
        raise UnsupportedError("isolation vm: a bundle's root has no machine yet", "an image, a directory or an archive has")
    guest = compile_guest(config, request, parts, features)
    b = Builder(host_config(config, parts, features, not parts.machine.disks and not request.upper), request, features)
    runtime.check(b)
    identity.enter_user_network(b)
    cgroup = cgroups.cgroup_of(b)
    runtime.record(b)
    b.prepare += [
        ops.Listen(path=f"{request.state}/door", packets=True, into=DOOR, origin="machine"),
        ops.Listen(path=f"{request.state}/monitor", into=MONITOR, origin="machine"),
    ]
    lifecycle.prepare(b)
    identity.build(b)
    runtime.names(b)
    c = b.container
    c += [ops.Tap(name=f"tap{i}", into=slot(f"tap-{i}"), origin="network") for i in range(parts.machine.interfaces)]
    c.append(ops.Wait(barrier=1))
    identity.become_root(b)
    c.append(ops.Propagation(kind="private", origin="linux.rootfsPropagation"))
    if parts.machine.disks:
        b.prepare += [ops.HoldLayer(path=layer.lower, lock=layer.lock, origin="root") for layer in request.rootfs.layers]
        open_host(b)
    else:
        layers.build(b, request.rootfs)
        mounts.binds(b)
    _programs_root(b, parts)
    c.append(ops.Wait(barrier=2))
    c += cgroup.enter
    if "cgroup" in b.new:
        c.append(ops.Unshare(flags=NAMESPACES["cgroup"], origin="linux.namespaces"))
    terminal = terminal_of(guest.plan)
    if terminal >= 0:
        runtime.terminal_of(b, None)
    lifecycle.before_pivot(b)
    c.append(ops.Pivot(root=PROGRAMS, stacked=0 if parts.machine.disks else 2, origin="machine"))
    _exports(b, not parts.machine.disks)
    _programs(b, parts)
    c.append(ops.CloseDescriptors(keep=(CONTROL, CONSOLE, DOOR), origin="process"))
    c.append(ops.Signal(barrier=9))
    if terminal < 0:
        c.append(ops.NewSession(origin="process"))
    c += _confined(b, (), default_profile(()))
    c.append(
        ops.Machine(
            channel=CONTROL, console=CONSOLE, door=DOOR, guest=guest.plan, terminal=terminal, patience=PATIENCE[parts.machine.accel],
            disks=len(parts.machine.disks), identity=identity_of(config, request) if parts.machine.snapshot else b"",
            interfaces=parts.machine.interfaces, network=NETWORK if parts.machine.interfaces else b"", origin="process",
            about=tuple(parts.vmm.describe(parts.machine)),
        )
    )  # fmt: skip
    host = [
        *b.prepare,
        *cgroup.before,
        runtime.clone(b, cgroup),
        *b.mapped,
        ops.Signal(barrier=1),
        *cgroup.after,
        *b.ready,
        ops.Signal(barrier=2),
        *b.late,
        ops.Wait(barrier=9, release=True),
        *b.after,
    ]
    plan = Plan(host=tuple(host), container=tuple(c), detach=request.detach, warnings=(*b.warnings, *guest.plan.warnings))
    return Compiled(plan=plan, cgroup_paths=cgroup.paths, root_uid=max(b.host_uid(0), 0), root_gid=max(b.host_gid(0), 0), user_namespace=b.userns)


def _exports(b: Builder, shared: bool) -> None:
    if shared and b.request.rootfs is not None and not b.request.upper and b.request.files:
        b.prepare.append(ops.Export(value=BASE, origin="root"))
    if shared and b.request.files:
        root = slot("container-root")
        b.container.append(ops.OpenAt(base=PROGRAMS, path=SHARED, flags=O_PATH | O_DIRECTORY, into=root, origin="root"))
        b.prepare.append(ops.Export(value=root, origin="root"))
    b.prepare.append(ops.Export(value=runtime.PIDFD, origin="linux.namespaces"))


def _programs_root(b: Builder, parts: Parts) -> None:
    """A root for the machine's programs: this system's libraries, read-only, a few devices, the kernel; and for virtiofsd alone
    the container's root."""
    c, origin = b.container, "machine"
    # cloned first: what is attached to the host's root from here on lies on the container's
    shared = slot("shared-root")
    if not parts.machine.disks:
        c.append(ops.OpenTree(base=ROOT, path="", recursive=True, into=shared, origin="root"))
    c.append(ops.MakeFilesystem(kind="tmpfs", options=(("mode", "0755"), ("size", "1m")), into=PROGRAMS, origin=origin))
    c.append(ops.Attach(mount=PROGRAMS, root=HOST_ROOT, path="", make="", summary="a root for the machine's programs", origin=origin))
    for path, mode in (("host", 0o700), ("host/root", 0o755), ("etc", 0o755), ("tmp", 0o777), ("dev", 0o755), ("proc", 0o555)):
        c.append(ops.MakeDirectory(base=PROGRAMS, path=path, mode=mode, origin=origin))
    for number, (path, target) in enumerate(parts.system):
        if target:
            c.append(ops.MakeSymlink(base=PROGRAMS, target=target, path=path.lstrip("/"), origin=origin))
        else:
            tree = slot(f"system-{number}")
            # what a user namespace sees of the host's mounts it may not part from what is mounted below them
            b.lane_for_trees().append(ops.OpenTree(path=path, recursive=not b.host_mounts, set_attributes=READ_ONLY, into=tree, origin=origin))
            c.append(ops.Attach(mount=tree, root=PROGRAMS, path=path, make="like", summary=path, origin=origin))
    files = [(KERNEL, parts.machine.kernel), (INITRAMFS, parts.machine.initramfs), *((f"/disk{i}", path) for i, path in enumerate(parts.machine.disks))]
    for name, path in files:
        tree = slot(f"file{name.replace('/', '-')}")
        b.lane_for_trees().append(ops.OpenTree(path=path, set_attributes=READ_ONLY, into=tree, origin=origin))
        c.append(ops.Attach(mount=tree, root=PROGRAMS, path=name, make="file", summary=path, origin=origin))
    _devices(b, parts)
    proc = slot("machine-proc")
    c.append(ops.MakeFilesystem(kind="proc", attributes=2 | 4 | 8, into=proc, origin=origin))
    c.append(ops.Attach(mount=proc, root=PROGRAMS, path="/proc", make="", summary="proc", origin=origin))
    for path, content in parts.vmm.files(parts.machine):
        c.append(ops.MakeFile(base=PROGRAMS, path=path.lstrip("/"), data=content, mode=0o666, origin=origin))
    if not parts.machine.disks:
        c.append(ops.Attach(mount=shared, root=PROGRAMS, path=f"/{SHARED}", make="", summary="the container's root", origin="root"))


def _devices(b: Builder, parts: Parts) -> None:
    origin = "machine"
    wanted = (*DEVICES, *((KVM_DEVICE,) if parts.machine.accel == KVM else ()))
    uid, gid = _monitor_ids(b)
    if b.host_mounts:
        # a file system of a user namespace's holds no nodes: it is made outside, as any container's /dev
        b.ready.append(ops.MakeFilesystem(kind="tmpfs", options=(("mode", "0755"), ("size", "64k")), into=mounts.DEV, origin=origin))
        for name, major, minor in wanted:
            b.ready.append(
                ops.MakeNode(base=mounts.DEV, path=name, kind="c", major=major, minor=minor, mode=0o666 if name != "kvm" else 0o600, uid=b.host_uid(uid),
                             gid=b.host_gid(gid), origin=origin)
            )  # fmt: skip
        b.ready.append(ops.MakeDirectory(base=mounts.DEV, path="pts", mode=0o755, uid=b.host_uid(0), gid=b.host_gid(0), origin=origin))
        b.container.append(ops.Wait(barrier=2))
        b.container.append(ops.Attach(mount=mounts.DEV, root=PROGRAMS, path="/dev", make="", summary="tmpfs with the devices", origin=origin))
    else:
        for name, _, _ in wanted:
            tree = slot(f"device-{name}")
            b.container.append(ops.OpenTree(path=f"/dev/{name}", into=tree, origin=origin))
            b.container.append(ops.Attach(mount=tree, root=PROGRAMS, path=f"/dev/{name}", make="file", summary=f"device {name}", origin=origin))
    if b.config.process is not None and b.config.process.terminal and not b.request.idle:
        b.container.append(
            ops.MakeFilesystem(kind="devpts", attributes=2 | 8, options=(("newinstance", None), ("ptmxmode", "0666")), into=mounts.DEVPTS, origin=origin)
        )
        b.container.append(ops.Attach(mount=mounts.DEVPTS, root=PROGRAMS, path="/dev/pts", summary="devpts", origin=origin))


def _monitor_ids(b: Builder) -> tuple[int, int]:
    """Who QEMU and PID 1 are, in the container's user namespace: where one id alone is mapped, its root without any capability."""
    mapped = b.host_uid(MONITOR_ID) >= 0 and b.host_gid(MONITOR_ID) >= 0
    return (MONITOR_ID, MONITOR_ID) if mapped else (0, 0)


def confined(privileges: list[ops.Operation], seccomp: Seccomp, features: Features) -> list[ops.Operation]:
    """From here on: what `privileges` leaves, no new ones, the filter, which is the last."""
    from hutch.runtime import seccomp as filters

    return [
        *privileges,
        ops.NoNewPrivileges(origin="machine"),
        ops.ParentDeath(origin="machine"),
        ops.Seccomp(
            program=filters.cached_filter(seccomp, features.machine),
            flags=filters.flags_value(seccomp.flags, "machine"),
            summary=filters.describe(seccomp),
            origin="machine",
        ),
    ]


def _confined(b: Builder, held: tuple[str, ...], seccomp: Seccomp) -> list[ops.Operation]:
    """An unprivileged user, or with capabilities the container's root, with these alone."""
    uid, gid = _monitor_ids(b) if not held else (0, 0)
    sets = CapabilitySets(bounding=held, effective=held, permitted=held)
    found = steps.privileges(Process(cwd="/", user=User(uid=uid, gid=gid), capabilities=sets), set_groups=identity.can_set_groups(b))
    return confined(found, seccomp, b.features)


def _program(
    b: Builder, name: str, argv: tuple[str, ...], held: tuple[str, ...], before: list[ops.Operation], given: tuple[ops.Slot, ...], profile: Seccomp
) -> None:  # fmt: skip
    """A program beside PID 1, with its descriptors from 3 on, and what it says on the console's pipe."""
    *confined, seccomp = _confined(b, held, profile)
    own = [
        *before,
        ops.Stdio(stdin=QUIET, stdout=CONSOLE_END, stderr=CONSOLE_END, origin="machine"),
        ops.CloseDescriptors(preserve=given, origin="machine"),
        ops.NewSession(origin="machine"),
        *confined,
        ops.FindProgram(candidates=(argv[0],), origin=name),
        seccomp,
        ops.Execute(argv=argv, environment=("PATH=/usr/bin:/bin", "HOME=/"), origin=name),
    ]
    b.container += [ops.Beside(count=len(own), name=name, origin="machine"), *own]


def _programs(b: Builder, parts: Parts) -> None:
    machine, c = parts.machine, b.container
    hard = b.features.hard_limits.get("RLIMIT_NOFILE", MOST_FILES)
    c += [
        ops.SocketPair(first=CONTROL, second=CONTROL_END, origin="machine"),
        ops.Pipe(reader=CONSOLE, writer=CONSOLE_END, origin="machine"),
        ops.Open(path="/dev/null", flags=os.O_RDWR, into=QUIET, origin="machine"),
    ]
    given: tuple[ops.Slot, ...] = (CONTROL_END, MONITOR)
    after: tuple[ops.Slot, ...] = ()
    beside: list[ops.Operation]
    apart = ops.Unshare(flags=NAMESPACES["mount"], origin="machine")
    if not machine.disks:
        from hutch.vm.virtiofsd import CAPABILITIES

        profile = default_profile(CAPABILITIES)
        own = profile.replace(syscalls=(*profile.syscalls, rule("pivot_root")))  # into the directory that it shows; its own filter follows
        c.append(ops.Listen(into=SHARE, connected=SHARE_END, origin="machine"))
        assert parts.virtiofsd is not None
        _program(b, "virtiofsd", parts.virtiofsd.command(f"/{SHARED}", min(hard, MOST_FILES)), CAPABILITIES, [apart], (SHARE,), own)
        given += (SHARE_END,)
        beside = [ops.Detach(path=f"/{SHARED}", origin="machine")]
    else:
        memory, copied, state = slot("memory"), slot("snapshot-memory"), slot("snapshot-state")
        if machine.snapshot:
            for name, into in (("memory", copied), ("state", state)):
                b.prepare.append(ops.Open(path=f"{machine.snapshot}/{name}", flags=os.O_RDONLY, into=into, origin="machine"))
        # in the cgroup that it counts in
        beside = [ops.Memory(size=machine.memory, into=memory, source=copied if machine.snapshot else None, origin="machine")]
        given += (memory,)
        after = (state,) if machine.snapshot else ()
    taps = tuple(slot(f"tap-{i}") for i in range(machine.interfaces))
    assert 3 + len(given) == Descriptors.FIRST_TAP
    _program(b, parts.vmm.name, parts.vmm.command(machine), (), [apart, *beside], (*given, *taps, *after), default_profile(()))
