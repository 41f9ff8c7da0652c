"""The store as a whole: how much room it takes, and whether it is sound."""

from __future__ import annotations

import os
import time

from hutch.engine.records import state
from hutch.engine.volumes import volumes
from hutch.image import collect
from hutch.image.collect import Finding
from hutch.image.store import directories, names
from hutch.image.store.content import Content
from hutch.kernel.features import features
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


YOUNG = 60.0  # seconds: what has just been made may be on its way to a machine


class Usage(Record):
    """A line of `hutch system df`: how many there are, how many are in use, their bytes of disk, and what could be freed."""

    kind: str
    count: int
    active: int
    size: int
    reclaimable: int


def usage() -> list[Usage]:
    """Images (with all that belongs to them), containers' changes, volumes, and what is left over."""
    content = Content()
    found = list(state.everywhere())
    used = {str(running.data.get("manifest")) for running in found if running.data.get("manifest")}
    known = list(names.every(content))
    sizes = {digest: info.st_blocks * 512 for digest, info in content.blobs()}
    for entry in os.listdir(f"{content.root}/layers"):
        digest = entry.replace("-", ":", 1)
        sizes[digest] = sizes.get(digest, 0) + collect.disk_usage(f"{content.root}/layers/{entry}")
    reached = {name.manifest: collect.reach(content, name.manifest) | {name.digest} for name in known}
    wanted = set().union(*(reached[name.manifest] for name in known)) if known else set()
    active = set().union(*(collect.reach(content, digest) for digest in used)) if used else set()
    images = sum(sizes.get(digest, 0) for digest in wanted)
    rest = sum(size for digest, size in sizes.items() if digest not in wanted | active) + sum(
        collect.disk_usage(f"{content.root}/ingest/{name}") for name in os.listdir(f"{content.root}/ingest")
    )
    uppers = [(running, collect.disk_usage(str(running.data["upper"]))) for running in found if running.data.get("upper")]
    every = [(volume, collect.disk_usage(volume.path), any(True for _ in volumes.users(volume.name))) for volume in volumes.every()]
    return [
        Usage(
            kind="Images", count=len({name.manifest for name in known}), active=len(used & {name.manifest for name in known}), size=images,
            reclaimable=sum(sizes.get(digest, 0) for digest in wanted - active),
        ),
        Usage(
            kind="Containers", count=len(found), active=sum(1 for running in found if running.status == "running"),
            size=sum(size for _, size in uppers), reclaimable=sum(size for running, size in uppers if running.status == "exited"),
        ),
        Usage(
            kind="Volumes", count=len(every), active=sum(1 for *_, used in every if used), size=sum(size for _, size, _ in every),
            reclaimable=sum(size for _, size, used in every if not used),
        ),
        *_machines(found),
        Usage(kind="Left over", count=len(set(sizes) - wanted - active), active=0, size=rest, reclaimable=rest),
    ]  # fmt: skip


def _machines(found: list[state.Running]) -> list[Usage]:
    """Snapshots of machines, and the kernels and ramdisks that machines are booted from; nothing where there has been none."""
    from hutch.engine.machines import machine_snapshots

    out = []
    saved = list(machine_snapshots.every())
    if saved:
        copied = {str(running.data.get("settings", {}).get("snapshot")) for running in found if running.status == "running"}
        out.append(
            Usage(kind="Snapshots", count=len(saved), active=sum(1 for one in saved if one.name in copied), size=sum(one.size for one in saved), reclaimable=0)
        )
    kept = [(path, os.stat(path).st_blocks * 512) for path in _kernels()]
    if kept:
        used = _booted(found)
        out.append(
            Usage(
                kind="Kernels", count=len(kept), active=sum(1 for path, _ in kept if path in used), size=sum(size for _, size in kept),
                reclaimable=sum(size for path, size in kept if path not in used),
            )
        )  # fmt: skip
    return out


def _kernels() -> list[str]:
    place = f"{directories.data_root()}/machines"
    return [f"{place}/{name}" for name in sorted(os.listdir(place))] if os.path.isdir(place) else []


def _booted(found: list[state.Running]) -> set[str]:
    """The kernels and ramdisks that machines run with."""
    running = [one.data["machine"] for one in found if one.status != "exited" and isinstance(one.data.get("machine"), dict)]
    return {str(machine.get(key)) for machine in running for key in ("kernel", "initramfs")}


def prune_kernels() -> int:
    """Remove what machines were booted from, and none is now: it is made again when it is wanted. The bytes that are free now."""
    used = _booted(list(state.everywhere()))
    freed = 0
    for path in _kernels():
        try:
            info = os.stat(path)
            if path in used or time.time() - info.st_mtime < YOUNG:
                continue
            os.unlink(path)
            freed += info.st_blocks * 512 if info.st_nlink == 1 else 0  # else a snapshot has it, too
        except OSError:
            continue  # somebody else was faster
    return freed


def check(*, repair: bool = False, progress: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """Verify every blob by its digest, every layer's index against its tar, every name; see `collect.check`."""
    return collect.check(Content(), features(), repair, progress)
