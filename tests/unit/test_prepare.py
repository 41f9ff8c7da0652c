"""From settings to a plan that is ready to run, and what is kept of it."""

from __future__ import annotations

import os
import sys
import types

import pytest

from hutch.engine.launch import identity, plancache, prepare, resolution
from hutch.engine.spec.settings import Bind, Settings, Ulimit
from hutch.errors import UsageError
from hutch.executor import kept, late
from hutch.image import resolve
from hutch.kernel.features import SubordinateIds
from hutch.plan.lint import lint
from tests.unit.machines import HOST, ROOT_HYBRID, ROOTLESS


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`prepare` on a machine that does not exist."""
    monkeypatch.setenv("HUTCH_STATE", str(tmp_path))
    monkeypatch.setattr(resolution, "features", lambda: ROOT_HYBRID)
    monkeypatch.setattr(resolve, "resolve", lambda name, features: HOST)
    monkeypatch.setattr(prepare, "_templates", {})
    monkeypatch.setattr(prepare, "_last", [None])
    return tmp_path


def test_prepare(machine):
    prepared = prepare.prepare(Settings(image="host", command=("true",), name="box"))
    assert len(prepared.id) == 12 and int(prepared.id, 16) >= 0
    assert prepared.directory == f"{machine}/{prepared.id}"
    assert prepared.id.encode() in prepared.encoded
    assert not [mark for mark in prepared.marks.words()[:3] if mark.encode() in prepared.encoded]
    plan = prepare.plan_of(prepared)
    assert lint(plan) == []
    assert len(plan.encode(0)) == len(prepared.encoded)
    assert prepared.id in plan.describe() and prepared.marks.id not in plan.describe()


def test_two_of_one_template(machine):
    settings = Settings(image="host", command=("true",))
    one, two = prepare.prepare(settings), prepare.prepare(settings)
    assert one.id != two.id and one.compiled is two.compiled
    assert one.encoded.replace(one.id.encode(), two.id.encode())[:200] == two.encoded[:200]


def test_every_thread_gets_what_it_asked_for(machine, monkeypatch):
    """Another thread asks for something else between any two steps: here, right after the look at what was asked for last."""
    mine, others = (Settings(image="host", command=("echo", name)) for name in ("mine-mine", "others-others"))
    prepare.prepare(mine)
    compare = resolution.Resolved.__eq__

    def interrupted(self: object, other: object) -> bool:
        same = compare(self, other)
        with monkeypatch.context() as undisturbed:
            undisturbed.setattr(resolution.Resolved, "__eq__", compare)
            prepare.prepare(others)
        return same

    monkeypatch.setattr(resolution.Resolved, "__eq__", interrupted)
    prepared = prepare.prepare(mine)
    assert prepared.settings.command == mine.command and b"mine-mine" in prepared.encoded and b"others" not in prepared.encoded


WORDS_OF_OLD = ("zQ7vXw0hKj3T", "7301928465.918273", "zQ7v.Xw0h.Kj3T.", "zQ000", "1970-01-01T00:00:00.000000000Z")


def test_what_the_user_writes_stays(machine):
    """Whatever it is: no word stands for something else."""
    settings = Settings(image="host", command=("echo", *WORDS_OF_OLD), env=tuple(f"V{i}={word}" for i, word in enumerate(WORDS_OF_OLD)))
    prepared = prepare.prepare(settings)
    for word in WORDS_OF_OLD:
        assert prepared.encoded.count(word.encode()) >= 2
    again = prepare.prepare(settings)
    assert again.marks == prepared.marks and again.encoded != prepared.encoded


def test_marks_are_of_nothing_that_went_in():
    """Not even of a text that holds almost all that could be drawn; and each is as long as its value."""
    marks = identity.new_marks("".join(f"{a}{b}" for a in identity.LETTERS for b in identity.LETTERS[:-1]))
    assert marks.port[0] in identity.LETTERS and marks.port[1] == identity.LETTERS[-1]
    for _ in range(300):
        marks = identity.new_marks("")
        assert [len(word) for word in marks.words()] == [12, 17, 15, 2]
        assert repr(float(marks.created)) == marks.created
        assert len(marks.port_mark(7)) == identity.PORT_LENGTH


def test_values_go_to_their_places_alone():
    """`fill` writes at the places that were noted, and reads nothing."""
    encoded = b"..mark..mark..kram"
    places = tuple(("a", at) for at in late.offsets(encoded, b"mark"))
    assert places == (("a", 2), ("a", 8))
    once = late.fill(encoded, places, {"a": b"kram", "b": b"none"})
    assert once == b"..kram..kram..kram"
    assert late.fill(once, places, {"a": b"1234"}) == b"..1234..1234..kram"


def test_what_is_kept_of_marks():
    marks = identity.new_marks("")
    places = (("id", 12), ("port0", 90))
    assert plancache.parts(plancache.said(("a", "b"), marks, places)) == (("a", "b"), marks, places)


def test_no_command(machine):
    with pytest.raises(UsageError, match="host: no command"):
        prepare.prepare(Settings(image="host"))
    assert prepare.prepare(Settings(image="host"), idle=True)


def test_add_host(machine):
    with pytest.raises(UsageError, match="add-host: expected NAME:ADDRESS, got 'x'"):
        prepare.prepare(Settings(image="host", command=("true",), extra_hosts=("x",)))


def test_the_resolver_is_read_for_each_container(machine, monkeypatch):
    """A program that runs for days starts containers on the host's network: /etc/resolv.conf changes meanwhile."""
    answer = ["nameserver 10.0.0.1\n"]
    monkeypatch.setattr(resolution, "_resolv_conf", lambda s, joinings: answer[0])
    settings = Settings(image="host", command=("true",), network="host")
    assert b"10.0.0.1" in prepare.prepare(settings).encoded
    answer[0] = "nameserver 10.9.9.9\n"
    assert b"10.9.9.9" in prepare.prepare(settings).encoded


