"""The terminal that a user sits at, while a container runs that was given none: `-t` was not asked for.

The container's program tries all that a terminal's descriptor is good for: reading what is typed, switching the echo off,
typing for the user, resizing, opening it anew.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
import uuid

import pytest

from tests.conftest import HUTCH

pytestmark = pytest.mark.root
SECRET = "hunter2"
# Tells of every standard stream what it can be used for, then ends with 7. Nobody types before it says that
# it is ready.
PROBE = r"""
import fcntl, os, select, struct, sys, termios
found = []
def attempt(what, action):
    try:
        action()
        found.append(what)
    except (OSError, termios.error):
        pass
def mute(fd):
    mode = termios.tcgetattr(fd)
    mode[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(fd, termios.TCSANOW, mode)
def look(fd, name):
    found.extend([f"{name}-is-a-terminal"] if os.isatty(fd) else [])
    attempt(f"{name}-muted", lambda: mute(fd))
    attempt(f"{name}-typed", lambda: fcntl.ioctl(fd, termios.TIOCSTI, b"i"))
    attempt(f"{name}-resized", lambda: fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 5, 5, 0, 0)))
def reopened(path):
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    look(fd, path) if os.isatty(fd) else None
sys.stderr.write("to-stderr\n")
print("ready", flush=True)
for fd in (0, 1, 2):
    look(fd, fd)
    attempt("", lambda: reopened(f"/proc/self/fd/{fd}"))
attempt("dev-tty", lambda: os.open("/dev/tty", os.O_RDWR))
attempt("console", lambda: os.open("/dev/console", os.O_RDWR))
def reads(fd):
    readable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
    if readable and select.select([fd], [], [], 2)[0] and os.read(fd, 100):
        found.append(f"{fd}-read")
for fd in (1, 2, 0):
    attempt("", lambda: reads(fd))
