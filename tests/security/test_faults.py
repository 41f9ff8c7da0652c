"""Everybody may die at any moment: the container, its executor, its owner, or two of them. Nothing may stay behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hutch
from hutch.engine.records import state
from hutch.plan import ops
from tests.security import attack
from tests.security.attack import Victim

pytestmark = pytest.mark.root

REPO = Path(__file__).resolve().parents[2]
PLACES = {
    "host": ["first", "record", "clone", "signal 1", "after 1", "signal 2", "after 2", "wait 9", "last"],
    "container": ["first", "wait 1", "after 1", "ids", "wait 2", "after 2", "pivot", "after pivot", "close", "signal 9", "after 9", "last"],
}
POINTS = [(lane, place) for lane, places in PLACES.items() for place in places]
NAMES = [f"{lane}-{place}".replace(" ", "-") for lane, place in POINTS]


@pytest.fixture
def crashed(busybox_root, fifo):
    """Start, stop at a point, do harm, and see what is left."""
    victims: list[Victim] = []

    def run(lane: str, place: str, harm, **more: object) -> tuple[dict[str, object], bool]:
        plan = attack.stopped(attack.options(busybox_root, fifo, **more), lane, place, fifo)
        execution = attack.launch(plan)
        assert attack.until(lambda: attack.holds(execution.executor_pid, lane, fifo)), "it does not arrive at the fifo"
        victim = Victim(attack.identity(plan), execution.executor_pid)
        victims.append(victim)
        harm(execution.executor_pid, attack.children(execution.executor_pid))
        ended = attack.ended(execution, 3)
        left = victim.left()
        if left or not ended:
            victim.clean()
        execution.close()
        return left, ended

    yield run
    for victim in victims:
        victim.clean()


@pytest.mark.parametrize(("lane", "place"), POINTS, ids=NAMES)
def test_the_executor_is_killed(crashed, lane, place):
    """SIGKILL of the executor's outer process, by the OOM killer for one, at every barrier: the container's process goes with it."""
    left, ended = crashed(lane, place, lambda executor, children: attack.kill(executor))
    assert (left, ended) == ({}, True)


@pytest.mark.parametrize("place", ["ids", "wait 2", "after pivot", "after 9", "last"])
def test_the_executor_is_killed_without_a_user_namespace(crashed, place):
    """The same where the container's root is the host's."""
    left, ended = crashed("container", place, lambda executor, children: attack.kill(executor), userns="host", user="1000")
    assert (left, ended) == ({}, True)


@pytest.mark.parametrize("place", ["wait 2", "after pivot", "last"])
def test_the_program_of_a_dead_executor_never_runs(busybox_root, fifo, place):
    """A container's process that outlives its executor before its program started must not start it, without limits and owner."""
    proof = Path(os.path.dirname(fifo)) / "ran"
    plan = attack.stopped(attack.options(busybox_root, fifo, command=("touch", str(proof)), userns="host"), "container", place, fifo)
    execution = attack.launch(plan)
    assert attack.until(lambda: attack.holds(execution.executor_pid, "container", fifo))
    victim = Victim(attack.identity(plan), execution.executor_pid)
    try:
        attack.kill(execution.executor_pid)
        attack.until(lambda: not attack.alive(execution.executor_pid))
        attack.release(fifo)
        attack.until(lambda: not any(map(attack.alive, victim.pids)))
        assert not proof.exists()
    finally:
        victim.clean()
        execution.close()


@pytest.mark.parametrize(
    ("lane", "place"),
    [p for p in POINTS if p[0] == "container" or p[1] not in ("first", "record")],
    ids=[n for n in NAMES if n not in ("host-first", "host-record")],
)
def test_the_container_is_killed(crashed, fifo, lane, place):
    """SIGKILL of the container's process at every barrier: a StartError or an end, and everything undone."""

    def harm(executor: int, children: list[int]) -> None:
        attack.kill(*children)
        if lane == "host":
            attack.release(fifo)

    left, ended = crashed(lane, place, harm)
    assert (left, ended) == ({}, True)


