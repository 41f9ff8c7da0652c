"""A started command: its streams, its time limit, its end."""

from __future__ import annotations

import os
import select
import time

from hutch import result as outcomes
from hutch.cgroup.live import parse_keyed, whole
from hutch.cgroup.operations import CPU, OOM, PEAK, PIDS
from hutch.engine.spec import arguments
from hutch.errors import StartError, UsageError
from hutch.executor.launcher import Execution
from hutch.executor.messages import FAILED
from hutch.kernel.terminals import is_device
from hutch.result import Result, Usage
from hutch.typed import Generic, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from hutch.engine.spec.options import Input
    from hutch.result import Outcome

CHUNK = 65536
OUTPUT_LIMIT = 64 << 20  # bytes of each stream that are kept unless asked otherwise


def open_input(stdin: Input) -> tuple[int, bytes, int, int]:
    """``(descriptor for the child, bytes still to be fed, our end or -1, where more comes from or -1)`` for what a caller gives as
    stdin. A terminal, or another device, is not handed over: what is typed there is fed."""
    if stdin is None:
        # not /dev/null: without a user namespace, fchmod on the descriptor would change the host's
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.close(writer)
        return reader, b"", -1, -1
    if isinstance(stdin, int):
        if not is_device(stdin):
            return os.dup(stdin), b"", -1, -1
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writer, False)
        return reader, b"", writer, os.dup(stdin)
    if isinstance(stdin, str | bytes):
        data = stdin.encode() if isinstance(stdin, str) else stdin
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writer, False)
        return reader, data, writer, -1
    try:
        return open_input(stdin.fileno())
    except (AttributeError, OSError, ValueError):
        data = stdin.read()
        return open_input(data)


def check_streams(stdin: Input, text: bool, timeout: float | None, output_limit: int, merge_stderr: bool) -> None:
    """Find what makes no sense of a command's streams and time limit before anything is touched. Raises UsageError."""
    if stdin is not None and not isinstance(stdin, str | bytes):
        is_descriptor = isinstance(stdin, int) and not isinstance(stdin, bool)
        if not is_descriptor and not hasattr(stdin, "read") and not hasattr(stdin, "fileno"):
            arguments.wrong("stdin", "text, bytes, a file or a descriptor", stdin)
    arguments.flag("text", text)
    arguments.flag("merge_stderr", merge_stderr)
    if timeout is not None and not 0 < arguments.number("timeout", timeout) < 1e9:
        arguments.wrong("timeout", "seconds above 0", timeout)
    if arguments.whole("output_limit", output_limit) < 0:
        arguments.wrong("output_limit", "a number of bytes", output_limit)


def variables_of(env: Mapping[str, str] | Iterable[str] | None) -> dict[str, str]:
    """A command's own variables by name. Raises UsageError."""
    found: dict[str, str] = {}
    if not env:
        return found
    for item in arguments.environment("env", env):
        name, equals, value = item.partition("=")
        if not name or not equals or "\0" in item:
            raise UsageError(f"env: expected NAME=VALUE, got {item!r}")
        found[name] = value
    return found


