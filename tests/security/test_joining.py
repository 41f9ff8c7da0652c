"""A container with CAP_SYS_PTRACE looks at, and debugs, whatever comes into its pid namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import hutch
from tests.conformance import runtime as rt
from tests.conftest import HUTCH, system_python
from tests.security import attack, test_oci_tools as tools, watcher
from tests.security.test_oci_tools import USERNS

pytestmark = pytest.mark.root
place, boxes, victim = tools.place, tools.boxes, tools.victim
TIMES = 15
DEBUGGER = [*rt.CAPABILITIES, "CAP_SYS_PTRACE"]
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
KINDS = {"mount": "mnt", "network": "net"}


@pytest.fixture
def secret(place: Path, monkeypatch) -> Iterator[Path]:
    """A private file of the host's, and the same words in the environment of the engine's commands."""
    path = place / "secret"
    path.write_text(watcher.SECRET)
    path.chmod(0o600)
    monkeypatch.setenv("HOST_SECRET", watcher.SECRET)
    return path


@pytest.mark.parametrize(
    ("way", "userns", "cap"),
    [
        ("api", "host", "SYS_PTRACE"),
        ("api", "host", "ALL"),
        ("api", "auto", "SYS_PTRACE"),
        ("api", "auto", "ALL"),
        ("user", "host", "SYS_PTRACE"),
        ("command", "host", "SYS_PTRACE"),
        ("terminal", "host", "SYS_PTRACE"),
        ("command", "auto", "ALL"),
    ],
)
def test_commands_that_join_show_nothing_of_the_host(busybox_root, secret, way, userns, cap):
    """A command on its way in has its container's root, descriptors, namespaces and capabilities."""
    watcher.install(busybox_root)
    words = {
        "command": [*HUTCH, "exec"],
        "terminal": ["script", "-qec", f"{' '.join(HUTCH)} exec -t $BOX true", "/dev/null"],
    }
    with (
        hutch.Container(str(busybox_root), userns=userns, cap_add=[cap]) as box,
        box.start(watcher.command(secret)),
    ):
        assert attack.until(lambda: box.run(["cat", "/tmp/ready", "/tmp/ready.steps"]).ok), "the debugger"
        for _ in range(TIMES):
            if way in words:
                line = words[way] if way == "terminal" else [*words[way], box.id, "true"]
                environment = {**os.environ, "BOX": box.id}
                subprocess.run(line, **QUIET, env=environment, check=True)
            else:
                box.run(["true"], user="1000" if way == "user" else None, check=True)
        assert watcher.seen(box.read) == []


