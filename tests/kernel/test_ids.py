"""Users whose ids are large, and working directories that only their owner may enter."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import hutch
from hutch.errors import HutchError
from tests.conformance import runtime as rt
from tests.conftest import HUTCH
from tests.security import test_oci_tools as tools

pytestmark = pytest.mark.root
place, boxes = tools.place, tools.boxes
RANGE = re.compile(r"ids? (from )?0 to \d+")
LARGE = [65535, 65536, 100000, 1_000_000, 2**31]


def shown(done: subprocess.CompletedProcess[str], wanted: str) -> None:
    """It did what was wanted, or said which ids there are."""
    code, out, err = done.returncode, done.stdout, done.stderr
    assert (code, out) == (0, wanted) or (code and RANGE.search(err)), (code, out, err)
    assert "Traceback" not in err


@pytest.mark.parametrize("uid", LARGE)
@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_user_with_a_large_id(hutch_cli, busybox_root, verb, uid):
    """`-u ID` is that user, or the message says which ids this user namespace has."""
    script = ["sh", "-c", "id -u; id -g"]
    if verb == "run":
        return shown(hutch_cli("run", "-u", f"{uid}:{uid}", str(busybox_root), *script), f"{uid}\n{uid}\n")
    with hutch.Container(str(busybox_root)) as box:
        shown(hutch_cli("exec", "-u", f"{uid}:{uid}", box.id, *script), f"{uid}\n{uid}\n")


@pytest.mark.parametrize("uid", [65537, 100000])
def test_an_ordinary_user_and_a_large_id(as_user, busybox_root, uid):
    """Subordinate ids are as many as were lent: the message says how many."""
    shown(as_user("-m", "hutch.cli", "run", "-u", str(uid), str(busybox_root), "id", "-u"), f"{uid}\n")
    single = ["run", "--userns", "single", "-u", "1000", str(busybox_root), "id", "-u"]
    done = as_user("-m", "hutch.cli", *single)
    assert done.returncode and re.search(r"ids? 0\b", done.stderr), done.stderr


def test_the_api_and_a_large_id(busybox_root):
    """The same for `hutch.run` and `Container.run`."""
    try:
        result = hutch.run(str(busybox_root), ["id", "-u"], user="100000")
        assert result.stdout == "100000\n" or RANGE.search(str(result.error)), result
    except HutchError as error:
        assert RANGE.search(str(error)), error


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_hutch_oci_and_an_id_that_is_not_mapped(boxes, verb):
    """process.user beyond the configuration's own mapping: the message says what that has."""
    box = boxes(
        rt.mapped(
            "sleep 100" if verb == "exec" else "id -u",
            process={"user": {"uid": 100000 if verb == "run" else 0, "gid": 0}},
        )
    )
    result = box.run() if verb == "run" else box.up().exec("id", "-u", options=["--user", "100000"])
    assert result.code and RANGE.search(result.err), result


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_files_with_large_ids(hutch_cli, busybox_root, place, form):
    """A file of an image belongs to whom the image says, or the command says which ids there are."""
    path = busybox_root / "theirs"
    path.write_text("")
    os.chown(path, 100000, 100001)
    image = str(busybox_root)
    if form == "archive":
        image = f"{place}/image.tar"
        subprocess.run(["tar", "-C", str(busybox_root), "-cf", image, "."], check=True)
    done = hutch_cli("run", image, "stat", "-c", "%u %g", "/theirs")
    assert done.stdout == "100000 100001\n" or RANGE.search(done.stderr), (done.stdout, done.stderr)


# Working directories


@pytest.fixture
def closed(busybox_root: Path) -> Path:
    """An image with a directory that its root alone may enter, and a user's that he alone may."""
    for name, uid in (("root/x/deep", 0), ("home/anna", 1000)):
        path = busybox_root / name
        path.mkdir(parents=True)
        os.chown(path, uid, uid)
        path.chmod(0o700)
    for name in ("root", "root/x"):
        (busybox_root / name).chmod(0o700)
    return busybox_root


