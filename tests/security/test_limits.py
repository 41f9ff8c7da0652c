"""Containers that want everything: processes, memory, output, space, and many of them."""

from __future__ import annotations

import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hutch
from tests.security import attack
from tests.security.attack import cgroups

pytestmark = pytest.mark.root
USERNS = ["auto", "host"]
BOMB = "f() { f | f & f; }; f"


@pytest.mark.parametrize("userns", USERNS)
def test_a_fork_bomb(busybox_root, userns):
    """A fork bomb stays within its 32 processes, the time limit ends all of it, and the machine goes on."""
    result = hutch.run(str(busybox_root), ["sh", "-c", BOMB], pids=32, timeout=1, userns=userns, output_limit=1 << 16)
    assert result.outcome in ("timeout", "exited")
    assert result.usage.pids_refused
    assert hutch.run(str(busybox_root), ["true"]).ok


def test_a_fork_bomb_in_a_container(busybox_root):
    """The same as a command: it and all that it started is killed, the container and its other commands live."""
    with hutch.Container(str(busybox_root), pids=32) as box:
        assert box.run(["sh", "-c", BOMB], timeout=1, output_limit=1 << 16).outcome in ("timeout", "exited")
        assert attack.until(lambda: box.stats().pids == 1)
        assert box.run(["echo", "alive"]).stdout == "alive\n"


def test_a_command_that_daemonises(busybox_root):
    """After its time limit nothing of a command is left: not what left its session, nor what has another parent by now."""
    with hutch.Container(str(busybox_root), pids=32) as box:
        (busybox_root / "bin/setsid").exists() or box.run(["/bin/busybox", "--install", "-s", "/bin"])
        box.run(["sh", "-c", "(setsid sh -c '(sleep 1000 &) ; sleep 1000 &' &); sleep 1000"], timeout=0.5)
        assert attack.until(lambda: box.stats().pids == 1), box.run(["ps"]).stdout


@pytest.mark.parametrize("userns", USERNS)
@pytest.mark.parametrize("how", ["heap", "tmpfs", "shm", "upper", "pipes"])
def test_a_memory_hog(userns, how):
    """Memory of every kind counts against the limit: heap, files in memory, shared memory, buffers of pipes."""
    program = {
        "heap": "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "tmpfs": "f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        "shm": "import os\nf = open('/dev/shm/x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        "upper": "f = open('/usr/x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        "pipes": "import os, fcntl\nx = []\nwhile True:\n r, w = os.pipe(); x.append((r, w)); os.set_blocking(w, False)\n"
        " try: fcntl.fcntl(w, 1031, 1 << 20)\n except OSError: pass\n try: os.write(w, bytes(1 << 20))\n except OSError: pass",
    }[how]
    more = {"tmpfs": ["/tmp"]} if how == "tmpfs" else {}
    result = hutch.run("host", ["/usr/bin/python3", "-c", program], memory="48m", memory_swap="48m", userns=userns, timeout=30, shm_size="1g", **more)
    assert result.outcome in ("out-of-memory", "exited"), result
    assert not result.ok
    if result.usage.memory_peak is not None:
        assert result.usage.memory_peak <= 49 << 20


def test_an_output_flood(busybox_root):
    """Output without end: what is kept is bounded, on both streams, and so is the owner's memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    script = "cat /dev/zero & cat /dev/zero >&2"
    result = hutch.run(str(busybox_root), ["sh", "-c", script], output_limit=1 << 20, timeout=1, text=False)
    assert result.truncated and len(result.stdout) == len(result.stderr) == 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_line_without_end(busybox_root):
    """lines() of a program that never ends its line: a line is no longer than the output that is kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hutch.start(str(busybox_root), ["head", "-c", str(24 << 20), "/dev/zero"], output_limit=1 << 20) as process:
        longest = max(len(line) for line in process.lines())
    assert longest <= 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_lines_that_nobody_reads(busybox_root):
    """An owner that reads slowly is not filled up: the program waits instead."""
    with hutch.start(str(busybox_root), ["sh", "-c", "while :; do echo line; done"]) as process:
        lines = process.lines()
        assert [next(lines) for _ in range(100)] == ["line"] * 100
        pid = process.pid
        assert attack.until(lambda: attack.state_of(pid) == "S")


@pytest.mark.parametrize("userns", USERNS)
def test_writing_without_end(busybox_root, userns):
    """upper_size holds for the root, size= for a tmpfs, shm_size for /dev/shm; a few bytes for /dev."""
    script = "for d in / /tmp /data /dev/shm /dev; do cat /dev/zero >$d/x 2>/dev/null; stat -c %s $d/x; done"
    result = hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns, upper_size="2m", shm_size="1m", tmpfs=["/data:size=1m"], memory="128m")
    sizes = [int(line) for line in result.stdout.split()]
    assert len(sizes) == 5, result
    assert sizes[0] + sizes[1] <= 2 << 20 and sizes[2] <= 1 << 20 and sizes[3] <= 1 << 20 and sizes[4] <= 64 << 20


