"""What a volume begins with, and that nothing but the creation of a container touches it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

import hutch
from hutch.engine.volumes import volumes
from tests.conftest import HUTCH

pytestmark = pytest.mark.root


@pytest.fixture
def fresh(monkeypatch, tmp_path_factory):
    """A data and a state directory that hold nothing."""
    top = Path("/var/tmp") / f"hutch-volumes-{os.getpid()}-{os.urandom(3).hex()}"
    top.mkdir(mode=0o711)
    monkeypatch.setenv("HUTCH_DATA", str(top / "data"))
    monkeypatch.setenv("HUTCH_STATE", str(top / "state"))
    (top / "state").mkdir(mode=0o700)
    yield top
    for volume in volumes.every():
        volume.remove()
    subprocess.run(["rm", "-rf", str(top)], check=True)


@pytest.fixture
def image(busybox_root):
    """An image with a directory for a volume."""
    place = busybox_root / "data"
    place.mkdir()
    (place / "seed").write_text("of the image\n")
    os.chown(place, 7, 8)
    place.chmod(0o751)
    return str(busybox_root)


def everything(top: Path) -> list[str]:
    return sorted(str(path) for path in top.rglob("*"))


def hutch_(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HUTCH, *words], capture_output=True, text=True, check=False)


def test_looking_at_a_container_leaves_its_volume_alone(fresh, image):
    """Its directory, empty as it is, is the one that the container has mounted, whatever is done with the container."""
    with hutch.Container(image, mounts=["kept:/data"]) as box:
        box.run(["sh", "-c", "rm /data/seed"], check=True)
        inode = os.stat(volumes.get("kept").path).st_ino
        box.run(["true"], check=True)
        box.diff()
        hutch_("exec", box.id, "true")
        hutch_("cp", f"{box.id}:/bin/busybox", str(fresh / "copy"))
        hutch_("diff", box.id)
        hutch_("plan", "-v", "kept:/data", image, "true")
        second = hutch.run(image, ["touch", "/data/second"], mounts=["kept:/data"])
        assert second.ok
        box.run(["sh", "-c", "echo precious > /data/file"], check=True)
        assert os.stat(volumes.get("kept").path).st_ino == inode
    assert hutch.run(image, ["cat", "/data/file"], mounts=["kept:/data"]).stdout == "precious\n"
    assert sorted(os.listdir(volumes.get("kept").path)) == ["file", "second"]


@pytest.mark.parametrize("userns", ["auto", "host"])
def test_a_new_volume_begins_with_the_image(fresh, image, userns):
    """With its files, owners and modes, the directory's own included; once, and not again."""
    look = ["sh", "-c", "cat /data/seed; stat -c '%u:%g %a' /data; rm /data/seed; touch /data/own"]
    assert hutch.run(image, look, mounts=["v1:/data"], userns=userns).stdout == "of the image\n7:8 751\n"
    assert hutch.run(image, ["ls", "/data"], mounts=["v1:/data"], userns=userns).stdout == "own\n"
    assert sorted(os.listdir(Path(volumes.get("v1").path).parent)) == ["data", "lock", "volume"]


def test_many_at_once_on_a_new_volume(fresh, image):
    """All see it whole."""
    runs = [
        subprocess.Popen([*HUTCH, "run", "--rm", "-v", "many:/data", image, "cat", "/data/seed"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    assert {run.communicate() for run in runs} == {("of the image\n", "")}


def test_what_a_killed_process_left_half_filled(fresh, image):
    """It is begun anew by the next container."""
    volume = volumes.create("half")
    (Path(volume.path) / "half").write_text("a part")
    (Path(volume.path).parent / "filling").touch()
    assert hutch.run(image, ["ls", "/data"], mounts=["half:/data"]).stdout == "seed\n"
    assert not (Path(volume.path).parent / "filling").exists()


def test_a_volume_with_content_keeps_it(fresh, image):
    volume = volumes.create("own")
    (Path(volume.path) / "mine").write_text("x")
    assert hutch.run(image, ["ls", "/data"], mounts=["own:/data"]).stdout == "mine\n"


@pytest.mark.parametrize(
    "words", [["-v", "new:/x"], ["-v", "/x"], ["--network", "bridge", "-p", "8080:80"], ["-d", "-v", "new:/x", "--upper", "disk"], ["--name", "box"]]
)
def test_a_plan_touches_nothing(fresh, image, words):
    """`hutch plan` shows a container that is not made, and nothing of it is."""
    hutch_("volume", "ls")
    hutch_("network", "ls")
    before = everything(fresh)
    planned = hutch_("plan", *words, image, "true")
    assert planned.returncode == 0, planned.stderr
    assert everything(fresh) == before


def test_what_does_not_start_leaves_no_volume(fresh, image):
    assert hutch.run(image, ["/no/such/program"], mounts=["/anonymous"]).outcome == "failed-to-start"
    assert not volumes.every()
    with pytest.raises(hutch.UsageError):
        hutch.run(image, ["true"], mounts=[hutch.VolumeMount(name="here", target="/x", subpath="no/such")])
    assert [volume.name for volume in volumes.every()] == ["here"]


def test_a_volume_in_use_hides_no_failure_of_its_container(fresh):
    """Whoever gives up a container forgets its volumes on the way out, and then says what was wrong: nothing may come between."""
    volume = volumes.create()
    with open(volume.lock, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        volumes.forget([volume.name])
        assert volumes.every() == [volume]
    volumes.forget([volume.name])
    assert volumes.every() == []
