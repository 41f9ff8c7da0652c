"""What came of a command."""

from __future__ import annotations

from hutch.errors import HutchError, MachineLost, StartError
from hutch.record import Record
from hutch.typed import Generic, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal, Self, TypeAlias

    Outcome: TypeAlias = Literal["exited", "signalled", "timeout", "out-of-memory", "failed-to-start", "machine-lost"]
EXITED: Final = "exited"
SIGNALLED: Final = "signalled"
TIMEOUT: Final = "timeout"
OUT_OF_MEMORY: Final = "out-of-memory"
FAILED_TO_START: Final = "failed-to-start"
MACHINE_LOST: Final = "machine-lost"


class Usage(Record):
    """What a container used in its life: seconds, bytes, counts. None: its cgroup did not tell."""

    wall: float = 0.0
    user: float = 0.0
    system: float = 0.0
    max_rss: int = 0
    memory_peak: int | None = None
    oom_kills: int | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    pids_refused: int | None = None


class Result(Record, Generic[Stream]):
    """A command's end. The exit code is data: nothing is raised for it unless `check` is called.

    `outcome` tells apart what happened: "exited"; "signalled" (`signal` has its number); "timeout"; "out-of-memory"
    (the kernel killed for the memory limit); "failed-to-start", and "machine-lost" for a virtual machine that ended before
    the command did (`error` says why). `exit_code` is Docker's: 128+N for a death by signal N, 125 to 127 for a failed start,
    125 for a lost machine. `truncated`: more was written than `output_limit` let through.
    """

    command: tuple[str, ...]
    outcome: Outcome
    exit_code: int
    stdout: Stream = ""  # type: ignore[assignment]
    stderr: Stream = ""  # type: ignore[assignment]
    signal: int = 0
    error: StartError | MachineLost | None = None
    truncated: bool = False
    usage: Usage = Usage()

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.outcome == EXITED and self.exit_code == 0

    def check(self) -> Self:
        """Raise CommandFailed unless the command exited with 0 (StartError if it never ran, MachineLost); return the result."""
        if self.error is not None:
            raise self.error
        if not self.ok:
            raise CommandFailed(self.describe(), self)
        return self

    def describe(self) -> str:
        """One line for a person."""
        name = " ".join(self.command) or "the container"
        name = name if len(name) <= 80 else name[:79] + "…"
        if self.outcome == FAILED_TO_START:
            return f"{name}: failed to start: {self.error}"
        if self.outcome == MACHINE_LOST:
            return f"{name}: {self.error}"
        if self.outcome == TIMEOUT:
            return f"{name}: killed after its time limit"
        if self.outcome == OUT_OF_MEMORY:
            return f"{name}: out of memory (exit code {self.exit_code})"
        if self.outcome == SIGNALLED:
            return f"{name}: killed by signal {self.signal} (exit code {self.exit_code})"
        said: str | bytes = self.stderr
        tail = said if isinstance(said, str) else said.decode("utf-8", "replace")
        last = tail.strip().rpartition("\n")[2]
        return f"{name}: exit code {self.exit_code}{f': {last}' if last and self.exit_code else ''}"


class CommandFailed(HutchError):
    """A command ended otherwise than with exit code 0. `result` is its whole result."""

    def __init__(self, message: str, result: Result[str] | Result[bytes]) -> None:
        super().__init__(message)
        self.result = result
        self.exit_code = result.exit_code or 1
