"""Write images into an archive that everyone reads: an OCI layout with Docker's manifest.json beside it, blobs shared."""

from __future__ import annotations

import os

from hutch import jsontext
from hutch.errors import ImageError
from hutch.image.archive.reading import ANNOTATION_NAME, CONTAINERD_NAME
from hutch.image.manifest import OCI_INDEX
from hutch.image.store import names
from hutch.image.store.content import Content
from hutch.image.stored_image import Image
from hutch.image.tar.header import DIRECTORY, REGULAR, Member
from hutch.image.tar.writer import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def save(content: Content, images: list[Image], out: Callable[[bytes], object]) -> None:
    """Write images as one tar (image-spec, image-layout.md; `docker load` reads it too). The same images give the same bytes.

    Raises ImageError for an image that the store has not whole.
    """
    blobs: dict[str, int] = {}
    rows, docker = [], []
    by_digest: dict[str, list[Image]] = {}
    for image in images:
        by_digest.setdefault(image.manifest_digest, []).append(image)
    for digest, same in by_digest.items():
        manifest = same[0].manifest
        size = content.size(digest)
        for blob in (digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)):
            if not content.has(blob):
                raise ImageError(f"image {same[0].name}: the store has no blob {blob}", "pull the image again")
            blobs[blob] = content.size(blob)
        tags = [image.name for image in same if not image.name.startswith(names.NONE) and "@" not in image.name]
        for tag in tags or [""]:
            named = {ANNOTATION_NAME: tag.rpartition(":")[2], CONTAINERD_NAME: tag} if tag else {}
            row: dict[str, object] = {"mediaType": manifest.media_type, "digest": digest, "size": size}
            rows.append({**row, "annotations": named} if named else row)
        docker.append(
            {
                "Config": _path(manifest.config.digest),
                "RepoTags": [_docker_name(tag) for tag in tags] or None,
                "Layers": [_path(layer.digest) for layer in manifest.layers],
            }
        )
    writer = Writer(out)
    for directory in (b"blobs", b"blobs/sha256"):
        writer.add(Member(directory, DIRECTORY, 0o755))
    for digest, size in sorted(blobs.items()):
        writer.add(Member(_path(digest).encode(), REGULAR, 0o644, size=size), _pieces(content.path(digest)))
    texts = {
        "index.json": {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}, "manifest.json": docker, "oci-layout": {"imageLayoutVersion": "1.0.0"},
    }  # fmt: skip
    for name, value in texts.items():
        data = jsontext.dumps(value).encode()
        writer.add(Member(name.encode(), REGULAR, 0o644, size=len(data)), [data])
    writer.close()


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _docker_name(reference: str) -> str:
    """As Docker writes it: its own hub's host is left out."""
    return reference.removeprefix("docker.io/library/").removeprefix("docker.io/")


def _pieces(path: str) -> Iterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            yield piece
