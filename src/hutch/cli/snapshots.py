"""`hutch snapshot`."""

from __future__ import annotations

from hutch.cli.images import size, some
from hutch.cli.manage import ago
from hutch.cli.output import exact, table, tell, warn
from hutch.cli.template import Template
from hutch.engine.containers import recorded
from hutch.engine.machines import machine_snapshots as snapshots
from hutch.engine.records import state
from hutch.errors import ContainerGone, HutchError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def create(_: dict[str, Any], rest: list[str]) -> int:
    """Save a machine, and print the snapshot's name."""
    if len(rest) != 2:
        raise UsageError("snapshot create: expected a container and a name", "`hutch snapshot create CONTAINER NAME`")
    running = state.find(rest[0])
    if not running.pid:
        raise ContainerGone(f"container {running.name or running.id}: does not run")
    tell(snapshots.create(recorded.live_of(running), running.pid, rest[1]).name)
    return 0


def ls(values: dict[str, Any], rest: list[str]) -> int:
    """List the snapshots."""
    if rest:
        raise UsageError(f"snapshot ls: unexpected argument {rest[0]!r}")
    found = list(snapshots.every())
    if values.get("quiet"):
        for one in found:
            tell(one.name)
    elif values.get("format"):
        Template(values["format"]).print([one.describe() for one in found])
    else:
        rows = [("NAME", "IMAGE", "COMMAND", "MEMORY", "SIZE", "CREATED")]
        for one in found:
            told = one.describe()
            command = " ".join(told["Command"]) or "(commands)"
            rows.append((one.name, told["Image"], command[:40], size(told["Memory"]), size(one.size), f"{ago(one.created)} ago"))
        tell(*table(rows))
    return 0


def inspect(_: dict[str, Any], rest: list[str]) -> int:
    """All that is known of snapshots."""
    from hutch import jsontext

    exact(jsontext.dumps([snapshots.find(name).describe() for name in some(rest, "snapshot inspect", "snapshot")], 1))
    return 0


def rm(_: dict[str, Any], rest: list[str]) -> int:
    """Remove snapshots."""

    code = 0
    for name in some(rest, "snapshot rm", "snapshot"):
        try:
            snapshots.remove(name)
            tell(name)
        except HutchError as error:
            warn(f"hutch: {error.message}")
            code = 1
    return code
