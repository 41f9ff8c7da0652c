"""linux.intelRdt: cache and memory bandwidth by the resctrl file system (Documentation/filesystems/resctrl.rst)."""

from __future__ import annotations

from hutch.errors import ConfigError, UnsupportedError
from hutch.oci.config import IntelRdt
from hutch.plan import ops
from hutch.runtime.builder import Builder


def directory(rdt: IntelRdt, identity: str) -> tuple[str, bool]:
    """The group's name below the mount, and whether it is the container's own."""
    name = rdt.clos_id if rdt.clos_id is not None else identity
    if name in ("", ".", "..", "info", "mon_groups", "mon_data") or ("/" in name and name != "/"):
        raise ConfigError("linux.intelRdt.closID", f"{name!r} is no name of a group")
    return name, rdt.clos_id is None


def schemata(rdt: IntelRdt) -> list[str]:
    """The lines to write: `schemata`, or the two older fields."""
    lines = [line for text in (rdt.l3_cache_schema, rdt.mem_bw_schema) if text for line in text.splitlines()]
    return [*lines, *rdt.schemata]


def build(b: Builder, rdt: IntelRdt) -> None:
    """Make or join the group, write its schemata, and move the container's process into it."""
    mount = next((m.mount_point for m in b.features.mounts if m.kind == "resctrl"), None)
    if mount is None:
        raise UnsupportedError(
            "linux.intelRdt: no resctrl file system is mounted on this host", "mount -t resctrl resctrl /sys/fs/resctrl, on a processor that has RDT"
        )
    name, own = directory(rdt, b.request.id)
    place = mount if name == "/" else f"{mount}/{name}"
    origin = "linux.intelRdt"
    if name != "/":
        b.ready.append(ops.HostDirectory(path=place, exist_ok=not own, undo="rmdir" if own else "", origin=f"{origin}.closID"))
    for line in schemata(rdt):
        b.ready.append(ops.HostWrite(path=f"{place}/schemata", data=f"{line}\n", origin=f"{origin}.schemata"))
    b.ready.append(ops.HostWritePid(path=f"{place}/tasks", origin=origin))
    if rdt.enable_monitoring or rdt.enable_cmt or rdt.enable_mbm:
        group = f"{place}/mon_groups/{b.request.id}"
        b.ready.append(ops.HostDirectory(path=group, undo="rmdir", origin=f"{origin}.enableMonitoring"))
        b.ready.append(ops.HostWritePid(path=f"{group}/tasks", origin=f"{origin}.enableMonitoring"))
