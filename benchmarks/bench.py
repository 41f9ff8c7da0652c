"""Hutch beside the kernel's floor and beside its peers, measured in one run: ``make bench``.

What takes a container is asked of everything found on PATH, in turns. Nothing here is asserted: it prints tables, and the
goals that were reached or missed, and writes results.json. It needs root and no network, and removes what it made.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import machines
import peers
from contest import Contestant, Missing, Shop, spawn, take_turns
from peers import LIMITED, TRUE
from runtimes import STEPS, measure_lives, runtimes
from worker import LIMITS

import hutch
from hutch.engine.records import state
from images import cold_runs, fork_times, index_time

HERE = Path(__file__).resolve().parent
HUTCH = str(Path(sys.executable).parent / "hutch")
HUTCH_OCI = f"{HUTCH}-oci"
SECTIONS = ("start", "exec", "oci", "throughput", "kill", "memory", "images", "networks", "machines")
FLOOR, ENTER_FLOOR = "C floor", "C floor of exec"


class Report:
    """What was found: tables, figures, goals, remarks."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Contestant]] = {}
        self.figures: dict[str, object] = {}
        self.goals: list[dict[str, object]] = []
        self.notes: list[str] = []

    def of(self, name: str) -> Contestant | None:
        """A contestant; None if it did not take part."""
        return next((c for table in self.tables.values() for c in table if c.name == name), None)

    def goal(self, text: str, value: float | None, bound: float, *, at_least: bool = False, unit: str = "", minima: float | None = None) -> None:
        """Compare with a goal. None: not measured in this run. `minima`: the value by the fastest run of each."""
        reached = None if value is None else value >= bound if at_least else value <= bound
        rounded = [number if number is None else round(number, 3) for number in (value, minima)]
        self.goals.append({"goal": text, "value": rounded[0], "by_minima": rounded[1], "unit": unit, "reached": reached})

    def ratio(self, text: str, above: str, below: str, bound: float, *, at_least: bool = False) -> None:
        """Compare the ratio of two medians with a goal."""
        a, b = self.of(above), self.of(below)
        value, minima = (a.median / b.median, a.minimum / b.minimum) if a and b else (None, None)
        self.goal(text, value, bound, at_least=at_least, unit=" x", minima=minima)


def build(name: str, report: Report) -> str:
    """Compile one of the C programs here, when it is older than its source."""
    source, binary = HERE / f"{name}.c", HERE / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        common = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(binary), str(source)]
        if subprocess.run([*common, "-static"], capture_output=True, check=False).returncode:
            report.notes.append(f"{name}: linked dynamically, for want of a static libc")
            subprocess.run(common, check=True)
    return str(binary)


def good(run: Callable[[], hutch.Result]) -> Callable[[], None]:
    """A contestant's function of a call of Hutch's."""

    def once() -> None:
        result = run()
        if result.exit_code != 0:
            raise RuntimeError(str(result))

    return once


# --- contestants of our own ---


def heap_worker(shop: Shop) -> Callable[[], float]:
    """`hutch.run` in a process of 1 GiB: a function that returns its seconds."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, str(HERE / "worker.py"), "heap"], stdin=pipe, stdout=pipe, text=True)

    def stop() -> None:
        assert process.stdin
        process.stdin.close()
        process.wait(30)

    def once() -> float:
        assert process.stdin and process.stdout
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
        try:
            return float(line)
        except ValueError:
            raise RuntimeError(line.strip() or "the worker ended") from None

    shop.stack.callback(stop)
    return once


def our_starts(shop: Shop) -> list[Contestant]:
    """Hutch's ways to start a container."""
    what = "host view by overlay; user namespace, seccomp, capabilities"
    return [
        Contestant("hutch.run, limits", f"{what}; {LIMITED}", once=good(lambda: hutch.run("host", ["true"], **LIMITS))),
        Contestant("hutch.run", f"{what}; no limits", once=good(lambda: hutch.run("host", ["true"]))),
        Contestant("hutch.run, 1 GiB", f"with the limits, from a Python process with a heap of 1 GiB; {LIMITED}", once=heap_worker(shop)),
        Contestant(
            "hutch run", f"the same from the shell; {LIMITED}", [HUTCH, "run", "-m", "512m", "--pids-limit", "64", "--cpus", "1", "host", "true"], every=4
        ),
    ]


