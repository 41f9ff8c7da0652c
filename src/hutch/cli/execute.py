"""`hutch exec`."""

from __future__ import annotations

import os

from hutch.cli import attach, request
from hutch.cli.output import tell
from hutch.engine.containers import recorded
from hutch.engine.launch import enter
from hutch.engine.records import live, state
from hutch.errors import UsageError
from hutch.executor.launcher import Execution
from hutch.oci.config import ConsoleSize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.executor.kept import Stored
    from hutch.plan.plan import Plan


def healthcheck(_: dict[str, Any], rest: list[str]) -> int:
    """Run the check that the image defines, once, in a container that runs: 0 for healthy, 1 for not."""
    if len(rest) != 1:
        raise UsageError("healthcheck: expected one container")
    kind, *words = state.find(rest[0]).data.get("health") or [""]
    if kind not in ("CMD", "CMD-SHELL") or not words:
        raise UsageError(f"healthcheck: the image of {rest[0]} defines no check")
    code = execute({}, [rest[0], *(["/bin/sh", "-c", words[0]] if kind == "CMD-SHELL" else words)])
    tell("healthy" if code == 0 else "unhealthy")
    return 0 if code == 0 else 1


def execute(values: dict[str, Any], rest: list[str]) -> int:
    """Run a command in a container that runs; its exit code."""
    if len(rest) < 2:
        raise UsageError("exec: a container and a command are needed", "`hutch exec CONTAINER COMMAND [ARG...]`")
    running = state.find(rest[0])
    terminal, interactive = values.get("tty", False), values.get("interactive", False)
    if terminal and interactive and not os.isatty(0):
        raise UsageError("tty: standard input is not a terminal", "leave -t out, or -i")
    container = recorded.live_of(running)
    env = dict(item.partition("=")[::2] for item in request.environment(values))
    rows, columns = attach.terminal_size() if terminal else (0, 0)
    size = ConsoleSize(height=rows, width=columns) if terminal else None
    privileged = values.get("privileged", False)
    argv = tuple(rest[1:])
    who = enter.user_of(container, values.get("user"))
    plan: Plan | Stored
    if container.machine is not None:
        from hutch.engine.machines import channel

        process = enter.process_of(container, argv, env, values.get("workdir"), who, terminal=size, privileged=privileged)
        plan = enter.remote_plan(container, process, privileged=privileged)
        pidfd = channel.connect(running.directory, running.name or running.id)
    else:
        template = enter.template(container, env=env, workdir=values.get("workdir"), who=who, terminal=size, privileged=privileged)
        plan = template.command(argv)
        pidfd = live.open_pidfd(running)
    streams = attach.Streams(interactive=interactive and not terminal, output=not terminal)
    try:
        execution = Execution(plan, stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr, extra=(pidfd,))
    finally:
        os.close(pidfd)
        streams.release()
    with execution:
        attach.pass_signals(execution)
        last, _ = attach.relay(execution, None, interactive) if terminal else attach.wait(execution, None, streams)
    if execution.problem is not None:
        raise execution.problem
    return attach.exit_code(last, streams)
