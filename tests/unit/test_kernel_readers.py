"""What is read from /proc, /etc and cgroupfs."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, strategies as st

from hutch.errors import ConfigError
from hutch.kernel import capabilities, cgroupfs, features, proc
from hutch.kernel.features import SubordinateIds, subordinate_ids
from hutch.kernel.proc import MountInfo, parse_cgroups, parse_mountinfo
from tests.unit.machines import ROOT_HYBRID, ROOTLESS, mount

LINE = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue"


def test_mountinfo():
    """proc_pid_mountinfo(5)'s own example; the optional fields are any number."""
    expected = MountInfo(
        mount_id=36, parent_id=35, device="98:0", root="/mnt1", mount_point="/mnt2", options=("rw", "noatime"), kind="ext3", source="/dev/root",
        super_options=("rw", "errors=continue"),
    )  # fmt: skip
    assert parse_mountinfo(LINE) == (expected,)
    assert parse_mountinfo(LINE.replace(" master:1 shared:2", "") + "\n") == (expected,)
    assert parse_mountinfo(LINE + "\n" + LINE + "\n") == (expected, expected)


@pytest.mark.parametrize("text", ["", "\n", "garbage", "36 35 98:0 / /mnt", "36 35 98:0 / /mnt rw", "36 35 98:0 / /mnt rw - ext3"])
def test_mountinfo_passes_over_what_is_none(text):
    assert parse_mountinfo(text) == ()


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [("/a\\040b", "/a b"), ("/a\\011b", "/a\tb"), ("/a\\012b", "/a\nb"), ("/a\\134b", "/a\\b"), ("/a\\134040b", "/a\\040b"), ("/a\\134\\040", "/a\\ "), ("/a//deleted", "/a//deleted")],
)  # fmt: skip
def test_mountinfo_escapes(escaped, plain):
    found = parse_mountinfo(LINE.replace("/mnt2", escaped).replace("/mnt1", escaped))[0]
    assert found.mount_point == found.root == plain


def test_mountinfo_escapes_a_source():
    """show_mountinfo mangles sources with "#" too (fs/proc_namespace.c)."""
    assert parse_mountinfo(LINE.replace("/dev/root", "nfs:/a\\043b"))[0].source == "nfs:/a#b"


def escape(text: str) -> str:
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in text)


@given(point=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12))
def test_mountinfo_takes_any_path(point):
    """The kernel escapes blank, tab, newline and backslash alone: a form feed or a U+2028 in a mount point is no new line."""
    found = parse_mountinfo(LINE.replace("/mnt2", f"/{escape(point)}") + "\n" + LINE)
    assert [m.mount_point for m in found] == [f"/{point}", "/mnt2"]


def test_cgroups():
    text = "12:cpu,cpuacct:/user.slice\n3:name=systemd:/init.scope\n0::/a:b/c\n"
    assert parse_cgroups(text) == {"cpu": "/user.slice", "cpuacct": "/user.slice", "name=systemd": "/init.scope", "": "/a:b/c"}
    assert parse_cgroups("") == {}
    assert parse_cgroups("0::/\n") == {"": "/"}


@given(name=st.text(st.characters(codec="utf-8", exclude_characters="\0\n/"), min_size=1, max_size=8))
def test_cgroups_take_any_name(name):
    assert parse_cgroups(f"0::/{name}\n") == {"": f"/{name}"}


def test_real_files():
    assert any(m.mount_point == "/" for m in proc.mounts())
    assert int(proc.status()["Pid"]) == os.getpid()
    assert proc.start_time(os.getpid()) == proc.start_time(os.getpid()) > 0
    assert proc.start_time(2**22 + 1) is None


# Subordinate ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("anna:100000:65536\n", (100000, 65536)),
        ("bob:1:2\nanna:100000:65536\n", (100000, 65536)),
        ("1000:200000:65536\n", (200000, 65536)),
        ("anna:100000:10\nanna:300000:20\n1000:5:15\n", (300000, 20)),
        ("anna:100000:65536 \n", (100000, 65536)),
        ("# anna:1:2\nannab:1:2\nanna\nanna:\nanna:1\nanna:a:b\nanna:-1:5\n", None),
    ],
)
def test_subordinate_ids(text, expected):
    found = subordinate_ids(text, 1000, "anna")
    assert found == (None if expected is None else SubordinateIds(start=expected[0], count=expected[1]))


@pytest.mark.parametrize("line", ["anna:²:5", "anna:5:²"])
def test_subordinate_ids_take_ascii_digits_alone(line):
    assert subordinate_ids(line, 1000, "anna") is None


def test_user_name():
    assert features.user_name(0) == "root"
    assert features.user_name(3999999999) == "3999999999"


# cgroupfs


def cgroup_mount(point: str, kind: str, options: str = "") -> MountInfo:
    return mount(point, kind).replace(super_options=("rw", *options.split(",")))


def test_detect_v2(tmp_path):
    own = tmp_path / "user.slice"
    own.mkdir()
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    (own / "cgroup.subtree_control").write_text("")
    (own / "cgroup.procs").write_text("")
    found = cgroupfs.detect((mount("/", "ext4"), cgroup_mount(str(tmp_path), "cgroup2")), "0::/user.slice\n")
    assert found == cgroupfs.CgroupLayout(
        mode="v2", v2_mount=str(tmp_path), v2_path="/user.slice", v2_controllers=("cpu", "memory", "pids"), v2_root_subtree=("cpu",), v2_writable=True
    )


