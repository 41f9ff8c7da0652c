"""exec."""

from __future__ import annotations

from hutch.cli.oci.main import Context
from hutch.cli.oci.making import number
from hutch.errors import UsageError
from hutch.runtime.verbs import execute as verbs
from hutch.runtime.verbs.execute import ExecOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.oci.config import Config, Process


def process_of(config: Config, values: dict[str, Any], words: list[str]) -> Process:
    """The process: from a file, or the container's own with the command line's changes. Raises UsageError."""
    if values.get("process"):
        if len(words) > 1:
            raise UsageError("exec: a process comes from --process or from the command line, not both")
        return verbs.process_from(values["process"])
    if len(words) < 2:
        raise UsageError("exec: the command is missing", "`hutch-oci exec --help` shows what it takes")
    base = config.process
    assert base is not None
    groups = tuple(verbs.user_id(word) for text in values.get("additional_gids", []) for word in text.split(","))
    return verbs.process_with(
        base,
        tuple(words[1:]),
        cwd=values.get("cwd", ""),
        env=tuple(values.get("env", ())),
        tty=bool(values.get("tty")),
        user=values.get("user", ""),
        groups=groups,
        caps=tuple(values.get("cap", ())),
        apparmor=values.get("apparmor", ""),
        label=values.get("process_label", ""),
        no_new_privileges=bool(values.get("no_new_privs")),
    )


def exec_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci exec`: the process's exit code, 128 and the signal; 255 when it could not be started."""
    options = ExecOptions(
        detach=bool(values.get("detach")),
        console_socket=values.get("console_socket", ""),
        pid_file=values.get("pid_file", ""),
        preserve=number(values, "preserve_fds"),
        cgroup=tuple(values.get("cgroup", ())),
        ignore_paused=bool(values.get("ignore_paused")),
        debug=context.log.debug,
    )
    entry = context.store.load(words[0])
    config = entry.config()
    process = process_of(config, values, words)
    if not options.detach and process.terminal and not options.console_socket and process.console_size is None:
        from hutch.cli import attach
        from hutch.oci.config import ConsoleSize

        rows, columns = attach.terminal_size()
        process = process.replace(console_size=ConsoleSize(height=rows, width=columns))
    command = verbs.Command(entry, config, process, options, context.log.notice)
    with command.launch() as execution:
        if options.detach:
            command.ready()
            execution.detach()
            return 0
        from hutch.cli import attach

        attach.pass_signals(execution)
        command.ready()
        on_ours = process.terminal and not options.console_socket
        last, _ = attach.relay(execution, None, True) if on_ours else attach.wait(execution, None)
    return attach.exit_code(last)
