"""The runtime on configurations of its own: what a config.json can say, compiled and carried out."""

from __future__ import annotations

import os
import subprocess

import pytest

from hutch.errors import ConfigError, StartError
from hutch.executor.launcher import Execution
from hutch.kernel.features import features
from hutch.oci.decode import decode_config
from hutch.plan.lint import lint
from hutch.runtime.compile import compile_container
from hutch.runtime.identity import ROOT_BASE
from hutch.runtime.request import Request

pytestmark = pytest.mark.root
ALL = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_NICE"]
MAPPED = {"uidMappings": [{"containerID": 0, "hostID": ROOT_BASE, "size": 65536}], "gidMappings": [{"containerID": 0, "hostID": ROOT_BASE, "size": 65536}]}


def config(*args, mounts=(), process=None, linux=None, userns=False, **top):
    kinds = ["mount", "pid", "ipc", "uts", "network", "cgroup"] + (["user"] if userns else [])
    return {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {
            "cwd": "/",
            "args": list(args),
            "env": ["PATH=/bin"],
            "capabilities": {"bounding": ALL, "effective": ALL, "permitted": ALL},
            **(process or {}),
        },
        "mounts": [{"destination": "/proc", "type": "proc"}, *mounts],
        "linux": {"namespaces": [{"type": kind} for kind in kinds], **(MAPPED if userns else {}), **(linux or {})},
        **top,
    }


@pytest.fixture
def bundle(busybox_root, tmp_path_factory):
    """Run a configuration on a busybox: ``bundle(config(...))`` gives (exit code, output)."""
    directory = tmp_path_factory.mktemp("bundle")

    def run(data, *, expect_lint=True):
        data["root"]["path"] = str(busybox_root)
        compiled = compile_container(decode_config(data), Request(id="testbundle", bundle=str(directory)), features())
        if expect_lint:
            assert lint(compiled.plan, privileged=True) == []
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        with Execution(compiled.plan, stdin=null, stdout=writer, stderr=writer) as execution:
            os.close(writer)
            os.close(null)
            try:
                last = execution.wait(20)
            finally:
                with open(reader, encoding="utf-8", errors="replace") as file:
                    os.set_blocking(reader, False)
                    try:
                        output = file.read()
                    except TypeError:  # nothing there, and the executor is still exiting
                        output = ""
        return os.waitstatus_to_exitcode(last.values[0]), output

    run.root = busybox_root
    return run


@pytest.mark.parametrize("userns", [False, True])
def test_a_plain_bundle(bundle, userns):
    if userns:
        subprocess.run(["chown", "-R", f"{ROOT_BASE}:{ROOT_BASE}", str(bundle.root)], check=True)
    code, output = bundle(config("sh", "-c", "id -u; touch /written; ls -ln /written | head -c 30; cat /proc/self/uid_map", userns=userns))
    assert code == 0 and output.startswith("0\n"), output
    assert (bundle.root / "written").exists(), "a bundle's root is used as it is"


def test_readonly_root_masks_and_frozen_paths(bundle):
    (bundle.root / "etc/secret").write_text("secret")
    linux = {"maskedPaths": ["/etc/secret", "/proc/kcore", "/none"], "readonlyPaths": ["/proc/sys", "/tmp"]}
    data = config("sh", "-c", "cat /etc/secret; touch /x; touch /tmp/y; echo 1 > /proc/sys/kernel/panic; head -c 1 /proc/kcore | wc -c", linux=linux)
    data["root"]["readonly"] = True
    _, output = bundle(data)
    assert "secret" not in output and output.count("Read-only file system") == 3 and output.rstrip().endswith("0")


