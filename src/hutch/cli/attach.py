"""This terminal and a container's: streams, signals, sizes."""

from __future__ import annotations

import _signal  # the C module: `signal` costs the import of enum
import os
import select
import time

from hutch.executor.launcher import Execution
from hutch.executor.messages import Message
from hutch.kernel.terminals import is_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

PASSED_ON = (1, 2, 3, 10, 12, 15)  # HUP, INT, QUIT, USR1, USR2, TERM


def terminal_size() -> tuple[int, int]:
    """The rows and columns of this terminal; 24 by 80 when there is none."""
    for candidate in (0, 1, 2):
        try:
            columns, rows = os.get_terminal_size(candidate)
        except OSError:
            continue
        if rows and columns:
            return rows, columns
    return 24, 80


def pass_signals(execution: Execution) -> None:
    """Send on to the container what is sent to this process."""

    def forward(number: int, _: FrameType | None) -> None:
        execution.signal(number)

    for number in PASSED_ON:
        _signal.signal(number, forward)


def wait(execution: Execution, timeout: float | None, streams: Streams | None = None) -> tuple[Message, bool]:
    """The container's end, and whether it was the time limit's doing. Meanwhile `streams` are passed on."""
    deadline = None if timeout is None else time.monotonic() + timeout
    expired = False
    poll = select.poll()
    poll.register(execution.fileno(), select.POLLIN)
    if streams is not None:
        streams.register(poll)
    while execution.exited is None:
        left = None if deadline is None or expired else max(0.0, deadline - time.monotonic()) * 1000
        if streams is not None and streams.unread_until is not None:
            left = 100.0 if left is None else min(left, 100.0)
        events = poll.poll(left)
        for fd, event in events:
            if fd == execution.fileno():
                if execution.receive() is None:
                    execution.lost()
            elif streams is not None:
                streams.handle(poll, execution, fd, event)
        if streams is not None and streams.unread_until is not None and time.monotonic() > streams.unread_until:
            streams.unread_until = None
            execution.kill()
        if deadline is not None and not expired and time.monotonic() >= deadline:
            expired = True
            execution.kill()
    if streams is not None:
        streams.drain()
    return execution.wait(30), expired


