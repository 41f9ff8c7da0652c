"""Images in the store: found by what a person calls them, and made into a root file system."""

from __future__ import annotations

import os

from hutch.errors import ImageError, UsageError
from hutch.image import manifest as manifests, reference as references
from hutch.image.layers import lowers
from hutch.image.manifest import Config, Manifest
from hutch.image.rootfs import ImageConfig, Layer, Rootfs, View
from hutch.image.store import names
from hutch.image.store.content import Content
from hutch.image.store.names import Name
from hutch.kernel.features import Features
from hutch.record import Record

HEX = frozenset("0123456789abcdef")


class Image(Record):
    """An image of the store. `id` is its configuration's digest, `digest` its manifest's (or its index's, as it was pulled),
    `manifest_digest` the manifest's own."""

    name: str
    id: str
    digest: str
    manifest_digest: str
    manifest: Manifest
    config: Config
    updated: float


def platform_of(features: Features) -> str:
    """This machine's platform in images' terms."""
    return f"linux/{manifests.architecture(features.machine)}"


def read(content: Content, name: Name) -> Image:
    """The image that a name stands for. Raises ImageError when it is not whole."""
    what = f"image {familiar(name.reference)}"
    parsed = manifests.parse(content.read(name.manifest, manifests.MANIFEST_LIMIT), what)
    if not isinstance(parsed, Manifest):
        raise ImageError(f"{what}: its record is damaged", "pull it again")
    config = manifests.parse_config(content.read(parsed.config.digest), what)
    return Image(
        name=name.reference, id=parsed.config.digest, digest=name.digest, manifest_digest=name.manifest, manifest=parsed, config=config, updated=name.updated
    )  # fmt: skip


def familiar(reference: str) -> str:
    """A complete reference as people write it."""
    return names.NONE if reference.startswith(names.NONE) else references.parse(reference, tag=False).familiar


def find_name(content: Content, text: str) -> Name | None:
    """The record that a name, a digest, or the beginning of an id stands for. Raises ImageError when it stands for several."""
    references.require_text(text)
    try:
        wanted = references.parse(text)
    except UsageError:
        wanted = None
    if wanted is not None:
        found = names.get(content, wanted)
        if found is None and wanted.digest:
            # the digest says it all; the same image may have been pulled by a tag
            for name in names.every(content):
                parsed = name.parsed
                if parsed is not None and parsed.repository == wanted.repository and wanted.digest in (name.digest, name.manifest):
                    return name
        if found is not None:
            return found
    start = text.removeprefix("sha256:")
    if len(start) < 3 or set(start) - HEX:
        return None
    matches: dict[str, Name] = {}
    for name in names.every(content):
        try:
            identity = read(content, name).id
        except ImageError:
            continue
        if identity.startswith(f"sha256:{start}"):
            matches.setdefault(identity, name)
    if len(matches) > 1:
        raise ImageError(f"image {text}: {len(matches)} images have an id that begins so")
    return next(iter(matches.values()), None)


def find(content: Content, text: str) -> Image:
    """The image that a person means. Raises ImageError."""
    name = find_name(content, text)
    if name is None:
        raise ImageError(f"image {text}: is not in the store", "`hutch images` lists what is, `hutch pull` fetches one")
    return read(content, name)


def rootfs(content: Content, digest: str, manifest: Manifest, config: Config, features: Features, what: str, name: str) -> Rootfs:
    """The layers of an image as a root file system; made if they are not there. Raises ImageError."""
    manifests.check_platform(config, platform_of(features), what)
    if len(config.diff_ids) != len(manifest.layers):
        raise ImageError(f"{what}: {len(manifest.layers)} layers, but {len(config.diff_ids)} digests of them")
    found = [lowers.ensure(content, diff_id, blob.digest, features, what) for diff_id, blob in zip(config.diff_ids, manifest.layers, strict=True)]
    if not found:
        raise ImageError(f"{what}: has no layers")
    return of_layers(name, found, config.run, digest)


def of_layers(name: str, found: list[Layer], run: ImageConfig, manifest: str) -> Rootfs:
    """A root file system of layers, from the lowest to the topmost."""
    unique = tuple(dict.fromkeys(reversed(found)))  # the same layer twice shows nothing more
    view = View(path="/", lowers=tuple(layer.lower for layer in unique), mode=lowers.root_mode(unique[0]))
    return Rootfs(name=name, views=(view,), config=run, layers=unique, manifest=manifest)


def of_directory(name: str, path: str) -> Rootfs:
    """A directory as a root file system."""
    mode = os.stat(path).st_mode & 0o7777
    if not os.access(path, os.R_OK | os.X_OK):
        raise ImageError(f"image {name}: this user may not read the directory")
    return Rootfs(name=name, views=(View(path="/", lowers=(path,), mode=mode),))
