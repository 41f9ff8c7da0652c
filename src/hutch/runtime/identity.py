"""Who the container's process is on the host: id mappings, privileges, limits that only the host can set."""

from __future__ import annotations

from hutch.errors import ConfigError, UnsupportedError
from hutch.kernel import capabilities
from hutch.kernel.features import Features, SubordinateIds
from hutch.oci.config import IdMapping, Process, User
from hutch.plan import ops
from hutch.plan.ops import slot
from hutch.runtime.builder import Builder
from hutch.runtime.rootfs import USERNS

# A fixed range for containers of root: inside what systemd sets aside for containers (systemd.io, UIDS-GIDS), 64 Ki
# aligned, and far above every ordinary user. It is as large as directory services' ids, which images have, too.
ROOT_BASE, ROOT_COUNT = 0x20000000, 0x10000000
# The owners of their user namespaces: users that no process runs as, one for each executor, by its pid (at most 2 ** 22).
OWNER_BASE = ROOT_BASE + ROOT_COUNT


def default_mappings(uid: int, gid: int, subuid: tuple[int, int] | None, subgid: tuple[int, int] | None) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
    """The mappings of a container that says nothing: for root the fixed range; for a user its own id as root and its
    subordinate ids (start, count) behind it, or its own id alone."""
    if uid == 0:
        whole = (IdMapping(container_id=0, host_id=ROOT_BASE, size=ROOT_COUNT),)
        return whole, whole

    def one(number: int, sub: tuple[int, int] | None) -> tuple[IdMapping, ...]:
        first = (IdMapping(container_id=0, host_id=number, size=1),)
        return (*first, IdMapping(container_id=1, host_id=sub[0], size=sub[1])) if sub else first

    return one(uid, subuid), one(gid, subgid)


def check_user(user: User, uids: tuple[IdMapping, ...], gids: tuple[IdMapping, ...]) -> None:
    """Raise ConfigError for ids of a process that its user namespace does not have (user_namespaces(7): setuid(2) would say EINVAL)."""
    for field, number, mappings in (("uid", user.uid, uids), ("gid", user.gid, gids)):
        if mappings and not any(m.container_id <= number < m.container_id + m.size for m in mappings):
            raise ConfigError(f"process.user.{field}", f"this user namespace has {ranges(mappings)}, and not {number}")


def ranges(mappings: tuple[IdMapping, ...]) -> str:
    """The ids of a user namespace in words: "ids 0 to 65535"."""
    parts: list[list[int]] = []
    for first, end in sorted((m.container_id, m.container_id + m.size) for m in mappings):
        if parts and parts[-1][1] == first:
            parts[-1][1] = end
        else:
            parts.append([first, end])
    words = [f"{first} to {end - 1}" if end - first > 1 else str(first) for first, end in parts]
    return ("ids " if len(parts) > 1 or parts[0][1] - parts[0][0] > 1 else "id ") + ", ".join(words)


def build(b: Builder) -> None:
    """The mappings, from outside, and the container lane's first steps as its own root."""
    f = b.features
    if b.userns:
        if not b.uid_mappings or not b.gid_mappings:
            raise ConfigError("linux.uidMappings", "a new user namespace needs uidMappings and gidMappings")
        if b.config.process is not None:
            check_user(b.config.process.user, b.uid_mappings, b.gid_mappings)
        _write_maps(b)
        b.mapped.append(ops.OpenNamespace(name="ns/user", into=USERNS, origin="linux.uidMappings"))
    if b.config.process is not None:
        b.ready += limits(b.config.process, f)[0]


def enter_user_network(b: Builder) -> None:
    """The executor goes where the user's networks are, before all else: what it makes from now on belongs there. Interfaces can be
    put into a container only by those who are root of a user namespace around it (user_namespaces(7))."""
    if not b.request.user_network:
        return
    b.prepare += user_network_operations(b.request.first_extra + len(b.request.inherited))


def user_network_operations(number: int) -> tuple[ops.Operation, ...]:
    """Enter a user's own namespaces, whose descriptors are `number` and the next."""
    user, network = slot("own-user-namespace"), slot("own-network-namespace")
    return (
        ops.Inherit(into=user, number=number, origin="network"),
        ops.Inherit(into=network, number=number + 1, origin="network"),
        ops.EnterUserNetwork(user=user, network=network, origin="network"),
    )


