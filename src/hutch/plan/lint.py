"""What must hold of every plan, checked without running it. Each rule names the attack or the kernel's reason."""

from __future__ import annotations

from hutch.oci.paths import MASKED, READONLY as FROZEN  # a plan that mounts /proc or /sys must mask or freeze each
from hutch.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hutch.plan.plan import Plan

MOUNTING = (ops.Attach, ops.SetAttributes, ops.Mask, ops.ReadOnly, ops.Pivot, ops.MakeFilesystem, ops.CopyUp)


def lint(plan: Plan, *, privileged: bool = False) -> list[str]:
    """The rules that a plan breaks, in words; an empty list is a sound plan.

    `privileged` leaves out the rules that a user may switch off by asking for it (``--privileged``, seccomp=unconfined).
    """
    problems = [problem for rule in RULES for problem in rule(plan)]
    problems += [problem for strand in strands(plan) for rule in STRAND_RULES for problem in rule(strand)]
    last = plan.container[-1] if plan.container else None
    if isinstance(last, ops.Machine | ops.Remote):  # its own end passes bytes on; what the user asked for is in the guest
        problems += [problem for strand in strands(plan) for problem in filtered(strand)]
        return problems + [f"guest: {problem}" for problem in lint(last.guest, privileged=privileged)]
    if not privileged:
        problems += [problem for rule in CONFINEMENT for problem in rule(plan)]
    return problems


def strands(plan: Plan) -> list[Plan]:
    """The container lane as each of its processes goes through it: PID 1, and what is started beside it."""
    own: list[ops.Operation] = []
    found: list[Plan] = []
    rest = list(plan.container)
    while rest:
        operation = rest.pop(0)
        own.append(operation)
        if isinstance(operation, ops.Beside):
            found.append(plan.replace(container=(*own, *rest[: operation.count])))
            del rest[: operation.count]
    return [plan.replace(container=tuple(own)), *found]


def _last(plan: Plan, *kinds: type[ops.Operation]) -> int:
    return max((i for i, op in enumerate(plan.container) if isinstance(op, kinds)), default=-1)


def _first(plan: Plan, *kinds: type[ops.Operation]) -> int:
    return min((i for i, op in enumerate(plan.container) if isinstance(op, kinds)), default=len(plan.container))


def lanes(plan: Plan) -> list[str]:
    """Every operation stands in a lane that the executor runs it in."""
    return [f"{lane}[{i}]: {type(op).__name__} does not belong in the {lane} lane" for lane, i, op in plan.lanes() if op.lanes not in ("both", lane)]


def slots(plan: Plan) -> list[str]:
    """A slot is assigned once; it is used after its assignment, in the same lane or behind a barrier."""
    problems = []
    filled: dict[ops.Slot, str] = {}
    for lane, i, op in plan.lanes():
        for slot in op.assigns():
            if slot in filled:
                problems.append(f"{lane}[{i}]: {slot} is assigned twice")
            filled[slot] = lane
    for name, lane_ops in (("host", plan.host), ("container", plan.container)):
        seen: set[ops.Slot] = set()
        for i, op in enumerate(lane_ops):
            for slot in op.uses():
                if slot not in filled:
                    problems.append(f"{name}[{i}]: {slot} is never assigned")
                elif filled[slot] == name and slot not in seen:
                    problems.append(f"{name}[{i}]: {slot} is used before it is assigned")
                elif filled[slot] != name and not _behind_barrier(plan, name, i, slot):
                    problems.append(f"{name}[{i}]: {slot} comes from the other lane and no barrier stands between")
            seen.update(op.assigns())
    return problems


def _behind_barrier(plan: Plan, lane: str, index: int, slot: ops.Slot) -> bool:
    here, there = (plan.host, plan.container) if lane == "host" else (plan.container, plan.host)
    made = next(i for i, op in enumerate(there) if slot in op.assigns())
    if lane == "container" and made < next((i for i, op in enumerate(there) if isinstance(op, ops.Clone)), 0):
        return True  # what was there before the clone
    waited = {op.barrier for op in here[:index] if isinstance(op, ops.Wait)}
    return any(isinstance(op, ops.Signal) and op.barrier in waited for op in there[made:])


def barriers(plan: Plan) -> list[str]:
    """A barrier that is waited for is signalled by the other lane, and the lanes cannot wait for each other in a circle."""
    problems = []
    for name, here, there in (("host", plan.host, plan.container), ("container", plan.container, plan.host)):
        signalled = [op.barrier for op in there if isinstance(op, ops.Signal)]
        for i, op in enumerate(here):
            if isinstance(op, ops.Wait) and op.barrier not in signalled:
                problems.append(f"{name}[{i}]: nobody signals barrier {op.barrier}")
        own = [op.barrier for op in here if isinstance(op, ops.Signal)]
        if own != sorted(set(own)):
            problems.append(f"{name}: barriers are signalled out of order")
    at = {"host": 0, "container": 0}
    done: dict[str, int] = {"host": 0, "container": 0}
    lanes_ = {"host": plan.host, "container": plan.container}
    other = {"host": "container", "container": "host"}
    moved = True
    while moved:
        moved = False
        for name, lane in lanes_.items():
            while at[name] < len(lane):
                op = lane[at[name]]
                if isinstance(op, ops.Wait) and done[other[name]] < op.barrier:
                    break
                if isinstance(op, ops.Signal):
                    done[name] = op.barrier
                at[name] += 1
                moved = True
    problems += [f"{name}: stuck at operation {at[name]}" for name, lane in lanes_.items() if at[name] < len(lane)]
    return problems


