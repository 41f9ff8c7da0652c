"""The container's process, from its session to its program: the same for a new container and for a command in one."""

from __future__ import annotations

from hutch.errors import ConfigError, UnsupportedError
from hutch.kernel import capabilities
from hutch.kernel.features import Features
from hutch.oci.config import Process, Seccomp
from hutch.plan import ops
from hutch.plan.ops import slot

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASTER, PEER, AGENT = slot("terminal"), slot("terminal-peer"), slot("seccomp")
POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}
SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4, "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16, "SCHED_FLAG_UTIL_CLAMP_MIN": 32, "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}  # fmt: skip
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
PERSONALITIES = {"LINUX": 0, "LINUX32": 8}


def notifies(seccomp: Seccomp) -> bool:
    """Whether some calls are handed to an agent, which needs the filter's listener (seccomp_unotify(2))."""
    return seccomp.default_action == "SCMP_ACT_NOTIFY" or any(rule.action == "SCMP_ACT_NOTIFY" for rule in seccomp.syscalls)


def scheduling(process: Process) -> list[ops.Operation]:
    """Scheduler and I/O priority, while the privileges for them are held."""
    out: list[ops.Operation] = []
    s = process.scheduler
    if s is not None:
        if s.policy not in POLICIES:
            raise ConfigError("process.scheduler.policy", f"{s.policy} is not one of Linux")
        flags = 0
        for i, flag in enumerate(s.flags):
            if flag not in SCHED_FLAGS:
                raise ConfigError(f"process.scheduler.flags[{i}]", f"unknown flag {flag}")
            flags |= SCHED_FLAGS[flag]
        if (s.priority or 0) < 0:
            raise ConfigError("process.scheduler.priority", f"expected 0 or more, got {s.priority}")
        # struct sched_attr, sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period
        attributes = (48).to_bytes(4, "little") + POLICIES[s.policy].to_bytes(4, "little") + flags.to_bytes(8, "little")
        attributes += (s.nice or 0).to_bytes(4, "little", signed=True) + (s.priority or 0).to_bytes(4, "little")
        attributes += b"".join((n or 0).to_bytes(8, "little") for n in (s.runtime, s.deadline, s.period))
        out.append(ops.Scheduler(attributes=attributes, summary=s.policy, origin="process.scheduler"))
    io = process.io_priority
    if io is not None:
        if not 0 <= io.priority <= 7:
            raise ConfigError("process.ioPriority.priority", f"expected 0 to 7, got {io.priority}")
        value = IO_CLASSES[io.class_] << 13 | io.priority
        out.append(ops.IoPriority(value=value, summary=f"{io.class_} {io.priority}", origin="process.ioPriority"))
    return out


def comforts(process: Process) -> list[ops.Operation]:
    """What programs expect and a configuration leaves to the runtime: HOME, and standard streams that the user may open."""
    out: list[ops.Operation] = []
    if not any(item.startswith("HOME=") for item in process.env):
        out.append(ops.Home(uid=process.user.uid, origin="process.env"))
    out.append(ops.OwnStdio(uid=process.user.uid, origin="process.user"))
    return out


def affinity(text: str | None, field: str) -> list[ops.Operation]:
    """A list of CPUs to run on. It is for commands that enter a container: not applicable to the first process (config.md)."""
    if not text:
        return []
    origin = f"process.execCPUAffinity.{field}"
    mask = sum(1 << cpu for cpu in cpu_list(text, origin))
    size = (mask.bit_length() + 63) // 64 * 8
    return [ops.Affinity(mask=mask.to_bytes(size, "little"), summary=text, origin=origin)]


def cpu_list(text: str, path: str) -> list[int]:
    """``0-3,7`` to CPU numbers (cpuset(7), "List format")."""
    out: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first + last).isascii() or not first.isdigit() or (dash and not last.isdigit()) or len(first + last) > 10 or int(last or first) > 65535:
            raise ConfigError(path, f"expected a list of CPUs such as 0-3,7, got {text!r}")
        out += range(int(first), int(last or first) + 1)
    if not out:
        raise ConfigError(path, "the list of CPUs is empty")
    return out


def candidates(args: tuple[str, ...], env: tuple[str, ...]) -> tuple[str, ...]:
    """Where execvp(3) would look for the program: itself if it has a slash, else along the container's own PATH."""
    name = args[0]
    if "/" in name:
        return (name,)
    path = next((item[5:] for item in reversed(env) if item.startswith("PATH=")), DEFAULT_PATH)
    return tuple(f"{directory or '.'}/{name}" for directory in path.split(":"))


