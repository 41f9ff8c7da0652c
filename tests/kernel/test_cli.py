"""The command line as a person uses it: exit codes, messages, terminals, what runs now."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import HUTCH

pytestmark = pytest.mark.root


def test_the_first_container(hutch_cli):
    r = hutch_cli("run", "--rm", "host", "sh", "-c", "echo $$; id -u; hostname; ls /home")
    pid, uid, name = r.stdout.split()
    assert (pid, uid, len(name), r.returncode, r.stderr) == ("1", "0", 12, 0, "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "host", "sh", "-c", "exit 9"], 9, ""),
        (["run", "host", "no-such"], 127, "hutch: no-such: no such program in the container's PATH"),
        (["run", "host", "/etc"], 126, "hutch: /etc: is a directory"),
        (["run", "host", "sh", "-c", "kill -TERM $$; sleep 5"], 0, ""),
        (["run", "--init", "host", "sh", "-c", "kill -TERM $$; sleep 5"], 143, ""),
        (["run", "-m", "64m", "host", "python3", "-c", "bytearray(300<<20)"], 137, "out of memory: killed at the memory limit of 64m"),
        (["run", "--timeout", "0.5", "host", "sleep", "60"], 137, "killed after 0.5 s"),
        (["run", "./nowhere", "true"], 125, "image ./nowhere: No such file or directory"),
        (["run", "--mem", "1g", "host", "true"], 125, "hint: did you mean --memory"),
        (["run"], 125, "no image was given"),
        (["run", "--memory", "lots", "host", "true"], 125, "memory: expected a size such as 512m"),
        (["rnu", "host"], 125, "did you mean run?"),
        (["run", "--security-opt", "apparmor=x", "host", "true"], 125, "is not supported"),
        (["exec", "nobody", "true"], 125, "no container is called 'nobody'"),
        (["run", "-v", "/no/where:/x", "host", "true"], 125, "hutch: -v /no/where:/x: /no/where does not exist (mkdir -p /no/where)"),
    ],
)
def test_exit_codes_and_messages(hutch_cli, words, code, message):
    if "kill -TERM $$; sleep 5" in words and "--init" not in words:
        words = [*words[:-1], "kill -TERM $$; exit 0"]  # PID 1 does not hear a signal that it has no handler for
    r = hutch_cli(*words)
    assert r.returncode == code and message in r.stderr and "Traceback" not in r.stderr


def test_streams_pass_through(hutch_cli):
    r = hutch_cli("run", "-i", "host", "sh", "-c", "cat; echo err >&2", input="in")
    assert (r.stdout, r.stderr) == ("in", "err\n")
    assert hutch_cli("run", "host", "cat", input="not asked for").stdout == ""


def test_a_kept_plan_gives_the_same_container(hutch_cli):
    first, second = (hutch_cli("run", "--pids-limit", "50", "host", "sh", "-c", "hostname; cat /proc/self/status | grep Seccomp") for _ in range(2))
    assert first.stdout.splitlines()[1:] == second.stdout.splitlines()[1:]
    assert first.stdout.splitlines()[0] != second.stdout.splitlines()[0]
    assert hutch_cli("run", "host", "no-such").stderr == hutch_cli("run", "host", "no-such").stderr


def test_a_kept_plan_hides_a_secret_that_came_later(hutch_cli):
    secret = "/etc/hutch-test-later"
    assert hutch_cli("run", "host", "cat", secret).returncode == 1
    with open(secret, "w") as file:
        file.write("secret")
    os.chmod(secret, 0o600)
    try:
        assert "secret" not in hutch_cli("run", "host", "cat", secret).stdout
    finally:
        os.unlink(secret)


def test_detached(hutch_cli):
    made = hutch_cli("run", "-d", "--name", "web", "-l", "a=b", "host", "sh", "-c", "trap 'echo bye; exit 4' TERM; echo hello; while :; do sleep 0.1; done")
    identity = made.stdout.strip()
    assert made.returncode == 0 and len(identity) == 12
    try:
        assert "web" in hutch_cli("ps").stdout and hutch_cli("ps", "-q").stdout.strip() == identity
        record = json.loads(hutch_cli("ps", "--json").stdout)
        assert (record["name"], record["status"]) == ("web", "running")
        r = hutch_cli("exec", "-e", "A=1", "-w", "/usr", "web", "sh", "-c", "echo $A; pwd; hostname; id -u")
        assert r.stdout == f"1\n/usr\n{identity}\n0\n"
        assert hutch_cli("exec", identity[:5], "no-such").returncode == 127
        assert hutch_cli("exec", "-i", "web", "cat", input="fed").stdout == "fed"
        again = hutch_cli("run", "--name", "web", "host", "true")
        assert again.returncode == 125 and "has it" in again.stderr
        stats = json.loads(hutch_cli("stats", "--json", "web").stdout)
        assert stats["pids"] >= 2 and stats["memory_usage"] > 0
        assert hutch_cli("rm", "web").returncode == 1
        assert hutch_cli("stop", "web").stdout == "web\n"
        assert "Exited (4)" in hutch_cli("ps", "-a").stdout and "web" not in hutch_cli("ps").stdout
        assert hutch_cli("logs", "web").stdout == "hello\nbye\n"
    finally:
        hutch_cli("rm", "-f", "web")
    assert hutch_cli("ps", "-a", "-q").stdout == ""


def test_stop_without_patience_kills_at_once_and_a_bad_time_is_refused(hutch_cli):
    hutch_cli("run", "-d", "--name", "deaf", "host", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    try:
        bad = hutch_cli("stop", "-t", "soon", "deaf")
        assert bad.returncode == 125 and "time" in bad.stderr
        assert hutch_cli("stop", "-t", "0", "deaf").stdout == "deaf\n" and "Exited (137)" in hutch_cli("ps", "-a").stdout
    finally:
        hutch_cli("rm", "-f", "deaf")


def test_detached_with_rm_leaves_no_record(hutch_cli):
    hutch_cli("run", "-d", "--rm", "host", "true")
    deadline = time.monotonic() + 5
    while hutch_cli("ps", "-aq").stdout and time.monotonic() < deadline:
        time.sleep(0.05)
    assert hutch_cli("ps", "-aq").stdout == ""


def test_a_detached_container_outlives_its_starter(hutch_cli):
    script = f"import subprocess, sys; subprocess.run({HUTCH!r} + ['run', '-d', '--name', 'orphan', 'host', 'sleep', '100'], check=True)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    time.sleep(0.2)
    assert "orphan" in hutch_cli("ps").stdout
    assert hutch_cli("rm", "-f", "orphan").returncode == 0


def test_signals_are_passed_on():
    process = subprocess.Popen(
        [*HUTCH, "run", "host", "sh", "-c", "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == "got\n" and process.wait(10) == 5
    process.stdout.close()


def test_cidfile_and_env_file(hutch_cli, tmp_path):
    env = tmp_path / "env"
    env.write_text("# comment\nA=1\n\nPASSED_ON\n")
    r = hutch_cli(
        "run",
        "--cidfile",
        str(tmp_path / "cid"),
        "--env-file",
        str(env),
        "-e",
        "B=2",
        "host",
        "sh",
        "-c",
        "echo $A$B$PASSED_ON; hostname",
        env={**os.environ, "PASSED_ON": "3"},
    )
    assert r.stdout == f"123\n{(tmp_path / 'cid').read_text()}\n"
    assert hutch_cli("run", "--cidfile", str(tmp_path / "cid"), "host", "true").returncode == 125


def test_plan_prints_origins_and_lints(hutch_cli):
    r = hutch_cli("plan", "--lint", "-m", "64m", "-v", "/usr:/data:ro", "host", "true")
    assert r.returncode == 0 and r.stdout.endswith("lint: nothing to complain about\n")
    assert "linux.resources.memory.limit" in r.stdout and "mounts[6]" in r.stdout and "attach /usr on /data" in r.stdout
    data = json.loads(hutch_cli("plan", "--json", "host", "true").stdout)
    assert {"Clone", "HostDirectory", "HostRecord"} <= {step["op"] for step in data["host"]} and data["problems"] == []


def test_plan_of_a_bundle(hutch_cli, tmp_path):
    (tmp_path / "rootfs").mkdir()
    config = {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["/bin/true"]},
        "mounts": [{"destination": "/proc", "type": "proc"}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert f"open {tmp_path}/rootfs as <root-source>" in hutch_cli("plan", "--bundle", str(tmp_path)).stdout
    config["linux"]["resources"] = {"memory": {"limit": "10m"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    r = hutch_cli("plan", "--bundle", str(tmp_path))
    assert r.returncode == 125 and r.stderr == 'hutch: linux.resources.memory.limit: expected an integer, got "10m"\n'


def test_doctor(hutch_cli):
    r = hutch_cli("doctor")
    assert r.returncode == 0 and "yes  a container of this machine's files" in r.stdout
    assert all(set(item) == {"name", "ok", "detail", "instead", "enable"} for item in json.loads(hutch_cli("doctor", "--json").stdout))


class Terminal:
    """`hutch` behind a pseudoterminal, as a person sits before it."""

    def __init__(self, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(HUTCH[0], [*HUTCH, *words])
        self.text = ""

    def until(self, wanted: str, timeout: float = 15) -> str:
        deadline = time.monotonic() + timeout
        while wanted not in self.text and time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    break
                self.text += data.decode(errors="replace")
        assert wanted in self.text, self.text[-2000:]
        text, _, self.text = self.text.partition(wanted)
        return text

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    if not os.read(self.fd, 65536):
                        break
                except OSError:
                    break
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def test_a_terminal():
    t = Terminal("run", "-it", "host", "bash", "--norc")
    t.until("# ")
    t.type("tty; test -t 0 && echo is-a-tty-$((40+2))\n")
    assert "/dev/pts/0" in t.until("is-a-tty-42")
    t.resize(33, 99)
    time.sleep(0.3)
    t.type("stty size; echo size-done\n")
    t.until("33 99")
    t.type("sleep 100\n")
    time.sleep(0.5)
    t.type("\x03")
    t.type("echo after-$((1+1))\n")
    t.until("after-2")
    t.type("ls -l /dev/console /dev/tty; exit 3\n")
    t.until("/dev/console")
    assert t.end() == 3


def test_vi_in_a_terminal():
    t = Terminal("run", "-it", "host", "sh", "-c", "vi /tmp/note && echo --- && cat /tmp/note")
    time.sleep(1.5)
    t.type("iwritten in vi\x1b:wq\r")
    t.until("---")
    t.until("written in vi")
    assert t.end() == 0


def test_exec_in_a_terminal(hutch_cli):
    hutch_cli("run", "-d", "--name", "term", "host", "sleep", "100")
    try:
        t = Terminal("exec", "-it", "term", "sh", "-c", "tty; stty size")
        t.until("/dev/pts/")
        assert t.end() == 0
    finally:
        hutch_cli("rm", "-f", "term")


def test_tty_without_a_terminal_is_refused(hutch_cli):
    r = hutch_cli("run", "-it", "host", "true")
    assert r.returncode == 125 and "standard input is not a terminal" in r.stderr


@pytest.mark.parametrize("words", [["--network", "host"], ["--userns", "private", "--pid", "host"], ["-v", "/usr:/data", "-v", "/etc:/data/share"]])
def test_nothing_appears_on_a_host_whose_mounts_are_shared(words):
    """As under systemd: what a container mounts on a clone of the host's would show on the host, and stay."""
    # private first: what others mount meanwhile does not come in here, and nothing goes out
    script = 'mount --make-rprivate / && mount --make-rshared / && cat /proc/self/mountinfo >$1/before; shift; "$@" || exit 1; cat /proc/self/mountinfo'
    with __import__("tempfile").TemporaryDirectory(dir="/var/tmp") as place:
        command = ["unshare", "-m", "sh", "-c", script, "sh", place, *HUTCH, "run", *words, "host", "true"]
        r = subprocess.run(command, capture_output=True, text=True, check=False)
        assert r.returncode == 0, r.stderr
        # by number, place and root: others' mounts may still change their flags, and go with their directories
        before, after = ({tuple(line.split(" ")[:5]) for line in text.splitlines()} for text in (Path(f"{place}/before").read_text(), r.stdout))
        assert before and after <= before
