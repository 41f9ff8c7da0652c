"""What type an argument must have, for callers from Python: one function for each kind, and the words for what is wrong.

Every function takes the argument's name and its value, gives the value in its plain form, and raises UsageError, naming the
argument, for anything else. Nothing is converted that could be a mistake: no float for a size, no text for a list.
"""

from __future__ import annotations

import os
from _collections_abc import Iterable, Mapping  # as `os` does: collections.abc costs a millisecond

from hutch.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TypeAlias

    AnyPath: TypeAlias = "str | os.PathLike[str]"


def wrong(name: str, expected: str, value: object, hint: str | None = None) -> NoReturn:
    """Raise UsageError for an argument's value."""
    shown = repr(value)
    shown = shown if len(shown) <= 100 else shown[:99] + "…"
    raise UsageError(f"{name}: expected {expected}, got {shown}", hint)


def text(name: str, value: object) -> str:
    """A text."""
    return value if isinstance(value, str) else wrong(name, "text", value)


def path(name: str, value: object) -> str:
    """A path: text, or what `os.fspath` makes text of."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    return found if isinstance(found, str) else wrong(name, "a path (text or pathlib.Path)", value)


def flag(name: str, value: object) -> bool:
    """True or False; a text such as "no" would be true."""
    return value if isinstance(value, bool) else wrong(name, "True or False", value)


def whole(name: str, value: object) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        wrong(name, "a whole number", value)
    return value


def number(name: str, value: object) -> float:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong(name, "a number", value)
    return value


def size(name: str, value: object) -> int | str:
    """Bytes, as a whole number or as text with a unit; `units.size` reads the text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        wrong(name, 'bytes as a whole number, or text such as "512m"', value)
    return value


def identity(name: str, value: object) -> str:
    """A user or a group: a name, a number, or both with a colon."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        wrong(name, "a name or a number", value)
    return str(value)


def items(name: str, value: object, expected: str = "a list of texts") -> list[object]:
    """What a list, or anything else that can be gone through, holds. A text would be gone through by its letters, and a
    mapping by its keys: both are refused."""
    if type(value) in (list, tuple):  # what most are
        return list(value)  # type: ignore[call-overload, no-any-return]
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        wrong(name, expected, value, f"{name}=[{value!r}]" if isinstance(value, str) else None)
    return list(value)


def texts(name: str, value: object) -> tuple[str, ...]:
    """Texts."""
    return tuple(text(name, item) for item in items(name, value))


def text_or_texts(name: str, value: object) -> tuple[str, ...]:
    """Texts, or one alone."""
    return (value,) if isinstance(value, str) else texts(name, value)


def identities(name: str, value: object) -> tuple[str, ...]:
    """Users or groups."""
    return tuple(identity(name, item) for item in items(name, value, "a list of names or numbers"))


def mapping(name: str, value: object, expected: str) -> Mapping[str, object]:
    """A mapping with texts as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        wrong(name, expected, value)
    return value


def text_by_name(name: str, value: object) -> dict[str, str]:
    """Texts by name."""
    given = mapping(name, value, 'a mapping such as {"NAME": "text"}')
    return {key: item if isinstance(item, str) else wrong(f"{name} {key}", "text", item) for key, item in given.items()}


def value_by_name(name: str, value: object) -> dict[str, str]:
    """Texts or whole numbers by name, as texts."""
    given = mapping(name, value, 'a mapping such as {"NAME": "text"}')
    return {key: item if isinstance(item, str) else str(whole(f"{name} {key}", item)) for key, item in given.items()}


def whole_by_name(name: str, value: object) -> dict[str, int]:
    """Whole numbers by name."""
    given = mapping(name, value, 'a mapping such as {"NAME": 1}')
    return {key: whole(f"{name} {key}", item) for key, item in given.items()}


def environment(name: str, value: object) -> tuple[str, ...]:
    """Variables, by a mapping or as NAME=VALUE."""
    if isinstance(value, Mapping):
        return tuple(f"{key}={item}" for key, item in text_by_name(name, value).items())
    return tuple(text(name, item) for item in items(name, value, 'a mapping such as {"NAME": "text"}, or a list of NAME=VALUE'))


def command(value: object, name: str = "command") -> tuple[str, ...]:
    """An argv of texts and paths. A bare text is refused: splitting it would be a shell's work, and is where injections
    come from."""
    if isinstance(value, str | bytes):
        wrong(name, "a list of arguments", value, 'a shell is asked for by name: ["sh", "-c", "…"]')
    return tuple(item if isinstance(item, str) else path(name, item) for item in items(name, value, "a list of texts and paths"))


def image(value: object) -> str:
    """What a container is made from: a name, or a path; a `Path` is always the latter."""
    if isinstance(value, os.PathLike):
        return os.path.abspath(path("image", value))
    return text("image", value)