def our_commands(shop: Shop, floor: str, ours: bool) -> list[Contestant]:
    """Hutch's ways to run a command in a running container, and the floor, which enters the same one."""
    box = shop.stack.enter_context(hutch.Container("host"))
    contestants = [Contestant(ENTER_FLOOR, "posix_spawn, setns, exec; no cgroup, no seccomp", [floor, str(box.pid), TRUE])]
    if ours:
        limited = shop.stack.enter_context(hutch.Container("host", **LIMITS))
        contestants += [
            Contestant("Container.run", "from Python; cgroups, seccomp, capabilities, streams", once=good(lambda: box.run(["true"]))),
            Contestant("Container.run, limits", f"the same in a container of {LIMITED}", once=good(lambda: limited.run(["true"]))),
        ]
        try:
            identity = detached(1)[0]
        except Missing as error:
            shop.notes.append(f"hutch exec: left out: {error}")
        else:
            shop.stack.callback(subprocess.run, [HUTCH, "rm", "-f", identity], capture_output=True, check=False)
            contestants.append(Contestant("hutch exec", "the same from the shell", [HUTCH, "exec", identity, "true"], every=4))
    return contestants


def detached(count: int) -> list[str]:
    """Start idle containers from the shell; their ids."""
    return [peers.ask(HUTCH, "run", "--detach", "host", "sleep", "600") for _ in range(count)]


# --- leftovers ---


def executors() -> dict[int, int]:
    """Every process that runs Hutch's executor, and its parent."""
    found = {}
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and "memfd:hutch-executor" in os.readlink(f"/proc/{name}/exe"):
                found[int(name)] = peers.parent(int(name))
        except OSError:
            continue
    return found


def leftovers() -> dict[str, set[str]]:
    """What a container can leave behind, on the whole machine."""
    cgroups = {f"{directory}/{name}" for directory, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith("hutch-")}
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = {line.split(" ", 2)[2] for line in file}
    records = {name for name in os.listdir(state.root()) if not name.startswith(".")}
    return {"processes": {str(pid) for pid in executors()}, "mounts": mounts, "cgroups": cgroups, "records": records}


