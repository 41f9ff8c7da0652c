"""hutch-oci when things go wrong around it: full and read-only disks, kills at any moment, many at once, containers that resist."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hutch.errors import HutchError
from hutch.runtime.verbs import create as verbs
from hutch.runtime.verbs.store import Store
from tests.conformance import runtime as rt
from tests.security import attack, test_oci_tools as tools
from tests.security.test_oci_attacks import without
from tests.security.test_oci_tools import clear, fill, remount, within

pytestmark = pytest.mark.root
place, boxes, small = tools.place, tools.boxes, tools.small
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def nothing_of(box) -> None:
    """No record, no cgroup, no process in one."""
    assert not box.record.parent.exists()
    assert not box.left_cgroups()


def elsewhere(boxes, box, root: Path):
    """The same container with its state in another place."""
    box.runtime = rt.Runtime("hutch-oci", boxes.runtime.argv, str(root))
    return box


# Disks


def test_a_read_only_bundle(boxes, small):
    """A bundle on a read-only file system is enough, if the mount points are there; and if not, the error names one."""
    box = boxes(rt.shell("echo fine"))
    whole = small / "bundle"
    subprocess.run(["cp", "-a", str(box.bundle), str(whole)], check=True)
    remount(small, "ro")
    assert boxes.call("run", "--bundle", str(whole), box.id).ok().out == "fine\n"
    remount(small, "rw")
    (whole / "rootfs/proc").rmdir()
    remount(small, "ro")
    clear(boxes.call("run", "--bundle", str(whole), box.id), "read-only file system")
    nothing_of(box)


def test_state_where_nothing_can_be_written(boxes, small):
    """--root on a full, and on a read-only file system."""
    box = elsewhere(boxes, boxes(rt.shell("sleep 100")), small / "state")
    fill(small)
    clear(box.create(), "no space left")
    clear(box.run(), "no space left")
    assert boxes.call("list").code == 0
    (small / "filler").unlink()
    remount(small, "ro")
    clear(box.create(), "read-only file system")
    box.delete("--force").ok()
    nothing_of(box)
    remount(small, "rw")
    box.create().ok()
    fill(small)
    box.start().ok()
    box.delete("--force").ok()
    nothing_of(box)


def test_logs_that_cannot_be_written(boxes, small, place):
    """A log on a full disk, in no directory, or that is one, is no reason to fail, nor to hide the error."""
    fill(small)
    for path in (small / "log", place / "no/log", place):
        box = boxes(rt.shell("sleep 100"))
        box.create(options=("--log", str(path), "--debug")).ok()
        box.delete("--force").ok()
        clear(box.start(options=("--log", str(path))), "does not exist")


@pytest.mark.parametrize("form", ["no directory", "a directory", "full"])
def test_pid_files_that_cannot_be_written(boxes, small, place, form):
    """The container goes, and so does what was begun."""
    path = {"no directory": place / "no/pid", "a directory": place / "pid/", "full": small / "pid"}[form]
    if form == "a directory":
        path.mkdir()
    fill(small)
    before = sorted(os.listdir(small))
    box = boxes(rt.shell("sleep 100"))
    clear(box.create("--pid-file", str(path)), "--pid-file")
    nothing_of(box)
    running = boxes(rt.shell("sleep 100")).up()
    clear(running.exec("sleep", "100", options=["--detach", "--pid-file", str(path)]), "--pid-file")
    rt.until(lambda: len(json.loads(boxes.call("ps", "--format", "json", running.id).out)) == 1, "the command's end")
    rt.reap()  # as a shim does at once: PID 1 does not end before
    assert sorted(os.listdir(small)) == before


def test_a_link_where_the_pid_file_is_begun(boxes, place):
    """A pid file in a directory that others write to: a link there makes root write into any file."""
    victim = place / "victim"
    victim.write_text("the host's")
    (place / ".pid").symlink_to(victim)
    box = boxes(rt.shell("sleep 100"))
    box.create("--pid-file", str(place / "pid"))
    assert victim.read_text() == "the host's"


# Kills


def test_create_is_killed_at_any_moment(boxes):
    """SIGKILL of `create`: nothing is left, or what delete --force takes away."""
    generator = random.Random(5)
    for _ in range(16):
        box = boxes(rt.shell("sleep 100"))
        process = box.runtime.spawn("create", "--bundle", str(box.bundle), box.id, **QUIET)
        time.sleep(generator.uniform(0.0, 0.16))
        process.kill()
        process.wait()
        rt.until(lambda: not box.record.parent.exists() or box.status != "creating", "the executor's end")
        box.delete("--force").ok()
        nothing_of(box)
        rt.reap()


def test_create_and_its_executor_are_killed(boxes, place):
    """Nobody is left to undo: delete --force does, cgroup and all, whatever was done by then."""
    for moment in range(6):
        fifo = place / f"fifo{moment}"
        os.mkfifo(fifo)
        hook = [{"path": "/bin/busybox", "args": ["cat", str(fifo)]}]
        box = boxes(rt.shell("sleep 100", hooks={"createRuntime" if moment % 2 else "createContainer": hook}))
        process = box.runtime.spawn("create", "--bundle", str(box.bundle), box.id, **QUIET)
        writer = rt.until(lambda: _writer(fifo), "the hook")
        executors = [pid for pid in attack.children(process.pid) if attack.alive(pid)]
        for pid in [process.pid, *executors][:: 1 if moment < 4 else -1]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        os.close(writer)
        box.delete("--force").ok()
        nothing_of(box)
        rt.reap()


def _writer(fifo: Path) -> int:
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def test_a_lost_executor_undoes_nothing_of_another_container(boxes):
    """Two creations of one id: the executor of the second is killed, and its owner clears up after it."""
    box = boxes(rt.shell("sleep 100"))
    bundle, store = verbs.load_bundle(str(box.bundle)), Store(box.runtime.root)
    late = [verbs.Creation(store, box.id, bundle, verbs.Options(), lambda *_: None, await_start=True) for _ in range(10)]
    box.up()
    for creation in late:  # some are killed before they have said that the directory is there already
        with pytest.raises(HutchError), creation.launch() as execution:
            os.kill(execution.executor_pid, signal.SIGKILL)
            execution.wait_ready()
    assert rt.alive(box.init)
    assert box.status == "running"


def test_the_executor_of_a_foreground_container_is_killed(boxes):
    """SIGKILL of the executor of `run`: the container dies with it, and `run` clears up."""
    box = boxes(rt.shell("trap '' TERM; sleep 100"))
    process = box.runtime.spawn("run", "--bundle", str(box.bundle), box.id, **QUIET)
    rt.until(lambda: box.status == "running", "its start")
    pid = box.pid
    for executor in attack.children(process.pid):
        os.kill(executor, signal.SIGKILL)
    within(process)
    assert not rt.alive(pid)
    nothing_of(box)


def test_a_container_that_does_not_want_to_end(boxes):
    """SIGTERM is ignored, a thousand times over; SIGKILL is not."""
    box = boxes(rt.shell("trap '' TERM HUP INT QUIT; touch /tmp/ready; while :; do sleep 0.1; done")).up()
    rt.until(lambda: (box.rootfs / "tmp/ready").exists(), "the traps")
    for name in ("TERM", "HUP", "INT", "QUIT"):
        box.kill(name).ok()
    assert box.status == "running"
    clear(box.delete(), "not stopped")
    box.delete("--force").ok()
    nothing_of(box)


@pytest.mark.parametrize("own", [True, False], ids=["own-pids", "host-pids"])
def test_a_fork_bomb(boxes, own):
    """At its limit of processes, with and without a pid namespace: delete --force gets them all."""
    namespaces = [n for n in rt.NAMESPACES if own or n != "pid"]
    box = boxes(rt.config("/bomb", namespaces=namespaces, linux={"resources": {"pids": {"limit": 60}}}))
    box.put("bomb")
    box.up()
    rt.until(lambda: len(box.controller("pids").joinpath("cgroup.procs").read_text().split()) > 40, "the bomb")
    assert "Traceback" not in box.exec("true").err
    box.delete("--force").ok()
    nothing_of(box)


def test_the_smallest_memory_limit(boxes):
    """1 MB: a static program starts and ends well, by run, by create and start, and by exec."""
    data = rt.config("/true", linux={"resources": {"memory": {"limit": 1 << 20}}})
    box = boxes(data)
    box.put("true")
    box.run().ok()
    box.create().ok()
    box.exec("/true").ok()
    box.start().ok()
    assert box.wait() == 0
    box.delete().ok()


def test_a_paused_container_is_started_and_resumed(boxes):
    """Paused between create and start: `start` fails or waits, and `resume` is not locked out."""
    box = boxes(rt.shell("sleep 100"))
    box.create().ok()
    boxes.call("pause", box.id).ok()
    start = box.runtime.spawn("start", box.id, **QUIET)
    rt.until(lambda: start.poll() is not None or attack.state_of(start.pid) == "S", "the start")
    resume = box.runtime.spawn("resume", box.id, **QUIET)
    try:
        assert within(resume, 3) == 0
        within(start, 3)
    finally:
        box.delete("--force").ok()
        start.wait()


# At once


def test_two_starts_at_once(boxes):
    for _ in range(3):
        box = boxes(rt.shell("sleep 100"))
        box.create().ok()
        codes = sorted(within(p) for p in [box.runtime.spawn("start", box.id, **QUIET) for _ in range(4)])
        assert codes == [0, 1, 1, 1]
        box.delete("--force").ok()


def test_two_creations_of_one_id_at_once(boxes):
    """Exactly one wins, and it is whole."""
    for _ in range(4):
        box = boxes(rt.shell("echo fine"))
        words = ["create", "--bundle", str(box.bundle), "--pid-file", box.pid_file, box.id]
        with open(box.out_file, "ab") as out:
            codes = sorted(within(p) for p in [box.runtime.spawn(*words, **{**QUIET, "stdout": out}) for _ in range(3)])
        assert codes == [0, 1, 1]
        box.start().ok()
        box.delete("--force").ok()
        nothing_of(box)
        rt.reap()


def test_ends_at_once(boxes):
    """kill, delete, delete --force, exec and state on one container at the same time: each has an answer, and nothing is left."""
    sets = (["kill", "delete", "delete"], ["delete --force", "delete --force"], ["exec", "exec", "delete --force"], ["state", "list", "delete --force", "ps"])
    for which in sets:
        box = boxes(rt.shell("sleep 100")).up()
        running = []
        for number, command in enumerate(which * 2):
            words = [*command.split(), *([] if command == "list" else [box.id]), *{"kill": ["KILL"], "exec": ["true"]}.get(command, [])]
            path = box.bundle / f"said{number}"
            with open(path, "wb") as file:
                running.append((box.runtime.spawn(*words, **{**QUIET, "stderr": file}), path))
        for process, path in running:
            code = within(process)
            assert "Traceback" not in path.read_text(), (process.args, path.read_text())
            assert code == 0 or path.read_text().strip(), process.args
        box.delete("--force").ok()
        nothing_of(box)


def test_delete_while_it_is_being_made(boxes):
    """delete --force at any moment of a create: whoever is told that it was made can rely on it; nothing is left."""
    generator = random.Random(7)
    for _ in range(8):
        box = boxes(rt.shell("sleep 100"))
        making = box.runtime.spawn("create", "--bundle", str(box.bundle), box.id, **QUIET)
        rt.until(lambda: box.record.parent.exists() or making.poll() is not None, "the directory")
        time.sleep(generator.uniform(0, 0.02))
        clear_or_fine = box.delete("--force")
        assert "Traceback" not in clear_or_fine.err
        within(making)
        box.delete("--force").ok()
        nothing_of(box)
        rt.reap()


def test_many_at_once(boxes, place):
    """60 containers of one bundle, sixteen at a time: created, started, deleted; nothing is left."""
    data = without(rt.config("true"), "/dev/pts")
    box = boxes(data)
    del data["linux"]["cgroupsPath"]
    box.write(data)
    ids = [f"hutch-sec-many-{os.getpid()}-{n}" for n in range(60)]

    def life(identity: str) -> str:
        said = []
        for words in (["create", "--bundle", str(box.bundle), identity], ["start", identity], ["delete", "--force", identity]):
            result = boxes.call(*words, timeout=120)
            said += [] if result.code == 0 else [repr(result)]
        return "\n".join(said)

    with ThreadPoolExecutor(16) as pool:
        failures = [text for text in pool.map(life, ids) if text]
    assert not failures, failures[:3]
    assert os.listdir(boxes.runtime.root) == []
    rt.until(lambda: rt.reap() or not any(map(rt.is_zombie, rt.orphans())), "the last of them")


# Words


def _bad(box, name: str) -> str:
    path = box.rootfs / "bin" / name
    content = {
        "script": b"#!/no/interpreter -x\n",
        "format": b"\x00\x01\x02\x03 nothing",
        "empty": b"",
        "plain": b"echo hello\n",
        "locked": b"#!/bin/sh\n",
    }
    if name in content:
        path.write_bytes(content[name])
        path.chmod(0o644 if name == "locked" else 0o755)
    elif name == "elf":
        (box.bundle / "x.c").write_text("int main(void) { return 0; }")
        subprocess.run(["gcc", "-o", str(path), str(box.bundle / "x.c"), "-Wl,--dynamic-linker=/no/linker.so"], check=True)
    return {"missing": "nothing-here", "directory": "/etc", "below": "/etc/passwd/x", "linked": "/bin/loop"}.get(name, f"/bin/{name}")


WORDS = {
    "missing": ("no such",), "below": ("no such",), "script": ("/no/interpreter",), "elf": ("/no/linker.so",), "directory": ("is a directory",),
    "locked": ("not executable",), "format": ("neither a program",), "empty": ("neither a program",), "plain": ("neither a program",), "linked": ("symbolic link",),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_programs_that_do_not_start(boxes, place, name):
    """The message names the program and the cause, on stderr and in the log as JSON; by run, by create and start, by exec."""
    box = boxes(rt.shell(""))
    (box.rootfs / "bin/loop").symlink_to("loop")
    wanted = _bad(box, name)
    box.data["process"]["args"] = [wanted]
    box.write(box.data)
    log = place / "log"
    options = ("--log", str(log), "--log-format", "json")
    results = [box.run(options=options)]
    created = box.create(options=options)
    results.append(box.start(options=options) if created.code == 0 else rt.Result(("create",), created.code, "", box.err()))
    box.delete("--force").ok()
    box.data["process"]["args"] = ["sleep", "100"]
    box.write(box.data)
    box.up()
    results.append(box.exec(wanted, options=()))
    for result in results:
        clear(result, *WORDS[name])
        assert wanted.rpartition("/")[2] in result.err and result.code in (1, 255, 126, 127), result
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines and all(line["level"] == "error" and wanted in line["msg"] and line["time"] for line in lines), lines


@pytest.mark.parametrize("cwd", ["/etc/passwd", "/etc/passwd/x", "/bin/loop"])
def test_working_directories_that_are_none(boxes, cwd):
    box = boxes(rt.shell("true", process={"cwd": cwd}))
    (box.rootfs / "bin/loop").symlink_to("loop")
    result = clear(box.run(), "process.cwd")
    assert cwd in result.err
    box.data["process"]["cwd"] = "/"
    box.data["process"]["args"] = ["sleep", "100"]
    box.write(box.data)
    box.up()
    assert cwd in clear(box.exec("true", options=["--cwd", cwd]), "process.cwd").err


def test_an_image_that_writes_to_the_terminal(boxes):
    """What the image calls its interpreter must not reach the operator's terminal as escape sequences."""
    box = boxes(rt.config("/bin/evil"))
    (box.bundle / "x.c").write_text("int main(void) { return 0; }")
    subprocess.run(["gcc", "-o", str(box.rootfs / "bin/evil"), str(box.bundle / "x.c"), "-Wl,--dynamic-linker=/\x1b]0;owned\x07"], check=True)
    assert "\x1b" not in clear(box.run(), "interpreter", "needs").err
