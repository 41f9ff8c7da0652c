"""`hutch-oci`: global flags, then the command; what goes wrong is one message on standard error and in the log."""

from __future__ import annotations

import sys

from hutch.cli.oci.log import Log
from hutch.cli.output import tell
from hutch.cli.parse import Flag, parse
from hutch.errors import HutchError, UsageError
from hutch.record import Record
from hutch.runtime.verbs.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from hutch.cli.parse import Command

PROGRAM = "hutch-oci"
FAILURE = 1  # what runtimes end with when they could not do what they were asked for
AS_THEY_COME = ("exec", "ps")  # whose flags end at the first word that is none: the rest is another program's


class Context(Record):
    """What every command needs: where the containers are, the log, the global flags."""

    store: Store
    log: Log
    systemd: bool


def words_of(command: Command, words: Sequence[str]) -> list[str]:
    """Callers written in Go may give a long flag one dash."""
    table = {f"--{name.lstrip('-')}" for flag in command.flags for name in flag.names if name.startswith("--")}
    out: list[str] = []
    for i, word in enumerate(words):
        if word == "--" or (command.name in AS_THEY_COME and not word.startswith("-") and not _is_value(command, words, i)):
            return [*out, *words[i:]]
        long = len(word) > 2 and word[0] == "-" and word[1] != "-" and f"-{word.partition('=')[0]}" in table
        out.append(f"-{word}" if long else word)
    return out


def _is_value(command: Command, words: Sequence[str], i: int) -> bool:
    """Whether a word is the value of the flag before it."""
    if i == 0:
        return False
    flag = next((f for f in command.flags if words[i - 1] in f.names or f"-{words[i - 1]}" in f.names), None)
    return flag is not None and flag.kind != "switch"


def parse_all(command: Command, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Flags and words, in any order but for `exec` and `ps`. Raises UsageError."""
    words = words_of(command, words)
    values, rest = parse(command, words, PROGRAM)
    positional: list[str] = []
    while rest and command.name not in AS_THEY_COME:
        positional.append(rest[0])
        more, rest = parse(command, rest[1:], PROGRAM)
        values.update(more)
    positional += rest
    if 0 <= command.positional != len(positional) and not values.get("help"):
        expected = {0: "no argument", 1: "one argument, the container's id"}[command.positional]
        raise UsageError(f"{command.name}: expected {expected}, got {len(positional)}", f"`{PROGRAM} {command.name} --help` shows what it takes")
    if command.positional < 0 and not positional and not values.get("help"):
        raise UsageError(f"{command.name}: the container's id is missing", f"`{PROGRAM} {command.name} --help` shows what it takes")
    return values, positional


def find(name: str) -> Command:
    """A command of the table. Raises UsageError."""
    from hutch.cli.oci.flags import COMMANDS

    for command in COMMANDS:
        if command.name == name:
            return command
    raise UsageError(f"unknown command {name!r}", f"`{PROGRAM} --help` lists the commands")


def overview() -> str:
    """What `hutch-oci --help` prints."""
    from hutch.cli.oci.flags import COMMANDS, GLOBAL

    lines = [
        f"usage: {PROGRAM} {GLOBAL.usage}",
        "",
        f"An OCI runtime: containers from bundles, for engines and by hand. `{PROGRAM} COMMAND --help` tells more.",
        "",
        *(f"  {command.name:<11} {command.summary}" for command in COMMANDS),
        "",
        "global flags:",
        *(f"  {_shown(flag):<40} {flag.help}" for flag in GLOBAL.flags),
        "",
        f"try: mkdir -p bundle/rootfs/bin && cp /bin/busybox bundle/rootfs/bin/sh && {PROGRAM} spec -b bundle && {PROGRAM} run -b bundle first",
    ]
    return "\n".join(lines)


def _shown(flag: Flag) -> str:
    return ", ".join(flag.names) + (f" {flag.value}" if flag.value else "")


def globals_of(words: Sequence[str], log: Log) -> tuple[Context, dict[str, Any], list[str]]:
    """The context, the global flags, and the command's words. Raises UsageError."""
    from hutch.cli.oci.flags import GLOBAL

    values, rest = parse(GLOBAL, words_of(GLOBAL, words), PROGRAM)
    log.path = values.get("log", "")
    log.debug = bool(values.get("debug"))
    form = values.get("log_format", "text")
    if form not in ("text", "json"):
        raise UsageError(f"--log-format: expected text or json, got {form!r}")
    log.json = form == "json"
    systemd = bool(values.get("systemd_cgroup")) or values.get("cgroup_manager") == "systemd"
    return Context(store=Store(values.get("root", "")), log=log, systemd=systemd), values, rest


def version() -> str:
    """What `--version` prints, in the form that engines read."""
    from hutch.oci.config import VERSION as SPECIFICATION
    from hutch.version import VERSION

    return f"{PROGRAM} version {VERSION}\nspec: {SPECIFICATION}"


def fill_streams() -> None:
    """Standard streams that the caller closed are the null device: what is opened next would take their numbers."""
    import os

    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def main(arguments: list[str] | None = None) -> int:
    """The command line's entry: an exit code."""
    fill_streams()
    log = Log()
    try:
        context, values, rest = globals_of(sys.argv[1:] if arguments is None else arguments, log)
        if values.get("version"):
            tell(*version().split("\n"))
            return 0
        if values.get("help") or not rest or rest[0] in ("help", "-h"):
            tell(*overview().split("\n"))
            return 0
        from hutch.cli.oci.flags import PLACES

        command = find(rest[0])
        options, positional = parse_all(command, rest[1:])
        if options.get("help"):
            from hutch.cli.parse import help_text

            tell(*help_text(command, PROGRAM).split("\n"))
            return 0
        module = __import__(f"hutch.cli.oci.{PLACES[command.name]}", fromlist=["*"])
        code: int = getattr(module, f"{command.name}_command")(context, options, positional)
        sys.stdout.flush()
        return code
    except HutchError as error:
        log.notice("error", f"{error.message}{f' (hint: {error.hint})' if error.hint else ''}")
        return FAILURE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILURE
    except OSError as error:
        log.notice("error", f"{error.filename or 'hutch-oci'}: {error.strerror or error}")
        return FAILURE
    except Exception as error:  # a mistake of ours: its place is for its author, and asked for by --debug
        import traceback

        log.notice("error", f"{type(error).__name__}: {error} (hint: a mistake of {PROGRAM}'s: please report it, with what --debug prints)")
        log.notice("debug", traceback.format_exc())
        return FAILURE
