"""The image `host` and what a stranger on the host may not read: no container reads it, ever."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hutch
from tests.conftest import HUTCH, system_python

pytestmark = pytest.mark.root
KINDS = {"mapped": [], "unmapped": ["--userns", "host"], "rootless": []}
BASES = ["/etc", "/usr/local/etc", "/usr/share"]
INNER = "hutch-inner-name"  # of files below directories that a stranger may not list

# Waits for a line, then tells what it can read, list or connect to below the directories.
PROBE = f"""
import json, os, socket, stat, sys
secret, tops = sys.argv[1].encode(), sys.argv[2].split(",")
known = [path for path in sys.argv[3].split(",") if path]
print("ready", flush=True)
sys.stdin.readline()
paths = set(known)
for top in tops:
    for place, directories, files in os.walk(top):
        paths |= {{f"{{place}}/{{name}}" for name in directories + files}}
leaked = {{path for path in paths - set(known) if "{INNER}" in path}}
for path in paths:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as tried:
                tried.settimeout(2)
                tried.connect(path)
                data = tried.recv(100)
        else:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                data = os.read(fd, 4096)
            finally:
                os.close(fd)
    except OSError:
        continue
    leaked |= {{path}} if secret in data else set()
print(json.dumps(sorted(leaked)), flush=True)
"""
POLL = """
import os, sys, time
secret, base, prefix = sys.argv[1].encode(), sys.argv[2], sys.argv[3]
print("ready", flush=True)
end, seen = time.monotonic() + 2, set()
while time.monotonic() < end:
    for name in os.listdir(base):
        if name.startswith(prefix):
            try:
                with open(f"{base}/{name}", "rb") as file:
                    seen |= {name} if secret in file.read() else set()
            except OSError:
                pass
print(len(seen), flush=True)
"""


class Command:
    """A command of `host` that says when it is ready, and ends after it is told to go on."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(words, env=environment, cwd="/", text=True, **streams)
        if self.process.stdout.readline() != "ready\n":
            raise AssertionError(self.process.communicate()[1])

    def answer(self) -> object:
        out, errors = self.process.communicate("go\n", timeout=60)
        assert self.process.returncode == 0, errors
        return json.loads(out)


class Containers:
    """Containers of the image `host`, of root's and of an ordinary user's."""

    def __init__(self, account, source: Path, place: str) -> None:
        self.account = account
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(source)}
        self.environment |= {"HUTCH_STATE": f"{place}/state", "HUTCH_DATA": f"{place}/data"}
        self.environment["HOME"] = account.pw_dir
        self.prefix: list[str] = []

    def words(self, kind: str, *words: str) -> list[str]:
        command = [*HUTCH, "run", "-i", *KINDS[kind], "host", *words]
        if kind == "rootless":
            numbers = [f"--reuid={self.account.pw_uid}", f"--regid={self.account.pw_gid}"]
            command = ["setpriv", *numbers, "--init-groups", system_python(), *command[1:]]
        return [*self.prefix, *command]

    def start(self, kind: str, *words: str) -> Command:
        return Command(self.words(kind, *words), self.environment if kind == "rootless" else {**os.environ})

    def probe(self, kind: str, secret: str, tops: list[str], known: list[str]) -> Command:
        return self.start(kind, "python3", "-c", PROBE, secret, ",".join(tops), ",".join(known))

    def run(self, kind: str, script: str) -> str:
        environment = self.environment if kind == "rootless" else {**os.environ}
        words = self.words(kind, "sh", "-c", script)
        options = {"env": environment, "cwd": "/", "input": "", "timeout": 60}
        done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def containers(ordinary_user, public_source) -> Iterator[Containers]:
    place = tempfile.mkdtemp(prefix="hutch-user-", dir="/var/tmp")
    os.chown(place, ordinary_user.pw_uid, ordinary_user.pw_gid)
    yield Containers(ordinary_user, public_source, place)
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def top() -> Iterator:
    """``top("/etc")``: a directory of the test's own there, which is removed at its end."""
    made: list[str] = []

    def make(base: str) -> str:
        made.append(tempfile.mkdtemp(prefix="hutch-test-", dir=base))
        os.chmod(made[-1], 0o755)
        return made[-1]

    yield make
    for path in made:
        shutil.rmtree(path)


@pytest.fixture
def secret() -> str:
    return os.urandom(16).hex()


