"""Compilation for fixed machines: golden plans, the linter over each, and what is refused.

``HUTCH_UPDATE_GOLDEN=1 pytest tests/unit/test_compile.py`` writes the golden files anew; read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hutch.engine.spec.settings import Bind, Settings, Tmpfs, Ulimit
from hutch.errors import ConfigError, HutchError, UnsupportedError
from hutch.image.rootfs import Rootfs, View
from hutch.kernel.cgroupfs import CgroupLayout
from hutch.kernel.features import Features
from hutch.oci import config as oci
from hutch.oci.decode import decode_config
from hutch.plan import ops
from hutch.plan.lint import lint
from hutch.plan.plan import Plan
from hutch.runtime.compile import compile_container
from hutch.runtime.enter import EnterRequest, compile_enter
from hutch.runtime.options import parse
from hutch.runtime.process import candidates, cpu_list
from hutch.runtime.profile import default_profile
from hutch.runtime.request import Request
from tests.unit.machines import HARD_LIMITS, HOST, ID, IMAGE, MACHINES, ROOT_HYBRID, ROOT_V2, ROOTLESS, SESSION, SINGLE, compiled, mount

GOLDEN = Path(__file__).parent / "golden"


def own(**changes: object) -> Settings:
    return Settings(image="host", command=("true",), **changes)


LIMITS = own(
    memory=64 << 20, memory_reservation=32 << 20, cpu_quota=50000, cpu_shares=512, pids=32, cpuset_cpus="0-1",
    ulimits=(Ulimit(name="nofile", soft=1024, hard=2048),), oom_score_adj=500,
)  # fmt: skip
BINDS = own(
    binds=(
        Bind(source="/data", target="/srv/data"),
        Bind(source="/data", target="/srv/ro", readonly=True),
        Bind(source="/data", target="/srv/rro", options=("rro", "rslave")),
        Bind(source="/data/file", target="/etc/file", options=("noidmap", "nosuid")),
        Bind(source="/net", target="/srv/net"),
    ),
    tmpfs=(Tmpfs(target="/tmp"), Tmpfs(target="/var/copy", options=("size=1m", "tmpcopyup"))),
)
NET = (*ROOT_HYBRID.mounts, mount("/net", "nfs4", 2))
REQUEST = {"hosts": "10.0.0.1\tdb\n", "resolv_conf": "nameserver 10.0.0.1\n"}

# name: (machine, settings, rootfs, request, privileged)
CASES: dict[str, tuple[Features, Settings, Rootfs, dict[str, object], bool]] = {}
for machine, features in MACHINES.items():
    CASES[f"{machine}-plain"] = (features, own(), HOST, {}, False)
    CASES[f"{machine}-image"] = (features, own(hostname="box", workdir="/work"), IMAGE, {"make_workdir": True, **REQUEST}, False)
    CASES[f"{machine}-binds"] = (features.replace(mounts=NET), BINDS, HOST, {}, False)
    CASES[f"{machine}-terminal"] = (features, own(terminal=True, interactive=True), HOST, {}, False)
    CASES[f"{machine}-readonly"] = (features, own(readonly=True), HOST, {}, False)
    CASES[f"{machine}-init"] = (features, own(init=True), HOST, {}, False)
    CASES[f"{machine}-idle"] = (features, own(), HOST, {"idle": True}, False)
    CASES[f"{machine}-detach"] = (features, own(), HOST, {"detach": True}, False)
    CASES[f"{machine}-detach-terminal"] = (features, own(terminal=True), HOST, {"detach": True}, False)
    CASES[f"{machine}-disk"] = (features, own(upper="disk"), HOST, {"upper": f"/var/lib/hutch/{ID}"}, False)
    CASES[f"{machine}-sysctl"] = (features, own(sysctls={"net.ipv4.ip_forward": "1", "kernel.msgmax": "8192"}), HOST, {}, False)
    CASES[f"{machine}-host-namespaces"] = (features, own(pid="host", network="host", ipc="host", uts="host", cgroupns="host"), HOST, {}, False)
    CASES[f"{machine}-bare"] = (features, own(), HOST, {"state": "", "accounting": False}, False)
for machine in ("root-hybrid", "root-v2"):
    features = MACHINES[machine]
    CASES[f"{machine}-limits"] = (features, LIMITS, HOST, {}, False)
    CASES[f"{machine}-userns-host"] = (features, own(userns="host"), HOST, {}, False)
    CASES[f"{machine}-userns-host-image"] = (features, own(userns="host"), IMAGE, {}, False)
    CASES[f"{machine}-pid-host-userns-host"] = (features, own(pid="host", userns="host"), HOST, {}, False)
    CASES[f"{machine}-devices"] = (features, own(devices=(("/dev/null", "/dev/net/nothing", "rw"),), userns="host"), HOST, {}, False)
    CASES[f"{machine}-privileged"] = (features, own(privileged=True), HOST, {}, True)
    CASES[f"{machine}-new-privileges"] = (features, own(no_new_privileges=False), HOST, {}, True)
    CASES[f"{machine}-user"] = (features, own(user="1000:1000", cap_add=("NET_ADMIN",)), HOST, {}, False)
CASES["root-hybrid-devices-userns"] = (ROOT_HYBRID, own(devices=(("/dev/null", "/dev/net/nothing", "rw"),)), HOST, {}, False)
CASES["root-hybrid-time"] = (ROOT_HYBRID, own(time_offsets={"monotonic": 3600, "boottime": -5}), HOST, {}, False)
CASES["root-hybrid-network-host"] = (ROOT_HYBRID, own(network="host"), HOST, {}, False)
CASES["root-hybrid-pid-host-userns"] = (ROOT_HYBRID, own(pid="host", ipc="host", userns="private"), HOST, {}, False)
CASES["rootless-time"] = (ROOTLESS, own(time_offsets={"monotonic": 3600}), HOST, {}, False)
CASES["rootless-single-id"] = (ROOTLESS, own(userns="single"), HOST, {}, False)
CASES["rootless-user"] = (ROOTLESS, own(user="1000:1000"), HOST, {}, False)
CASES["single-limits"] = (SINGLE, LIMITS.replace(cpuset_cpus=""), HOST, {}, False)

USERS = {"root-hybrid-user", "root-v2-user", "rootless-user"}


def plan_of(name: str) -> Plan:
    features, settings, rootfs, request, _ = CASES[name]
    user = oci.User(uid=1000, gid=1000, additional_gids=(29,)) if name in USERS else None
    return compiled(features, settings, rootfs, user=user, **request).plan


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    text = plan_of(name).describe() + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("HUTCH_UPDATE_GOLDEN") == "1":
        path.write_text(text)
    assert path.exists(), "HUTCH_UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text()


@pytest.mark.parametrize("name", CASES)
def test_lint(name):
    plan = plan_of(name)
    assert lint(plan, privileged=CASES[name][4]) == []
    assert plan.encode(1)


@pytest.mark.parametrize("name", CASES)
def test_every_operation_says_where_it_comes_from(name):
    config_fields = ("linux.", "mounts[", "process", "root", "host", "domainname", "state", "exec")
    for lane, i, op in plan_of(name).lanes():
        if not isinstance(op, ops.Wait | ops.Signal | ops.ReadAtExit | ops.KillAtExit):
            assert op.origin.startswith(config_fields), (lane, i, op)


def test_no_golden_file_is_forgotten():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {*CASES, *ENTER_CASES, *BUNDLES} | {path.stem for path in GOLDEN.glob("machine-*")} | {
        path.stem for path in GOLDEN.glob("remote-*")
    }


# OCI bundles


def bundle(**linux: object) -> oci.Config:
    """A bundle's configuration, as `runc spec` writes one, with some parts of ``linux`` exchanged."""
    names = linux.pop("namespaces", ["pid", "network", "ipc", "uts", "mount", "cgroup"])
    return decode_config(
        {
            "ociVersion": "1.2.0",
            "hostname": "runc",
            "root": {"path": "rootfs", "readonly": True},
            "process": {
                "cwd": "/", "args": ["sh"], "env": ["PATH=/bin"], "noNewPrivileges": True, "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
                "scheduler": {"policy": "SCHED_BATCH", "nice": 5}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
                "execCPUAffinity": {"final": "0-1"},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
            ],
            "linux": {
                "namespaces": [n if isinstance(n, dict) else {"type": n} for n in names],
                "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"], "personality": {"domain": "LINUX32"}, **linux,
            },
        }
    )  # fmt: skip


