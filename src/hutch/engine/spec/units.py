"""What people write for sizes and CPUs."""

from __future__ import annotations

from hutch.errors import UsageError

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str | int, what: str = "size") -> int:
    """``512m`` to bytes: a number and b, k, m, g or t (powers of 1024; ``kb``, ``kib`` and the like mean the same).

    -1 stands for unlimited. Raises UsageError.
    """
    if isinstance(text, bool):
        raise UsageError(f"{what}: expected a size such as 512m, got {text}")
    if isinstance(text, int):
        if text < -1:
            raise UsageError(f"{what}: expected a size, got {text}")
        return text
    lowered = text.strip().lower()
    if lowered == "-1":
        return -1
    number = lowered.rstrip("bkmgti")
    unit = lowered[len(number) :].removesuffix("ib").removesuffix("b") if lowered[len(number) :] != "b" else "b"
    try:
        # whole numbers exactly: a float has 53 bits, a limit 63
        value = int(number) if number.isascii() and number.isdigit() and len(number) < 20 else float(number)
    except ValueError:
        value = -1
    if unit not in _UNITS or not 0 <= value * _UNITS.get(unit, 1) < 2**63:
        raise UsageError(f"{what}: expected a size such as 512m, got {text!r}")
    return int(value * _UNITS[unit])


def cpus(value: float | str, what: str = "cpus") -> int:
    """A number of CPUs to a quota in microseconds of each 100 ms; 0, for no limit, is 0. Raises UsageError."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if number != 0 and not 0.01 <= number <= 65536:
        raise UsageError(f"{what}: expected a number of CPUs such as 0.5, at least 0.01, got {value!r}")
    return round(number * 100_000)
