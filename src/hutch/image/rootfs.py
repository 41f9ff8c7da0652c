"""A root file system as the runtime needs it: layers, by path, and what stands around them.

Whatever a container is made from (this machine, a directory, an archive) is resolved to a `Rootfs`. An image store gives the
same thing; nothing above this module knows where the layers came from.
"""

from __future__ import annotations

from hutch.record import Record


class Hidden(Record):
    """A path, relative to its view, that a container may not see, or that a mount covers. `parents` are the modes of its parent
    directories."""

    path: str
    parents: tuple[int, ...] = ()


class View(Record):
    """A directory of the container that is an overlay: `lowers` top first, on the host; `mode` of its root.

    `guarded`: the directory is the living host's, and the container's root reads in it what a stranger on this host could, at
    every moment; `mount` is the mount point that it lies on, all of whose views one overlay guards. `nested` are mounts of the
    host's below it, which an overlay does not show. `stacked`: it lies on an overlay already, and can be no layer of a second one
    that is guarded: it is shown read-only.

    `extra`: software beside the system's own (/opt): in a user namespace it is bound read-only and without id mapping, so
    that what not everyone on the host may read stays closed; that costs a tenth of an overlay.

    `recursive_bind`: the host has mounts below it that a user namespace may not part, so the whole is bound read-only instead.
    """

    path: str
    lowers: tuple[str, ...]
    mode: int = 0o755
    hidden: tuple[Hidden, ...] = ()
    recursive_bind: bool = False
    extra: bool = False
    guarded: bool = False
    mount: str = ""
    nested: tuple[Hidden, ...] = ()
    stacked: bool = False


class ImageConfig(Record):
    """What an image says of how it wants to be run (OCI image-spec, config.md). `health` is Docker's ``Healthcheck``."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: dict[str, str] = {}
    health: tuple[str, ...] = ()


class Layer(Record):
    """A lower directory that somebody else may use at the same time, and that nobody may remove meanwhile.

    `lower` is the directory for overlayfs; `lock` the file that its users hold. With an `index`, `lower` is a mount point:
    an EROFS image whose content lies in `tar` is mounted there by whoever comes first, and unmounted by who leaves last.
    """

    lower: str
    lock: str
    index: str = ""
    tar: str = ""


class ImageMount(Record):
    """Another image's files in a container, read-only: its `layers`, the topmost first, on `target`; of `path` in it alone."""

    target: str
    layers: tuple[Layer, ...]
    path: str = ""


class Rootfs(Record):
    """A resolved root file system.

    `views` are overlays; when none of them is ``/``, the root is made of `directories` (path and mode), `links` (path and
    target) and the views. `invisible` are host directories that are left out on purpose, for messages.
    `layers` are those of the lowers that are shared, and held while a container runs.
    `manifest` is the digest of the image that it comes from.
    """

    name: str
    views: tuple[View, ...]
    directories: tuple[tuple[str, int], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    invisible: tuple[str, ...] = ()
    config: ImageConfig = ImageConfig()
    warnings: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    manifest: str = ""

    @property
    def lowers(self) -> tuple[str, ...]:
        """Every lower directory of every view."""
        return tuple(lower for view in self.views for lower in view.lowers)
