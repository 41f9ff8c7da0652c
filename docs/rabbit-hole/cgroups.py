"""Chapter 4, to run: control groups made by hand, and each controller at work.

``python cgroups.py`` goes through all parts, ``python cgroups.py pids memory`` through some, ``--json`` prints data. It needs
root. Everything happens in cgroups of its own, named ``hutch-book-…`` and removed at the end, with processes of its own.

A cgroup is a directory, its knobs are files: nothing here but mkdir, read, write and rmdir. Each controller is used where this
host has it, in its own v1 hierarchy or in v2's one tree.

Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/*.rst in the kernel's tree.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hutch.kernel import cgroupfs, proc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
PAGE = mmap.PAGESIZE
# v2's names of controllers; v1's where they differ
V1_NAMES = {"io": "blkio"}

Account = dict[str, Any]


class Skipped(Exception):
    """This host lacks what a part needs."""


def write(path: str, text: str) -> None:
    """One write(2): a knob takes its whole value at once, and the errno is the answer."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def keyed(text: str) -> dict[str, int]:
    """``key value`` lines, as in cpu.stat."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


class Group:
    """A cgroup by its directory. `v2` says which of the two interfaces the files in it have."""

    def __init__(self, path: str, v2: bool) -> None:
        self.path = path
        self.v2 = v2

    def set(self, key: str, value: str) -> None:
        """Write a knob."""
        write(f"{self.path}/{key}", value)

    def get(self, key: str) -> str:
        """Read a file."""
        return proc.read_text(f"{self.path}/{key}").strip()

    def keyed(self, key: str) -> dict[str, int]:
        """Read a file of counters."""
        return keyed(self.get(key))

    def has(self, key: str) -> bool:
        """Whether the kernel offers a file here."""
        return os.path.exists(f"{self.path}/{key}")

    def join(self) -> None:
        """Move the calling process here; 0 stands for the writer. What it forks from now on is born here."""
        self.set("cgroup.procs", "0")


def hierarchy(controller: str) -> tuple[str, bool]:
    """The directory below which cgroups with this controller can be made, and whether it is v2's. Raises Skipped.

    A controller is in one hierarchy at a time: in v1's if that is mounted, otherwise in v2's (cgroups(7)).
    """
    layout = cgroupfs.detect(proc.mounts(), proc.read_text("/proc/self/cgroup"))
    if found := layout.controller(V1_NAMES.get(controller, controller)):
        return found.mount, False
    if not layout.v2_mount:
        raise Skipped(f"no hierarchy has the {controller} controller")
    if controller == "freezer":
        return layout.v2_mount, True  # in v2 not a controller: every cgroup but the root can be frozen
    if controller not in layout.v2_controllers:
        raise Skipped(f"no hierarchy has the {controller} controller")
    if controller not in layout.v2_root_subtree:
        # A parent says which controllers its children have. It stays on: somebody else may rely on it by the time we end.
        write(f"{layout.v2_mount}/cgroup.subtree_control", f"+{controller}")
    return layout.v2_mount, True


@contextmanager
def group(controller: str, suffix: str = "") -> Iterator[Group]:
    """A new cgroup with this controller. At the end whoever is still in it is killed, and it is removed."""
    top, v2 = hierarchy(controller)
    made = Group(f"{top}/hutch-book-{controller}{suffix}-{os.getpid()}", v2)
    try:
        os.mkdir(made.path)
    except PermissionError:
        raise Skipped("only root may make cgroups here") from None
    try:
        yield made
    finally:
        remove(made)


def remove(made: Group) -> None:
    """Kill what is in a cgroup and rmdir it. The kernel refuses (EBUSY) as long as a process is there."""
    deadline = time.monotonic() + 5
    while True:
        for pid in made.get("cgroup.procs").split():
            os.kill(int(pid), signal.SIGKILL)  # all of them are this program's descendants: nobody else joins
        try:
            os.rmdir(made.path)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def fork(work: Callable[[], None]) -> int:
    """A child that does `work` and ends: its pid. The child never comes back into the parent's code."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except OSError as error:
            os.write(2, f"in the child: {error}\n".encode())
        finally:
            os._exit(status)
    return pid


