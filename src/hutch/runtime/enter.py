"""The plan of a command in a container that runs: the same last steps, after joining instead of making."""

from __future__ import annotations

from hutch.kernel.features import Features
from hutch.oci.config import Process, Seccomp
from hutch.plan import ops
from hutch.plan.ops import NAMESPACES, slot
from hutch.plan.plan import Plan
from hutch.record import Record
from hutch.runtime import identity, lifecycle, process as steps
from hutch.runtime.compile import PIDFD

TARGET = slot("target")


class EnterRequest(Record):
    """A command in a running container.

    `namespaces` are those that the container has to itself; `cgroup_paths` as in `Compiled`; `child_cgroup` is the name of
    a cgroup below the container's for this command alone ("" for none), so that it can be killed with all it started.
    `target_fd` is the executor's number of the container's pidfd. `oci` and `preserve` as in `Request`; `leave`: the executor
    goes once the program runs.
    """

    namespaces: tuple[str, ...]
    cgroup_paths: dict[str, str]
    target_fd: int
    child_cgroup: str = ""
    set_groups: bool = True
    root_mapped: bool = True
    oci: bool = False
    leave: bool = False
    preserve: int = 0


def compile_enter(process: Process, seccomp: Seccomp | None, request: EnterRequest, features: Features) -> Plan:
    """The plan of the command. The executor's outer process enters the pid namespace, for its child; the child enters
    the rest, so that nothing of the host's is in reach when the program starts."""
    flags = sum(NAMESPACES[name] for name in request.namespaces)
    user, pid = NAMESPACES["user"], NAMESPACES["pid"]
    host: list[ops.Operation] = [ops.Inherit(into=TARGET, number=request.target_fd, origin="exec")]
    opened, labels = lifecycle.label_operations(process.apparmor_profile, process.selinux_label, features.apparmor, features.selinux)
    container = [*opened, *labels, ops.Protect(origin="exec")]
    pins = process.exec_cpu_affinity
    host += steps.affinity(pins.initial if pins else None, "initial")
    given = [slot(f"given-{i}") for i in range(request.preserve)]
    host += [ops.Inherit(into=into, number=request.target_fd + 1 + i, origin="exec") for i, into in enumerate(given)]
    enter: list[ops.Operation] = []
    clone_into = None
    for controller, path in request.cgroup_paths.items():
        place = path
        if request.child_cgroup and controller in ("", "pids"):
            place = f"{path}/{request.child_cgroup}"
            host.append(ops.HostDirectory(path=place, undo="rmdir", origin="exec"))
        if controller == "" and len(request.cgroup_paths) == 1:
            clone_into = slot("cgroup")
            host.append(ops.Open(path=place, flags=0o200000, into=clone_into, origin="exec"))
        else:
            tasks = slot(f"{controller or 'unified'}.tasks")
            file = "tasks" if controller else "cgroup.procs"
            host.append(ops.Open(path=f"{place}/{file}", flags=1, into=tasks, origin="exec"))
            enter.append(ops.EnterCgroup(tasks=tasks, origin="exec"))
    if flags & pid:
        # without privileges the way into the pid namespace leads through the user namespace that owns it
        outer = pid if features.privileged else flags & (pid | user)
        host.append(ops.Join(target=TARGET, flags=outer, origin="exec"))
        flags &= ~outer
    host.append(ops.Clone(flags=0, into=PIDFD, cgroup=clone_into, origin="exec"))
    limits = identity.limits(process, features)
    host += [*limits, ops.Signal(barrier=1)] if limits else []
    container += enter
    container += steps.affinity(pins.final if pins else None, "final")
    if flags:
        container.append(ops.Join(target=TARGET, flags=flags, origin="exec"))
    if "user" in request.namespaces:
        groups = () if request.set_groups else None
        container.append(ops.SetIds(uid=0, gid=0, groups=groups, origin="exec"))
    # or the command would hold the caller's keys (session-keyring(7))
    container.append(ops.Keyring(name="_ses.exec", origin="exec"))
    if process.terminal:
        devpts = slot("devpts")
        container.append(ops.NewSession(origin="process.terminal"))
        container.append(ops.OpenAt(base=_root(container), path="dev/pts", flags=0o10200000, into=devpts, resolve=4 | 8, origin="process.terminal"))
        size = process.console_size
        container.append(
            ops.Terminal(
                devpts=devpts, master=steps.MASTER, peer=steps.PEER, origin="process.terminal",
                rows=size.height if size else 0, columns=size.width if size else 0,
            )
        )  # fmt: skip
        host.insert(0, ops.Export(value=steps.MASTER, origin="process.terminal"))
    container += [ops.Wait(barrier=1)] if limits else []
    container.append(ops.CloseDescriptors(preserve=tuple(given), origin="exec"))
    container.append(ops.Signal(barrier=9))
    if not process.terminal:
        container.append(ops.NewSession(origin="exec"))
    host.append(ops.Wait(barrier=9, release=True))
    listener = seccomp is not None and steps.notifies(seccomp)
    if seccomp is not None and listener:
        lifecycle.check_listener(seccomp.listener_path)
        host.insert(0, ops.Export(value=steps.AGENT, origin="linux.seccomp.listenerPath"))
        host.append(ops.TakeDescriptor(into=steps.AGENT, origin="linux.seccomp.listenerPath"))
    container += steps.scheduling(process)
    if request.oci:
        container += steps.comforts(process)
    container += steps.ending(
        process, seccomp, features, set_groups=request.set_groups, in_userns="user" in request.namespaces, outlive=request.leave
    )  # fmt: skip
    return Plan(host=tuple(host), container=tuple(container), leave=request.leave)


def _root(container: list[ops.Operation]) -> ops.Slot:
    root = slot("container-root")
    container.append(ops.Open(path="/", flags=0o10200000, into=root, origin="process.terminal"))
    return root
