"""What the attacks share: programs for the victim to run, plans that stop where one wants, and a count of what is left."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hutch
from hutch.engine.containers import create
from hutch.engine.launch import enter, prepare
from hutch.engine.spec import options as api_options
from hutch.executor.launcher import Execution
from hutch.plan import ops
from hutch.plan.plan import Plan

SHELL = ("sh", "-c")
NS_GET_ID = 0x8008B70D  # _IOR(0xb7, 13, __u64)


def compiled(image: str, command: tuple[str, ...], **wanted: object) -> Plan:
    """The plan of a container, with an id of its own."""
    return prepare.plan_of(create.create(api_options.settings(image, command, wanted)))  # type: ignore[arg-type]


def entering(box: hutch.Container, command: tuple[str, ...]) -> Plan:
    """The plan of a command in a running container."""
    return enter.template(box.live, env={}, workdir=None, who=enter.user_of(box.live, None)).command(command).whole


def inserted(plan: Plan, lane: str, index: int, operation: ops.Operation) -> Plan:
    """The plan with one more operation."""
    operations = list(getattr(plan, lane))
    operations.insert(index, operation)
    return plan.replace(**{lane: tuple(operations)})


def blocked(plan: Plan, lane: str, index: int, fifo: str) -> Plan:
    """The plan with an operation that does not return until somebody writes to the fifo."""
    return inserted(plan, lane, index, ops.Open(path=fifo, flags=0, into=ops.slot("blocker"), origin="attack"))


def launch(plan: Plan) -> Execution:
    """An executor for the plan, without streams."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        return Execution(plan, stdin=null, stdout=null, stderr=null)
    finally:
        os.close(null)


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def state_of(pid: int) -> str:
    """The letter that ps(1) shows; "" when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether it is there and no zombie."""
    return state_of(pid) not in ("", "Z", "X")


def until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    """Whether the condition came to hold. The time is a bound for hopeless cases, not an expectation."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def blocks_in(pid: int, fifo: str) -> bool:
    """Whether a process sleeps in open(2) of a fifo: the kernel's own word for it."""
    try:
        with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
            words = file.read().split()
        with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
            place = file.read()
    except OSError:
        return False
    # openat(2) is 257 on x86_64 and 56 on aarch64
    return words[0] in ("257", "56") and ("fifo" in place or "wait_for_partner" in place or state_of(pid) == "S")


def ended(execution: Execution, seconds: float = 5.0) -> bool:
    """Wait until the executor's socket tells of an end; False when something holds it open for ever."""
    poll = select.poll()
    poll.register(execution.fileno(), select.POLLIN)
    deadline = time.monotonic() + seconds
    while execution.exited is None:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return False
        try:
            if execution.receive() is None:
                execution.lost()
        except Exception:
            break
    return True


def kill(*pids: int) -> None:
    """SIGKILL to processes that this test started."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def identity(plan: Plan) -> str:
    """The id of the container that a plan makes."""
    return next(op.path.rpartition("/")[2] for op in plan.host if isinstance(op, ops.HostDirectory))


def namespace(path: str) -> str:
    """A namespace by name. Its inode number is free for the next one when it is gone, and other tests make many at the same
    time: since Linux 6.18 each has a number of its own beside (NS_GET_ID, linux/nsfs.h)."""
    name, number = os.readlink(path), bytearray(8)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, NS_GET_ID, number)
    except OSError:
        return name
    finally:
        os.close(fd)
    return f"{name} {int.from_bytes(number, sys.byteorder)}"


def namespaces_of(pid: int) -> set[str]:
    """The namespaces of a process that are not the tests' own."""
    found = set()
    for kind in ("mnt", "pid", "ipc", "uts", "net", "cgroup", "user", "pid_for_children"):
        with contextlib.suppress(OSError):
            found.add(namespace(f"/proc/{pid}/ns/{kind}"))
            found.discard(namespace(f"/proc/self/ns/{kind}"))
    return found


def data_entries() -> set[str]:
    """What lies in HUTCH_DATA but for the store of layers."""
    data, found = os.environ["HUTCH_DATA"], set()
    for place in (data, f"{data}/containers"):
        try:
            found |= set(os.listdir(place))
        except FileNotFoundError:
            continue
    return found - {"layers", "containers"}


