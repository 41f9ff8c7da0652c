"""One list of behaviours for both isolations. A row is a question that a user could ask, and the answer; where a machine's is
another one, the row says which, and why. The table at the end shows them all.

Rows in the one container cost a command each; those that need a container of their own cost a machine a boot, and but for a
few of them `make test-vm` alone asks them.
"""

from __future__ import annotations

import hashlib
import os
import pty
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hutch
from tests.vm import kit
from tests.vm.kit import CLI, Kit, error_of

pytestmark = [pytest.mark.root, kit.needed]


class Row(NamedTuple):
    name: str
    ask: Callable[[Kit], Any]
    answer: Any
    vm: Any = None
    why: str = ""
    boots: bool = False


ROWS: list[Row] = []


def row(name: str, answer: Any, *, vm: Any = None, why: str = "", boots: bool = False):
    """Add a question. `vm` and `why`: the machine's answer, where it is another."""

    def add(ask: Callable[[Kit], Any]) -> Callable[[Kit], Any]:
        ROWS.append(Row(name, ask, answer, vm, why, boots))
        return ask

    return add


# Results


@row("an exit code", (7, "exited"))
def _(k: Kit):
    r = k.sh("exit 7")
    return r.exit_code, r.outcome


@row("both streams, apart", ("out\n", "err\n"))
def _(k: Kit):
    r = k.sh("echo out; echo err >&2")
    return r.stdout, r.stderr


@row("standard input", "HELLO\n")
def _(k: Kit):
    return k.box.run(["tr", "a-z", "A-Z"], stdin="hello\n").stdout


@row("two megabytes in, and out again", True)
def _(k: Kit):
    data = os.urandom(1 << 20) * 2
    r = k.box.run(["cat"], stdin=data, text=False)
    return hashlib.sha256(r.stdout).digest() == hashlib.sha256(data).digest()


@row("output that nobody reads does not hold up another command", "b\n")
def _(k: Kit):
    with k.box.start(["sh", "-c", "head -c 3000000 /dev/zero; sleep 100"]):
        return k.sh("echo b").stdout


@row("a signal's death", ("signalled", 9, 137))
def _(k: Kit):
    r = k.sh("kill -9 $$; sleep 9")
    return r.outcome, r.signal, r.exit_code


@row("a signal that is sent to it", 12)
def _(k: Kit):
    with k.box.start(["sh", "-c", "trap 'exit 12' USR1; echo ready; while :; do sleep 0.01; done"]) as process:
        assert next(process.lines()) == "ready"
        process.send_signal(10)
        return process.wait().exit_code


@row("a program that does not exist", ("failed-to-start", 127, "NotFoundInContainer"))
def _(k: Kit):
    r = k.box.run(["no-such-program"])
    return r.outcome, r.exit_code, type(r.error).__name__


@row("a program that cannot be run", 126)
def _(k: Kit):
    return k.box.run(["/etc/passwd"]).exit_code


@row("a directory to work in that does not exist", ("failed-to-start", True))
def _(k: Kit):
    r = k.box.run(["true"], workdir="/no/such")
    return r.outcome, "/no/such" in str(r.error)


@row("a time limit kills the command and all that it started", ("timeout", 137, "0"))
def _(k: Kit):
    r = k.sh("sleep 54321 & setsid sleep 54321 & sleep 54321", timeout=1)
    deadline = time.monotonic() + 5
    while (left := k.sh("grep -lz 5432[1] /proc/[0-9]*/cmdline 2>/dev/null | grep -v /self/ | wc -l").stdout.strip()) != "0" and time.monotonic() < deadline:
        time.sleep(0.1)
    return r.outcome, r.exit_code, left


@row("forty commands at once", True)
def _(k: Kit):
    running = [k.box.start(["sh", "-c", f"sleep 0.2; echo {i}"]) for i in range(40)]
    return [p.wait().stdout for p in running] == [f"{i}\n" for i in range(40)]


@row("what it used is told", True)
def _(k: Kit):
    usage = k.box.run(["python3", "-c", "sum(range(300000))"]).usage
    return usage.user > 0 and usage.max_rss > 1 << 20


# What it sees


@row("environment, directory, user", ("v /tmp 1000 1000\n",))
def _(k: Kit):
    return (k.box.run(["sh", "-c", "echo $A $PWD $(id -u) $(id -g)"], env={"A": "v"}, workdir="/tmp", user="1000:1000").stdout,)


@row("the host name is its id", True)
def _(k: Kit):
    return k.sh("hostname; cat /etc/hostname").stdout.split() == [k.box.id] * 2


