"""A new container: what its settings name and is not there yet is made, then it is prepared.

`prepare` only looks; this is the one way by which anything comes to be.
"""

from __future__ import annotations

import os

from hutch.engine.launch import prepare
from hutch.engine.launch.prepare import Prepared
from hutch.engine.records import state
from hutch.engine.spec.settings import DEFAULT_NETWORK, Settings
from hutch.errors import UsageError
from hutch.image import resolve
from hutch.image.store import directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hutch.image.registry.pull import Progress
    from hutch.image.rootfs import Rootfs

WHEN = ("missing", "always", "never")


def create(
    s: Settings, *, idle: bool = False, detach: bool = False, remove: bool = True, accounting: bool = True, reopen: str = "",
    rootfs: Rootfs | None = None, inherited: tuple[str, ...] = (), show: Callable[[Iterable[Progress]], object] = list,
) -> Prepared:  # fmt: skip
    """A container ready to be launched, as `prepare.prepare` describes it: its images pulled as the settings say, its network and
    its volumes made, and these filled with what the image has there.

    `show` is given the progress of what is pulled, and goes through it.

    Raises UsageError, ImageError, RegistryError, StateError, UnsupportedError; what was made for it alone is gone then.
    """
    if s.pull not in WHEN:
        raise UsageError(f"pull: expected {', '.join(WHEN[:-1])} or {WHEN[-1]}, got {s.pull!r}")
    if s.pull == "always":
        _pull(s, show)
    if any(item.network == DEFAULT_NETWORK for item in s.attachments):
        from hutch.engine.networks import definitions

        definitions.establish()

    def ready() -> Prepared:
        return prepare.prepare(s, idle=idle, detach=detach, remove=remove, accounting=accounting, reopen=reopen, rootfs=rootfs, inherited=inherited)

    try:
        prepared = ready()
    except resolve.MissingImage:
        if s.pull != "missing":
            raise
        _pull(s, show)
        prepared = ready()
    s, rootfs = prepared.settings, prepared.rootfs
    if s.upper == "disk":
        directories.uppers()
    if rootfs.manifest or s.volumes or s.images:
        state.remember()
    if s.volumes:
        from hutch.engine.volumes import volumes

        try:
            _make_volumes(s, rootfs, prepared.fresh)
        except BaseException:
            volumes.forget(prepared.fresh)
            raise
    return prepared


def _make_volumes(s: Settings, rootfs: Rootfs, fresh: tuple[str, ...]) -> None:
    """Make and fill the volumes of a new container, whose settings `of_container` gave. Raises UsageError, StateError."""
    from hutch.engine.containers.populate import fill
    from hutch.engine.volumes import volumes

    for mount in s.volumes:
        volume = volumes.create(mount.name, anonymous=mount.name in fresh)
        if mount.subpath and os.path.realpath(mount.source) != mount.source:
            raise UsageError(f"mount: {mount.subpath!r} does not lie in volume {volume.name}, or a link leads out of it")
        if not os.path.exists(mount.source):
            raise UsageError(f"mount: volume {volume.name} has no {mount.subpath!r}")
        if not mount.nocopy and not mount.subpath:
            fill(volume, rootfs, mount.target)


def _pull(s: Settings, show: Callable[[Iterable[Progress]], object]) -> None:
    from hutch.engine.images import images

    for name in dict.fromkeys((s.image, *(source.image for source in s.images))):
        images.ensure(name, s.pull, show)
