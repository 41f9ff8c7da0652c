"""An OCI runtime seen from outside: its command line, its bundles, and its containers as a shim sees them."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TIMEOUT = 30
APPLETS = "sh cat ls true false id echo sleep env pwd stat grep hostname uname ionice ip printf tty stty".split()  # the shell has the others in itself
CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"]
NAMESPACES = ("pid", "mount", "ipc", "uts", "network", "cgroup")
MAPPED = 100_000  # the first of the host's ids that containers with a user namespace get
MAPPING = [{"containerID": 0, "hostID": MAPPED, "size": 65536}]
PR_SET_CHILD_SUBREAPER = 36
_numbers = itertools.count(1)
_own: dict[int, str] = {}  # children that somebody here waits for, and when they were born: their numbers come again


def adopt(on: bool) -> None:
    """Be the parent of what loses its own, as a shim is: the containers that ``create`` leaves behind."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def children() -> set[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended since
            found |= {int(word) for word in Path(f"/proc/self/task/{task}/children").read_text().split()}
    return found


def _stat(pid: int, number: int) -> str:
    """A field of a process's stat(5), by its number there; "" for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[number - 3]
    except OSError:
        return ""


def is_zombie(pid: int) -> bool:
    return _stat(pid, 3) == "Z"


def orphans() -> list[int]:
    """Children that nobody here waits for."""
    return [pid for pid in children() if _own.get(pid) != _stat(pid, 22)]


def label(value: Any) -> str:
    """A parameter's name in the table."""
    if isinstance(value, dict):
        return " ".join(f"{key} {label(part)}".strip() for key, part in value.items()) or "nothing"
    if isinstance(value, list | tuple):
        return " ".join(map(label, value))
    return "unset" if value is None else str(value)


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}") and not is_zombie(pid)


