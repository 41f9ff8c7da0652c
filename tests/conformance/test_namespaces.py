"""Namespaces: new, inherited, joined; what is mapped, offset and moved into them."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.conformance.outside import in_namespace
from tests.conformance.runtime import MAPPED, MAPPING, NAMESPACES, config, label, mapped, shell

pytestmark = pytest.mark.root
clause = pytest.mark.clause
FILES = {"pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "user": "user", "cgroup": "cgroup", "time": "time"}
LOOK = "for n in pid net mnt ipc uts user cgroup time; do readlink /proc/self/ns/$n; done"


def here() -> dict[str, str]:
    return {kind: os.readlink(f"/proc/self/ns/{file}") for kind, file in FILES.items()}


def look(container, **rest) -> dict[str, str]:
    return dict(zip(FILES, container.run(**rest).lines(), strict=True))


@clause("config-linux.md", "Namespaces", "without a path a new namespace MUST be created")
@pytest.mark.parametrize("user", [False, True], ids=["", "user"])
def test_new(box, user):
    found = look(box(mapped(LOOK) if user else shell(LOOK)))
    host = here()
    assert {kind for kind in FILES if found[kind] != host[kind]} == {*NAMESPACES, *(["user"] if user else [])}


@clause("config-linux.md", "Namespaces", "a type that is not specified MUST be inherited")
@pytest.mark.parametrize("kind", [n for n in NAMESPACES if n != "mount"])
def test_inherited(box, kind):
    found = look(box(shell(LOOK, namespaces=[n for n in NAMESPACES if n != kind])))
    host = here()
    assert {k for k in FILES if found[k] != host[k]} == set(NAMESPACES) - {kind}


@clause("config-linux.md", "Namespaces", "the container process MUST be placed in the namespace of the path")
@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup", "mount"])
def test_joined(box, holder, kind):
    held = holder(*{"network": ["net"]}.get(kind, [kind]))
    path = held.path(FILES[kind])
    container = box(shell(LOOK, namespaces=[*(n for n in NAMESPACES if n != kind), {"type": kind, "path": path}]))
    assert look(container)[kind] == os.readlink(path)


@clause("config-linux.md", "Namespaces", "a user namespace is joined by its path, with those that it owns")
def test_joined_user(box, holder):
    held = holder("user", "net", "uts", "ipc")
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{held.pid}/{name}", "w") as file:
            file.write(f"0 {MAPPED} 65536\n")
    spaces = ["mount", "pid", *({"type": kind, "path": held.path(FILES[kind])} for kind in ("user", "network", "uts", "ipc"))]
    container = box(shell(LOOK + "; id -u", namespaces=spaces))
    lines = container.run().lines()
    found = dict(zip(FILES, lines, strict=False))
    assert {kind: found[kind] for kind in ("user", "network", "uts", "ipc")} == {k: os.readlink(held.path(FILES[k])) for k in ("user", "network", "uts", "ipc")}
    assert lines[-1] == "0"


@clause("config-linux.md", "Namespaces", "an error if the path is not of a namespace of that type")
@pytest.mark.parametrize(("kind", "path"), [("network", "/proc/self/ns/uts"), ("uts", "/etc/passwd"), ("ipc", "/nowhere"), ("network", "relative/ns")])
def test_wrong_path(box, kind, path):
    box(config("true", namespaces=[*(n for n in NAMESPACES if n != kind), {"type": kind, "path": path}])).create().failed()


@clause("config-linux.md", "Namespaces", "duplicates MUST generate an error")
@pytest.mark.parametrize("kind", ["uts", "network", "mount"])
def test_duplicates(box, kind):
    box(config("true", namespaces=[*NAMESPACES, kind])).create().failed()


@clause("config-linux.md", "Namespaces", "an unknown type is an error")
def test_unknown_type(box):
    box(config("true", namespaces=[*NAMESPACES, "novel"])).create().failed()


@clause("config-linux.md", "Namespaces", "pid: only processes inside the container are seen; the process is the first")
def test_pid_view(box):
    lines = box(shell("echo $$; ls /proc | grep -c '^[0-9]'")).run().lines()
    assert lines[0] == "1" and int(lines[1]) <= 3


@clause("config-linux.md", "Namespaces", "network: a stack of its own, with a loopback")
def test_network_view(box):
    lines = box(config("cat", "/proc/net/dev")).run().lines()
    assert "lo" in {line.split(":")[0].strip() for line in lines[2:]} and not any("eth0" in line for line in lines)


@clause("config-linux.md", "Namespaces", "cgroup: the container sees its own cgroup as the root")
def test_cgroup_view(box):
    lines = box(config("cat", "/proc/self/cgroup")).run().lines()
    assert next(line for line in lines if ":pids:" in line or line.startswith("0::")).endswith(":/")


@clause("config-linux.md", "User namespace mappings", "uidMappings and gidMappings from the container to the host")
def test_mappings(box):
    parts = [{"containerID": 0, "hostID": MAPPED, "size": 1000}, {"containerID": 1000, "hostID": MAPPED + 5000, "size": 10}]
    groups = [{"containerID": 0, "hostID": MAPPED + 7, "size": 100}]
    data = mapped("cat /proc/self/uid_map /proc/self/gid_map; id -u", linux={"uidMappings": parts, "gidMappings": groups})
    found = [line.split() for line in box(data).run().lines()]
    assert found == [["0", str(MAPPED), "1000"], ["1000", str(MAPPED + 5000), "10"], ["0", str(MAPPED + 7), "100"], ["0"]]


@clause("config-linux.md", "User namespace mappings", "the process' ids are those of the container namespace")
def test_mapped_user(box):
    container = box(mapped("sleep 100", process={"user": {"uid": 1000, "gid": 1000}})).up()
    with open(f"/proc/{container.init}/status") as file:
        found = dict(line.split(":", 1) for line in file)
    assert found["Uid"].split()[0] == found["Gid"].split()[0] == str(MAPPED + 1000)


@clause("config-linux.md", "User namespace mappings", "mappings without a user namespace are an error or nothing: the host's ids are not mapped")
def test_mappings_without_a_namespace(box):
    result = box(shell("cat /proc/self/uid_map", linux={"uidMappings": MAPPING, "gidMappings": MAPPING})).run()
    assert result.code != 0 or result.out.split() == ["0", "0", "4294967295"]


@clause("config-linux.md", "Offset for Time Namespace", "secs and nanosecs of each clock")
def test_time_offsets(box):
    offsets = {"boottime": {"secs": 5_000_000}, "monotonic": {"secs": 7_000_000, "nanosecs": 5}}
    lines = box(shell("cat /proc/uptime /proc/self/timens_offsets", linux={"timeOffsets": offsets}, namespaces=(*NAMESPACES, "time"))).run().lines()
    assert float(lines[0].split()[0]) > 5_000_000
    assert {line.split()[0]: line.split()[1:] for line in lines[1:]} == {"boottime": ["5000000", "0"], "monotonic": ["7000000", "5"]}


@clause("config-linux.md", "Namespaces", "time: new, and joined by path")
def test_time_namespace(box, holder):
    assert look(box(shell(LOOK, namespaces=(*NAMESPACES, "time"))))["time"] != here()["time"]
    held = holder("pid", "time")
    container = box(shell(LOOK, namespaces=(*NAMESPACES, {"type": "time", "path": held.path("time")})))
    assert look(container)["time"] == os.readlink(held.path("time"))


@clause("config-linux.md", "Offset for Time Namespace", "an offset without a time namespace, or of an unknown clock, is an error")
@pytest.mark.parametrize(("clock", "spaces"), [("boottime", NAMESPACES), ("novel", (*NAMESPACES, "time"))], ids=["no namespace", "unknown clock"])
def test_wrong_time_offsets(box, clock, spaces):
    box(config("true", linux={"timeOffsets": {clock: {"secs": 1}}}, namespaces=spaces)).create().failed()


@pytest.fixture
def network(holder):
    """A network namespace that the runtime runs in, with one device to give away."""
    held = holder("net")
    words = in_namespace(held.pid, "net")
    for line in ("link add conf0 type veth peer name conf1", "addr add 10.97.98.99/24 dev conf0", "link set conf0 mtu 1300", "link set lo up"):
        subprocess.run([*words, "ip", *line.split()], check=True)
    return words


@clause("config-linux.md", "Network Devices", "the device is moved, renamed, set up, and keeps its addresses and attributes")
@pytest.mark.parametrize(("value", "name"), [({"name": "eth7"}, "eth7"), ({}, "conf0"), ({"name": "net%d"}, "net0")], ids=label)
def test_net_devices(box, network, value, name):
    container = box(config("ip", "addr", linux={"netDevices": {"conf0": value}}, process={"capabilities": {}}))
    text = container.run(prefix=network).ok().out
    block = text[text.index(f": {name}@") if f": {name}@" in text else text.index(f": {name}:") :]
    assert "UP" in block.splitlines()[0] and "mtu 1300" in block.splitlines()[0] and "10.97.98.99/24" in block
    assert subprocess.run([*network, "ip", "link", "show", "conf0"], capture_output=True, check=False).returncode != 0


@clause("config-linux.md", "Network Devices", "a device that is not there, a name that is taken, no network namespace: an error")
@pytest.mark.parametrize(("host", "name", "spaces"), [("conf9", "eth0", NAMESPACES), ("conf0", "lo", NAMESPACES), ("conf0", "eth0", [n for n in NAMESPACES if n != "network"]),
    ("conf0", "a/b", NAMESPACES), ("conf0", "x" * 16, NAMESPACES)], ids=["missing", "taken", "no namespace", "slash", "too long"])  # fmt: skip
def test_wrong_net_devices(box, network, host, name, spaces):
    box(config("true", linux={"netDevices": {host: {"name": name}}}, namespaces=spaces)).create(prefix=network).failed()
    assert subprocess.run([*network, "ip", "link", "show", "conf0"], capture_output=True, check=False).returncode == 0
