"""Hooks that run in the runtime's namespaces: prestart, createRuntime, poststart, poststop (config.md, "POSIX-platform Hooks")."""

from __future__ import annotations

import os
import select

from hutch.errors import HutchError
from hutch.oci.config import Config, Hook
from hutch.runtime.lifecycle import state_text

SAID = 2048  # bytes of a failing hook's output that its error shows


def state(config: Config, identity: str, bundle: str, status: str, pid: int) -> str:
    """What a hook reads on its standard input."""
    head, tail = state_text(config, identity, bundle, status)
    return f"{head}{pid}{tail}"


def run(hook: Hook, origin: str, text: str) -> None:
    """Run one hook to its end. Raises HutchError when it cannot start, fails, or takes longer than its timeout."""
    given, said = os.memfd_create("state", os.MFD_CLOEXEC), os.memfd_create("said", os.MFD_CLOEXEC)
    try:
        os.write(given, text.encode("utf-8", "surrogateescape"))
        os.lseek(given, 0, os.SEEK_SET)
        environment = dict(item.partition("=")[::2] for item in hook.env)
        actions = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)]
        try:
            pid = os.posix_spawn(hook.path, list(hook.args or (hook.path,)), environment, file_actions=actions, setpgroup=0)
        except OSError as error:
            raise HutchError(f"{origin}: run {hook.path}: {error.strerror}") from None
        status = _wait(pid, hook.timeout)
        if status is None:
            raise HutchError(f"{origin}: {hook.path} was not done after {hook.timeout} s, and was killed")
        if status:
            code = os.waitstatus_to_exitcode(status)
            what = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
            output = os.pread(said, SAID, 0).decode("utf-8", "replace").strip()
            raise HutchError(f"{origin}: {hook.path}: {what}{f': {output}' if output else ''}")
    finally:
        os.close(given)
        os.close(said)


def _wait(pid: int, timeout: int | None) -> int | None:
    """The wait status; None when the time is over, and the hook with all its group is dead."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(timeout * 1000 if timeout else None):
            os.killpg(pid, 9)
            os.waitpid(pid, 0)
            return None
    finally:
        os.close(pidfd)
    return os.waitpid(pid, 0)[1]


def run_all(hooks: tuple[Hook, ...], kind: str, text: str) -> None:
    """Run hooks in their order; the first failure ends it."""
    for i, hook in enumerate(hooks):
        run(hook, f"hooks.{kind}[{i}]", text)


def poststop(config: Config, identity: str, bundle: str) -> list[str]:
    """Run every poststop hook, whatever the others do; the failures in words, which are warnings (runtime.md, "Lifecycle")."""
    failures = []
    text = state(config, identity, bundle, "stopped", 0)
    for i, hook in enumerate(config.hooks.poststop if config.hooks is not None else ()):
        try:
            run(hook, f"hooks.poststop[{i}]", text)
        except HutchError as error:
            failures.append(error.message)
    return failures
