"""A container's way from created to running: hooks, labels, the wait for its start (runtime.md, "Lifecycle")."""

from __future__ import annotations

from hutch import jsontext
from hutch.errors import ConfigError, UnsupportedError
from hutch.oci.config import VERSION, Config, Hook
from hutch.plan import ops
from hutch.plan.ops import slot
from hutch.runtime.builder import Builder
from hutch.runtime.process import AGENT, notifies

COMMANDS, REPORT = slot("start-commands"), slot("start-report")
NETLINK, NETWORK_NAMESPACE = slot("netlink"), slot("network-namespace")
RUNTIME_HOOKS, NET_DEVICES, JOIN_NETWORKS = "run the hooks of createRuntime", "move the network devices", "connect the network"  # what the owner is asked for
HOOKS_BARRIER = 4
O_RDWR, O_PATH_DIRECTORY = 2, 0o10200000
MEMORY_MODES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4, "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MEMORY_FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}


def state_text(config: Config, identity: str, bundle: str, status: str) -> tuple[str, str]:
    """The container's state as hooks read it, before and behind the pid (runtime.md, "State")."""
    head = {"ociVersion": VERSION, "id": identity, "status": status}
    tail = {"bundle": bundle, **({"annotations": config.annotations} if config.annotations else {})}
    return jsontext.dumps(head)[:-1] + ',"pid":', "," + jsontext.dumps(tail)[1:]


def hook_operation(hook: Hook, origin: str, state: tuple[str, str]) -> ops.RunHook:
    """A hook as an operation of the container lane."""
    return ops.RunHook(
        path=hook.path, argv=hook.args or (hook.path,), environment=hook.env, head=state[0], tail=state[1], timeout=hook.timeout or 0, origin=origin
    )


def prepare(b: Builder) -> None:
    """What the host lane opens before the clone: the pipes that the start comes through, descriptors to hand on."""
    state = b.request.state
    if b.request.await_start:
        directory = slot("record-directory")
        b.prepare.append(ops.Open(path=state, flags=O_PATH_DIRECTORY, into=directory, origin="state"))
        for name, into in (("start", COMMANDS), ("report", REPORT)):
            b.prepare.append(ops.MakeNode(base=directory, path=name, kind="p", mode=0o600, origin="state"))
            # both ends, so that neither side waits for the other's open: a reader is there for as long as the container waits
            b.prepare.append(ops.Open(path=f"{state}/{name}", flags=O_RDWR, into=into, origin="state"))
    for i in range(b.request.preserve):
        b.prepare.append(ops.Inherit(into=preserved(i), number=b.request.first_extra + i, origin="process"))


def preserved(i: int) -> ops.Slot:
    """The slot of a descriptor that the owner hands to the container."""
    return slot(f"given-{i}")


def before_pivot(b: Builder) -> None:
    """Labels, devices of the network, and the hooks that run while the host's files are still in sight."""
    config, c = b.config, b.container
    hooks = config.hooks
    calls = []
    joins = bool(b.request.networks) or b.request.joins
    if config.linux.net_devices or joins:
        origin = "linux.netDevices" if config.linux.net_devices else "network"
        b.prepare += [*b.request.networks, ops.Export(value=NETLINK, origin=origin)]
        c.append(ops.Netlink(into=NETLINK, origin=origin))
    if joins:
        calls.append(ops.CallOwner(request=JOIN_NETWORKS, origin="network"))
    if config.linux.net_devices:
        calls.append(ops.CallOwner(request=NET_DEVICES, origin="linux.netDevices"))
    if hooks is not None and (hooks.prestart or hooks.create_runtime):
        calls.append(ops.CallOwner(request=RUNTIME_HOOKS, origin="hooks.createRuntime" if hooks.create_runtime else "hooks.prestart"))
    if calls:
        c += [ops.Signal(barrier=HOOKS_BARRIER), ops.Wait(barrier=HOOKS_BARRIER)]
        published = (b.request.publish,) if b.request.publish else ()
        if b.request.lent:
            b.late += [ops.OpenNamespace(name="ns/net", into=NETWORK_NAMESPACE, origin="network"), *b.request.lent]
        b.late += [ops.Wait(barrier=HOOKS_BARRIER), *calls, *published, ops.Signal(barrier=HOOKS_BARRIER)]
    if hooks is not None:
        state = state_text(config, b.request.id, b.request.bundle, "creating")
        c += [hook_operation(hook, f"hooks.createContainer[{i}]", state) for i, hook in enumerate(hooks.create_container)]
    c += b.labels


def at_start(b: Builder) -> tuple[ops.Operation, ...]:
    """The wait for the start."""
    return (ops.AwaitStart(commands=COMMANDS, report=REPORT, origin="start"),) if b.request.await_start else ()