def finish(pid: int) -> tuple[int, float]:
    """Wait for a child: (status: its exit status, or minus the signal that killed it; seconds of CPU time that it used)."""
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def counter() -> mmap.mmap:
    """A page that parent and children share: a number by which one sees the other move."""
    return mmap.mmap(-1, PAGE)


def read_counter(page: mmap.mmap) -> int:
    """The number in the page."""
    return int.from_bytes(page[:8], "little")


def spin(until: float) -> None:
    """Use the CPU until the monotonic clock says `until`: a hog that ends by itself, whatever becomes of its parent."""
    while time.monotonic() < until:
        pass


def wait_for(pipe: int) -> None:
    """Wait until the other end of a pipe is closed: one close starts several children at once."""
    os.read(pipe, 1)


def pids() -> Account:
    """pids: a fork bomb, and the limit that stops it."""
    limit = 24
    with group("pids") as made:
        made.set("pids.max", str(limit))
        if made.get("pids.max") != str(limit):
            raise Skipped("pids.max did not take the limit")  # no bomb without a limit
        refused, refusal = os.pipe()
        gate, open_gate = os.pipe()
        # The fuse, should the limit fail: each fork takes a byte out of this pipe, and there is an end to them.
        fuse, fill = os.pipe()
        os.set_blocking(fuse, False)
        os.write(fill, b"x" * 8 * limit)

        def bomb() -> None:
            os.close(open_gate)
            made.join()
            try:
                while os.read(fuse, 1):
                    os.fork()  # both of the two go on with the loop: 1, 2, 4, 8, …
            except BlockingIOError:  # EAGAIN: from fork(2) at the limit, or from read(2) of an empty fuse
                pass
            os.write(refusal, b"x")
            os.close(refusal)
            wait_for(gate)

        first = fork(bomb)
        os.close(refusal)
        os.close(gate)
        said = b""
        # once the cgroup is full, every process in it is refused
        while len(said) < limit and (part := os.read(refused, limit)):
            said += part
        found = {
            "interface": "v2" if made.v2 else "v1",
            "pids.max": limit,
            "processes": int(made.get("pids.current")),
            "forks refused (EAGAIN)": len(said),
            "pids.events": made.keyed("pids.events"),
        }
        for fd in (open_gate, refused, fuse, fill):
            os.close(fd)
        finish(first)
    return found


def memory() -> Account:
    """memory: a program that wants more than there is."""
    limit, wanted = 32 * MIB, 128
    with group("memory") as made:
        # Swap would only make it slower. v1 counts memory and swap together, v2 apart.
        if made.v2:
            made.set("memory.max", str(limit))
            if made.has("memory.swap.max"):
                made.set("memory.swap.max", "0")
        else:
            made.set("memory.limit_in_bytes", str(limit))
            if made.has("memory.memsw.limit_in_bytes"):
                made.set("memory.memsw.limit_in_bytes", str(limit))
        page = counter()

        def eat() -> None:
            made.join()  # what it had before stays charged to where it was
            room = mmap.mmap(-1, wanted * MIB)  # no memory yet, only addresses: nothing is refused here
            for number in range(wanted):
                for at in range(number * MIB, (number + 1) * MIB, PAGE):
                    room[at] = 1  # the first touch of a page makes it, and charges it
                page[:8] = (number + 1).to_bytes(8, "little")

        status, _ = finish(fork(eat))
        events = made.keyed("memory.events" if made.v2 else "memory.oom_control")
        peak = "memory.peak" if made.v2 else "memory.max_usage_in_bytes"
        return {
            "interface": "v2" if made.v2 else "v1",
            "limit (MiB)": limit // MIB,
            "wanted (MiB)": wanted,
            "had when it died (MiB)": read_counter(page),
            "peak (MiB)": int(made.get(peak)) // MIB if made.has(peak) else None,
            "ended by": signal.Signals(-status).name if status < 0 else f"exit {status}",
            "oom_kill": events.get("oom_kill"),
        }


