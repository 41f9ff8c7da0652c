"""A running container's cgroup: numbers, pressure, events, changes of limits, freezing, killing.

One protocol for v1 and v2: everything is read from files, and `Stats` has the same units whatever the hierarchy.
"""

from __future__ import annotations

import os
import time

from hutch.cgroup.settings import v1_settings, v2_settings
from hutch.errors import HutchError, UnsupportedError
from hutch.oci.config import Resources
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

UNLIMITED = 2**63 - 4096  # v1 writes "no limit" as the largest multiple of a page


class Pressure(Record):
    """Pressure stall information (Documentation/accounting/psi.rst): shares of time in percent, totals in µs."""

    some_avg10: float = 0.0
    some_total: int = 0
    full_avg10: float = 0.0
    full_total: int = 0


class Stats(Record):
    """What a container uses. Times in nanoseconds, sizes in bytes; None: this host does not tell."""

    cpu_usage: int | None = None
    cpu_user: int | None = None
    cpu_system: int | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_time: int | None = None
    memory_usage: int | None = None
    memory_peak: int | None = None
    memory_limit: int | None = None
    memory_cache: int | None = None
    swap_usage: int | None = None
    oom_kills: int | None = None
    memory_high_events: int | None = None
    memory_max_events: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    pids_refused: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    read_operations: int | None = None
    write_operations: int | None = None
    hugetlb_usage: dict[str, int] = {}
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None


class Event(Record):
    """Something that the limits did: kind is "oom" or "throttled"; `count` is the total so far."""

    kind: Literal["oom", "throttled"]
    count: int


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return None


def whole(text: str | None) -> int | None:
    """A decimal number, or None: what a guest's kernel has in a file may be anything."""
    word = (text or "").strip()
    digits = word.removeprefix("-")
    return int(word) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else None


def number(text: str | None) -> int | None:
    """The number that a file holds; None for no number, and for what means no limit."""
    value = whole(text)
    return None if value is None or value >= UNLIMITED else value


def parse_keyed(text: str | None) -> dict[str, int]:
    """``key value`` lines, as in cpu.stat and memory.events."""
    out = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(" ")
        if (found := whole(value)) is not None:
            out[key] = found
    return out


def parse_pressure(text: str | None) -> Pressure | None:
    """A ``*.pressure`` file."""
    if not text:
        return None
    values: dict[str, float] = {}
    for line in text.splitlines():
        kind, *pairs = line.split() or [""]
        for pair in pairs:
            key, _, value = pair.partition("=")
            if value.isascii() and value.replace(".", "", 1).isdigit() and len(value) <= 20:
                values[f"{kind}_{key}"] = float(value)
    return Pressure(
        some_avg10=values.get("some_avg10", 0.0),
        some_total=int(values.get("some_total", 0)),
        full_avg10=values.get("full_avg10", 0.0),
        full_total=int(values.get("full_total", 0)),
    )


def _sum_io(text: str | None) -> dict[str, int]:
    """Totals of ``Read``/``Write`` of blkio's files, or of ``rbytes`` and the like of io.stat."""
    out: dict[str, int] = {}
    for line in (text or "").splitlines():
        words = line.split()
        if len(words) == 3 and (found := whole(words[2])) is not None:
            out[words[1]] = out.get(words[1], 0) + found
        for word in words[1:]:
            key, eq, value = word.partition("=")
            if eq and (found := whole(value)) is not None:
                out[key] = out.get(key, 0) + found
    return out


