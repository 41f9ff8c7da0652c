"""`hutch volume`."""

from __future__ import annotations

from hutch.cli.images import size, some
from hutch.cli.output import exact, table, tell
from hutch.cli.template import Template
from hutch.engine.spec.syntax import pairs
from hutch.engine.volumes import volumes
from hutch.errors import StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def create(values: dict[str, Any], rest: list[str]) -> int:
    """Make a volume, and print its name."""
    if len(rest) > 1:
        raise UsageError(f"volume create: unexpected argument {rest[1]!r}")
    labels = pairs([item if "=" in item else f"{item}=" for item in values.get("label", ())], "label")
    tell(volumes.create(rest[0] if rest else "", labels=labels).name)
    return 0


def ls(values: dict[str, Any], rest: list[str]) -> int:
    """List the volumes."""
    if rest:
        raise UsageError(f"volume ls: unexpected argument {rest[0]!r}")
    found = [volume for volume in volumes.every() if _matches(volume, values.get("filter", ()))]
    if values.get("quiet"):
        for volume in found:
            tell(volume.name)
    elif values.get("format"):
        Template(values["format"]).print([{**volume.describe()} for volume in found])
    else:
        tell(*table([("DRIVER", "VOLUME NAME"), *(("local", volume.name) for volume in found)]))
    return 0


def _matches(volume: volumes.Volume, filters: list[str]) -> bool:
    for item in filters:
        key, _, value = item.partition("=")
        if key == "name":
            good = value in volume.name
        elif key == "label":
            name, equals, text = value.partition("=")
            good = name in volume.labels and (not equals or volume.labels[name] == text)
        elif key == "dangling":
            good = (not any(True for _ in volumes.users(volume.name))) == (value in ("true", "1"))
        else:
            raise UsageError(f"filter: unknown filter {key!r}", "name, label and dangling are known")
        if not good:
            return False
    return True


def inspect(_: dict[str, Any], rest: list[str]) -> int:
    """All that is known of volumes."""
    from hutch import jsontext

    exact(jsontext.dumps([volumes.get(name).describe() for name in some(rest, "volume inspect", "a volume")], indent=1))
    return 0


def rm(values: dict[str, Any], rest: list[str]) -> int:
    """Remove volumes; 1 when one could not be."""
    from hutch.cli.main import complain

    code = 0
    for name in some(rest, "volume rm", "a volume"):
        try:
            volumes.remove(name)
            tell(name)
        except StateError as error:
            if values.get("force") and "no volume" in error.message:
                continue
            complain(error)
            code = 1
    return code


def prune(values: dict[str, Any], rest: list[str]) -> int:
    """Remove volumes that nothing uses."""
    if rest:
        raise UsageError(f"volume prune: unexpected argument {rest[0]!r}")
    removed, freed = volumes.prune(named=bool(values.get("all")))
    for name in removed:
        tell(name)
    tell(f"freed: {size(freed)}")
    return 0
