"""features: a document that says what the runtime can do; what it says is tried."""

from __future__ import annotations

import re

import pytest

from tests.conformance.runtime import MAPPING, NAMESPACES, config, mapped, shell

pytestmark = pytest.mark.root
clause = pytest.mark.clause
SEMVER = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
DEFAULT_HOOKS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]


@pytest.fixture
def features(runtime):
    return runtime.call("features").json()


def section(features, *names):
    value = features
    for name in names:
        if name not in value:
            pytest.fail(f"features does not speak of {'.'.join(names)}")
        value = value[name]
    return value


@clause("features.md", "Specification version", "ociVersionMin, ociVersionMax: REQUIRED; both can be run")
def test_versions(box, features):
    low, high = features["ociVersionMin"], features["ociVersionMax"]
    assert SEMVER.fullmatch(low) and SEMVER.fullmatch(high)
    assert [int(x) for x in re.split(r"[.-]", low)[:3]] <= [int(x) for x in re.split(r"[.-]", high)[:3]]
    for version in (low, high):
        assert box(config("echo", "ok") | {"ociVersion": version}).run().lines() == ["ok"]


@clause("features.md", "Hooks", "the recognized names of the hooks: each is called")
def test_hooks(box, features, place):
    names = section(features, "hooks")
    assert set(names) == set(DEFAULT_HOOKS)
    place.chmod(0o777)
    hooks = {name: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo > {place}/{name}"]}] for name in names}
    mount = {"destination": str(place), "type": "bind", "source": str(place), "options": ["bind"]}
    box(shell("true", hooks=hooks, mounts=[mount])).run().ok()
    assert {name for name in names if (place / name).exists()} == set(names)


REMOUNT = {"remount"}
OF_BINDS = {"bind", "rbind", "idmap", "ridmap"}


@clause("features.md", "Mount options", "each is recognized: none reaches the file system as unknown data")
def test_mount_options(box, features, place):
    names = [name for name in section(features, "mountOptions") if name not in REMOUNT | OF_BINDS]
    assert len(names) > 30
    recursive = [name for name in names if name.startswith("r") and name[1:] in names]
    mounts = [{"destination": f"/t/{name}", "type": "tmpfs", "source": "tmpfs", "options": [name]} for name in names if name not in recursive]
    mounts += [{"destination": f"/b/{name}", "type": "bind", "source": str(place), "options": ["rbind", name]} for name in recursive]
    box(shell("true", mounts=mounts)).run().ok()


@clause("features.md", "Mount options", "what MUST be implemented is listed")
def test_required_mount_options_are_listed(features):
    required = (
        "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid"
        " private rbind relatime remount ro rprivate rshared rslave runbindable rw shared silent slave strictatime suid sync unbindable"
    ).split()
    assert set(required) <= set(section(features, "mountOptions"))


@clause("features-linux.md", "Namespaces", "each can be made")
def test_namespaces(box, features):
    names = section(features, "linux", "namespaces")
    assert set(NAMESPACES) | {"user"} <= set(names)
    others = [name for name in names if name != "user"]
    assert box(mapped("echo ok", namespaces=others)).run().lines() == ["ok"]


@clause("features-linux.md", "Capabilities", "each is recognized")
def test_capabilities(box, features):
    names = section(features, "linux", "capabilities")
    assert len(names) >= 41 and {"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"} <= set(names)
    result = box(config("true", process={"capabilities": {"bounding": [n for n in names if n != "CAP_SYS_RESOURCE"]}})).run()
    assert not [name for name in names if name in result.ok().err]


@clause("features-linux.md", "Cgroup", "v1, v2, systemd, systemdUser, rdma are booleans")
def test_cgroup(features):
    found = section(features, "linux", "cgroup")
    assert found["v1"] is True and found["v2"] is True
    assert all(isinstance(value, bool) for value in found.values())


@clause("features-linux.md", "Seccomp", "each action, operator, architecture and supported flag is taken")
def test_seccomp(box, features):
    found = section(features, "linux", "seccomp")
    assert found["enabled"] is True
    for action in found["actions"]:
        if action != "SCMP_ACT_NOTIFY":
            one = {"names": ["sethostname"], "action": action}
            assert box(shell("echo ok", linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [one]}})).run().lines() == ["ok"], action
    rules = [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": op}]} for op in found["operators"]]
    archs = [arch for arch in found["archs"] if arch.endswith(("X86", "X86_64", "X32", "ARM", "AARCH64", "RISCV64", "EL", "LE"))]  # of one byte order
    flags = [flag for flag in found.get("supportedFlags", []) if not flag.endswith("WAIT_KILLABLE_RECV")]  # a listener's
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": archs, "flags": flags, "syscalls": rules}
    assert box(shell("echo ok", linux={"seccomp": seccomp})).run().lines() == ["ok"]
    assert set(found.get("supportedFlags", [])) <= set(found.get("knownFlags", []))


@clause("features-linux.md", "Seccomp", "the actions, operators and architectures of the specification are known")
def test_seccomp_is_whole(features):
    found = section(features, "linux", "seccomp")
    assert {f"SCMP_CMP_{op}" for op in ("EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ")} <= set(found["operators"])
    assert {f"SCMP_ACT_{a}" for a in ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")} <= set(found["actions"])
    assert {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"} <= set(found["archs"])


@clause("features-linux.md", "AppArmor, SELinux, Intel RDT", "enabled is a boolean")
@pytest.mark.parametrize("name", ["apparmor", "selinux", "intelRdt"])
def test_enabled(features, name):
    assert isinstance(section(features, "linux", name)["enabled"], bool)


@clause("features-linux.md", "MountExtensions", "idmap.enabled: the mappings of a mount are used")
def test_idmap(box, features, place):
    if section(features, "linux", "mountExtensions", "idmap")["enabled"]:
        mount = {"destination": "/data", "type": "bind", "source": str(place), "options": ["bind", "idmap"], "uidMappings": MAPPING, "gidMappings": MAPPING}
        assert box(mapped("stat -c %u /data", mounts=[mount])).run().lines() == ["0"]


@clause("features-linux.md", "NetDevices", "enabled is a boolean; memoryPolicy lists modes and flags of the specification")
def test_newest(features):
    assert isinstance(section(features, "linux", "netDevices")["enabled"], bool)
    policy = section(features, "linux", "memoryPolicy")
    assert all(mode.startswith("MPOL_") for mode in policy["modes"]) and all(flag.startswith("MPOL_F_") for flag in policy["flags"])


@clause("features-linux.md", "MemoryPolicy", "each mode is taken")
def test_memory_policy(box, features):
    for mode in section(features, "linux", "memoryPolicy")["modes"]:
        policy = {"mode": mode} | ({} if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") else {"nodes": "0"})
        assert box(config("echo", "ok", linux={"memoryPolicy": policy})).run().lines() == ["ok"], mode


@clause("features.md", "Annotations", "annotations is a map of strings; the unsafe ones are listed by name")
def test_annotations(features):
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in features.get("annotations", {}).items())
    assert all(isinstance(name, str) for name in features.get("potentiallyUnsafeConfigAnnotations", []))