def new_since(before: dict[str, set[str]], patience: float = 5) -> dict[str, int]:
    """How many things are left that were not there before: such as stay, since others may use Hutch on this machine too."""
    deadline = time.monotonic() + patience
    left = {kind: things - before[kind] for kind, things in leftovers().items()}
    while any(left.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
        now = leftovers()
        left = {kind: things & now[kind] for kind, things in left.items()}
    return {kind: len(things) for kind, things in left.items()}


def total(counts: dict[str, int]) -> str:
    """``nothing``, or what."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing"


# --- sections ---


def measure_turns(shop: Shop, report: Report, sections: list[str], chosen: list[str], rounds: int, seconds: float) -> None:
    """Starts, and commands in running containers: each in turns."""
    starts = [Contestant(FLOOR, "host's /usr, /etc by overlay; namespaces and mounts alone", [build("floor", report), TRUE])]
    commands = []
    if "hutch" in chosen:
        starts += our_starts(shop) if "start" in sections else []
    if "exec" in sections:
        commands += our_commands(shop, build("enter_floor", report), "hutch" in chosen)
    for name in chosen:
        if name in peers.PEERS:
            try:
                more_starts, more_commands = peers.PEERS[name](shop)
                starts += more_starts
                commands += more_commands
            except (Missing, OSError, subprocess.SubprocessError) as error:
                report.notes.append(f"{name}: left out: {error}")
    if "start" in sections:
        report.tables["start"] = take_turns(starts, rounds, seconds, report.notes)
        show("a container that runs `true`", report.tables["start"], FLOOR)
    if "exec" in sections:
        report.tables["exec"] = take_turns(commands, rounds, seconds / 2, report.notes)
        show("`true` in a running container", report.tables["exec"], ENTER_FLOOR)


def measure_runtimes(shop: Shop, report: Report, rounds: int, seconds: float) -> None:
    """OCI runtimes with one bundle: `run`, then a life in steps."""
    found = runtimes(shop, HUTCH_OCI)
    report.tables["oci"] = take_turns([runtime.contestant() for runtime in found], rounds, seconds, report.notes)
    show("an OCI runtime's `run`", report.tables["oci"], "runc run")
    lives = measure_lives(found, rounds // 4, seconds / 2, report.notes)
    for step in STEPS:
        report.tables[f"oci {step}"] = [runtime.steps[step] for runtime in lives]
        show(f"an OCI runtime's `{step}`", report.tables[f"oci {step}"], f"runc {step}")


def measure_images(shop: Shop, report: Report, rounds: int) -> None:
    """From nothing to the first command, from one registry on this machine; and branches of a container."""
    report.tables["pull"] = cold_runs(shop, HUTCH, rounds, report.notes)
    show("pull to first command, from nothing", report.tables["pull"], "hutch run (cold)")
    sizes = fork_times()
    for size, each in sizes.items():
        report.figures[f"fork_ms_each_{size >> 20}_mib"] = round(each * 1e3, 2)
        print(f"fork(20) of a container with {size >> 20} MiB of changes: {each * 1e3:.2f} ms each")
    layer = index_time(shop)
    report.figures["index"] = layer
    print(f"the index of a layer of {layer['mib']} MiB and {layer['files']} files: {layer['seconds']:.3f} s")


def measure_machines(shop: Shop, report: Report, rounds: int) -> None:
    """Boots and copies, beside plain QEMU."""
    try:
        taking_part = machines.contestants(shop, build("init", report))
    except Missing as error:
        shop.notes.append(f"machines: left out: {error}")
        return
    report.tables["machines"] = take_turns(taking_part, rounds, 240, report.notes)
    show("virtual machines", report.tables["machines"], machines.PLAIN)


def measure_networks(shop: Shop, report: Report, rounds: int) -> None:
    """A container with a network, names and a port, and bytes per second, in a network namespace of its own."""
    place = shop.directory / "networks"
    place.mkdir()
    words = ["unshare", "--net", "--", sys.executable, str(HERE / "networks.py"), str(place), shop.cgroup, str(rounds)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise Missing((done.stderr.strip() or "no word").splitlines()[-1])
    answer = json.loads(done.stdout.splitlines()[-1])
    report.notes += answer["notes"]
    report.figures["networks"] = answer["found"]
    rows = [("with a network and a port", "first on it", "beside another", "between two", "by a port")]
    for name, item in answer["found"].items():
        rows.append((name, f"{item['alone'] * 1e3:.1f} ms", f"{item['beside'] * 1e3:.1f} ms", f"{item['between']:.2f} GB/s", f"{item['port']:.2f} GB/s"))
    print()
    columns(rows, range(1, 5))


def rates(calls: Sequence[Callable[[], object]], count: int, width: int, blocks: int) -> list[list[float]]:
    """How often a second each function ends when `width` threads call it `count` times, in blocks that take turns; sorted."""
    found: list[list[float]] = [[] for _ in calls]
    with ThreadPoolExecutor(width) as pool:
        barrier = threading.Barrier(width)
        list(pool.map(lambda _: barrier.wait(), range(width)))  # the threads exist before the clock runs
        for _ in range(blocks):
            for call, numbers in zip(calls, found, strict=True):
                start = time.perf_counter()
                for future in [pool.submit(call) for _ in range(count)]:
                    future.result()
                numbers.append(count / (time.perf_counter() - start))
    return [sorted(numbers) for numbers in found]


def measure_throughput(report: Report, blocks: int) -> None:
    """Many containers from one Python process: one after the other, 16 at a time, 200 at once; the floor likewise."""

    def ours() -> None:
        result = hutch.run("host", ["true"], **LIMITS)
        if result.exit_code:
            failures.append(str(result))

    argv = [build("floor", report), TRUE]
    failures: list[str] = []
    before = leftovers()
    for count, width in ((40, 1), (200, 16), (200, 200)):
        below, own = rates((lambda: spawn(argv), ours), count, width, blocks)
        middle, floor = own[len(own) // 2], below[len(below) // 2]
        report.figures |= {f"{width}_at_a_time_per_second": round(middle, 1), f"floor_{width}_at_a_time_per_second": round(floor, 1)}
        report.figures[f"{width}_at_a_time_blocks"] = [round(number, 1) for number in own]
        spread = f", {own[0]:.0f} to {own[-1]:.0f}" if blocks > 1 else ""
        print(f"{count * blocks:5} containers, {width:3} at a time: {middle:4.0f} a second from start to end{spread}; the C floor {floor:.0f}")
    start = time.perf_counter()
    held = [hutch.start("host", ["sleep", "300"], **LIMITS) for _ in range(200)]
    alive = sum(process.pid > 0 for process in held)
    up = time.perf_counter() - start
    for process in held:
        process.kill()
    for process in held:
        process.wait()
    down = time.perf_counter() - start - up
    report.figures |= {"200_alive_up_seconds": round(up, 3), "200_alive_down_seconds": round(down, 3)}
    print(f"{alive:5} containers alive at once, started by one thread: {alive / up:.0f} a second to start, {alive / down:.0f} a second to kill")
    left = new_since(before)
    report.figures |= {"left_after_throughput": left, "failures": len(failures)}
    print(f"  failed: {len(failures)}{f' ({failures[0]})' if failures else ''}; left behind: {total(left)}")


def measure_kill(report: Report, count: int) -> None:
    """SIGKILL for the Python process, and for it together with every executor."""
    for everything in (False, True):
        before = leftovers()
        argv = [sys.executable, str(HERE / "worker.py"), "crowd", str(count)]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            started = process.stdout.readline().strip()
            ours = {str(pid) for pid, parent in executors().items() if parent == process.pid}
            names = {f"hutch-{name}" for name in leftovers()["records"] - before["records"]}
            if everything:
                for pid in ours:
                    os.kill(int(pid), signal.SIGKILL)
        finally:
            process.kill()
            process.communicate()
        start = time.monotonic()
        if everything:
            time.sleep(2.5)  # a record younger than two seconds may be one that is being made
            peers.ask(HUTCH, "ps", "--all")  # the next command clears up
        left = {"processes": len(ours)}
        while any(left.values()) and time.monotonic() - start < 10:
            now = leftovers()
            cgroups = {path for path in now["cgroups"] if os.path.basename(path) in names}
            records = {name for name in now["records"] if f"hutch-{name}" in names}
            left = {"processes": len(now["processes"] & ours), "cgroups": len(cgroups), "records": len(records)}
            time.sleep(0.02)
        seconds = time.monotonic() - start
        left["mounts"] = new_since(before, 1)["mounts"]
        what = "Python and every executor, then `hutch ps`" if everything else "Python"
        report.figures["left_after_kill_of_everything" if everything else "left_after_kill_of_python"] = left
        print(f"{started:>5} containers, SIGKILL for {what}: left behind: {total(left)} (after {seconds:.2f} s)")


def pss(pid: int) -> int:
    """A process's proportional share of memory in KiB."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def measure_memory(shop: Shop, report: Report, count: int) -> None:
    """What stays beside an idle detached container's own process."""
    identities: list[str] = []
    try:
        identities = detached(count)
        listed = [json.loads(line) for line in peers.ask(HUTCH, "ps", "--json").splitlines()]
        shop.monitors = {"hutch": [row["executor"] for row in listed if row["id"] in identities], **shop.monitors}
    except Missing as error:
        shop.notes.append(f"memory of hutch: left out: {error}")
    for name, pids in shop.monitors.items():
        mean = sum(map(pss, pids)) / len(pids)
        report.figures[f"idle_kib_{name.split()[-1].strip('()')}"] = round(mean)
        print(f"{mean:7.0f} KiB beside an idle container: {name}{f' (mean of {len(pids)})' if len(pids) > 1 else ''}")
    if identities:
        subprocess.run([HUTCH, "rm", "-f", *identities], stdout=subprocess.DEVNULL, check=False)


# --- printing ---


def columns(rows: Iterable[tuple[str, ...]], right: Iterable[int]) -> None:
    """Print rows, some columns to the right."""
    table = list(rows)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        cells = (cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        print("  ".join(cells).rstrip())


def show(title: str, contestants: list[Contestant], floor: str) -> None:
    """One table: milliseconds and multiples of the floor, the fastest first."""
    base = next((c for c in contestants if c.name == floor), None)
    rows: list[tuple[str, ...]] = [(title, "median ms", "x floor", "min ms", "x floor", "runs", "what it does")]
    for c in sorted(contestants, key=lambda c: c.median):
        pairs = ((c.median, base and base.median), (c.minimum, base and base.minimum))
        cells = [cell for value, unit in pairs for cell in (f"{value * 1e3:.2f}", f"{value / unit:.2f}" if unit else "-")]
        rows.append((c.name, *cells, str(len(c.seconds)), c.what))
    print()
    columns(rows, range(1, 6))
    print(flush=True)


def judge(report: Report, everything: bool) -> None:
    """The design's goals; those that were not measured only if everything was asked for."""
    figures = report.figures
    run = "hutch.run, limits"
    report.ratio("hutch.run with limits: <= 1.5 x the C floor", run, FLOOR, 1.5)
    report.ratio("hutch.run with limits: faster than bubblewrap", run, "bubblewrap", 1)
    report.ratio("hutch.run with limits: faster than crun run", run, "crun run", 1)
    report.ratio("hutch.run with limits: >= 5 x faster than runc run", "runc run", run, 5, at_least=True)
    report.ratio("hutch.run with limits: >= 50 x faster than docker run", "docker run", run, 50, at_least=True)
    report.ratio("hutch run, from the shell: <= runc run", "hutch run", "runc run", 1)
    report.ratio("hutch run, from the shell: >= 10 x faster than podman run", "podman run", "hutch run", 10, at_least=True)
    report.ratio("hutch run, from the shell: >= 10 x faster than docker run", "docker run", "hutch run", 10, at_least=True)
    oci = next((c for c in report.tables.get("oci", []) if c.name == "hutch-oci run"), None)
    peer = next((c for c in report.tables.get("oci", []) if c.name == "runc run"), None)
    if oci and peer:
        report.goal("hutch-oci run: faster than runc run", oci.median / peer.median, 1, unit=" x", minima=oci.minimum / peer.minimum)
    report.ratio("a command in a running container: <= 1.5 x the C floor", "Container.run", ENTER_FLOOR, 1.5)
    command = report.of("Container.run")
    pair = (command.median * 1e3, command.minimum * 1e3) if command else (None, None)
    report.goal("a command in a running container: <= 1.5 ms", pair[0], 1.5, unit=" ms", minima=pair[1])
    at_once = figures.get("200_at_a_time_per_second")
    report.goal("200 containers at once: >= 200 a second", at_once if isinstance(at_once, float) else None, 200, at_least=True, unit=" a second")
    kinds = ("left_after_throughput", "left_after_kill_of_python", "left_after_kill_of_everything")
    counts = [sum(value.values()) for kind in kinds if isinstance(value := figures.get(kind), dict)]
    report.goal("nothing left behind", float(sum(counts)) if counts else None, 0, unit=" things")
    idle = figures.get("idle_kib_hutch")
    report.goal("memory beside an idle detached container: <= 1024 KiB", float(idle) if isinstance(idle, int) else None, 1024, unit=" KiB")
    report.ratio("pull to first command: >= 5 x faster than podman", "podman run (cold)", "hutch run (cold)", 5, at_least=True)
    report.ratio("pull to first command: >= 5 x faster than docker", "docker run (cold)", "hutch run (cold)", 5, at_least=True)
    nets = figures.get("networks")
    for name in ("docker", "podman"):
        pair_ = (nets["hutch"], nets[name]) if isinstance(nets, dict) and name in nets else None
        report.goal(f"with a network: >= 20 x faster than {name} run", pair_[1]["beside"] / pair_[0]["beside"] if pair_ else None, 20, at_least=True, unit=" x")
        if name == "docker":
            for key, what in (("between", "between two containers"), ("port", "by a published port")):
                report.goal(f"bytes {what}: as many as docker", pair_[0][key] / pair_[1][key] if pair_ else None, 0.9, at_least=True, unit=" x")
    report.ratio("boot to first command: <= 1.25 x plain QEMU with an empty init", machines.SHARED, machines.PLAIN, 1.25)
    report.ratio("the same beside plain QEMU with our kernel parameters: <= 1.25 x", machines.SHARED, machines.SAME, 1.25)
    report.ratio("a copy of a snapshot: >= 5 x faster than a boot", machines.DISK, machines.COPY, 5, at_least=True)
    forks = [value for key, value in figures.items() if key.startswith("fork_ms_each") and isinstance(value, float)]
    report.goal("fork(20): < 10 ms each, whatever the size", max(forks) if forks else None, 10, unit=" ms")
    layer = figures.get("index")
    report.goal("the index of a layer of 200 MB and 9,000 files: < 0.5 s", float(layer["seconds"]) if isinstance(layer, dict) else None, 0.5, unit=" s")
    for goal in report.goals:
        if goal["reached"] is None and not everything:
            continue
        verdict = "not measured" if goal["reached"] is None else "reached" if goal["reached"] else "MISSED"
        value = "" if goal["value"] is None else f" ({goal['value']:.4g}{goal['unit']}"
        value += "" if goal["value"] is None else ")" if goal["by_minima"] is None else f"; by the minima {goal['by_minima']:.4g})"
        print(f"goal: {goal['goal']}: {verdict}{value}")


def clock() -> tuple[float, float, float]:
    """Seconds of the CPUs: all, those that the hypervisor kept, those that were others' (programs not begun here, daemons, the kernel's own)."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, idle, waiting, interrupts, soft, stolen = (int(word) / os.sysconf("SC_CLK_TCK") for word in file.readline().split()[1:9])
    busy = user + nice + system + interrupts + soft
    return busy + idle + waiting + stolen, stolen, busy - sum(os.times()[:4])


# --- the run ---


def prepare(stack: ExitStack, report: Report) -> Shop:
    """A directory of our own, a state directory of our own, and the end of both."""
    default = Path(state.root())
    shop = Shop(Path(tempfile.mkdtemp(prefix="hutch-bench-", dir="/var/tmp")), stack, report.notes, f"bench-{os.getpid()}")

    def remove() -> None:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = [fields[4] for line in file if (fields := line.split())[4].startswith(f"{shop.directory}/")]
        for mount in reversed(mounts):
            if subprocess.run(["umount", mount], check=False).returncode:
                print(f"left behind: {shop.directory}, for the mount {mount}")
                return
        shutil.rmtree(shop.directory)

    stack.callback(remove)
    os.environ["HUTCH_STATE"] = tempfile.mkdtemp(prefix="hutch-bench-", dir=default.parent)  # beside the usual: the same file system
    os.environ["HUTCH_DATA"] = f"{shop.directory}/hutch-data"
    stack.callback(shutil.rmtree, os.environ["HUTCH_STATE"])
    peers.footprints(shop)
    return shop


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    names = [*SECTIONS, "hutch", *peers.PEERS]
    parser.add_argument("--only", action="append", choices=names, default=[], metavar="NAME", help=f"a part, or a contestant (repeatable): {', '.join(names)}")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write. 0 however fast or slow."""
    options = arguments()
    if os.geteuid() != 0:
        print("bench: needs root, as the floor and most peers do")
        return 0
    report = Report()
    contestants = ["hutch", *peers.PEERS]
    chosen = [name for name in contestants if name in options.only] or contestants
    sections = [name for name in SECTIONS if name in options.only] or list(SECTIONS if chosen == contestants else SECTIONS[:2])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))  # 200 containers at once hold some descriptors each
    compileall.compile_dir(os.path.dirname(hutch.__file__), quiet=1)  # as an installed package is

    def end(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    started, before = time.monotonic(), clock()
    with ExitStack() as stack:
        shop = prepare(stack, report)
        machine = {
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "load": os.getloadavg()[0],
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "peers": peers.versions(),
        }
        print(f"Linux {machine['kernel']}, {machine['cpus']} CPUs, Python {machine['python']}, load {machine['load']:.2f}; limit of descriptors was {soft}")
        print("; ".join(peers.versions().values()), flush=True)
        parts: dict[str, Callable[[], None]] = {
            "start": lambda: measure_turns(shop, report, sections, chosen, *((60, 12) if options.quick else (400, 80))),
            "oci": lambda: measure_runtimes(shop, report, *((40, 15) if options.quick else (200, 60))),
            "throughput": lambda: measure_throughput(report, 1 if options.quick else 5),
            "kill": lambda: measure_kill(report, 50 if options.quick else 200),
            "memory": lambda: measure_memory(shop, report, 3 if options.quick else 10),
            "machines": lambda: measure_machines(shop, report, 8 if options.quick else 20),
            "networks": lambda: measure_networks(shop, report, 16 if options.quick else 40),
            "images": lambda: measure_images(shop, report, 3 if options.quick else 7),
        }
        for name, measure in parts.items():
            if name in sections or (name == "start" and "exec" in sections):
                try:
                    measure()
                except (Missing, RuntimeError, OSError, subprocess.SubprocessError, hutch.HutchError) as error:
                    report.notes.append(f"{name}: given up: {error}")
        print()
        judge(report, not options.only)
    whole, kept, others = (now - then for now, then in zip(clock(), before, strict=True))
    machine |= {"seconds": round(time.monotonic() - started, 1), "stolen": round(kept / whole, 4), "others": round(others / whole, 4)}
    report.notes.append(f"{machine['seconds']} s in all; of the CPUs' time the hypervisor kept {kept / whole:.1%}, and {others / whole:.1%} was not ours")
    for note in report.notes:
        print(f"note: {note}")
    tables = {name: [c.numbers() for c in table] for name, table in report.tables.items()}
    results = {"machine": machine, **tables, "figures": report.figures, "goals": report.goals, "notes": report.notes}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