def privileges(process: Process, *, set_groups: bool, held: int = -1) -> list[ops.Operation]:
    """User and capabilities, in the only order that works. `held`: no more can be granted than these."""
    origin = "process.capabilities"
    sets = process.capabilities
    user = process.user
    out: list[ops.Operation] = []
    if sets is None:
        masks = {"bounding": 0, "effective": 0, "permitted": 0, "inheritable": 0, "ambient": 0}
    else:
        masks = {name: capabilities.mask(getattr(sets, name), f"{origin}.{name}") & held for name in sets._fields}
    permitted = masks["permitted"] | masks["ambient"]
    inheritable = masks["inheritable"] | masks["ambient"]
    out.append(ops.Capabilities(bounding=masks["bounding"], keep=user.uid != 0, origin=origin))
    groups: tuple[int, ...] | None = user.additional_gids if set_groups else None
    if user.additional_gids and not set_groups:
        raise UnsupportedError(
            "process.user.additionalGids: this user namespace maps one id, and the kernel denies setgroups in it",
            "subordinate ids lift that: install newuidmap, and give the user a range in /etc/subuid and /etc/subgid",
        )
    out.append(ops.SetIds(uid=user.uid, gid=user.gid, groups=groups, origin="process.user"))
    if user.umask is not None:
        out.append(ops.Umask(mask=user.umask, origin="process.user.umask"))
    effective = masks["effective"] & permitted
    out.append(ops.Capabilities(effective=effective, permitted=permitted, inheritable=inheritable, ambient=masks["ambient"], origin=origin))
    return out


def ending(
    process: Process,
    seccomp: Seccomp | None,
    features: Features,
    *,
    set_groups: bool,
    idle: bool = False,
    init: bool = False,
    make_workdir: bool = False,
    in_userns: bool = True,
    outlive: bool = False,
    inside: tuple[ops.Operation, ...] = (),
    start: tuple[ops.Operation, ...] = (),
    hooks: tuple[ops.Operation, ...] = (),
) -> list[ops.Operation]:
    """From the working directory to the program. Without a user namespace of its own (`in_userns` false) the container can
    be granted no capability that this process lacks. `outlive`: the program goes on without the executor. `inside` is how it gets
    into a joined pid namespace: once it has no rights but the container's. `start` comes
    when everything else is done, short of the filter; `hooks`, which are the image's programs, under the filter."""
    held = -1 if in_userns else features.capabilities
    out: list[ops.Operation] = []
    filter_ops: list[ops.Operation] = []
    if seccomp is not None:
        from hutch.runtime import seccomp as filters

        program = filters.cached_filter(seccomp, features.machine)
        flags = filters.flags_value(seccomp.flags, "linux.seccomp")
        listener = notifies(seccomp)
        flags |= filters.NEW_LISTENER if listener else 0
        summary = filters.describe(seccomp)
        filter_ops.append(ops.Seccomp(program=program, flags=flags, summary=summary, listener=listener, origin="linux.seccomp"))
    if make_workdir or not idle:
        out.append(ops.ChangeDirectory(path=process.cwd, make=make_workdir, first=True, origin="process.cwd"))
    if process.no_new_privileges:
        out += privileges(process, set_groups=set_groups, held=held)
        out.append(ops.NoNewPrivileges(origin="process.noNewPrivileges"))
    else:
        # without no_new_privs a filter needs CAP_SYS_ADMIN, so it goes on before the capabilities go
        out += [*filter_ops, *privileges(process, set_groups=set_groups, held=held)]
        filter_ops = []
    out += inside
    if not idle:
        out.append(ops.ChangeDirectory(path=process.cwd, origin="process.cwd"))
        out.append(ops.FindProgram(candidates=candidates(process.args, process.env), origin="process.args[0]"))
    out.append(ops.ParentDeath(origin="process"))
    free = [ops.ParentDeath(signal=0, origin="process")] if outlive else []
    if seccomp is not None and notifies(seccomp):
        # the agent must have the listener before the container is ready: nobody is there to hand it over later
        out += [*filter_ops, *free, *start, *hooks]
    else:
        out += [*free, *start, *filter_ops, *hooks]
    if idle or init:
        if features.privileged:
            out.insert(out.index(filter_ops[0]) if filter_ops else len(out), ops.Protect(origin="process"))
        out.append(ops.Init(child=not idle, origin="process"))
    if not idle:
        out.append(ops.Execute(argv=process.args, environment=process.env, origin="process.args"))
    return out
