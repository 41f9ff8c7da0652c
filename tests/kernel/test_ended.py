"""What a container has left, asked for when it runs and when it has ended: changes, copies, archives."""

from __future__ import annotations

import io
import subprocess
import tarfile
import uuid

import pytest

import hutch
from tests.conftest import HUTCH
from tests.hosts import until

pytestmark = pytest.mark.root
MANY = 1000
# a hundred steps at a time: a path has an end (PATH_MAX)
DEEP = "cd /srv; for n in 1 2 3 4 5 6 7 8 9 10; do p=; for m in 0 1 2 3 4 5 6 7 8 9; do p=${p}d/d/d/d/d/d/d/d/d/d/; done; mkdir -p $p; cd $p; done; echo deep >file"
BOTTOM = "/srv/" + "d/" * MANY + "file"


@pytest.fixture
def named(hutch_cli):
    """The name of a detached container that is to be made."""
    name = f"ended-{uuid.uuid4().hex[:8]}"
    yield name
    hutch_cli("rm", "-f", name)


def over(hutch_cli, name: str) -> None:
    until(lambda: "Exited" in hutch_cli("ps", "-a").stdout.partition(name)[0].rpartition("\n")[2])


@pytest.mark.parametrize("when", ["running", "ended"])
def test_diff_of_a_deep_tree(hutch_cli, named, when):
    """`hutch diff` of directories nested a thousand deep names each of them."""
    hutch_cli(
        "run",
        "-d",
        "--name",
        named,
        "host",
        "sh",
        "-c",
        f"{DEEP}; {'exec sleep 1000' if when == 'running' else 'true'}",
    )
    over(hutch_cli, named) if when == "ended" else until(lambda: BOTTOM in hutch_cli("diff", named).stdout or hutch_cli("diff", named).returncode)
    done = hutch_cli("diff", named)
    assert "Traceback" not in done.stderr and done.returncode == 0, done.stderr[-300:]
    lines = done.stdout.splitlines()
    assert f"A {BOTTOM}" in lines and len([line for line in lines if line.startswith("A /srv/d")]) == MANY + 1


@pytest.mark.parametrize("upper", ["tmpfs", "disk"])
def test_the_apis_diff_of_a_deep_tree(upper):
    """Container.diff(), of changes in memory and on disk, of a container and of its fork."""
    with hutch.Container("host", upper=upper) as box:
        assert box.run(["sh", "-c", DEEP]).ok
        assert len([change for change in box.diff() if change.path.startswith("/srv/d")]) == MANY + 1


@pytest.mark.parametrize("command", ["export", "cp-out", "cp-in", "cp-tar"])
def test_archives_and_copies_of_a_deep_tree(hutch_cli, named, command, tmp_path, busybox_root):
    """What cannot be so deep says so in one line; no traceback, and no name of Python's."""
    hutch_cli("run", "-d", "--name", named, str(busybox_root), "sh", "-c", f"{DEEP}; touch /tmp/done; exec sleep 1000")
    until(lambda: hutch_cli("exec", named, "ls", "/tmp/done").returncode == 0)
    words = {"export": ["export", "-o", "/dev/null", named], "cp-out": ["cp", f"{named}:/srv", str(tmp_path / "out")],
             "cp-in": ["cp", str(tmp_path / "out"), f"{named}:/home/"], "cp-tar": ["cp", f"{named}:/srv", "-"]}[command]  # fmt: skip
    if command == "cp-in":
        subprocess.run(["sh", "-c", f"mkdir {tmp_path}/out; {DEEP.replace('/srv', str(tmp_path / 'out'))}"], check=True)
    if command == "export":
        words[2] = str(tmp_path / "tar")
    done = subprocess.run([*HUTCH, *words], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120)
    subprocess.run(["rm", "-rf", str(tmp_path / "out")], check=True)
    assert b"Traceback" not in done.stderr and b"Recursion" not in done.stderr, done.stderr[-300:]


@pytest.mark.parametrize("image", ["host", "busybox"])
@pytest.mark.parametrize("userns", ["auto", "host"])
def test_copies_of_an_ended_container(hutch_cli, named, tmp_path, busybox_root, image, userns):
    """`cp` out of, into and as a tar, `export` and `diff` of a detached container that has ended; twice,
    as each may leave something.
    """
    script = "mkdir -p /srv/d; echo content >/srv/d/file; echo x >/root/own"
    made = hutch_cli(
        "run",
        "-d",
        "--name",
        named,
        "--userns",
        userns,
        "host" if image == "host" else str(busybox_root),
        "sh",
        "-c",
        script,
    )
    assert made.returncode == 0, made.stderr
    over(hutch_cli, named)
    (tmp_path / "new").write_text("put")
    for number in (1, 2):
        for words in (["cp", f"{named}:/srv/d", str(tmp_path / f"d{number}")], ["cp", str(tmp_path / "new"), f"{named}:/srv/d/new{number}"],
                      ["cp", f"{named}:/srv/d/new{number}", str(tmp_path / f"back{number}")]):  # fmt: skip
            done = hutch_cli(*words)
            assert done.returncode == 0, (words, done.stderr)
        assert (tmp_path / f"d{number}/file").read_text() == "content\n" and (tmp_path / f"back{number}").read_text() == "put"
        diff = hutch_cli("diff", named)
        assert "A /srv/d/file" in diff.stdout.splitlines() and f"A /srv/d/new{number}" in diff.stdout.splitlines(), diff
    if image == "busybox":
        exported(named)


@pytest.mark.long
def test_the_whole_host_of_an_ended_container(hutch_cli, named):
    """`export` of a container of `host`, with all of /usr."""
    assert hutch_cli("run", "-d", "--name", named, "host", "sh", "-c", "mkdir -p /srv/d; echo content >/srv/d/file").returncode == 0
    over(hutch_cli, named)
    exported(named)


def exported(name: str) -> None:
    done = subprocess.run([*HUTCH, "export", name], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert archive.extractfile("srv/d/file").read() == b"content\n"
