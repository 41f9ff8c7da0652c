"""Chapter 6's script: what a container made by hand sees, what it may not, and that nothing stays."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs/rabbit-hole/container.py"

pytestmark = pytest.mark.root


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)


def shell(script: str, *options: str) -> str:
    done = run("--quiet", *options, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tour():
    done = run()
    assert done.returncode == 0, done.stderr
    assert "I am root, uid 0, process 1 on rabbit-hole" in done.stdout
    assert "unchanged on the host" in done.stdout and not os.path.exists("/usr/new")
    for call in ("clone3", "uid_map", "overlay on /usr", "proc on /proc", "pivot_root", "umount2", "CAPBSET_DROP", "NO_NEW_PRIVS", "SET_MODE_FILTER", "execve"):
        assert call in done.stderr


def test_every_namespace_is_new(busybox_root):
    names = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    inside = shell(f"for n in {' '.join(names)}; do readlink /proc/self/ns/$n; done", "--root", str(busybox_root)).split()
    outside = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    assert len(inside) == len(names) and not set(inside) & set(outside)


def test_nothing_of_the_host_is_stacked_on_the_root(busybox_root):
    """One umount2 too few leaves the host's tree one `..` away."""
    out = shell("ls -a /..; cat /proc/self/mountinfo", "--root", str(busybox_root))
    names = out.partition(" / / ")[0].split()  # before mountinfo's first line
    assert "bin" in names and not {"work", "lower", "upper", "boot"} & set(names)  # neither the host's nor the layers' directory
    points = [line.split()[4] for line in out.splitlines() if " - " in line]
    assert points.count("/") == 1
    assert set(points) <= {"/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", *(f"/dev/{n}" for n in ("null", "zero", "full", "random", "urandom", "tty"))}


def test_capabilities_privileges_and_filter(busybox_root):
    out = shell("cat /proc/self/status; mount -t tmpfs x /tmp && echo mounted; mknod /tmp/disk b 8 0 && echo made; true", "--root", str(busybox_root))
    status = dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["CapBnd"] == status["CapEff"] == "00000000000004eb"
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert "mounted" not in out and "made" not in out


def test_no_descriptor_comes_along(busybox_root):
    with open("/etc/passwd", "rb") as file:
        words = [sys.executable, str(SCRIPT), "--quiet", "--root", str(busybox_root), "ls", "/proc/self/fd"]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False, pass_fds=[file.fileno()])
    assert set(done.stdout.split()) <= {"0", "1", "2", "3"}, done  # 3: the directory that ls reads
    assert str(file) and done.returncode == 0


def test_the_pids_limit_holds(busybox_root):
    done = run(
        "--quiet",
        "--root",
        str(busybox_root),
        "--",
        "sh",
        "-c",
        "for i in 0 1 2 3 4 5 6 7 8 9; do for j in 0 1 2 3 4 5 6 7 8 9; do sleep 9 & done; done; echo no limit",
    )
    if "no limit" in done.stdout and not glob.glob("/sys/fs/cgroup/pids") and "pids" not in Path("/sys/fs/cgroup/cgroup.controllers").read_text():
        pytest.skip("no pids controller")
    assert "no limit" not in done.stdout and "fork" in done.stderr


def test_the_layer_is_not_written_to(busybox_root):
    before = sorted(map(str, busybox_root.rglob("*")))
    out = shell("echo x > /new; rm /etc/passwd; ls /; ls -l /bin/busybox", "--root", str(busybox_root))
    assert "new" in out.split()
    assert " 0 " in out or "root" in out  # an idmapped layer: its files are the container root's
    assert sorted(map(str, busybox_root.rglob("*"))) == before


def test_a_layer_cannot_send_mounts_astray(busybox_root):
    (busybox_root / "dev").rmdir()
    (busybox_root / "dev").symlink_to("/tmp")
    done = run("--quiet", "--root", str(busybox_root), "true")
    assert done.returncode == 99 and "symbolic links" in done.stderr


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("exit 0", 0)])
def test_exit_status(busybox_root, script, status):
    assert run("--quiet", "--root", str(busybox_root), "sh", "-c", script).returncode == status


def test_no_such_program():
    done = run("--quiet", "no-such-program")
    assert done.returncode == 127 and "No such file" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing(busybox_root, number):
    words = [sys.executable, str(SCRIPT), "--quiet", "--root", str(busybox_root), "sh", "-c", "echo ready; sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(20) == 128 + signal.SIGKILL
    assert not glob.glob(f"/sys/fs/cgroup/*/hutch-book-container-{process.pid}")


def test_the_container_dies_with_its_maker(busybox_root):
    words = [sys.executable, str(SCRIPT), "--quiet", "--root", str(busybox_root), "sh", "-c", "echo ready; sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.read() == ""  # the end of the pipe: nobody holds it any more
    for path in glob.glob(f"/sys/fs/cgroup/hutch-book-container-{process.pid}") + glob.glob(f"/sys/fs/cgroup/*/hutch-book-container-{process.pid}"):
        deadline = time.monotonic() + 5  # SIGKILL cannot be handled, so the directory stays: removed for it
        while True:
            try:
                os.rmdir(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def test_as_an_ordinary_user(as_user, busybox_root):
    if int(Path("/proc/sys/user/max_user_namespaces").read_text()) == 0:
        pytest.skip("no user namespaces here")
    place = Path(f"/var/tmp/hutch-book-script-{os.getpid()}")
    place.mkdir(mode=0o755)
    try:
        copy = shutil.copy(SCRIPT, place)
        os.chmod(copy, 0o644)
        done = as_user(
            str(copy), "--quiet", "--root", str(busybox_root), "sh", "-c", "id -u; cat /proc/self/uid_map; echo x > /new && exit 5", stdin=subprocess.DEVNULL
        )
    finally:
        shutil.rmtree(place)
    assert done.returncode == 5, done.stderr
    assert done.stdout.split()[:2] == ["0", "0"] and done.stdout.split()[3] == "1"