def write(path: str, content: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(fd, "w") as file:
        file.write(content)
    os.chmod(path, mode)


# Each makes something below a directory. What comes before `yield` is there when the container starts.


def a_mode(mode: int):
    def make(top: str, secret: str):
        yield
        write(f"{top}/mode-{mode:o}", secret, mode)

    return make


def renamed_in(top: str, secret: str):
    write(f"{top}/replaced", "open", 0o644)
    yield
    for name in ("replaced", "new"):
        write(f"{top}/.{name}", secret, 0o600)
        os.rename(f"{top}/.{name}", f"{top}/{name}")


def linked(top: str, secret: str):
    yield
    write(f"{top}/first-name", secret, 0o600)
    os.link(f"{top}/first-name", f"{top}/second-name")
    os.symlink("second-name", f"{top}/link")


def a_directory(mode: int):
    def make(top: str, secret: str):
        yield
        os.mkdir(f"{top}/directory-{mode:o}", 0o700)
        write(f"{top}/directory-{mode:o}/{INNER}", secret, 0o644)
        os.chmod(f"{top}/directory-{mode:o}", mode)

    return make


def a_directory_moved_in(top: str, secret: str):
    os.mkdir(f"{top}/moved", 0o755)
    write(f"{top}/moved/{INNER}", "open", 0o644)
    yield
    os.mkdir(f"{top}/.fresh", 0o700)
    write(f"{top}/.fresh/{INNER}", secret, 0o644)
    os.rename(f"{top}/moved", f"{top}/.old")
    os.rename(f"{top}/.fresh", f"{top}/moved")
    shutil.rmtree(f"{top}/.old")


def deep(top: str, secret: str):
    below = "/".join([top, *("d" * 80)])
    os.makedirs(below)
    yield
    for above in (below, f"{top}/d/d"):
        os.makedirs(f"{above}/later", exist_ok=True)
        write(f"{above}/later/file", secret, 0o600)
        write(f"{above}/file", secret, 0o600)


def tightened(top: str, secret: str):
    write(f"{top}/tightened", "open", 0o644)
    yield
    os.chmod(f"{top}/tightened", 0o600)
    Path(f"{top}/tightened").write_text(secret)


def a_directory_tightened(top: str, secret: str):
    os.mkdir(f"{top}/narrowed", 0o755)
    write(f"{top}/narrowed/open", "open", 0o644)
    yield
    os.chmod(f"{top}/narrowed", 0o700)
    write(f"{top}/narrowed/{INNER}", secret, 0o644)
    Path(f"{top}/narrowed/open").write_text(secret)


def of_another_user(top: str, secret: str):
    yield
    for uid in (1, 12345, 536870912, 536870913):
        write(f"{top}/of-{uid}", secret, 0o600)
        os.chown(f"{top}/of-{uid}", uid, uid)


def a_fifo(top: str, secret: str):
    yield
    os.mkfifo(f"{top}/fifo", 0o600)
    fd = os.open(f"{top}/fifo", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, secret.encode() * 4)
    yield
    os.close(fd)


def a_socket(top: str, secret: str):
    yield
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{top}/socket")
        os.chmod(f"{top}/socket", 0o600)
        server.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].sendall(secret.encode())

        threading.Thread(target=serve, daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)


WAYS = [*map(a_mode, (0o600, 0o640, 0o660, 0o400, 0o4700)), *map(a_directory, (0o700, 0o750, 0o1770))]
WAYS += [renamed_in, linked, deep, tightened, a_directory_moved_in, a_directory_tightened, of_another_user]
WAYS += [a_fifo, a_socket]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("when", ["before the start", "while it runs"])
def test_private_files(containers, top, secret, when, base, kind):
    """Files that are private, or become so, in every way: nothing of them is read, listed or connected to."""
    place = top(base)
    made = [way(place, secret) for way in WAYS]
    for way in made:
        next(way)
    containers.run(kind, f"ls -lR {place} >/dev/null")  # what is remembered of it is no excuse
    command = containers.probe(kind, secret, [place], []) if when == "while it runs" else None
    for way in made:
        next(way, None)
    known = [f"{where}/{name}" for where, directories, names in os.walk(place) for name in names]
    try:
        command = command or containers.probe(kind, secret, [place], known)
        assert command.answer() == []
    finally:
        for way in made:
            next(way, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["/etc", "/usr/local/etc"])