def quota() -> Account:
    """cpu: a quota, and how often it was felt."""
    quota_us, period_us, seconds = 20_000, 100_000, 0.7
    with group("cpu", "-quota") as made:
        if made.v2:
            made.set("cpu.max", f"{quota_us} {period_us}")
        elif made.has("cpu.cfs_quota_us"):
            made.set("cpu.cfs_period_us", str(period_us))
            made.set("cpu.cfs_quota_us", str(quota_us))
        else:
            raise Skipped("this kernel has no CPU quotas (CONFIG_CFS_BANDWIDTH)")

        def hog() -> None:
            made.join()
            spin(time.monotonic() + seconds)

        begin = time.monotonic()
        _, used = finish(fork(hog))
        wall = time.monotonic() - begin
        stat = made.keyed("cpu.stat")
    throttled = stat["throttled_usec"] * 1000 if "throttled_usec" in stat else stat["throttled_time"]
    return {
        "interface": "v2" if made.v2 else "v1",
        "quota": f"{quota_us} µs of every {period_us} µs",
        "share allowed": quota_us / period_us,
        "share obtained": round(used / wall, 3),
        "periods": stat["nr_periods"],
        "periods throttled": stat["nr_throttled"],
        "time throttled (ms)": throttled // 1_000_000,
    }


def weight() -> Account:
    """cpu: weights, when two want one CPU."""
    seconds = 1.0
    cpu = max(os.sched_getaffinity(0))
    with group("cpu", "-heavy") as heavy, group("cpu", "-light") as light:
        # v1's shares have 1024 as their middle, v2's weights 100; only the ratio counts
        key, values = ("cpu.weight", (100, 25)) if heavy.v2 else ("cpu.shares", (1024, 256))
        gate, open_gate = os.pipe()
        children = []
        for made, value in zip((heavy, light), values, strict=True):
            made.set(key, str(value))

            def hog(made: Group = made) -> None:
                os.close(open_gate)
                made.join()
                # Weights are shares of one run queue. On two CPUs each hog would have one to itself, and all its time.
                os.sched_setaffinity(0, {cpu})
                wait_for(gate)
                spin(time.monotonic() + seconds)

            children.append(fork(hog))
        time.sleep(0.05)  # let both come to the gate
        os.close(gate)
        os.close(open_gate)
        used = [finish(child)[1] for child in children]
    return {
        "interface": "v2" if heavy.v2 else "v1",
        key: list(values),
        "CPU": cpu,
        "seconds of CPU time": [round(value, 3) for value in used],
        "ratio asked": values[0] / values[1],
        "ratio obtained": round(used[0] / used[1], 2),
    }


