"""Text that somebody else chose, made fit for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text on one line, without what a terminal would act on: other letters stand as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
