"""This terminal and a container's: streams, signals, sizes."""

from __future__ import annotations

import _signal  # the C module: `signal` costs the import of enum
import os
import select
import sys
import time

from hutch.executor.launcher import Execution
from hutch.executor.messages import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from hutch.oci.config import ConsoleSize

PASSED_ON = (1, 2, 3, 10, 12, 15)  # HUP, INT, QUIT, USR1, USR2, TERM


def terminal_size(fd: int = 0) -> ConsoleSize:
    """The size of this terminal; 24 by 80 when there is none."""
    from hutch.oci.config import ConsoleSize

    for candidate in (fd, 1, 2):
        try:
            columns, rows = os.get_terminal_size(candidate)
        except OSError:
            continue
        if rows and columns:
            return ConsoleSize(height=rows, width=columns)
    return ConsoleSize(height=24, width=80)


def pass_signals(execution: Execution) -> None:
    """Send on to the container what is sent to this process."""

    def forward(number: int, _: FrameType | None) -> None:
        execution.signal(number)

    for number in PASSED_ON:
        _signal.signal(number, forward)


def wait(execution: Execution, timeout: float | None) -> tuple[Message, bool]:
    """The container's end, and whether it was the time limit's doing."""
    try:
        return execution.wait(timeout), False
    except TimeoutError:
        execution.kill()
        return execution.wait(30), True


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


def exit_code(last: Message) -> int:
    """The shell's exit code for a wait status."""
    status = last.values[0]
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF


def say(text: str) -> None:
    """A line on standard error, from Hutch itself."""
    sys.stderr.write(f"hutch: {text}\n")