def ending(plan: Plan) -> list[str]:
    """The container lane ends in a program or an init; nothing follows it."""
    if not plan.container or not isinstance(plan.container[-1], ops.Execute | ops.Init | ops.Machine | ops.Remote):
        return ["container: the last operation does not execute a program"]
    return []


def descriptors(plan: Plan) -> list[str]:
    """No descriptor of Hutch's survives execve: a leaked one is a way out (CVE-2024-21626, CVE-2019-5736)."""
    closing = _first(plan, ops.CloseDescriptors)
    if closing == len(plan.container):
        return ["container: descriptors are not closed before the program starts"]
    return [
        f"container[{i}]: {type(op).__name__} opens a descriptor after the table was closed"
        for i, op in enumerate(plan.container)
        if i > closing and op.assigns()
    ]


def capabilities(plan: Plan) -> list[str]:
    """Capabilities are dropped after the last mount, which needs them, and the bounding set before the sets."""
    problems = []
    dropped = [i for i, op in enumerate(plan.container) if isinstance(op, ops.Capabilities)]
    if not dropped:
        # who stands for a command in a machine executes nothing, and an ordinary user has none to drop
        return [] if plan.container and isinstance(plan.container[-1], ops.Remote) else ["container: capabilities are never set"]
    if min(dropped) < _last(plan, *MOUNTING):
        problems.append("container: a mount comes after the capabilities were dropped")
    with_bounding = [i for i in dropped if plan.container[i].bounding is not None]  # type: ignore[attr-defined]
    if not with_bounding:
        problems.append("container: the bounding set is not limited (CVE-2022-29162)")
    elif min(with_bounding) > min(i for i in dropped if i not in with_bounding or i == min(dropped)):
        problems.append("container: the bounding set falls after the other sets, when CAP_SETPCAP may be gone")
    for i in dropped:
        op = plan.container[i]
        assert isinstance(op, ops.Capabilities)
        if op.inheritable & ~(op.ambient or 0):
            problems.append(f"container[{i}]: inheritable capabilities without ambient ones (CVE-2022-24769)")
    return problems


def seccomp(plan: Plan) -> list[str]:
    """Under no_new_privs the filter comes last, so that it need not allow what the set-up calls."""
    positions = [i for i, op in enumerate(plan.container) if isinstance(op, ops.Seccomp)]
    if not positions:
        return []
    privileges = _first(plan, ops.NoNewPrivileges)
    if privileges > positions[0] or privileges == len(plan.container):
        after = [op for op in plan.container[positions[0] + 1 :] if isinstance(op, ops.Capabilities | ops.SetIds)]
        return [] if after else ["container: a filter without no_new_privs must come before the privileges are dropped"]
    allowed = (ops.Execute, ops.Init, ops.Machine, ops.Remote, ops.Signal, ops.Wait, ops.AwaitStart, ops.RunHook)
    late = [op for op in plan.container[positions[0] + 1 :] if not isinstance(op, allowed)]
    return [f"container: {type(op).__name__} comes after the seccomp filter" for op in late]


def root(plan: Plan) -> list[str]:
    """A plan that makes a mount namespace changes its root, and leaves nothing of the host's behind."""
    made = sum(op.flags for op in (*plan.host, *plan.container) if isinstance(op, ops.Clone | ops.Unshare))
    if made & ops.NAMESPACES["mount"] and _last(plan, ops.Pivot, ops.ChangeRoot) < 0:
        return ["container: a new mount namespace without pivot_root shows the host's files"]
    return []


def masks(plan: Plan) -> list[str]:
    """Where the plan mounts /proc or /sys, what Docker hides there is hidden (CVE-2025-31133: by checked descriptors)."""
    mounted = {op.path for op in plan.container if isinstance(op, ops.Attach)}
    bases = {op.mount: op.path for op in plan.container if isinstance(op, ops.Attach)}
    covered = {_full(op.root, op.path, bases) for op in plan.container if isinstance(op, ops.Mask)}
    frozen = {_full(op.root, op.path, bases) for op in plan.container if isinstance(op, ops.ReadOnly)}
    problems = []
    for top in ("/proc", "/sys"):
        if top in mounted:
            problems += [f"container: {path} is not masked" for path in MASKED if path.startswith(top + "/") and path not in covered]
            problems += [f"container: {path} is writable" for path in FROZEN if path.startswith(top + "/") and path not in frozen]
    return problems


def _full(root_slot: ops.Slot, path: str, bases: dict[ops.Slot, str]) -> str:
    base = bases.get(root_slot, "")
    return f"{base}/{path}" if base and base != "/" and not path.startswith("/") else path


def filtered(plan: Plan) -> list[str]:
    """A confined plan ends under a seccomp filter and no_new_privs."""
    if _last(plan, ops.Seccomp) < 0:
        return ["container: no seccomp filter"]
    if _first(plan, ops.NoNewPrivileges) == len(plan.container):
        return ["container: no no_new_privs"]
    return []


RULES: tuple[Callable[[Plan], list[str]], ...] = (lanes, slots, barriers, root)
STRAND_RULES: tuple[Callable[[Plan], list[str]], ...] = (ending, descriptors, capabilities, seccomp)
CONFINEMENT: tuple[Callable[[Plan], list[str]], ...] = (masks, filtered)
