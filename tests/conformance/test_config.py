"""What a config.json says beyond its process: version, root, names, kernel parameters, unknown properties."""

from __future__ import annotations

import os

import pytest

from tests.conformance.runtime import NAMESPACES, config, label, shell

pytestmark = pytest.mark.root
clause = pytest.mark.clause


@clause("config.md", "Specification version", "compatible with all versions of its major version")
@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0"])
def test_versions(box, version):
    assert box(config("echo", "ok") | {"ociVersion": version}).run().lines() == ["ok"]


@clause("config.md", "Specification version", "MUST be in SemVer v2.0.0 format; another major version is not compatible")
@pytest.mark.parametrize("version", ["2.0.0", "garbage", "", "1", "1.x.0", None], ids=label)
def test_wrong_versions(box, version):
    data = config("true") | {"ociVersion": version}
    if version is None:
        del data["ociVersion"]
    box(data).create().failed()


@clause("config.md", "Extensibility", "unknown properties MUST be ignored")
def test_unknown_properties(box):
    data = config("echo", "ok", process={"novel": {"a": 1}}, linux={"novel": [1]}, novel="x")
    data["root"]["novel"] = True
    data["process"]["user"]["novel"] = 1
    data["mounts"][0]["novel"] = "y"
    data["linux"]["namespaces"][0]["novel"] = 2
    data["annotations"] = {"org.opencontainers.novel": "z"}
    assert box(data).run().lines() == ["ok"]


@clause("config.md", "Valid values", "MUST generate an error when invalid or unsupported values are encountered")
@pytest.mark.parametrize("change", [
    {"process": {"args": []}}, {"process": {"args": ["true"], "cwd": "relative"}}, {"process": {"args": ["true"], "cwd": ""}},
    {"process": {"args": "true"}}, {"linux": {"rootfsPropagation": "nonsense"}}, {"root": {"path": ""}},
], ids=label)  # fmt: skip
def test_invalid_values(box, change):
    data = config("true")
    for key, value in change.items():
        data[key] = {**data[key], **value}
    box(data).create().failed()


@clause("config.md", "Root", "path is absolute or relative to the bundle")
@pytest.mark.parametrize("kind", ["rootfs", "./rootfs", "other/root", "absolute"])
def test_root_path(box, kind):
    container = box(config("echo", "ok"))
    path = str(container.rootfs) if kind == "absolute" else kind
    if kind == "other/root":
        (container.bundle / "other").mkdir()
        container.rootfs.rename(container.bundle / "other/root")
    container.write(container.data | {"root": {"path": path}})
    assert container.run().lines() == ["ok"]


@clause("config.md", "Root", "a directory MUST exist at the path")
@pytest.mark.parametrize("path", ["nowhere", "config.json", "/nowhere/at/all"])
def test_missing_root(box, path):
    box(config("true", root={"path": path})).create().failed()


@clause("config.md", "Root", "the field is REQUIRED")
def test_no_root(box):
    data = config("true")
    del data["root"]
    box(data).create().failed()


@clause("config.md", "Root", "if readonly is true the root MUST be read-only inside, else it is not")
@pytest.mark.parametrize("readonly", [True, False])
def test_readonly_root(box, readonly):
    container = box(shell("touch /file 2>/dev/null && echo written; touch /dev/x && echo dev", root={"path": "rootfs", "readonly": readonly}))
    lines = container.run().lines()
    assert lines == (["dev"] if readonly else ["written", "dev"])
    assert (container.rootfs / "file").exists() != readonly


@clause("config.md", "Hostname", "the hostname as seen by processes inside")
def test_hostname(box):
    before = os.uname().nodename
    assert box(config("hostname", hostname="conf.example")).run().lines() == ["conf.example"]
    assert os.uname().nodename == before


@clause("config.md", "Domainname", "the domainname as seen by processes inside")
def test_domainname(box):
    assert box(config("cat", "/proc/sys/kernel/domainname", domainname="conf.test")).run().lines() == ["conf.test"]


@clause("config.md", "Hostname", "a hostname must not change the host's: an error without a uts namespace")
def test_hostname_without_a_namespace(box):
    before = os.uname().nodename
    kinds = [n for n in NAMESPACES if n != "uts"]
    result = box(config("true", hostname=before, namespaces=kinds)).create()
    assert os.uname().nodename == before
    result.failed()