MAPPINGS = {"uidMappings": [{"containerID": 0, "hostID": 70000, "size": 1000}], "gidMappings": [{"containerID": 0, "hostID": 70000, "size": 1000}]}
BUNDLES: dict[str, tuple[Features, oci.Config]] = {
    "bundle-root-hybrid": (ROOT_HYBRID, bundle()),
    "bundle-root-v2": (ROOT_V2, bundle(resources={"devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3}]})),
    "bundle-userns": (ROOT_HYBRID, bundle(namespaces=["pid", "network", "ipc", "uts", "mount", "cgroup", "user"], **MAPPINGS)),
    "bundle-joined": (
        ROOT_HYBRID,
        bundle(
            namespaces=[
                {"type": "pid", "path": "/proc/7/ns/pid"},
                {"type": "network", "path": "/run/netns/a"},
                "mount",
                "uts",
                {"type": "ipc", "path": "/proc/7/ns/ipc"},
            ]
        ),
    ),
    "bundle-joined-userns": (ROOT_HYBRID, bundle(namespaces=[{"type": "user", "path": "/proc/7/ns/user"}, "pid", "mount", "uts", "network"])),
    "bundle-rslave": (ROOT_HYBRID, bundle(rootfsPropagation="rslave")),
}


def compile_bundle(features: Features, config: oci.Config, **request: object) -> Plan:
    return compile_container(config, Request(id=ID, **{"bundle": "/bundle", **request}), features).plan


@pytest.mark.parametrize("name", BUNDLES)
def test_golden_bundle(name):
    features, config = BUNDLES[name]
    plan = compile_bundle(features, config)
    text = plan.describe() + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("HUTCH_UPDATE_GOLDEN") == "1":
        path.write_text(text)
    assert text == path.read_text()
    assert lint(plan, privileged=True) == []


# Commands in a container that runs

OWN = oci.Process(cwd="/work", args=("sh", "-c", "true"), env=("PATH=/bin",), capabilities=oci.CapabilitySets(bounding=("CAP_KILL",)), no_new_privileges=True)
NAMESPACES = ("mount", "pid", "ipc", "uts", "network", "cgroup")
ENTER_CASES = {
    "enter-root-v2": (ROOT_V2, OWN, EnterRequest(namespaces=NAMESPACES, cgroup_paths={"": "/cgroup/hutch-x"}, target_fd=5, child_cgroup="exec-1")),
    "enter-root-hybrid": (
        ROOT_HYBRID, OWN, EnterRequest(namespaces=(*NAMESPACES, "user"), cgroup_paths={"memory": "/cgroup/memory/hutch-x", "pids": "/cgroup/pids/hutch-x"}, target_fd=5)
    ),
    "enter-rootless": (ROOTLESS, OWN, EnterRequest(namespaces=(*NAMESPACES, "user"), cgroup_paths={}, target_fd=5)),
    "enter-terminal": (
        SINGLE, OWN.replace(terminal=True, console_size=oci.ConsoleSize(height=25, width=80)),
        EnterRequest(namespaces=(*NAMESPACES, "user"), cgroup_paths={}, target_fd=5, set_groups=False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTER_CASES)
def test_golden_enter(name):
    features, process, request = ENTER_CASES[name]
    plan = compile_enter(process, default_profile(()), request, features)
    text = plan.describe() + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("HUTCH_UPDATE_GOLDEN") == "1":
        path.write_text(text)
    assert text == path.read_text()
    assert lint(plan) == []


# What is refused


def refused(error: type[HutchError], features: Features, config: oci.Config, **request: object) -> HutchError:
    with pytest.raises(error) as caught:
        compile_bundle(features, config, **request)
    return caught.value


def process(**changes: object) -> oci.Config:
    config = bundle()
    assert config.process is not None
    return config.replace(process=config.process.replace(**changes))


ALL = ["pid", "network", "ipc", "uts", "mount", "cgroup"]


@pytest.mark.parametrize(
    ("features", "config", "error", "message"),
    [
        (ROOT_HYBRID, bundle().replace(process=None), ConfigError, "process: is required and missing"),
        (ROOT_HYBRID, process(args=()), ConfigError, "process.args: is empty"),
        (ROOTLESS, bundle(), UnsupportedError, "linux.namespaces: without root a container needs a user namespace"),
        (ROOT_HYBRID.replace(capabilities=0), bundle(), UnsupportedError, "linux.namespaces: without root"),
        (ROOT_HYBRID.replace(user_namespaces=False), bundle(namespaces=[*ALL, "user"], **MAPPINGS), UnsupportedError, "linux.namespaces: this kernel lets nobody"),
        (ROOT_V2, bundle(namespaces=[*ALL, "time"]), UnsupportedError, "linux.namespaces: time namespaces that begin at execve need Linux 6.3"),
        (ROOT_HYBRID, bundle(namespaces=["pid", "uts"]), UnsupportedError, "linux.namespaces: a container without a mount namespace"),
        (ROOT_HYBRID, bundle(namespaces=[*ALL, "user"]), ConfigError, "linux.uidMappings: a new user namespace needs"),
        (ROOT_HYBRID, process(apparmor_profile="x"), UnsupportedError, "process.apparmorProfile: x: this kernel has no AppArmor"),
        (ROOT_HYBRID, process(selinux_label="x"), UnsupportedError, "process.selinuxLabel: "),
        (ROOT_HYBRID, bundle(mountLabel="x"), UnsupportedError, "linux.mountLabel: x: this kernel has no SELinux"),
        (ROOT_HYBRID, bundle(memoryPolicy={"mode": "MPOL_ODD"}), ConfigError, "linux.memoryPolicy.mode: expected one of"),
        (ROOT_HYBRID, bundle(memoryPolicy={"mode": "MPOL_BIND", "flags": ["x"]}), ConfigError, "linux.memoryPolicy.flags[0]: expected one of"),
        (ROOT_HYBRID, bundle(intelRdt={"closID": "x"}), UnsupportedError, "linux.intelRdt: no resctrl file system"),
        (ROOT_HYBRID, bundle(sysctl={"kernel.panic": "1"}), ConfigError, "linux.sysctl.kernel.panic: is not a setting of a namespace"),
        (ROOT_HYBRID, bundle(sysctl={"net/../kernel/panic": "1"}), ConfigError, "linux.sysctl.net/../kernel/panic: is not a setting"),
        (ROOT_HYBRID, bundle(sysctl={"kernel.msgmax": "1"}, namespaces=["mount", "pid", "uts"]), ConfigError, "linux.sysctl.kernel.msgmax: needs a ipc namespace"),
        (ROOT_HYBRID, bundle(sysctl={"net.core.somaxconn": "1"}).replace(mounts=()), ConfigError, "linux.sysctl.net.core.somaxconn: needs a proc mount"),
        (ROOT_HYBRID, process(rlimits=(oci.Rlimit(type="RLIMIT_SPEED", hard=1, soft=1),)), ConfigError, "process.rlimits[0].type: unknown limit RLIMIT_SPEED"),
        (ROOT_HYBRID, process(capabilities=oci.CapabilitySets(bounding=("CAP_FLY",))), ConfigError, "process.capabilities.bounding: unknown capability CAP_FLY"),
        (ROOT_HYBRID, process(scheduler=oci.Scheduler(policy="SCHED_ISO")), ConfigError, "process.scheduler.policy: SCHED_ISO is not one of Linux"),
        (ROOT_HYBRID, process(scheduler=oci.Scheduler(policy="SCHED_RR", flags=("X",))), ConfigError, "process.scheduler.flags[0]: unknown flag X"),
        (ROOT_HYBRID, process(io_priority=oci.IoPriority(class_="IOPRIO_CLASS_RT", priority=8)), ConfigError, "process.ioPriority.priority: expected 0 to 7, got 8"),
        (ROOT_HYBRID, process(terminal=True).replace(mounts=()), ConfigError, "process.terminal: a terminal needs a devpts mount"),
        (ROOT_HYBRID, bundle(personality={"domain": "LINUX", "flags": ["X"]}), ConfigError, "linux.personality.flags: the specification defines none"),
        (ROOT_HYBRID, bundle(maskedPaths=["proc/kcore"]), ConfigError, "linux.maskedPaths[0]: expected an absolute path"),
        (ROOT_HYBRID, bundle(readonlyPaths=["/proc/sys", ""]), ConfigError, "linux.readonlyPaths[1]: expected an absolute path"),
        (ROOT_HYBRID, bundle(resources={"unified": {"memory.high": "1"}}), ConfigError, "linux.resources.unified.memory.high: its controller is v1's"),
        (ROOT_HYBRID, bundle(resources={"network": {"classID": 1}}), UnsupportedError, "linux.resources.network.classID: this host's cgroups have no net_cls"),
        (ROOT_HYBRID.replace(cgroups=CgroupLayout(mode="none")), bundle(resources={"pids": {"limit": 1}}), UnsupportedError, "limits: this host has no control groups"),
        (ROOT_HYBRID, bundle(seccomp={"defaultAction": "SCMP_ACT_NOTIFY"}), ConfigError, "linux.seccomp.listenerPath: SCMP_ACT_NOTIFY needs"),
        (ROOT_HYBRID, bundle(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}), ConfigError, "linux.seccomp.flags[0]: unknown flag X"),
        (ROOTLESS, bundle(namespaces=[*ALL, "user"], resources={"pids": {"limit": 5}}, **MAPPINGS), UnsupportedError, "linux.resources: this user may not set limits"),
    ],
)  # fmt: skip
def test_refused(features, config, error, message):
    assert str(refused(error, features, config)).startswith(message) or message in str(refused(error, features, config))


def with_mount(**values: object) -> oci.Config:
    config = bundle()
    return config.replace(mounts=(*config.mounts, oci.Mount(destination="/mnt", **values)))


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ({}, "mounts[5].type: the mount on /mnt has neither a type nor the option bind"),
        ({"type": "bind"}, "mounts[5].source: the bind mount on /mnt has no source"),
        ({"type": "none", "source": "/x", "options": ("bind", "size=1m")}, "mounts[5].options: 'size' is not an option of a bind mount"),
        ({"type": "bind", "source": "/x", "options": ("size=1m",)}, "mounts[5].options: 'size' is not an option of a bind mount"),
        ({"type": "tmpfs", "options": ("ro", "")}, "mounts[5].options[1]: is empty"),
        ({"type": "ramfs", "options": ("tmpcopyup",)}, "mounts[5].options: tmpcopyup is an option of tmpfs alone"),
        ({"type": "bind", "source": "/x", "options": ("idmap",)}, "mounts[5].options: an idmapped mount needs mappings"),
    ],
)
def test_refused_mounts(mount, message):
    assert str(refused(ConfigError, ROOT_HYBRID, with_mount(**mount))).startswith(message)


def test_refused_rootless():
    with pytest.raises(UnsupportedError, match="userns: without root"):
        compiled(ROOTLESS, own(userns="host"))
    with pytest.raises(UnsupportedError, match=r"process\.rlimits\[0\]: RLIMIT_NOFILE=600000 is above this host's hard limit of 524288"):
        compiled(ROOTLESS, own(ulimits=(Ulimit(name="nofile", soft=1, hard=600000),)))
    assert compiled(ROOT_HYBRID, own(ulimits=(Ulimit(name="nofile", soft=1, hard=HARD_LIMITS["RLIMIT_NOFILE"] + 1),)))
    with pytest.raises(UnsupportedError, match="mapping more than one's own id needs newuidmap"):
        compile_bundle(ROOTLESS.replace(newuidmap=""), bundle(namespaces=[*ALL, "user"], **MAPPINGS))
    with pytest.raises(UnsupportedError, match=r"process\.user\.additionalGids: "):
        compiled(SINGLE, own(), user=oci.User(additional_gids=(5,)))
    with pytest.raises(UnsupportedError, match="root: overlayfs cannot be mounted in a user namespace by Linux 5.10"):
        compiled(ROOTLESS.replace(kernel=(5, 10)), own())
    with pytest.raises(ConfigError, match="an idmapped mount needs root"):
        compiled(ROOTLESS, own(binds=(Bind(source="/x", target="/y", options=("idmap",)),)))


def test_refused_userns():
    with pytest.raises(UnsupportedError, match="userns: this kernel cannot idmap overlay layers"):
        compiled(ROOT_HYBRID.replace(kernel=(5, 15)), own(userns="private"))
    nfs = ROOT_HYBRID.replace(mounts=(mount("/", "nfs4"),))
    with pytest.raises(UnsupportedError, match="userns: /usr lies on a file system that takes no idmapped mounts"):
        compiled(nfs, own(userns="private"))
    assert not compiled(nfs, own()).user_namespace, "auto does without"


def test_userns_by_machine():
    assert compiled(ROOT_HYBRID).user_namespace and compiled(ROOTLESS).user_namespace
    assert (compiled(ROOT_HYBRID).root_uid, compiled(ROOTLESS).root_uid) == (536870912, 1000)
    assert not compiled(ROOT_V2).user_namespace, "tmpfs has no user.* attributes before 6.6"
    assert not compiled(ROOT_HYBRID, own(privileged=True)).user_namespace


def test_cgroup_paths_are_told():
    assert compiled(ROOT_V2).cgroup_paths == {"": f"/cgroup/hutch-{ID}"}
    assert compiled(ROOT_HYBRID).cgroup_paths == {c: f"/cgroup/{c}/hutch-{ID}" for c in ("memory", "cpu", "cpuacct", "pids")}
    assert compiled(ROOTLESS).cgroup_paths == {}
    assert compiled(SINGLE).cgroup_paths == {"": f"/cgroup{SESSION}/hutch-{ID}"}


# What compiles, and should mean the right thing


def container_ops(plan: Plan, kind: type[ops.Operation]) -> list:
    return [op for op in plan.container if isinstance(op, kind)]


def test_masks_go_by_the_mounts_own_descriptor():
    plan = compiled(ROOT_HYBRID).plan
    kcore = next(op for op in container_ops(plan, ops.Mask) if op.path.endswith("kcore"))
    assert (kcore.root.name, kcore.path, kcore.no_symlinks) == ("proc", "kcore", True)


def test_system_mounts_take_no_symlink():
    for name in CASES:
        for op in container_ops(plan_of(name), ops.Attach):
            if op.path.split("/")[1:2] and op.path.split("/")[1] in ("proc", "sys") or op.path in ("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"):
                if op.origin.startswith("mounts[") and not op.path.startswith("/sys/fs/cgroup/"):  # in a tmpfs of the plan's own
                    assert op.no_symlinks or op.summary == "/dev/shm", (name, op)


@pytest.mark.parametrize("kind", ["shared", "rshared", "unbindable", "runbindable"])
def test_nothing_reaches_the_host_by_propagation(kind):
    """A new mount namespace's mounts are peers of the host's where the host's are shared (systemd makes them so). What the
    plan attaches on ``/`` before it pivots must not appear there: the first propagation has to cut that tie, and what the
    configuration asks for is set on the new root later."""
    plan = compile_bundle(ROOT_HYBRID, bundle(rootfsPropagation=kind))
    first = container_ops(plan, ops.Propagation)[0]
    assert first.kind in ("private", "slave") and first.recursive
    assert plan.container.index(first) < plan.container.index(container_ops(plan, ops.Attach)[0])


@pytest.mark.parametrize("name", [*CASES, *BUNDLES])
def test_nothing_is_mounted_on_the_hosts_peers(name):
    """A mount that the host lane clones is a peer of the host's own where that is shared (under systemd: everywhere), also
    in the container's mount namespace. What is attached below it then appears on the host, and stays: with --network host
    the mask over /sys/firmware, in a bundle /proc and /dev. So it must be made private, or a slave, before."""
    plan = plan_of(name) if name in CASES else compile_bundle(*BUNDLES[name])
    apart = ops.PROPAGATION["private"] | ops.PROPAGATION["slave"] | ops.PROPAGATION["unbindable"]
    shared = {op.into for op in plan.host if isinstance(op, ops.OpenTree) and not op.propagation & apart}
    places: dict[str, ops.Slot] = {}
    for i, op in enumerate(plan.container):
        if isinstance(op, ops.SetAttributes) and op.propagation & apart:
            places.pop(op.path, None)
            if op.root.name == "root" and not op.path:
                places.pop("/", None)
        if not isinstance(op, ops.Attach | ops.Mask | ops.ReadOnly) or op.root.name == "base":
            continue
        path = op.path if op.path.startswith("/") else f"/{op.path}"
        if op.root.name == "root":
            below = max((place for place in places if path.startswith(place.rstrip("/") + "/")), key=len, default=None)
            assert below is None, f"container[{i}]: {op.describe()}: lies on <{places[below]}>, a peer of the host's"
        if isinstance(op, ops.Attach) and (op.root.name == "root" or op.mount.name == "root"):
            where = path if op.root.name == "root" else "/"
            places.pop(where, None)
            if op.mount in shared:
                places[where] = op.mount


def test_readonly_covers_the_views():
    """--read-only: "nothing of the root can be written". With ``host`` the root is made of several overlays."""
    plan = compiled(ROOT_HYBRID, own(readonly=True)).plan
    frozen = {op.path or "/" for op in container_ops(plan, ops.SetAttributes) if op.set_attributes & 1}
    recursive = any(op.set_attributes & 1 and op.recursive and op.path in ("", "/") for op in container_ops(plan, ops.SetAttributes))
    made_so = {
        next((a.path for a in container_ops(plan, ops.Attach) if a.mount == op.into), "")
        for op in container_ops(plan, ops.MakeFilesystem) if op.kind == "overlay" and op.attributes & 1
    }  # fmt: skip
    assert recursive or {"/usr", "/etc"} <= frozen | made_so


def test_bind_of_dev_is_left_alone():
    """A bundle that binds the host's /dev gets no nodes and no links: they would be made in the host's own /dev."""
    config = bundle()
    mounts = tuple(oci.Mount(destination="/dev", type="bind", source="/dev", options=("rbind",)) if m.destination == "/dev" else m for m in config.mounts)
    plan = compile_bundle(ROOT_HYBRID, config.replace(mounts=mounts))
    assert container_ops(plan, ops.MakeNode) == [] and container_ops(plan, ops.MakeSymlink) == []


def test_devices_keep_their_number_in_the_configuration():
    """`origin` is where in the config an operation came from; the six default devices come from nowhere in it."""
    plan = compiled(ROOT_HYBRID, own(devices=(("/dev/null", "/dev/nothing", "rwm"),))).plan
    by_path = {op.path: op.origin for op in plan.host if isinstance(op, ops.MakeNode)}
    assert by_path["nothing"] == "linux.devices[0]"
    assert by_path["zero"] == "linux.devices"


def test_rootless_device_is_bound_from_its_source():
    """--device /dev/null:/dev/nothing: the host has no /dev/nothing."""
    plan = compiled(ROOTLESS, own(devices=(("/dev/null", "/dev/nothing", "rwm"),))).plan
    target = next(op for op in container_ops(plan, ops.Attach) if op.path == "/dev/nothing")
    tree = next(op for op in plan.container if isinstance(op, ops.OpenTree) and op.into == target.mount)
    assert tree.path == "/dev/null"


def test_bind_clears_what_is_asked_to_be_cleared():
    """``exec`` on a source that the host mounts noexec: `parse` gives the bit in `clear`, and the plan must carry it."""
    plan = compile_bundle(ROOT_HYBRID, with_mount(type="bind", source="/x", options=("bind", "exec")))
    tree = next(op for op in plan.host if isinstance(op, ops.OpenTree) and op.path == "/x")
    later = sum(op.clear_attributes for op in container_ops(plan, ops.SetAttributes) if op.path == "/mnt")
    assert (tree.clear_attributes | later) & ops.ATTRIBUTES["noexec"]


def test_proc_twice():
    config = bundle()
    plan = compile_bundle(ROOT_HYBRID, config.replace(mounts=(config.mounts[0], *config.mounts)))
    assert [p for p in lint(plan, privileged=True) if "assigned twice" in p] == []


def test_negative_scheduler_priority_is_a_config_error():
    """I32 to the decoder, unsigned to the kernel."""
    assert refused(ConfigError, ROOT_HYBRID, process(scheduler=oci.Scheduler(policy="SCHED_FIFO", priority=-1))).path.startswith("process.scheduler")


def test_whiteouts_and_own_files():
    plan = compiled(ROOT_HYBRID, own(hostname="box"), **REQUEST).plan
    hidden = [op.path for op in container_ops(plan, ops.MakeNode)]
    assert hidden == ["layer/own-1/shadow", "layer/own-1/ssl/private"]
    files = {op.path: op.data for op in container_ops(plan, ops.MakeFile)}
    assert files["layer/own-1/hostname"] == "box\n"
    assert files["layer/own-1/hosts"].endswith("127.0.1.1\tbox\n10.0.0.1\tdb\n")
    assert files["layer/own-1/resolv.conf"] == "nameserver 10.0.0.1\n"


def test_order_of_the_last_steps():
    names = [type(op).__name__ for op in compiled(ROOT_HYBRID).plan.container]
    tail = names[names.index("CloseDescriptors") :]
    assert tail == [
        "CloseDescriptors", "Signal", "NewSession", "ChangeDirectory", "Capabilities", "SetIds", "Capabilities", "NoNewPrivileges",
        "ChangeDirectory", "FindProgram", "ParentDeath", "Seccomp", "Execute",
    ]  # fmt: skip


def test_user_loses_capabilities():
    caps = [op for op in plan_of("root-hybrid-user").container if isinstance(op, ops.Capabilities)]
    assert caps[0].keep and caps[0].bounding
    assert (caps[1].effective, caps[1].permitted, caps[1].inheritable, caps[1].ambient) == (0, 0, 0, 0)


# Mount options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (("rbind", "ro"), {"bind": True, "recursive": True, "attributes": 1}),
        (("bind",), {"bind": True}),
        (("ro", "rw"), {"clear": 1}),
        (("rw", "ro"), {"attributes": 1}),
        (("nosuid", "noexec", "nodev"), {"attributes": 2 | 8 | 4}),
        (("rro", "rnoexec"), {"recursive_attributes": 1 | 8}),
        (("noatime",), {"attributes": 0x10, "clear": 0x70}),
        (("strictatime", "relatime"), {"clear": 0x70}),
        (("noatime", "strictatime"), {"attributes": 0x20, "clear": 0x70}),
        (("nosymfollow",), {"attributes": 0x200000}),
        (("rslave",), {"propagation": 1 << 19, "propagation_recursive": True}),
        (("shared",), {"propagation": 1 << 20}),
        (("size=1m", "mode=755", "huge"), {"data": (("size", "1m"), ("mode", "755"), ("huge", None))}),
        (("tmpcopyup",), {"copy_up": True}),
        (("ridmap",), {"idmap": "ridmap"}),
        (("defaults", "async"), {}),
    ],
)
def test_mount_options(options, expected):
    found = parse(options, "mounts[0]").as_dict()
    assert {k: v for k, v in found.items() if v != parse((), "").as_dict()[k]} == expected


