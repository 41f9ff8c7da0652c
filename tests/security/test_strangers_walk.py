"""A stranger's walk: another user of the host, beside containers that have written all that they can.

What a container's root writes (set-uid programs, world-writable files, fifos, sockets) lies on the host, too.
Another user of the host must reach none of it: neither by the paths below the data and state directories,
whose parents everybody may enter here, nor by what /proc shows of the container's processes and mounts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import system_python
from tests.hosts import processes
from tests.security.attack import alive, until
from tests.vm.kit import FLAGS, lacking

pytestmark = pytest.mark.root
STRANGER = 54321  # nobody's number
TOKEN = f"hutch-left-{os.getpid()}"  # others leave theirs at the same time

# Leaves everything that is dangerous in every directory that can be written, and opens the directory itself.
LEAVE = f"""
b=/bin/busybox
for top in / /srv /tmp /etc /usr/bin /run /root /data /anonymous $($b cut -d' ' -f5 /proc/self/mountinfo); do
    case $top in /proc*|/sys*|/dev) continue;; esac
    [ -d $top ] && $b mkdir -p $top/{TOKEN} 2>/dev/null || continue
    $b chmod 0777 $top $top/{TOKEN} 2>/dev/null
    $b cp $b $top/{TOKEN}-su 2>/dev/null && $b chmod 4777 $top/{TOKEN}-su
    echo data >$top/{TOKEN}-file; $b chmod 0666 $top/{TOKEN}-file
    $b cp $top/{TOKEN}-file $top/{TOKEN}/file; $b mkfifo -m 666 $top/{TOKEN}-fifo 2>/dev/null
done
"""
SOCKETS = f"""
import os, socket, time
kept = []
for top in ("/srv", "/tmp", "/data", "/anonymous"):
    if os.path.isdir(top):
        kept.append(socket.socket(socket.AF_UNIX))
        try:
            os.chdir(top)
            kept[-1].bind("{TOKEN}-socket")
        except PermissionError:
            continue
        kept[-1].listen()
        os.chmod("{TOKEN}-socket", 0o777)
print("left", flush=True)
time.sleep(1000)
"""
STAY = f"{LEAVE}\nexec python3 -c '{SOCKETS}'"
SLEEP = f"{LEAVE}\necho left; exec sleep 1000"
VOLUMES = ["-v", "shared:/data", "-v", "/anonymous"]
WALK = f"""
import json, os, socket, stat, sys
known, tops, endpoints = json.load(sys.stdin)
leaves = ["{TOKEN}", "{TOKEN}/file", "{TOKEN}-su", "{TOKEN}-file", "{TOKEN}-fifo", "{TOKEN}-socket"]
paths = set(known)
for top in tops:
    for place, directories, files in os.walk(top):
        paths |= {{f"{{place}}/{{name}}" for name in directories + files if name.startswith("{TOKEN}")}}
places = set()
for pid in filter(str.isdigit, os.listdir("/proc")):
    here = f"/proc/{{pid}}"
    inside = ("", "/srv", "/tmp", "/data", "/anonymous", "/memory")
    places |= {{f"{{here}}/{{way}}{{below}}" for way in ("root", "cwd") for below in inside}}
    try:
        places |= {{f"{{here}}/fd/{{name}}" for name in os.listdir(f"{{here}}/fd")}}
    except OSError:
        pass
    try:
        with open(f"{{here}}/mountinfo") as file:
            for line in file:
                places |= set(line.split()[3:5])
    except OSError:
        pass
reached = []
for path in paths | {{f"{{place}}/{{leaf}}" for place in places for leaf in leaves}}:
    try:
        os.lstat(path)
        reached.append(path)
    except OSError:
        pass
for path in endpoints:
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
                with socket.socket(socket.AF_UNIX, kind) as tried:
                    try:
                        tried.connect(path)
                        reached.append(path)
                    except OSError:
                        pass
        else:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            reached.append(path)
    except OSError:
        pass
