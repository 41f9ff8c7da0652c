"""Machines that do not exist: fixed records that plans are compiled for, so that a plan is the same wherever the tests run."""

from __future__ import annotations

from hutch.engine.spec.configuration import to_config
from hutch.engine.spec.settings import Settings
from hutch.image.rootfs import Hidden, Rootfs, View
from hutch.kernel import capabilities
from hutch.kernel.cgroupfs import CgroupLayout, V1Controller
from hutch.kernel.features import Features, SubordinateIds
from hutch.kernel.proc import MountInfo
from hutch.oci import config as oci
from hutch.runtime.compile import compile_container
from hutch.runtime.request import Compiled, Request

ID = "0123456789ab"
HARD_LIMITS = {"RLIMIT_NOFILE": 524288, "RLIMIT_NPROC": 63000, "RLIMIT_CORE": 2**64 - 1}


def mount(point: str, kind: str, number: int = 1) -> MountInfo:
    return MountInfo(
        mount_id=number, parent_id=0, device=f"254:{number}", root="/", mount_point=point, options=("rw",), kind=kind, source="/dev/vda", super_options=("rw",)
    )


EXT4 = (mount("/", "ext4"),)
# /cgroup and not /sys/fs/cgroup: no file of the machine that the tests run on may come into a plan
V1 = tuple(V1Controller(name=name, mount=f"/cgroup/{name}", path="/") for name in "cpu cpuacct cpuset memory devices freezer blkio pids".split())
HYBRID = CgroupLayout(mode="hybrid", v1=V1, v2_mount="/cgroup/unified", v2_controllers=("hugetlb", "rdma"))
V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma")
V2 = CgroupLayout(mode="v2", v2_mount="/cgroup", v2_controllers=V2_CONTROLLERS, v2_root_subtree=("cpu", "pids"), v2_writable=True)
SESSION = "/user.slice/user-1000.slice/user@1000.service/app.slice"
DELEGATED = V2.replace(v2_path=SESSION, v2_root_subtree=V2_CONTROLLERS, v2_own_subtree=("cpu", "memory", "pids"))

ROOT_HYBRID = Features(
    kernel=(6, 18), machine="x86_64", uid=0, gid=0, capabilities=capabilities.ALL, user_namespaces=True, time_namespaces=True, cgroups=HYBRID,
    mounts=EXT4, cpus=4, hard_limits=HARD_LIMITS,
)  # fmt: skip
ROOT_V2 = ROOT_HYBRID.replace(kernel=(6, 1), time_namespaces=False, cgroups=V2)
ROOTLESS = ROOT_HYBRID.replace(
    uid=1000, gid=1000, capabilities=0, subuid=SubordinateIds(start=100000, count=65536), subgid=SubordinateIds(start=200000, count=65536),
    newuidmap="/usr/bin/newuidmap", newgidmap="/usr/bin/newgidmap",
)  # fmt: skip
SINGLE = ROOT_HYBRID.replace(uid=1000, gid=1000, capabilities=0, cgroups=DELEGATED)
MACHINES = {"root-hybrid": ROOT_HYBRID, "root-v2": ROOT_V2, "rootless": ROOTLESS, "single": SINGLE}

HOST = Rootfs(
    name="host",
    views=(
        View(path="/usr", lowers=("/usr",)),
        View(path="/etc", lowers=("/etc",), hidden=(Hidden(path="shadow"), Hidden(path="ssl/private", parents=(0o755,)))),
        View(path="/opt", lowers=("/opt",), extra=True),
    ),
    directories=(("tmp", 0o1777), ("proc", 0o555), ("sys", 0o555), ("dev", 0o755)),
    links=(("bin", "usr/bin"), ("lib", "usr/lib")),
)
IMAGE = Rootfs(name="./image", views=(View(path="/", lowers=("/layers/b", "/layers/a")),))


def config_of(features: Features, settings: Settings, rootfs: Rootfs = HOST, user: oci.User | None = None) -> oci.Config:
    return to_config(settings, rootfs, features, identity=ID, hostname=settings.hostname or ID, user=user or oci.User(), home="/root")


def compiled(features: Features, settings: Settings | None = None, rootfs: Rootfs = HOST, *, user: oci.User | None = None, **request: object) -> Compiled:
    settings = settings or Settings(image="host", command=("true",))
    config = config_of(features, settings, rootfs, user)
    values = {"id": ID, "rootfs": rootfs, "state": f"/run/hutch/{ID}", "record": "{}", "init": settings.init, **request}
    return compile_container(config, Request(**values), features)