def test_detect_v1_and_hybrid(tmp_path):
    mounts = (
        cgroup_mount("/cg/cpu", "cgroup", "cpu,cpuacct"), cgroup_mount("/cg/systemd", "cgroup", "xattr,name=systemd"), cgroup_mount("/cg/memory", "cgroup", "memory"),
        cgroup_mount("/elsewhere", "cgroup", "memory"),
    )  # fmt: skip
    text = "4:memory:/m\n3:cpu,cpuacct:/c\n2:name=systemd:/s\n"
    found = cgroupfs.detect(mounts, text)
    assert found.mode == "v1" and found.v2_mount == ""
    assert [(c.name, c.mount, c.path) for c in found.v1] == [("cpu", "/cg/cpu", "/c"), ("cpuacct", "/cg/cpu", "/c"), ("memory", "/cg/memory", "/m")]
    assert found.controller("memory") == found.v1[2] and found.controller("pids") is None
    both = cgroupfs.detect((*mounts, cgroup_mount(str(tmp_path), "cgroup2")), text + "0::/\n")
    assert both.mode == "hybrid" and both.v2_mount == str(tmp_path) and not both.v2_writable


def test_detect_none():
    assert cgroupfs.detect((mount("/", "ext4"),), "").mode == "none"


# Capabilities


def test_capability_numbers():
    """linux/capability.h."""
    assert capabilities.NUMBERS["CAP_CHOWN"] == 0
    assert capabilities.NUMBERS["CAP_NET_ADMIN"] == 12 and capabilities.NUMBERS["CAP_SYS_ADMIN"] == 21
    assert capabilities.NUMBERS["CAP_CHECKPOINT_RESTORE"] == 40 == len(capabilities.NUMBERS) - 1
    assert capabilities.ALL == 2**41 - 1 and capabilities.SYS_ADMIN == 1 << 21


def test_capability_headers():
    path = "/usr/include/linux/capability.h"
    if not os.path.exists(path):
        pytest.skip("no kernel headers")
    with open(path) as file:
        words = [line.split() for line in file if line.startswith("#define CAP_")]
    found = {w[1]: int(w[2]) for w in words if len(w) > 2 and w[2].isdigit()}
    assert {n: v for n, v in found.items() if capabilities.NUMBERS.get(n) != v} == {}


@given(st.integers(0, capabilities.ALL))
def test_capability_masks(bits):
    assert capabilities.mask(capabilities.names(bits)) == bits


def test_capability_names():
    assert capabilities.canonical("net_admin") == capabilities.canonical("CAP_NET_ADMIN") == capabilities.canonical("Cap_Net_Admin") == "CAP_NET_ADMIN"
    for wrong in ("", "CAP_", "fly", "ALL", "CAP_CAP_CHOWN", "12"):
        with pytest.raises(ConfigError, match="unknown capability"):
            capabilities.canonical(wrong)
    with pytest.raises(ConfigError) as caught:
        capabilities.mask(["CAP_CHOWN", "chown"], "process.capabilities.bounding")
    assert str(caught.value) == "process.capabilities.bounding: unknown capability chown"
    assert len(capabilities.DEFAULT) == 14 and set(capabilities.DEFAULT) <= set(capabilities.NUMBERS)


# Features


def test_privileged():
    assert ROOT_HYBRID.privileged and not ROOTLESS.privileged
    assert not ROOT_HYBRID.replace(capabilities=capabilities.ALL & ~capabilities.SYS_ADMIN).privileged


def test_mount_at():
    found = ROOT_HYBRID.replace(mounts=(mount("/", "ext4", 1), mount("/data", "xfs", 2), mount("/data", "tmpfs", 3), mount("/data/x", "nfs4", 4)))
    kinds = {path: found.mount_at(path).kind for path in ("/", "/dat", "/database", "/data", "/data/y", "/data/x", "/data/x/y", "/data/xy")}
    assert kinds == {
        "/": "ext4",
        "/dat": "ext4",
        "/database": "ext4",
        "/data": "tmpfs",
        "/data/y": "tmpfs",
        "/data/x": "nfs4",
        "/data/x/y": "nfs4",
        "/data/xy": "tmpfs",
    }
    assert ROOT_HYBRID.replace(mounts=()).mount_at("/") is None


@pytest.mark.parametrize(
    ("kind", "kernel", "able"), [("ext4", (5, 12), True), ("ext4", (5, 11), False), ("tmpfs", (6, 2), False), ("tmpfs", (6, 3), True), ("nfs4", (6, 18), False)]
)
def test_can_idmap(kind, kernel, able):
    assert ROOT_HYBRID.replace(kernel=kernel, mounts=(mount("/", kind),)).can_idmap("/usr") is able


def test_probe_is_this_machine():
    found = features.probe()
    assert found.uid == os.geteuid() and found.machine == os.uname().machine and found.mounts
    assert found.kernel == tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2])