# Programs and CPUs


def test_candidates():
    assert candidates(("/bin/sh",), ("PATH=/x",)) == ("/bin/sh",)
    assert candidates(("./sh",), ()) == ("./sh",)
    assert candidates(("sh",), ("PATH=/a", "PATH=/x:/y")) == ("/x/sh", "/y/sh")
    assert candidates(("sh",), ("PATH=/x::",)) == ("/x/sh", "./sh", "./sh")
    assert candidates(("sh",), ())[-1] == "/bin/sh"


def test_cpu_list():
    assert cpu_list("0-3,7", "") == [0, 1, 2, 3, 7]
    for text in ("", "-", "1-", "-1", "a", "1,,2", "3-1", "0-99999", "0 1"):
        with pytest.raises(ConfigError):
            cpu_list(text, "process.execCPUAffinity")


def test_cpu_list_takes_ascii_digits_alone():
    with pytest.raises(ConfigError):
        cpu_list("²", "process.execCPUAffinity")


def test_a_view_with_mounts_below_it():
    rootfs = Rootfs(name="host", views=(View(path="/usr", lowers=("/usr",), recursive_bind=True),), directories=(("proc", 0o555),))
    plan = compiled(ROOTLESS, own(), rootfs).plan
    tree = next(op for op in plan.container if isinstance(op, ops.OpenTree) and op.path == "/usr")
    assert tree.recursive and tree.set_attributes == 1 and tree.attributes_recursive


def test_time_offsets_are_checked():
    from hutch.engine.spec.check import check

    with pytest.raises(HutchError, match="monotonic or boottime"):
        check(own(time_offsets={"realtime": 1}))
        compiled(ROOT_HYBRID, own(time_offsets={"realtime": 1}))
