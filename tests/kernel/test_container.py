"""`hutch.Container`: commands, files, changes, numbers, freezing; and the same from asyncio."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

import hutch
import hutch.aio

pytestmark = pytest.mark.root


@pytest.fixture
def box():
    with hutch.Container("host", memory="256m", pids=100) as container:
        yield container


def test_the_example_of_the_readme():
    with hutch.Container("host", network="none", cpus=0.5) as box:
        box.write("/srv/a.py", "print('hi')")
        assert list(box.start(["python3", "/srv/a.py"]).lines()) == ["hi"]
        box.run(["sh", "-c", "rm /etc/hostname"])
        assert hutch.Change(kind="deleted", path="/etc/hostname") in box.diff()


def test_commands_share_the_container(box):
    box.run(["sh", "-c", "echo one > /tmp/file"], check=True)
    assert box.run(["cat", "/tmp/file"]).stdout == "one\n"
    assert box.run(["sh", "-c", "echo $A; pwd; id -u"], env={"A": "b"}, workdir="/usr", user="nobody").stdout == "b\n/usr\n65534\n"
    processes = box.run(["ps", "-e", "-o", "pid,comm"]).stdout
    assert "1 hutch-init" in processes
    assert box.run(["hostname"]).stdout.strip() == box.id


def test_a_command_is_confined_like_the_container(box):
    status = box.run(["cat", "/proc/self/status"]).stdout
    assert "CapEff:\t00000000a80425fb" in status and "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status
    for name in ("pid", "mnt", "net", "ipc", "uts", "user", "cgroup"):
        assert box.run(["readlink", f"/proc/self/ns/{name}"]).stdout.strip() == os.readlink(f"/proc/{box.pid}/ns/{name}")
    assert box.run(["sh", "-c", "ls /proc/self/fd | wc -l"]).stdout.strip() == "4"


def test_timeout_kills_a_command_and_all_that_it_started(box):
    r = box.run(["sh", "-c", "setsid sleep 500 & (setsid sleep 501 &) ; sleep 502"], timeout=0.5)
    assert r.outcome == "timeout"
    assert "sleep" not in box.run(["ps", "-e", "-o", "comm"]).stdout
    assert box.run(["true"]).ok


def test_background_processes_outlive_their_command(box):
    assert box.run(["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo started"]).stdout == "started\n"
    assert "sleep" in box.run(["ps", "-e", "-o", "comm"]).stdout


def test_out_of_memory_of_a_command(box):
    r = box.run(["python3", "-c", "bytearray(900 << 20)"])
    assert (r.outcome, r.exit_code) == ("out-of-memory", 137)
    assert box.run(["true"]).ok and box.stats().oom_kills == 1


def test_lines_arrive_as_they_are_written(box):
    with box.start(["sh", "-c", "echo a; sleep 0.3; printf b; sleep 0.3; printf 'c\\nd'"]) as process:
        assert list(process.lines()) == ["a", "bc", "d"]
        assert process.wait().ok


def test_signals(box):
    with box.start(["sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done"]) as process:
        lines = process.lines()
        assert next(lines) == "ready"
        process.send_signal(15)
        assert list(lines) == ["got"]
        assert process.wait().exit_code == 3


def test_files(box, tmp_path):
    box.write("/deep/er/file", b"\0\xff", mode=0o600)
    assert box.read_bytes("/deep/er/file") == b"\0\xff"
    assert box.run(["stat", "-c", "%u:%g %a", "/deep/er/file", "/deep"]).stdout == "0:0 600\n0:0 755\n"
    box.write("/deep/er/file", "shorter")
    assert box.read("/deep/er/file") == "shorter"
    with pytest.raises(hutch.HutchError, match="/none: No such file"):
        box.read("/none")
    with pytest.raises(hutch.HutchError, match="is not a regular file"):
        box.read("/etc")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("content")
    (tree / "sub/file").chmod(0o751)
    (tree / "link").symlink_to("sub/file")
    box.put(tree, "/srv/tree")
    assert box.run(["sh", "-c", "cat /srv/tree/link; stat -c %a /srv/tree/sub/file"]).stdout == "content751\n"
    box.run(["sh", "-c", "mkfifo /srv/tree/fifo; chmod 4755 /srv/tree/sub/file"], check=True)
    box.get("/srv/tree", tmp_path / "back")
    assert (tmp_path / "back/link").readlink().as_posix() == "sub/file"
    assert (tmp_path / "back/sub/file").stat().st_mode & 0o7777 == 0o755
    assert not (tmp_path / "back/fifo").exists()


def test_diff(box):
    assert box.diff() == []
    box.run(
        [
            "sh",
            "-c",
            "rm -r /usr/share/doc; echo x >> /etc/passwd; mkdir /opt2; touch /tmp/t; rm -rf /usr/share/man; mkdir /usr/share/man; touch /usr/share/man/new",
        ],
        check=True,
    )
    changes = {(c.kind, c.path) for c in box.diff()}
    expected = {("deleted", "/usr/share/doc"), ("changed", "/etc/passwd"), ("added", "/opt2"), ("added", "/tmp/t"), ("added", "/usr/share/man/new")}
    assert expected <= changes
    assert {path for _, path in changes - expected} <= {"/usr/share/man"}


def test_diff_of_a_directory_image(busybox_root):
    (busybox_root / "usr/share/old").write_text("old")
    with hutch.Container(str(busybox_root)) as box:
        box.run(["sh", "-c", "rm /usr/share/old; echo 1 > /new; echo 2 >> /etc/passwd"], check=True)
        assert [(c.kind, c.path) for c in box.diff()] == [("changed", "/etc/passwd"), ("added", "/new"), ("deleted", "/usr/share/old")]
    assert (busybox_root / "usr/share/old").exists() and not (busybox_root / "new").exists()


@pytest.mark.parametrize("upper", ["tmpfs", "disk"])
def test_both_uppers_show_the_same_changes(upper):
    with hutch.Container("host", upper=upper) as box:
        box.run(["sh", "-c", "echo x > /usr/added"], check=True)
        assert hutch.Change(kind="added", path="/usr/added") in box.diff()


def test_stats_and_update(box):
    stats = box.stats()
    assert stats.memory_limit == 256 << 20 and stats.pids_limit == 100 and stats.pids == 1
    from hutch.oci.config import Memory, Pids, Resources

    box.cgroup.update(Resources(memory=Memory(limit=512 << 20, swap=1 << 30), pids=Pids(limit=50)))
    assert box.stats().memory_limit == 512 << 20 and box.stats().pids_limit == 50


def test_events():
    with hutch.Container("host", memory="64m") as box:
        events = box.events()
        box.run(["python3", "-c", "bytearray(300 << 20)"])
        assert next(events) == hutch.Event(kind="oom", count=1)


def test_a_container_that_is_gone(box):
    os.kill(box.pid, 9)
    deadline = time.monotonic() + 5
    while box.running and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(hutch.ContainerGone):
        box.run(["true"])


def test_it_is_listed_while_it_runs():
    with hutch.Container("host", name="listed") as box:
        assert [(r.id, r.name, r.status) for r in hutch.containers()] == [(box.id, "listed", "running")]
    assert list(hutch.containers()) == []


def test_the_plan_of_a_container_passes_the_linter(box):
    from hutch.plan.lint import lint

    assert lint(box.plan()) == []
    assert box.id in box.plan().describe()


def test_asyncio_judges_as_the_others_do():
    """The memory limit of a container is told from other ends, and programs that `host` leaves out get their hint."""
    hog = ["python3", "-c", "x = bytearray(200 << 20); x[::4096] = b'y' * len(x[::4096])"]

    async def main() -> None:
        async with hutch.aio.Container("host", memory="64m") as box:
            assert (await box.run(hog)).outcome == box.sync.run(hog).outcome == "out-of-memory"
            assert (await box.run(["true"])).ok
        missing = [sys.executable] if sys.executable.startswith(("/root", "/home")) else ["/home/no-such-program"]
        assert (await hutch.aio.run("host", missing)).describe() == hutch.run("host", missing).describe()

    asyncio.run(main())


def test_bytes_and_paths(tmp_path):
    """The other type of a stream; a Path in every place of one."""
    source = tmp_path / "data"
    source.write_bytes(b"\xff\0raw")
    assert hutch.run("host", ["cat"], stdin=b"\xff\0", text=False).stdout == b"\xff\0"
    with hutch.Container("host", mounts=[hutch.Bind(tmp_path, Path("/data"), True)], workdir=Path("/srv")) as box:
        result = box.run([Path("/bin/cat"), Path("/data/data")], text=False)
        assert (result.stdout, result.stderr, result.ok) == (b"\xff\0raw", b"", True)
        assert box.run(["pwd"], workdir=Path("/tmp"), env=["A=1"], user=0).stdout == "/tmp\n" and box.run(["pwd"]).stdout == "/srv\n"
        box.put(source, Path("/srv/copy"))
        box.get(Path("/srv/copy"), tmp_path / "back")
        assert box.read_bytes(Path("/srv/copy")) == (tmp_path / "back").read_bytes() == b"\xff\0raw"
        for wrong, message in (
            ({"env": {"A": None}}, "env A: expected text"), ({"user": 1.5}, "user: expected"), ({"workdir": 5}, "workdir: expected a path"),
            ({"timeout": "5"}, "timeout: expected a number"), ({"env": ["A"]}, "env: expected NAME=VALUE"), ({"check": "yes"}, "check: expected"),
        ):  # fmt: skip
            with pytest.raises(hutch.UsageError, match=message):
                box.run(["true"], **wrong)
        with pytest.raises(hutch.UsageError, match="data: expected text or bytes, got 5"):
            box.write("/srv/x", 5)


def test_asyncio():
    async def main() -> None:
        results = await asyncio.gather(*(hutch.aio.run("host", ["echo", str(n)]) for n in range(8)))
        assert [r.stdout for r in results] == [f"{n}\n" for n in range(8)]
        async with hutch.aio.Container("host") as box:
            await box.write("/tmp/x", "y")
            assert await box.read("/tmp/x") == "y"
            assert (await box.run(["cat", "/tmp/x"], check=True)).stdout == "y"
            process = await box.start(["seq", "3"])
            assert [line async for line in process.lines()] == ["1", "2", "3"]
            assert (await process.wait()).ok
            assert any(change.path == "/tmp/x" for change in await box.diff())
        task = asyncio.create_task(hutch.aio.run("host", ["sleep", "100"]))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(hutch.CommandFailed):
            await hutch.aio.run("host", ["false"], check=True)

    asyncio.run(main())