print("found:", *[f for f in found if f], "end", flush=True)
os._exit(7)
"""
# the same for a busybox, which has no Python: it can do less
SHELL_PROBE = """echo ready; echo to-stderr >&2; f=""; for n in 0 1 2; do test -t $n && f="$f $n-is-a-terminal"; done
(exec 3<>/dev/tty) 2>/dev/null && f="$f dev-tty"; echo "found:$f end"; exit 7"""


class Seat:
    """A program whose `streams` are a terminal, its controlling one; what is missing is a pipe, or empty."""

    def __init__(self, words: list[str], streams: str = "012", size: tuple[int, int] = (24, 80), **options: object) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, size)
        self.before = (
            termios.tcgetattr(slave),
            termios.tcgetwinsize(slave),
            os.fstat(slave).st_uid,
            os.fstat(slave).st_mode,
        )
        ends = [slave if str(fd) in streams else subprocess.PIPE if fd else subprocess.DEVNULL for fd in range(3)]
        seated = "import fcntl, os, sys, termios; fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0); os.execvp(sys.argv[2], sys.argv[2:])"
        fd = next(iter(streams))
        self.process = subprocess.Popen([sys.executable, "-c", seated, fd, *words], stdin=ends[0], stdout=ends[1], stderr=ends[2],
                                        start_new_session=True, **options)  # fmt: skip
        self.slave = slave  # kept open: the master would tell of an end between two programs
        self.pipes = [pipe for pipe in (self.process.stdout, self.process.stderr) if pipe is not None]
        self.text = ""

    def read(self, wanted: str = "", timeout: float = 20) -> None:
        """Take in what is written, until something wanted was, or the program has ended."""
        deadline = time.monotonic() + timeout
        fds = [self.master, *(pipe.fileno() for pipe in self.pipes)]
        while time.monotonic() < deadline and not (wanted and wanted in self.text):
            ended = self.process.poll() is not None
            ready = select.select(fds, [], [], 0 if ended else 0.1)[0]
            data = {fd: os.read(fd, 65536) for fd in ready}
            self.text += "".join(piece.decode(errors="replace") for piece in data.values())
            fds = [fd for fd in fds if data.get(fd) != b""]
            if ended and not any(data.values()):
                break
        assert wanted in self.text, self.text

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def now(self) -> tuple[object, ...]:
        info = os.fstat(self.slave)
        return termios.tcgetattr(self.slave), termios.tcgetwinsize(self.slave), info.st_uid, info.st_mode

    def attack(self) -> tuple[int, set[str]]:
        """Type a secret when the probe is ready: its exit code, and what it found out."""
        self.read("ready")
        self.type(f"{SECRET}\n")
        self.read()
        assert "found:" in self.text and "to-stderr" in self.text, self.text
        return self.process.wait(10), set(self.text.partition("found:")[2].partition("end")[0].split())

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL) if self.process.poll() is None else None
        self.process.wait()
        for fd in (self.master, self.slave):
            os.close(fd)
        for pipe in self.pipes:
            pipe.close()


@pytest.fixture
def seat():
    """Seats that are left at the end of the test."""
    seats: list[Seat] = []

    def sit(*words: object, **more: object) -> Seat:
        seats.append(Seat([str(word) for word in words], **more))
        return seats[-1]

    yield sit
    for one in seats:
        one.close()


@pytest.fixture
def web(hutch_cli):
    """A detached container."""
    name = f"web-{uuid.uuid4().hex[:8]}"
    assert hutch_cli("run", "-d", "--name", name, "host", "sleep", "1000").returncode == 0
    yield name
    hutch_cli("rm", "-f", name)


def untouched(seat: Seat, allowed: set[str] = frozenset()) -> None:
    code, found = seat.attack()
    assert not found - allowed, f"the container used the user's terminal: {sorted(found)}"
    assert allowed <= found, "what was typed did not arrive where it was asked for"
    assert code == 7
    assert seat.now() == seat.before, "the terminal's modes, size or owner were changed"


@pytest.mark.parametrize("streams", ["012", "12", "2", "1", "01", "02"])
def test_run_gives_no_terminal(seat, streams):
    """`hutch run` on a terminal, or with one of its streams on it, the others on pipes."""
    untouched(seat(*HUTCH, "run", "host", "python3", "-c", PROBE, streams=streams))


@pytest.mark.parametrize("flags", [["--userns", "host"], ["-u", "1000"], ["-u", "1000", "--userns", "host"], ["--init"], ["--privileged"],
                                   ["--sig-proxy=false"], ["--timeout", "100"], ["--rm", "--cap-add", "SYS_ADMIN"]], ids="_".join)  # fmt: skip
def test_run_with_flags_gives_no_terminal(seat, flags):
    """Whatever the container is allowed, and whoever its user is: the terminal is not its own, and changes
    no owner.
    """
    untouched(seat(*HUTCH, "run", *flags, "host", "python3", "-c", PROBE))


def test_a_kept_plan_gives_no_terminal(seat):
    """The second of two equal commands, which begins without the first one's preparations."""
    for _ in range(2):
        untouched(seat(*HUTCH, "run", "--pids-limit", "51", "host", "python3", "-c", PROBE))


def test_a_file_system_of_ones_own(seat, busybox_root):
    """A container of a directory."""
    untouched(seat(*HUTCH, "run", busybox_root, "sh", "-c", SHELL_PROBE))


@pytest.mark.parametrize("streams", ["012", "02", "01"])
def test_interactive_is_no_terminal(seat, streams):
    """With -i what is typed arrives, by a pipe: the program cannot change the terminal."""
    untouched(seat(*HUTCH, "run", "-i", "host", "python3", "-c", PROBE, streams=streams), {"0-read"})


@pytest.mark.parametrize("flags", [[], ["-i"], ["--privileged"], ["-u", "1000"]], ids="_".join)
@pytest.mark.parametrize("streams", ["012", "02"])
def test_exec_gives_no_terminal(seat, web, flags, streams):
    """`hutch exec` on a terminal."""
    untouched(
        seat(*HUTCH, "exec", *flags, web, "python3", "-c", PROBE, streams=streams),
        {"0-read"} if "-i" in flags else set(),
    )


def test_detached_gives_no_terminal(seat, hutch_cli):
    """`hutch run -d`: neither its streams nor its controlling terminal are those of whoever started it."""
    name = f"d-{uuid.uuid4().hex[:8]}"
    try:
        starter = seat(*HUTCH, "run", "-d", "--name", name, "host", "python3", "-c", PROBE)
        starter.read()
        starter.type(f"{SECRET}\n")
        log, deadline = "", time.monotonic() + 20
        while "end" not in log and time.monotonic() < deadline:
            log = hutch_cli("logs", name).stdout
        assert [word for word in log.partition("found:")[2].split() if word != "to-stderr"] == ["end"], log
        assert starter.now() == starter.before
    finally:
        hutch_cli("rm", "-f", name)


