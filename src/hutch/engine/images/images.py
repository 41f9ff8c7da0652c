"""Images: ``hutch.images.pull("debian:12")`` and the other nouns and verbs.

>>> for step in hutch.images.pull("debian:12"):  # doctest: +SKIP
...     print(step.digest[:19], step.status, step.current, step.total)
"""

from __future__ import annotations

import os

from hutch.engine.records import state
from hutch.errors import ImageError, UsageError
from hutch.image import collect, manifest as manifests, reference as references, stored_image
from hutch.image.collect import Collected
from hutch.image.registry.credentials import Credentials
from hutch.image.registry.pull import Progress, pull as pull_image
from hutch.image.store import names
from hutch.image.store.content import Content
from hutch.image.stored_image import Image as Stored
from hutch.kernel.features import features
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO


class Layer(Record):
    """A line of an image's history: what made it, when, and the bytes of its layer (0: it made none)."""

    created: str
    created_by: str
    comment: str
    size: int
    digest: str = ""


class Image(Record):
    """An image of the store.

    `name` is as people write it ("<none>" without one), `reference` complete; `id` is the digest of its configuration,
    `digest` that of its manifest, or index, as the registry has it. `created` is a time (RFC 3339), `size` the bytes of its
    layers' plain tars where they are kept, else of its blobs.
    """

    name: str
    reference: str
    id: str
    digest: str
    created: str
    updated: float
    platform: str
    size: int
    labels: dict[str, str]
    config: dict[str, Any]
    layers: tuple[str, ...]

    @property
    def short_id(self) -> str:
        """The first twelve digits of the id."""
        return self.id.partition(":")[2][:12]

    def tag(self, name: str) -> Image:
        """Give it another name. Raises UsageError."""
        return tag(self.id, name)

    def history(self) -> list[Layer]:
        """How it was made, the newest first."""
        return history(self.id)


def image_of(content: Content, image: Stored) -> Image:
    """An image of the store as its users see it."""
    run = image.config.run
    size = sum(content.size(diff_id) or content.size(layer.digest) for diff_id, layer in zip(image.config.diff_ids, image.manifest.layers, strict=False))
    return Image(
        name=stored_image.familiar(image.name),
        reference=image.name,
        id=image.id,
        digest=image.digest,
        created=_shown(image.config.created),
        updated=image.updated,
        platform=image.config.platform,
        size=size,
        labels=run.labels,
        config=image.config.data,
        layers=image.config.diff_ids,
    )


class Pull:
    """A pull under way: iterate for its `Progress`, or ask for its `result`, the image. Closing it stops it."""

    def __init__(self, content: Content, reference: references.Reference, steps: Iterator[Progress]) -> None:
        self._content, self._reference, self._steps = content, reference, steps
        self._done = False

    def __iter__(self) -> Pull:
        return self

    def __next__(self) -> Progress:
        try:
            return next(self._steps)
        except StopIteration:
            self._done = True
            raise

    def close(self) -> None:
        """Stop it. What was fetched stays for the next time."""
        close = getattr(self._steps, "close", None)
        if close is not None:
            close()

    def result(self) -> Image:
        """The image, when it is there. Raises RegistryError, ImageError."""
        for _ in self:
            pass
        return get(str(self._reference))


def pull(name: str, *, platform: str = "", credentials: tuple[str, str] | None = None) -> Pull:
    """Fetch an image from its registry: what is missing, verified on the way. Nothing happens until it is iterated.

    `platform` is such as ``linux/arm64`` (default: this machine's), `credentials` are (user, password); without them those
    of `hutch login`, Docker and Podman are used. Raises UsageError for a name that is none.
    """
    found = features()
    content = Content()
    reference = references.parse(name)
    given = Credentials(user=credentials[0], password=credentials[1]) if credentials else None
    return Pull(content, reference, pull_image(content, reference, found, platform or stored_image.platform_of(found), given))