def position(plan: Plan, lane: str, place: str) -> int:
    """Where in a lane: before an operation, after a barrier, at the ends."""
    sequence: tuple[ops.Operation, ...] = getattr(plan, lane)

    def at(kind: type[ops.Operation], barrier: int | None = None) -> int:
        return next(i for i, op in enumerate(sequence) if isinstance(op, kind) and (barrier is None or op.barrier == barrier))  # type: ignore[attr-defined]

    barrier = int(place.split()[-1]) if place[-1].isdigit() else None
    if place == "first":
        return 0
    if place == "last":
        return len(sequence) - (lane == "container")
    if place in ("pivot", "after pivot"):
        return at(ops.Pivot) + (place != "pivot")
    if place == "record":
        return at(ops.HostRecord) + 1
    if place == "clone":
        return at(ops.Clone) + 1
    if place == "ids":
        return at(ops.SetIds) + 1
    if place == "close":
        return at(ops.CloseDescriptors)
    if place.startswith("after"):
        kind = ops.Wait if lane == "container" and barrier != 9 else ops.Signal
        return at(kind, barrier) + 1
    return at(ops.Wait if place.startswith("wait") else ops.Signal, barrier)


def options(image: Path, fifo: str, **more: object) -> dict[str, object]:
    """A container with as much to leave behind as there is: limits, an upper directory on disk, a mount."""
    return {
        "image": str(image),
        "command": ("sleep", "1000"),
        "upper": "disk",
        "memory": "64m",
        "pids": 16,
        "mounts": [f"{os.path.dirname(fifo)}:{os.path.dirname(fifo)}"],
        **more,
    }


def stopped(wanted: dict[str, object], lane: str, place: str, fifo: str) -> Plan:
    plan = compiled(**wanted)  # type: ignore[arg-type]
    return blocked(plan, lane, position(plan, lane, place), fifo)


def holds(executor: int, lane: str, fifo: str) -> bool:
    """Whether the lane has arrived at the fifo."""
    pids = [executor] if lane == "host" else children(executor)
    return any(blocks_in(pid, fifo) for pid in pids)


def release(fifo: str) -> None:
    """Let whoever waits at the fifo go on."""
    fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    until(lambda: False, 0.05)
    os.close(fd)


def cgroups() -> set[str]:
    """Every cgroup of a container's, in every hierarchy. (tests/conftest.py makes a state directory where it is imported.)"""
    return {path for top in ("/sys/fs/cgroup/hutch-*", "/sys/fs/cgroup/*/hutch-*", "/sys/fs/cgroup/*/*/hutch-*") for path in glob.glob(top)}


def mounts() -> set[str]:
    """The mounts of the tests' own namespace."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return set(file)


class Victim:
    """One container, and everything by which it could be found after its end. Others run on this machine too: what is
    counted is this container's own."""

    def __init__(self, identity: str, executor: int) -> None:
        self.id = identity
        self.pids = {executor, *children(executor)}
        for child in children(executor):
            self.pids.update(children(child))
        self.namespaces = set().union(*(namespaces_of(pid) for pid in self.pids))

    def traces(self) -> dict[str, object]:
        """What is still there, by kind; {} is what every test wants."""
        namespaces = set()
        if self.namespaces:
            for process in Path("/proc").glob("[0-9]*"):
                if alive(int(process.name)):  # a zombie that init has not buried yet keeps nothing but its number
                    namespaces |= namespaces_of(int(process.name))
        found = {
            "processes": [pid for pid in self.pids if alive(pid)],
            "namespaces": sorted(self.namespaces & namespaces),
            "cgroups": sorted(path for path in cgroups() if self.id in path),
            "mounts": sorted(line for line in mounts() if self.id in line),
            "record": [self.id] if os.path.exists(f"{os.environ['HUTCH_STATE']}/{self.id}") else [],
            "upper": [name for name in data_entries() if self.id in name],
        }
        return {kind: value for kind, value in found.items() if value}

    def left(self, seconds: float = 3.0) -> dict[str, object]:
        """The traces once things have settled."""
        until(lambda: not self.traces(), seconds)
        return self.traces()

    def clean(self) -> None:
        """Remove what a bug has left, so that the next test starts well."""
        kill(*(pid for pid in self.pids if alive(pid)))
        until(lambda: not any(alive(pid) for pid in self.pids), 2)
        for path in cgroups():
            if self.id in path:
                with contextlib.suppress(OSError):
                    os.rmdir(path)
        for place in (os.environ["HUTCH_STATE"], os.environ["HUTCH_DATA"]):
            shutil.rmtree(f"{place}/{self.id}", ignore_errors=True)


@contextlib.contextmanager
def untouched(*paths: str | Path) -> Iterator[None]:
    """The files keep their content, mode, owner and number of links."""

    def look(path: str | Path) -> tuple[object, ...]:
        info = os.lstat(path)
        content = Path(path).read_bytes() if os.path.isfile(path) else sorted(os.listdir(path)) if os.path.isdir(path) else b""
        return info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_rdev, content

    before = [look(path) for path in paths]
    yield
    assert [look(path) for path in paths] == before, f"a file of the host's was changed: {paths}"
