"""What a guest can do: known from its kernel's version, as everything else about it is Hutch's own."""

from __future__ import annotations

from hutch.kernel.cgroupfs import CgroupLayout
from hutch.kernel.features import Features
from hutch.kernel.proc import MountInfo

CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb")


def guest_features(version: tuple[int, int], machine: str, cpus: int) -> Features:
    """The features that the plan of a guest is compiled for: the guest's root, in its first namespaces, with control groups v2."""
    return Features(
        kernel=version,
        machine=machine,
        uid=0,
        gid=0,
        capabilities=(1 << 64) - 1,
        user_namespaces=True,
        time_namespaces=version >= (6, 3),
        cgroups=CgroupLayout(mode="v2", v2_mount="/sys/fs/cgroup", v2_controllers=CONTROLLERS, v2_root_subtree=CONTROLLERS, v2_writable=True),
        mounts=(MountInfo(mount_id=1, parent_id=1, device="0:1", root="/", mount_point="/", options=(), kind="tmpfs", source="tmpfs", super_options=()),),
        cpus=cpus,
    )
