"""`hutch completion` and `hutch version`."""

from __future__ import annotations

from hutch.cli import flags as container_flags, image_flags
from hutch.cli.output import exact, tell
from hutch.cli.parse import HELP
from hutch.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMMANDS = (*container_flags.COMMANDS, *image_flags.COMMANDS)

BASH = """# bash completion for hutch: eval "$(hutch completion bash)"
declare -A _hutch_words=({groups})
_hutch() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}}
  case $command in volume|network|snapshot|kvm|system)
    if [ "$COMP_CWORD" = 2 ]; then COMPREPLY=($(compgen -W "${{_hutch_words[$command]}}" -- "$word")); return; fi
    command="$command ${{COMP_WORDS[2]}}";;
  esac
  if [ "$COMP_CWORD" = 1 ]; then COMPREPLY=($(compgen -W "{commands} --help --version" -- "$word")); return; fi
  case "$command $before" in
{values}
  esac
  if [[ $word == -* ]]; then
    case $command in
{flags}
    esac
  elif [[ "{containers}" == *" $command "* ]]; then
    COMPREPLY=($(compgen -W "$(hutch ps -q 2>/dev/null)" -- "$word"))
  else
    COMPREPLY=($(compgen -W "host" -- "$word") $(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _hutch hutch
"""


def _bash() -> str:
    values = "\n".join(
        f'    "{c.name} {name}") COMPREPLY=($(compgen -W "{" ".join(f.values)}" -- "$word")); return;;'
        for c in COMMANDS for f in c.flags if f.values for name in f.names
    )  # fmt: skip
    flags = "\n".join(f'      "{c.name}") COMPREPLY=($(compgen -W "{" ".join(n for f in (*c.flags, HELP) for n in f.names)}" -- "$word"));;' for c in COMMANDS)
    commands = " ".join(dict.fromkeys(c.name.partition(" ")[0] for c in COMMANDS))
    words: dict[str, list[str]] = {}
    for c in COMMANDS:
        if " " in c.name:
            words.setdefault(c.name.partition(" ")[0], []).append(c.name.partition(" ")[2])
    groups = " ".join(f'[{group}]="{" ".join(items)}"' for group, items in words.items())
    return BASH.format(groups=groups, commands=commands, values=values, flags=flags, containers=" exec logs kill stop rm stats commit diff export cp ")


def _zsh() -> str:
    # zsh runs bash's functions; one source for both
    return '# zsh completion for hutch: eval "$(hutch completion zsh)"\nautoload -U +X bashcompinit && bashcompinit\n' + _bash()


def _fish() -> str:
    lines = ["# fish completion for hutch: hutch completion fish | source", "complete -c hutch -f"]
    for c in COMMANDS:
        first, _, second = c.name.partition(" ")
        if second:
            lines.append(f"complete -c hutch -n __fish_use_subcommand -a {first} -f")
            lines.append(f"complete -c hutch -n '__fish_seen_subcommand_from {first}' -a {second} -d '{c.summary.replace(chr(39), '')}'")
            continue
        lines.append(f"complete -c hutch -n __fish_use_subcommand -a {c.name} -d '{c.summary.replace(chr(39), '')}'")
        for f in (*c.flags, HELP):
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in f.names)
            need = " -r" if f.kind != "switch" else ""
            words = f" -xa '{' '.join(f.values)}'" if f.values else ""
            text = f.help.replace("'", "")
            lines.append(f"complete -c hutch -n '__fish_seen_subcommand_from {c.name}' {names}{need}{words} -d '{text}'")
    return "\n".join(lines) + "\n"


def completion(_: dict[str, Any], rest: list[str]) -> int:
    """Print a completion script."""
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if len(rest) != 1 or rest[0] not in makers:
        raise UsageError("completion: expected bash, zsh or fish")
    exact(makers[rest[0]]())
    return 0


def version(_: dict[str, Any], rest: list[str]) -> int:
    """Print the version."""
    from hutch.version import VERSION

    tell(f"hutch {VERSION}")
    return 0
