"""One data directory, two state directories: neither removes what the other's containers use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.conftest import HUTCH
from tests.hosts import until

pytestmark = pytest.mark.root


class Side:
    """Commands with a state directory of their own."""

    def __init__(self, place: Path, name: str) -> None:
        self.environment = {**os.environ, "HUTCH_DATA": f"{place}/data", "HUTCH_STATE": f"{place}/{name}"}

    def try_(self, *words: str) -> subprocess.CompletedProcess[str]:
        options = {"env": self.environment, "stdin": subprocess.DEVNULL, "timeout": 60}
        return subprocess.run([*HUTCH, *words], capture_output=True, text=True, check=False, **options)

    def __call__(self, *words: str) -> str:
        done = self.try_(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def volumes(self) -> set[str]:
        return set(self("volume", "ls", "-q").split())

    def close(self) -> None:
        for name in self("ps", "-aq").split():
            self("rm", "-f", name)


@pytest.fixture
def sides():
    place = Path(tempfile.mkdtemp(prefix="hutch-sides-", dir="/var/tmp"))
    place.chmod(0o755)
    both = Side(place, "one"), Side(place, "two")
    yield both
    for side in both:
        side.close()
    shutil.rmtree(place)


HOLDERS = {
    "running": ["sh", "-c", "echo data >/data/file; echo ready; exec sleep 1000"],
    "ended": ["sh", "-c", "echo data >/data/file; echo ready"],
}
REMOVERS = {
    "rm": ["volume", "rm", "kept"],
    "rm -f": ["volume", "rm", "-f", "kept"],
    "prune": ["volume", "prune", "--all"],
    "system prune": ["system", "prune", "--all"],
}


@pytest.mark.parametrize("remover", REMOVERS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_volume_that_the_others_container_uses(sides, holder, remover):
    """A named volume of a container that runs, or has ended and is kept: it stays until that is removed."""
    one, two = sides
    one("run", "-d", "--name", "box", "-v", "kept:/data", "host", *HOLDERS[holder])
    until(lambda: "ready" in one("logs", "box"))
    done = two.try_(*REMOVERS[remover])
    assert "kept" in one.volumes(), done
    assert one("run", "-v", "kept:/data", "host", "cat", "/data/file") == "data\n"
    one("rm", "-f", "box")
    two("volume", "rm", "kept")
    assert "kept" not in one.volumes()


@pytest.mark.parametrize("remover", [["volume", "prune"], ["volume", "prune", "--all"], ["system", "prune"]])
def test_an_anonymous_volume_of_the_others(sides, remover):
    """A volume without a name, which prune takes first."""
    one, two = sides
    one("run", "-d", "--name", "box", "-v", "/data", "host", *HOLDERS["running"])
    until(lambda: "ready" in one("logs", "box"))
    before = one.volumes()
    two.try_(*remover)
    assert len(before) == 1 and one.volumes() == before
    assert one("exec", "box", "cat", "/data/file") == "data\n"


def test_a_container_that_is_not_detached(sides):
    """A container in the foreground uses its volume as well."""
    one, two = sides
    script = "echo data >/data/file; echo ready; read x; cat /data/file"
    words = [*HUTCH, "run", "-i", "-v", "kept:/data", "host", "sh", "-c", script]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(words, env=one.environment, text=True, **streams)
    try:
        assert process.stdout.readline() == "ready\n"
        two.try_("volume", "rm", "kept")
        two.try_("volume", "prune", "--all")
        assert process.communicate("go\n", timeout=20)[0] == "data\n" and "kept" in one.volumes()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("holder", ["running", "ended"])
@pytest.mark.parametrize("remover", ["rmi small:1", "system prune --all", "image prune --all"])
def test_an_image_that_the_others_container_uses(sides, busybox_root, holder, remover, tmp_path):
    """An image of a container that runs, or has ended and is kept: both can be looked at as before."""
    one, two = sides
    with tarfile.open(tmp_path / "base.tar", "w") as tar:
        tar.add(busybox_root, ".")
    one("import", str(tmp_path / "base.tar"), "small:1")
    end = "" if holder == "ended" else "exec sleep 1000"
    one("run", "-d", "--name", "box", "small:1", "sh", "-c", f"echo data >/root/file; echo ready; {end}")
    until(lambda: "ready" in one("logs", "box"))
    done = two.try_(*remover.split())
    assert "small" in one("images"), done
    one("cp", "box:/root/file", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "data\n"
    assert "A /root/file" in one("diff", "box")
    one("commit", "box", "small:2")
