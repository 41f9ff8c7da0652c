"""The features document (features.md), and a configuration to begin with."""

from __future__ import annotations

from hutch.kernel import capabilities
from hutch.oci.config import VERSION
from hutch.oci.decode import json_name
from hutch.oci.names import ACTIONS, CHOICES, NAMESPACE_TYPES
from hutch.oci.paths import MASKED, READONLY
from hutch.runtime.lifecycle import MEMORY_FLAGS, MEMORY_MODES
from hutch.runtime.options import RECOGNISED
from hutch.runtime.seccomp import ARCHITECTURES, FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HOOKS = ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")


def features() -> dict[str, Any]:
    """What this runtime can do, whatever this host can."""
    from hutch.version import VERSION as PRODUCT

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": [json_name(name) for name in HOOKS],
        "mountOptions": sorted(RECOGNISED),
        "linux": {
            "namespaces": sorted(NAMESPACE_TYPES),
            "capabilities": list(capabilities.NUMBERS),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(ACTIONS),
                "operators": sorted(CHOICES["SeccompArgument", "op"]),
                "archs": sorted(ARCHITECTURES),
                "knownFlags": list(FLAGS),
                "supportedFlags": list(FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {"modes": list(MEMORY_MODES), "flags": list(MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "io.hutch.version": PRODUCT,
        },
        "potentiallyUnsafeConfigAnnotations": [],
    }


CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def spec(*, rootless: bool, uid: int, gid: int, v2: bool) -> dict[str, Any]:
    """A configuration that runs a shell in ``rootfs``; with `rootless`, one that a user without privileges can run."""
    kinds = ["pid", "network", "ipc", "uts", "mount", *(["cgroup"] if v2 or rootless else []), *(["user"] if rootless else [])]
    if rootless:
        kinds.remove("network")
    linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in kinds], "maskedPaths": MASKED, "readonlyPaths": READONLY}
    if rootless:
        linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "hutch",
        "mounts": _mounts(rootless),
        "linux": linux,
    }


def _mounts(rootless: bool) -> list[dict[str, Any]]:
    def mount(destination: str, kind: str, source: str, options: str) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": source, **({"options": options.split(",")} if options else {})}

    pts = "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620"
    out = [
        mount("/proc", "proc", "proc", ""),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "devpts", pts if rootless else f"{pts},gid=5"),
        mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ]
    if rootless:
        return [*out, mount("/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro")]
    return [*out, mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"), mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro")]