def test_record_of():
    settings = Settings(image="host", binds=(Bind(source="/a", target="/b"),), ulimits=(Ulimit(name="core", soft=0, hard=0),))
    assert prepare.record_of(settings) == {"image": "host", "binds": [{"source": "/a", "target": "/b"}], "ulimits": [{"name": "core", "soft": 0, "hard": 0}]}


# Plans kept between two runs of the command line

WORDS = ["memory=64m", "--", "host", "true"]


def test_kept_plans(tmp_path):
    own = plancache.key(WORDS, HOST, ROOTLESS)
    base = plancache.place(str(tmp_path))
    assert kept.load(base, own) is None
    kept.save(base, own, "a b", b"plan\0\0hutch")
    assert kept.load(base, own) == ("a b", b"plan\0\0hutch")
    assert kept.load(base, own + b"x") is None
    os.chmod(base, 0o777)
    kept.save(base, own + b"x", "a", b"plan")
    assert kept.load(base, own + b"x") is None, "somebody else may write there"


def test_a_kept_plan_is_of_the_modules_that_made_it(tmp_path, monkeypatch):
    """An edit in place, of whatever module took part, in whatever package: the plan is compiled anew."""
    module = types.ModuleType("hutch.anywhere")
    module.__file__ = str(tmp_path / "anywhere.py")
    (tmp_path / "anywhere.py").write_text("LIMIT = 1\n")
    monkeypatch.setitem(sys.modules, "hutch.anywhere", module)
    base = plancache.place(str(tmp_path))
    kept.save(base, b"own", "a", b"plan")
    assert kept.load(base, b"own") == ("a", b"plan")
    directory = os.stat(tmp_path).st_mtime_ns
    with open(module.__file__, "r+") as file:
        file.write("LIMIT = 2\n")
    os.utime(tmp_path, ns=(directory, directory))
    assert kept.load(base, b"own") is None
    kept.save(base, b"own", "a", b"plan")
    os.unlink(module.__file__)
    assert kept.load(base, b"own") is None


@pytest.mark.parametrize(
    "features",
    [
        ROOTLESS.replace(kernel=(6, 19)),
        ROOTLESS.replace(uid=1001),
        ROOTLESS.replace(hard_limits={}),
        ROOTLESS.replace(subuid=SubordinateIds(start=5, count=10)),
        ROOTLESS.replace(subgid=None),
        ROOTLESS.replace(newuidmap=""),
        ROOTLESS.replace(user_namespaces=False),
    ],
    ids=["kernel", "uid", "limits", "subuid", "subgid", "newuidmap", "userns"],
)
def test_kept_plans_depend_on_what_they_were_compiled_from(features):
    """ "Everything that it was compiled from is the same": a plan that names ids which /etc/subuid no longer grants fails
    at each start, and is never made anew."""
    assert plancache.key(WORDS, HOST, features) != plancache.key(WORDS, HOST, ROOTLESS)


def test_kept_plans_of_the_hosts_network():
    """With --network host a plan holds the text of /etc/resolv.conf: it is no longer right when that file changes."""
    assert plancache.keepable({"memory": "64m"})
    assert not plancache.keepable({"network": "host"})
    assert not plancache.keepable({"user": "anna"})
