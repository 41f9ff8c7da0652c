"""The world's engines, each really started, with the runtime under test below them.

They live in a room: a mount namespace and a pid namespace of their own. What engines leave in /run, /etc, /opt, /var/lib,
/var/cache and /dev/shm is the room's, and their processes, shims and monitors end with it. Cgroups are the machine's; all are
made below one parent, which is removed at the end."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import io
import itertools
import json
import os
import pty
import select
import shutil
import struct
import subprocess
import tarfile
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conformance.runtime import until
from tests.conftest import REPO, v2_only

RUNTIME = os.environ.get("HUTCH_CONFORMANCE_RUNTIME") or str(REPO / ".venv/bin/hutch-oci")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "xterm", "DOCKER_CLI_HINTS": "false",
               "DOCKER_CONFIG": "/run/engines/docker-client"}  # fmt: skip
ROOM = """
mount -t tmpfs -o mode=755 engines /run
mkdir -p /run/lock /run/engines/docker-client
echo {} > /run/engines/docker-client/config.json
mount -t tmpfs -o mode=1777 shm /dev/shm
for place in etc opt var/lib var/cache; do
  over=/run/engines/over-$(echo $place | tr / -)
  mkdir -p $over/upper $over/work
  mount -t overlay -o lowerdir=/$place,upperdir=$over/upper,workdir=$over/work overlay /$place
done
echo ready
exec env --ignore-signal=CHLD sleep infinity"""  # the kernel reaps the orphans of a first process that ignores SIGCHLD
IMAGE = "docker.io/library/engines:latest"
CGROUPS = f"engines-{os.getpid()}"
PATIENCE = 10  # seconds that no machine needs
_numbers = itertools.count(1)


class Said:
    """What a command came to."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}, out {self.out!r}, err {self.err!r}"