def whole_disk(path: str) -> str:
    """``major:minor`` of the disk below a file: limits are set on disks, a partition gets ENODEV. Raises Skipped."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    entry = os.path.realpath(f"/sys/dev/block/{number}")
    if not os.path.isdir(entry):
        raise Skipped(f"{path} lies on no block device ({number})")  # tmpfs, overlay, btrfs, a network's file system
    if os.path.exists(f"{entry}/partition"):
        number = proc.read_text(f"{os.path.dirname(entry)}/dev").strip()
    return number


def disk() -> Account:
    """io: a disk made slow."""
    rate, size = 8 * MIB, 6 * MIB
    number = whole_disk("/var/tmp")
    with group("io") as made, tempfile.TemporaryDirectory(prefix="hutch-book-", dir="/var/tmp") as place:
        block = mmap.mmap(-1, MIB)  # O_DIRECT wants aligned memory, and a mapping begins on a page

        def write_out(join: bool) -> float:
            reading, writing = os.pipe()

            def work() -> None:
                if join:
                    made.join()
                # Past the page cache: a buffered write returns at once, and in v1 the disk's work is then charged to the
                # kernel's writeback thread. v2 charges it rightly, but late.
                fd = os.open(f"{place}/{int(join)}", os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
                begin = time.monotonic()
                for _ in range(size // MIB):
                    os.writev(fd, [block])
                os.write(writing, repr(time.monotonic() - begin).encode())

            child = fork(work)
            os.close(writing)
            with open(reading, "rb") as file:
                text = file.read()
            finish(child)
            if not text:
                raise Skipped("the file system of /var/tmp does not take O_DIRECT")
            return float(text)

        free = write_out(join=False)
        try:
            if made.v2:
                made.set("io.max", f"{number} wbps={rate}")
            else:
                made.set("blkio.throttle.write_bps_device", f"{number} {rate}")
        except OSError as error:
            raise Skipped(f"no limit on {number}: {error.strerror}") from None
        slow = write_out(join=True)
        return {
            "interface": "v2" if made.v2 else "v1",
            "device": number,
            "written (MiB)": size // MIB,
            "limit (MiB/s)": rate // MIB,
            "seconds without": round(free, 3),
            "seconds demanded": size / rate,
            "seconds with": round(slow, 3),
        }


def freezer() -> Account:
    """freezer: a program that stops without knowing it."""
    with group("freezer") as made:
        page = counter()
        end = time.monotonic() + 10

        def count() -> None:
            made.join()
            number = 0
            while time.monotonic() < end:
                number += 1
                page[:8] = number.to_bytes(8, "little")

        def freeze(frozen: bool) -> None:
            """Freezing takes a moment: a process in the kernel stops when it is about to leave it."""
            if made.v2:
                made.set("cgroup.freeze", str(int(frozen)))
            else:
                made.set("freezer.state", "FROZEN" if frozen else "THAWED")
            while time.monotonic() < end:
                if made.v2 and made.keyed("cgroup.events")["frozen"] == int(frozen):
                    return
                if not made.v2 and made.get("freezer.state") == ("FROZEN" if frozen else "THAWED"):
                    return
                time.sleep(0.002)
            raise Skipped("the cgroup did not freeze in 10 s")

        def moved() -> int:
            """How far the counter goes in a tenth of a second."""
            before = read_counter(page)
            time.sleep(0.1)
            return read_counter(page) - before

        child = fork(count)
        try:
            while read_counter(page) == 0 and time.monotonic() < end:
                time.sleep(0.002)
            running = moved()
            freeze(True)
            frozen = moved()
            freeze(False)
            deadline = time.monotonic() + 5
            while (thawed := moved()) == 0 and time.monotonic() < deadline:
                pass
        finally:
            # A frozen process dies of SIGKILL at once in v2; in v1 only when it thaws, so that comes first.
            freeze(False)
            os.kill(child, signal.SIGKILL)
            finish(child)
        return {"interface": "v2" if made.v2 else "v1", "steps running": running, "steps frozen": frozen, "steps thawed": thawed}


def cpuset() -> Account:
    """cpuset: which CPUs there are."""
    top, _ = hierarchy("cpuset")
    with group("cpuset") as made:
        cpu = max(os.sched_getaffinity(0))
        if not made.v2:
            # v1's children begin with no memory node and no CPU, and take no process like that (ENOSPC)
            made.set("cpuset.mems", proc.read_text(f"{top}/cpuset.mems").strip())
        made.set("cpuset.cpus", str(cpu))
        page = counter()

        def look() -> None:
            made.join()
            try:
                os.sched_setaffinity(0, range(os.cpu_count() or 1))  # a process may only choose among what its cpuset has
            except OSError:
                pass
            page[:8] = sum(1 << number for number in os.sched_getaffinity(0) if number < 64).to_bytes(8, "little")

        finish(fork(look))
        seen = read_counter(page)
    return {
        "interface": "v2" if made.v2 else "v1",
        "cpuset.cpus": [cpu],
        "CPUs outside": sorted(os.sched_getaffinity(0)),
        "CPUs inside": [number for number in range(64) if seen >> number & 1],
    }


PARTS: dict[str, Callable[[], Account]] = {
    "pids": pids, "memory": memory, "quota": quota, "weight": weight, "io": disk, "freezer": freezer, "cpuset": cpuset,
}  # fmt: skip


def text_of(value: object) -> str:
    """A value for people."""
    if isinstance(value, dict):
        return " ".join(f"{key} {number}" for key, number in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def main(words: list[str]) -> int:
    """The command line: names of parts, all when there are none."""
    as_json = "--json" in words
    names = [word for word in words if word != "--json"] or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        print(f"{unknown[0]}: not one of {' '.join(PARTS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ended from outside: the cgroups go all the same
    found: dict[str, Account] = {}
    for name in names:
        try:
            found[name] = PARTS[name]()
        except Skipped as error:
            found[name] = {"skipped": str(error)}
        if not as_json:
            print((PARTS[name].__doc__ or name).splitlines()[0])
            for key, value in found[name].items():
                print(f"  {key + ':':<26} {text_of(value)}")
            print()
    if as_json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