@pytest.mark.parametrize(("lane", "place"), [("host", "clone"), ("host", "wait 9"), ("container", "wait 2"), ("container", "last")])
def test_stopped_and_killed(crashed, lane, place):
    """SIGSTOP of the executor and its child, then SIGKILL of both: no signal handler had its chance."""

    def harm(executor: int, children: list[int]) -> None:
        for pid in (executor, *children):
            os.kill(pid, signal.SIGSTOP)
        attack.kill(executor, *children)

    left, ended = crashed(lane, place, harm)
    assert (left, ended) == ({}, True)


OWNER = """
import sys
sys.path.insert(0, {repo!r})
from tests.security import attack
wanted = {wanted!r}
plan = attack.stopped(wanted, {lane!r}, {place!r}, {fifo!r})
execution = attack.launch(plan)
print(attack.identity(plan), execution.executor_pid, flush=True)
execution.wait()
"""


def owned(program: str) -> tuple[subprocess.Popen[str], list[str]]:
    """An owner in a process of its own, and the words of its first line."""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert owner.stdout is not None
    return owner, owner.stdout.readline().split()


@pytest.mark.parametrize(
    ("lane", "place"), [("host", "record"), ("host", "after 1"), ("host", "wait 9"), *(("container", p) for p in ("first", "ids", "wait 2", "pivot", "last"))]
)
def test_the_owner_is_killed(busybox_root, fifo, lane, place):
    """SIGKILL of the owning Python process while its container is being made: the executor undoes everything, alone."""
    owner, words = owned(OWNER.format(repo=str(REPO), wanted=attack.options(busybox_root, fifo), lane=lane, place=place, fifo=fifo))
    executor = int(words[1])
    assert attack.until(lambda: attack.holds(executor, lane, fifo))
    victim = Victim(words[0], executor)
    try:
        owner.kill()
        owner.wait()
        if lane == "host":
            attack.release(fifo)
        assert victim.left() == {}
    finally:
        victim.clean()
        owner.stdout.close()


@pytest.mark.parametrize(("lane", "place"), [("host", "record"), ("host", "wait 9"), ("container", "ids"), ("container", "wait 2"), ("container", "last")])
def test_owner_and_executor_are_killed(busybox_root, fifo, lane, place):
    """Both at once: whoever lists the containers next finds the record, and clears all of it away."""
    owner, words = owned(OWNER.format(repo=str(REPO), wanted=attack.options(busybox_root, fifo), lane=lane, place=place, fifo=fifo))
    executor = int(words[1])
    assert attack.until(lambda: attack.holds(executor, lane, fifo))
    victim = Victim(words[0], executor)
    try:
        os.kill(owner.pid, signal.SIGSTOP)
        attack.kill(executor, owner.pid)
        owner.wait()
        reclaim(victim)
        assert victim.left() == {}
    finally:
        victim.clean()
        owner.stdout.close()


def reclaim(victim: Victim) -> None:
    """List the containers, as `hutch ps` does, when the record is old enough to be judged."""
    directory = f"{os.environ['HUTCH_STATE']}/{victim.id}"
    attack.until(lambda: not state.locked(f"{directory}/state"), 2)
    with contextlib.suppress(FileNotFoundError):
        os.utime(directory, (1, 1))
    assert victim.id not in [running.id for running in state.containers()]


RUNNING = """
import os, signal, sys, time, hutch
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background of a shell, it is ignored
box = hutch.Container({image!r}, upper="disk", memory="64m", **{more!r})
box.start(["sleep", "1000"])
{script}
print(box.id, box._execution.executor_pid, flush=True)
time.sleep(1000)
"""