@clause("config-linux.md", "Sysctl", "kernel parameters of the container's namespaces")
@pytest.mark.parametrize(
    ("name", "value"), [("net.ipv4.ip_forward", "1"), ("net.core.somaxconn", "256"), ("kernel.msgmax", "4096"), ("fs.mqueue.msg_max", "12")]
)
def test_sysctl(box, name, value):
    path = "/proc/sys/" + name.replace(".", "/")
    before = open(path).read()
    assert box(config("cat", path, linux={"sysctl": {name: value}})).run().lines() == [value]
    assert open(path).read() == before


@clause("config-linux.md", "Sysctl", "a parameter that is not of a namespace's is refused: it would be the host's")
@pytest.mark.parametrize("name", ["kernel.panic", "vm.swappiness", "kernel.pid_max"])
def test_sysctl_of_the_host(box, name):
    value = open("/proc/sys/" + name.replace(".", "/")).read().strip()
    box(config("true", linux={"sysctl": {name: value}})).create().failed()


@clause("config-linux.md", "Sysctl", "a parameter of a namespace that the container does not have is refused")
@pytest.mark.parametrize(("name", "kind"), [("net.ipv4.ip_forward", "network"), ("kernel.msgmax", "ipc")])
def test_sysctl_without_its_namespace(box, name, kind):
    value = open("/proc/sys/" + name.replace(".", "/")).read().strip()
    kinds = [n for n in NAMESPACES if n != kind]
    box(config("true", linux={"sysctl": {name: value}}, namespaces=kinds)).create().failed()


@clause("config-linux.md", "Sysctl", "an unknown parameter is an error")
def test_unknown_sysctl(box):
    box(config("true", linux={"sysctl": {"net.novel.thing": "1"}})).create().failed()


@clause("config-linux.md", "Personality", "LINUX32 makes uname show a 32 bit CPU type")
@pytest.mark.parametrize(("domain", "machine"), [("LINUX", os.uname().machine), ("LINUX32", "i686")])
def test_personality(box, domain, machine):
    assert box(config("uname", "-m", linux={"personality": {"domain": domain}})).run().lines() == [machine]


@clause("config-linux.md", "Personality", "only the listed domains are valid")
def test_unknown_personality(box):
    box(config("true", linux={"personality": {"domain": "SOLARIS"}})).create().failed()


@clause("config-linux.md", "IntelRdt", "an error when no resctrl is mounted")
def test_intel_rdt(box):
    if os.path.exists("/sys/fs/resctrl/schemata"):
        pytest.skip("this host has resctrl")
    result = box(config("true", linux={"intelRdt": {"closID": "hutch-conf", "l3CacheSchema": "L3:0=f"}})).create()
    result.failed()


@clause("config-linux.md", "Memory policy", "the policy of set_mempolicy(2)")
@pytest.mark.parametrize(("policy", "seen"), [({"mode": "MPOL_BIND", "nodes": "0"}, "bind:0"), ({"mode": "MPOL_INTERLEAVE", "nodes": "0"}, "interleave:0"),
    ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}, "bind=static:0"), ({"mode": "MPOL_DEFAULT"}, "default"),
    ({"mode": "MPOL_LOCAL"}, "local"), ({"mode": "MPOL_PREFERRED", "nodes": "0"}, "prefer:0")], ids=label)  # fmt: skip
def test_memory_policy(box, policy, seen):
    lines = box(config("cat", "/proc/self/numa_maps", linux={"memoryPolicy": policy})).run().lines()
    assert seen in {line.split()[1] for line in lines}, lines


@clause("config-linux.md", "Memory policy", "only the listed modes and flags are valid; the nodes must fit the mode")
@pytest.mark.parametrize(
    "policy", [{"mode": "MPOL_NOVEL"}, {"mode": "MPOL_BIND"}, {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NOVEL"]}, {"nodes": "0"}], ids=label
)
def test_invalid_memory_policy(box, policy):
    box(config("true", linux={"memoryPolicy": policy})).create().failed()


@clause("config.md", "Linux Process", "an AppArmor profile, an SELinux label where the kernel has neither: an error, not silence")
@pytest.mark.parametrize("change", [
    {"process": {"apparmorProfile": "hutch-conf"}}, {"process": {"selinuxLabel": "system_u:system_r:container_t:s0"}},
    {"linux": {"mountLabel": "system_u:object_r:container_file_t:s0"}},
], ids=lambda change: next(iter(next(iter(change.values())))))  # fmt: skip
def test_labels_without_a_module(box, change):
    if os.path.exists("/sys/kernel/security/apparmor") or os.path.exists("/sys/fs/selinux/enforce"):
        pytest.skip("this kernel has a security module with labels")
    box(config("true", **change)).create().failed()
