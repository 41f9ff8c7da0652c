"""A small parser for Docker's style of flags, driven by a table that also makes the help and the shell completion.

Written here because the library's parser costs more to import than a container takes to start, and knows neither ``-it``
with ``-e A=B`` nor flags that end at the first word that is none.
"""

from __future__ import annotations

from hutch.errors import UsageError
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Flag(Record):
    """One flag: ``names`` ("-e", "--env"), `kind` ("switch", "value" or "list"), what stands for the value, and help.

    `values` are the words that a shell may offer.
    """

    names: tuple[str, ...]
    kind: str
    help: str
    value: str = ""
    values: tuple[str, ...] = ()
    group: str = ""

    @property
    def key(self) -> str:
        """The long name without dashes, for the dictionary of what was parsed."""
        return next((n for n in self.names if n.startswith("--")), self.names[0]).lstrip("-").replace("-", "_")


class Command(Record):
    """A command: its flags, what follows them, and its help. `mixed`: flags may also come behind what they are no part of."""

    name: str
    summary: str
    usage: str
    flags: tuple[Flag, ...] = ()
    details: str = ""
    positional: int = -1
    mixed: bool = False


HELP = Flag(names=("--help",), kind="switch", help="print this help")


def parse(command: Command, words: Sequence[str], program: str = "hutch") -> tuple[dict[str, Any], list[str]]:
    """``(values by key, the rest)``. Flags end at ``--``, and at the first word that is none unless they are mixed. Raises UsageError."""
    table = {name: flag for flag in (*command.flags, HELP) for name in flag.names}
    out: dict[str, Any] = {}
    position = 0
    between: list[str] = []

    def store(flag: Flag, value: Any) -> None:
        if flag.kind == "list":
            out.setdefault(flag.key, []).append(value)
        else:
            out[flag.key] = value

    def following(name: str) -> str:
        nonlocal position
        if position >= len(words):
            raise UsageError(f"{name}: a value is missing", f"`{program} {command.name} --help` shows the flags")
        position += 1
        return words[position - 1]

    while position < len(words):
        word = words[position]
        if word == "--":
            position += 1
            break
        if not word.startswith("-") or word == "-":
            if not command.mixed:
                break
            between.append(word)
            position += 1
            continue
        position += 1
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            flag = table.get(name)
            if flag is None:
                raise _unknown(command, name, table, program)
            if flag.kind == "switch":
                store(flag, truth(name, value) if equals else True)
            else:
                store(flag, value if equals else following(name))
            continue
        letters = word[1:]
        while letters:
            name, letters = f"-{letters[0]}", letters[1:]
            flag = table.get(name)
            if flag is None:
                raise _unknown(command, name if len(word) == 2 else f"{name} (in {word})", table, program)
            if flag.kind == "switch":
                if letters.startswith("="):
                    store(flag, truth(name, letters[1:]))
                    letters = ""
                else:
                    store(flag, True)
            else:
                store(flag, letters.removeprefix("=") if letters else following(name))
                letters = ""
    return out, [*between, *words[position:]]


def truth(name: str, text: str) -> bool:
    """A switch's value in words. Raises UsageError."""
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise UsageError(f"{name}: expected true or false, got {text!r}")


def _unknown(command: Command, name: str, table: dict[str, Flag], program: str) -> UsageError:
    import difflib

    from hutch.cli import docker

    if docker.flag(command.name, plain := name.partition(" ")[0]):
        return UsageError(f"{command.name}: hutch has no {plain} yet", f"`{program} {command.name} --help` shows the flags that it has")
    close = difflib.get_close_matches(name, [n for n in table if n.startswith("--")], 1)
    hint = f"did you mean {close[0]}?" if close else f"`{program} {command.name} --help` shows the flags"
    return UsageError(f"{command.name}: unknown flag {name}".removeprefix(": "), hint)


def help_text(command: Command, program: str = "hutch") -> str:
    """The help of a command: usage, what it does, the flags by group."""
    lines = [f"usage: {program} {command.name} {command.usage}".rstrip(), "", command.summary]
    if command.details:
        lines += ["", command.details]
    flags = (*command.flags, HELP)
    rows = [(", ".join(f.names) + (f" {f.value}" if f.value else ""), f.help, f.group) for f in flags]
    width = min(max(len(row[0]) for row in rows), 34)
    for group in dict.fromkeys(row[2] for row in rows):
        lines += ["", f"{group or 'flags'}:"]
        for names, text, own in rows:
            if own == group:
                lines.append(f"  {names:<{width}}  {text}" if len(names) <= width else f"  {names}\n  {'':<{width}}  {text}")
    return "\n".join(lines)
