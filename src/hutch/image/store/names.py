"""Which image a name stands for: one small file a name, replaced as a whole (rename(2))."""

from __future__ import annotations

import os
import time

from hutch import jsontext
from hutch.errors import UsageError
from hutch.image import reference as references
from hutch.image.reference import Reference, is_digest
from hutch.image.store.content import Content, digest_of
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NONE = "<none>"


class Name(Record):
    """A name's record: `reference` complete (or ``<none>@DIGEST`` for an image without one), the `digest` of its manifest or
    index, `manifest` of the image in it for this machine, and when it was set, in seconds since 1970."""

    reference: str
    digest: str
    manifest: str
    platform: str
    updated: float

    @property
    def parsed(self) -> Reference | None:
        """The reference; None for an image without a name."""
        return None if self.reference.startswith(NONE) else references.parse(self.reference, tag=False)


def _file(content: Content, reference: str) -> str:
    name = reference.replace("%", "%25").replace("/", "%2F")
    if len(name) > 240:
        name = "long-" + digest_of(reference.encode())[7:]
    return f"{content.root}/images/{name}"


def _read(path: str) -> Name | None:
    try:
        with open(path, encoding="utf-8") as file:
            data = jsontext.loads(file.read())
        name = Name(**data)
        texts = (name.reference, name.digest, name.manifest, name.platform)
        if not all(isinstance(text, str) for text in texts) or not is_digest(name.digest) or not is_digest(name.manifest):
            return None
        updated: object = name.updated
        return name if isinstance(updated, int | float) and (name.parsed is not None or name.reference.startswith(NONE)) else None
    except (OSError, ValueError, TypeError, UsageError):
        return None


def get(content: Content, reference: Reference) -> Name | None:
    """The record of exactly this name."""
    return _read(_file(content, str(reference)))


def put(content: Content, reference: str, digest: str, manifest: str, platform: str) -> Name:
    """Let a name stand for an image, instead of what it stood for."""
    name = Name(reference=reference, digest=digest, manifest=manifest, platform=platform, updated=time.time())
    path = _file(content, reference)
    content.mark(os.path.relpath(path, content.root))
    with content.new() as file:
        file.write(f"{jsontext.dumps(name.as_dict())}\n".encode())
        os.rename(file.release(), path)
    return name


def remove(content: Content, name: Name) -> None:
    """Forget a name. What it stood for stays until it is collected."""
    try:
        os.unlink(_file(content, name.reference))
    except FileNotFoundError:
        pass


def every(content: Content) -> Iterator[Name]:
    """Every name, the newest first."""
    found = [_read(f"{content.root}/images/{entry}") for entry in os.listdir(f"{content.root}/images")]
    yield from sorted((name for name in found if name is not None), key=lambda name: (-name.updated, name.reference))
