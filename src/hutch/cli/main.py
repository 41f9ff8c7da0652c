"""`hutch`: find the command, run it, and say what went wrong in one line."""

from __future__ import annotations

import gc
import os
import sys

from hutch.errors import HutchError, StartError, UsageError
from hutch.kernel.terminals import open_missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.cli.parse import Command

PLACES = {
    "run": "hutch.cli.run", "exec": "hutch.cli.execute", "ps": "hutch.cli.manage", "logs": "hutch.cli.manage",
    "port": "hutch.cli.manage", "kill": "hutch.cli.manage",
    "stop": "hutch.cli.manage", "pause": "hutch.cli.manage", "unpause": "hutch.cli.manage",
    "rm": "hutch.cli.manage", "stats": "hutch.cli.manage", "plan": "hutch.cli.plan", "doctor": "hutch.cli.doctor",
    "completion": "hutch.cli.completion", "version": "hutch.cli.completion", "cp": "hutch.cli.copy",
    "healthcheck": "hutch.cli.execute",
    **dict.fromkeys(
        ("pull", "push", "login", "logout", "images", "rmi", "tag", "history", "inspect", "save", "load", "import", "export", "commit", "diff"),
        "hutch.cli.images",
    ),
    **dict.fromkeys(("volume create", "volume ls", "volume inspect", "volume rm", "volume prune"), "hutch.cli.volumes"),
    **dict.fromkeys(
        ("network create", "network ls", "network inspect", "network rm", "network prune", "network connect", "network disconnect"), "hutch.cli.networks"
    ),
    **dict.fromkeys(("snapshot create", "snapshot ls", "snapshot inspect", "snapshot rm"), "hutch.cli.snapshots"),
    **dict.fromkeys(("kvm run", "kvm probe"), "hutch.cli.kvm"),
    **dict.fromkeys(("system df", "system prune", "system fsck"), "hutch.cli.system"),
}  # fmt: skip
FUNCTIONS = {"exec": "execute", "import": "import_"}
GROUPS = ("volume", "network", "snapshot", "kvm", "system", "image", "container")
# Docker's longer names for what has a short one
ALIASES = {
    "image ls": "images", "image rm": "rmi", "image pull": "pull", "image push": "push", "image tag": "tag", "image history": "history",
    "image inspect": "inspect", "image save": "save", "image load": "load", "image import": "import", "image prune": "system prune",
    "container ls": "ps", "container run": "run", "container exec": "exec", "container rm": "rm", "container kill": "kill",
    "container stop": "stop", "container logs": "logs",
    "container port": "port", "container stats": "stats", "container cp": "cp", "container commit": "commit",
    "container diff": "diff", "container export": "export", "container inspect": "inspect", "volume list": "volume ls", "volume remove": "volume rm",
    "container pause": "pause", "container unpause": "unpause", "snapshot list": "snapshot ls", "snapshot remove": "snapshot rm",
    "network list": "network ls", "network remove": "network rm",
}  # fmt: skip


def find(name: str) -> Command:
    """A command of the table. Raises UsageError."""
    from hutch.cli.flags import COMMANDS

    for command in COMMANDS:
        if command.name == name:
            return command
    from hutch.cli import image_flags

    for command in image_flags.COMMANDS:
        if command.name == name:
            return command
    from hutch.cli import docker

    if docker.command(name):
        raise UsageError(f"hutch has no {name} yet", "`hutch --help` lists the commands")
    if name in GROUPS:
        words = sorted(key.partition(" ")[2] for key in (*PLACES, *ALIASES) if key.startswith(f"{name} "))
        raise UsageError(f"{name}: expected one of {', '.join(words)}", f"`hutch {name} {words[0]} --help`")
    import difflib

    close = difflib.get_close_matches(name, [*PLACES, *ALIASES], 1)
    raise UsageError(f"unknown command {name!r}", f"did you mean {close[0]}?" if close else "`hutch --help` lists the commands")


def overview() -> str:
    """What `hutch --help` prints."""
    from hutch.cli import flags, image_flags

    commands = (*flags.COMMANDS[:-2], *image_flags.COMMANDS, *flags.COMMANDS[-2:])
    lines = [
        "usage: hutch COMMAND [FLAGS] [ARG...]",
        "",
        "Linux containers without a daemon. `hutch COMMAND --help` tells more.",
        "",
        *(f"  {command.name:<15} {command.summary}" for command in commands),
        "",
        "try: hutch run -it host bash          a shell on a copy of this machine that you may break",
        "     hutch run -m 64m --pids-limit 32 --timeout 5 host python3 -c 'print(6 * 7)'",
        "     hutch plan host true             every kernel object of a container, before it is made",
        "",
        "`hutch --debug COMMAND` also tells which operation of the plan failed.",
        "environment: HUTCH_STATE (records of what runs), HUTCH_DATA (what is kept on disk)",
    ]
    return "\n".join(lines)


def _print(text: str) -> None:
    from hutch.cli.output import tell

    tell(*text.split("\n"))


def complain(error: HutchError, debug: bool = False) -> int:
    """Print an error as the command line does, with `debug` the plan's operation that failed as well, and give its exit code."""
    from hutch.cli.output import warn

    lines = [f"hutch: {error.message}"]
    if debug and isinstance(error, StartError) and error.operation:
        lines.append(f"operation: {error.origin or '-'}: {error.operation}")
        lines.append(f"errno: {error.errno}")
    warn(*lines, *([f"hint: {error.hint}"] if error.hint else []))
    return error.exit_code


def _silence() -> None:
    """What could not be printed is given up: the interpreter would try again at its exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main(arguments: list[str] | None = None) -> int:
    """The command line's entry: an exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    gc.set_threshold(100_000, 20, 20)  # a layer's tree is many objects and no garbage: looking through them costs a sixth of reading it
    open_missing()
    debug = bool(words) and words[0] == "--debug"
    words = words[1:] if debug else words
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            if len(words) > 1 and words[0] == "help":
                words = [words[1], "--help"]
            else:
                _print(overview())
                return 0
        if words[0] in ("--version", "-v"):
            words = ["version"]
        from importlib import import_module

        from hutch.cli.parse import help_text, parse

        if words[0] in GROUPS and len(words) > 1 and not words[1].startswith("-"):
            words = [" ".join(words[:2]), *words[2:]]
            words[0] = ALIASES.get(words[0], words[0])
        command = find(words[0])
        values, rest = parse(command, words[1:])
        if values.get("help"):
            _print(help_text(command))
            return 0
        module = import_module(PLACES[command.name])
        function = FUNCTIONS.get(command.name) or command.name.rpartition(" ")[2]
        code: int = getattr(module, function)(values, rest)
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
        return code
    except HutchError as error:
        return complain(error, debug)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _silence()
        return 141
    except OSError as error:
        _silence()
        return complain(HutchError(f"{error.filename or words[0]}: {error.strerror or error}"))