def push(name: str, target: str = "", *, credentials: tuple[str, str] | None = None) -> Iterator[Progress]:
    """Send an image to a registry, under its own name or another. Raises RegistryError, ImageError, UsageError."""
    from hutch.image.registry import push as pushing

    content = Content()
    wanted = references.parse(target or name)
    record = stored_image.find_name(content, name)
    if record is None:
        raise ImageError(f"image {name}: is not in the store", "`hutch images` lists what is")
    if wanted.digest:
        raise UsageError(f"push {target or name}: a digest is the image's own: name a tag")
    given = Credentials(user=credentials[0], password=credentials[1]) if credentials else None
    return pushing.push(content, record, wanted, given)


def get(name: str) -> Image:
    """An image by its name, digest, or the beginning of its id. Raises ImageError."""
    content = Content()
    return image_of(content, stored_image.find(content, name))


def every() -> list[Image]:
    """Every image of the store, the newest first; one entry a name. Images that are not whole are left out."""
    content = Content()
    found = []
    for name in names.every(content):
        try:
            found.append(image_of(content, stored_image.read(content, name)))
        except ImageError:
            continue
    return found


def tag(source: str, name: str) -> Image:
    """Let another name stand for an image. Raises UsageError, ImageError."""
    content = Content()
    reference = references.parse(name)
    if reference.digest:
        raise UsageError(f"tag {name}: a digest cannot be chosen")
    record = stored_image.find_name(content, source)
    if record is None:
        raise ImageError(f"image {source}: is not in the store", "`hutch images` lists what is")
    put = names.put(content, str(reference), record.digest, record.manifest, record.platform)
    if record.reference.startswith(names.NONE):
        names.remove(content, record)
    return image_of(content, stored_image.read(content, put))


def remove(name: str, *, force: bool = False) -> list[str]:
    """Remove a name, or, by an id, an image with all its names; and what nothing needs any more. What was removed.

    Raises ImageError when a container uses it, unless `force` (its files stay until the container has ended).
    """
    content = Content()
    record = stored_image.find_name(content, name)
    if record is None:
        raise ImageError(f"image {name}: is not in the store", "`hutch images` lists what is")
    same = [other for other in names.every(content) if other.manifest == record.manifest]
    by_id = not _is_name(name, record.reference)
    if by_id and len(same) > 1 and not force:
        raise ImageError(f"image {name}: has {len(same)} names", "name one of them, or -f for all")
    going = same if by_id else [record]
    if len(going) == len(same) and not force:
        for running in state.everywhere():
            if running.data.get("manifest") == record.manifest:
                raise ImageError(f"image {name}: container {running.name or running.id} uses it ({running.status})", "remove the container first, or -f")
    for other in going:
        names.remove(content, other)
    prune()
    return [stored_image.familiar(other.reference) if other.parsed else other.manifest for other in going]


def _is_name(text: str, reference: str) -> bool:
    try:
        return str(references.parse(text)) == reference or reference.startswith(str(references.parse(text, tag=False)) + "@")
    except UsageError:
        return False


def prune(*, unused: bool = False) -> Collected:
    """Remove what no name and no container needs; with `unused`, images that no container uses, too."""
    content = Content()
    used = {str(running.data.get("manifest")) for running in state.everywhere() if running.data.get("manifest")}
    for name in names.every(content):
        if name.manifest not in used and (unused or name.reference.startswith(names.NONE)):
            names.remove(content, name)
    return collect.collect(content, features(), used)


def _shown(value: object) -> str:
    """A text of an image's maker, with nothing in it that a terminal would obey."""
    text = str(value or "")
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def history(name: str) -> list[Layer]:
    """How an image was made, the newest first. Raises ImageError."""
    content = Content()
    image = stored_image.find(content, name)
    entries = image.config.data.get("history")
    rows = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    left = list(zip(image.config.diff_ids, image.manifest.layers, strict=False))
    if sum(1 for row in rows if not row.get("empty_layer")) != len(left):
        rows = [{"created_by": ""} for _ in left]  # it does not fit: the layers are what is sure
    out = []
    for row in rows:
        diff_id, size = "", 0
        if not row.get("empty_layer"):
            diff_id, blob = left.pop(0)
            size = content.size(diff_id) or blob.size
        texts = {key: _shown(row.get(key)) for key in ("created", "created_by", "comment")}
        out.append(Layer(**texts, size=size, digest=diff_id))
    return out[::-1]