def until(condition: Callable[[], Any], what: str, seconds: float = 6) -> Any:
    """Wait for a condition; it is a failure only after a time that no machine needs."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)
    return value


class Result:
    """What a command of the runtime came to."""

    def __init__(self, words: Sequence[str], code: int, out: str, err: str):
        self.words, self.code, self.out, self.err = words, code, out, err

    def __repr__(self) -> str:
        return f"{' '.join(self.words)!r}: exit {self.code}, out {self.out!r}, err {self.err!r}"

    def ok(self) -> Result:
        assert self.code == 0, self
        return self

    def failed(self, *words: str) -> Result:
        """It failed and said why, on stderr, with one of these words when there are any."""
        assert self.code != 0, self
        assert self.err.strip(), f"no message: {self}"
        assert not words or any(word.lower() in self.err.lower() for word in words), self
        return self

    def lines(self) -> list[str]:
        return self.ok().out.splitlines()

    def json(self) -> Any:
        return json.loads(self.ok().out)


class Runtime:
    """A runtime as a list of words to begin a command with, and the directory that it keeps its state in."""

    def __init__(self, name: str, argv: Sequence[str], root: str, *, environment: dict[str, str] | None = None, user: Any = None):
        self.name, self.argv, self.root, self.environment, self.user = name, list(argv), root, environment, user

    def call(self, *words: str, options=(), prefix=(), stdin: str | None = None, pass_fds=(), cwd: str | None = None,
             env: dict[str, str] | None = None, timeout: float = TIMEOUT, files: tuple[str, str] | None = None) -> Result:  # fmt: skip
        """Run a command of the runtime. Its output goes to files: what it leaves running may hold them."""
        with tempfile.TemporaryDirectory(prefix="hutch-conf-io-", dir="/var/tmp") as place:
            out, err = files or (f"{place}/out", f"{place}/err")
            line = [*prefix, *self.argv, "--root", self.root, *options, *words]
            environment = {**os.environ, **(self.environment or {}), **(env or {})} if self.user is None else {**(self.environment or {}), **(env or {})}
            given = subprocess.DEVNULL if stdin is None else subprocess.PIPE
            with open(out, "ab") as stdout, open(err, "ab") as stderr:
                child = subprocess.Popen(line, stdin=given, stdout=stdout, stderr=stderr, pass_fds=pass_fds, cwd=cwd or "/", env=environment)
                try:
                    child.communicate(stdin.encode() if stdin is not None else None, timeout=timeout)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                    raise AssertionError(f"no end of {' '.join(words)!r}: out {_text(out)!r}, err {_text(err)!r}") from None
            return Result(words, child.returncode, _text(out), _text(err))

    def spawn(self, *words: str, options=(), prefix=(), **rest) -> subprocess.Popen[bytes]:
        """Begin a command and leave it running; the caller waits for it."""
        environment = {**os.environ, **(self.environment or {})} if self.user is None else self.environment
        child = subprocess.Popen([*prefix, *self.argv, "--root", self.root, *options, *words], env=environment, cwd="/", **rest)
        expect(child.pid)
        return child


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def config(*args: str, process=None, linux=None, mounts=(), namespaces=NAMESPACES, **top) -> dict[str, Any]:
    """A configuration: six namespaces, /proc and a /dev, and what the test wants of its own."""
    return {
        "ociVersion": "1.0.0",
        "root": {"path": "rootfs"},
        "process": {
            "cwd": "/",
            "args": list(args),
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            **(process or {}),
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            *mounts,
        ],
        "linux": {"namespaces": [{"type": n} if isinstance(n, str) else n for n in namespaces], **(linux or {})},
        **top,
    }


def shell(script: str, **rest) -> dict[str, Any]:
    return config("sh", "-c", script, **rest)


def mapped(script: str, *, linux=None, namespaces=NAMESPACES, **rest) -> dict[str, Any]:
    """A configuration with a user namespace."""
    return shell(script, linux={"uidMappings": MAPPING, "gidMappings": MAPPING, **(linux or {})}, namespaces=(*namespaces, "user"), **rest)


@functools.cache
def _busybox() -> str:
    """A busybox that every bundle has a link to."""
    place = tempfile.mkdtemp(prefix="hutch-conf-bin-", dir="/var/tmp")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return shutil.copy("/bin/busybox", f"{place}/busybox")


def make_rootfs(root: Path) -> None:
    """A small root file system of a static busybox."""
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root"):
        (root / name).mkdir(parents=True)
    os.link(_busybox(), root / "bin/busybox")
    for name in APPLETS:
        os.symlink("busybox", root / "bin" / name)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nanna:x:1000:\naudio:x:29:anna\n")
    os.chmod(root / "tmp", 0o1777)


class Container:
    """A bundle on the disk, and the container that a runtime makes of it."""

    def __init__(self, runtime: Runtime, place: Path, data: dict[str, Any] | None):
        number = next(_numbers)
        self.runtime, self.id = runtime, f"hutch-conf-{os.getpid()}-{number}"
        self.bundle = place / f"b{number}"
        self.rootfs = self.bundle / "rootfs"
        make_rootfs(self.rootfs)
        self.out_file, self.err_file, self.pid_file = (str(self.bundle / name) for name in ("out", "err", "pid"))
        self.data = data
        self.cgroup = f"/{self.id}"
        if data is not None:
            if runtime.user is None:
                data["linux"].setdefault("cgroupsPath", self.cgroup)
            if any(n["type"] == "user" for n in data["linux"]["namespaces"]):
                self.give(MAPPED)
            self.write(data)
        if runtime.user is not None:
            self.give(runtime.user.pw_uid)

    def give(self, owner: int) -> None:
        """Give the bundle to a user: mount points are made in the root by the container's own."""
        for path in [self.bundle, *self.bundle.rglob("*")]:
            if path.name != "busybox":
                os.chown(path, owner, owner, follow_symlinks=False)

    def write(self, data: dict[str, Any]) -> None:
        (self.bundle / "config.json").write_text(json.dumps(data))

    def call(self, command: str, *words: str, **rest) -> Result:
        return self.runtime.call(command, *words, self.id, **rest)

    def create(self, *options: str, **rest) -> Result:
        """Create it, with its output in files; what the runtime says is in there too."""
        own = () if "--pid-file" in options else ("--pid-file", self.pid_file)
        return self.call("create", "--bundle", str(self.bundle), *own, *options, files=(self.out_file, self.err_file), **rest)

    def start(self, **rest) -> Result:
        return self.call("start", **rest)

    def up(self, *options: str, **rest) -> Container:
        """Create and start it."""
        self.create(*options, **rest).ok()
        self.start(**rest).ok()
        return self

    def run(self, *options: str, **rest) -> Result:
        return self.call("run", "--bundle", str(self.bundle), *options, **rest)

    def state(self) -> dict[str, Any]:
        return self.call("state").json()

    @property
    def status(self) -> str:
        """The state's status, or nothing when the runtime knows of no such container."""
        result = self.call("state")
        return json.loads(result.out)["status"] if result.code == 0 else ""

    @property
    def pid(self) -> int:
        return self.state()["pid"]

    def kill(self, name: str = "KILL", *options: str, **rest) -> Result:
        return self.runtime.call("kill", *options, self.id, name, **rest)

    def delete(self, *options: str, **rest) -> Result:
        return self.call("delete", *options, **rest)

    def exec(self, *words: str, options: Sequence[str] = (), **rest) -> Result:
        return self.runtime.call("exec", *options, self.id, *words, **rest)

    def out(self) -> str:
        return _text(self.out_file)

    def err(self) -> str:
        return _text(self.err_file)

    def wait_status(self, status: str) -> None:
        until(lambda: self.status == status, f"status {status}")

    @property
    def init(self) -> int:
        """The first process' pid, as create wrote it: it is known after its end too."""
        return int(_text(self.pid_file))

    def wait(self) -> int:
        """Wait for the container's first process, as a shim does, and give its exit code."""
        return wait(self.init)

    def finish(self) -> str:
        """Create, start, wait, delete: what the container wrote to its stdout."""
        self.up()
        assert self.wait() == 0, (self.out(), self.err())
        self.delete().ok()
        return self.out()

    def controller(self, name: str) -> Path:
        """The directory of the container's cgroup in a hierarchy of v1."""
        return Path(f"/sys/fs/cgroup/{name}{self.cgroup}")

    def cleanup(self) -> None:
        if os.path.exists(f"{self.runtime.root}/{self.id}"):
            self.runtime.call("delete", "--force", self.id)
        if not self.runtime.name.startswith("hutch"):
            self._sweep()
        # the first process of a pid namespace does not end before the others are reaped
        until(lambda: reap() or not os.path.exists(self.pid_file) or self.init not in children(), f"end of {self.id}")

    def processes(self) -> list[int]:
        """The processes in the container's cgroup."""
        place = self.controller("pids") if self.controller("pids").exists() else Path(f"/sys/fs/cgroup{self.cgroup}")
        return [int(word) for word in (place / "cgroup.procs").read_text().split()]

    def left_cgroups(self) -> list[str]:
        top = Path("/sys/fs/cgroup")
        return [str(path) for path in [top / self.cgroup[1:], *top.glob(f"*{self.cgroup}")] if path.exists()]

    def _sweep(self) -> None:
        """Remove what a peer left of its cgroups after an error; what Hutch leaves is found by ``nothing_left``."""
        for path in self.left_cgroups():
            with contextlib.suppress(OSError):
                os.rmdir(path)


def reap() -> None:
    """Reap what was re-parented to the tests, and nothing that is waited for by its own parent here."""
    for pid in orphans():
        if is_zombie(pid):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def expect(pid: int) -> None:
    """Leave a child to whoever waits for it."""
    _own[pid] = _stat(pid, 22)


def wait(pid: int) -> int:
    """The exit code of a process that was re-parented to the tests; a signal's number is negative."""
    _, status = until(lambda: _reaped(pid), f"end of {pid}")
    return os.waitstatus_to_exitcode(status)


def _reaped(pid: int) -> tuple[int, int] | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return (done, status) if done else None
