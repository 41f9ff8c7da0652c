"""create, start, run."""

from __future__ import annotations

import os

from hutch.cli.oci.main import Context
from hutch.errors import UsageError
from hutch.runtime.verbs import create as verbs
from hutch.runtime.verbs.create import Options, load_bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def number(values: dict[str, Any], key: str) -> int:
    """A flag's number of descriptors; 0 when it was not given. Raises UsageError."""
    text = str(values.get(key, "0"))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > MOST:
        raise UsageError(f"--{key.replace('_', '-')}: expected a number up to {MOST}, got {text[:20]!r}")
    return int(text)


MOST = 256  # descriptors that a container is handed


def options_of(context: Context, values: dict[str, Any]) -> Options:
    """The options of `create` and `run`. Descriptors that systemd handed to this process (sd_listen_fds(3)) go on to the container."""
    listening = os.environ.get("LISTEN_FDS", "")
    listening = listening if listening.isascii() and listening.isdigit() and int(listening[:9]) <= MOST else ""
    return Options(
        console_socket=values.get("console_socket", ""),
        pid_file=values.get("pid_file", ""),
        pivot=not values.get("no_pivot"),
        keyring=not values.get("no_new_keyring"),
        preserve=number(values, "preserve_fds") + int(listening or "0"),
        listening=int(listening or "0"),
        systemd=context.systemd,
        debug=context.log.debug,
    )


def create_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci create`."""
    verbs.create(context.store, words[0], load_bundle(values.get("bundle", ".")), options_of(context, values), context.log.notice)
    return 0


def start_command(context: Context, _: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci start`."""
    from hutch.runtime.verbs.start import start

    start(context.store, words[0], context.log.notice)
    return 0


def run_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci run`: in the foreground the container is this command's, and goes with it; with --detach it lives on."""
    bundle, options = load_bundle(values.get("bundle", ".")), options_of(context, values)
    if values.get("detach"):
        from hutch.runtime.verbs.end import delete
        from hutch.runtime.verbs.start import start

        verbs.create(context.store, words[0], bundle, options, context.log.notice)
        try:
            start(context.store, words[0], context.log.notice)
        except BaseException:
            delete(context.store, words[0], force=True, notice=context.log.notice)
            raise
        return 0
    from hutch.cli import attach
    from hutch.runtime.verbs import run as foreground

    run = foreground.Run(context.store, words[0], bundle, options, context.log.notice, keep=bool(values.get("keep")))
    terminal = bundle.config.process is not None and bundle.config.process.terminal and not options.console_socket
    with run.launch() as execution:
        attach.pass_signals(execution)
        run.ready()
        last, _ = attach.relay(execution, None, True) if terminal else attach.wait(execution, None)
    run.ended()
    return attach.exit_code(last)
