"""The OCI configuration: decoded, encoded, checked."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings, strategies as st

from hutch.errors import ConfigError
from hutch.oci import config as types, names
from hutch.oci.decode import RANGES, check, decode, decode_config, encode, json_name
from hutch.record import Record

EXAMPLE = json.loads((Path(__file__).parent / "spec_config.json").read_text())
OTHER_PLATFORMS = {"solaris", "windows", "vm", "zos"}
MINIMAL = {"ociVersion": "1.0.2", "process": {"cwd": "/", "args": ["sh"]}, "root": {"path": "rootfs"}}


def test_nothing_of_linux_is_dropped():
    expected = {key: value for key, value in EXAMPLE.items() if key not in OTHER_PLATFORMS}
    assert encode(decode(types.Config, EXAMPLE)) == expected
    check(decode(types.Config, EXAMPLE))


def test_encode_is_json():
    assert json.loads(json.dumps(encode(decode_config(EXAMPLE)))) == encode(decode_config(EXAMPLE))


def test_decode_of_encode():
    config = decode_config(EXAMPLE)
    assert decode_config(encode(config)) == config


def test_example_covers_every_field():
    """A property that the records know and the example lacks would be untested."""
    seen: set[tuple[str, str]] = set()

    def walk(record: Record) -> None:
        for field in record._fields:
            value = getattr(record, field)
            if field not in record._defaults or value != record._defaults[field]:
                seen.add((type(record).__name__, field))
            items = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,)
            for item in items:
                if isinstance(item, Record):
                    walk(item)

    walk(decode_config(EXAMPLE))
    every = {(name, f) for name, kind in _kinds().items() for f in kind._fields}
    assert every - seen == set()


def test_unknown_properties_are_ignored():
    data = {**copy.deepcopy(MINIMAL), "com.example": {"x": 1}}
    data["process"]["novel"] = [1]
    assert decode_config(data) == decode_config(MINIMAL)


def test_null_is_absent():
    data = {**MINIMAL, "hostname": None, "mounts": None, "linux": {"resources": None, "sysctl": None}}
    assert decode_config(data) == decode_config(MINIMAL)


# Errors


def _with(path: str, value: object) -> dict:
    """The example with another value at ``a.b[0].c``; `...` removes it."""
    data = copy.deepcopy(EXAMPLE)
    steps = path.replace("[", ".[").split(".")
    here = data
    for i, step in enumerate(steps):
        key = int(step[1:-1]) if step.startswith("[") else step
        if i == len(steps) - 1:
            if value is ...:
                del here[key]
            else:
                here[key] = value
        else:
            here = here[key]
    return data


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("linux.resources.memory.limit", "10m", 'expected an integer, got "10m"'),
        ("linux.resources.memory.limit", 1.5, "expected an integer, got 1.5"),
        ("linux.resources.memory.limit", True, "expected an integer, got true"),
        ("linux.resources.memory.limit", 2**63, f"expected an integer from {-(2**63)} to {2**63 - 1}, got {2**63}"),
        ("linux.resources.cpu.shares", -1, f"expected an integer from 0 to {2**64 - 1}, got -1"),
        ("linux.resources.blockIO.weight", 65536, "expected an integer from 0 to 65535, got 65536"),
        ("linux.resources.blockIO.weightDevice[1].major", None, "expected an integer, got null"),
        ("linux.resources.devices[0].allow", "yes", 'expected true or false, got "yes"'),
        ("linux.resources.devices[0].allow", 1, "expected true or false, got 1"),
        ("linux.resources.devices[0].allow", ..., "is required and missing"),
        ("linux.resources.devices[1].type", "x", 'expected one of a, c, b, got "x"'),
        ("linux.resources.rdma.mlx5_1", [], "expected an object, got an array"),
        ("linux.resources.unified.hugetlb.1GB.max", 5, None),
        ("linux.namespaces[2].type", "nonsense", 'expected one of pid, network, mount, ipc, uts, user, cgroup, time, got "nonsense"'),
        ("linux.namespaces", {}, "expected an array, got an object"),
        ("linux.namespaces[1]", "pid", 'expected an object, got "pid"'),
        ("linux.devices[0].fileMode", -1, f"expected an integer from 0 to {2**32 - 1}, got -1"),
        ("linux.rootfsPropagation", "x" * 80, None),
        ("linux.seccomp.syscalls[1].args[0].op", "EQ", None),
        ("linux.seccomp.defaultAction", ..., "is required and missing"),
        ("linux.timeOffsets.monotonic.nanosecs", -1, f"expected an integer from 0 to {2**32 - 1}, got -1"),
        ("linux.personality.domain", "BSD", 'expected one of LINUX, LINUX32, got "BSD"'),
        ("linux.sysctl.net", 1, None),
        ("process.args", "sh -c true", 'expected an array, got "sh -c true"'),
        ("process.args[1]", 7, "expected a string, got 7"),
        ("process.args[1]", "a\0b", "a string may not contain a NUL"),
        ("process.cwd", None, "expected a string, got null"),
        ("process.ioPriority.class", "FAST", 'expected one of IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE, got "FAST"'),
        ("process.consoleSize.width", 70000, "expected an integer from 0 to 65535, got 70000"),
        ("process.user.umask", "022", 'expected an integer, got "022"'),
        ("process.noNewPrivileges", "true", 'expected true or false, got "true"'),
        ("hooks.poststop[0].path", ..., "is required and missing"),
        ("mounts[2].gidMappings[0].containerID", "0", 'expected an integer, got "0"'),
        ("annotations", [], "expected an object, got an array"),
        ("ociVersion", ..., "is required and missing"),
        ("root.path", ..., "is required and missing"),
    ],
)
def test_error_names_the_field(path, value, problem):
    if path == "linux.resources.unified.hugetlb.1GB.max":
        data = copy.deepcopy(EXAMPLE)
        data["linux"]["resources"]["unified"]["hugetlb.1GB.max"] = value
        problem = "expected a string, got 5"
    elif path == "linux.sysctl.net":
        data = _with("linux.sysctl", {"net": 1})
        problem = "expected a string, got 1"
    else:
        data = _with(path, value)
    with pytest.raises(ConfigError) as caught:
        decode_config(data)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    if problem is not None:
        assert str(caught.value) == f"{path}: {problem}"


def test_long_values_are_cut_in_messages():
    with pytest.raises(ConfigError) as caught:
        decode_config(_with("linux.rootfsPropagation", "x" * 5000))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("data", "message"), [([], "expected an object, got an array"), (None, "expected an object, got null"), ("", 'expected an object, got ""')]
)
def test_not_an_object(data, message):
    with pytest.raises(ConfigError) as caught:
        decode_config(data)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("path", "value", "where", "problem"),
    [
        ("ociVersion", "2.0.0", "ociVersion", "version 2.0.0 is not one of 1.x"),
        ("linux.namespaces[2].type", "pid", "linux.namespaces[2].type", "a second pid namespace"),
        ("linux.namespaces[1].path", "ns/net", "linux.namespaces[1].path", 'expected an absolute path, got "ns/net"'),
        ("mounts[0].destination", "", "mounts[0].destination", "is empty"),
        ("mounts[2].gidMappings", ..., "mounts[2].uidMappings", "uidMappings and gidMappings are given together or not at all"),
        ("linux.namespaces[5].type", "mount", "linux.namespaces[5].type", "a second mount namespace"),
        ("linux.timeOffsets", {"realtime": {"secs": 1}}, "linux.timeOffsets.realtime", "expected monotonic or boottime"),
        ("process.cwd", "work", "process.cwd", 'expected an absolute path, got "work"'),
        ("process.rlimits[0].soft", 2000, "process.rlimits[0]", "soft limit 2000 is above the hard limit 1024"),
        ("process.rlimits[1].type", "RLIMIT_CORE", "process.rlimits[1].type", "a second RLIMIT_CORE"),
        ("linux.devices[0].path", "dev/fuse", "linux.devices[0].path", 'expected an absolute path, got "dev/fuse"'),
        ("linux.devices[1].minor", ..., "linux.devices[1]", "major and minor are required for a device node"),
    ],
)
def test_cross_field_checks(path, value, where, problem):
    with pytest.raises(ConfigError) as caught:
        decode_config(_with(path, value))
    assert str(caught.value) == f"{where}: {problem}"


@pytest.mark.parametrize(("gone", "where"), [("user", "linux.uidMappings"), ("uts", "hostname"), ("time", "linux.timeOffsets")])
def test_needs_a_namespace(gone, where):
    data = copy.deepcopy(EXAMPLE)
    data["linux"]["namespaces"] = [n for n in data["linux"]["namespaces"] if n["type"] != gone]
    with pytest.raises(ConfigError) as caught:
        decode_config(data)
    assert caught.value.path == where


def test_domainname_needs_uts():
    data = copy.deepcopy(EXAMPLE)
    del data["hostname"]
    data["linux"]["namespaces"] = [n for n in data["linux"]["namespaces"] if n["type"] != "uts"]
    with pytest.raises(ConfigError, match="^domainname: "):
        decode_config(data)


def test_device_rule_access_is_checked():
    """``access`` is composed of r, w and m (config-linux.md, "Allowed Device list")."""
    with pytest.raises(ConfigError, match=r"^linux\.resources\.devices\[1\]\.access: "):
        decode_config(_with("linux.resources.devices[1].access", "rwx"))


def test_strings_that_have_no_bytes_are_refused():
    """JSON may say "\\ud800", which no path and no argument can be: a plan with it cannot be encoded."""
    data = json.loads(json.dumps(EXAMPLE).replace('"sh"', '"\\ud800"', 1))
    assert data["process"]["args"][0] == "\ud800"
    with pytest.raises(ConfigError, match=r"^process\.args\[0\]: "):
        decode_config(data)


# Round trips of every type, drawn from its annotations


def _kinds() -> dict[str, type[Record]]:
    return {name: kind for name, kind in vars(types).items() if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record}


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def _value(annotation: str) -> st.SearchStrategy:
    if annotation.endswith(" | None"):
        return st.none() | _value(annotation.removesuffix(" | None"))
    if annotation in RANGES:
        return st.integers(*RANGES[annotation])
    if annotation == "str":
        return TEXT
    if annotation == "bool":
        return st.booleans()
    if annotation.startswith("tuple["):
        return st.lists(_value(annotation[6:-6]), max_size=1).map(tuple)
    if annotation.startswith("dict[str, "):
        return st.dictionaries(TEXT, _value(annotation[10:-1]), max_size=1)
    return st.deferred(lambda: _record(_kinds()[annotation]))


@functools.cache
def _record(kind: type[Record]) -> st.SearchStrategy[Record]:
    fields = {}
    for field in kind._fields:
        choices = names.CHOICES.get((kind.__name__, field))
        annotation = next(k.__annotations__[field] for k in kind.__mro__ if field in k.__dict__.get("__annotations__", {}))
        fields[field] = st.sampled_from(choices) if choices else _value(annotation)
    return st.builds(kind, **fields)


@pytest.mark.parametrize("kind", _kinds().values(), ids=_kinds().keys())
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_round_trip(kind, data):
    record = data.draw(_record(kind))
    assert decode(kind, encode(record)) == record
    assert decode(kind, json.loads(json.dumps(encode(record)))) == record


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(where=st.sampled_from(["process", "root", "mounts", "linux", "hooks", "annotations", "hostname"]), value=JSON)
def test_nonsense_gives_config_errors_alone(where, value):
    try:
        decode_config({**MINIMAL, where: value})
    except ConfigError as error:
        assert error.path.startswith(where)


def test_annotations_are_those_that_the_decoder_knows():
    """The decoder reads annotations as text: each must be one of its forms."""
    aliases = dict.fromkeys(RANGES, int)
    for kind in _kinds().values():
        for field, hint in get_type_hints(kind, {**vars(types), **aliases}).items():
            if field.startswith("_"):
                continue
            parts = [a for a in get_args(hint) if a is not type(None) and a is not ...] if get_origin(hint) else [hint]
            assert parts, (kind, field)


@pytest.mark.parametrize(
    ("field", "name"),
    [("additional_gids", "additionalGids"), ("exec_cpu_affinity", "execCPUAffinity"), ("class_", "class"), ("l3_cache_schema", "l3CacheSchema")],
)
def test_json_names(field, name):
    assert json_name(field) == name