def test_owner_and_executor_of_a_running_container(busybox_root):
    """The same for a container that runs, with a tree on disk that is deeper than Python recurses and than there are descriptors."""
    script = 'step = "mkdir -p {0}; cd {0};".format("d/" * 1000); box.run(["sh", "-c", "cd /tmp; " + step * 3 + "true"], check=True)'
    owner, words = owned(RUNNING.format(image=str(busybox_root), script=script, more={}))
    victim = Victim(words[0], int(words[1]))
    try:
        os.kill(owner.pid, signal.SIGSTOP)
        attack.kill(int(words[1]), owner.pid)
        owner.wait()
        reclaim(victim)
        assert victim.left() == {}
    finally:
        subprocess.run(["rm", "-rf", f"{os.environ['HUTCH_DATA']}/{victim.id}"], check=False)
        victim.clean()
        owner.stdout.close()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_owner_of_a_running_container_ends(busybox_root, kind):
    """However the owner ends, the container and the commands in it end too."""
    owner, words = owned(RUNNING.format(image=str(busybox_root), script="", more={}))
    victim = Victim(words[0], int(words[1]))
    try:
        owner.send_signal(kind)
        owner.wait(30)
        assert victim.left() == {}
    finally:
        victim.clean()
        owner.stdout.close()


def test_a_fork_of_the_owner_holds_copies(busybox_root):
    """A child that the owner forked holds its sockets: the owner's death still ends the container."""
    script = "child = os.fork()\nif child == 0:\n    time.sleep(1000)\n    os._exit(0)\nprint(child, flush=True)"
    owner, words = owned(RUNNING.format(image=str(busybox_root), script=script, more={}))
    child = int(words[0])
    words = owner.stdout.readline().split()
    victim = Victim(words[0], int(words[1]))
    try:
        owner.kill()
        owner.wait()
        assert attack.alive(child)
        assert victim.left() == {}
    finally:
        attack.kill(child)
        victim.clean()
        owner.stdout.close()


@pytest.mark.parametrize("more", [{}, {"userns": "host"}], ids=["userns", "host"])
def test_the_executor_of_a_running_container_is_killed(busybox_root, more):
    """The owner lives: it notices, says so, and undoes what the executor cannot any more."""
    with hutch.Container(str(busybox_root), upper="disk", memory="64m", **more) as box:
        process = box.start(["sleep", "1000"])
        assert process.pid
        victim = Victim(box.id, box._execution.executor_pid)
        attack.kill(box._execution.executor_pid)
        assert attack.until(lambda: not box.running)
        with pytest.raises(hutch.HutchError):
            box.run(["true"])
        process.close()
    try:
        assert victim.left() == {}
    finally:
        victim.clean()


IMMORTAL = "import ctypes, signal, sys, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\nprint('ready', flush=True)\ntime.sleep(1000)\n"


@pytest.mark.parametrize("more", [{}, {"memory": "128m"}, {"userns": "host"}], ids=["plain", "limited", "host"])
def test_a_program_that_clears_its_death_signal(more):
    """prctl(PR_SET_PDEATHSIG, 0) in the container, then the executor is killed: the program must not live on without limits."""
    process = hutch.start("host", ["/usr/bin/python3", "-c", IMMORTAL], **more)
    next(process.lines())
    record = next(running for running in state.containers() if running.pid == process.pid)
    victim = Victim(record.id, process.execution.executor_pid)
    try:
        attack.kill(process.execution.executor_pid)
        assert attack.until(lambda: process.execution.exited is not None or not attack.alive(process.execution.executor_pid))
        waiter = threading.Thread(target=process.wait, daemon=True)
        waiter.start()
        waiter.join(5)
        assert victim.left() == {}
        assert not waiter.is_alive()
    finally:
        victim.clean()


def test_the_executor_of_a_command_is_killed(busybox_root):
    """A command's own executor dies: the command dies with it, the container lives."""
    with hutch.Container(str(busybox_root)) as box:
        process = box.start(["sleep", "1000"])
        pid = process.pid
        attack.kill(process.execution.executor_pid)
        assert process.wait().exit_code != 0
        assert attack.until(lambda: not attack.alive(pid))
        assert box.run(["true"]).ok