@row("the kernel", "the host's", vm="another", why="it is the machine's own")
def _(k: Kit):
    found = k.sh("uname -r").stdout.strip()
    return "the host's" if found == os.uname().release else "another" if found == kit.kernel_release() else found


@row("processors", str(os.cpu_count()), vm="1", why="a machine has as many as --cpus says, rounded up; one, if it says nothing")
def _(k: Kit):
    return k.sh("nproc").stdout.strip()


@row("memory that it sees", "the host's", vm="its own", why="a machine has what -m says and some for its kernel, 512 MiB if it says nothing")
def _(k: Kit):
    total = int(k.sh("head -n 1 /proc/meminfo").stdout.split()[1]) << 10
    return "the host's" if total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") else "its own" if 480 << 20 < total < 640 << 20 else total


@row("the file system of the root", "overlay", vm="virtiofs", why="the overlay is the host's, and shared with the guest")
def _(k: Kit):
    return k.sh("grep ' /usr ' /proc/mounts | cut -d' ' -f3").stdout.strip()


@row("ids of a user namespace", ("0", "268435456"))
def _(k: Kit):
    first, _, count = k.sh("cat /proc/self/uid_map").stdout.split()
    return first, count


@row("capabilities, no_new_privs, a filter", ("00000000a80425fb", "1", "2"))
def _(k: Kit):
    words = dict(line.split(":\t") for line in k.sh("cat /proc/self/status").stdout.splitlines() if ":\t" in line)
    return words["CapEff"], words["NoNewPrivs"], words["Seccomp"]


@row("calls that the filter refuses", "refused")
def _(k: Kit):
    return "refused" if k.sh("unshare -U true").exit_code else "allowed"


@row("processes of others", "1")
def _(k: Kit):
    return k.sh("ls -d /proc/[0-9]* | sort -n -t/ -k3 | head -n 1 | cut -d/ -f3").stdout.strip()