class Room:
    """Where the engines live."""

    def __init__(self, directory: Path):
        self.directory = directory
        # podman makes one beside the parent that it is given
        self.cgroups = [CGROUPS, *(name for name in ("libpod_parent",) if not glob.glob(f"/sys/fs/cgroup/*/{name}"))]
        argv = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation=private",
            "sh",
            "-ec",
            ROOM,
        ]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
        said = self.process.stdout.readline()
        assert said == "ready\n", f"no room for the engines: {said}"
        self.first = int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())
        # a working directory in the room: conmon writes there too
        self.enter = ["nsenter", f"--target={self.first}", "--mount", "--pid", "--", "env", "--chdir=/run/engines"]

    def path(self, path: str) -> Path:
        """A path in the room, as the tests see it."""
        return Path(f"/proc/{self.first}/root{path}")

    def run(self, *words: str, input: str | None = None, timeout: float = 30) -> Said:
        given = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run([*self.enter, *words], capture_output=True, text=True, errors="replace", timeout=timeout, check=False, env=ENVIRONMENT, **given)
        return Said(done.returncode, done.stdout, done.stderr)

    def typed(self, *words: str, typing: str = "", size=(33, 99), timeout: float = 30) -> Said:
        """The same on a terminal, with what somebody types."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        process = subprocess.Popen([*self.enter, *words], stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=ENVIRONMENT)
        os.close(slave)
        os.write(master, typing.encode())
        seen, deadline = b"", time.monotonic() + timeout
        try:
            while select.select([master], [], [], max(0, deadline - time.monotonic()))[0] and (part := os.read(master, 65536)):
                seen += part
        except OSError:  # EIO: the other end is closed
            pass
        finally:
            os.close(master)
            process.kill() if time.monotonic() > deadline else None
        return Said(process.wait(10), seen.decode(errors="replace").replace("\r\n", "\n"), "")

    def daemon(self, name: str, *words: str, up: Sequence[str]) -> None:
        """Start a daemon, and wait until it answers."""
        with open(self.directory / f"{name}.log", "wb") as log:
            process = subprocess.Popen([*self.enter, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT)
        deadline = time.monotonic() + 30
        while self.run(*up).code:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{name} is not up:\n{(self.directory / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        trees = [path for name in self.cgroups for path in glob.glob(f"/sys/fs/cgroup/{name}") + glob.glob(f"/sys/fs/cgroup/*/{name}")]
        until(lambda: all(_remove(tree) for tree in trees), f"the end of {trees}")


def _remove(tree: str) -> bool:
    """Remove a tree of empty cgroups; whether it is gone."""
    for directory, _, _ in os.walk(tree, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:  # its processes are still on their way out
            return False
    return True


def shell(command: str | Sequence[str]) -> list[str]:
    """A command: words, or a line for the shell."""
    return ["sh", "-c", command] if isinstance(command, str) else list(command)


class Engine:
    """One engine: its command line and the flags that each container needs here."""

    image = IMAGE

    def __init__(self, name: str, room: Room, base: Sequence[str], flags: Sequence[str], records: str):
        self.name, self.room, self.base, self.flags, self.records = name, room, list(base), list(flags), records
        self.parent = f"/{CGROUPS}/{name}"
        # podman has cgroups of its own there too: of its monitors, of pods
        self.patterns = ("libpod-*", "*/libpod-*") if name == "podman" else ("*",)
        self.told: list[str] = []  # what was found left behind

    def __repr__(self) -> str:
        return self.name

    def __call__(self, *words: str, **options) -> Said:
        return self.room.run(*self.base, *words, **options)

    def ok(self, *words: str, **options) -> str:
        said = self(*words, **options)
        assert said.code == 0, f"{self.name} {' '.join(words)}: {said}"
        return said.out.strip()

    def argv(self, command: str | Sequence[str], *flags: str) -> list[str]:
        return [*self.flags, *flags, IMAGE, *shell(command)]

    def run(self, command: str | Sequence[str], *flags: str, **options) -> Said:
        return self("run", "--rm", *self.argv(command, *flags), **options)

    def typed(self, *words: str, **options) -> Said:
        return self.room.typed(*self.base, *words, **options)

    def start(self, command: str | Sequence[str], *flags: str) -> str:
        """Start a container in the background; its name."""
        name = f"box{next(_numbers)}"
        self.ok("run", "--detach", "--name", name, *self.argv(command, *flags))
        return name

    def exec(self, name: str, command: str | Sequence[str], *flags: str, **options) -> Said:
        return self("exec", *flags, name, *shell(command), **options)

    def inspect(self, name: str, what: str) -> str:
        return self.ok("inspect", "--format", "{{.State." + what + "}}", name)

    def limit(self, name: str, controller: str, v1: str, v2: str) -> str:
        """What the kernel has as a limit of a container."""
        return self.room_limit(int(self.inspect(name, "Pid")), controller, v1, v2)

    def room_limit(self, pid: int, controller: str, v1: str, v2: str) -> str:
        lines = self.room.path(f"/proc/{pid}/cgroup").read_text().splitlines()
        paths = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
        return Path(f"/sys/fs/cgroup{paths['']}/{v2}" if v2_only() else f"/sys/fs/cgroup/{controller}{paths[controller]}/{v1}").read_text().strip()

    def left(self) -> list[str]:
        """The cgroups of containers, and what the runtime remembers of them."""
        below = [f"{CGROUPS}/{self.name}/{pattern}/" for pattern in self.patterns]
        cgroups = [path for pattern in below for path in glob.glob(f"/sys/fs/cgroup/{pattern}" if v2_only() else f"/sys/fs/cgroup/*/{pattern}")]
        return cgroups + glob.glob(str(self.room.path(self.records)))

    def clear(self) -> None:
        """Remove every container; the runtime must have forgotten them then."""
        if containers := self.ok("ps", "--all", "--quiet").split():
            self.ok("rm", "--force", *(("--time", "0", "--all") if self.name == "podman" else containers))
        self.gone()

    def gone(self) -> None:
        """Wait until nothing is left: engines tell their user of an end before they tidy up."""
        deadline = time.monotonic() + PATIENCE
        while left := [path for path in self.left() if path not in self.told]:
            if time.monotonic() > deadline:
                self.told += left  # one test fails for it, not every one after it
                pytest.fail(f"left behind by {self.name}: {left}")
            time.sleep(0.02)


class Ctr(Engine):
    """containerd's own client."""

    def run(self, command: str | Sequence[str], *flags: str, **options) -> Said:
        return self("run", "--rm", *self.words(command, *flags), **options)

    def words(self, command: str | Sequence[str], *flags: str, name: str = "") -> list[str]:
        name = name or f"box{next(_numbers)}"
        return [*self.flags, "--cgroup", f"/{CGROUPS}/{self.name}/{name}", *flags, IMAGE, name, *shell(command)]

    def start(self, command: str | Sequence[str], *flags: str) -> str:
        name = f"box{next(_numbers)}"
        self.ok("run", "--detach", *self.words(command, *flags, name=name))
        return name

    def exec(self, name: str, command: str | Sequence[str], *flags: str, **options) -> Said:
        return self("task", "exec", "--exec-id", f"exec{next(_numbers)}", *flags, name, *shell(command), **options)

    def task(self, name: str) -> list[str]:
        """The pid and the status of a task, or nothing."""
        return next((line.split()[1:] for line in self.ok("task", "ls").splitlines() if line.split()[0] == name), [])

    def clear(self) -> None:
        for name in self.ok("containers", "ls", "--quiet").split():
            self("task", "delete", "--force", name)
            self.ok("containers", "rm", name)
        self.gone()


def need(*programs: str) -> None:
    """Skip an engine that is not installed; without the runtime there is nothing to test."""
    for program in programs:
        if shutil.which(program, path=ENVIRONMENT["PATH"]) is None:
            pytest.skip(f"{program} is not installed")
    assert os.access(RUNTIME, os.X_OK), f"no runtime: {RUNTIME}"


