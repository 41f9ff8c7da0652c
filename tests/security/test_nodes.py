"""Fifos and devices of a container's, which are not opened, and files that its own root has no right to,
or has one to.
"""

from __future__ import annotations

import contextlib
import stat
import subprocess

import pytest

import hutch
from tests.conftest import HUTCH
from tests.security import test_special_files as special
from tests.security.test_special_files import inside, members, opens, shell, tree

pytestmark = pytest.mark.root
box, web, place = special.box, special.web, special.place

# fifos and devices

NUMBERS = {"fifo": "p", "character": "c 1 7", "block": "b 7 250"}  # mknod(1)
NODES = {
    "read": lambda box, place: box.read("/srv/node"),
    "read-link": lambda box, place: box.read("/srv/link"),
    "write": lambda box, place: box.write("/srv/node", "x"),
    "write-link": lambda box, place: box.write("/srv/link", "x"),
    "get": lambda box, place: box.get("/srv/node", place / "out"),
    "get-tree": lambda box, place: box.get("/srv", place / "out"),
    "put": lambda box, place: box.put(tree(place, "node") / "node", "/srv/node"),
    "put-tree": lambda box, place: box.put(tree(place, "node"), "/srv"),
    "read-below": lambda box, place: box.read("/srv/node/x"),
    "write-below": lambda box, place: box.write("/srv/node/x", "x"),
}


@pytest.mark.parametrize("kind", ["fifo", "character", "block"])
@pytest.mark.parametrize("how", NODES)
def test_nodes_are_not_opened(busybox_root, place, how, kind):
    """A fifo or a device of the container's is known by its type before it is opened, in a container that
    may make devices.
    """
    with hutch.Container(str(busybox_root), userns="auto" if kind == "fifo" else "host") as box:
        shell(box, f"mkdir -p /srv; mknod /srv/node {NUMBERS[kind]}; ln -s node /srv/link")
        with opens(inside(box, "/srv/node")) as opened:
            with contextlib.suppress(hutch.HutchError):
                NODES[how](box, place)
            assert not opened(), "it was opened"


@pytest.mark.parametrize("how", ["out", "tar", "in", "in-tar"])
@pytest.mark.parametrize("kind", ["fifo", "character", "block"])
def test_cp_opens_no_nodes(web, place, hutch_cli, kind, how):
    """`hutch cp` of a fifo or a device, and onto one."""
    made = hutch_cli("exec", web, "mknod", "/srv/node", *NUMBERS[kind].split())
    if made.returncode:
        assert kind != "fifo"
        pytest.skip("this container makes no devices")
    tree(place, "node")
    words = {
        "out": (f"{web}:/srv/node", f"{place}/out"),
        "tar": (f"{web}:/srv/node", "-"),
        "in": (f"{place}/node", f"{web}:/srv/"),
        "in-tar": ("-", f"{web}:/srv"),
    }
    pid = hutch_cli("inspect", "--format", "{{.State.Pid}}", web).stdout.strip()
    with opens(f"/proc/{pid}/root/srv/node") as opened:
        done = subprocess.run([*HUTCH, "cp", *words[how]], input=members("node"), capture_output=True, check=False, timeout=20)
        assert not opened() and b"Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["read", "write", "get", "put"])
def test_links_to_devices_are_not_opened(box, place, how):
    """A link to a device of the container's /dev."""
    shell(box, "mkdir -p /srv; ln -s /dev/full /srv/node; ln -s /dev/full /srv/link")
    with opens(inside(box, "/dev/full")) as opened:
        with contextlib.suppress(hutch.HutchError):
            NODES[how](box, place)
        assert not opened()


# the container's root's own rights


@pytest.fixture
def lent(place):
    """A directory of the host's as it is, with a file that is the host's root's alone, in a container
    whose root is another.
    """
    (place / "secret").write_text("the host's")
    (place / "secret").chmod(0o600)
    with hutch.Container("host", mounts=[hutch.Bind(source=str(place), target="/mnt", options=("noidmap",))]) as running:
        shell(running, "mkdir -p /srv; ln -s /mnt/secret /srv/x; ln -s /mnt /srv/d")
        assert not running.run(["cat", "/mnt/secret"]).ok
        yield running


@pytest.mark.parametrize("path", ["/srv/x", "/srv/d/secret"])
def test_what_the_containers_root_may_not(lent, place, path):
    """A link to a file that the container sees and cannot open: its owner's rights are not lent to it."""
    with contextlib.suppress(hutch.HutchError):
        lent.write(path, "overwritten", 0o666)
    assert (place / "secret").read_text() == "the host's" and stat.S_IMODE((place / "secret").stat().st_mode) == 0o600
    with pytest.raises(hutch.HutchError):
        lent.read(path)


ANNAS = ("mkdir -p /home/anna/d; echo hers >/home/anna/d/f; chmod 600 /home/anna/d/f; chmod 700 /home/anna/d /home/anna; "
         "/bin/busybox chown -R 1000:1000 /home/anna")  # fmt: skip


def test_what_the_containers_root_may(box, place):
    """Files and directories of the container's other users, closed to everybody else, are its root's to
    read and write.
    """
    shell(box, ANNAS)
    assert box.read("/home/anna/d/f") == "hers\n"
    box.write("/home/anna/d/f", "new", mode=0o600)
    box.write("/home/anna/d/e/g", "newer")
    box.get("/home/anna", place / "out")
    assert (place / "out/d/f").read_text() == "new" and (place / "out/d/e/g").read_text() == "newer"
    box.put(place / "out", "/home/anna/copy")
    assert shell(box, "stat -c %u:%a /home/anna/d/f; cat /home/anna/copy/d/f") == "1000:600\nnew"


def test_what_the_containers_root_may_be_told_by_cp(web, place, hutch_cli):
    """The same by `hutch cp`."""
    assert hutch_cli("exec", web, "sh", "-c", ANNAS).returncode == 0
    assert hutch_cli("cp", f"{web}:/home/anna", str(place / "out")).returncode == 0 and (place / "out/d/f").read_text() == "hers\n"
    for source, target in (
        ("out", "/home/anna/d"),
        ("out/d/f", "/home/anna/d/f"),
        ("out/d/f", "/home/anna/d/g"),
    ):
        done = hutch_cli("cp", str(place / source), f"{web}:{target}")
        assert done.returncode == 0, done.stderr
    assert hutch_cli("exec", web, "cat", "/home/anna/d/g", "/home/anna/d/out/d/f").stdout == "hers\nhers\n"


def test_ordinary_links_are_followed(box, place):
    """Links inside the container, and into what is mounted there, lead to ordinary files as ever."""
    shell(box, "mkdir -p /srv/real; ln -s /srv/real/f /srv/x; ln -s ../srv/real /tmp/d; echo old >/srv/real/f")
    box.write("/srv/x", "new", mode=0o640)
    assert box.read("/tmp/d/f") == "new" and shell(box, "readlink /srv/x; stat -c %a /srv/real/f") == "/srv/real/f\n640\n"
    box.write("/dev/shm/x", "typed")
    assert box.read("/dev/shm/x") == "typed"
