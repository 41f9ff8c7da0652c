"""The pure parts of the OCI runtime: words, records, messages, documents."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from hutch import jsontext
from hutch.cgroup.settings import check_device_list, v1_settings, v2_settings
from hutch.cli.oci import control, inspect, main
from hutch.cli.oci.flags import COMMANDS, PLACES
from hutch.errors import ConfigError, StateError, UsageError
from hutch.executor.messages import DETAIL
from hutch.kernel.netlink import codec as netlink
from hutch.oci.config import Config, DeviceRule, Memory, Process, Resources, Root
from hutch.oci.decode import decode_config
from hutch.runtime import lifecycle
from hutch.runtime.verbs import documents, end, execute, grants, systemd
from hutch.runtime.verbs.store import Store, check_id

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(JSON, st.integers(0, 3))
def test_json_both_ways(value, indent):
    text = jsontext.dumps(value, indent)
    assert jsontext.loads(text) == json.loads(text) == value
    assert jsontext.loads(f" \n{json.dumps(value, indent=2)}\t") == value


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "{} x", '{"a":NaN}', "nul", '"\x01"', "[" * 3 + "]" * 2, '{"a" 1}', "01"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError):
        jsontext.loads(text)


def test_json_errors_name_the_place():
    with pytest.raises(ValueError, match="line 2 column 5"):
        jsontext.loads('{"a": 1,\n"b" 2}')


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("9", 9), ("0", 0), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("POLL", 29), ("64", 64), ("WINCH", 28)],
)  # fmt: skip
def test_signals(text, number):
    assert end.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "SIG", "NOPE", "65", "-9", "9x", "RTMIN+99", "RTMIN+", "²"])
def test_no_signals(text):
    with pytest.raises(StateError, match="no such signal"):
        end.signal_number(text)


@pytest.mark.parametrize("identity", ["a", "a.b_c+d-e", "0" * 255, "..."])
def test_ids(identity):
    assert check_id(identity) == identity


@pytest.mark.parametrize("identity", ["", ".", "..", "a/b", "../x", "a b", "a\n", "ä", "0" * 256, "a\0"])
def test_no_ids(identity):
    with pytest.raises(UsageError, match="container id"):
        check_id(identity)


@pytest.mark.parametrize("text", ["", "root", "1000x", " 1", "-1", "1:", ":1", "1:x", "٣", "4294967295", "1:2:3"])
def test_users_are_numbers_and_nothing_else(text):
    """CVE-2026-30892: an empty or half-read number was root."""
    base = Process(cwd="/", args=("x",))
    with pytest.raises(UsageError, match="--user"):
        if text:
            execute.process_with(base, ("x",), user=text)
        else:
            execute.user_id(text)


def test_exec_changes_the_containers_own_process():
    base = Process(cwd="/srv", args=("x",), env=("A=1",))
    found = execute.process_with(base, ("y",), env=("B=2",), user="5:6", groups=(7,), caps=("net_admin",), tty=True)
    assert (found.args, found.cwd, found.env, found.terminal) == (("y",), "/srv", ("A=1", "B=2"), True)
    assert (found.user.uid, found.user.gid, found.user.additional_gids) == (5, 6, (7,))
    assert found.capabilities is not None and found.capabilities.bounding == ("CAP_NET_ADMIN",) and found.capabilities.ambient == ()


@pytest.mark.parametrize("lines", [["{", "}"], ['{"id":"other"}'], [""], ['{"id":"x","pid":"1"}'], ["[]"], ['{"id":"x","pid":1,"started":null}'], ["\x00\x01"]])
def test_damaged_records(tmp_path, lines):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/state").write_text("\n".join(lines))
    with pytest.raises(StateError, match="delete --force x"):
        Store(str(tmp_path)).load("x")


def test_records(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(StateError, match="container x: does not exist"):
        store.load("x")
    (tmp_path / "x").mkdir()
    with pytest.raises(StateError, match="state file is missing"):
        store.load("x")
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    (tmp_path / "x/state").write_text(json.dumps({"id": "x", "bundle": "/b"}) + "\n" + json.dumps({"pid": os.getpid(), "started": started}) + "\n")
    entry = store.load("x")
    assert entry.alive() and entry.status() == "running" and entry.bundle == "/b"
    assert not entry.replace(started=started + 1).alive(), "the same number, another process"
    assert entry.replace(started=started + 1).status() == "stopped"
    os.mkfifo(tmp_path / "x/start")
    assert entry.status() == "running", "nobody waits at the pipe"
    fd = os.open(tmp_path / "x/start", os.O_RDWR)
    assert entry.status() == "created"
    os.close(fd)
    (tmp_path / "y z").mkdir()
    assert list(store.ids()) == ["x"]


@pytest.mark.parametrize(("name", "path"), [("-.slice", ""), ("a.slice", "/a.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")])
def test_slices(name, path):
    assert systemd.slice_path(name) == path


@pytest.mark.parametrize("text", ["/a/b", "a:b", "a.slice:b:", "a.slice:b:c/d"])
def test_no_scopes(text):
    with pytest.raises(ConfigError, match="slice:prefix:name"):
        systemd.parts(decode_config({"ociVersion": "1.0.0", "linux": {"cgroupsPath": text}}), "x")


def test_scopes():
    config = decode_config({"ociVersion": "1.0.0", "linux": {"cgroupsPath": "user-1.slice:docker:abc"}})
    assert systemd.parts(config, "x") == ("user-1.slice", "docker-abc.scope")


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=6))
def test_netlink_attributes_both_ways(pairs):
    raw = b"".join(netlink.attribute(kind, value) for kind, value in pairs)
    assert list(netlink.attributes(raw)) == pairs and len(raw) % 4 == 0


def test_netlink_message():
    assert netlink.message(16, 5, b"abcd") == bytes.fromhex("14000000 1000 0500 01000000 00000000") + b"abcd"
    assert list(netlink.attributes(b"\x02\0\1\0")) == [], "a length below its own head ends it"


def test_features_name_what_is_decoded():
    found = json.loads(jsontext.dumps(documents.features()))
    assert found["hooks"] == ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    assert {"rro", "idmap", "tmpcopyup", "rslave", "sync", "symfollow"} <= set(found["mountOptions"])
    assert found["ociVersionMax"] == "1.3.0" and found["linux"]["seccomp"]["archs"] and found["linux"]["memoryPolicy"]["modes"]


@pytest.mark.parametrize("rootless", [True, False])
def test_the_spec_is_one(rootless):
    config = decode_config(documents.spec(rootless=rootless, uid=5, gid=6, v2=False))
    assert config.process is not None and config.process.terminal
    assert bool(config.linux.uid_mappings) is rootless


def test_every_command_has_a_place():
    assert {command.name for command in COMMANDS} == set(PLACES)


@pytest.mark.parametrize(
    ("name", "words", "values", "rest"),
    [
        ("delete", ["x", "--force"], {"force": True}, ["x"]),
        ("delete", ["-force", "x"], {"force": True}, ["x"]),
        ("create", ["-bundle", "/b", "--pid-file=/p", "x"], {"bundle": "/b", "pid_file": "/p"}, ["x"]),
        ("kill", ["--all", "x", "9"], {"all": True}, ["x", "9"]),
        ("kill", ["x", "--", "-9"], {}, ["x", "-9"]),
        ("exec", ["--cwd", "/a", "x", "ls", "--force", "-bundle"], {"cwd": "/a"}, ["x", "ls", "--force", "-bundle"]),
        ("exec", ["-t", "-e", "A=-b", "x", "sh", "-c", "-tty"], {"tty": True, "env": ["A=-b"]}, ["x", "sh", "-c", "-tty"]),
        ("update", ["--resources", "-", "x"], {"resources": "-"}, ["x"]),
        ("list", ["-f", "json", "-q"], {"format": "json", "quiet": True}, []),
    ],
)
def test_flags_as_engines_write_them(name, words, values, rest):
    assert main.parse_all(main.find(name), words) == (values, rest)


@pytest.mark.parametrize(
    ("name", "words"), [("create", []), ("start", ["a", "b"]), ("list", ["x"]), ("exec", []), ("state", ["--nope", "x"]), ("delete", ["--force"])]
)
def test_flags_that_are_wrong(name, words):
    with pytest.raises(UsageError):
        main.parse_all(main.find(name), words)


def test_limits_from_flags():
    found = control.resources_of({"memory": "64m", "memory_swap": "-1", "cpu_share": "512", "pids_limit": "-1", "blkio_weight": "100"})
    assert found.memory == Memory(limit=64 << 20, swap=-1) and found.cpu is not None and found.cpu.shares == 512
    assert found.pids is not None and found.pids.limit == -1 and found.block_io is not None
    with pytest.raises(UsageError, match="--cpu-quota"):
        control.resources_of({"cpu_quota": "fast"})


def test_a_limit_of_zero_is_none():
    """Docker sends every field, and 0 for those that nobody set."""
    zeroes = Resources(memory=Memory(limit=0, swap=0, reservation=0, kernel_tcp=0))
    assert v1_settings(zeroes) == v2_settings(zeroes) == []


@pytest.mark.parametrize(("text", "value"), [("5s", 5), ("1m30s", 90), ("500ms", 0.5), ("1.5s", 1.5), ("1h", 3600)])
def test_durations(text, value):
    assert inspect.seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "-1s", "0s", "5s3"])
def test_no_durations(text):
    with pytest.raises(UsageError, match="--interval"):
        inspect.seconds(text)


DENY = DeviceRule(allow=False, type="a", access="rwm")


def rule(allow: bool, minor: int | None, access: str = "rwm") -> DeviceRule:
    return DeviceRule(allow=allow, type="c", major=10, minor=minor, access=access)


@pytest.mark.parametrize("rules", [(DENY, rule(True, 1), rule(False, 1, "w")), (rule(True, None), rule(False, 1)), (DENY, rule(False, 1), rule(True, None)),
                                   (DENY, rule(True, None, "r"), rule(False, 1, "w"))])  # fmt: skip
def test_device_lists_that_v1_can_keep(rules):
    check_device_list(rules)


def test_a_device_list_that_v1_cannot_keep():
    with pytest.raises(ConfigError, match=r"devices\[2\]: denies a part"):
        check_device_list((DENY, rule(True, None), rule(False, 1, "w")))


def test_hooks_get_the_state_around_the_pid():
    config = Config(oci_version="1.0.0", root=Root(path="x"), annotations={"a": 'b"'})
    head, tail = lifecycle.state_text(config, "i", "/b", "creating")
    assert json.loads(f"{head}7{tail}") == {"ociVersion": "1.3.0", "id": "i", "status": "creating", "pid": 7, "bundle": "/b", "annotations": {"a": 'b"'}}


def test_capabilities_that_cannot_be_granted_are_a_warning():
    said: list[tuple[str, str]] = []
    config = decode_config(
        {"ociVersion": "1.0.0", "process": {"cwd": "/", "capabilities": {"bounding": ["CAP_CHOWN", "CAP_NOVEL"], "effective": ["CAP_KILL"]}}}
    )
    assert config.process is not None
    found = grants.known_capabilities(config.process, 1, lambda *words: said.append(words))
    assert found.capabilities is not None and found.capabilities.bounding == ("CAP_CHOWN",) and found.capabilities.effective == ()
    assert said[0][0] == "warning" and "CAP_NOVEL" in said[0][1] and "CAP_KILL" in said[0][1]


@pytest.mark.parametrize("version", ["1.0.0", "1.2.1", "1.3.0", "1.99.0", "1.0.2-dev", "1.0.0-rc.1+x"])
def test_versions(version):
    assert decode_config({"ociVersion": version}).oci_version == version


@pytest.mark.parametrize("version", ["", "1", "1.0", "2.0.0", "0.9.0", "1.x.0", "01.0.0", "1.0.0-", "one"])
def test_no_versions(version):
    with pytest.raises(ConfigError, match="ociVersion"):
        decode_config({"ociVersion": version})


def test_detail_fits_a_report():
    """The report of a failed start is one write to a pipe, which must not be split (pipe(7), PIPE_BUF)."""
    assert 48 + DETAIL <= 4096
