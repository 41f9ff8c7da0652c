"""`hutch run`."""

from __future__ import annotations

import os

from hutch.cli import attach, request
from hutch.cgroup.live import parse_keyed
from hutch.cgroup.operations import OOM
from hutch.engine import options, prepare
from hutch.engine.settings import Settings
from hutch.errors import NotFoundInContainer, StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(values: dict[str, Any], rest: list[str]) -> int:
    """Run a container; its exit code."""
    settings = request.settings(values, rest)
    timeout = request.seconds(values.get("timeout"), "timeout")
    detach = values.get("detach", False)
    if detach and timeout is not None:
        raise UsageError("timeout: needs somebody to wait: leave --detach out")
    if settings.terminal and settings.interactive and not detach and not os.isatty(0):
        raise UsageError("tty: standard input is not a terminal", "leave -t out, or -i")
    _check_name(settings)
    cidfile = values.get("cidfile")
    if cidfile and os.path.lexists(cidfile):
        raise UsageError(f"cidfile {cidfile}: exists")
    prepared = prepare.prepare(settings, detach=detach)
    for warning in prepared.compiled.plan.warnings:
        attach.say(f"warning: {warning}")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    stdin = 0 if settings.interactive and not detach else null
    outputs = (null, null) if detach else (1, 2)
    execution = prepare.launch(prepared, stdin=stdin, stdout=outputs[0], stderr=outputs[1])
    os.close(null)
    with execution:
        try:
            if detach:
                execution.wait_ready()
                if cidfile:
                    _write(cidfile, prepared.id)
                print(prepared.id)
                execution.detach()
                return 0
            if cidfile:
                _write(cidfile, prepared.id)
            if values.get("sig_proxy", True):
                attach.pass_signals(execution)
            if settings.terminal:
                last, expired = attach.relay(execution, timeout, settings.interactive)
            else:
                last, expired = attach.wait(execution, timeout)
        except NotFoundInContainer as error:
            if settings.image == "host":
                error.hint = error.hint or options.interpreter_hint(prepared.args, prepared.rootfs.invisible)
            raise
    code = attach.exit_code(last)
    if expired:
        attach.say(f"killed after {timeout:g} s")
    elif code == 137 and parse_keyed(execution.data.get(OOM)).get("oom_kill"):
        limit = f" of {values['memory']}" if "memory" in values else ""
        attach.say(f"out of memory: killed at the memory limit{limit}")
    return code


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"cidfile {path}: {error.strerror}") from None
    os.write(fd, text.encode())
    os.close(fd)


def _check_name(settings: Settings) -> None:
    if not settings.name:
        return
    from hutch.engine import state

    for running in state.containers():
        if running.name == settings.name:
            raise StateError(f"name {settings.name!r}: container {running.id} has it", "`hutch rm` removes one that has ended")
