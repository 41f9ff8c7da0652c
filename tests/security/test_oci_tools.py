"""What the attacks on hutch-oci share: the runtime, containers of it, and hostile programs that are compiled once."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import runtime as rt
from tests.conftest import REPO

OWN = REPO / ".venv/bin/hutch-oci"
USERNS = pytest.mark.parametrize("userns", [False, True], ids=["host-userns", "own-userns"])
_numbers = itertools.count(1)


class Box(rt.Container):
    """A bundle and its container, in a cgroup of the attacks' own."""

    def __init__(self, runtime: rt.Runtime, place: Path, data: dict[str, Any] | None):
        super().__init__(runtime, place, None)
        self.id = f"hutch-sec-{os.getpid()}-{next(_numbers)}"
        self.cgroup = f"/{self.id}"
        if data is not None:
            self.configure(data)

    def configure(self, data: dict[str, Any]) -> Box:
        self.data = data
        data["linux"].setdefault("cgroupsPath", self.cgroup)
        if any(n["type"] == "user" for n in data["linux"]["namespaces"]):
            self.give(rt.MAPPED)
        self.write(data)
        return self

    def put(self, name: str, path: str = "", owner: int = 0) -> None:
        """A hostile program into the root."""
        shutil.copy(program(name), self.rootfs / (path or name))
        os.chown(self.rootfs / (path or name), owner, owner)

    @property
    def record(self) -> Path:
        return Path(self.runtime.root) / self.id / "state"

    def read(self, path: str) -> str:
        """A file of the root's, as an attack left it."""
        try:
            return (self.rootfs / path).read_text(errors="replace")
        except OSError:
            return ""


class Boxes:
    """Containers of one runtime, deleted at the end."""

    def __init__(self, place: Path):
        self.place = place
        self.runtime = rt.Runtime("hutch-oci", [str(OWN)], str(place / "state"))
        self.made: list[Box] = []

    def __call__(self, data: dict[str, Any] | None = None) -> Box:
        self.made.append(Box(self.runtime, self.place, data))
        return self.made[-1]

    def shell(self, userns: bool, script: str, **rest: Any) -> Box:
        return self((rt.mapped if userns else rt.shell)(script, **rest))

    def call(self, *words: str, **rest: Any) -> rt.Result:
        return self.runtime.call(*words, **rest)


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hutch-sec-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def boxes(place: Path) -> Iterator[Boxes]:
    """Make containers, and be the parent of them, as a shim is."""
    rt.adopt(True)
    made = Boxes(place)
    yield made
    for box in reversed(made.made):
        box.cleanup()
    rt.adopt(False)
    rt.reap()


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host's that nothing here may touch."""
    process = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
    rt.expect(process.pid)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def small(place: Path) -> Iterator[Path]:
    """A small file system: ``fill`` leaves nothing of it."""
    path = place / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), open(path / "filler", "wb", buffering=0) as file:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


def remount(path: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True)


def clear(result: rt.Result, *words: str) -> rt.Result:
    """It failed in a sentence: no traceback, and one of the words when there are any."""
    result.failed(*words)
    assert "Traceback" not in result.err, result
    assert result.code == 1 or result.words[0] in ("exec", "run"), result
    return result


def within(process: subprocess.Popen[bytes], seconds: float = 15) -> int:
    """Its exit code; a hang is a failure, and is ended."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        raise AssertionError(f"hangs: {process.args}") from None


class Console:
    """A socket that gets the master end of a terminal."""

    def __init__(self, place: Path):
        self.path = str(place / "tty.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.settimeout(10)

    def receive(self) -> list[int]:
        """The descriptors that come over one connection."""
        connection, _ = self.listener.accept()
        with connection:
            return received(connection)[1]

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def received(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Everything up to the end of a connection, and the descriptors that came with it."""
    connection.settimeout(10)
    data, descriptors = b"", []
    while True:
        part, more, _, _ = socket.recv_fds(connection, 65536, 8)
        descriptors += more
        data += part
        if not part:
            return data, descriptors


@functools.cache
def program(name: str, *flags: str) -> str:
    """A static program of ``SOURCES``, compiled."""
    place = tempfile.mkdtemp(prefix="hutch-sec-bin-", dir="/var/tmp")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    source = f"{place}/{name}.c"
    Path(source).write_text(HEAD + SOURCES[name])
    subprocess.run(["gcc", "-O1", "-w", "-static", "-o", f"{place}/{name}", source, *flags], check=True)
    os.chmod(f"{place}/{name}", 0o755)
    return f"{place}/{name}"