def _nested(origin: str, mappings: tuple[IdMapping, ...], own: int, sub: SubordinateIds | None) -> str:
    """Mappings as the user's own user namespace sees them: its root is the user, the subordinate ids are behind it."""
    lines = []
    for m in mappings:
        first = 0 if m.host_id == own and m.size == 1 else m.host_id - sub.start + 1 if sub is not None and m.host_id >= sub.start else -1
        if first < 0:
            raise UnsupportedError(f"{origin}: {m.host_id} is neither this user's id nor a subordinate one", "`hutch doctor` lists them")
        lines.append(f"{m.container_id} {first} {m.size}")
    return "\n".join(lines)


def limits(process: Process, f: Features) -> tuple[list[ops.Operation], list[ops.Operation]]:
    """Resource limits and the OOM score: what the host lane sets, and what the container lane sets itself.

    Raising needs the host's privileges. Without CAP_SYS_RESOURCE nothing can be raised, nor anything set for a process of other ids
    (prlimit(2)); lowering its own is everybody's right. Raises UnsupportedError for what this process cannot grant.
    """
    out: list[ops.Operation] = []
    own: list[ops.Operation] = []
    mighty = bool(f.capabilities & capabilities.SYS_RESOURCE)
    for i, limit in enumerate(process.rlimits):
        origin = f"process.rlimits[{i}]"
        name = limit.type
        if name not in ops.RLIMITS:
            raise ConfigError(f"{origin}.type", f"unknown limit {limit.type}")
        hard = f.hard_limits.get(name)
        if hard is not None and limit.hard > hard and not mighty:
            raise UnsupportedError(
                f"{origin}: {name}={limit.hard} is above this host's hard limit of {hard}, and raising it needs CAP_SYS_RESOURCE",
                f"ask for at most {hard}, or raise the limit of the shell or service that starts Hutch",
            )
        (out if mighty else own).append(ops.ResourceLimit(resource=name, soft=limit.soft, hard=limit.hard, origin=origin))
    score = process.oom_score_adj
    if score is not None:
        # how far it may be lowered without CAP_SYS_RESOURCE is told nowhere (oom_score_adj_min): the kernel answers
        out.append(ops.ProcWrite(name="oom_score_adj", data=str(score), origin="process.oomScoreAdj"))
    return out, own


def _write_maps(b: Builder) -> None:
    f = b.features
    groups: list[ops.Operation] = []
    for kind, mappings, own, helper in (
        ("uid", b.uid_mappings, f.uid, f.newuidmap),
        ("gid", b.gid_mappings, f.gid, f.newgidmap),
    ):
        origin = f"linux.{kind}Mappings"
        if b.request.user_network:  # whose root the executor is by now
            if kind == "gid" and f.subgid is None:
                b.mapped.append(ops.ProcWrite(name="setgroups", data="deny", origin=origin))
            b.mapped.append(ops.ProcWrite(name=f"{kind}_map", data=_nested(origin, mappings, own, f.subuid if kind == "uid" else f.subgid), origin=origin))
            continue
        text = "\n".join(f"{m.container_id} {m.host_id} {m.size}" for m in mappings)
        simple = len(mappings) == 1 and mappings[0].size == 1 and mappings[0].host_id == own
        if f.uid == 0 and f.capabilities & capabilities.SETUID:
            b.mapped.append(ops.ProcWrite(name=f"{kind}_map", data=text, origin=origin))
        elif simple:
            if kind == "gid":
                # user_namespaces(7): without privileges a gid may be mapped only once setgroups is denied for good
                b.mapped.append(ops.ProcWrite(name="setgroups", data="deny", origin=origin))
            b.mapped.append(ops.ProcWrite(name=f"{kind}_map", data=text, origin=origin))
        elif helper:
            numbers = tuple(n for m in mappings for n in (m.container_id, m.host_id, m.size))
            groups.append(ops.MapHelper(program=helper, numbers=numbers, origin=origin))
        else:
            raise UnsupportedError(
                f"{origin}: mapping more than one's own id needs new{kind}map",
                "install it (Debian: uidmap), or take a single id: --userns single",
            )
    b.mapped += groups


def can_set_groups(b: Builder) -> bool:
    """Whether setgroups(2) is allowed in the container's user namespace."""
    return not any(isinstance(op, ops.ProcWrite) and op.name == "setgroups" for op in b.mapped)


def become_root(b: Builder) -> None:
    """In a user namespace of its own a process is nobody until it takes a mapped id."""
    if not b.in_userns:
        return
    uid = 0 if b.host_uid(0) >= 0 or not b.userns else b.uid_mappings[0].container_id
    gid = 0 if b.host_gid(0) >= 0 or not b.userns else b.gid_mappings[0].container_id
    groups = () if can_set_groups(b) else None
    b.container.append(ops.SetIds(uid=uid, gid=gid, groups=groups, origin="linux.uidMappings"))
