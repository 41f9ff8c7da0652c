"""`hutch cp`: files into and out of a container, running or not."""

from __future__ import annotations

import os
import sys

from hutch.cli.output import binary
from hutch.engine.containers import filesystem
from hutch.engine.files import copying
from hutch.engine.records import state
from hutch.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def split(text: str) -> tuple[str, str]:
    """``CONTAINER:PATH`` in two; ("", the path) for one of the host's."""
    if text.startswith(("/", "./", "../")) or text in ("-", ".", ".."):
        return "", text
    name, colon, path = text.partition(":")
    return (name, path) if colon and name and "/" not in name else ("", text)


def cp(_: dict[str, Any], rest: list[str]) -> int:
    """Copy, as `docker cp` does."""
    if len(rest) != 2:
        raise UsageError("cp: expected a source and a destination", "`hutch cp web:/etc/hosts .` or `hutch cp page.html web:/srv/`")
    (source_name, source), (target_name, target) = split(rest[0]), split(rest[1])
    if bool(source_name) == bool(target_name):
        raise UsageError("cp: one of the two is CONTAINER:PATH, and the other a path of this machine", "`hutch cp web:/etc/hosts .`")
    with filesystem.of_record(state.find(source_name or target_name)) as container:
        if source_name:
            if target == "-":
                copying.archive_out(container, source or "/", binary().write)
            else:
                copying.copy_out(container, source or "/", target)
        elif source == "-":
            copying.archive_in(container, sys.stdin.buffer, target or "/")
        else:
            copying.copy_in(container, os.path.join(source), target or "/")
    return 0
