"""Signals by the names that people use: ``TERM``, ``SIGTERM``, ``RTMIN+3``, ``15`` (signal(7))."""

from __future__ import annotations

from hutch.errors import UsageError

# in the order of their numbers, from 1 on, as x86 and ARM have them
NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
).split()
ALIASES = {"POLL": "IO", "CLD": "CHLD", "IOT": "ABRT", "UNUSED": "SYS"}
FIRST_REAL_TIME, LAST = 34, 64  # the C library keeps 32 and 33 to itself


def number(text: str, what: str = "signal") -> int:
    """The number of a signal. Raises UsageError for what is none."""
    found = _number(text)
    if not found:
        raise UsageError(f"{what}: {text!r} is not a signal", "such as TERM, SIGINT, RTMIN+3 or 15")
    return found


def known(text: str) -> str:
    """An image's stop signal; "" for one that does not exist, in place of which TERM is sent."""
    return text if text and _number(text) else ""


def _number(text: str) -> int:
    if text.isascii() and text.isdecimal():
        return int(text) if len(text) < 3 and 0 < int(text) <= LAST else 0
    name = text.upper().removeprefix("SIG") if text.isascii() else ""
    name = ALIASES.get(name, name)
    if name in NAMES:
        return NAMES.index(name) + 1
    for base, first, sign in (("RTMIN", FIRST_REAL_TIME, "+"), ("RTMAX", LAST, "-")):
        rest = name.removeprefix(base)
        if rest == name:
            continue
        if not rest:
            return first
        digits = rest[1:]
        if rest[0] != sign or not digits.isdecimal() or len(digits) > 2:
            return 0
        found = first + int(f"{sign}{digits}")
        return found if FIRST_REAL_TIME <= found <= LAST else 0
    return 0
