"""JSON without `json`, whose import costs a third of an interpreter's start: its C scanner does the reading, and a few lines
the writing."""

from __future__ import annotations

import _json
from _json import encode_basestring_ascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BLANK = " \t\n\r"


class _Context:
    """What the scanner asks its decoder for (json.decoder.JSONDecoder's attributes)."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    memo: dict[str, str] = {}

    @staticmethod
    def parse_constant(name: str) -> float:
        """NaN and the infinities, which JSON has not (RFC 8259, section 6)."""
        raise ValueError(f"{name} is not a JSON value")


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError with the line and the column of what is wrong."""
    start = 0
    while start < len(text) and text[start] in BLANK:
        start += 1
    try:
        value, end = _json.make_scanner(_Context())(text, start)  # type: ignore[arg-type]
    except (StopIteration, SystemError):  # without `json` the scanner cannot raise its own error
        value, end = None, -1
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if end < 0 or text[end:].strip(BLANK):
        import json  # its messages name the place

        try:
            return json.loads(text, parse_constant=_Context.parse_constant)
        except RecursionError:
            raise ValueError("nested too deeply") from None
    return value


def dumps(value: object, indent: int = 0, depth: int = 0) -> str:
    """The JSON text of dicts, lists, tuples, strings, numbers, booleans and None; with `indent`, on lines of their own."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        return _joined("{}", [f"{dumps(str(key))}{colon}{dumps(item, indent, depth + 1)}" for key, item in value.items()], indent, depth)
    if isinstance(value, list | tuple):
        return _joined("[]", [dumps(item, indent, depth + 1) for item in value], indent, depth)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _joined(brackets: str, items: list[str], indent: int, depth: int) -> str:
    if not indent or not items:
        return brackets[0] + ",".join(items) + brackets[1]
    line = "\n" + " " * indent * (depth + 1)
    return brackets[0] + line + f",{line}".join(items) + "\n" + " " * indent * depth + brackets[1]
