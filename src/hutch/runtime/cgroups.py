"""Which cgroup a container gets, and whether it needs one at all."""

from __future__ import annotations

from hutch.cgroup.operations import CgroupOperations, needed, operations
from hutch.errors import ConfigError, UnsupportedError
from hutch.oci.config import Resources
from hutch.runtime.builder import Builder


def cgroup_of(b: Builder) -> CgroupOperations:
    """The container's cgroup. Raises ConfigError, UnsupportedError."""
    resources = b.config.linux.resources or Resources()
    f = b.features
    name = b.config.linux.cgroups_path or f"/hutch-{b.request.id}"
    if ".." in name.split("/"):
        raise ConfigError("linux.cgroupsPath", f"leads elsewhere by `..`: {name}")
    accounting = b.request.accounting
    if b.request.systemd_scope:
        return operations(name, resources, f.cgroups, scope=b.request.systemd_scope)
    everywhere = _mounts_cgroups(b)
    if not accounting and not needed(resources) and not resources.devices and "pid" in b.new and not everywhere:
        return CgroupOperations()
    if f.cgroups.mode == "v2" and f.uid != 0 and not f.cgroups.v2_writable:
        return _no_cgroup(b, resources)
    if f.cgroups.mode != "v2" and (f.uid != 0 or not f.privileged):
        return _no_cgroup(b, resources)
    if not f.privileged and f.cgroups.v2_path != "/" and not b.config.linux.cgroups_path:
        name = f"{f.cgroups.v2_path.rstrip('/')}{name}"
    return operations(
        name, resources, f.cgroups, own_pid_namespace="pid" in b.new, accounting=accounting, privileged=f.privileged, shared=b.request.oci,
        everywhere=everywhere,
    )  # fmt: skip


def _mounts_cgroups(b: Builder) -> bool:
    """Whether the container may mount v1's hierarchies: where it had no place of its own, it would see and change the host's."""
    process = b.config.process
    held = process.capabilities.bounding if process is not None and process.capabilities is not None else ()
    return not b.in_userns and "CAP_SYS_ADMIN" in held and not b.request.oci


def _no_cgroup(b: Builder, resources: Resources) -> CgroupOperations:
    if needed(resources):
        v2 = b.features.cgroups.mode == "v2"
        hint = "run under `systemd-run --user --scope -p Delegate=yes`" if v2 else "cgroups v1 cannot be delegated to a user: run as root, or boot with v2"
        raise UnsupportedError("linux.resources: this user may not set limits: no cgroup is delegated to it", hint)
    return CgroupOperations()