def make_archive(directory: Path) -> Path:
    """An image of busybox, as `docker save` writes one: every engine loads it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            _member(tar, name, tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
        tar.add("/bin/busybox", "bin/busybox")
        for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                _member(tar, f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        _member(tar, "etc/passwd", data="root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/tmp:/bin/sh\n")
        _member(tar, "etc/group", data="root:x:0:\nanna:x:1000:\naudio:x:29:anna\n")
        _member(tar, "bin/no-interpreter", data="#!/not/there\n", mode=0o755)
        _member(tar, "bin/plain-file", data="echo never\n")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = {"architecture": machine, "os": "linux", "config": {"Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}
    with tarfile.open(directory / "image.tar", "w") as tar:
        _member(tar, "config.json", data=json.dumps(config))
        _member(tar, "layer.tar", data=layer.getvalue())
        _member(tar, "manifest.json", data=json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]))
    return directory / "image.tar"


def _member(tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, *, mode: int = 0o644, data: str | bytes = b"", link: str = "") -> None:
    member = tarfile.TarInfo(name)
    content = data.encode() if isinstance(data, str) else data
    member.type, member.mode, member.size, member.linkname = kind, mode, len(content), link
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(name="room", scope="session")
def room_fixture(tmp_path_factory) -> Iterator[Room]:
    need("unshare", "nsenter", "setpriv", "busybox")
    room = Room(tmp_path_factory.mktemp("engines"))
    room.image = make_archive(room.directory)
    yield room
    room.close()


@pytest.fixture(scope="session")
def docker_daemon(room: Room) -> Engine:
    need("dockerd", "docker", "containerd", "containerd-shim-runc-v2")
    place = "/run/engines/docker"
    room.path(place).mkdir()
    room.path(f"{place}/config.json").write_text("{}")
    base = ["docker", "--host", f"unix://{place}/socket"]
    words = ["--config-file", f"{place}/config.json", "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "--pidfile", f"{place}/pid"]
    words += ["--host", f"unix://{place}/socket", "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
    room.daemon("dockerd", "dockerd", *words, "--cgroup-parent", f"/{CGROUPS}/docker", "--add-runtime", f"hutch={RUNTIME}", up=[*base, "version"])
    docker = Engine("docker", room, base, ["--runtime", "hutch", "--network", "none"], f"{place}/exec/runtime-*/moby/*")
    docker.ok("load", "--input", str(room.image))
    return docker


@pytest.fixture(scope="session")
def podman_store(room: Room) -> Engine:
    need("podman", "conmon")
    place = "/run/engines/podman"
    base = ["podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp", "--cgroup-manager", "cgroupfs"]
    base += ["--events-backend", "none", "--runtime", RUNTIME]
    # podman asks for more open files than a root without CAP_SYS_RESOURCE may give
    flags = ["--network", "none", "--cgroup-parent", f"/{CGROUPS}/podman", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
    podman = Engine("podman", room, base, flags, f"/run/{os.path.basename(RUNTIME)}/*")
    podman.ok("load", "--quiet", "--input", str(room.image))
    return podman


@pytest.fixture(scope="session")
def containerd(room: Room) -> Ctr:
    need("containerd", "ctr", "containerd-shim-runc-v2")
    place = "/run/engines/containerd"
    room.path(place).mkdir()
    disabled = ["grpc.v1.cri", "internal.v1.opt", *(f"snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs"))]
    settings = {"version": 2, "root": f"{place}/root", "state": f"{place}/state", "disabled_plugins": [f"io.containerd.{name}" for name in disabled]}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    lines += ["[grpc]", f'address = "{place}/socket"', "[ttrpc]", f'address = "{place}/socket.ttrpc"']
    room.path(f"{place}/config.toml").write_text("\n".join(lines))
    base = ["ctr", "--address", f"{place}/socket"]
    room.daemon("containerd", "containerd", "--config", f"{place}/config.toml", up=[*base, "version"])
    ctr = Ctr("ctr", room, base, ["--runc-binary", RUNTIME, "--runc-root", f"{place}/runtime"], f"{place}/runtime/default/*")
    ctr.ok("images", "import", str(room.image))
    return ctr


@pytest.fixture(name="docker")
def docker_fixture(docker_daemon: Engine) -> Iterator[Engine]:
    yield docker_daemon
    docker_daemon.clear()


@pytest.fixture(name="podman")
def podman_fixture(podman_store: Engine) -> Iterator[Engine]:
    yield podman_store
    podman_store.clear()


@pytest.fixture(name="ctr")
def ctr_fixture(containerd: Ctr) -> Iterator[Ctr]:
    yield containerd
    containerd.clear()


@pytest.fixture(name="engine", params=["docker", "podman"])
def engine_fixture(request: pytest.FixtureRequest) -> Engine:
    """Docker and Podman, whose command lines are nearly the same."""
    return request.getfixturevalue(request.param)