def debugger(boxes, secret: Path, userns: bool, caps: list[str], *number: str):
    """The debugger as a container's first process."""
    process = {"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), caps)}
    linux = {"uidMappings": rt.MAPPING, "gidMappings": rt.MAPPING} if userns else {}
    spaces = [*rt.NAMESPACES, *(["user"] if userns else [])]
    box = boxes(rt.config(*watcher.command(secret, *number), process=process, linux=linux, namespaces=spaces))
    watcher.install(box.rootfs)
    box.up()
    rt.until(
        lambda: (box.rootfs / "tmp/ready.steps").exists() and (box.rootfs / "tmp/ready").exists(),
        "the debugger",
    )
    return box


@USERNS
@pytest.mark.parametrize("way", ["plain", "tty", "user"])
def test_commands_of_hutch_oci_that_join_show_nothing_of_the_host(boxes, secret, userns, way):
    """The same with `hutch-oci exec`."""
    hostile = debugger(boxes, secret, userns, DEBUGGER)
    options = {"plain": [], "tty": ["--tty"], "user": ["--user", "1000:1000"]}[way]
    for _ in range(TIMES):
        hostile.exec("true", options=options).ok()
    assert watcher.seen(lambda path: hostile.read(path.lstrip("/"))) == []


@pytest.mark.parametrize("way", ["api", "oci", "tty"])
def test_a_command_whose_pipes_are_held_open_has_begun(boxes, busybox_root, way):
    """That its program runs is seen by the end of a pipe, which a debugger can keep from ending: the end of the command,
    then, says it."""
    if way == "api":
        watcher.install(busybox_root, "hold")
        with hutch.Container(str(busybox_root), userns="host", cap_add=["SYS_PTRACE"]) as box, box.start(["/hold"]):
            assert attack.until(lambda: box.run(["cat", "/tmp/ready"]).ok)
            for _ in range(TIMES):
                assert box.run(["echo", "there"], timeout=20).stdout == "there\n"
            assert int(box.read("/tmp/held")) > 0
        return
    process = {"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), DEBUGGER)}
    box = boxes(rt.config("/hold", process=process))
    watcher.install(box.rootfs, "hold")
    box.up()
    rt.until(lambda: (box.rootfs / "tmp/ready").exists(), "the debugger")
    for _ in range(TIMES):
        assert "there" in box.exec("echo", "there", options=["--tty"] if way == "tty" else []).ok().out
    assert int(box.read("tmp/held")) > 0


@USERNS
@pytest.mark.parametrize(
    "more",
    [(), ("network", "ipc", "uts"), ("mount", "network", "ipc", "uts", "cgroup")],
    ids=["pid", "pod", "all"],
)
def test_containers_that_join_a_pid_namespace_show_nothing_of_the_host(boxes, secret, userns, more):
    """A container is made in the pid namespace (and more) of a hostile one."""
    hostile = debugger(boxes, secret, userns, DEBUGGER)
    joined = ["pid", *more, *(["user"] if userns else [])]
    paths = {n: {"path": f"/proc/{hostile.pid}/ns/{KINDS.get(n, n)}"} for n in joined}
    spaces = [{"type": n, **paths.get(n, {})} for n in dict.fromkeys((*rt.NAMESPACES, *joined))]
    made = 0
    for _ in range(TIMES):
        linux = {"uidMappings": rt.MAPPING, "gidMappings": rt.MAPPING} if userns else {}
        result = boxes(rt.config("true", namespaces=spaces, linux=linux, process={"capabilities": {}})).run()
        assert "Traceback" not in result.err
        made += result.code == 0
    assert watcher.seen(lambda path: hostile.read(path.lstrip("/"))) == []
    assert made == TIMES or "mount" in more, result  # another's mount namespace may be refused


ROOTLESS = """
import subprocess, sys, time
import hutch
image, caps, times, *words = sys.argv[1:]
with hutch.Container(image, cap_add=[caps], tmpfs=["/tmp"]) as box:
    with box.start(words) as debugger:
        for _ in range(100):
            if box.run(["cat", "/tmp/ready", "/tmp/ready.steps"]).ok:
                break
            time.sleep(0.02)
        for _ in range(int(times)):
            box.run(["true"], check=True)
            command = [sys.executable, "-m", "hutch.cli", "exec", box.id, "true"]
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        print(box.read("/tmp/seen") + box.read("/tmp/seen.steps"), end="")
"""


@pytest.mark.parametrize("caps", ["SYS_PTRACE", "ALL"])
def test_commands_of_an_ordinary_user_show_nothing(as_user, ordinary_user, busybox_root, secret, caps):
    """Without privileges a command is in its container's user namespace at once: it is not open to it yet."""
    watcher.install(busybox_root)
    os.chown(secret, ordinary_user.pw_uid, ordinary_user.pw_gid)
    done = as_user(
        "-c",
        ROOTLESS,
        str(busybox_root),
        caps,
        str(TIMES),
        *watcher.command(secret),
        env={"HOST_SECRET": watcher.SECRET},
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, []), done.stderr


def test_commands_of_a_users_hutch_oci_show_nothing(boxes, place, ordinary_user, public_source, secret):
    """The same with `hutch-oci exec`."""
    os.chown(secret, ordinary_user.pw_uid, ordinary_user.pw_gid)
    state = place / "users"
    state.mkdir(mode=0o700)
    os.chown(state, ordinary_user.pw_uid, ordinary_user.pw_gid)
    become = [
        "setpriv",
        f"--reuid={ordinary_user.pw_uid}",
        f"--regid={ordinary_user.pw_gid}",
        "--init-groups",
    ]
    environment = {
        "HOME": ordinary_user.pw_dir,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(public_source),
        "HOST_SECRET": watcher.SECRET,
    }
    runtime = rt.Runtime(
        "hutch-oci",
        [*become, system_python(), "-m", "hutch.cli.oci"],
        str(state),
        environment=environment,
        user=ordinary_user,
    )
    box = rt.Container(runtime, place, None)
    mapping = [{"containerID": 0, "hostID": ordinary_user.pw_uid, "size": 1}]
    process = {"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), DEBUGGER)}
    box.write(
        rt.config(
            *watcher.command(secret),
            process=process,
            namespaces=(*rt.NAMESPACES, "user"),
            linux={"uidMappings": mapping, "gidMappings": mapping},
        )
    )
    watcher.install(box.rootfs)
    box.give(ordinary_user.pw_uid)
    try:
        box.up()
        rt.until(lambda: (box.rootfs / "tmp/ready.steps").exists(), "the debugger")
        for _ in range(TIMES):
            box.exec("true").ok()
        assert watcher.seen(lambda path: (box.rootfs / path[1:]).read_text()) == []
    finally:
        box.cleanup()


@pytest.mark.parametrize("number", ["victim", "1094795585"])
def test_memory_that_is_shared_with_the_outside_is_written_to(boxes, secret, victim, number):
    """A debugger writes over what a command shares with its executor: nothing outside is hit."""
    hostile = debugger(boxes, secret, False, DEBUGGER, str(victim.pid) if number == "victim" else number)
    for _ in range(TIMES):
        result = hostile.exec("true", timeout=10)
        assert "Traceback" not in result.err and (result.code == 0 or result.err.strip()), result
    assert "WROTE" in hostile.read("tmp/seen.steps") or not hostile.read("tmp/seen.steps")
    assert victim.poll() is None and rt.alive(hostile.init)
