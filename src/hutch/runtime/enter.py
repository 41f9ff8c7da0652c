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
    """The plan of the command. The container lane enters every namespace and lets go of all that is the host's; then a child of
    its goes into the pid namespace, where the container's processes can see it, and debug it if they have CAP_SYS_PTRACE."""
    flags = sum(NAMESPACES[name] for name in request.namespaces)
    host: list[ops.Operation] = [ops.Inherit(into=TARGET, number=request.target_fd, origin="exec")]
    opened, labels = lifecycle.label_operations(process.apparmor_profile, process.selinux_label, features.apparmor, features.selinux)
    # or the command would hold the caller's keys (session-keyring(7)); first of all, while it is not the container that pays for it
    container = [ops.Keyring(origin="exec"), *opened, *labels, ops.Protect(origin="exec")]
    pins = process.exec_cpu_affinity
    host += steps.affinity(pins.initial if pins else None, "initial")
    given = [slot(f"given-{i}") for i in range(request.preserve)]
    host += [ops.Inherit(into=into, number=request.target_fd + 1 + i, origin="exec") for i, into in enumerate(given)]
    enter: list[ops.Operation] = []
    beside: list[ops.Operation] = []  # while the new process comes to life
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
            if controller == "pids":
                beside.append(ops.CheckRoom(current=f"{path}/pids.current", limit=f"{path}/pids.max", origin="exec"))
            tasks = slot(f"{controller.replace('=', '-') or 'unified'}.tasks")
            file = "tasks" if controller else "cgroup.procs"
            beside.append(ops.Open(path=f"{place}/{file}", flags=1, into=tasks, origin="exec"))
            enter.append(ops.EnterCgroup(tasks=tasks, origin="exec"))
    host.append(ops.Protect(origin="exec"))
    host.append(ops.Clone(flags=0, into=PIDFD, cgroup=clone_into, origin="exec"))
    limits, own_limits = identity.limits(process, features)
    host += [*beside, ops.Signal(barrier=1)] if beside else []
    host += [*limits, ops.Signal(barrier=2)] if limits else []
    container += [ops.Wait(barrier=1), *enter] if beside else []
    container += steps.affinity(pins.final if pins else None, "final")
    if flags:
        container.append(ops.Join(target=TARGET, flags=flags, origin="exec"))
    if "user" in request.namespaces:
        groups = () if request.set_groups else None
        container.append(ops.SetIds(uid=0, gid=0, groups=groups, origin="exec"))
    # a pid namespace is entered by children alone: the session begins in the one that goes in
    joins_pid = "pid" in request.namespaces
    session: list[ops.Operation] = [ops.NewSession(origin="process.terminal" if process.terminal else "exec")]
    if process.terminal:
        container += [*([] if joins_pid else session), *_terminal(process, control=not joins_pid)]
        session.append(ops.ControllingTerminal(origin="process.terminal"))
        host.insert(0, ops.Export(value=steps.MASTER, origin="process.terminal"))
    container += [ops.Wait(barrier=2)] if limits else []
    container.append(ops.CloseDescriptors(preserve=tuple(given), origin="exec"))
    container.append(ops.Signal(barrier=9))
    if not joins_pid and not process.terminal:
        container += session
    host.append(ops.Wait(barrier=9, release=True))
    listener = seccomp is not None and steps.notifies(seccomp)
    after: list[ops.Operation] = [ops.TakeOver(origin="exec")] if joins_pid else []
    if seccomp is not None and listener:
        lifecycle.check_listener(seccomp.listener_path)
        host.insert(0, ops.Export(value=steps.AGENT, origin="linux.seccomp.listenerPath"))
        # whichever process installs the filter has its listener
        after.insert(len(after) if process.no_new_privileges else 0, ops.TakeDescriptor(into=steps.AGENT, origin="linux.seccomp.listenerPath"))
    host += after
    container += own_limits
    container += steps.scheduling(process)
    if request.oci:
        container += steps.comforts(process)
    container += steps.ending(
        process, seccomp, features, set_groups=request.set_groups, in_userns="user" in request.namespaces, outlive=request.leave,
        inside=(ops.CloneInside(origin="exec"), *session) if joins_pid else (),
    )  # fmt: skip
    return Plan(host=tuple(host), container=tuple(container), leave=request.leave)


def _terminal(process: Process, *, control: bool) -> list[ops.Operation]:
    root, devpts, size = slot("container-root"), slot("devpts"), process.console_size
    origin = "process.terminal"
    return [
        ops.Open(path="/", flags=0o10200000, into=root, origin=origin),
        ops.OpenAt(base=root, path="dev/pts", flags=0o10200000, into=devpts, resolve=ops.RESOLVE_NO_SYMLINKS | ops.RESOLVE_BENEATH, origin=origin),
        ops.Terminal(
            devpts=devpts, master=steps.MASTER, peer=steps.PEER, origin=origin, control=control,
            rows=size.height if size else 0, columns=size.width if size else 0,
        ),
    ]  # fmt: skip
