"""Start executors and listen to them.

An executor is started by posix_spawn(3) from a sealed memfd: neither a threaded program nor one with a large heap is forked,
and no container finds a file of the host's behind /proc/self/exe. It talks over one SOCK_SEQPACKET socket, whose end, like
the owner's own, ends the container.
"""

from __future__ import annotations

import _socket  # the C module: `socket` costs the import of selectors and enum
import os
import select
import time

from hutch.errors import HutchError, MachineLost, StartError
from hutch.executor import messages
from hutch.executor.messages import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hutch.executor.kept import Stored
    from hutch.plan.plan import Plan

BINARY = os.path.join(os.path.dirname(__file__), "executor")
FIRST_EXTRA = 5  # the executor's number of the first of `extra`: behind the standard streams, the plan and the socket
_F_DUPFD_CLOEXEC = 1030
_F_ADD_SEALS, _ALL_SEALS = 1033, 0x0F
_LOW = 64  # the executor's image stays above the numbers that it expects its descriptors at

NOTHING = Message(type=0)
_image: list[int] = []  # the pid that opened it, the descriptor


def _executor_image() -> int:
    """The executor in a sealed memfd: opened once a process (a child of fork shares its parent's)."""
    if _image:
        return _image[1]
    import fcntl

    try:
        with open(BINARY, "rb") as file:
            code = file.read()
    except FileNotFoundError:
        raise HutchError(f"the executor is missing: {BINARY} does not exist", "reinstall hutch: it is compiled when the package is built") from None
    low = os.memfd_create("hutch-executor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(low, code)
    fcntl.fcntl(low, _F_ADD_SEALS, _ALL_SEALS)
    # executed through a descriptor of its own: a writable one, even sealed, would be ETXTBSY
    readable = os.open(f"/proc/self/fd/{low}", os.O_RDONLY | os.O_CLOEXEC)
    fd = fcntl.fcntl(readable, _F_DUPFD_CLOEXEC, _LOW)
    os.close(readable)
    os.close(low)
    _image[:] = [os.getpid(), fd]
    return fd


def _above(fd: int, low: int) -> int:
    """The descriptor, or a duplicate, out of the range that dup2 will overwrite."""
    if fd >= low:
        return fd
    import fcntl

    return int(fcntl.fcntl(fd, _F_DUPFD_CLOEXEC, low))


class Execution:
    """One executor at work: a container, or a command in one.

    `pid` is the container's process and `executor_pid` its parent, as this process sees them; `descriptors` are what the
    plan exported, by slot name. A context manager: leaving it kills what still runs.
    """

    def __init__(
        self,
        plan: Plan | Stored,
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        extra: Sequence[int] = (),
        on_call: Callable[[str, int, int], None] | None = None,
        encoded: bytes | None = None,
        replace: tuple[str, str] = ("", ""),
        trace: bool = False,
    ) -> None:
        self.plan = plan
        self._replace = replace  # a template's placeholder, and what stands for it in `encoded`
        self.pid = 0
        self.descriptors: dict[str, int] = {}
        self.data: dict[int, str] = {}
        self.exited: Message | None = None
        self.problem: MachineLost | None = None
        self.ready = False
        self._on_call = on_call
        self._reaped = False
        self._trace = -1
        image = _executor_image()
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        temporary: list[int] = []
        try:
            text = plan.encode(0) if encoded is None else encoded
            text = text[:8] + os.getpid().to_bytes(4, "little") + text[12:]
            if trace:
                self._trace = os.memfd_create("hutch-trace", os.MFD_CLOEXEC)
                os.ftruncate(self._trace, 8 * (1 + len(plan.whole.host) + len(plan.whole.container)))
                extra = [*extra, self._trace]
                text = text[:28] + (FIRST_EXTRA + len(extra) - 1).to_bytes(4, "little") + text[32:]
            plan_fd = os.memfd_create("hutch-plan", os.MFD_CLOEXEC)
            temporary.append(plan_fd)
            if os.write(plan_fd, text) != len(text):
                raise StartError("the plan could not be written to memory: no space left")
            actions: list[tuple[int, int, int]] = []
            wanted = [stdin, stdout, stderr, plan_fd, theirs.fileno(), *extra]
            for target, fd in enumerate(wanted):
                source = _above(fd, len(wanted))
                if source != fd:
                    temporary.append(source)
                actions.append((os.POSIX_SPAWN_DUP2, source, target))
            try:
                self.executor_pid = os.posix_spawn(f"/proc/self/fd/{image}", ["hutch-executor"], {}, file_actions=actions, setsid=True, setsigmask=())
            except OSError as error:
                raise StartError(f"start the executor: {error.strerror}", errno=error.errno or 0) from None
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            for fd in temporary:
                os.close(fd)
        self._socket = ours
        # the socket alone does not tell of the executor's end: until its program starts, the container holds a copy
        try:
            self._pidfd = os.pidfd_open(self.executor_pid)
        except OSError:
            self._pidfd = -1  # it ended at once, and somebody else's loop has reaped it: the socket says the rest
        self._poll = select.epoll()
        self._poll.register(ours.fileno(), select.EPOLLIN)
        if not plan.detach and self._pidfd >= 0:  # there the process that was spawned ends at once, and leaves its child as monitor
            self._poll.register(self._pidfd, select.EPOLLIN)

    def fileno(self) -> int:
        """A descriptor to be polled for messages, and for the executor's end."""
        return self._poll.fileno()

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive(self) -> Message | None:
        """Take one message, if one is there (else its type is 0). None: the executor is gone. Raises StartError when the
        start failed."""
        try:
            raw, ancillary, _, _ = self._socket.recvmsg(messages.SIZE, 1024, _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT)
        except ConnectionResetError:
            raw, ancillary = b"", []
        except BlockingIOError:
            if not any(fd == self._pidfd for fd, _ in self._poll.poll(0)):
                return NOTHING
            # it has ended: whatever it said is there by now
            try:
                raw, ancillary, _, _ = self._socket.recvmsg(messages.SIZE, 1024, _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
        if len(raw) < 48:
            return None
        message = messages.decode(raw)
        if message.type == messages.READY:
            self.ready = True
            self.pid = message.values[0]
            self._take(message, ancillary)
        elif message.type == messages.EXITED:
            self.exited = message
            if message.error:
                from hutch.executor import explain

                self.problem = explain.lost(message.detail.split(b"\0")[0].decode("utf-8", "replace"))
            else:
                self.data.update(messages.unpack(message.detail))
        elif message.type == messages.DATA:
            self.data[message.index] = message.detail[: message.values[0]].decode("utf-8", "replace")
        elif message.type == messages.CALL:
            self._take(message, ancillary)
            self._answer(message)
        elif message.type == messages.FAILED:
            self.exited = message
            detail = message.detail.split(b"\0")[0].decode("utf-8", "replace")
            from hutch.executor import explain

            self._reap()
            raise explain.failure(self.plan.whole, message, detail, self._replace)
        return message

    def _take(self, message: Message, ancillary: list[tuple[int, int, bytes]]) -> None:
        """The descriptors of a message: a bit mask tells which of the plan's exports they are. What came before comes again."""
        numbers = [int.from_bytes(part[i : i + 4], "little") for _, _, part in ancillary for i in range(0, len(part) - 3, 4)]
        names = [name for i, name in enumerate(self.plan.exports()) if message.values[2] >> i & 1]
        for name, fd in zip(names, numbers, strict=True):
            if name in self.descriptors:
                os.close(fd)
            else:
                self.descriptors[name] = fd

    def times(self) -> list[tuple[str, int, int]]:
        """With `trace`: (lane, index, nanoseconds since the start) of every operation that was done, in the order of their ends."""
        if self._trace < 0:
            return []
        plan = self.plan.whole
        words = os.pread(self._trace, 8 * (1 + len(plan.host) + len(plan.container)), 0)
        stamps = [int.from_bytes(words[i : i + 8], "little") for i in range(0, len(words), 8)]
        found = [(end - stamps[0], lane, index) for end, (lane, index, _) in zip(stamps[1:], plan.lanes(), strict=True) if end]
        return [(lane, index, end) for end, lane, index in sorted(found)]

    def _answer(self, message: Message) -> None:
        operation = self.plan.whole.operation(message.lane, message.index)
        try:
            if self._on_call is None:
                raise HutchError("nobody answers")
            self._on_call(operation.request, message.values[0], message.values[1])  # type: ignore[attr-defined]
        except Exception as error:  # whatever it is, the executor waits for an answer and must undo
            self._send(messages.encode(messages.ANSWER, messages.EREMOTEIO, str(error)))
        else:
            self._send(messages.encode(messages.ANSWER, 0))

    def _send(self, raw: bytes) -> None:
        try:
            self._socket.send(raw)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended: its last words are still to be read

    def wait_ready(self, timeout: float | None = None) -> None:
        """Until the program runs. Raises StartError if it cannot, TimeoutError after `timeout` seconds."""
        self._until(lambda: self.ready or self.exited is not None, timeout)

    def wait(self, timeout: float | None = None) -> Message:
        """Until the container has ended and everything was undone. Raises TimeoutError after `timeout` seconds."""
        self._until(lambda: self.exited is not None, timeout)
        self._reap()
        assert self.exited is not None
        return self.exited

    def _until(self, done: Callable[[], bool], timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        while not done():
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left):
                raise TimeoutError
            if self.receive() is None:
                self.lost()

    def lost(self) -> None:
        """The executor ended without a word: something killed it. What its plan did on the host is undone from here."""
        from hutch.executor import undo

        self._reap()
        if "pidfd" in self.descriptors:
            undo.kill_process(self.descriptors["pidfd"])  # it may have cleared its death signal
        undo.undo(self.plan.whole, self._replace)
        if self.exited is None:
            self.exited = Message(type=messages.EXITED, values=(9, 0, 0, 0))
        if not self.ready:
            raise StartError("the executor was killed before the container ran")

    def signal(self, number: int) -> None:
        """Send a signal to the container's process."""
        self._send(messages.encode(messages.SEND_SIGNAL, number))

    def kill(self) -> None:
        """Kill the container's process, and with its pid namespace everything in it."""
        self._send(messages.encode(messages.KILL_TREE))

    def _reap(self) -> None:
        if self._reaped:
            return
        self._reaped = True
        try:
            os.waitpid(self.executor_pid, 0)
        except ChildProcessError:
            pass  # SIGCHLD is ignored here, or somebody else's loop reaped it

    def detach(self) -> None:
        """Let go of a detached container: its monitor goes on."""
        self._reap()
        self._let_go()

    def _give_up(self) -> None:
        """An executor that does not answer (stopped, or stuck in the kernel) is killed, and its work undone from here."""
        try:
            os.kill(self.executor_pid, 9)
            self.lost()
        except (ProcessLookupError, StartError):
            pass

    def _let_go(self) -> None:
        self._socket.close()
        self._poll.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors = {}
        if self._trace >= 0:
            os.close(self._trace)
            self._trace = -1

    def close(self) -> None:
        """End whatever runs and free everything. Safe to call twice."""
        if self._socket.fileno() < 0:
            return
        try:
            if self.exited is None:
                self.kill()
                try:
                    self.wait(30)
                except TimeoutError:
                    self._give_up()
                except StartError:
                    pass
            self._reap()
        finally:
            self._let_go()
