"""A container goes on as it was made: commands in it, copies and the rest ask its record, and not what its user once named."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import hutch
from tests.conftest import HUTCH
from tests.hosts import Host, host

__all__ = ["host"]
pytestmark = pytest.mark.root


@pytest.fixture
def place() -> Iterator[Path]:
    found = Path(f"/var/tmp/hutch-facts-{os.getpid()}-{os.urandom(3).hex()}")
    found.mkdir()
    yield found
    shutil.rmtree(found)


class Box:
    """A detached container, started in a directory, and used from another one."""

    def __init__(self, directory: Path, *words: str) -> None:
        done = subprocess.run([*HUTCH, "run", "-d", *words], cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.id = done.stdout.strip()

    def __call__(self, *words: str) -> str:
        done = subprocess.run([*HUTCH, *words], cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def everything(self, directory: Path) -> None:
        """All that looks at a container."""
        assert self("exec", self.id, "echo", "there") == "there\n"
        assert self("exec", "-u", "1", self.id, "id", "-u") == "1\n"
        assert self("exec", "--privileged", self.id, "echo", "there") == "there\n"
        (directory / "file").write_text("words\n")
        self("cp", str(directory / "file"), f"{self.id}:/tmp/file")
        assert self("exec", self.id, "cat", "/tmp/file") == "words\n"
        assert "A /tmp/file" in self("diff", self.id)
        assert self("export", "-o", str(directory / "tree"), self.id) == "" and (directory / "tree").stat().st_size
        assert json.loads(self("inspect", self.id))

    def remove(self) -> None:
        self("rm", "-f", self.id)


@pytest.fixture
def boxes() -> Iterator[list[Box]]:
    made: list[Box] = []
    yield made
    for box in made:
        box.remove()


def test_an_image_by_a_relative_path(place, busybox_root, boxes):
    """`hutch run ./rootfs`, and a command from another directory."""
    shutil.copytree(busybox_root, place / "rootfs", symlinks=True)
    boxes.append(Box(place, "./rootfs", "sleep", "1000"))
    boxes[0].everything(place)


def test_a_seccomp_profile_that_is_deleted(place, busybox_root, boxes):
    """A command has the filter that the container has."""
    profile = place / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    boxes.append(Box(place, "--security-opt", f"seccomp={profile}", str(busybox_root), "sleep", "1000"))
    profile.unlink()
    boxes[0].everything(place)
    assert os.strerror(42) in boxes[0]("exec", boxes[0].id, "sh", "-c", "mkdir /tmp/x 2>&1; true")


def test_a_device_that_is_gone(place, busybox_root, boxes):
    os.mknod(place / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    boxes.append(Box(place, "--device", f"{place}/device:/dev/mine", str(busybox_root), "sleep", "1000"))
    (place / "device").unlink()
    boxes[0].everything(place)


def test_a_bind_whose_source_is_gone(place, busybox_root, boxes):
    (place / "source").mkdir()
    boxes.append(Box(place, "-v", f"{place}/source:/source", str(busybox_root), "sleep", "1000"))
    (place / "source").rename(place / "elsewhere")
    boxes[0].everything(place)


def test_the_hosts_address_as_a_name(host: Host):
    """`--add-host x:host-gateway` names an address of the container's network, which a command need not know."""
    host("network", "create", "web")
    host("run", "-d", "--name", "box", "--network", "web", "--add-host", "x:host-gateway", "host", "sleep", "1000")
    assert host("exec", "box", "echo", "there") == "there\n"
    assert "x" in host("exec", "box", "cat", "/etc/hosts")
    host("diff", "box")


def test_users_are_the_containers_own():
    """Of the files that it has now, as with Docker; a hostile one is no more than a missing name."""
    with hutch.Container("host") as box:
        box.run(["sh", "-c", "echo anna:x:4711:4712::/home/anna:/bin/sh >>/etc/passwd; echo staff2:x:4713:anna >>/etc/group"], check=True)
        assert box.run(["sh", "-c", "id -u; id -g; id -G; echo $HOME"], user="anna").stdout == "4711\n4712\n4712 4713\n/home/anna\n"
        for trick in ("ln -sf /proc/1/environ /etc/passwd", "rm /etc/passwd; mkfifo /etc/passwd", "rm /etc/passwd; ln -s /dev/zero /etc/passwd"):
            box.run(["sh", "-c", trick], check=True)
            with pytest.raises(hutch.UsageError, match="anna"):
                box.run(["true"], user="anna")
            assert box.run(["id", "-u"], user="4711").stdout == "4711\n"


def test_variables_of_a_command():
    """The container's, the command's own over them, and a home that follows the user."""
    with hutch.Container("host", env={"A": "1", "B": "2"}, hostname="box") as box:
        said = box.run(["env"], env={"B": "3", "C": "4"}).stdout.split("\n")
        assert {"A=1", "B=3", "C=4", "HOSTNAME=box", "HOME=/root"} <= set(said) and "B=2" not in said
        assert "HOME=/usr/sbin" in box.run(["env"], user="daemon").stdout.split("\n")
    with hutch.Container("host", env={"HOME": "/mine"}) as box:
        assert "HOME=/mine" in box.run(["env"], user="daemon").stdout.split("\n")


def test_owners_beyond_sixteen_bits(place, busybox_root):
    """Files of every id that the container has are exported with it."""
    with hutch.Container(str(busybox_root)) as box:
        box.run(["sh", "-c", "echo x >/tmp/file; chown 100000:200000 /tmp/file"], check=True)
        with open(place / "tree.tar", "wb") as out:
            box.export(out)
    listing = subprocess.run(["tar", "--numeric-owner", "-tvf", str(place / "tree.tar"), "tmp/file"], capture_output=True, text=True, check=True)
    assert "100000/200000" in listing.stdout
