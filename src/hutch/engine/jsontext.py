"""JSON for the containers' records, written without `json`, whose import costs a third of an interpreter's start.

Reading happens off that path, with `json`.
"""

from __future__ import annotations

from _json import encode_basestring_ascii


def dumps(value: object) -> str:
    """The JSON text of dicts, lists, tuples, strings, numbers, booleans and None."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{dumps(str(key))}:{dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(dumps(item) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form")
