"""state, list, ps and events: what there is, and what it uses."""

from __future__ import annotations

import os

from hutch.errors import ContainerGone, HutchError
from hutch.kernel import proc
from hutch.runtime.verbs.store import CREATED, PAUSED, RUNNING, STOPPED, Entry, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.cgroup.live import Stats


def state(entry: Entry) -> dict[str, Any]:
    """The state of a container (runtime.md, "State"), and what runtimes tell beside it."""
    status = entry.status()
    data = entry.data
    out: dict[str, Any] = {
        "ociVersion": data.get("ociVersion", ""),
        "id": entry.id,
        "pid": 0 if status == STOPPED else entry.pid,
        "status": status,
        "bundle": entry.bundle,
        "rootfs": data.get("rootfs", ""),
        "created": data.get("created", ""),
    }
    if data.get("annotations"):
        out["annotations"] = data["annotations"]
    out["owner"] = user_name(int(data.get("owner", 0)))
    return out


def user_name(uid: int) -> str:
    """A user's name, or "#UID"."""
    from hutch.kernel.features import user_name as look_up

    found = look_up(uid)
    return f"#{uid}" if found == str(uid) else found


def containers(store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    """Every container's state, and what is wrong with those whose record cannot be read."""
    found, problems = [], []
    for identity in store.ids():
        try:
            found.append(state(store.load(identity)))
        except HutchError as error:
            problems.append(str(error).replace("\n", "; "))
    return found, problems


def processes(entry: Entry) -> list[int]:
    """The pids of every process of the container, as this process sees them: from its cgroup, or without one from its pid
    namespace."""
    from hutch.runtime.verbs import end

    if entry.status() == STOPPED:
        raise ContainerGone(f"container {entry.id}: container not running")
    if entry.cgroup:
        return sorted(end.pids(entry.cgroup))
    try:
        space = os.readlink(f"/proc/{entry.pid}/ns/pid")
    except OSError:
        return [entry.pid]
    out = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == space:
                out.append(int(name))
        except OSError:
            continue
    return sorted(out)


def statistics(entry: Entry) -> dict[str, Any]:
    """What ``events --stats`` prints: the numbers of the container's cgroup, in the shape that runtimes agreed on."""
    from hutch.cgroup.live import Cgroup

    if entry.status() == STOPPED:
        raise ContainerGone(f"container {entry.id}: container not running")
    s = Cgroup(entry.cgroup).stats()
    return {
        "cpu": {
            "usage": {"total": s.cpu_usage or 0, "kernel": s.cpu_system or 0, "user": s.cpu_user or 0},
            "throttling": {"periods": s.periods or 0, "throttledPeriods": s.throttled_periods or 0, "throttledTime": s.throttled_time or 0},
        },
        "cpuset": {},
        "memory": {
            "cache": s.memory_cache or 0,
            "usage": _entry(s.memory_limit, s.memory_usage, s.memory_peak, s.memory_max_events),
            "swap": _entry(None, s.swap_usage, None, None),
            "kernel": _entry(None, None, None, None),
            "kernelTCP": _entry(None, None, None, None),
            "raw": _raw_memory(entry),
        },
        "pids": {"current": s.pids or 0, "limit": s.pids_limit or 0},
        "blkio": _blkio(s),
        "hugetlb": {size: {"usage": usage, "failcnt": 0} for size, usage in s.hugetlb_usage.items()},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _entry(limit: int | None, usage: int | None, peak: int | None, failures: int | None) -> dict[str, int]:
    return {"limit": 2**64 - 1 if limit is None else limit, "usage": usage or 0, "max": peak or 0, "failcnt": failures or 0}


def _raw_memory(entry: Entry) -> dict[str, int]:
    from hutch.cgroup.live import parse_keyed

    place = entry.cgroup.get("memory") or entry.cgroup.get("")
    try:
        return parse_keyed(proc.read_text(f"{place}/memory.stat")) if place else {}
    except OSError:
        return {}


def _blkio(s: Stats) -> dict[str, Any]:
    def pair(read: int | None, write: int | None) -> list[dict[str, Any]]:
        if read is None and write is None:
            return []
        return [{"op": op, "value": value or 0} for op, value in (("Read", read), ("Write", write))]

    return {
        "ioServiceBytesRecursive": pair(s.read_bytes, s.write_bytes),
        "ioServicedRecursive": pair(s.read_operations, s.write_operations),
    }


def oom_kills(entry: Entry) -> int | None:
    """How many processes of the container the OOM killer ended; None once its cgroup is gone."""
    from hutch.cgroup.live import Cgroup

    if entry.status() not in (RUNNING, PAUSED, CREATED):
        return None
    return Cgroup(entry.cgroup).oom_kills() or 0