def test_tmpfs_with_copy_up(bundle):
    (bundle.root / "data/sub").mkdir(parents=True)
    (bundle.root / "data/sub/file").write_text("from the image")
    (bundle.root / "data/link").symlink_to("sub/file")
    os.chmod(bundle.root / "data/sub/file", 0o640)
    mounts = [{"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}]
    code, output = bundle(config("sh", "-c", "cat /data/link; stat -c %a /data/sub/file; echo x > /data/new", mounts=mounts))
    assert (code, output) == (0, "from the image640\n")
    assert not (bundle.root / "data/new").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["bind"], "rw"),
        (["bind", "ro"], "ro"),
        (["rbind", "rro"], "ro"),
        (["rbind", "ro", "nosuid", "nodev", "noexec"], "ro,nosuid,nodev,noexec"),
        (["bind", "noatime"], "noatime"),
        (["rbind", "rnosuid"], "nosuid"),
    ],
)
def test_bind_options(bundle, tmp_path, options, expected):
    mounts = [{"destination": "/data", "type": "bind", "source": str(tmp_path), "options": options}]
    _, output = bundle(config("sh", "-c", "cat /proc/self/mountinfo", mounts=mounts))
    line = next(line for line in output.splitlines() if " /data " in line)
    assert set(expected.split(",")) <= set(line.split()[5].split(","))


