"""Push an image: what the registry lacks of its blobs, then its manifest."""

from __future__ import annotations

import os

from hutch.errors import ImageError
from hutch.image import manifest as manifests
from hutch.image.layers import compress
from hutch.image.manifest import OCI_INDEX, OCI_LAYER, Descriptor, Index, Manifest
from hutch.image.reference import Reference
from hutch.image.registry import settings
from hutch.image.registry.client import Registry, connect
from hutch.image.registry.pull import Progress
from hutch.image.store import lease, names
from hutch.image.store.content import Content, digest_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hutch.image.registry.credentials import Credentials
    from hutch.image.store.names import Name


def compressed(content: Content, manifest: Manifest, hold: Callable[..., None]) -> Manifest:
    """The image as it travels: layers that the store has plain (made here, or loaded) are compressed, and stored so."""
    import hashlib

    found = []
    for layer in manifest.layers:
        if layer.media_type != OCI_LAYER:
            found.append(layer)
            continue
        machine = hashlib.sha256()
        with open(content.path(layer.digest), "rb", buffering=0) as file, content.new() as ingest:
            for piece in compress.gzip_pieces(iter(lambda: file.read(1 << 20), b"")):
                machine.update(piece)
                ingest.write(piece)
            digest, size = f"sha256:{machine.hexdigest()}", ingest.size
            hold(digest)
            if not content.has(digest):
                ingest.commit(digest)
        found.append(layer.replace(media_type=f"{OCI_LAYER}+gzip", digest=digest, size=size))
    return manifest.replace(layers=tuple(found))


def push(content: Content, name: Name, target: Reference, given: Credentials | None = None) -> Iterator[Progress]:
    """Send an image to a registry under another name, or its own. What was pulled is sent byte for byte as it was.

    Raises RegistryError, and ImageError for an image that the store has not whole.
    """
    what = f"image {target.familiar}"
    with lease.Lease(content) as held, connect(target, settings.own(target.host), "pull,push", given) as registry:
        held.add(name.digest, name.manifest)
        data = content.read(name.manifest, manifests.MANIFEST_LIMIT)
        parsed = manifests.parse(data, what)
        if not isinstance(parsed, Manifest):
            raise ImageError(f"{what}: its record is damaged", "pull it again")
        sent = compressed(content, parsed, held.add)
        digest = name.manifest
        if sent != parsed:
            data = sent.encode()
            held.add(digest_of(data))
            digest = content.put(data)
            names.put(content, name.reference, digest, digest, name.platform)
        near = _neighbours(content, target)
        for blob in (sent.config, *{layer.digest: layer for layer in sent.layers}.values()):
            yield from _blob(content, registry, blob, near.get(blob.digest, ""), what)
        registry.put_manifest(target.digest or target.tag, data, sent.media_type)
        if sent.subject is not None:
            _refer(registry, sent, sent.subject.digest, Descriptor(media_type=sent.media_type, digest=digest, size=len(data)))
    yield Progress(digest=digest, status="image")


def _neighbours(content: Content, target: Reference) -> dict[str, str]:
    """Blobs that other repositories of the same registry have, as far as the store knows: the repository's path by digest."""
    found: dict[str, str] = {}
    for name in names.every(content):
        reference = name.parsed
        if reference is None or reference.host != target.host or reference.path == target.path:
            continue
        try:
            parsed = manifests.parse(content.read(name.manifest, manifests.MANIFEST_LIMIT), str(reference))
        except ImageError:
            continue
        if isinstance(parsed, Manifest):
            found.update((blob.digest, reference.path) for blob in (parsed.config, *parsed.layers))
    return found


def _blob(content: Content, registry: Registry, blob: Descriptor, source: str, what: str) -> Iterator[Progress]:
    there = Progress(digest=blob.digest, status="there", current=blob.size, total=blob.size)
    if registry.has_blob(blob.digest) or (source and registry.mount(blob.digest, source)):
        yield there
        return
    if not content.has(blob.digest):
        raise ImageError(f"{what}: the store has no blob {blob.digest}", "pull the image again")
    fd = os.open(content.path(blob.digest), os.O_RDONLY | os.O_CLOEXEC)
    try:
        for current in registry.put_blob(blob.digest, blob.size, lambda offset, length: os.pread(fd, length, offset)):
            yield Progress(digest=blob.digest, status="sending", current=current, total=blob.size)
    finally:
        os.close(fd)
    yield there.replace(status="done")


def _refer(registry: Registry, manifest: Manifest, subject: str, entry: Descriptor) -> None:
    """Add an artifact to the list of what refers to its subject, where the registry does not keep it itself."""
    known = registry.referrers(subject)
    if all(other.digest != entry.digest for other in known):
        index = Index(media_type=OCI_INDEX, manifests=(*known, entry.replace(artifact_type=manifest.config.media_type)))
        registry.put_manifest(subject.replace(":", "-"), index.encode(), OCI_INDEX)
