"""`hutch run`."""

from __future__ import annotations

import os

from hutch.cli import attach
from hutch.engine.launch import identity, plancache
from hutch.engine.records import state
from hutch.errors import NotFoundInContainer, UsageError
from hutch.executor import kept
from hutch.executor.launcher import Execution
from hutch.image import resolve
from hutch.image.resolve import MissingImage
from hutch.kernel.features import features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from hutch.engine.launch.identity import Marks
    from hutch.engine.spec.settings import Settings
    from hutch.image.registry.pull import Progress
    from hutch.plan.plan import Plan

OOM_TAG = 1  # hutch.cgroup.operations.OOM, whose import is not worth one number


def run(values: dict[str, Any], rest: list[str]) -> int:
    """Run a container; its exit code."""
    timeout = seconds(values.get("timeout"))
    detach, interactive, terminal = (bool(values.get(name)) for name in ("detach", "interactive", "tty"))
    if detach and timeout is not None:
        raise UsageError("timeout: needs somebody to wait: leave --detach out")
    if terminal and interactive and not detach and not os.isatty(0):
        raise UsageError("tty: standard input is not a terminal", "leave -t out, or -i")
    if terminal:
        values["console"] = attach.terminal_size()
    cidfile = values.get("cidfile")
    if cidfile and os.path.lexists(cidfile):
        raise UsageError(f"cidfile {cidfile}: exists")
    container_id, start = _ready(values, rest, detach)
    own = detach or terminal  # streams of its own: its log, its terminal
    streams = attach.Streams(interactive=interactive and not own, output=not own)
    try:
        execution = start(streams.stdin, streams.stdout, streams.stderr)
    finally:
        streams.release()
    with execution:
        try:
            if detach:
                execution.wait_ready()
                if cidfile:
                    _write(cidfile, container_id)
                from hutch.cli.output import tell

                tell(container_id)
                execution.detach()
                return 0
            if cidfile:
                _write(cidfile, container_id)
            if values.get("sig_proxy", True):
                attach.pass_signals(execution)
            if terminal:
                last, expired = attach.relay(execution, timeout, interactive)
            else:
                last, expired = attach.wait(execution, timeout, streams)
        except NotFoundInContainer as error:
            from hutch.engine.spec import options

            error.hint = error.hint or options.interpreter_hint(rest[0], tuple(rest[1:]))
            raise
    if execution.problem is not None and not expired:
        raise execution.problem
    code = attach.exit_code(last, streams)
    if expired:
        attach.say(f"killed after {timeout:g} s")
    elif code == 137 and "oom_kill 0\n" not in execution.data.get(OOM_TAG, "oom_kill 0\n"):
        limit = f" of {values['memory']}" if "memory" in values else ""
        attach.say(f"out of memory: killed at the memory limit{limit}")
    return code


def seconds(text: str | None) -> float | None:
    """The time limit. Raises UsageError."""
    if text is None:
        return None
    from hutch.cli.request import seconds as parse

    return parse(text, "timeout")


def _ready(values: dict[str, Any], rest: list[str], detach: bool):  # type: ignore[no-untyped-def]
    """The container's id, and what starts it: from a kept plan where there is one, else compiled."""

    def wanted() -> Settings:
        from hutch.cli import request

        return request.settings(values, rest)

    def shown(steps: Iterable[Progress]) -> None:
        from hutch.cli.progress import show

        show(steps, quiet=bool(values.get("quiet")))

    def compiled(marks: Marks) -> Plan:
        from hutch.engine.launch import prepare

        return prepare.prepare(wanted(), remove=bool(values.get("rm")), marks=marks).compiled.plan

    own = b""
    base = state.root()
    fetched = values.get("pull", "missing") == "always"
    if rest and not detach and not fetched and not rest[0].startswith(resolve.SNAPSHOT) and plancache.keepable(values):
        own = _key(values, rest)
    if own:
        found_plan = kept.load(plancache.place(base), own)
        if found_plan is not None:
            exports, marks, places = plancache.parts(found_plan[0])
            fresh, encoded = identity.personalise(found_plan[1], places)
            stored = kept.Stored(exports, encoded, lambda: compiled(marks))
            return fresh, lambda i, o, e: Execution(stored, stdin=i, stdout=o, stderr=e, replace=(marks.id, fresh))
    from hutch.engine.containers import create
    from hutch.engine.launch import launching

    prepared = create.create(wanted(), detach=detach, remove=bool(values.get("rm")), show=shown)
    if prepared.facts.idle and not detach:
        raise UsageError(f"{rest[0]}: what runs in it waits for commands, and would never end", f"hutch run -d {rest[0]}, and hutch exec")
    warnings = prepared.compiled.plan.warnings
    for warning in warnings:
        attach.say(f"warning: {warning}")
    if own and not warnings:
        said = plancache.said(prepared.compiled.plan.exports(), prepared.marks, prepared.places)
        kept.save(plancache.place(base), own, said, prepared.template)
    return prepared.id, lambda i, o, e: launching.launch(prepared, stdin=i, stdout=o, stderr=e)


def _key(values: dict[str, Any], rest: list[str]) -> bytes:
    """What a kept plan of a command is found by; nothing when its image is not here yet."""
    found = features()
    words = [*sorted(f"{k}={v}" for k, v in values.items()), "--", *rest]
    try:
        return plancache.key(words, resolve.resolve(rest[0], found), found)
    except MissingImage:
        return b""


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"cidfile {path}: {error.strerror}") from None
    os.write(fd, text.encode())
    os.close(fd)
