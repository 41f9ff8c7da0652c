"""What `hutch inspect` prints, in Docker's words where it has some."""

from __future__ import annotations

from hutch.engine.images import images
from hutch.engine.records import state
from hutch.engine.records.facts import RECORD_KEY, facts_from
from hutch.errors import ImageError, StateError
from hutch.image import reference as references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def inspect(name: str, kind: str = "") -> dict[str, Any]:
    """A container, an image or a volume by its name; of the `kind` alone where one is given. Raises StateError, ImageError."""
    if kind in ("", "container"):
        try:
            return container(name)
        except StateError:
            if kind:
                raise
    if kind in ("", "image"):
        try:
            return image(name)
        except ImageError:
            if kind:
                raise
    if kind in ("", "volume"):
        from hutch.engine.volumes import volumes

        try:
            return volumes.get(name).describe()
        except StateError:
            if kind:
                raise
    raise StateError(f"no container, image or volume is called {name!r}", "`hutch ps -a`, `hutch images` and `hutch volume ls` list them")


def image(name: str) -> dict[str, Any]:
    """An image."""
    found = images.get(name)
    named = not found.reference.startswith("<none>")
    repository = references.parse(found.reference, tag=False).repository if named else ""
    config = found.config
    return {
        "Id": found.id,
        "RepoTags": [found.name] if named and "@" not in found.name else [],
        "RepoDigests": [f"{repository}@{found.digest}"] if named else [],
        "Created": found.created,
        "Author": config.get("author", ""),
        "Architecture": config.get("architecture", ""),
        "Os": config.get("os", "linux"),
        "Size": found.size,
        "Config": config.get("config") or {},
        "RootFS": {"Type": "layers", "Layers": list(found.layers)},
    }


def container(name: str) -> dict[str, Any]:
    """A container by its record."""
    found = state.find(name)
    facts = facts_from(found.data.get(RECORD_KEY))
    return {
        "Id": found.id,
        "Name": found.name,
        "Image": found.image,
        "ImageManifest": found.data.get("manifest", ""),
        "Command": list(found.command),
        "Created": found.created,
        "State": {"Status": found.status, "Pid": found.pid, "ExitCode": found.exit_code, "Error": found.problem},
        "Settings": found.data.get("settings", {}),
        "Config": {"Env": list(facts.variables()), "WorkingDir": facts.workdir, "User": list(facts.user)},
        "Cgroups": found.data.get("cgroup", {}),
        "UpperDir": found.data.get("upper", ""),
        "LowerDirs": found.data.get("layers", []),
    }
