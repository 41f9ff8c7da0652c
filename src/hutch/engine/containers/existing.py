"""A container that was started by somebody, by its record: `hutch.containers`.

::

    for box in hutch.containers():
        print(box.name, box.status)
    hutch.containers.get("web").stop(timeout=5)
"""

from __future__ import annotations

import os
import select
import time

from hutch.engine.containers import recorded
from hutch.engine.containers.changed import Changed
from hutch.engine.records import live, state
from hutch.engine.records.state import Running
from hutch.engine.spec import signals
from hutch.errors import ContainerGone, StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from hutch.cgroup.live import Cgroup, Stats
    from hutch.engine.containers.filesystem import Target

KILL = 9
STOP_TIMEOUT = 10.0  # seconds, as with Docker
LAST_WORDS = 5.0  # seconds in which an executor writes down how its container ended
CHUNK = 65536


class Existing(Changed):
    """A container, running or ended, whoever started it."""

    def __init__(self, record: Running) -> None:
        self._record = record

    @property
    def record(self) -> Running:
        """What is known of it now; of one that has been removed, what was known last."""
        found = state.read(self._record.directory)
        self._record = self._record.replace(status="exited", pid=0, executor=0) if found is None else found
        return self._record

    def __repr__(self) -> str:
        return f"<hutch container {self.name} {self.status}>"

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits."""
        return self._record.id

    @property
    def name(self) -> str:
        """Its name; its id where it has none."""
        return self._record.name or self._record.id

    @property
    def status(self) -> Literal["creating", "running", "exited"]:
        """ "creating", "running" or "exited", now."""
        return self.record.status

    @property
    def exit_code(self) -> int | None:
        """Docker's: 128+N for a death by signal N; None while it runs."""
        return self.record.exit_code

    @property
    def alive(self) -> bool:
        """Whether its executor is still at work, now."""
        return state.locked(f"{self._record.directory}/{state.RECORD}")

    @property
    def cgroup(self) -> Cgroup:
        """Its cgroup: numbers, freezing. Raises ContainerGone when it does not run."""
        if self.status != "running":
            raise ContainerGone(f"container {self.name}: does not run")
        return recorded.cgroup_of(self.record)

    def stats(self) -> Stats:
        """What it uses now; an empty record for one that has ended."""
        return recorded.cgroup_of(self.record).stats()

    def kill(self, signal: str = "KILL") -> None:
        """Send a signal, by its name or number, to its first process. Raises UsageError, ContainerGone."""
        number = signals.number(signal)
        pidfd = live.open_pidfd(self.record)
        try:
            _send(pidfd, number)
        finally:
            os.close(pidfd)

    def stop(self, timeout: float | None = None, signal: str = "") -> None:
        """Ask it to end, and kill it after `timeout` seconds: 0 at once, below 0 never, None as the container was started with
        (10). `signal` is sent in place of its own stop signal. Raises UsageError, ContainerGone."""
        number = signals.number(signal) if signal else self._stop_signal()
        own = self.record.data["settings"].get("stop_timeout")
        patience = timeout if timeout is not None else STOP_TIMEOUT if own is None else float(own)
        pidfd = live.open_pidfd(self.record)
        try:
            _send(pidfd, number)
            if not _ends(pidfd, patience):
                _send(pidfd, KILL)
                _ends(pidfd, STOP_TIMEOUT)
        finally:
            os.close(pidfd)
        self._wait_for_its_executor()

    def _stop_signal(self) -> int:
        return signals.number(signals.known(str(self.record.data.get("stop_signal") or "")) or "TERM")

    def _wait_for_its_executor(self) -> None:
        deadline = time.monotonic() + LAST_WORDS
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.002)

    def remove(self, *, force: bool = False) -> None:
        """Remove what is left of it; with `force`, one that runs is killed first. Raises StateError for one that runs."""
        if self.status != "exited":
            if not force:
                raise StateError(f"container {self.name}: still runs", "`hutch stop` first, or -f")
            try:
                self.kill()
            except ContainerGone:
                pass  # it has just ended
            self._wait_for_its_executor()
        state.remove(self._record.directory, self._record.data)

    def pause(self) -> None:
        """Freeze its processes; of a machine, its processors. Raises ContainerGone, UnsupportedError without a freezer."""
        self.cgroup.freeze(True)

    def resume(self) -> None:
        """Let frozen processes go on."""
        self.cgroup.freeze(False)

    def logs(self, *, follow: bool = False) -> Iterator[bytes]:
        """What it has written, in pieces; with `follow`, until it ends, and an empty piece whenever there was nothing new for a tenth of a
        second. Raises StateError for one that keeps no log."""
        try:
            fd = os.open(f"{self._record.directory}/log", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StateError(f"container {self.name}: keeps no log", "only detached containers do") from None
        with open(fd, "rb") as file:
            while True:
                alive = self.alive
                while data := file.read(CHUNK):
                    yield data
                if not follow or not alive:
                    return
                yield b""
                time.sleep(0.1)

    def ports(self) -> list[tuple[str, str]]:
        """What is published, as (the container's port such as ``80/tcp``, the host's address and port)."""
        lines = (str(text).replace(" ", "").partition("->") for text in self.record.data.get("ports", ()))
        return [(own, place) for place, _, own in lines]

    def target(self) -> Target:
        """Its files, for copies and commits. Close it after use. Raises StateError when they are out of reach."""
        from hutch.engine.containers import filesystem

        return filesystem.of_record(self.record)


class Containers:
    """The containers of this user's. Called, it gives their records (`hutch.Running`), the oldest first."""

    def __call__(self) -> Iterator[Running]:
        """The records."""
        return state.containers()

    def list(self) -> list[Existing]:
        """All of them, the oldest first, those that have ended included."""
        return [Existing(record) for record in state.containers()]

    def get(self, reference: str) -> Existing:
        """One by its name, its id, or the beginning of its id. Raises StateError."""
        if not reference:
            raise UsageError(f"container: expected a name or an id, got {reference!r}")
        return Existing(state.find(reference))


containers = Containers()


def _send(pidfd: int, number: int) -> None:
    from hutch.kernel import syscalls

    syscalls.pidfd_send_signal(pidfd, number)


def _ends(pidfd: int, patience: float) -> bool:
    """Whether a process ends within some seconds; below 0: it is waited for without end."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(patience * 1000 if patience >= 0 else None))