DIRECTORIES = ["/root", "/root/x/deep", "/home/anna"]


@pytest.mark.parametrize("workdir", DIRECTORIES)
@pytest.mark.parametrize("userns", ["auto", "host"])
def test_a_closed_working_directory(hutch_cli, closed, workdir, userns):
    """A user other than its owner starts in a directory of mode 0700, and may do there what he may."""
    script = ["sh", "-c", "readlink /proc/self/cwd; id -u; ls . 2>/dev/null && echo listed; true"]
    done = hutch_cli("run", "--userns", userns, "-u", "12345", "-w", workdir, str(closed), *script)
    assert (done.returncode, done.stdout) == (0, f"{workdir}\n12345\n"), done.stderr
    with hutch.Container(str(closed), userns=userns) as box:
        done = hutch_cli("exec", "-u", "12345", "-w", workdir, box.id, *script)
        assert (done.returncode, done.stdout) == (0, f"{workdir}\n12345\n"), done.stderr
        result = box.run(script, user="12345", workdir=workdir)
        assert result.stdout == f"{workdir}\n12345\n", result


@pytest.mark.parametrize("workdir", DIRECTORIES)
@tools.USERNS
def test_a_closed_working_directory_of_hutch_oci(boxes, workdir, userns):
    """process.cwd, and `exec --cwd`; root's own also where it has no capabilities."""
    process = {
        "user": {"uid": 12345, "gid": 12345},
        "cwd": workdir,
        **({} if "anna" in workdir else {"capabilities": {}}),
    }
    script = "readlink /proc/self/cwd; id -u"
    box = boxes.shell(userns, script, process=process)
    owner = rt.MAPPED if userns else 0
    for name, uid in (("root/x/deep", 0), ("home/anna", 1000)):
        path = box.rootfs / name
        path.mkdir(parents=True)
        os.chown(path, owner + uid, owner + uid)
        path.chmod(0o700)
    for name in ("root", "root/x"):
        os.chown(box.rootfs / name, owner, owner)
        (box.rootfs / name).chmod(0o700)
    assert box.run().ok().out == f"{workdir}\n12345\n"
    box.data["process"] |= {"cwd": "/", "args": ["sleep", "100"]}
    box.write(box.data)
    assert box.up().exec("sh", "-c", script, options=["--cwd", workdir]).ok().out == f"{workdir}\n12345\n"


def test_a_closed_working_directory_of_an_ordinary_user(as_user, closed, place):
    """The same without privileges, for an image in an archive."""
    image = place / "image.tar"
    subprocess.run(["tar", "-C", str(closed), "-cf", str(image), "."], check=True)
    done = as_user(
        "-m",
        "hutch.cli",
        "run",
        "-u",
        "12345",
        "-w",
        "/root/x",
        str(image),
        "sh",
        "-c",
        "readlink /proc/self/cwd; id -u",
    )
    assert (done.returncode, done.stdout) == (0, "/root/x\n12345\n"), done.stderr


@pytest.mark.parametrize("how", ["link", "volume"])
def test_a_working_directory_is_entered_with_no_more_than_the_containers_rights(closed, place, how):
    """What the container's root may not enter is not entered for its user: a link out, another's volume."""
    private = place / "private"
    private.mkdir()
    (private / "secret").write_text("the host's")
    os.chown(private, 54321, 54321)
    private.chmod(0o700)
    mounts = []
    if how == "link":
        shutil.rmtree(closed / "root/x")
        (closed / "root/x").symlink_to(f"../../../../../..{private}")
    else:
        mounts = ["-v", f"{private}:/root/x"]
    words = [
        *HUTCH,
        "run",
        "--cap-drop",
        "ALL",
        *mounts,
        "-u",
        "12345",
        "-w",
        "/root/x",
        str(closed),
        "cat",
        "secret",
    ]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert "the host's" not in done.stdout and "Traceback" not in done.stderr
