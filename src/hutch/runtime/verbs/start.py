"""start: let a created container go on to its program (runtime.md, "Start")."""

from __future__ import annotations

import os
import select
import time

from hutch.errors import HutchError, StateError
from hutch.executor import messages
from hutch.runtime.verbs.store import CREATED, REPORT, START, Entry, Lock, Store

REAPING = 1.0  # seconds


def start(store: Store, identity: str) -> None:
    """Start a container, and wait until its program runs. Raises StateError when it is not in the state created, StartError
    when a startContainer hook or the program's start failed; HutchError when a poststart hook failed, upon which the
    container is stopped (runtime.md, "Lifecycle", step 9)."""
    entry = store.load(identity)
    with Lock(entry.directory, identity):
        release(store, entry)
        if entry.data.get("poststart"):
            poststart(entry)


def release(store: Store, entry: Entry) -> None:
    """Give the word, and read whether the program began: the other end closes at its execve."""
    status = entry.status()
    if status != CREATED:
        raise StateError(f"container {entry.id}: cannot start a container that is {status}: only a created one can be started")
    try:
        report = os.open(f"{entry.directory}/{REPORT}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        commands = os.open(f"{entry.directory}/{START}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise StateError(f"container {entry.id}: its process has ended before it was started ({error.strerror})") from None
    try:
        raw = _answer(entry, commands, report)
    except BrokenPipeError:
        raise StateError(f"container {entry.id}: its process has ended before it was started") from None
    finally:
        os.close(report)
        os.close(commands)
    if len(raw) >= 48:
        from hutch.executor import explain
        from hutch.runtime.verbs.create import recompile

        _gone(entry)
        message, plan = messages.decode(raw), recompile(store, entry)
        if message.lane != 1 or not 0 <= message.index < len(plan.container) or not 0 <= message.error < 4096:
            raise StateError(f"container {entry.id}: what its process reported of its start cannot be read: something in it wrote to the pipe")
        raise explain.failure(plan, message, message.detail.split(b"\0")[0].decode("utf-8", "replace"))
    # the pipe closed without a word: at the execve, or by a death; a program that has ended already did start
    if not entry.alive() and _never_ran(entry):
        raise StateError(f"container {entry.id}: its process was killed before its program started")


def _answer(entry: Entry, commands: int, report: int) -> bytes:
    """Give the word, and wait until the other end closes, by an execve or a death. Whoever else may have come to hold that end,
    a child of a hook's for one, is not waited for: the process's own state tells, too."""
    poll = select.poll()
    poll.register(report, select.POLLIN)
    os.write(commands, b"s")
    raw = b""
    while len(raw) < messages.SIZE:
        if poll.poll(50):
            part = os.read(report, messages.SIZE - len(raw))
            if not part:
                break
            raw += part
        elif not entry.alive() or not entry.waits():
            break
    return raw


def _gone(entry: Entry) -> None:
    """Give the process's parent a moment to reap it: an engine that is told of the failure first finds its container alive, and
    would keep it."""
    deadline = time.monotonic() + REAPING
    while os.path.exists(f"/proc/{entry.pid}") and time.monotonic() < deadline:
        time.sleep(0.002)


def _never_ran(entry: Entry) -> bool:
    """Whether the dead process is still what the executor made of it: its name changes with the execve (a zombie keeps it)."""
    try:
        with open(f"/proc/{entry.pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip() == "hutch-executor"
    except OSError:
        return False


def poststart(entry: Entry) -> None:
    """Run the poststart hooks; a failure stops the container."""
    from hutch.runtime.verbs import end, hooks

    config = entry.config()
    if config.hooks is None or not config.hooks.poststart:
        return
    try:
        hooks.run_all(config.hooks.poststart, "poststart", hooks.state(config, entry.id, entry.bundle, "running", entry.pid))
    except HutchError as error:
        end.kill_all(entry, 9)
        end.wait_dead(entry, 10)
        raise HutchError(f"{error.message} (the container was stopped)") from None
