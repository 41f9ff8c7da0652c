"""create, start, run."""

from __future__ import annotations

import os

from hutch.cli.oci.main import Context
from hutch.errors import UsageError
from hutch.runtime.verbs.common import Options, read_configuration
from hutch.runtime.verbs.store import check_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.plan.plan import Plan
    from hutch.runtime.verbs.again import Again
    from hutch.runtime.verbs.run import Run


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
    from hutch.runtime.verbs import create as verbs

    verbs.create(context.store, words[0], verbs.load_bundle(values.get("bundle", ".")), options_of(context, values), context.log.notice)
    return 0


def start_command(context: Context, _: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci start`."""
    from hutch.runtime.verbs.start import start

    start(context.store, words[0])
    return 0


def run_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci run`: in the foreground the container is this command's, and goes with it; with --detach it lives on."""
    options = options_of(context, values)
    if values.get("detach"):
        from hutch.runtime.verbs import create as verbs
        from hutch.runtime.verbs.end import delete
        from hutch.runtime.verbs.start import start

        bundle = verbs.load_bundle(values.get("bundle", "."))
        verbs.create(context.store, words[0], bundle, options, context.log.notice)
        try:
            start(context.store, words[0])
        except BaseException:
            delete(context.store, words[0], force=True, notice=context.log.notice)
            raise
        return 0
    from hutch.cli import attach

    run, terminal = _runner(context, values, words[0], options)
    with run.launch() as execution:
        attach.pass_signals(execution)
        run.ready()
        last, _ = attach.relay(execution, None, True) if terminal else attach.wait(execution, None)
    run.ended()
    return attach.exit_code(last)


def _runner(context: Context, values: dict[str, Any], identity: str, options: Options) -> tuple[Run | Again, bool]:
    """What runs the bundle, and whether on this terminal: the plan of the last time, or one that is compiled now."""
    from hutch.runtime.verbs import again

    place = os.path.abspath(values.get("bundle", "."))
    text = read_configuration(place)

    def compiled(created: str) -> Plan:
        from hutch.runtime.verbs import create as verbs

        return verbs.Compilation(context.store, identity, verbs.load_bundle(place, text), options, lambda *_: None, await_start=False, created=created).plan

    plain = again.plain(options) and not values.get("keep")
    own = again.key(context.store, check_id(identity), place, text, options) if plain else b""
    found = again.find(context.store, own, identity, options, compiled) if plain else None
    if found is not None:
        return found, False
    from hutch.runtime.verbs import create as verbs, run

    fresh = run.Run(context.store, identity, verbs.load_bundle(place, text), options, context.log.notice, keep=bool(values.get("keep")))
    if plain:
        again.keep(own, fresh.creation)
    process = fresh.creation.config.process
    return fresh, process is not None and process.terminal and not options.console_socket