class Streams:
    """The standard streams of a command without a terminal of its own.

    A pipe or a file is handed over as it is. A terminal never is: whoever has its descriptor reads what is typed there, and can
    change how it works (ioctl_tty(2)); what goes there and what is typed there goes through pipes. So it does for other devices, whose
    mode a container without a user namespace could change. `stdin`, `stdout` and `stderr`
    are for `Execution`; `release` closes them here once it has them. When nobody reads a pipe any more the command gets SIGPIPE, and is
    killed if it goes on for `PATIENCE` seconds: PID 1 ignores signals that it has no handler for.
    """

    PATIENCE = 1.0

    def __init__(self, *, interactive: bool = False, output: bool = True) -> None:
        self._ours: list[int] = []
        self._from: dict[int, int] = {}  # our end of a pipe, and the terminal that its content goes to
        self._watched: list[int] = []  # pipes of the caller's that the command writes to
        self._typed = -1  # our end of the pipe that carries what is typed
        self._pending = b""
        self.unread_until: float | None = None
        self.broken = False
        if not interactive:
            self.stdin, writer = os.pipe2(os.O_CLOEXEC)  # not /dev/null: without a user namespace, fchmod on it would change the host's
            os.close(writer)
            self._ours.append(self.stdin)
        elif is_device(0):
            self.stdin, self._typed = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._typed, False)
            self._ours.append(self.stdin)
        else:
            self.stdin = 0
        self.stdout, self.stderr = (self._output(fd) if output else self._nowhere() for fd in (1, 2))

    def _nowhere(self) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.close(reader)
        self._ours.append(writer)
        return writer

    def _output(self, fd: int) -> int:
        if not is_device(fd):
            self._watched.append(fd)
            return fd
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._from[reader] = fd
        self._ours.append(writer)
        return writer

    def release(self) -> None:
        """Close what was handed over."""
        for fd in self._ours:
            os.close(fd)
        self._ours.clear()

    def register(self, poll: select.poll) -> None:
        """Let a poll tell of everything that is to be passed on."""
        for fd in self._from:
            poll.register(fd, select.POLLIN)
        for fd in self._watched:
            poll.register(fd, 0)  # POLLERR alone: nobody reads it any more (pipe(7))
        if self._typed >= 0:
            poll.register(0, select.POLLIN)

    def handle(self, poll: select.poll, execution: Execution, fd: int, event: int) -> None:
        """What the poll told of a descriptor."""
        if fd in self._from:
            if not self._pass_on(fd):
                poll.unregister(fd)
                os.close(fd)
                del self._from[fd]
        elif fd in self._watched:
            poll.unregister(fd)
            if event & select.POLLERR:
                self.broken = True
                self.unread_until = time.monotonic() + self.PATIENCE
                execution.signal(13)  # PIPE
        elif fd == 0:
            data = os.read(0, 65536)
            if data:
                self._pending += data
                poll.unregister(0)  # until that is taken
                poll.register(self._typed, select.POLLOUT)
            else:
                poll.unregister(0)
                self._end_input()
        elif fd == self._typed:
            self._feed(poll)

    def _feed(self, poll: select.poll) -> None:
        try:
            self._pending = self._pending[os.write(self._typed, self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            poll.unregister(self._typed)
            self._end_input()
            return
        if not self._pending:
            poll.unregister(self._typed)
            poll.register(0, select.POLLIN)

    def _end_input(self) -> None:
        os.close(self._typed)
        self._typed = -1

    def _pass_on(self, fd: int) -> bool:
        data = os.read(fd, 65536)
        view = memoryview(data)
        while view:
            view = view[os.write(self._from[fd], view) :]
        return bool(data)

    def drain(self) -> None:
        """Pass on what is still there; a stranger that holds the other end is not waited for."""
        for fd in self._from:
            while select.select([fd], [], [], 0)[0] and self._pass_on(fd):
                pass
            os.close(fd)
        self._from.clear()
        if self._typed >= 0:
            self._end_input()


def relay(execution: Execution, timeout: float | None, interactive: bool) -> tuple[Message, bool]:
    """Join this terminal to the container's until it ends: raw mode, resizing, both directions."""
    import fcntl
    import termios
    import tty

    execution.wait_ready(120)
    master = execution.descriptors["terminal"]
    saved = None
    resized = [True]
    deadline = None if timeout is None else time.monotonic() + timeout
    expired = False
    if interactive and os.isatty(0):
        saved = termios.tcgetattr(0)
        tty.setraw(0)

    def on_resize(_: int, __: FrameType | None) -> None:
        resized[0] = True

    _signal.signal(28, on_resize)  # WINCH
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(execution.fileno(), select.POLLIN)
    poll.register(master, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    if interactive:
        poll.register(0, select.POLLIN)
    pending = b""
    try:
        while execution.exited is None:
            if resized[0] and os.isatty(0):
                resized[0] = False
                fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
            poll.modify(master, select.POLLIN | (select.POLLOUT if pending else 0)) if master >= 0 else None
            left = None if deadline is None or expired else max(0.0, deadline - time.monotonic()) * 1000
            events = poll.poll(left)
            if not events and left is not None:
                expired = True
                execution.kill()
            for fd, event in events:
                if fd == execution.fileno():
                    if execution.receive() is None:
                        execution.lost()
                elif fd == wake_read:
                    os.read(wake_read, 512)
                elif fd == master:
                    if event & select.POLLOUT and pending:
                        pending = pending[os.write(master, pending[:1024]) :]
                    if event & ~select.POLLOUT and not _copy(master):
                        poll.unregister(master)
                        master = -1
                elif fd == 0:
                    data = os.read(0, 65536)
                    if data:
                        pending += data
                    else:
                        pending += b"\x04"  # the end of input, as a terminal says it
                        poll.unregister(0)
        while master >= 0 and select.select([master], [], [], 0)[0] and _copy(master):
            pass
    finally:
        _signal.set_wakeup_fd(-1)
        os.close(wake_read)
        os.close(wake_write)
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
    assert execution.exited is not None
    return execution.exited, expired


def _copy(master: int) -> bool:
    """From the container's terminal to our output. False at its end: EIO when nobody holds the other side."""
    try:
        data = os.read(master, 65536)
    except OSError:
        return False
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
    return bool(data)


def exit_code(last: Message, streams: Streams | None = None) -> int:
    """The shell's exit code for a wait status; 141 for a command whose reader had gone and that had to be killed."""
    status = last.values[0]
    if streams is not None and streams.broken and status & 0x7F in (9, 13):
        return 141
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF


def say(text: str) -> None:
    """A line on standard error, from Hutch itself."""
    from hutch.cli.output import warn  # most runs have nothing to say

    warn(f"hutch: {text}")