def test_polling_for_a_file(containers, secret, base, kind):
    """Files of mode 0600 that are made, renamed and removed, as useradd does, while the container polls."""
    prefix = f"hutch-test-{os.getpid()}-"
    number = 0
    try:
        command = containers.start(kind, "python3", "-c", POLL, secret, base, prefix)
        while command.process.poll() is None:
            number += 1
            write(f"{base}/{prefix}{number}+", secret, 0o600)
            time.sleep(0.002)
            os.rename(f"{base}/{prefix}{number}+", f"{base}/{prefix}{number}")
            time.sleep(0.002)
            os.unlink(f"{base}/{prefix}{number}")
        assert command.answer() == 0
    finally:
        for path in Path(base).glob(f"{prefix}*"):
            path.unlink()


@pytest.mark.parametrize("way", ["0600", "group"])
def test_files_of_the_containers_owner(containers, top, secret, way):
    """An ordinary user's own private files in /etc, and his group's: hidden in his container, too."""
    place, uid, gid = top("/etc"), containers.account.pw_uid, containers.account.pw_gid
    command = containers.probe("rootless", secret, [place], [f"{place}/file"])
    write(f"{place}/file", secret, 0o600 if way == "0600" else 0o640)
    os.chown(f"{place}/file", *((uid, gid) if way == "0600" else (0, gid)))
    assert command.answer() == []


MOUNTS = """
secret=$1 top=$2 inner=$3
fill() { (umask 077; echo $secret >$1/private; mkdir $1/closed)
         echo $secret >$1/closed/$inner; chmod 644 $1/closed/$inner
         (umask 027; echo $secret >$1/group); echo open >$1/open; }
cd $top
mkdir shown shown/below; mount -t tmpfs -o mode=755 none shown; fill shown
mkdir shown/nested; mount -t tmpfs -o mode=755 none shown/nested; fill shown/nested
mkdir -m 700 hidden; mkdir hidden/mount; mount -t tmpfs -o mode=755 none hidden/mount
echo $secret >hidden/mount/$inner
mkdir root; mount -t tmpfs -o mode=700 none root; echo $secret >root/$inner; chmod 644 root/$inner
mkdir bound source; mkdir -m 700 source/private; echo $secret >source/private/$inner
mount --bind source bound
mkdir file; (umask 077; echo $secret >file/private); : >file/target; mount --bind file/private file/target
echo ready
"""


@pytest.fixture
def mounted(containers, top, secret) -> Iterator[str]:
    """A directory below which file systems are mounted, where the containers alone see it; by its base."""
    holders: list[subprocess.Popen[str]] = []

    def make(base: str) -> str:
        place = top(base)
        words = ["unshare", "--mount", "sh", "-ec", f"{MOUNTS}exec sleep 1000", "sh", secret, place, INNER]
        holders.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert holders[-1].stdout.readline() == "ready\n"
        containers.prefix = ["nsenter", f"--mount=/proc/{holders[-1].pid}/ns/mnt", "--"]
        return place

    yield make
    for holder in holders:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
def test_mounts(containers, mounted, secret, base, kind):
    """File systems mounted below /etc and /usr: one below the other, in a private directory, over a file. Without a user namespace,
    where the container's root is the host's, they are not shown at all."""
    place = mounted(base)
    known = [f"{place}/hidden/mount/{INNER}", f"{place}/root/{INNER}", f"{place}/shown/closed/{INNER}"]
    assert containers.probe(kind, secret, [place], known).answer() == []
    look = f"stat -c %a {place}/hidden 2>/dev/null || echo none"
    assert containers.run(kind, look) in ("700\n", "none\n")
    if kind == "unmapped":
        assert containers.run(kind, f"cat {place}/shown/open 2>/dev/null || echo none") == "none\n"
        return
    assert containers.run(kind, f"cat {place}/shown/open {place}/shown/nested/open") == "open\nopen\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["/etc", "/usr/share"])
def test_a_mount_that_comes_later(containers, mounted, secret, base, kind):
    """A file system that the host mounts while the container runs: on an old directory, on a new one."""
    place = mounted(base)
    command = containers.probe(kind, secret, [f"{place}/shown/below", f"{place}/later"], [])
    script = """
    mkdir -p $2/shown/below $2/later; umask 077
    for d in $2/shown/below $2/later; do mount -t tmpfs -o mode=755 none $d; echo $1 >$d/private; done
    """
    subprocess.run([*containers.prefix, "sh", "-ec", script, "sh", secret, place], check=True)
    assert command.answer() == []


def test_one_program_that_starts_many(top, secret):
    """A program has just started a container and makes a private file: its next container does not read it."""
    place = top("/etc")
    for number in range(5):
        assert hutch.run("host", ["true"]).ok
        write(f"{place}/{number}", secret, 0o600)
        assert secret not in hutch.run("host", ["sh", "-c", f"cat {place}/*"]).stdout
