"""Frozen records: what `dataclasses` offers, without its import time.

`import dataclasses` costs as much as starting a container (it pulls in `inspect` and `re`); a record is built by one loop
over its annotations. Type checkers see the same thing as with ``dataclass(frozen=True, kw_only=True)``, by PEP 681.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_: object):
        return lambda cls: cls


class _Lazy:
    """An attribute of a class that is computed at its first use (a non-data descriptor, which its value replaces)."""

    def __init__(self, position: int) -> None:
        self._position = position

    def __get__(self, _: object, cls: type[Record]) -> object:
        return _look(cls)[self._position]


def _look(cls: type[Record]) -> tuple[tuple[str, ...], dict[str, object], frozenset[str]]:
    """A record's fields, the inherited ones first, and those of them that have defaults."""
    base = next(parent for parent in cls.__mro__[1:] if "_fields" in parent.__dict__)
    own = [name for name, kind in cls.__dict__.get("__annotations__", {}).items() if name[0] != "_" and not kind.startswith("ClassVar")]
    inherited: tuple[str, ...] = base._fields  # type: ignore[attr-defined]
    cls._fields = inherited + tuple(name for name in own if name not in inherited)
    cls._defaults = {**base._defaults, **{name: cls.__dict__[name] for name in own if name in cls.__dict__}}  # type: ignore[attr-defined]
    cls._names = frozenset(cls._fields)
    return cls._fields, cls._defaults, cls._names


_FIELDS, _DEFAULTS, _NAMES = _Lazy(0), _Lazy(1), _Lazy(2)


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record:
    """A frozen value with named fields: compared, hashed and printed by its content."""

    _fields: tuple[str, ...] = ()
    _defaults: dict[str, object] = {}
    _names: frozenset[str] = frozenset()

    def __init_subclass__(cls) -> None:
        # found out when first asked for: a command defines two hundred records and uses fifty
        cls._fields, cls._defaults, cls._names = _FIELDS, _DEFAULTS, _NAMES  # type: ignore[assignment]

    def __init__(self, **values: Any) -> None:
        if len(values) != len(self._fields):
            values = {**self._defaults, **values}
        if values.keys() != self._names:
            missing = [name for name in self._fields if name not in values]
            unknown = [name for name in values if name not in self._fields]
            raise TypeError(f"{type(self).__name__}: missing {missing}, unknown {unknown}")
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *(self.__dict__[name] for name in self._fields)))

    def __repr__(self) -> str:
        shown = (name for name in self._fields if name not in self._defaults or self.__dict__[name] != self._defaults[name])
        return f"{type(self).__name__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in shown)})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        kind = type(self)
        if kind.__init__ is not Record.__init__ or not changes.keys() <= self._names:
            return kind(**{**self.__dict__, **changes})
        made = object.__new__(kind)
        made.__dict__.update(self.__dict__)
        made.__dict__.update(changes)
        return made

    def as_dict(self) -> dict[str, object]:
        """The fields by name, in their order of definition."""
        return {name: self.__dict__[name] for name in self._fields}


def plain(record: Record) -> dict[str, object]:
    """A record as JSON's types, without what has its default."""

    def value_of(value: object) -> object:
        if isinstance(value, Record):
            return plain(value)
        return [value_of(item) for item in value] if isinstance(value, tuple) else value

    return {name: value_of(value) for name, value in record.as_dict().items() if name not in record._defaults or value != record._defaults[name]}