class Cgroup:
    """A cgroup by the directories that it has: one for v2 (key ""), one a controller for v1."""

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths

    @property
    def unified(self) -> bool:
        """Whether it is v2's alone."""
        return set(self.paths) == {""}

    def _file(self, controller: str, key: str) -> str:
        return f"{self.paths.get('' if self.unified else controller, '/nonexistent')}/{key}"

    def _text(self, controller: str, key: str) -> str | None:
        return _read(self._file(controller, key))

    def _value(self, controller: str, key: str) -> int | None:
        return number(self._text(controller, key))

    def _there(self) -> bool:
        return any(os.path.isdir(path) for path in self.paths.values())

    def stats(self) -> Stats:
        """The numbers now. Files that do not exist give None; a cgroup that is gone gives an empty record."""
        return self._v2_stats() if self.unified else self._v1_stats()

    def oom_kills(self) -> int | None:
        """How many of its processes the OOM killer has ended: `Stats.oom_kills`, for the price of one file."""
        key = "memory.events" if self.unified else "memory.oom_control"
        return parse_keyed(self._text("memory", key)).get("oom_kill")

    def _v1_stats(self) -> Stats:
        cpu = parse_keyed(self._text("cpu", "cpu.stat"))
        memory = parse_keyed(self._text("memory", "memory.stat"))
        oom = parse_keyed(self._text("memory", "memory.oom_control"))
        io_bytes = _sum_io(self._text("blkio", "blkio.throttle.io_service_bytes"))
        io_count = _sum_io(self._text("blkio", "blkio.throttle.io_serviced"))
        memsw, usage = self._value("memory", "memory.memsw.usage_in_bytes"), self._value("memory", "memory.usage_in_bytes")
        pids_max = self._value("pids", "pids.max")
        return Stats(
            cpu_usage=self._value("cpuacct", "cpuacct.usage"),
            cpu_user=self._value("cpuacct", "cpuacct.usage_user"),
            cpu_system=self._value("cpuacct", "cpuacct.usage_sys"),
            periods=cpu.get("nr_periods"),
            throttled_periods=cpu.get("nr_throttled"),
            throttled_time=cpu.get("throttled_time"),
            memory_usage=usage,
            memory_peak=self._value("memory", "memory.max_usage_in_bytes"),
            memory_limit=self._value("memory", "memory.limit_in_bytes"),
            memory_cache=memory.get("cache"),
            swap_usage=None if memsw is None or usage is None else max(0, memsw - usage),
            oom_kills=oom.get("oom_kill"),
            memory_max_events=self._value("memory", "memory.failcnt"),
            pids=self._value("pids", "pids.current"),
            pids_limit=pids_max,
            pids_refused=parse_keyed(self._text("pids", "pids.events")).get("max"),
            read_bytes=io_bytes.get("Read"),
            write_bytes=io_bytes.get("Write"),
            read_operations=io_count.get("Read"),
            write_operations=io_count.get("Write"),
            hugetlb_usage=self._hugetlb("hugetlb", ".usage_in_bytes"),
        )

    def _v2_stats(self) -> Stats:
        cpu = parse_keyed(self._text("", "cpu.stat"))
        memory = parse_keyed(self._text("", "memory.stat"))
        events = parse_keyed(self._text("", "memory.events"))
        io = _sum_io(self._text("", "io.stat"))

        def ns(key: str) -> int | None:
            return cpu[key] * 1000 if key in cpu else None

        return Stats(
            cpu_usage=ns("usage_usec"),
            cpu_user=ns("user_usec"),
            cpu_system=ns("system_usec"),
            periods=cpu.get("nr_periods"),
            throttled_periods=cpu.get("nr_throttled"),
            throttled_time=ns("throttled_usec"),
            memory_usage=self._value("", "memory.current"),
            memory_peak=self._value("", "memory.peak"),
            memory_limit=self._value("", "memory.max"),
            memory_cache=memory.get("file"),
            swap_usage=self._value("", "memory.swap.current"),
            oom_kills=events.get("oom_kill"),
            memory_high_events=events.get("high"),
            memory_max_events=events.get("max"),
            pids=self._value("", "pids.current"),
            pids_limit=self._value("", "pids.max"),
            pids_refused=parse_keyed(self._text("", "pids.events")).get("max"),
            read_bytes=io.get("rbytes"),
            write_bytes=io.get("wbytes"),
            read_operations=io.get("rios"),
            write_operations=io.get("wios"),
            hugetlb_usage=self._hugetlb("", ".current"),
            cpu_pressure=parse_pressure(self._text("", "cpu.pressure")),
            memory_pressure=parse_pressure(self._text("", "memory.pressure")),
            io_pressure=parse_pressure(self._text("", "io.pressure")),
        )

    def _hugetlb(self, controller: str, suffix: str) -> dict[str, int]:
        directory = self.paths.get(controller)
        if directory is None or not os.path.isdir(directory):
            return {}
        out = {}
        for name in os.listdir(directory):
            if name.startswith("hugetlb.") and name.endswith(suffix) and ".rsvd" not in name:
                value = number(_read(f"{directory}/{name}"))
                if value is not None:
                    out[name.removeprefix("hugetlb.").removesuffix(suffix)] = value
        return out

    def update(self, resources: Resources) -> None:
        """Change limits of a running container. Raises HutchError naming the key that the kernel refused."""
        settings = v2_settings(resources) if self.unified else v1_settings(resources)
        if not self.unified:
            settings = self._ordered(settings)
        for setting in settings:
            path = self._file(setting.controller, setting.key)
            try:
                with open(path, "w", encoding="ascii") as file:
                    file.write(setting.value)
            except OSError as error:
                if error.errno == setting.tolerated:
                    continue
                raise HutchError(f"{setting.origin}: write {setting.value} to {path}: {error.strerror}") from None

    def _ordered(self, settings: list) -> list:  # type: ignore[type-arg]
        """v1 keeps limit <= memsw at every step: when the limit grows, memsw goes first."""
        keys = {s.key: s for s in settings}
        limit, memsw = keys.get("memory.limit_in_bytes"), keys.get("memory.memsw.limit_in_bytes")
        now = self._value("memory", "memory.memsw.limit_in_bytes")
        if limit and memsw and now is not None and (int(limit.value) > now or int(limit.value) < 0):
            settings.remove(memsw)
            settings.insert(settings.index(limit), memsw)
        return settings

    def processes(self) -> list[int]:
        """The pids in the cgroup, as this process sees them."""
        controller = "" if self.unified else next(iter(self.paths), "")
        return [int(word) for word in (self._text(controller, "cgroup.procs") or "").split()]

    def freeze(self, frozen: bool = True, timeout: float = 5.0) -> None:
        """Stop every process of the cgroup, or let them go on. Waits until the kernel says that it is done.

        Raises UnsupportedError where there is neither v2 nor a v1 freezer.
        """
        if "freezer" in self.paths:
            directory, key, value = self.paths["freezer"], "freezer.state", "FROZEN" if frozen else "THAWED"
        elif "" in self.paths:
            directory, key, value = self.paths[""], "cgroup.freeze", "1" if frozen else "0"
        else:
            raise UnsupportedError("freeze: the container has no freezer cgroup")
        with open(f"{directory}/{key}", "w", encoding="ascii") as file:
            file.write(value)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if key == "freezer.state":
                if (_read(f"{directory}/{key}") or "").strip() == value:
                    return
            elif parse_keyed(_read(f"{directory}/cgroup.events")).get("frozen") == int(frozen):
                return
            time.sleep(0.001)
        raise HutchError(f"freeze: {directory} did not reach {value} in {timeout:g} s")

    def events(self, interval: float = 0.1) -> Iterator[Event]:
        """OOM kills and throttled periods as they happen, until the cgroup is gone: its files are looked at every
        `interval` seconds, since v1 and v2 have no notification in common."""
        seen: dict[Literal["oom", "throttled"], int] = {"oom": 0, "throttled": 0}
        while self._there():
            stats = self.stats()
            totals: dict[Literal["oom", "throttled"], int | None] = {"oom": stats.oom_kills, "throttled": stats.throttled_periods}
            for kind, count in totals.items():
                if count is not None and count > seen[kind]:
                    seen[kind] = count
                    yield Event(kind=kind, count=count)
            time.sleep(interval)