print(json.dumps(sorted(reached)))
"""


class Owner:
    """A user whose containers run, with data and state directories below a place that everybody may enter."""

    def __init__(self, place: Path, account, source: Path, defaults: bool) -> None:
        self.place, self.uid = place, account.pw_uid if account else 0
        self.holder: subprocess.Popen[str] | None = None
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(source)}
        self.environment["HOME"] = f"{place}/home"
        self.interpreter = system_python() if account else sys.executable
        self.tops = [str(place), "/run", "/dev/shm", "/tmp", "/var/tmp"]
        self.prefix: list[str] = []
        for name in ("home", "run"):
            (place / name).mkdir()
            (place / name).chmod(0o755)
            os.chown(place / name, self.uid, account.pw_gid if account else 0)
        os.chown(place, self.uid, account.pw_gid if account else 0)
        if not defaults:
            self.environment |= {"HUTCH_DATA": f"{place}/data", "HUTCH_STATE": f"{place}/state"}
        elif account:
            self.environment["XDG_RUNTIME_DIR"] = f"{place}/run"
        else:
            hide = "for d in /var/lib /run /dev/shm; do mount -t tmpfs -o mode=755 none $d; done"
            words = ["unshare", "--mount", "sh", "-ec", f"{hide}; echo ready; exec sleep 1000"]
            self.holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            assert self.holder.stdout is not None and self.holder.stdout.readline() == "ready\n"
            self.prefix = ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "--"]
            self.tops = [str(place), "/run", "/dev/shm", "/var/lib"]
        self.identity: list[str] = []
        if account:
            numbers = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            self.identity = ["setpriv", *numbers, "--init-groups"]

    def words(self, *words: str) -> list[str]:
        return [*self.prefix, *self.identity, self.interpreter, *words]

    def python(self, *words: str) -> str:
        options = {"env": self.environment, "cwd": "/", "stdin": subprocess.DEVNULL, "timeout": 60}
        done = subprocess.run(self.words(*words), capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def __call__(self, *words: str) -> str:
        return self.python("-m", "hutch.cli", *words)

    def settled(self, name: str) -> None:
        """Wait until a detached container has left what it wants to."""
        deadline = time.monotonic() + 50
        while "left" not in self("logs", name).split():
            assert time.monotonic() < deadline, self("logs", name)
            time.sleep(0.05)

    def found(self, *what: str) -> list[str]:
        """What the host's root finds in all the places."""
        words = [*self.prefix, "find", *self.tops, "-ignore_readdir_race", *what, "-print0"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return [name for name in done.stdout.split("\0") if name]

    def reached(self, *, visible: bool = True) -> list[str]:
        """What the stranger reaches of what containers have left. Some is `visible` to the host's root."""
        known = self.found("-name", f"{TOKEN}*")
        assert known or not visible, "nothing was left to be reached"
        own = [name for name in self.found("(", "-type", "s", "-o", "-type", "p", ")") if self.owns(name)]
        stranger = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
        words = [*self.prefix, *stranger, system_python(), "-c", WALK]
        asked = json.dumps([known, self.tops, own])
        options = {"input": asked, "cwd": "/", "timeout": 100}
        done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def owns(self, path: str) -> bool:
        return self.holder is not None or path.startswith(f"{self.place}/")

    def close(self) -> None:
        pids = [int(path.read_text()) for path in self.place.rglob("networks/.pasta")]
        for name in self("ps", "-aq").split():
            self("rm", "-f", name)
        # what a network keeps running ends a little after its last container
        for pid in pids:
            assert until(lambda pid=pid: not alive(pid), 10)
        for name in ("hutch-names", "hutch-usernet"):
            assert until(lambda name=name: not processes(self.place, name), 10)
        if self.holder:
            self.holder.kill()
            self.holder.communicate()


@pytest.fixture
def owner_of(public_source, ordinary_user) -> Iterator:
    """``owner_of("root")``, ``owner_of("user")``: an owner of containers."""
    made: list[Owner] = []

    def make(who: str, defaults: bool = False) -> Owner:
        place = Path(tempfile.mkdtemp(prefix="hutch-walk-", dir="/var/tmp"))
        place.chmod(0o755)
        made.append(Owner(place, ordinary_user if who == "user" else None, public_source, defaults))
        return made[-1]

    yield make
    for owner in made:
        try:
            owner.close()
        finally:
            shutil.rmtree(owner.place, ignore_errors=True)


KINDS = {
    "named volume": ["-v", "shared:/data"],
    "anonymous volume": ["-v", "/anonymous"],
    "changes on disk": ["--upper", "disk"],
    "changes in memory": ["--upper", "tmpfs", "--tmpfs", "/memory"],
    "networks and ports": ["-v", "shared:/data", "-p", "127.0.0.1::80", "--network", "bridge"],
    "another user": ["-v", "shared:/data", "-u", "1000"],
}
AS_ROOT = {
    "no user namespace": ["--userns", "host", "-v", "shared:/data", "--upper", "disk"],
    "no user namespace, in memory": ["--userns", "host", "-v", "/anonymous", "--upper", "tmpfs"],
    "a machine": [*FLAGS, "-v", "shared:/data", "--upper", "disk"],
    "a sandbox that is none": ["--privileged", "-v", "shared:/data", "--upper", "disk"],
}
WHOLE = [("user", kind) for kind in KINDS] + [("root", kind) for kind in {**KINDS, **AS_ROOT}]


@pytest.mark.parametrize(("who", "kind"), WHOLE)
def test_beside_a_running_container(owner_of, who, kind):
    """Set-uid programs, open files, fifos, sockets wherever a container writes: out of a stranger's reach."""
    if kind == "a machine" and lacking():
        pytest.skip(lacking())
    owner = owner_of(who)
    if kind == "another user":
        owner("run", "-v", "shared:/data", "host", "chmod", "1777", "/data")
    script = SLEEP if kind == "a machine" else STAY
    owner("run", "-d", "--name", "box", *{**KINDS, **AS_ROOT}[kind], "host", "sh", "-c", script)
    owner.settled("box")
    assert owner.reached(visible="memory" not in kind) == []


@pytest.mark.parametrize("who", ["root", "user"])
def test_in_the_default_places(owner_of, who):
    """The same without HUTCH_DATA and HUTCH_STATE, where everybody may enter the home and /var/lib."""
    owner = owner_of(who, defaults=True)
    owner("run", "-d", "--name", "box", *VOLUMES, "--upper", "disk", "host", "sh", "-c", STAY)
    owner.settled("box")
    assert owner.reached() == []


@pytest.mark.parametrize("who", ["root", "user"])
def test_after_the_end(owner_of, who):
    """What containers leave behind when they have ended: volumes, and the changes of one that is kept."""
    owner = owner_of(who)
    owner("run", "-d", "--name", "box", *VOLUMES, "host", "sh", "-c", f"{LEAVE}\necho left")
    owner.settled("box")
    owner("run", "--rm", "-v", "other:/data", "host", "sh", "-c", LEAVE)
    assert owner.reached() == []


@pytest.mark.parametrize("who", ["root", "user"])
def test_images_that_a_container_has_made(owner_of, who, busybox_root):
    """A layer with set-uid programs, made by commit, and the next container on it: for its owner alone."""
    owner = owner_of(who)
    subprocess.run(["tar", "-C", str(busybox_root), "-cf", f"{owner.place}/base.tar", "."], check=True)
    owner("import", f"{owner.place}/base.tar", "base:1")
    owner("run", "-d", "--name", "box", *VOLUMES, "base:1", "sh", "-c", SLEEP)
    owner.settled("box")
    owner("commit", "box", "made:1")
    owner("run", "-d", "--name", "again", *VOLUMES, "made:1", "sh", "-c", f"ls -d /*; {SLEEP}")
    owner.settled("again")
    assert f"/{TOKEN}-su\n" in owner("logs", "again")
    assert owner.reached() == []


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("upper", ["tmpfs", "disk"])
def test_forks(owner_of, who, upper, busybox_root):
    """A container that was forked, and its children, each of which writes again."""
    owner = owner_of(who)
    script = f"""
import sys, hutch
volume = hutch.VolumeMount(name="shared", target="/data")
with hutch.Container({str(busybox_root)!r}, upper={upper!r}, mounts=[volume]) as box:
    box.run(["sh", "-c", {LEAVE!r}])
    children = box.fork(2)
    for one in children:
        one.run(["sh", "-c", {LEAVE!r}])
    print("ready", flush=True)
    sys.stdin.read()
    for one in children:
        one.close()
"""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = subprocess.Popen(owner.words("-c", script), env=owner.environment, cwd="/", **streams)
    try:
        assert running.stdout.readline() == "ready\n"
        assert owner.reached() == []
    finally:
        running.communicate()


@pytest.mark.parametrize("who", ["root", "user"])
def test_the_directory_of_a_runtime(owner_of, who, busybox_root):
    """hutch-oci with a state directory in an open place: no socket and no fifo of it answers a stranger."""
    owner = owner_of(who)
    bundle, state = Path(f"{owner.place}/bundle"), f"{owner.place}/oci"
    for path in (bundle, Path(state)):
        path.mkdir(mode=0o755)
        os.chown(path, owner.uid, -1)
    oci = ["-m", "hutch.cli.oci", "--root", state]
    owner.python(*oci, "spec", "--bundle", str(bundle), *([] if who == "root" else ["--rootless"]))
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["sh", "-c", f"{LEAVE}; exec sleep 1000"]}
    config["root"] = {"path": str(busybox_root), "readonly": True}
    (bundle / "config.json").write_text(json.dumps(config))
    try:
        owner.python(*oci, "run", "--detach", "--bundle", str(bundle), "box")
        assert owner.reached(visible=False) == []
    finally:
        owner.python(*oci, "delete", "--force", "box")