def save(wanted: Iterable[str], out: BinaryIO) -> None:
    """Write images into an archive that Hutch, Docker, Podman and skopeo read. Raises ImageError."""
    from hutch.image.archive import writing

    content = Content()
    found = []
    for name in wanted:
        record = stored_image.find_name(content, name)
        if record is None:
            raise ImageError(f"image {name}: is not in the store", "`hutch images` lists what is")
        found.append(stored_image.read(content, record))
    if not found:
        raise UsageError("save: no image was named")
    writing.save(content, found, out.write)


def load(source: str | os.PathLike[str] | BinaryIO) -> list[Image]:
    """Bring the images of an archive (a path, or a stream) or a layout's directory into the store. Raises ImageError."""
    from hutch.image.archive import reading
    from hutch.image.store import lease

    content = Content()
    found = features()
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    what = f"load {path}" if path else "load"
    with lease.Lease(content) as held:
        loaded = reading.load(content, path if path is not None else source.fileno(), what, found, stored_image.platform_of(found), held.add)  # type: ignore[union-attr]
        out = []
        for image in loaded:
            texts = []
            for text in image.names:
                try:
                    # an archive may say `latest` alone, which names nothing
                    texts.append(str(references.parse(text)) if "/" in text or ":" in text else f"{names.NONE}@{image.digest}")
                except UsageError:
                    continue
            for reference in dict.fromkeys(texts or [f"{names.NONE}@{image.digest}"]):
                record = names.put(content, reference, image.digest, image.digest, image.config.platform)
                out.append(image_of(content, stored_image.read(content, record)))
    content.settle()
    return out


def import_(source: str | os.PathLike[str] | BinaryIO, name: str = "", *, changes: Iterable[str] = (), message: str = "") -> Image:
    """An image of one layer from a root file system's tar, plain or compressed. Raises ImageError, UsageError."""
    from hutch.image import making
    from hutch.image.archive import places, reading
    from hutch.image.store import lease

    content = Content()
    reference = str(references.parse(name)) if name else ""
    found = features()
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    what = f"import {path or '-'}"
    fd = places.open_file(path, what) if path is not None else os.dup(source.fileno())  # type: ignore[union-attr]
    with open(fd, "rb", buffering=0) as file, lease.Lease(content) as held:
        diff_id = reading.store_plain(content, iter(lambda: file.read(1 << 18), b""), what, hold=held.add)
        record = making.make(content, held, None, [diff_id], found, reference, changes=changes, comment=message, created_by="hutch import")
    content.settle()
    return image_of(content, stored_image.read(content, record))


def settle() -> None:
    """Wait until the disk has everything that was fetched: what a power failure must not take."""
    Content().settle()


def referrers(name: str) -> list[dict[str, str]]:
    """What a registry has that refers to an image: signatures, attestations, by digest, type and size. Raises RegistryError."""
    from hutch.image.registry import client, settings

    reference = references.parse(name)
    with client.connect(reference, settings.own(reference.host)) as registry:
        digest = reference.digest or registry.has_manifest(reference.tag)
        if not digest:
            raise ImageError(f"image {name}: does not exist in its registry")
        found = registry.referrers(digest)
    return [{"digest": entry.digest, "type": entry.artifact_type or entry.media_type, "size": str(entry.size)} for entry in found]


def ensure(name: str, when: str, show: Callable[[Iterable[Progress]], object]) -> None:
    """Pull an image as ``--pull`` says: "missing", "always" or "never". Raises RegistryError, ImageError, UsageError."""
    from hutch.image import resolve

    if when not in ("missing", "always", "never"):
        raise UsageError(f"pull: expected missing, always or never, got {when!r}")
    if name == "host" or resolve.is_path(name) or name.startswith(resolve.SNAPSHOT):
        return
    if when == "never" or (when == "missing" and stored_image.find_name(Content(), name) is not None):
        return
    show(pull(name))


def architecture() -> str:
    """The images' name for this machine."""
    return manifests.architecture(features().machine)
