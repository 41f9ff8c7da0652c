"""Streams whose other end is gone, closed, full, or a terminal of some size."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from tests.conftest import HUTCH, cgroups, executors
from tests.hosts import until
from tests.security import test_users_terminal as terminals

pytestmark = pytest.mark.root
seat = terminals.seat
PATIENT = 20  # seconds: what takes longer does not end by itself


@pytest.fixture
def web(hutch_cli):
    """A detached container that writes a line now and then."""
    name = f"web-{uuid.uuid4().hex[:8]}"
    assert hutch_cli("run", "-d", "--name", name, "host", "sh", "-c", "while sleep 0.02; do echo x; done").returncode == 0
    until(lambda: hutch_cli("logs", name).stdout)
    yield name
    hutch_cli("rm", "-f", name)


# the reader has gone

ENDLESS = {
    "loop": "while :; do echo x; done",
    "slow": "while :; do echo x; sleep 0.05; done",
    "deaf": "trap '' PIPE TERM INT HUP; while :; do echo x; done",
    "child": "yes x; sleep 1000",
    "children": "(while :; do echo x; done) & wait; sleep 1000",
}


def headed(*words: str) -> None:
    """Run a command whose reader takes a line and goes, as `| head -1` does: it ends by itself, without a
    traceback.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*HUTCH, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        try:
            assert process.stdout.readline() in (b"x\n", b"x\r\n")
            process.stdout.close()
            process.wait(PATIENT)
        except subprocess.TimeoutExpired:
            pytest.fail("it goes on without anybody who reads")
        finally:
            process.stdout.close()
            process.kill() if process.poll() is None else None
            process.wait()
        errors.seek(0)
        assert b"Traceback" not in errors.read(1 << 20)


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        *((script, "") for script in ENDLESS),
        ("loop", "-i"),
        ("loop", "--init"),
        ("deaf", "--init"),
        ("loop", "-t"),
    ],
)
def test_run_without_a_reader(script, flag):
    """`hutch run … | head -1`: PID 1 ignores SIGPIPE, so somebody has to tell it, and to end it if it does
    not listen.
    """
    headed("run", *flag.split(), "host", "sh", "-c", ENDLESS[script])


@pytest.mark.parametrize("script", ["loop", "slow", "child"])
def test_exec_without_a_reader(hutch_cli, web, script):
    """`hutch exec … | head -1` ends, with what it ran, and the container goes on."""
    headed("exec", web, "sh", "-c", f": {script}-marked; {ENDLESS[script]}")
    look = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done"
    until(
        lambda: f"-c : {script}-marked" not in hutch_cli("exec", web, "sh", "-c", look).stdout,
        lambda: "the command goes on",
    )
    assert "web" in hutch_cli("ps").stdout


def test_logs_without_a_reader(web):
    """`hutch logs -f … | head -1`."""
    headed("logs", "-f", web)


def test_logs_of_a_silent_container_without_a_reader(hutch_cli):
    """`hutch logs -f` of a container that says nothing any more ends when its reader goes."""
    name = f"silent-{uuid.uuid4().hex[:8]}"
    hutch_cli("run", "-d", "--name", name, "host", "sh", "-c", "echo x; exec sleep 1000")
    try:
        until(lambda: hutch_cli("logs", name).stdout)
        headed("logs", "-f", name)
    finally:
        hutch_cli("rm", "-f", name)


def test_who_reads_to_the_end_gets_everything(hutch_cli):
    """A slow reader is no reader that has gone: all of the output arrives, and the exit code is the
    program's.
    """
    command = f"{' '.join(HUTCH)} run host sh -c 'seq 1 200000; exit 3' | (sleep 1; cat); echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == [*map(str, range(1, 200001)), "3"]


def test_who_says_nothing_is_not_ended_before_its_time():
    """A program that writes nothing, whose reader is there, ends by itself."""
    command = f"{' '.join(HUTCH)} run host sh -c 'sleep 1; echo late; exit 4' | cat; echo ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60).stdout == "late\n4\n"


# streams that are closed, or full

QUIET = ["ps", "ps -a", "ps -q", "ps --json", "images", "volume ls", "network ls", "system df", "version", "--help", "run --help", "doctor",
         "stats {web}", "logs {web}", "inspect {web}", "port {web}", "diff {web}", "plan host true", "cp {web}:/etc/hostname -", "completion bash"]  # fmt: skip


@pytest.mark.parametrize("redirection", [">&-", "<&- >&-", ">/dev/full"])
@pytest.mark.parametrize("words", QUIET)
def test_a_command_without_an_output(web, words, redirection):
    """No traceback, and no end by a signal."""
    done = subprocess.run(
        f"{' '.join(HUTCH)} {words.format(web=web)} {redirection}",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENT,
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr and done.returncode in range(127), done.stderr
    if redirection == ">/dev/full" and not words.startswith(("port", "diff", "volume")):
        assert done.returncode != 0 and done.stderr, "what was not written is a success"


@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("run host no-such", 127),
        ("run host sh -c 'exit 3'", 3),
        ("exec no-such true", 125),
        ("rnu", 125),
        ("kill no-such", 1),
    ],
)
def test_the_exit_code_without_a_place_for_the_message(words, code, redirection):
    """An error that nobody can be told of keeps its exit code."""
    done = subprocess.run(
        f"{' '.join(HUTCH)} {words} {redirection}",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENT,
    )
    assert done.returncode == code and "Traceback" not in done.stderr


