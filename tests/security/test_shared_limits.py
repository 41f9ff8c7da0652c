"""What the kernel counts by user: a container that takes all it can get takes it from nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import HUTCH, system_python

pytestmark = pytest.mark.root

# Takes what it is asked for until it is refused or has enough, says how much that was, and holds it.
HOG = r"""
import array, ctypes, fcntl, os, resource, signal, socket, sys, tempfile, time
libc = ctypes.CDLL(None, use_errno=True)
enough, kept = int(sys.argv[2]), []
for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_SIGPENDING, resource.RLIMIT_MSGQUEUE):
    resource.setrlimit(kind, (resource.getrlimit(kind)[1],) * 2)

def instances():
    return libc.inotify_init1(0) >= 0

def watches():
    if not kept:
        kept.append(tempfile.mkdtemp(dir="/tmp"))
        kept.extend(f"{kept[0]}/{number}" for number in range(3000))
        for path in kept[1:]:
            open(path, "w").close()
    watches.number += 1
    instance, path = divmod(watches.number, 3000)
    if path == 0:
        watches.fd = libc.inotify_init1(0)
        if watches.fd < 0:
            watches.fd = libc.inotify_init1(0)
    return libc.inotify_add_watch(watches.fd, kept[1 + path].encode(), 2) >= 0
watches.number = -1

def signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
    return libc.sigqueue(os.getpid(), signal.SIGRTMIN, ctypes.c_void_p(0)) == 0

def timers():
    kept.append(ctypes.c_long())
    return libc.timer_create(1, None, ctypes.byref(kept[-1])) == 0

def queues():
    attributes = (ctypes.c_long * 8)(0, 10, 8192)
    name = b"/hutch-test-%d-%d" % (os.getpid(), len(kept))
    kept.append(libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, attributes))
    libc.mq_unlink(name)
    return kept[-1] >= 0

def pipes():
    kept.append(os.pipe())
    try:
        return fcntl.fcntl(kept[-1][1], 1031, 1 << 20) > 0
    except OSError:
        return False

def descriptors():
    if not kept:
        kept.append(socket.socketpair())
        kept[-1][0].setblocking(False)
    try:
        kept[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 100))])
    except BlockingIOError:
        kept.append(socket.socketpair())
        kept[-1][0].setblocking(False)
    except OSError:
        return False
    return True

take, taken = globals()[sys.argv[1]], 0
while taken < enough and take():
    taken += 1
print(taken, flush=True)
if len(sys.argv) > 3:
    time.sleep(1000)
"""
ALL = 1_000_000
# What somebody else still needs to get.
COUNTED = {"instances": 8, "watches": 500, "signals": 100, "timers": 100, "queues": 2}


class Owner:
    """A user with containers: root, or an ordinary one."""

    def __init__(self, account, source: Path, state: str) -> None:
        self.prefix: list[str] = []
        self.environment = {**os.environ}
        self.python, self.hutch = sys.executable, HUTCH
        if account:
            numbers = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            self.prefix = ["setpriv", *numbers, "--init-groups"]
            self.python = system_python()
            self.hutch = [*self.prefix, self.python, "-m", "hutch.cli"]
            self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(source)}
            self.environment |= {"HUTCH_STATE": f"{state}/state", "HUTCH_DATA": f"{state}/data"}
            self.environment["HOME"] = account.pw_dir
        self.running: list[subprocess.Popen[str]] = []

    def _run(self, words: list[str]) -> int:
        options = {"env": self.environment, "cwd": "/", "stdin": subprocess.DEVNULL, "timeout": 60}
        done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def hog(self, kind: str) -> int:
        """A container that takes all of something and holds it; how much that is."""
        words = [*self.hutch, "run", "host", "python3", "-c", HOG, kind, str(ALL), "hold"]
        options = {"env": self.environment, "cwd": "/", "stdin": subprocess.DEVNULL, "text": True}
        self.running.append(subprocess.Popen(words, stdout=subprocess.PIPE, **options))
        return int(self.running[-1].stdout.readline())

    def get(self, kind: str, number: int) -> int:
        """What a process of the user's gets on the host."""
        return self._run([*self.prefix, self.python, "-c", HOG, kind, str(number)])

    def get_inside(self, kind: str, number: int) -> int:
        """What a process in one more container gets."""
        return self._run([*self.hutch, "run", "host", "python3", "-c", HOG, kind, str(number)])

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()


@pytest.fixture(params=["root", "user"])
def owner(request, ordinary_user, public_source):
    place = tempfile.mkdtemp(prefix="hutch-user-", dir="/var/tmp")
    os.chown(place, ordinary_user.pw_uid, ordinary_user.pw_gid)
    found = Owner(ordinary_user if request.param == "user" else None, public_source, place)
    yield found
    found.close()
    subprocess.run(["rm", "-rf", place], check=True)


@pytest.mark.parametrize("kind", COUNTED)
def test_the_owner_goes_on(owner, kind):
    """A container takes all of inotify, pending signals, timers, message queues: its owner gets some."""
    need = COUNTED[kind]
    assert owner.get(kind, need) == need
    assert owner.hog(kind) > 0
    assert owner.get(kind, need) == need


@pytest.mark.parametrize("owner", ["root"], indirect=True)
@pytest.mark.parametrize("kind", COUNTED)
def test_the_owner_of_several(owner, kind):
    """The same with four such containers of root's: each has its own count. An ordinary user's share his, each half of it at the most."""
    for _ in range(4):
        owner.hog(kind)
    assert owner.get(kind, COUNTED[kind]) == COUNTED[kind]


@pytest.mark.parametrize("kind", COUNTED)
def test_a_neighbour_goes_on(owner, kind):
    """Another container of the same user gets its own. (Of pipes and descriptors on their way it need not: docs/security.md.)"""
    need = COUNTED[kind]
    assert owner.get_inside(kind, need) == need
    assert owner.hog(kind) > 0
    assert owner.get_inside(kind, need) == need