class Process(Generic[Stream]):
    """A command that was started, in a container of its own or in one that runs.

    Read it by `lines()`, or `wait()` for its `Result`. A context manager: leaving it kills what still runs.
    """

    def __init__(
        self,
        launch: Callable[[int, int, int], Execution],
        command: tuple[str, ...],
        *,
        stdin: Input = None,
        text: bool = True,
        timeout: float | None = None,
        output_limit: int = OUTPUT_LIMIT,
        merge_stderr: bool = False,
        on_timeout: Callable[[], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.command = command
        self.text = text
        self._limit = output_limit
        self._started = time.monotonic()
        self._deadline = None if timeout is None else self._started + timeout
        self._timed_out = False
        self._result: Result[Stream] | None = None
        self._on_timeout, self._on_end = on_timeout, on_end
        self._kept: dict[int, list[bytes]] = {1: [], 2: []}
        self._size = {1: 0, 2: 0}
        self._truncated = False
        self._error: StartError | None = None
        child_in, self._feed, self._feed_fd, self._source = open_input(stdin)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = (-1, -1) if merge_stderr else os.pipe2(os.O_CLOEXEC)
        self._readers = {out_read: 1, **({err_read: 2} if err_read >= 0 else {})}
        try:
            self.execution = launch(child_in, out_write, out_write if merge_stderr else err_write)
        except BaseException:
            self._close_streams()
            raise
        finally:
            os.close(child_in)
            os.close(out_write)
            if err_write >= 0:
                os.close(err_write)
        for fd in self._readers:
            os.set_blocking(fd, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The command's pid on the host. Waits until it runs; raises StartError if it cannot."""
        if not self.execution.ready and self._result is None:
            self._pump(lambda: self.execution.ready or self._finished)
            if self._error is not None:
                raise self._error
        return self.execution.pid

    @property
    def _finished(self) -> bool:
        return self.execution.exited is not None or self._error is not None

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process."""
        self.execution.signal(int(number))

    def kill(self) -> None:
        """Kill the command; its container, too, if it is the container's only one."""
        self.execution.kill()

    def _pump(self, until: Callable[[], bool], on_output: Callable[[int, bytes], None] | None = None) -> None:
        """Move bytes and messages until the condition holds."""
        poll = select.poll()
        control = self.execution.fileno()
        if not self._finished:
            poll.register(control, select.POLLIN)
        for fd in self._readers:
            poll.register(fd, select.POLLIN)
        if self._feed_fd >= 0 and (self._feed or self._source < 0):
            poll.register(self._feed_fd, select.POLLOUT)
        elif self._feed_fd >= 0:
            poll.register(self._source, select.POLLIN)
        while not until():
            timeout = None
            if self._deadline is not None and not self._timed_out:
                timeout = max(0.0, self._deadline - time.monotonic()) * 1000
            if self._finished:
                timeout = 0  # what ended cannot write any more; a stranger that holds the pipe need not be waited for
            events = poll.poll(timeout)
            if not events:
                if self._finished:
                    break
                self._expire()
                continue
            for fd, event in events:
                if fd == control:
                    self._message()
                    if self._finished:
                        poll.unregister(control)
                elif fd == self._feed_fd:
                    if self._write(event):
                        poll.unregister(fd)
                        self._end_feed()
                    elif not self._feed:
                        poll.unregister(fd)
                        poll.register(self._source, select.POLLIN)
                elif fd == self._source:
                    self._feed = os.read(fd, CHUNK)
                    poll.unregister(fd)
                    if self._feed:
                        poll.register(self._feed_fd, select.POLLOUT)
                    else:
                        self._end_feed()
                elif not self._read(fd, on_output):
                    poll.unregister(fd)
                    os.close(fd)
                    del self._readers[fd]

    def _message(self) -> None:
        try:
            while not self._finished:  # they come in bursts: take all that are there
                message = self.execution.receive()
                if message is None:
                    self.execution.lost()
                elif message.type == 0:
                    return
        except StartError as error:
            self._error = error

    def _expire(self) -> None:
        self._timed_out = True
        self.execution.kill()
        if self._on_timeout is not None:
            self._on_timeout()

    def _write(self, event: int) -> bool:
        """Feed stdin; True when there is no more to feed, and never will be."""
        if event & (select.POLLERR | select.POLLHUP):
            return True
        try:
            written = os.write(self._feed_fd, self._feed[:CHUNK])
        except BlockingIOError:
            return False
        except BrokenPipeError:
            return True
        self._feed = self._feed[written:]
        return not self._feed and self._source < 0

    def _end_feed(self) -> None:
        os.close(self._feed_fd)
        if self._source >= 0:
            os.close(self._source)
        self._feed_fd = self._source = -1

    def _read(self, fd: int, on_output: Callable[[int, bytes], None] | None) -> bool:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return True
        if not data:
            return False
        stream = self._readers[fd]
        if on_output is not None and stream == 1:
            on_output(stream, data)
            return True
        room = self._limit - self._size[stream]
        if len(data) > room:
            self._truncated = True
            data = data[: max(room, 0)]
        self._size[stream] += len(data)
        self._kept[stream].append(data)
        return True

    def chunks(self) -> Iterator[bytes]:
        """stdout as it arrives, in pieces, until the command ends. stderr is kept for the result."""
        waiting: list[bytes] = []
        while True:
            self._pump(lambda: bool(waiting) or (self._finished and not self._readers), lambda _, data: waiting.append(data))
            if not waiting:
                break
            yield from waiting
            waiting.clear()
        self.wait()

    def lines(self) -> Iterator[str]:
        """stdout line by line, without line ends, as it arrives; a last line without an end too. A line of more than
        `output_limit` bytes is cut there.

        Raises StartError if the command could not be started. Its result is `wait()`'s.
        """
        pieces: list[bytes] = []
        size = 0
        for data in self.chunks():
            first, *others = data.split(b"\n")
            room = max(self._limit - size, 0)
            self._truncated = self._truncated or len(first) > room
            pieces.append(first[:room])
            size += len(first)
            for following in others:
                yield b"".join(pieces).decode("utf-8", "replace")
                pieces, size = [following[: self._limit]], len(following)
        if size:
            yield b"".join(pieces).decode("utf-8", "replace")
        if self._error is not None:
            raise self._error

    def wait(self) -> Result[Stream]:
        """Until the command has ended and everything of it is gone. May be called again."""
        if self._result is None:
            try:
                self._pump(lambda: self._finished and not self._readers)
            finally:
                self._close_streams()
                if self._finished:
                    try:
                        self.execution.close()
                    finally:
                        if self._on_end is not None:
                            self._on_end()
            self._result = self._make_result()
        return self._result

    def _make_result(self) -> Result[Stream]:
        out, err = (b"".join(self._kept[n]) for n in (1, 2))
        stdout, stderr = (data.decode("utf-8", "replace") if self.text else data for data in (out, err))
        last = self.execution.exited
        usage = self._usage()
        if self._error is not None and not self._timed_out:
            outcome: Outcome = outcomes.FAILED_TO_START
            code, signal = self._error.exit_code, 0
            if usage.oom_kills:
                outcome, code, signal = outcomes.OUT_OF_MEMORY, 137, 9
        else:
            status = last.values[0] if last is not None and last.type != FAILED else 9
            signal = status & 0x7F
            code = 128 + signal if signal else status >> 8 & 0xFF
            outcome = outcomes.SIGNALLED if signal else outcomes.EXITED
            if self._timed_out:
                outcome = outcomes.TIMEOUT
            elif usage.oom_kills and code == 137:
                outcome = outcomes.OUT_OF_MEMORY
            elif self.execution.problem is not None:
                outcome = outcomes.MACHINE_LOST
        return Result(
            command=self.command,
            outcome=outcome,
            exit_code=code,
            signal=signal,
            error=self._error if outcome == outcomes.FAILED_TO_START else self.execution.problem if outcome == outcomes.MACHINE_LOST else None,
            truncated=self._truncated,
            usage=usage,
            stdout=stdout,  # type: ignore[arg-type]
            stderr=stderr,  # type: ignore[arg-type]
        )

    def _usage(self) -> Usage:
        data, last = self.execution.data, self.execution.exited
        cpu = parse_keyed(data.get(CPU))
        values = last.values if last is not None else (0, 0, 0, 0)
        return Usage(
            wall=time.monotonic() - self._started,
            user=values[1] / 1e6,
            system=values[2] / 1e6,
            max_rss=values[3] * 1024,
            memory_peak=whole(data.get(PEAK)),
            oom_kills=parse_keyed(data.get(OOM)).get("oom_kill"),
            periods=cpu.get("nr_periods"),
            throttled_periods=cpu.get("nr_throttled"),
            pids_refused=parse_keyed(data.get(PIDS)).get("max"),
        )

    def _close_streams(self) -> None:
        for fd in self._readers:
            os.close(fd)
        self._readers = {}
        if self._feed_fd >= 0:
            self._end_feed()

    def close(self) -> None:
        """Kill what still runs, and free everything. Safe to call twice."""
        if self._result is None:
            self.execution.kill()
            self.wait()
