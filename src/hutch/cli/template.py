"""``--format``: "json", or the part of Go's templates that people use: ``{{.Name}}``, ``{{json .Name}}``, ``{{.A.B}}``."""

from __future__ import annotations

from hutch import jsontext
from hutch.cli.output import exact, tell
from hutch.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


class Template:
    """A format, checked when it is made. Raises UsageError."""

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, tuple[str, ...], bool]] = []  # (text, the field behind it, as JSON)
        self._json = text in ("json", "{{json .}}")
        rest = text.removeprefix("table ").replace("\\t", "\t").replace("\\n", "\n")
        while not self._json:
            before, found, after = rest.partition("{{")
            if not found:
                self._parts.append((before, (), False))
                break
            inside, closed, rest = after.partition("}}")
            words = inside.split()
            json = words[:1] == ["json"]
            name = words[-1] if words else ""
            if not closed or len(words) != 1 + json or not name.startswith(".") or name == ".":
                raise UsageError(f"format: cannot be read at {{{{{inside[:40]}", "fields look like {{.Name}}, or {{json .Name}}")
            self._parts.append((before, tuple(name[1:].split(".")), json))

    def line(self, row: Mapping[str, Any]) -> str:
        """One thing as the format says. Raises UsageError for a field that it has not."""
        if self._json:
            return jsontext.dumps(dict(row))
        out = []
        for before, path, json in self._parts:
            out.append(before)
            if not path:
                continue
            value: Any = row
            for key in path:
                if not isinstance(value, dict) or key not in value:
                    known = ", ".join(value) if isinstance(value, dict) else "none"
                    raise UsageError(f"format: there is no field .{'.'.join(path)}", f"there are: {known}")
                value = value[key]
            out.append(value if isinstance(value, str) and not json else jsontext.dumps(value))
        return "".join(out)

    def print(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """A line for each."""
        for row in rows:
            exact(self.line(row)) if self._json else tell(*self.line(row).split("\n"))