@row("masked and read-only paths", (0, "refused", "refused"))
def _(k: Kit):
    size = len(k.sh("cat /proc/kcore | head -c 10", text=False).stdout)
    return size, *("refused" if k.sh(f"echo 1 > {path}").exit_code else "allowed" for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/panic"))


@row("devices", "full null ptmx pts random shm tty urandom zero mqueue fd stdin stdout stderr core".split())
def _(k: Kit):
    seen = set(k.sh("ls /dev").stdout.split())
    return [name for name in "full null ptmx pts random shm tty urandom zero mqueue fd stdin stdout stderr core".split() if name in seen]


@row("disks of the host's", "none")
def _(k: Kit):
    return "some" if k.sh("ls /dev/vd* /dev/sd* /dev/nvme* 2>/dev/null").stdout else "none"


@row("a network", "lo")
def _(k: Kit):
    return " ".join(sorted(k.sh("ls /sys/class/net").stdout.split()))


# Files


@row("a file in, and out again", ("in", "out\n"))
def _(k: Kit):
    k.box.write("/srv/in", "in")
    return k.sh("cat /srv/in").stdout, (k.sh("echo out > /srv/out"), k.box.read("/srv/out"))[1]


@row("a tree in, and out again", "deep")
def _(k: Kit):
    here = Path(os.environ["HUTCH_STATE"]).parent / f"tree-{k.isolation}"
    (here / "a/b").mkdir(parents=True)
    (here / "a/b/c").write_text("deep")
    k.box.put(here, "/srv/tree")
    k.sh("mv /srv/tree/a /srv/tree/z")
    k.box.get("/srv/tree", f"{here}-back")
    return Path(f"{here}-back/z/b/c").read_text()


@row("owners, modes, links, attributes, sparse files", ("1234 5678 640\n", "link", "2", "5368709120"))
def _(k: Kit):
    made = k.sh("cd /srv && echo x > f && chown 1234:5678 f && chmod 640 f && stat -c '%u %g %a' f && ln -s link s && ln f g && truncate -s 5G big")
    return made.stdout, k.sh("readlink /srv/s").stdout.strip(), k.sh("stat -c %h /srv/g").stdout.strip(), k.sh("stat -c %s /srv/big").stdout.strip()


@row("mmap, locks, rename, a socket", "ok\n")
def _(k: Kit):
    code = """
import fcntl, mmap, os, socket
os.chdir("/srv")
with open("m", "w+b") as f:
    f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[4096:4101] = b"hello"; m.flush(); fcntl.flock(f, fcntl.LOCK_EX)
assert open("m", "rb").read()[4096:4101] == b"hello"
os.rename("m", "n")
s = socket.socket(socket.AF_UNIX); s.bind("sock"); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect("sock")
print("ok")
"""
    return k.box.run(["python3", "-c", code]).stdout


@row("what it changed", [("added", "/srv/changed"), ("deleted", "/etc/hostname")])
def _(k: Kit):
    k.sh("echo x > /srv/changed; rm /etc/hostname")
    return sorted({(c.kind, c.path) for c in k.box.diff()} & {("added", "/srv/changed"), ("deleted", "/etc/hostname")})


@row("the host's files stay as they are", True, boots=True)
def _(k: Kit):
    k.run("sh", "-c", "rm -rf /usr/bin/python3 /etc/passwd; > /usr/bin/python3; > /etc/passwd")
    return os.path.exists("/usr/bin/python3") and os.path.getsize("/etc/passwd") > 0


# Numbers and pauses


@row("statistics", True)
def _(k: Kit):
    k.sh("true")
    stats = k.box.stats()
    return bool(stats.cpu_usage and stats.memory_usage and stats.pids and stats.pids < 20)


@row("a pause", "the freezer", vm="stands still", why="a container in v1 has no freezer of its own; a machine's processors are stopped")
def _(k: Kit):
    try:
        with k.box.start(["sh", "-c", "while :; do date +%s%N; done"]) as process:
            lines = process.lines()
            next(lines)
            k.box.pause()
            time.sleep(0.3)
            before = k.box.stats().cpu_usage
            k.box.resume()
            next(lines)
            return "stands still" if before is None else before
    except hutch.UnsupportedError as error:
        return "the freezer" if "freezer" in error.message else error.message


# Each in a container of its own


@row("a command of its own", ("exited", 3, "hi\n"), boots=True)
def _(k: Kit):
    r = k.run("sh", "-c", "echo hi; exit 3")
    return r.outcome, r.exit_code, r.stdout


@row("a program that does not exist", ("failed-to-start", 127), boots=True)
def _(k: Kit):
    r = k.run("no-such-program")
    return r.outcome, r.exit_code


@row("a memory limit", ("out-of-memory", 137), boots=True)
def _(k: Kit):
    r = k.run("python3", "-c", "bytearray(300 << 20)", memory="64m")
    return r.outcome, r.exit_code


@row("a limit of processes", (True, True), boots=True)
def _(k: Kit):
    r = k.run("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait", pids=5)
    return r.exit_code != 0, bool(r.usage.pids_refused)


@row("a limit of processor time", True, vm=True, boots=True)
def _(k: Kit):
    with k.container(cpus=0.5) as box:
        burn = "import time; a = time.monotonic(); c = time.process_time()\nwhile time.monotonic() - a < 2: pass\nprint(time.process_time() - c)"
        begin = _cpu_of_host(box)
        box.run(["python3", "-c", burn])
        return _cpu_of_host(box) - begin < 1.7  # seconds of two and a bit, on the host


def _cpu_of_host(box: hutch.Container) -> float:
    from hutch.cgroup.live import Cgroup

    return (Cgroup(box.live.facts.cgroup).stats().cpu_usage or 0) / 1e9


@row("a time limit", ("timeout", 137), boots=True)
def _(k: Kit):
    r = k.run("sleep", "100", timeout=4 if k.isolation == "vm" else 1)
    return r.outcome, r.exit_code


@row("limits of a process, a system setting, a tmpfs", ("77\n", "300\n", "1024\n"), boots=True)
def _(k: Kit):
    with k.container(ulimits={"nofile": 77}, sysctls={"kernel.msgmax": "300"}, tmpfs=["/mnt:size=1m"]) as box:
        nofile = k.run("sh", "-c", "ulimit -n", ulimits={"nofile": 77}).stdout
        return nofile, box.run(["cat", "/proc/sys/kernel/msgmax"]).stdout, box.run(["sh", "-c", "df -k /mnt | tail -n 1 | tr -s ' ' | cut -d' ' -f2"]).stdout


@row("a root that is read-only", (True, True), boots=True)
def _(k: Kit):
    r = k.run("sh", "-c", "touch /x; touch /usr/x; echo a > /dev/shm/y && cat /dev/shm/y", readonly=True)
    return "Read-only" in r.stderr, r.stdout == "a\n"


@row("directories of the host's, and a volume", ("secret", "Read-only", "back\n", "kept\n"), boots=True)
def _(k: Kit):
    here = Path(os.environ["HUTCH_STATE"]).parent / f"bind-{k.isolation}"
    here.mkdir()
    here.chmod(0o777)
    (here / "a").write_text("secret")
    (here / "w").mkdir()
    (here / "w").chmod(0o777)
    volume = f"volume-{k.isolation}"
    script = "cat /ro/a; touch /ro/b 2>&1 | grep -o Read-only >&2; echo back > /rw/b; echo kept > /volume/k"
    done = k.cli("run", *k.flags, "-v", f"{here}:/ro:ro", "-v", f"{here}/w:/rw", "-v", f"{volume}:/volume", "host", "sh", "-c", script)
    kept = k.cli("run", "-v", f"{volume}:/volume", "host", "cat", "/volume/k").stdout
    k.cli("volume", "rm", volume)
    return done.stdout, done.stderr.strip(), (here / "w/b").read_text(), kept


@row("a privileged container", ("all", True), boots=True)
def _(k: Kit):
    r = k.run("sh", "-c", "grep CapEff /proc/self/status; mount -t tmpfs none /mnt && echo mounted", privileged=True)
    whole = Path("/proc/self/status").read_text().partition("CapBnd:\t")[2].split()[0] if k.isolation == "namespaces" else "000001ffffffffff"
    return "all" if r.stdout.split()[1] == whole else r.stdout.split()[1], "mounted" in r.stdout


@row("a terminal", (True, "33 99"), boots=True)
def _(k: Kit):
    said = _in_terminal([*CLI, "run", *k.flags, "-it", "host", "sh", "-c", "tty; stty size"])
    return "/dev/pts/" in said, said.split("\n")[1].strip()


def _in_terminal(words: list[str], rows: int = 33, columns: int = 99) -> str:
    import fcntl
    import struct
    import termios

    master, peer = pty.openpty()
    fcntl.ioctl(peer, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(words, stdin=peer, stdout=peer, stderr=peer, start_new_session=True)
    os.close(peer)
    said = b""
    try:
        while data := os.read(master, 4096):
            said += data
    except OSError:
        pass
    process.wait(30)
    os.close(master)
    return said.decode()


@row("detached: a log, a command in it, a copy of a file, a port, an end", ("log\n", "5\n", "copied", "served", "Exited (143)"), boots=True)
def _(k: Kit):
    name = f"detached-{k.isolation}"
    server = (
        "import http.server, signal, sys; signal.signal(15, lambda *_: sys.exit(143)); print('log', flush=True); "
        "http.server.HTTPServer(('', 80), type('H', (http.server.BaseHTTPRequestHandler,), "
        "{'do_GET': lambda s: (s.send_response(200), s.end_headers(), s.wfile.write(b'served')), 'log_message': lambda *a: None})).serve_forever()"
    )
    started = k.cli("run", *k.flags, "-d", "--name", name, "-p", "127.0.0.1::80", "host", "python3", "-c", server)
    assert started.returncode == 0, started.stderr
    try:
        port = int(k.cli("port", name).stdout.strip().rpartition(":")[2])
        served = _get(port)
        log = k.cli("logs", name).stdout
        five = k.cli("exec", name, "sh", "-c", "echo $((2 + 3)); echo -n copied > /srv/c").stdout
        copied = k.cli("cp", f"{name}:/srv/c", "-").stdout
        assert k.cli("stop", name).returncode == 0
        status = next(line for line in k.cli("ps", "-a").stdout.splitlines() if name in line)
        return log, five, "copied" if "copied" in copied else copied, served, "Exited (143)" if "Exited (143)" in status else status
    finally:
        k.cli("rm", "-f", name)


def _get(port: int) -> str:
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while data := connection.recv(4096):
                    answer += data
                if answer:
                    return answer.rpartition(b"\r\n")[2].decode()
        except OSError:
            pass
        if time.monotonic() > deadline:
            return "nothing"
        time.sleep(0.1)


@row("an image: its layers, a commit of it", ("bookworm", "changed\n"), boots=True)
def _(k: Kit):
    from tests.images import make_debian

    k.cli("import", str(make_debian()), "debian")
    with k.container("debian") as box:
        release = box.run(["sh", "-c", ". /etc/os-release; echo -n $VERSION_CODENAME"]).stdout
        box.run(["sh", "-c", "echo changed > /etc/changed"])
        box.commit(f"changed-{k.isolation}")
    return release, hutch.run(f"changed-{k.isolation}", ["cat", "/etc/changed"]).stdout


@row("names on a network, and none beyond it", ("web", True), boots=True)
def _(k: Kit):
    network = f"net{k.isolation[:2]}"
    hutch.networks.create(network)
    try:
        with k.container(network=network, name=f"web-{k.isolation}") as web, k.container(network=network) as client:
            web.start(["python3", "-c", "import socket; s = socket.create_server(('', 80)); c, _ = s.accept(); c.sendall(b'web'); c.close()"])
            ask = "import socket, time\nfor i in range(200):\n try: s = socket.create_connection(('web-%s', 80), 2); print(s.recv(9).decode(), end=''); break\n except OSError: time.sleep(0.1)"
            found = client.run(["python3", "-c", ask % k.isolation], timeout=30).stdout
            beyond = client.run(["python3", "-c", "import socket; socket.getaddrinfo('no.such', 80)"], timeout=30).exit_code
            return found, beyond != 0
    finally:
        hutch.networks.remove(network)


@row("a policy of what may leave", "refused", boots=True)
def _(k: Kit):
    ask = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 3); print('open')\nexcept OSError: print('refused')"
    return k.run("python3", "-c", ask, network="bridge", egress="none", timeout=30).stdout.strip()


# What a machine has no meaning for


@row("a device of the host's", "", vm="UnsupportedError: device /dev/null: a machine has no devices of the host's", why="it is another kernel's", boots=True)
def _(k: Kit):
    return error_of(lambda: k.container(devices=["/dev/null:/dev/mine"]))


@row("the host's processes", "", vm="UsageError: pid host: a machine shares no namespace with the host", why="it is another kernel's", boots=True)
def _(k: Kit):
    return error_of(lambda: k.container(pid="host"))


@row("the host's network", "", vm="UsageError: network host: a machine has a network of its own", why="it is another kernel's", boots=True)
def _(k: Kit):
    return error_of(lambda: k.container(network="host"))


@row("a fork", "", vm="UnsupportedError: a machine cannot be forked", why="a snapshot copies one, with its memory", boots=True)
def _(k: Kit):
    from tests.images import make_debian

    k.cli("import", str(make_debian()), "debian")
    with k.container("debian") as box:
        return error_of(lambda: [c.close() for c in box.fork(1)]).replace(f"fork {box.name}: ", "")


@row("joining a network while it runs", "", vm="UnsupportedError", why="a machine's interfaces come and go with it", boots=True)
def _(k: Kit):
    with k.container(network="bridge", name=f"joins-{k.isolation}") as box:
        hutch.networks.create("later")
        try:
            return error_of(lambda: hutch.networks.connect("later", box.name)).partition(":")[0]
        finally:
            if k.isolation == "namespaces":
                hutch.networks.disconnect("later", box.name)
            hutch.networks.remove("later")


TABLE: dict[str, dict[str, str]] = {}
# What `make test` asks of machines that need a boot each; `make test-vm` asks everything
FEW = {"a command of its own", "a memory limit", "a time limit", "a terminal", "detached: a log, a command in it, a copy of a file, a port, an end"}
THOROUGH = os.environ.get("HUTCH_TEST_VM") == "all"


@pytest.fixture(scope="module", params=["namespaces", "vm"])
def isolation(request: pytest.FixtureRequest) -> Iterator[Kit]:
    made = Kit(request.param)
    made.box  # noqa: B018 -- before anybody counts what is left
    yield made
    made.close()


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[r.name for r in ROWS])
def test_behaviour(isolation: Kit, number: int):
    asked = ROWS[number]
    if asked.boots and isolation.isolation == "vm" and not THOROUGH and asked.name not in FEW:
        pytest.skip("make test-vm runs it")
    isolation.box  # noqa: B018
    wanted = asked.vm if isolation.isolation == "vm" and asked.vm is not None else asked.answer
    found = asked.ask(isolation)
    TABLE.setdefault(asked.name, {})[isolation.isolation] = "differs" if found == wanted != asked.answer else "same" if found == wanted else "FAIL"
    assert found == wanted


def test_every_difference_has_a_reason():
    assert all(r.why for r in ROWS if r.vm is not None and r.vm != r.answer)


def test_table(capsys: pytest.CaptureFixture[str]):
    """What differs, row by row."""
    why = {r.name: r.why for r in ROWS}
    with capsys.disabled():
        print(f"\n{'behaviour':75} {'namespaces':>11} {'vm':>8}")
        for name, found in TABLE.items():
            print(
                f"{name[:75]:75} {'yes' if found.get('namespaces') == 'same' else found.get('namespaces', '-'):>11} {found.get('vm', '-'):>8}  {why[name] if found.get('vm') == 'differs' else ''}".rstrip()
            )
    assert TABLE
