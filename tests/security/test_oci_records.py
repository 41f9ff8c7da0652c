"""Attacks on what hutch-oci keeps: ids that are paths, records that are damaged or forged, pids that became another's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conformance import runtime as rt
from tests.security import test_oci_tools as tools
from tests.security.test_oci_tools import clear

pytestmark = pytest.mark.root
place, boxes, victim = tools.place, tools.boxes, tools.victim
IDS = ["../x", "a/b", "..", ".", "", "/", "x" * 256, "x" * 300, "a\nb", "a b", "é", "a\tb", "x*", "\x1b[0m", "/etc/passwd", "\\x2e\\x2e"]
GONE = 2**22 + 5  # no pid is as high


def sane(*results: rt.Result) -> None:
    for result in results:
        assert "Traceback" not in result.err, result
        assert result.code in (0, 1), result


# Ids


@pytest.mark.parametrize("identity", IDS)
def test_ids_are_no_paths(boxes, place, identity):
    """An id becomes a directory's name, so it is one, in every command."""
    box = boxes(rt.shell("true"))
    (place / "x").mkdir()
    (place / "x/keep").write_text("")
    for words in (["create", "--bundle", str(box.bundle)], ["delete", "--force"]):
        result = boxes.call(*words, "--", identity)
        clear(result, "container id", "expected")
    assert (place / "x/keep").exists()
    root = Path(boxes.runtime.root)
    assert not root.exists() or not os.listdir(root)


def test_the_longest_id(boxes):
    box = boxes(rt.shell("echo fine"))
    box.id = "x" * 255
    assert box.run().ok().out == "fine\n"


def test_a_link_where_a_container_is_kept(boxes, place):
    """A link below --root leads to nothing that is followed, removed or emptied."""
    target = place / "target"
    target.mkdir()
    (target / "keep").write_text("")
    box = boxes.shell(False, "sleep 100").up()
    link = Path(boxes.runtime.root) / "link"
    for text in ("junk", json.dumps({"id": "link", "pid": 0, "started": 0}), None):
        if text is None:
            (target / "state").unlink()
        else:
            (target / "state").write_text(text)
        before = sorted(os.listdir(target))
        os.symlink(target, link)
        clear(boxes.call("create", "--bundle", str(box.bundle), "link"), "exists")
        assert "link" not in boxes.call("list").out
        for words in (["state"], ["kill"], ["start"], ["delete"], ["delete", "--force"], ["exec"]):
            sane(boxes.call(*words, "link", *(["true"] if words[0] == "exec" else [])))
        assert sorted(os.listdir(target)) == before
        assert not link.is_symlink(), "delete --force took the link, and left what it led to"


def test_a_state_directory_that_is_somebody_elses(boxes, place, ordinary_user):
    """What others may write to is not believed."""
    box = boxes(rt.shell("true"))
    for mode, owner in ((0o777, 0), (0o1777, 0), (0o700, ordinary_user.pw_uid)):
        path = place / f"state-{mode:o}-{owner}"
        path.mkdir()
        path.chmod(mode)
        os.chown(path, owner, -1)
        box.runtime = rt.Runtime("hutch-oci", boxes.runtime.argv, str(path))
        clear(box.create(), "this user's alone")
    box.runtime = boxes.runtime


# Damaged records

