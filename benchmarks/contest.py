"""Measuring side by side: contestants take turns, in another order each round, so that drift hits all alike."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

NULL = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
_STREAMS = [(os.POSIX_SPAWN_DUP2, NULL, fd) for fd in range(3)]
SETTLE = 0.1  # seconds after a contestant that leaves work to others when it ends (a daemon's tidying up)


class Missing(Exception):
    """A contestant that cannot take part, and why."""


@dataclass
class Contestant:
    """One thing to be timed: an argv to be spawned, or a function that does it once (and may return its own seconds)."""

    name: str
    what: str
    argv: Sequence[str] = ()
    once: Callable[[], float | None] | None = None
    every: int = 1  # takes part in every so manieth round
    settle: bool = False
    seconds: list[float] = field(default_factory=list)

    def check(self) -> None:
        """Once, looking at what it says. Raises Missing with its last words."""
        if not self.argv:
            self.run()
            return
        done = subprocess.run(self.argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
            raise Missing(f"exit code {done.returncode}: {words[:200]}")

    def run(self) -> float:
        """Once; the seconds that it took."""
        start = time.perf_counter()
        own = None
        if self.once:
            own = self.once()
        else:
            spawn(self.argv)
        taken = time.perf_counter() - start
        if self.settle:
            time.sleep(SETTLE)
        return taken if own is None else own

    @property
    def median(self) -> float:
        """The median of what was measured, in seconds."""
        ordered = sorted(self.seconds)
        return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2

    @property
    def minimum(self) -> float:
        """The fastest run, in seconds."""
        return min(self.seconds)

    def numbers(self) -> dict[str, object]:
        """What goes into results.json: milliseconds."""
        ordered = sorted(self.seconds)
        return {
            "name": self.name,
            "what": self.what,
            "runs": len(ordered),
            "median_ms": round(self.median * 1e3, 3),
            "min_ms": round(self.minimum * 1e3, 3),
            "p90_ms": round(ordered[len(ordered) * 9 // 10] * 1e3, 3),
            "samples_ms": [round(value * 1e3, 3) for value in self.seconds],
        }


def spawn(argv: Sequence[str]) -> None:
    """Spawn a program and wait for it. What it prints is lost. Raises RuntimeError unless it exits with 0."""
    pid = os.posix_spawn(argv[0], list(argv), os.environ, file_actions=_STREAMS)
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:  # a signal to end: it is left to finish, so that it tidies up
        os.waitpid(pid, 0)
        raise
    if status:
        raise RuntimeError(f"{argv[0]}: wait status {status:#x}")


@dataclass
class Shop:
    """What contestants share: a directory of this run's own, what is to be undone at the end, and remarks for the reader."""

    directory: Path
    stack: ExitStack
    notes: list[str]
    cgroup: str  # the parent, relative to a hierarchy's root, of every cgroup that peers are told to make
    monitors: dict[str, list[int]] = field(default_factory=dict)  # the processes that stay with one idle container, by name

    @property
    def root(self) -> Path:
        """A root file system of /usr/bin/true and /usr/bin/sleep with their libraries."""
        path = self.directory / "rootfs"
        if not path.exists():
            for name in ("proc", "sys", "dev", "etc", "tmp", "usr/bin"):
                (path / name).mkdir(parents=True)
            (path / "bin").symlink_to("usr/bin")
            for program in ("/usr/bin/true", "/usr/bin/sleep"):
                subprocess.run(["cp", "-L", program, f"{path}{program}"], check=True)
                listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
                for library in (word for line in listed.splitlines() for word in line.split() if word.startswith("/")):
                    target = Path(f"{path}{library}")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    subprocess.run(["cp", "-L", library, target], check=True)
        return path

    @property
    def archive(self) -> Path:
        """The same as a tar."""
        path = self.directory / "rootfs.tar"
        if not path.exists():
            subprocess.run(["tar", "-C", self.root, "-cf", path, "."], check=True)
        return path


def take_turns(contestants: list[Contestant], rounds: int, seconds: float, notes: list[str]) -> list[Contestant]:
    """Fill every contestant's `seconds`, in so many rounds or until time is up; those that fail drop out."""
    running = []
    for contestant in contestants:
        try:
            contestant.check()
            contestant.run()
        except (Missing, RuntimeError, OSError, subprocess.SubprocessError) as error:
            notes.append(f"{contestant.name}: left out: {error}")
        else:
            running.append(contestant)
    shuffle, deadline = random.Random(1).shuffle, time.monotonic() + seconds
    for number in range(rounds):
        turn = [contestant for contestant in running if number % contestant.every == 0]
        shuffle(turn)
        for contestant in turn:
            try:
                contestant.seconds.append(contestant.run())
            except (RuntimeError, OSError) as error:
                notes.append(f"{contestant.name}: dropped out after {len(contestant.seconds)} runs: {error}")
                running.remove(contestant)
        if time.monotonic() > deadline:
            notes.append(f"time was up after {number + 1} of {rounds} rounds")
            break
    return [contestant for contestant in contestants if contestant.seconds]