TELL = 'for n in 0 1 2; do x="$x $(readlink /proc/$$/fd/$n)"; done; echo x >&2; echo x; echo $x'
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("flags", ["", "-i", "--userns host"])
@pytest.mark.parametrize("redirection", CLOSED)
def test_run_with_closed_streams(redirection, flags):
    """The container has three standard streams, none of which is a descriptor that Hutch opened for
    itself: they take the numbers
    that are free.
    """
    place = Path("/var/tmp") / f"hutch-streams-{uuid.uuid4().hex[:8]}"
    place.mkdir(mode=0o777)
    try:
        command = f"{' '.join(HUTCH)} run {flags} -v {place}:/mnt host sh -c '{TELL} >/mnt/fds; exit 6' {redirection}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=PATIENT)
        streams = (place / "fds").read_text().split() if (place / "fds").exists() else []
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)
    assert done.returncode == 6 and "Traceback" not in done.stderr
    good(streams, redirection)


def good(streams: list[str], redirection: str) -> None:
    assert len(streams) == 3 and not [where for where in streams if not where.startswith(("pipe:", "/dev/null"))], streams
    for number, sign in ((1, ">&-"), (2, "2>&-")):
        if sign in redirection.split():
            assert streams[number] != streams[0] or streams[0] == "/dev/null", "its output is its own input"


@pytest.mark.parametrize("redirection", CLOSED)
def test_exec_with_closed_streams(web, hutch_cli, redirection):
    """The same of `hutch exec`."""
    command = f"{' '.join(HUTCH)} exec {web} sh -c '{TELL} >/tmp/fds; exit 6' {redirection}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=PATIENT)
    assert done.returncode == 6 and "Traceback" not in done.stderr
    good(hutch_cli("exec", web, "cat", "/tmp/fds").stdout.split(), redirection)


def test_a_detached_container_with_closed_streams(hutch_cli):
    """`hutch run -d … >&-` starts it, or says why not: it is not left behind half made."""
    name = f"closed-{uuid.uuid4().hex[:8]}"
    before = executors(), cgroups()
    try:
        command = f"{' '.join(HUTCH)} run -d --name {name} host sh -c 'echo x; sleep 1000' <&- >&- 2>&-"
        done = subprocess.run(command, shell=True, check=False, timeout=PATIENT)
        if done.returncode == 0:
            until(lambda: hutch_cli("logs", name).stdout == "x\n")
        else:
            assert name not in hutch_cli("ps", "-a").stdout
    finally:
        hutch_cli("rm", "-f", name)
    until(lambda: before[0] >= executors() & before[0])


def test_a_full_disk_under_the_output():
    """What cannot be written to a file is an error of the program's own, which hears of it. Of a device, which is not handed over, it
    is the command's.
    """
    words = [*HUTCH, "run", "host", "sh", "-c", "echo x || exit 9; exit 5"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENT)
    assert done.returncode == 125 and "No space left" in done.stderr and "Traceback" not in done.stderr
    fill = 'mount -t tmpfs -o size=4k none /mnt; cat /dev/zero >/mnt/zero 2>/dev/null; exec "$@" >/mnt/full'
    done = subprocess.run(["unshare", "-m", "sh", "-c", fill, "sh", *words], capture_output=True, text=True, check=False, timeout=PATIENT)
    assert done.returncode == 9 and "Traceback" not in done.stderr, done


@pytest.mark.parametrize("command", ["export", "save"])
def test_an_archive_onto_a_full_disk(hutch_cli, command, web, tmp_path):
    """`export` and `save` onto a full disk, and to a reader that goes: one line says it, and nothing is
    left where it was to be.
    """
    from tests.archives import busybox, layout, tar

    image = hutch_cli("load", "-q", "-i", str(layout(tmp_path / "layout", tar(*busybox()))))
    assert image.returncode == 0
    what = web if command == "export" else hutch_cli("images", "-q").stdout.split()[0]
    try:
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*HUTCH, command, what],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=60,
            )
        assert done.returncode not in (0, 1) and "No space left" in done.stderr and "Traceback" not in done.stderr
        process = subprocess.Popen([*HUTCH, command, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.read(10)
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read() and process.wait(60) != 0
        process.stderr.close()
    finally:
        hutch_cli("rmi", "-f", *hutch_cli("images", "-q").stdout.split())


# terminals of a size


@pytest.mark.parametrize("command", ["run", "run-kept", "exec", "run-without-input"])
def test_the_size_of_a_terminal_at_the_programs_start(seat, web, command):
    """The program's first question is answered right, each time."""
    words = {"run": ["run", "-it", "--pids-limit", "{}", "host"], "run-kept": ["run", "-it", "host"], "exec": ["exec", "-it", web],
             "run-without-input": ["run", "-t", "host"]}[command]  # fmt: skip
    sizes = []
    for number in range(20):
        one = seat(*HUTCH, *(word.format(100 + number) for word in words), "stty", "size", size=(33, 123))
        one.read("\n")
        one.read()
        sizes.append(one.text.strip())
        assert one.process.wait(10) == 0
    assert sizes == ["33 123"] * 20


def test_the_size_follows_the_users(seat):
    """A terminal that is resized while the program runs."""
    import termios

    one = seat(
        *HUTCH,
        "run",
        "-it",
        "host",
        "sh",
        "-c",
        "echo ready; while read x; do stty size; done",
        size=(33, 123),
    )
    one.read("ready")
    one.type("a\n")
    one.read("33 123")
    termios.tcsetwinsize(one.master, (44, 99))
    for _ in range(50):
        one.type("b\n")
        one.read("\n")
        if "44 99" in one.text:
            break
    one.read("44 99")
    os.write(one.master, b"\x04")
    assert one.process.wait(10) == 0
