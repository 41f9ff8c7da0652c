"""`hutch system`: what takes room on the disk, and whether it is sound."""

from __future__ import annotations

import sys

from hutch.cli.images import size
from hutch.cli.output import draw, table, tell
from hutch.cli.template import Template
from hutch.engine.images import images
from hutch.engine.reports import storage
from hutch.engine.volumes import volumes
from hutch.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _nothing(rest: list[str], command: str) -> None:
    if rest:
        raise UsageError(f"{command}: unexpected argument {rest[0]!r}")


def df(values: dict[str, Any], rest: list[str]) -> int:
    """What takes room, and how much of it nothing needs."""
    _nothing(rest, "system df")
    rows = []
    for usage in storage.usage():
        fields = {
            "Type": usage.kind,
            "TotalCount": str(usage.count),
            "Active": str(usage.active),
            "Size": size(usage.size),
            "Reclaimable": size(usage.reclaimable),
        }
        rows.append(fields)
    if values.get("format"):
        Template(values["format"]).print(rows)
    else:
        tell(*table([("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"), *(tuple(row.values()) for row in rows)]))
    return 0


def prune(values: dict[str, Any], rest: list[str]) -> int:
    """Remove what nothing needs."""
    _nothing(rest, "system prune")
    removed, freed = volumes.prune() if values.get("volumes") else ([], 0)
    done = images.prune(unused=bool(values.get("all")))
    freed += storage.prune_kernels()
    if values.get("volumes"):
        tell(f"volumes removed: {len(removed)}")
    tell(f"blobs removed: {done.blobs}", f"layers removed: {done.layers}", f"freed: {size(done.bytes + freed)}")
    return 0


def fsck(values: dict[str, Any], rest: list[str]) -> int:
    """Verify the store; 1 when something is wrong that was not repaired."""
    _nothing(rest, "system fsck")
    code, count = 0, 0

    def progress(what: str) -> None:
        nonlocal count
        count += 1
        if sys.stderr.isatty():
            draw("", f"verifying {what[:60]}")

    for finding in storage.check(repair=bool(values.get("repair")), progress=progress):
        if sys.stderr.isatty():
            draw("\r\x1b[K")
        tell(f"{finding.what}: {finding.problem} ({finding.action})")
        code = code if finding.action in ("removed", "made anew") else 1
    if sys.stderr.isatty():
        draw("\r\x1b[K")
    tell(f"{count} files verified" + ("" if code else ", nothing is wrong" if not values.get("repair") else ""))
    return code
