"""`hutch`: find the command, run it, and say what went wrong in one line."""

from __future__ import annotations

import os
import sys

from hutch.errors import HutchError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.cli.parse import Command

PLACES = {
    "run": "hutch.cli.run", "exec": "hutch.cli.execute", "ps": "hutch.cli.manage", "logs": "hutch.cli.manage", "kill": "hutch.cli.manage",
    "stop": "hutch.cli.manage", "rm": "hutch.cli.manage", "stats": "hutch.cli.manage", "plan": "hutch.cli.plan", "doctor": "hutch.cli.doctor",
    "completion": "hutch.cli.completion", "version": "hutch.cli.completion",
}  # fmt: skip


def find(name: str) -> Command:
    """A command of the table. Raises UsageError."""
    from hutch.cli.flags import COMMANDS

    for command in COMMANDS:
        if command.name == name:
            return command
    import difflib

    close = difflib.get_close_matches(name, [c.name for c in COMMANDS], 1)
    raise UsageError(f"unknown command {name!r}", f"did you mean {close[0]}?" if close else "`hutch --help` lists the commands")


def overview() -> str:
    """What `hutch --help` prints."""
    from hutch.cli.flags import COMMANDS

    lines = [
        "usage: hutch COMMAND [FLAGS] [ARG...]",
        "",
        "Linux containers without a daemon. `hutch COMMAND --help` tells more.",
        "",
        *(f"  {command.name:<11} {command.summary}" for command in COMMANDS),
        "",
        "try: hutch run -it host bash          a shell on a copy of this machine that you may break",
        "     hutch run -m 64m --pids-limit 32 --timeout 5 host python3 -c 'print(6 * 7)'",
        "     hutch plan host true             every kernel object of a container, before it is made",
        "",
        "environment: HUTCH_STATE (records of what runs), HUTCH_DATA (what is kept on disk)",
    ]
    return "\n".join(lines)


def complain(error: HutchError) -> int:
    """Print an error as the command line does, and give its exit code."""
    text = f"hutch: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else "")
    sys.stderr.write(text)
    return error.exit_code


def main(arguments: list[str] | None = None) -> int:
    """The command line's entry: an exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            if len(words) > 1 and words[0] == "help":
                words = [words[1], "--help"]
            else:
                print(overview())
                return 0
        if words[0] in ("--version", "-v"):
            words = ["version"]
        from importlib import import_module

        from hutch.cli.parse import help_text, parse

        command = find(words[0])
        values, rest = parse(command, words[1:])
        if values.get("help"):
            print(help_text(command))
            return 0
        module = import_module(PLACES[command.name])
        code: int = getattr(module, command.name if command.name != "exec" else "execute")(values, rest)
        sys.stdout.flush()
        return code
    except HutchError as error:
        return complain(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # whoever read us has gone; keep the interpreter from complaining about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        return complain(HutchError(f"{error.filename or words[0]}: {error.strerror or error}"))
