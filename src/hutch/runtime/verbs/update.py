"""update: change the limits of a container that runs."""

from __future__ import annotations

from hutch.cgroup.live import Cgroup
from hutch.errors import ContainerGone, UnsupportedError
from hutch.oci.config import Resources
from hutch.oci.decode import decode
from hutch.runtime.verbs.common import parse_json
from hutch.runtime.verbs.store import STOPPED, Lock, Store


def resources_from(text: str, what: str) -> Resources:
    """linux.resources as JSON text. Raises ConfigError."""
    return decode(Resources, parse_json(text, what), "resources")


def update(store: Store, identity: str, resources: Resources) -> None:
    """Apply limits; what they do not name stays. Raises ContainerGone when the container does not run, HutchError naming the
    key that the kernel refused."""
    entry = store.load(identity)
    with Lock(entry.directory, identity):
        if entry.status() == STOPPED:
            raise ContainerGone(f"container {identity}: container not running")
        if not entry.cgroup:
            raise UnsupportedError(
                f"container {identity}: has no cgroup of its own, so it has no limits to change", "rootless containers need a delegated cgroup"
            )
        # engines send the whole of a container's resources, whose device rules do not change while it runs
        Cgroup(entry.cgroup).update(resources.replace(devices=()))