OLD = {"volumes": 0o711, "volumes/old": 0o711, "volumes/old/data": 0o755}
OPEN = {"": 0o755, "volumes": 0o755, "volumes/old": 0o755, "volumes/old/data": 0o777}


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("used", ["old", "other"])
@pytest.mark.parametrize("modes", [OLD, OPEN], ids=["old", "open"])
def test_directories_that_were_wider(owner_of, who, used, modes):
    """A data directory of an older version, with a set-uid program in a volume: closed at its next use."""
    owner = owner_of(who)
    owner("run", "-v", "old:/data", "host", "sh", "-c", f"{LEAVE}\nchmod 755 /data")
    for path, mode in modes.items():
        os.chmod(f"{owner.place}/data/{path}", mode)
    look = "stat -c %a /data; ls /data"
    inside = owner("run", "-v", f"{used}:/data", "-u", "1000", "host", "sh", "-c", look)
    assert owner.reached() == []
    if used == "old":
        assert inside.split()[0] == f"{modes['volumes/old/data']:o}" and f"{TOKEN}-su" in inside


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("more", [[], ["--userns", "host"]], ids=["mapped", "unmapped"])
def test_inside_a_volume_stays_open(owner_of, who, more):
    """A container's other users enter a volume and read what its root has put there, as they do in Docker."""
    if who == "user" and more:
        pytest.skip("an ordinary user needs a user namespace")
    owner = owner_of(who)
    owner("run", *more, "-v", "shared:/data", "host", "sh", "-c", "echo hello >/data/file")
    look = "stat -c %a /data; cat /data/file"
    assert owner("run", *more, "-v", "shared:/data", "-u", "1000", "host", "sh", "-c", look) == "755\nhello\n"
