"""Attacks on hutch-oci that take part in the making: hostile neighbours, hostile hooks, hostile terminals and agents."""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.conformance import runtime as rt
from tests.security import test_oci_tools as tools
from tests.security.test_oci_attacks import bind, without
from tests.security.test_oci_tools import USERNS, clear, within

pytestmark = pytest.mark.root
place, boxes, victim = tools.place, tools.boxes, tools.victim
NOTIFY = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]}
REFUSE = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}


def mounts() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return sorted(line.partition(" ")[2] for line in file)


# A neighbour with a volume in common


@USERNS
def test_mount_targets_change_under_the_runtime(boxes, place, userns):
    """CVE-2021-30465: a neighbour swaps a directory of a shared volume with a link, while containers mount into it."""
    volume, trap, source = place / "volume", place / "trap", place / "source"
    for path in (volume, trap, source, volume / "at", volume / "at/sub"):
        path.mkdir()
    source.chmod(0o777)
    (volume / "link").symlink_to(f"/../../../../../..{trap}")
    for path in (volume, *volume.rglob("*")):
        os.chown(path, rt.MAPPED if userns else 0, 0, follow_symlinks=False)
    hostile = boxes.shell(userns, "exec /swap /volume/at /volume/link", mounts=[bind(volume, "/volume")])
    hostile.put("swap")
    hostile.up()
    before = mounts()
    targets = [
        {"destination": "/volume/at/sub/deep", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/volume/at/proc", "type": "proc", "source": "proc"},
        bind(source, "/volume/at"),
        bind("/bin/busybox", "/volume/at/file"),
    ]
    came = 0
    for i in range(16):
        box = boxes.shell(userns, "grep volume /proc/self/mountinfo; find /volume/", mounts=[bind(volume, "/volume"), targets[i % 4]])
        result = box.run()
        assert "Traceback" not in result.err
        came += result.code == 0
    assert mounts() == before
    assert os.listdir(trap) == [] and os.listdir(source) == []
    assert came, "none of them came to its start"


def test_proc_changes_under_the_runtime(boxes, place):
    """CVE-2019-19921, CVE-2025-52881: the root's own proc is swapped with a link and a fake while settings and masks are made."""
    fake = place / "fake"
    (fake / "sys/net/ipv4").mkdir(parents=True)
    (fake / "sys/net/ipv4/ip_forward").write_text("fake")
    (fake / "timer_list").write_text("fake")
    script = "head -c 4 /proc/sys/net/ipv4/ip_forward /proc/timer_list"
    linux = {"sysctl": {"net.ipv4.ip_forward": "1"}, "maskedPaths": ["/proc/timer_list"], "readonlyPaths": ["/proc/sys"]}
    box = boxes.shell(False, script, linux=linux)
    (box.rootfs / "other").symlink_to("/tmp/fake")
    box.data["mounts"].append(bind(fake, "/tmp/fake"))
    box.write(box.data)
    swapper = subprocess.Popen([tools.program("swap"), str(box.rootfs / "proc"), str(box.rootfs / "other")])
    try:
        seen = [box.run() for _ in range(14)]
    finally:
        swapper.kill()
        swapper.wait()
    for result in seen:
        assert "Traceback" not in result.err
        assert "Time" not in result.out, result  # what is masked shows through a fake, never bare
    assert (fake / "sys/net/ipv4/ip_forward").read_text() == "fake"


# A neighbour, or the container itself, that looks at who comes in


def _pod(boxes, place: Path, userns: bool, caps: list[str]):
    secret = place / "secret"
    secret.write_text("the host's")
    hostile = boxes.shell(userns, f"exec /peek {secret}", process={"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), caps)})
    hostile.put("peek")
    hostile.up()
    rt.until(lambda: hostile.read("tmp/ready") or (hostile.rootfs / "tmp/ready").exists(), "the debugger")
    return hostile


@USERNS
def test_commands_are_not_debugged_on_their_way_in(boxes, place, userns):
    """CVE-2016-9962: a command that joins is not seen, nor seized, by a container with CAP_SYS_PTRACE."""
    hostile = _pod(boxes, place, userns, [*rt.CAPABILITIES, "CAP_SYS_PTRACE"])
    for _ in range(10):
        hostile.exec("true").ok()
    assert "the host's" not in hostile.read("tmp/seen") and "SEIZED" not in hostile.read("tmp/seen")


@pytest.mark.parametrize(
    "userns",
    [False, True],
    ids=["host-userns", "own-userns"],
)
def test_containers_are_not_debugged_on_their_way_into_a_pod(boxes, place, userns):
    """CVE-2016-9962: a container that joins the pid (and user) namespace of a hostile one still has the host's root while it does."""
    hostile = _pod(boxes, place, userns, [*rt.CAPABILITIES, *(["CAP_SYS_PTRACE"] if userns else [])])
    joined = ["pid", *(["user"] if userns else [])]
    namespaces = ["mount", "ipc", "uts", "network", "cgroup", *({"type": n, "path": f"/proc/{hostile.pid}/ns/{n}"} for n in joined)]
    linux = {"uidMappings": rt.MAPPING, "gidMappings": rt.MAPPING} if userns else {}
    for _ in range(5):
        box = boxes(rt.config("true", namespaces=namespaces, linux=dict(linux)))
        assert box.run().code == 0
    assert "the host's" not in hostile.read("tmp/seen") and "SEIZED" not in hostile.read("tmp/seen")


# Hooks


def _hooked(boxes, userns: bool, kind: str, *args: str, script: str = "sleep 100", **rest):
    box = boxes.shell(userns, script, hooks={kind: [{"path": "/hook", "args": ["hook", *args]}]}, **rest)
    box.put("hook")
    os.chmod(box.rootfs / "tmp", 0o1777)
    return box


@pytest.mark.parametrize(
    "userns",
    [False, True],
    ids=["host-userns", "own-userns"],
)
def test_a_hook_of_the_image_steers_the_executor(boxes, victim, userns):
    """A startContainer hook (the image's program) writes another pid into the page that PID 1 still shares with the executor outside."""
    box = _hooked(boxes, userns, "startContainer", "respawn", str(victim.pid), script="true")
    process = box.runtime.spawn("run", "--bundle", str(box.bundle), box.id, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.terminate()  # which the executor passes on to its container
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert victim.poll() is None, "a process of the host's was killed by way of the executor"
    assert "WROTE" not in box.read("tmp/hook")


@pytest.mark.parametrize("place_", [("0", "5"), ("7", "5"), ("1", "5000"), ("-9", "0")])
def test_a_hook_of_the_image_forges_the_report_of_a_start(boxes, place_):
    """A startContainer hook writes to the pipe that `start` reads: what comes out of it is no traceback."""
    box = _hooked(boxes, False, "startContainer", "forge", *place_)
    box.create().ok()
    result = box.start()
    assert "Traceback" not in result.err, result


def test_a_hook_of_the_image_holds_the_report_of_a_start(boxes):
    """A startContainer hook leaves a child with the pipe's other end open: `start` returns all the same."""
    box = _hooked(boxes, False, "startContainer", "hold")
    box.create().ok()
    process = box.runtime.spawn("start", box.id, stdin=subprocess.DEVNULL)
    try:
        assert within(process, 3) == 0
    finally:
        box.delete("--force").ok()


@pytest.mark.parametrize("bounded", [True, False])
def test_a_hook_of_the_image_is_filtered(boxes, bounded):
    """A startContainer hook is the image's program: the container's system call filter holds for it (it does with runc)."""
    box = _hooked(boxes, False, "startContainer", "filter", script="true", process={"noNewPrivileges": bounded}, linux={"seccomp": dict(REFUSE)})
    box.run().ok()
    assert "MADE" not in box.read("tmp/hook")


def test_where_hooks_are_looked_for(boxes, place):
    """createRuntime, createContainer, poststart and poststop are the host's, startContainer is the container's; none sees the other's."""
    host = place / "hook"
    image_says = "#!/bin/sh\necho image $1 >>/tmp/said\n"
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    hooks = {kind: [{"path": str(host), "args": ["hook", kind], "env": ["SECRET=hook"]}] for kind in kinds}
    box = boxes.shell(False, "env; ls /proc/self/fd; sleep 0.2", hooks=hooks)
    target = box.rootfs / str(host).lstrip("/")
    target.parent.mkdir(parents=True)
    for path, text in ((host, f"#!/bin/sh\necho host $1 $(cat | head -c 1) $(ls /proc/self/fd | wc -l) >>{place}/said\n"), (target, image_says)):
        path.write_text(text)
        path.chmod(0o755)
    os.environ["ENGINES_SECRET"] = "1"
    try:
        out = box.finish()
    finally:
        del os.environ["ENGINES_SECRET"]
    assert "SECRET" not in out, out
    assert box.read("tmp/said") == "image startContainer\n"
    lines = (place / "said").read_text().splitlines()
    assert [line.split()[1] for line in lines] == [k for k in kinds if k != "startContainer"], lines
    assert all(line.split()[2] == "{" and int(line.split()[3]) <= 4 for line in lines), lines


# Terminals


def test_the_console_is_a_terminal_of_the_containers_own(boxes, place):
    """CVE-2025-52565: links at ptmx, console and pts in the image lead the runtime nowhere; what it sends is a master."""
    box = boxes(rt.shell("tty; stat -c %t:%T /dev/console; exec sleep 100", process={"terminal": True}))
    for name in ("ptmx", "console", "tty", "pts"):
        (box.rootfs / "dev" / name).symlink_to("/etc/passwd")
    with tools.Console(place) as console:
        box.create("--console-socket", console.path).ok()
        (master,) = console.receive()
    number = array.array("i", [0])
    fcntl.ioctl(master, 0x80045430, number)  # TIOCGPTN: what only a master answers
    assert number[0] == 0  # the first of an instance of its own
    box.start().ok()
    text = b""
    while text.count(b"\n") < 2:
        text += os.read(master, 4096)
    assert text == b"/dev/pts/0\r\n88:0\r\n"
    os.close(master)


@pytest.mark.parametrize("form", ["file", "link", "fifo", "missing", "zero"])
def test_a_terminal_from_a_hostile_ptmx(boxes, place, form):
    """CVE-2025-52565: `exec --tty` where /dev/pts/ptmx is the container's to choose: a plain error, and nothing is sent."""
    box = boxes(without(rt.shell("sleep 100"), "/dev/pts"))
    box.up()
    make = {
        "file": "echo x >/dev/pts/ptmx",
        "link": "ln -s /etc/passwd /dev/pts/ptmx",
        "fifo": "mkfifo /dev/pts/ptmx",
        "missing": "true",
        "zero": "mknod /dev/pts/ptmx c 1 5",
    }[form]
    box.exec("sh", "-c", f"mkdir -p /dev/pts; {make}").ok()
    with tools.Console(place) as console:
        clear(box.exec("true", options=["--tty", "--detach", "--console-socket", console.path]), "process.terminal", "/dev/pts")
        assert console.receive() == []


# The agent of a filter


@pytest.fixture
def agent(place):
    """An agent's socket, and what came over it: (text, descriptors)."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place / "agent"))
    listening.listen()
    got: list[tuple[bytes, list[int]]] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                got.append(tools.received(connection))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield got
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(10)
    for _, descriptors in got:
        for fd in descriptors:
            os.close(fd)


def _notifying(place: Path) -> dict:
    return {"seccomp": {**NOTIFY, "listenerPath": str(place / "agent")}}


@USERNS
def test_the_listener_stays_with_the_agent(boxes, place, agent, userns):
    """A filter's listener is in no descriptor of the container's."""
    box = boxes.shell(userns, "/report; exec sleep 100", linux=_notifying(place))
    box.put("report")
    box.up()
    rt.until(lambda: "CapAmb" in box.out(), "the report")
    assert [line.split()[1] for line in box.out().splitlines() if line.startswith("fd ")] == ["0", "1", "2"], box.out()
    rt.until(lambda: agent, "the listener")
    assert all(os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:seccomp notify" for _, fds in agent for fd in fds)


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_program_passes_a_file_off_as_its_listener(boxes, place, agent, verb):
    """The listener is taken by its number: a program that is quicker must not be able to put another file there."""
    linux = _notifying(place)
    running = boxes.shell(False, "exec sleep 100", linux=dict(linux))
    running.put("grab")
    if verb == "exec":
        running.up()
    for _ in range(8):
        if verb == "exec":
            running.exec("/grab").ok()
        else:
            box = boxes(rt.config("/grab", linux=dict(linux)))
            box.put("grab")
            box.run().ok()
    rt.until(lambda: len(agent) >= 8, "the listeners")
    assert [os.readlink(f"/proc/self/fd/{fd}") for _, fds in agent for fd in fds] == ["anon_inode:seccomp notify"] * len(agent)
    assert all(json.loads(text)["fds"] == ["seccompFd"] for text, _ in agent)
