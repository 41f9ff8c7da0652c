"""The options of `hutch.run` and `hutch.Container`: each is typed, described, and refused by name where it has the wrong type."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import hutch
from hutch.engine.spec import options
from hutch.engine.spec.settings import Settings
from hutch.errors import UsageError
from hutch.kernel.features import features
from tests.conftest import SRC


def fields(name: str) -> list[str]:
    """The names of a TypedDict that only type checkers see."""
    tree = ast.parse((SRC / "hutch/engine/spec/options.py").read_text())
    found = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    return [node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]


OPTIONS = fields("Options")


def test_every_option_is_read_and_described():
    assert sorted(OPTIONS) == sorted([*options.READERS, *options.COMPOSED])
    for name in OPTIONS:
        assert re.search(rf"(?m)(^      |, |; |from the default ones, ){name}(, |:)", options.DESCRIPTION), name


def test_nothing_else_is_an_option():
    for name in sorted({*Settings._fields, "cpuset_cpus"} - {*OPTIONS, "image", "command"}):
        with pytest.raises(UsageError, match=f"unknown option '{name}'"):
            options.settings("host", (), {name: ()})


@pytest.mark.parametrize("what", [hutch.run, hutch.Container, hutch.aio.run, hutch.aio.Container])
def test_help_lists_them(what):
    assert inspect.cleandoc(options.DESCRIPTION) in inspect.getdoc(what)


def test_defaults_that_are_described():
    plain = Settings(image="x")
    for name, value in (("userns", "auto"), ("network", "none"), ("pull", "missing"), ("vm_root", "shared"), ("isolation", "namespaces"), ("vm_accel", "kvm")):
        assert getattr(plain, name) == value and f'"{value}" (default' in options.DESCRIPTION, name
    assert plain.no_new_privileges and not plain.readonly and not plain.init and not plain.privileged and plain.shm_size == 64 << 20


WRONG = [
    ({"memory": 0.5}, "memory: expected bytes as a whole number, or text such as \"512m\", got 0.5"),
    ({"memory": True}, "memory: expected bytes"),
    ({"memory": "much"}, "memory: expected a size such as 512m, got 'much'"),
    ({"memory_swap": 1.5}, "memory_swap: expected bytes"),
    ({"shm_size": []}, "shm_size: expected bytes"),
    ({"cpus": "0.5"}, "cpus: expected a number, got '0.5'"),
    ({"pids": "5"}, "pids: expected a whole number, got '5'"),
    ({"cpu_shares": 1.5}, "cpu_shares: expected a whole number"),
    ({"oom_score_adj": False}, "oom_score_adj: expected a whole number"),
    ({"stop_timeout": "5"}, "stop_timeout: expected a number"),
    ({"volumes": ["a:/b"]}, "unknown option 'volumes'"),
    ({"environment": {}}, "unknown option 'environment'"),
    ({"cap_add": "NET_ADMIN"}, "cap_add: expected a list of texts, got 'NET_ADMIN'"),
    ({"cap_drop": {"ALL": 1}}, "cap_drop: expected a list of texts"),
    ({"capabilities": "KILL"}, "capabilities: expected a list of texts"),
    ({"mounts": {"/a": {"bind": "/b", "mode": "ro"}}}, "mounts: expected a list of Bind"),
    ({"mounts": "/a:/b"}, "mounts: expected a list of Bind"),
    ({"mounts": [("/a", "/b")]}, r"mounts: expected a list of Bind, .*, got \('/a', '/b'\)"),
    ({"tmpfs": {"/a": ""}}, "tmpfs: expected a list of texts"),
    ({"devices": "/dev/fuse"}, "devices: expected a list such as"),
    ({"env": {"A": None}}, "env A: expected text, got None"),
    ({"env": {"A": 1}}, "env A: expected text, got 1"),
    ({"env": "A=1"}, "env: expected a mapping"),
    ({"env": [1]}, "env: expected text, got 1"),
    ({"labels": ["a=b"]}, "labels: expected a mapping"),
    ({"sysctls": {"a": None}}, "sysctls a: expected a whole number, got None"),
    ({"ulimits": {"nofile": "5"}}, "ulimits nofile: expected a whole number, got '5'"),
    ({"ulimits": {"nofile": (1, 2, 3)}}, "ulimits nofile: expected a number, or the soft and the hard one"),
    ({"ulimits": ["nofile=5"]}, "ulimits: expected a mapping"),
    ({"time_offsets": {"boottime": "5"}}, "time_offsets boottime: expected a whole number"),
    ({"ports": "80:80"}, "ports: expected a list such as"),
    ({"ports": {"80/tcp": None}}, "ports 80/tcp: expected a whole number, got None"),
    ({"network": 5}, "network: expected names, or Attachment, got 5"),
    ({"network": [None]}, "network: expected a name, or Attachment, got None"),
    ({"network": {"web": {}}}, "network: expected names, or Attachment"),
    ({"network": "web", "ip": 5}, "ip: expected text, got 5"),
    ({"network": "web", "aliases": "db"}, "aliases: expected a list of texts, got 'db'"),
    ({"dns": 5}, "dns: expected a list of texts, got 5"),
    ({"extra_hosts": {"a": "b"}}, "extra_hosts: expected a list of texts"),
    ({"readonly": "no"}, "readonly: expected True or False, got 'no'"),
    ({"privileged": 1}, "privileged: expected True or False, got 1"),
    ({"user": 1.5}, "user: expected a name or a number, got 1.5"),
    ({"groups": "audio"}, "groups: expected a list of names or numbers, got 'audio'"),
    ({"workdir": 5}, r"workdir: expected a path \(text or pathlib.Path\), got 5"),
    ({"kernel": b"/k"}, "kernel: expected a path"),
    ({"entrypoint": "sh"}, "entrypoint: expected a list of arguments, got 'sh'"),
    ({"name": 5}, "name: expected text, got 5"),
    ({"seccomp": {}}, "seccomp: expected text"),
    ({"timeout": "5"}, "timeout: expected a number, got '5'"),
    ({"timeout": 0}, "timeout: expected seconds above 0, got 0"),
    ({"timeout": float("nan")}, "timeout: expected seconds above 0"),
    ({"output_limit": "1m"}, "output_limit: expected a whole number"),
    ({"output_limit": -1}, "output_limit: expected a number of bytes"),
    ({"text": "utf-8"}, "text: expected True or False"),
    ({"merge_stderr": 1}, "merge_stderr: expected True or False"),
    ({"check": 1}, "check: expected True or False"),
    ({"stdin": Path("/etc/passwd")}, "stdin: expected text, bytes, a file or a descriptor"),
    ({"stdin": True}, "stdin: expected text, bytes, a file or a descriptor"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[f"{next(reversed(w))}={next(reversed(w.values()))!r}"[:40] for w, _ in WRONG])
def test_the_wrong_type_is_refused_by_name(monkeypatch, wrong, message):
    """Before anything is looked up or made."""
    from hutch.engine.containers import create

    monkeypatch.setattr(create, "create", lambda *_, **__: pytest.fail("it went on"))
    with pytest.raises(UsageError, match=message):
        hutch.run("host", ["true"], **wrong)


@pytest.mark.parametrize(
    ("image", "command", "message"),
    [
        (5, ["true"], "image: expected text, got 5"), (None, (), "image: expected text"), (b"host", (), "image: expected text"),
        ("host", "true", "command: expected a list of arguments, got 'true'"), ("host", 5, "command: expected a list"),
        ("host", [1], "command: expected a path"), ("host", {"a": 1}, "command: expected a list"),
    ],
)  # fmt: skip
def test_images_and_commands_of_the_wrong_type(image, command, message):
    with pytest.raises(UsageError, match=message):
        hutch.run(image, command)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("volumes", 'use mounts=["/host:/there:ro"]'), ("environment", "use env"), ("memry", "memory is one"), ("qqq", "help(hutch.Container) lists the options")],
)
def test_what_to_use_instead(wrong, hint):
    with pytest.raises(UsageError) as caught:
        options.settings("host", (), {wrong: 1})
    assert caught.value.hint == hint


def test_ports_in_all_their_forms():
    for given in (["8080:80"], ("8080:80",), {"80": 8080}, {80: 8080}, {80: "8080"}):
        assert options.settings("host", (), {"ports": given}).ports == ("8080:80",)
    assert options.settings("host", (), {"ports": [80]}).ports == ("80",)
    assert options.settings("host", (), {"extra_hosts": "db:10.0.0.1"}).extra_hosts == ("db:10.0.0.1",)


def test_paths_are_taken(tmp_path):
    s = options.settings(
        tmp_path, (),
        {
            "workdir": Path("/srv"), "seccomp": tmp_path / "p.json", "kernel": tmp_path / "k", "cgroup_parent": Path("/a"), "devices": [Path("/dev/fuse")],
            "entrypoint": [Path("/bin/sh")], "mounts": [hutch.Bind(tmp_path, Path("/b"))],
        },
    )  # fmt: skip
    assert (s.image, s.workdir, s.seccomp, s.kernel, s.cgroup_parent) == (str(tmp_path), "/srv", f"{tmp_path}/p.json", f"{tmp_path}/k", "/a")
    assert s.devices == (("/dev/fuse", "/dev/fuse", "rwm"),) and s.entrypoint == ("/bin/sh",) and s.binds[0].source == str(tmp_path)


def test_a_path_is_never_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert options.settings(Path("host"), (), {}).image == f"{tmp_path}/host"
    assert hutch.ImageSource(Path("debian"), "/d").image == f"{tmp_path}/debian"


def test_mounts_by_position():
    assert hutch.Bind("/a", "/b") == hutch.Bind(source="/a", target="/b")
    assert hutch.Bind("/a", "/b", True, ["rslave"]).options == ("rslave",)
    assert hutch.Tmpfs("/t", ["size=1m"]) == hutch.Tmpfs(target="/t", options=("size=1m",))
    assert hutch.VolumeMount("data", "/d", True) == hutch.VolumeMount(name="data", target="/d", readonly=True)
    assert hutch.ImageSource("debian", "/d", "etc") == hutch.ImageSource(image="debian", target="/d", subpath="etc")
    assert hutch.Attachment("web", "10.0.0.2").ip == "10.0.0.2"
    assert hutch.Bind("/a", "/b").replace(readonly=True).readonly


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hutch.Bind(5, "/b"), "Bind: source: expected a path"), (lambda: hutch.Bind("/a", None), "Bind: target: expected a path"),
        (lambda: hutch.Bind("/a", "/b", "ro"), "Bind: readonly: expected True or False, got 'ro'"),
        (lambda: hutch.Bind("/a", "/b", options="ro"), "Bind: options: expected a list"),
        (lambda: hutch.Tmpfs(5), "Tmpfs: target"), (lambda: hutch.VolumeMount(5, "/d"), "VolumeMount: name"),
        (lambda: hutch.ImageSource(5, "/d"), "image: expected text"), (lambda: hutch.Attachment(5), "Attachment: network"),
        (lambda: hutch.networks.create(5), "network: expected text"), (lambda: hutch.networks.create("web", subnets="10.0.0.0/24"), "subnets: expected a list"),
        (lambda: hutch.networks.create("web", internal="yes"), "internal: expected True or False"),
        (lambda: hutch.volumes.create("data", labels=["a"]), "labels: expected a mapping"), (lambda: hutch.volumes.create(5), "volume: expected text"),
        (lambda: hutch.images.pull(5), "image 5: is no text"), (lambda: hutch.images.tag(None, "x"), "image None: is no text"),
        (lambda: hutch.images.get(5), "image 5: is no text"),
    ],
)  # fmt: skip
def test_other_calls_of_the_wrong_type(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_the_modules_list_what_they_have():
    for module in (hutch.images, hutch.networks, hutch.volumes, hutch.snapshots):
        assert module.__doc__ and module.list() == [] or module is hutch.networks or features()
        assert all(getattr(module, name, None) is not None for name in module.__all__) and "list" in module.__all__
    assert {"run", "Container", "containers", "images", "networks", "volumes", "snapshots", "aio"} <= set(dir(hutch))
