"""Mounts in whatever order they are named: each is seen, and no two at one place."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import pytest

import hutch

pytestmark = pytest.mark.root
NESTED = {"/srv/x": "outer", "/srv/x/y": "inner", "/srv/x/y/z/deep": "innermost"}


@pytest.fixture
def place():
    """Directories with a file that tells their names, and places in them for what is mounted below."""
    found = Path(tempfile.mkdtemp(prefix="hutch-order-", dir="/var/tmp"))
    found.chmod(0o755)
    for name in ("outer", "inner", "innermost", "other"):
        (found / name / "y/z/deep").mkdir(parents=True)
        (found / name / "z/deep").mkdir(parents=True)
        (found / name / "name").write_text(f"{name}\n")
    yield found
    shutil.rmtree(found)


@pytest.mark.parametrize("userns", ["auto", "host"])
@pytest.mark.parametrize("order", [*itertools.permutations(NESTED)], ids=lambda order: " ".join(order))
def test_every_order(hutch_cli, place, order, userns):
    """Three directories of the host, one within the other, in every order of their flags."""
    flags = [word for target in order for word in ("-v", f"{place}/{NESTED[target]}:{target}")]
    files = [f"{target}/name" for target in NESTED]
    done = hutch_cli("run", "--userns", userns, *flags, "host", "cat", *files)
    assert (done.stdout, done.returncode) == ("outer\ninner\ninnermost\n", 0), done.stderr


KINDS = {
    "bind": lambda place, target: ["-v", f"{place}/other:{target}"],
    "mount flag": lambda place, target: ["--mount", f"type=bind,src={place}/other,dst={target}"],
    "volume": lambda place, target: ["-v", f"order-{place.name}:{target}"],
    "anonymous volume": lambda place, target: ["-v", target],
    "tmpfs": lambda place, target: ["--tmpfs", target],
    "tmpfs by the mount flag": lambda place, target: ["--mount", f"type=tmpfs,dst={target}"],
}


@pytest.fixture
def no_volumes(place):
    yield
    for volume in hutch.volumes.list():
        if volume.name == f"order-{place.name}" or volume.anonymous:
            volume.remove()


@pytest.mark.parametrize("outer", KINDS)
@pytest.mark.parametrize("inner", KINDS)
@pytest.mark.parametrize("first", ["outer", "inner"])
def test_every_kind(hutch_cli, place, no_volumes, outer, inner, first):
    """A bind mount, a volume or a tmpfs within another, whichever is named first."""
    flags = [KINDS[outer](place, "/srv/x"), KINDS[inner](place, "/srv/x/y")]
    flags = flags if first == "outer" else flags[::-1]
    script = 'for d in /srv/x /srv/x/y; do grep -c " $d " /proc/self/mountinfo; done; touch $d/new; ls $d/new'
    done = hutch_cli("run", *flags[0], *flags[1], "host", "sh", "-c", script)
    assert done.stdout == "1\n1\n/srv/x/y/new\n", done.stderr
    below = place / "other/y/new" if outer in ("bind", "mount flag") else None
    assert below is None or not below.exists()  # what is written to the inner one is not in the outer one


SAME = ["/srv", "/srv/", "//srv", "/srv/.", "/srv//", "/usr/../srv"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", SAME)
def test_one_place_for_two(hutch_cli, place, no_volumes, target, kind):
    """One target in two ways of writing it: refused, and the message names it; or the later one is there."""
    mine = KINDS[kind](place, target)
    for flags in (["-v", f"{place}/outer:/srv", *mine], [*mine, "-v", f"{place}/outer:/srv"]):
        script = "cat /srv/name 2>/dev/null; grep -c ' /srv ' /proc/self/mountinfo"
        done = hutch_cli("run", *flags, "host", "sh", "-c", script)
        if done.returncode:
            assert done.returncode == 125 and "/srv" in done.stderr and "[" not in done.stderr
        else:
            later = "other\n" if "other" in "".join(mine) else ""
            assert done.stdout == ("outer\n" if flags[-1].endswith("outer:/srv") else later) + "1\n"


def test_the_api(place):
    """The same from Python."""
    mounts = [f"{place}/inner:/srv/x/y", f"{place}/outer:/srv/x"]
    done = hutch.run("host", ["cat", "/srv/x/name", "/srv/x/y/name"], mounts=mounts)
    assert done.stdout == "outer\ninner\n"


def test_a_file_within_a_directory(hutch_cli, place):
    """A file bound into a directory that is bound after it."""
    flags = ["-v", f"{place}/inner/name:/srv/name", "-v", f"{place}/outer:/srv"]
    done = hutch_cli("run", *flags, "host", "cat", "/srv/name")
    assert done.stdout == "inner\n", done.stderr