HEAD = "#define _GNU_SOURCE\n" + "".join(
    f"#include <{name}.h>\n" for name in "stdio stdlib string unistd fcntl errno dirent sched signal sys/ptrace sys/stat sys/wait sys/prctl sys/syscall".split()
)
SOURCES = {
    # swap A B: exchange two names for ever
    "swap": """int main(int c, char **v) { for (;;) syscall(SYS_renameat2, -100, v[1], -100, v[2], 2); }""",
    # peek HOSTFILE: look through whatever process comes into the pid namespace, and seize the first that shows the host
    "peek": """int main(int c, char **v) {
    char p[600], b[200]; int self = getpid(), seized = 0; FILE *o = fopen("/tmp/seen", "w"); setvbuf(o, 0, _IOLBF, 0);
    fclose(fopen("/tmp/ready", "w"));
    for (;;) {
        DIR *d = opendir("/proc"); struct dirent *e;
        while ((e = readdir(d))) {
            int pid = atoi(e->d_name), fd, n;
            if (pid <= self) continue;
            snprintf(p, 600, "/proc/%d/root%s", pid, v[1]);
            if ((fd = open(p, O_RDONLY)) >= 0) {
                n = read(fd, b, 99); b[n > 0 ? n : 0] = 0; close(fd); fprintf(o, "READ %s\\n", b);
                if (!seized && ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) seized = 1, fprintf(o, "SEIZED\\n"), ptrace(PTRACE_INTERRUPT, pid, 0, 0), waitpid(pid, 0, __WALL), ptrace(PTRACE_DETACH, pid, 0, 0);
            }
            snprintf(p, 600, "/proc/%d/mem", pid);
            if (c > 2 && (fd = open(p, O_RDWR)) >= 0) fprintf(o, "MEM\\n"), close(fd);
        }
        closedir(d);
    } }""",
    # hook respawn PID | forge LANE INDEX | hold | filter: what an image's own program does where a hook is looked for
    "hook": """int main(int c, char **v) {
    char p[300], l[400]; int parent = getppid(), i, n, fd; FILE *o = fopen("/tmp/hook", "w"), *f; setvbuf(o, 0, _IOLBF, 0);
    if (!strcmp(v[1], "respawn")) {
        unsigned long a, b; int value = atoi(v[2]);
        snprintf(p, 300, "/proc/%d/mem", parent); fd = open(p, O_RDWR);
        snprintf(p, 300, "/proc/%d/maps", parent); f = fopen(p, "r");
        while (f && fgets(l, 400, f)) if (strstr(l, "rw-s") && sscanf(l, "%lx-%lx", &a, &b) == 2 && b - a == 8192 && pwrite(fd, &value, 4, a + 20) == 4)
            fprintf(o, "WROTE\\n");
    } else if (!strcmp(v[1], "filter")) { if (mkdir("/tmp/made", 0755) == 0) fprintf(o, "MADE\\n"); }
    else for (i = 3; i < 64; i++) {
        snprintf(p, 300, "/proc/%d/fd/%d", parent, i);
        if ((n = readlink(p, l, 390)) <= 0) continue;
        l[n] = 0;
        if (!strstr(l, "/report") || (fd = open(p, O_RDWR)) < 0) continue;
        fprintf(o, "OPENED %s\\n", l);
        if (!strcmp(v[1], "hold")) { if (fork() == 0) setsid(), sleep(100), _exit(0); }
        else { int m[140]; memset(m, 0, sizeof m); m[0] = m[3] = 2, m[1] = atoi(v[2]), m[2] = atoi(v[3]); strcpy((char *)(m + 12), "forged"); write(fd, m, 560); }
    }
    return 0; }""",
    # report: every descriptor that it was started with, and its capabilities
    "report": """int main(int c, char **v) {
    char p[99], l[400]; int i, n; FILE *f;
    for (i = 0; i < 1024; i++) { snprintf(p, 99, "/proc/self/fd/%d", i); if ((n = readlink(p, l, 390)) > 0) l[n] = 0, printf("fd %d %s\\n", i, l); }
    f = fopen("/proc/self/status", "r");
    while (fgets(l, 400, f)) if (!strncmp(l, "Cap", 3)) fputs(l, stdout);
    return 0; }""",
    # grab: files on every number that could have been another's
    "grab": """int main(void) { while (open("/etc/passwd", O_RDONLY) < 60) {} usleep(300000); return 0; }""",
    "bomb": """int main(void) { for (;;) fork(), usleep(1000); }""",
    "true": "int main(void) { return 0; }",
}
