"""Values that are written into an encoded plan when its container starts.

A plan that is compiled ahead has marks in their places, each as long as its value. Where they stand is noted once, when the plan is
encoded; a start writes there, and searches for nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    Places: TypeAlias = tuple[tuple[str, int], ...]  # (which value, its offset in bytes)


def offsets(encoded: bytes, mark: bytes) -> tuple[int, ...]:
    """Where a mark stands in an encoded plan, in bytes."""
    found, at = [], encoded.find(mark)
    while at >= 0:
        found.append(at)
        at = encoded.find(mark, at + len(mark))
    return tuple(found)


def fill(encoded: bytes, places: Iterable[tuple[str, int]], values: Mapping[str, bytes]) -> bytes:
    """An encoded plan with some values in their places, which are as long as their marks."""
    whole = bytearray(encoded)
    for name, at in places:
        value = values.get(name)
        if value is not None:
            whole[at : at + len(value)] = value
    return bytes(whole)