@pytest.mark.parametrize(("kind", "mark"), [("shared", "shared:"), ("rshared", "shared:"), ("unbindable", "unbindable"), ("rslave", ""), ("rprivate", "")])
def test_propagation(bundle, tmp_path, kind, mark):
    mounts = [{"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["rbind", kind]}]
    _, output = bundle(config("cat", "/proc/self/mountinfo", mounts=mounts))
    optional = next(line for line in output.splitlines() if " /data " in line).split(" - ")[0].split()[6:]
    assert any(word.startswith(mark) for word in optional) if mark else not any("shared" in word for word in optional)


def test_rootfs_propagation(bundle):
    _, output = bundle(config("cat", "/proc/self/mountinfo", linux={"rootfsPropagation": "rshared"}))
    assert "shared:" in next(line for line in output.splitlines() if line.split()[4] == "/")


def test_idmapped_bind(bundle, tmp_path):
    subprocess.run(["chown", "-R", f"{ROOT_BASE}:{ROOT_BASE}", str(bundle.root)], check=True)
    (tmp_path / "file").write_text("x")
    mounts = [{"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["bind", "idmap"]}]
    _, output = bundle(config("sh", "-c", "stat -c %u:%g /data/file; touch /data/new", mounts=mounts, userns=True))
    assert output == "0:0\n" and (tmp_path / "new").stat().st_uid == 0


def test_every_kind_of_mount(bundle):
    mounts = [
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
        {"destination": "/made/by/hutch", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
    ]
    _, output = bundle(config("cat", "/proc/self/mountinfo", mounts=mounts))
    found = {line.split()[4]: line.split(" - ")[1].split()[0] for line in output.splitlines()}
    assert {k: v for k, v in found.items() if k in ("/dev", "/dev/pts", "/dev/mqueue", "/sys", "/made/by/hutch", "/proc")} == {
        "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/mqueue": "mqueue", "/sys": "sysfs", "/made/by/hutch": "tmpfs", "/proc": "proc",
    }  # fmt: skip
    assert any(kind in ("cgroup", "cgroup2") for kind in found.values())


def test_devices(bundle):
    linux = {
        "devices": [
            {"path": "/dev/fuse-like", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/deep/er/pipe", "type": "p"},
        ]
    }
    mounts = [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}]
    _, output = bundle(config("sh", "-c", "stat -c '%F %a %u %g' /dev/fuse-like /deep/er/pipe /dev/null; readlink /dev/fd", mounts=mounts, linux=linux))
    lines = output.splitlines()
    assert lines[0] == "character special file 640 7 8" and lines[1].startswith("fifo") and lines[2] == "character special file 666 0 0"
    assert lines[3] == "/proc/self/fd"


def test_the_process(bundle):
    process = {
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o077},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        "oomScoreAdj": 500,
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
        "execCPUAffinity": {"final": "0"},
        "capabilities": {
            "bounding": ["CAP_CHOWN"],
            "permitted": ["CAP_CHOWN"],
            "effective": ["CAP_CHOWN"],
            "inheritable": ["CAP_CHOWN"],
            "ambient": ["CAP_CHOWN"],
        },
        "noNewPrivileges": True,
    }
    script = (
        "id; umask; ulimit -n; cat /proc/self/oom_score_adj; cat /proc/self/stat | cut -d' ' -f19; grep -E 'Cpus_allowed_list|CapEff|NoNew' /proc/self/status"
    )
    for name in ("cut", "grep"):
        (bundle.root / f"bin/{name}").symlink_to("busybox")
    _, output = bundle(config("sh", "-c", script, process=process, linux={"personality": {"domain": "LINUX"}}))
    assert "uid=1000(anna) gid=1001 groups=5,6" in output and "0077\n100\n500\n5\n" in output
    assert "CapEff:\t0000000000000001" in output and "NoNewPrivs:\t1" in output and "Cpus_allowed_list:\t0" in output


def test_names_sysctls_and_clocks(bundle):
    linux = {"sysctl": {"kernel.shmmax": "12345", "net.ipv4.ip_forward": "1"}, "timeOffsets": {"boottime": {"secs": 5_000_000}}}
    data = config(
        "sh", "-c", "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_forward /proc/uptime", linux=linux
    )
    data["linux"]["namespaces"].append({"type": "time"})
    _, output = bundle({**data, "hostname": "box", "domainname": "nis"})
    lines = output.split()
    assert lines[:4] == ["box", "nis", "12345", "1"] and float(lines[4]) > 5_000_000


def test_joining_namespaces_by_path(bundle):
    holder = subprocess.Popen(["unshare", "--net", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "sleep", "100"])
    try:
        import time

        child = 0
        for _ in range(100):
            with open(f"/proc/{holder.pid}/task/{holder.pid}/children") as file:
                child = int(file.read() or 0)
            if child and os.readlink(f"/proc/{child}/ns/pid") != os.readlink("/proc/self/ns/pid"):
                break
            time.sleep(0.02)
        data = config("sh", "-c", "for n in net uts ipc pid; do readlink /proc/self/ns/$n; done; ps")
        data["linux"]["namespaces"] = [{"type": "mount"}, {"type": "cgroup"}] + [
            {"type": kind, "path": f"/proc/{child}/ns/{name}"} for kind, name in (("network", "net"), ("uts", "uts"), ("ipc", "ipc"), ("pid", "pid"))
        ]
        _, output = bundle(data)
        assert output.split()[:4] == [os.readlink(f"/proc/{child}/ns/{n}") for n in ("net", "uts", "ipc", "pid")], output
        assert "sleep 100" in output
    finally:
        holder.terminate()
        subprocess.run(["pkill", "-KILL", "-P", str(holder.pid)], check=False)
        holder.wait()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mounts": [{"destination": "/x", "source": "/nowhere", "options": ["bind"]}]}, r"mounts\[1\]: clone mount /nowhere as <bind-1>: No such file"),
        ({"mounts": [{"destination": "/x", "type": "nosuchfs"}]}, r"mounts\[1\]: make nosuchfs.*this kernel has no nosuchfs"),
        ({"mounts": [{"destination": "/x", "type": "tmpfs", "options": ["size=nonsense"]}]}, r"mounts\[1\]: make tmpfs"),
        ({"mounts": [{"destination": "/etc/passwd", "type": "tmpfs"}]}, r"mounts\[1\]: attach tmpfs on /etc/passwd.*directory"),
        ({"process": {"cwd": "/nowhere"}}, "process.cwd: change directory to /nowhere.*: No such file"),
        ({"linux": {"resources": {"unified": {}, "memory": {"limit": 1}, "cpu": {"period": 7}}}}, "linux.resources.cpu.period"),
    ],
)
def test_failures_name_their_origin(bundle, change, message):
    with pytest.raises(StartError, match=f"(?s){message}"):
        bundle(config("true", **change))


def test_what_would_change_the_host_is_refused(bundle):
    with pytest.raises(ConfigError, match="would change the host"):
        bundle(config("true", linux={"sysctl": {"kernel.panic": "1"}}))
    data = config("true")
    data["linux"]["namespaces"] = [n for n in data["linux"]["namespaces"] if n["type"] != "uts"]
    with pytest.raises(ConfigError, match="hostname: a host name without a uts namespace"):
        bundle({**data, "hostname": "x"})
