"""What the command lines print. No other module of theirs writes text to a terminal.

Names, labels, commands, paths and errors are often a stranger's text: an image's, a container's, a registry's. `tell` and `warn`
print it so that a terminal does not act on it; `exact` is for what programs read.
"""

from __future__ import annotations

import sys

from hutch.errors import UsageError
from hutch.words import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO


def tell(*lines: str) -> None:
    """Print lines for people, each on one line whatever it holds."""
    if sys.stdout is not None:  # closed by the caller
        sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def exact(text: str) -> None:
    """Print text for programs (JSON, a format, a script), as it is, and end the line."""
    if sys.stdout is not None:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def binary() -> BinaryIO:
    """Standard output for bytes. Raises UsageError when the caller has closed it."""
    if sys.stdout is None:
        raise UsageError("standard output is closed")
    return sys.stdout.buffer


def warn(*lines: str) -> None:
    """Print lines for people on standard error. Where nobody reads that any more, the exit code is all that is left to tell."""
    if sys.stderr is not None:
        try:
            sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
            sys.stderr.flush()
        except OSError:
            sys.stderr = None


def ask(prompt: str) -> str:
    """Ask for a line on the terminal."""
    return input(prompt)


def draw(control: str, *lines: str) -> None:
    """Print lines for people over others on standard error, a terminal, behind a control sequence of our own."""
    if sys.stderr is not None:
        sys.stderr.write(control + "\n".join(f"\r\x1b[K{printable(line)}" for line in lines))
        sys.stderr.flush()


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of columns as wide as their widest cell, three blanks apart."""
    shown = [tuple(map(printable, row)) for row in rows]
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