def start_hooks(b: Builder) -> tuple[ops.Operation, ...]:
    """The hooks that run in the container just before its program."""
    if b.config.hooks is None:
        return ()
    state = state_text(b.config, b.request.id, b.request.bundle, "created")
    return tuple(hook_operation(hook, f"hooks.startContainer[{i}]", state) for i, hook in enumerate(b.config.hooks.start_container))


def hand_over_listener(b: Builder) -> tuple[ops.Operation, ...]:
    """The filter's listener goes to the owner, who sends it to the agent: the host lane's operations behind its last barrier."""
    seccomp = b.config.linux.seccomp
    if seccomp is None or not notifies(seccomp):
        return ()
    check_listener(seccomp.listener_path)
    b.prepare.append(ops.Export(value=AGENT, origin="linux.seccomp.listenerPath"))
    return (ops.TakeDescriptor(into=AGENT, origin="linux.seccomp.listenerPath"),)


def check_listener(path: str | None) -> None:
    """Raises ConfigError when calls are to be handed to an agent and there is none."""
    if not path:
        raise ConfigError("linux.seccomp.listenerPath", "SCMP_ACT_NOTIFY needs the path of an agent's socket")


def protect(b: Builder) -> None:
    """Before a namespace is joined, nobody who lives in it may look into this process, which still has the host's root: not by
    ptrace(2), and not by /proc/PID/root. The descriptors of the LSM's files are opened first, which are not its own afterwards."""
    process = b.config.process
    if process is not None:
        opened, written = label_operations(process.apparmor_profile, process.selinux_label, b.features.apparmor, b.features.selinux)
        b.container += opened
        b.labels = written
    if _exposed(b) and (b.features.privileged or not b.userns):
        b.container.append(ops.Protect(origin="process"))


def protect_late(b: Builder) -> None:
    """Without privileges the mappings come first: the files that they are written to would not be ours."""
    if _exposed(b) and b.userns and not b.features.privileged:
        b.container.append(ops.Protect(origin="process"))


def _exposed(b: Builder) -> bool:
    """Whether somebody's programs may see this process before its own begins: in a joined namespace, or as a hook of the image's."""
    return bool(b.joined) or b.request.oci


def label_operations(profile: str | None, label: str | None, apparmor: bool, selinux: bool) -> tuple[list[ops.Operation], list[ops.Operation]]:
    """The LSM's label for the next execve: files of the host's /proc opened, and written to. A /proc that the image arranged
    could swallow the write (CVE-2019-16884, CVE-2025-52881). Raises UnsupportedError where the kernel has no such module."""
    opened: list[ops.Operation] = []
    written: list[ops.Operation] = []
    for field, value, there, module, path in (
        ("apparmorProfile", profile, apparmor, "AppArmor", "apparmor/exec"),
        ("selinuxLabel", label, selinux, "SELinux", "exec"),
    ):
        if not value or value == "unconfined":
            continue
        if not there:
            raise UnsupportedError(f"process.{field}: {value}: this kernel has no {module}", f"boot one that has, or leave {field} out")
        file = slot(f"{module.lower()}-label")
        opened.append(ops.Open(path=f"/proc/self/attr/{path}", flags=1, into=file, origin=f"process.{field}"))
        text = f"exec {value}" if module == "AppArmor" else value
        written.append(ops.WriteAt(base=file, path="", data=text, origin=f"process.{field}"))
    return opened, written


def memory_policy(b: Builder) -> None:
    """linux.memoryPolicy, by set_mempolicy(2)."""
    policy = b.config.linux.memory_policy
    if policy is None:
        return
    from hutch.runtime.process import cpu_list

    origin = "linux.memoryPolicy"
    if policy.mode not in MEMORY_MODES:
        raise ConfigError(f"{origin}.mode", f"expected one of {', '.join(MEMORY_MODES)}, got {policy.mode!r}")
    mode = MEMORY_MODES[policy.mode]
    for i, flag in enumerate(policy.flags):
        if flag not in MEMORY_FLAGS:
            raise ConfigError(f"{origin}.flags[{i}]", f"expected one of {', '.join(MEMORY_FLAGS)}, got {flag!r}")
        mode |= MEMORY_FLAGS[flag]
    mask = sum(1 << node for node in cpu_list(policy.nodes, f"{origin}.nodes")) if policy.nodes else 0
    nodes = mask.to_bytes((mask.bit_length() + 63) // 64 * 8, "little")
    b.container.append(ops.MemoryPolicy(mode=mode, nodes=nodes, summary=f"{policy.mode} on nodes {policy.nodes or 'as it is'}", origin=origin))
