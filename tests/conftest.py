"""What every test shares: a state directory of its own, an ordinary user to be, and a check that nothing is left behind."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SRC = REPO / "src"
# tests of root and of an ordinary user share programs: the state must not be below a private directory
_SCRATCH = tempfile.mkdtemp(prefix="hutch-tests-", dir="/var/tmp")
os.chmod(_SCRATCH, 0o755)
os.environ["HUTCH_STATE"] = f"{_SCRATCH}/state"
os.environ["HUTCH_DATA"] = f"{_SCRATCH}/data"
os.mkdir(f"{_SCRATCH}/state", 0o711)

HUTCH = [sys.executable, "-m", "hutch.cli"]
USER = "hutch-test"


def pytest_sessionfinish(session: pytest.Session) -> None:
    shutil.rmtree(_SCRATCH, ignore_errors=True)


def is_root() -> bool:
    return os.geteuid() == 0


def v2_only() -> bool:
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "root" in item.keywords and not is_root():
            item.add_marker(pytest.mark.skip(reason="needs root"))
        if "v2" in item.keywords and not v2_only():
            item.add_marker(pytest.mark.skip(reason="needs cgroup v2 alone: make test-v2"))


def executors() -> set[int]:
    """The pids of every executor on the machine."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    text = file.read()
            except OSError:
                continue
            if text.rpartition(")")[2].split()[0] != "Z" and "(hutch-executor" in text:
                found.add(int(name))
    return found


def cgroups() -> set[str]:
    """Every cgroup of a container's, in every hierarchy."""
    found = set()
    for top in ("/sys/fs/cgroup/hutch-*", "/sys/fs/cgroup/*/hutch-*", "/sys/fs/cgroup/*/*/hutch-*"):
        found |= set(glob.glob(top))
    return found


def mounts() -> set[str]:
    """The mounts of the tests' own namespace."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return {line.split(" ", 2)[2] for line in file}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process is below another in the tree of processes."""
    while pid > 1 and pid != ancestor:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return pid == ancestor


def snapshot() -> tuple[set[int], set[str], set[str], set[str]]:
    records = {n for n in os.listdir(os.environ["HUTCH_STATE"]) if not n.startswith(".")}
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return executors(), cgroups(), mounts(), records
    # beside other workers: what is surely this one's
    own = os.getpid()
    return {pid for pid in executors() if descends(pid, own)}, {path for path in cgroups() if f"-{own}-" in path}, set(), records


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest):
    """Fail a test that leaves a process, a cgroup, a mount or a record behind."""
    if "unit" in str(request.path.parent):
        yield
        return
    before = snapshot()
    yield
    deadline = time.monotonic() + 3
    while True:
        after = snapshot()
        left = [sorted(map(str, now - then)) for then, now in zip(before, after, strict=True)]
        if not any(left) or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert not any(left), f"left behind: executors {left[0]}, cgroups {left[1]}, mounts {left[2]}, records {left[3]}"


@pytest.fixture
def hutch_cli():
    """Run the command line: ``hutch_cli("run", "host", "true")`` gives a CompletedProcess with text streams."""

    def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
        options.setdefault("timeout", 60)
        options.setdefault("stdin", subprocess.DEVNULL) if "input" not in options else None
        return subprocess.run([*HUTCH, *arguments], capture_output=True, text=True, check=False, **options)

    return run


@pytest.fixture(scope="session")
def ordinary_user():
    """An ordinary user with subordinate ids, made if it is missing."""
    if not is_root():
        pytest.skip("needs root to become somebody else")
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", USER], check=False)  # another worker may have been quicker
        entry = pwd.getpwnam(USER)
    return entry


def system_python() -> str:
    """An interpreter that every user may run: the tests' own can lie in somebody's home."""
    for path in (sys.executable, "/usr/bin/python3"):
        real = os.path.realpath(path)
        if all(os.stat(p).st_mode & 0o001 for p in [real, *map(str, Path(real).parents)]):
            return path
    pytest.skip("no interpreter that an ordinary user may run")


@pytest.fixture(scope="session")
def public_source() -> Iterator[Path]:
    """Hutch's modules where every user can read them (the checkout may lie where others cannot go), compiled."""
    place = Path(tempfile.mkdtemp(prefix="hutch-src-", dir="/var/tmp"))
    shutil.copytree(SRC, place / "src", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([system_python(), "-m", "compileall", "-q", str(place / "src")], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
    yield place / "src"
    shutil.rmtree(place)


@pytest.fixture
def as_user(ordinary_user, public_source):
    """Run Python as the ordinary user: ``as_user("-m", "hutch.cli", "run", …)``."""
    state = Path(tempfile.mkdtemp(prefix="hutch-user-", dir="/var/tmp"))
    os.chown(state, ordinary_user.pw_uid, ordinary_user.pw_gid)

    def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
        options.setdefault("timeout", 60)
        environment = {"HOME": ordinary_user.pw_dir, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(public_source),
                       "HUTCH_STATE": f"{state}/state", "HUTCH_DATA": f"{state}/data", **options.pop("env", {})}  # fmt: skip
        words = ["setpriv", f"--reuid={ordinary_user.pw_uid}", f"--regid={ordinary_user.pw_gid}", "--init-groups", system_python(), *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd="/", **options)

    yield run
    left = [n for n in os.listdir(f"{state}/state") if not n.startswith(".")] if (state / "state").exists() else []
    shutil.rmtree(state, ignore_errors=True)
    assert not left, f"records left behind: {left}"


@pytest.fixture
def busybox_root(tmp_path: Path):
    """A small root file system of a static busybox."""
    root = Path(tempfile.mkdtemp(prefix="hutch-root-", dir="/var/tmp"))
    root.chmod(0o755)
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "usr/share"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in (
        "sh",
        "cat",
        "ls",
        "true",
        "false",
        "id",
        "echo",
        "sleep",
        "touch",
        "rm",
        "mkdir",
        "ln",
        "mount",
        "ps",
        "env",
        "pwd",
        "stat",
        "mknod",
        "chmod",
        "head",
        "kill",
        "readlink",
        "wc",
    ):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nanna:x:1000:\naudio:x:29:anna\n")
    yield root
    shutil.rmtree(root, ignore_errors=True)