API = {
    "run": "r = hutch.run('host', C, stdin=0)",
    "file": "r = hutch.run('host', C, stdin=sys.stdin)",
    "merged": "r = hutch.run('host', C, stdin=sys.stdin.buffer, merge_stderr=True)",
    "start": "p = hutch.start('host', C, stdin=0)\nfor line in p.lines(): print(line, flush=True)\nr = p.wait()",
    "box": "b = hutch.Container('host')\nr = b.run(C, stdin=0)\nb.close()",
    "box-start": "b = hutch.Container('host')\np = b.start(C, stdin=sys.stdin)\nr = p.wait()\nb.close()",
    "aio": "r = asyncio.run(hutch.aio.run('host', C, stdin=0))",
}


@pytest.mark.parametrize("how", API)
def test_the_python_api_gives_no_terminal(seat, how):
    """`stdin=0` and `stdin=sys.stdin` of a program on a terminal: what is typed arrives, and nothing else
    is given.
    """
    script = f"import asyncio, sys, hutch, hutch.aio\nC = ['python3', '-c', sys.argv[1]]\nprint('ready', flush=True)\n{API[how]}\n"
    script += "print(r.stdout, r.stderr, flush=True)\nsys.exit(r.exit_code)"
    untouched(seat(sys.executable, "-c", script, PROBE), {"0-read"})


def test_the_python_api_gives_no_stream_that_was_not_asked_for(seat):
    """`hutch.run` without `stdin`, in a program on a terminal."""
    script = "import sys, hutch\nprint('ready', flush=True)\nr = hutch.run('host', ['python3', '-c', sys.argv[1]])\n"
    untouched(seat(sys.executable, "-c", script + "print(r.stdout, r.stderr)\nsys.exit(r.exit_code)", PROBE))


def test_all_that_was_written_arrives(seat):
    """Much output on a terminal, the last of it right before the end: nothing is lost, nor changes its
    order.
    """
    one = seat(*HUTCH, "run", "host", "sh", "-c", "seq 1 50000; echo last >&2; exit 3")
    one.read()
    lines = one.text.split()
    assert [word for word in lines if word != "last"] == [str(n) for n in range(1, 50001)] and "last" in lines
    assert one.process.wait() == 3


@pytest.mark.parametrize("command", ["run", "exec"])
def test_typed_input_ends(seat, web, command):
    """With -i on a terminal: lines go in, the end of input ends it, and the echo stays the terminal's own."""
    words = ["run", "-i", "host"] if command == "run" else ["exec", "-i", web]
    one = seat(*HUTCH, *words, "sh", "-c", "echo ready; while read line; do echo $line | tr a-z A-Z; done; echo over; exit 4")
    one.read("ready")
    one.type("some words\n")
    one.read("SOME WORDS")
    one.type("\x04")
    one.read("over")
    one.read()
    assert one.process.wait(10) == 4 and "some words" in one.text and one.now() == one.before


def test_an_end_does_not_wait_for_a_key(seat):
    """With -i, when the program ends while nobody types, so does the command."""
    one = seat(*HUTCH, "run", "-i", "host", "sh", "-c", "exit 5")
    assert one.process.wait(15) == 5


def test_an_interrupt_still_arrives(seat):
    """Control-C on the terminal goes to the program, which has no terminal."""
    one = seat(
        *HUTCH,
        "run",
        "host",
        "sh",
        "-c",
        "trap 'echo caught; exit 6' INT; echo ready; while :; do sleep 0.05; done",
    )
    one.read("ready")
    one.type("\x03")
    one.read("caught")
    assert one.process.wait(10) == 6


def test_who_asks_for_a_terminal_gets_one_of_the_containers_own(seat):
    """With -t without -i: a terminal, but not the user's, whose modes stay."""
    one = seat(*HUTCH, "run", "-t", "host", "sh", "-c", "tty; stty size; stty -echo raw; echo over; exit 3")
    one.read("over")
    one.read()
    assert one.process.wait(10) == 3 and "/dev/pts/0" in one.text and "24 80" in one.text and one.now() == one.before
