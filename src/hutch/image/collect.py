"""What nothing needs any more: found by reachability, removed; and what is damaged: found by its digest, repaired.

Reachable is what a name stands for (its index, manifest, configuration, blobs, plain tars, layers), what a lease holds, and
what containers use: a layer in use is locked by its users.
"""

from __future__ import annotations

import fcntl
import os

from hutch.errors import ImageError
from hutch.image import manifest as manifests
from hutch.image.layers import ingest, mapped
from hutch.image.manifest import Manifest
from hutch.image.store import lease, names
from hutch.image.store.content import Content, hash_file
from hutch.kernel.features import Features
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Collected(Record):
    """What was removed: how many blobs and layers, and bytes of disk."""

    blobs: int = 0
    layers: int = 0
    bytes: int = 0


def reach(content: Content, manifest_digest: str) -> set[str]:
    """Everything that an image needs: its manifest, configuration, blobs, and plain tars by their digests."""
    found = {manifest_digest}
    try:
        parsed = manifests.parse(content.read(manifest_digest, manifests.MANIFEST_LIMIT), manifest_digest)
        if isinstance(parsed, Manifest):
            found |= {parsed.config.digest, *(layer.digest for layer in parsed.layers)}
            found |= set(manifests.parse_config(content.read(parsed.config.digest), manifest_digest).diff_ids)
        else:
            for entry in parsed.manifests:
                if content.has(entry.digest):
                    found |= reach(content, entry.digest)
    except ImageError:
        pass  # it is damaged, which `fsck` says; nothing of it can be followed
    return found


def needed(content: Content, containers: Iterable[str] = ()) -> set[str]:
    """The digests of everything that may not be removed; `containers` are digests that kept containers need."""
    found = lease.held(content)
    for digest in containers:
        found |= reach(content, digest)
        found.add(digest)
    for name in names.every(content):
        found |= {name.digest} | reach(content, name.manifest)
    return found


def collect(content: Content, features: Features, containers: Iterable[str] = ()) -> Collected:
    """Remove what nothing reaches. Pulls go on meanwhile; what they need is theirs."""
    blobs = layers = size = 0
    with lease.Gate(content, exclusive=True):
        keep = needed(content, containers)
        for entry in os.listdir(f"{content.root}/layers"):
            digest = entry.replace("-", ":", 1)
            place = f"{content.root}/layers/{entry}"
            if digest in keep:
                continue
            freed = disk_usage(place)
            if not _remove_layer(place, features):
                keep.add(digest)  # a container is on it
                continue
            layers += 1
            size += freed
        for digest, info in list(content.blobs()):
            if digest not in keep:
                os.unlink(content.path(digest))
                blobs += 1
                size += info.st_blocks * 512
        ingest.sweep(content, features, partial=True)
        _forget_files(content)
    return Collected(blobs=blobs, layers=layers, bytes=size)


def _remove_layer(place: str, features: Features) -> bool:
    """Remove a layer that no container holds; whether it is gone."""
    fd = os.open(f"{place}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        from hutch.executor.undo import unmount

        unmount(f"{place}/mount")
        mapped.remove_tree(place, features)
        return True
    finally:
        os.close(fd)


def _forget_files(content: Content) -> None:
    for name in os.listdir(f"{content.root}/files"):
        with open(f"{content.root}/files/{name}", encoding="latin-1") as file:
            digest = file.read().partition(" ")[2]
        if not content.has(digest) and not os.path.isdir(f"{content.root}/layers/{digest.replace(':', '-')}"):
            os.unlink(f"{content.root}/files/{name}")


def disk_usage(path: str) -> int:
    """The bytes that a file or a tree takes on the disk; what cannot be read is not counted."""
    total = 0
    left = [path]
    while left:
        here = left.pop()
        try:
            total += os.lstat(here).st_blocks * 512
            if os.path.isdir(here) and not os.path.islink(here) and not os.path.ismount(here):
                left += [f"{here}/{name}" for name in os.listdir(here)]
        except OSError:
            continue
    return total


class Finding(Record):
    """Something that `fsck` found: `what` it is, what is wrong, and what was done about it."""

    what: str
    problem: str
    action: str


def check(content: Content, features: Features, repair: bool, progress: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """Verify every blob by its digest, every layer and every name. With `repair`: what is damaged is removed, or made anew
    from what is sound; names that stand for nothing whole are told, and stay, since a pull makes them whole."""
    for digest, _ in list(content.blobs()):
        progress(digest)
        path = content.path(digest)
        try:
            sound = hash_file(path) == digest.partition(":")[2]
        except FileNotFoundError:
            continue  # collected meanwhile
        if not sound:
            if repair:
                os.unlink(path)
            yield Finding(what=digest, problem="does not have its digest", action="removed" if repair else "none")
    for entry in sorted(os.listdir(f"{content.root}/layers")):
        progress(entry)
        yield from _check_index(content, entry, repair)
    for name in names.every(content):
        missing = sorted(digest for digest in reach(content, name.manifest) | {name.digest} if not _there(content, digest))
        for digest in missing:
            yield Finding(what=name.reference, problem=f"{digest} is missing", action="pull it again")


def _there(content: Content, digest: str) -> bool:
    return content.has(digest) or os.path.isdir(f"{content.root}/layers/{digest.replace(':', '-')}/tree")


def _check_index(content: Content, entry: str, repair: bool) -> Iterator[Finding]:
    """An index is made of its tar, and always the same: it is made again, and compared."""
    from hutch.image.layers.lowers import index_bytes

    path = f"{content.root}/layers/{entry}/index"
    if not os.path.exists(path):
        return
    digest = entry.replace("-", ":", 1)
    if not content.has(digest):
        if repair:
            os.unlink(path)
        yield Finding(what=f"layer {digest}", problem="its tar is missing", action="removed" if repair else "none")
        return
    fresh = index_bytes(content, digest)
    with open(path, "rb") as file:
        same = file.read() == fresh
    if not same:
        if repair:
            with content.new() as ingest:
                ingest.write(fresh)
                os.rename(ingest.release(), path)
        yield Finding(what=f"layer {digest}", problem="its index is damaged", action="made anew" if repair else "none")