@pytest.mark.parametrize(("lane", "place"), POINTS, ids=NAMES)
def test_failing_operations(busybox_root, fifo, lane, place):
    """An operation fails, at every barrier: the StartError names it, and nothing is left."""
    plan = attack.compiled(**attack.options(busybox_root, fifo))  # type: ignore[arg-type]
    broken = ops.Open(path="/nowhere/hutch", flags=0, into=ops.slot("broken"), origin="attack")
    descriptors = len(os.listdir("/proc/self/fd"))
    execution = attack.launch(attack.inserted(plan, lane, attack.position(plan, lane, place), broken))
    victim = Victim(attack.identity(plan), execution.executor_pid)
    try:
        with pytest.raises(hutch.StartError) as caught:
            execution.wait_ready(10)
        assert caught.value.origin == "attack" and "/nowhere/hutch" in caught.value.operation and caught.value.errno == 2
        execution.close()
        assert victim.left() == {}
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # the executor's image, once a process
    finally:
        execution.close()
        victim.clean()


@pytest.fixture
def small():
    """A file system of 4 MiB."""
    place = Path(tempfile.mkdtemp(prefix="hutch-small-", dir="/var/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
    place.rmdir()


def test_a_full_disk_under_the_upper_directory(busybox_root, small, monkeypatch):
    """upper="disk" and a container that fills it: its writes fail, it ends, and the space comes back."""
    monkeypatch.setenv("HUTCH_DATA", str(small))
    result = hutch.run(str(busybox_root), ["sh", "-c", "cat /dev/zero >/tmp/x; echo $?; echo y >/tmp/y; true"], upper="disk")
    assert result.ok and result.stdout == "1\n", result
    assert [*small.rglob("*")] == [small / "containers"]
    (small / "filler").write_bytes(bytes(4 << 20)[: os.statvfs(small).f_bavail * 4096])
    result = hutch.run(str(busybox_root), ["true"], upper="disk")
    assert result.ok or "No space left" in str(result.error)  # a directory takes no block of a tmpfs
    assert sorted(small.rglob("*")) == [small / "containers", small / "filler"]


def test_a_full_disk_under_the_records(busybox_root, small, monkeypatch):
    """No space for the record: a clear error, nothing started, nothing left."""
    place = small / "state"
    place.mkdir(mode=0o711)
    monkeypatch.setenv("HUTCH_STATE", str(place))
    (small / "filler").write_bytes(bytes(4 << 20)[: os.statvfs(small).f_bavail * 4096])
    result = hutch.run(str(busybox_root), ["true"])
    assert result.outcome == "failed-to-start" and "No space left" in str(result.error)
    assert [name for name in os.listdir(place) if not name.startswith(".")] == []
    (small / "filler").unlink()


@pytest.mark.parametrize("what", ["directory", "cgroup", "read-only"])
def test_a_place_that_is_taken(busybox_root, fifo, what):
    """Somebody else's directory stands where ours should be: an error, and theirs stays."""
    plan = attack.compiled(**attack.options(busybox_root, fifo))  # type: ignore[arg-type]
    made = [op for op in plan.host if isinstance(op, ops.HostDirectory)]
    place = Path(made[0].path if what == "directory" else next(op.path for op in made if "/sys/fs/cgroup" in op.path))
    if what == "read-only":
        place = Path(next(op.path for op in made if "/sys/fs/cgroup" not in op.path and op is not made[0]))
    place.mkdir(parents=True)
    if what != "cgroup":
        (place / "theirs").write_text("x")
    execution = attack.launch(plan)
    victim = Victim("0" * 12, execution.executor_pid)
    try:
        with pytest.raises(hutch.StartError, match="exists"):
            execution.wait_ready(10)
        execution.close()
        assert place.is_dir(), "the undo removed what it had not made"
        assert what == "cgroup" or (place / "theirs").exists()
        assert victim.left() == {}
    finally:
        execution.close()
        place.rmdir() if what == "cgroup" else shutil.rmtree(place, ignore_errors=True)


def test_a_thread_that_ends(busybox_root):
    """A thread starts a container and ends: PR_SET_PDEATHSIG alone would kill it, for its parent's thread is gone."""
    boxes: list[hutch.Container] = []
    thread = threading.Thread(target=lambda: boxes.append(hutch.Container(str(busybox_root))))
    thread.start()
    thread.join()
    with boxes[0] as box:
        assert box.run(["echo", "alive"]).stdout == "alive\n"


def test_many_threads(busybox_root):
    """Sixteen threads with containers and commands in one: every answer is its own."""
    with hutch.Container(str(busybox_root)) as box, ThreadPoolExecutor(16) as pool:
        alone = [pool.submit(hutch.run, str(busybox_root), ["echo", str(n)]) for n in range(32)]
        inside = [pool.submit(box.run, ["echo", str(n)]) for n in range(32)]
        for futures in (alone, inside):
            assert [f.result().stdout for f in futures] == [f"{n}\n" for n in range(32)]


@pytest.mark.parametrize("how", ["SIG_IGN", "reaped by somebody else"])
def test_an_owner_that_does_not_reap(busybox_root, how):
    """SIGCHLD ignored, or a loop in the owner that waits for every child: the results stay right."""
    program = f"""
    import os, signal, threading, hutch
    if {how!r} == "SIG_IGN":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    else:
        def reap():
            while True:
                try: os.waitpid(-1, 0)
                except ChildProcessError: pass
        threading.Thread(target=reap, daemon=True).start()
    results = [hutch.run({str(busybox_root)!r}, ["sh", "-c", f"exit {{n}}"]).exit_code for n in range(5)]
    with hutch.Container({str(busybox_root)!r}) as box:
        results.append(box.run(["sh", "-c", "trap '' CHLD; true | false"]).exit_code)
    print(results)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=30, env=dict(os.environ))
    assert done.stdout == "[0, 1, 2, 3, 4, 1]\n", done.stderr


def test_no_descriptors_left_for_the_owner(busybox_root):
    """The owner has used up its descriptors: every call fails with an error of Hutch's or of the system's, and none leaks."""
    import resource

    hutch.run(str(busybox_root), ["true"])
    before = sorted(os.listdir("/proc/self/fd"))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, before))
    try:
        for room in range(0, 14):
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + room, limit[1]))
            with contextlib.suppress(OSError, hutch.HutchError):
                hutch.run(str(busybox_root), ["true"])
            with contextlib.suppress(OSError, hutch.HutchError):
                hutch.Container(str(busybox_root)).close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_container_that_cannot_be_made_is_collected_quietly(busybox_root):
    """Container() raises: what is left of the object must not raise again when it is collected."""
    import gc

    caught: list[object] = []
    previous, sys.unraisablehook = sys.unraisablehook, lambda args: caught.append(args.exc_value)
    try:
        with pytest.raises(hutch.HutchError):
            hutch.Container(str(busybox_root), workdir="/proc/self/fd/900", mounts=["/nowhere/at/all:/x"])
        gc.collect()
    finally:
        sys.unraisablehook = previous
    assert caught == []


def test_records_of_strangers(tmp_path, monkeypatch):
    """Records that are broken or lie: listing neither fails nor removes what is not a container's own."""
    place, data = tmp_path / "state", tmp_path / "data"
    monkeypatch.setenv("HUTCH_STATE", str(place))
    monkeypatch.setenv("HUTCH_DATA", str(data))
    place.mkdir(mode=0o711)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    texts = [
        "", "{", "[]", "5\n", '{"id": 5}', '{"id": "a", "pid": "x"}', '{"id": "a", "cgroup": 5}', '{"id": "a", "cgroup": {"x": 5}}', '{"id": "a", "command": 5}',
        '{"id": "a", "created": "x"}', f'{{"id": "a", "upper": "{data}/../precious"}}', f'{{"id": "a", "cgroup": {{"": "{precious}/hutch-x/.."}}}}', '{"id": "a", "executor": null}', "\0" * 100,
    ]  # fmt: skip
    for number, text in enumerate(texts):
        directory = place / f"record-{number}"
        directory.mkdir()
        (directory / "state").write_text(text)
        os.utime(directory, (1, 1))
    (place / "a-file").write_text("x")
    (place / "a-link").symlink_to(precious)
    assert list(state.containers()) == []
    assert (precious / "file").exists()
