"""Words that a user of Docker types: files of variables, mounts with quotes, names of signals."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import pytest

from tests.archives import busybox, layout, tar
from tests.hosts import until

pytestmark = pytest.mark.root


@pytest.fixture
def place():
    path = Path(tempfile.mkdtemp(prefix="hutch-words-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def named(hutch_cli):
    """The name of a detached container that is to be made."""
    name = f"words-{uuid.uuid4().hex[:8]}"
    yield name
    hutch_cli("rm", "-f", name)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"\xef\xbb\xbfA=1\n", "1"),
        (b"\xef\xbb\xbf# a comment\r\nA=1\r\n", "1"),
        (b"\xef\xbb\xbf\nA=1", "1"),
        (b"\xef\xbb\xbfA", "passed on"),
        (b"A=\xef\xbb\xbf1\n", "\ufeff1"),  # elsewhere it is a letter like others
    ],
)
def test_an_env_file_with_a_byte_order_mark(hutch_cli, place, content, value):
    (place / "env").write_bytes(content)
    done = hutch_cli(
        "run",
        "--env-file",
        str(place / "env"),
        "host",
        "sh",
        "-c",
        'echo "$A"',
        env={**os.environ, "A": "passed on"},
    )
    assert (done.stdout, done.returncode) == (f"{value}\n", 0), done.stderr


@pytest.mark.parametrize("content", [b"\xff\xfeA\0=\x001\0", b"A=\xff\n"])
def test_an_env_file_that_is_no_utf8(hutch_cli, place, content):
    (place / "env").write_bytes(content)
    done = hutch_cli("run", "--env-file", str(place / "env"), "host", "true")
    assert done.returncode == 125 and str(place / "env") in done.stderr and "Traceback" not in done.stderr


MOUNTS = {
    "comma": ("c,d", 'type=bind,"src={}",dst=/mnt'),
    "quote": ('q"q', 'type=bind,"src={}",dst=/mnt'),
    "both": ('a","b', 'type=bind,"source={}","target=/mnt"'),
    "all": ("plain", '"type=bind","src={}","dst=/mnt","readonly"'),
    "equals": ("a=b", "type=bind,src={},dst=/mnt"),
    "blank": ("a b", 'type=bind,"src={}",dst=/mnt'),
}


@pytest.mark.parametrize("kind", MOUNTS)
def test_a_mount_with_quotes(hutch_cli, place, kind):
    """--mount is one line of CSV (RFC 4180), as Docker reads it: a field in quotes may hold commas, and
    quotes that are doubled.
    """
    name, text = MOUNTS[kind]
    (place / name).mkdir()
    (place / name / "file").write_text("here\n")
    source = str(place / name).replace('"', '""') if '"src' in text or '"source' in text else str(place / name)
    done = hutch_cli("run", "--mount", text.format(source), "host", "cat", "/mnt/file")
    assert (done.stdout, done.returncode) == ("here\n", 0), done.stderr


@pytest.mark.parametrize(
    "text",
    [
        'type=bind,"src=/usr,dst=/mnt',
        'type=bind,"src=/usr"x,dst=/mnt',
        'type=bind,src=/u"sr,dst=/mnt',
        '"',
        "",
        ",",
    ],
)
def test_a_mount_whose_quotes_are_wrong(hutch_cli, text):
    done = hutch_cli("run", "--mount", text, "host", "true")
    assert done.returncode == 125 and "mount" in done.stderr and "Traceback" not in done.stderr


def test_volume_prune_without_questions(hutch_cli):
    """-f and --force, by which Docker asks nothing; named volumes stay without --all."""
    name = f"words-{uuid.uuid4().hex[:8]}"
    hutch_cli("volume", "create", name)
    try:
        for words in (["-f"], ["--force"], ["-f", "--all"], ["-fa"]):
            fresh = hutch_cli("volume", "create").stdout.strip()
            done = hutch_cli("volume", "prune", *words)
            assert done.returncode == 0 and fresh in done.stdout, (words, done.stderr)
            assert (name in hutch_cli("volume", "ls", "-q").stdout) == (words[0] in ("-f", "--force") and len(words) == 1)
    finally:
        hutch_cli("volume", "rm", "-f", name)


@pytest.mark.parametrize("words", ["system prune -f", "network prune -f", "image prune -f", "rm -f none", "volume rm -f none"])
def test_force_is_known_where_docker_has_it(hutch_cli, words):
    done = hutch_cli(*words.split())
    assert done.returncode in (0, 1) and "unknown" not in done.stderr and "did you mean" not in done.stderr, done.stderr


SIGNALS = {"RTMIN": 34, "RTMIN+3": 37, "SIGRTMIN+3": 37, "rtmin+3": 37, "sigrtmin+15": 49, "RTMAX-1": 63, "SIGRTMAX-14": 50, "RTMAX": 64, "37": 37,
           "TERM": 15, "SIGTERM": 15, "term": 15, "IO": 29, "POLL": 29, "CLD": 17, "STKFLT": 16, "64": 64}  # fmt: skip
BAD = ["RTMIN+31", "RTMAX-31", "RTMIN-1", "RTMAX+1", "RTMIN+", "RTMIN+x", "RTMIN++3", "RTMIN3", "RTMIN+-1", "RTMIN+ 3", "0", "65", "-1", "SIG", "SIGSIGTERM", "NOPE",
       "²", "_IGN", "SIG_IGN", "_UNBLOCK", "99999", "1e1", "٣"]  # fmt: skip


def trapping(hutch_cli, name: str, number: int, *flags: str, image: str = "host") -> None:
    """A container that ends with 5 at a signal, and does not hear TERM."""
    terminated = "" if number == 15 else "trap '' TERM; "
    script = f"{terminated}trap 'exit 5' {number}; echo ready; while :; do sleep 0.02; done"
    done = hutch_cli("run", "-d", "--name", name, *flags, image, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    until(lambda: hutch_cli("logs", name).stdout == "ready\n")


def code(hutch_cli, name: str) -> int:
    found: list[int] = []

    def over() -> bool:
        rows = [json.loads(line) for line in hutch_cli("ps", "-a", "--json").stdout.splitlines()]
        found.extend(row["exit_code"] for row in rows if row["name"] == name and row["status"] == "exited")
        return bool(found)

    until(over, lambda: "it goes on")
    return found[0]


@pytest.mark.parametrize("signal", [name for name, number in SIGNALS.items() if number not in (16, 17, 29)])
def test_a_signal_by_its_name(hutch_cli, named, signal):
    """`kill -s`."""
    trapping(hutch_cli, named, SIGNALS[signal])
    done = hutch_cli("kill", "-s", signal, named)
    assert done.returncode == 0, done.stderr
    assert code(hutch_cli, named) == 5


@pytest.mark.parametrize("where", ["flag", "stop", "image"])
@pytest.mark.parametrize("signal", ["RTMIN+3", "SIGRTMIN+3", "RTMAX-1", "37"])
def test_the_signal_that_stops(hutch_cli, named, place, where, signal):
    """--stop-signal, `stop -s` and an image's StopSignal."""
    image = "host"
    if where == "image":
        image = str(layout(place / "layout", tar(*busybox()), image={"StopSignal": signal}))
    flags = ["--stop-signal", signal] if where == "flag" else []
    script = f"trap '' TERM; trap 'exit 5' {SIGNALS[signal]}; echo ready; while :; do /bin/busybox sleep 0.02 || sleep 0.02; done"
    done = hutch_cli("run", "-d", "--name", named, *flags, image, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    until(lambda: hutch_cli("logs", named).stdout == "ready\n")
    stopped = hutch_cli("stop", "-t", "5", *(["-s", signal] if where == "stop" else []), named)
    assert stopped.returncode == 0, stopped.stderr
    assert code(hutch_cli, named) == 5


@pytest.mark.parametrize("signal", BAD)
def test_a_bad_signal_is_refused_where_it_is_typed(hutch_cli, named, signal):
    """`run --stop-signal` makes no container; `kill -s` and `stop -s` send nothing."""
    for words in (
        ["run", "-d", "--name", named, "--stop-signal", signal, "host", "sleep", "1000"],
        ["plan", "--stop-signal", signal, "host", "true"],
    ):
        done = hutch_cli(*words)
        assert done.returncode == 125 and "signal" in done.stderr and "Traceback" not in done.stderr, (
            words,
            done,
        )
    assert named not in hutch_cli("ps", "-a").stdout
    assert hutch_cli("run", "-d", "--name", named, "host", "sleep", "1000").returncode == 0
    for words in (["kill", "-s", signal], ["stop", "-t", "0", "-s", signal]):
        done = hutch_cli(*words, named)
        assert done.returncode in (1, 125) and "signal" in done.stderr and "Traceback" not in done.stderr, (
            words,
            done,
        )
        assert named in hutch_cli("ps").stdout


@pytest.mark.parametrize("signal", ["99999", "NOPE", "0", "²", "RTMIN+99"])
def test_a_bad_signal_of_an_image(hutch_cli, named, place, signal):
    """An image whose StopSignal is none is refused with a message, or its container can be stopped all the
    same.
    """
    image = str(layout(place / "layout", tar(*busybox()), image={"StopSignal": signal}))
    done = hutch_cli("run", "-d", "--name", named, image, "/bin/busybox", "sleep", "1000")
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.returncode == 125 and "ignal" in done.stderr
        return
    stopped = hutch_cli("stop", "-t", "1", named)
    assert stopped.returncode == 0 and named not in hutch_cli("ps").stdout, stopped.stderr