def test_files_without_end(busybox_root):
    """A million empty files: memory of the kernel's, which counts against the limit."""
    program = "i=0; while :; do : >/tmp/$i || exit 1; i=$((i+1)); done"
    result = hutch.run(str(busybox_root), ["sh", "-c", program], memory="16m", memory_swap="16m", timeout=20)
    assert not result.ok and result.outcome != "timeout", result


def test_a_limit_that_is_too_small_to_start_in(busybox_root):
    """The least memory: it starts, or says why it cannot, and leaves nothing."""
    for memory in (4096, 65536, 262144, 1 << 20):
        result = hutch.run(str(busybox_root), ["true"], memory=memory)
        assert result.outcome in ("exited", "out-of-memory", "failed-to-start", "signalled")


def test_raising_limits_from_inside(busybox_root):
    """A container neither writes its own cgroup nor leaves it, nor raises the resource limits that it was given."""
    script = """
    for f in /sys/fs/cgroup/memory.max /sys/fs/cgroup/*/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do
        (echo 1 >$f) 2>/dev/null && echo WROTE $f
    done
    ulimit -n 100000 2>/dev/null && echo RAISED
    (echo -1000 >/proc/self/oom_score_adj) 2>/dev/null && echo PROTECTED
    echo end
    """
    for userns in USERNS:
        result = hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns, memory="64m", ulimits={"nofile": (64, 64)})
        assert result.stdout == "end\n", result.stdout


def test_a_flood_of_signals_and_zombies(busybox_root):
    """Thousands of orphans for PID 1 to reap, and none is left a zombie."""
    with hutch.Container(str(busybox_root), pids=64) as box:
        box.run(["sh", "-c", "i=0; while [ $i -lt 500 ]; do (true &); kill -USR1 1; i=$((i+1)); done"])
        assert attack.until(lambda: box.stats().pids == 1)


def test_two_hundred_containers(busybox_root):
    """Two hundred containers, sixteen at a time, some killed half-way: every answer is right, and nothing stays behind."""
    descriptors = len(os.listdir("/proc/self/fd"))
    before = cgroups()
    ids: set[str] = set()
    lock = threading.Lock()

    def one(number: int) -> str:
        if number % 10 == 3:
            with hutch.Container(str(busybox_root), memory="32m") as box:
                with lock:
                    ids.add(box.id)
                return str(box.run(["echo", str(number)]).stdout)
        if number % 10 == 7:
            return hutch.run(str(busybox_root), ["sh", "-c", f"echo {number}; sleep 100"], timeout=0.2, pids=8).outcome
        return str(hutch.run(str(busybox_root), ["echo", str(number)], memory="32m").stdout)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(200)))
    assert answers == ["timeout" if n % 10 == 7 else f"{n}\n" for n in range(200)]
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1
    assert not [path for path in cgroups() - before if any(identity in path for identity in ids)]
    assert not ids & set(os.listdir(os.environ["HUTCH_STATE"]))
    assert not [path for path in Path("/proc").glob("[0-9]*/stat") if attack.state_of(int(path.parent.name)) == "Z" and _parent(path) == os.getpid()]


def _parent(path: Path) -> int:
    try:
        return int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0