FINE = {"cgroup": {}, "namespaces": [], "joined": [], "options": {}, "owner": 0}
DAMAGE: dict[str, object] = {
    "missing": None,
    "empty": "",
    "truncated": '{"id":"@","bundle":"/x","roo',
    "truncated later": '{"id":"@"}\n{"pid":',
    "garbage": "hello world",
    "binary": os.urandom(300),
    "zeros": b"\0" * 100,
    "escape": '{"id":"\\q"}',
    "control": '{"id":"a\x01b"}',
    "list": "[]\n",
    "number": "5\n",
    "deep": "[" * 100_000,
    "another's": '{"id":"other","pid":0,"started":0}\n',
    "owner text": {"owner": "x"},
    "owner list": {"owner": [1]},
    "owner huge": {"owner": 10**30},
    "cgroup number": {"cgroup": 5},
    "cgroup numbers": {"cgroup": {"pids": 5, "memory": "x"}},
    "cgroup null": {"cgroup": {"pids": None}},
    "namespaces": {"namespaces": 5},
    "annotations": {"annotations": 5},
    "bundle": {"bundle": [5]},
    "pid huge": {"pid": 10**30},
    "pid long": {"pid": 2**31},
    "pid negative": {"pid": -1},
    "pid text": {"pid": "1"},
    "started negative": {"started": -1},
}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A container that is fine, beside those that are not."""
    rt.adopt(True)
    made = tools.Boxes(Path("/var/tmp") / f"hutch-sec-records-{os.getpid()}")
    made.place.mkdir(mode=0o755)
    box = made.shell(False, "sleep 1000").up()
    yield box
    box.cleanup()
    rt.reap()
    subprocess.run(["rm", "-rf", str(made.place)], check=True)


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_records(healthy, name):
    """A record that is no record: a sentence from every command, the other containers go on, and delete --force removes it."""
    call, identity = healthy.runtime.call, f"damaged-{os.getpid()}"
    directory = Path(healthy.runtime.root) / identity
    damage = DAMAGE[name]
    if isinstance(damage, dict):
        damage = json.dumps({"id": identity, "pid": GONE, "started": 5, **FINE, **damage}) + "\n"
    cgroups = [Path(f"/sys/fs/cgroup/{c}/hutch-{identity}") for c in ("pids", "memory")]
    for path in (directory, *cgroups):
        path.mkdir()
    try:
        if isinstance(damage, bytes):
            (directory / "state").write_bytes(damage)
        elif isinstance(damage, str):
            (directory / "state").write_text(damage.replace("@", identity))
        for words in (["state", identity], ["kill", identity, "0"], ["kill", "--all", identity, "0"], ["exec", identity, "true"]):
            sane(call(*words))
        result = call("list")
        sane(result)
        assert result.code == 0 and healthy.id in result.out, result
        call("delete", "--force", identity).ok()
        assert not directory.exists()
        if not isinstance(DAMAGE[name], dict):  # whose record says that it has none
            assert not any(path.exists() for path in cgroups)
    finally:
        subprocess.run(["rm", "-rf", str(directory)], check=True)
        for path in cgroups:
            if path.exists():
                path.rmdir()
    assert healthy.status == "running"


@pytest.mark.parametrize("text", [pytest.param("{", id="cut"), pytest.param('{"a', id="cut in a string"),
                                  pytest.param("[" * 100_000, id="deep"), "", "null", '"x"', "\x00"])  # fmt: skip
def test_damaged_configurations(boxes, text):
    """config.json of a bundle, and of a container that runs."""
    box = boxes.shell(False, "sleep 100").up()
    (box.bundle / "config.json").write_text(text)
    clear(boxes.call("run", "--bundle", str(box.bundle), "other"))
    (box.record.parent / "config.json").write_text(text)
    sane(box.exec("true"), box.call("state"), box.delete("--force"))
    assert not box.record.parent.exists()


# Pids


def _forge(box, **values) -> None:
    first, second = box.record.read_text().splitlines()
    own = {**json.loads(second), **values}
    box.record.write_text(first + "\n" + json.dumps({k: v for k, v in own.items() if v is not None}) + "\n")


@pytest.mark.parametrize("started", ["own", None])
def test_the_pid_is_another_process_by_now(boxes, victim, started):
    """The record's number is another's: it is not touched, and the container counts as stopped."""
    box = boxes.shell(False, "sleep 100").up()
    _forge(box, pid=victim.pid, **({} if started == "own" else {"started": None}))
    sane(box.kill("KILL"))
    assert victim.poll() is None
    if started == "own":
        assert box.state()["status"] == "stopped" and box.state()["pid"] == 0
        clear(box.exec("true"), "not running")
        clear(box.kill("KILL"), "not running")
        clear(boxes.call("ps", box.id), "not running")
    sane(box.delete("--force"))
    assert victim.poll() is None and not box.record.exists()
    rt.until(lambda: not rt.alive(box.init), "end of what lived in the cgroup")


def test_the_process_is_a_zombie(boxes):
    """Ended and not reaped yet: stopped, whatever still has its number."""
    box = boxes.shell(False, "true").up()
    rt.until(lambda: rt.is_zombie(box.init), "its end")
    assert box.state()["status"] == "stopped"
    clear(box.kill("KILL"), "not running")
    clear(box.exec("true"), "not running")
    box.delete().ok()


def test_the_process_is_gone(boxes):
    box = boxes.shell(False, "sleep 100").up()
    os.kill(box.init, signal.SIGKILL)
    assert box.wait() == -9
    assert box.state()["status"] == "stopped"
    clear(box.kill("KILL"), "not running")
    clear(box.start(), "stopped")
    box.delete().ok()
    clear(box.delete(), "does not exist")
    box.delete("--force").ok()


# Numbers


@pytest.mark.parametrize("words", [["exec", "--user", "1" * 5000, "@", "true"], ["kill", "@", "9" * 5000], ["exec", "--preserve-fds", "5000", "@", "true"],
                                   ["exec", "-g", "1" * 5000, "@", "true"]], ids=["user", "signal", "descriptors", "group"])  # fmt: skip
def test_numbers_of_any_length(boxes, words):
    box = boxes.shell(False, "sleep 100").up()
    clear(boxes.call(*[word.replace("@", box.id) for word in words]))
