"""Pull an image: its manifest, its configuration, and its layers, all at once, into the store."""

from __future__ import annotations

from hutch.errors import HutchError, ImageError, RegistryError
from hutch.image import manifest as manifests
from hutch.image.layers import lowers
from hutch.image.manifest import Index, Manifest
from hutch.image.reference import Reference
from hutch.image.registry import settings
from hutch.image.registry.client import Registry, connect
from hutch.image.registry.http import ATTEMPTS
from hutch.image.store import lease, names
from hutch.image.store.content import Content, DiskError
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal

    from hutch.image.registry.credentials import Credentials
    from hutch.kernel.features import Features

AT_ONCE = 4


class Progress(Record):
    """How far a blob is: `status` is "waiting" (another process fetches it), "fetching" or "sending", "done" or "there" (it was already).

    `current` and `total` are bytes. The last one of all has the status "image" and the image's digest.
    """

    digest: str
    status: Literal["waiting", "fetching", "sending", "done", "there", "image"]
    current: int = 0
    total: int = 0


def pull(content: Content, reference: Reference, features: Features, platform: str, given: Credentials | None = None) -> Iterator[Progress]:
    """Fetch what is missing, and let the name stand for it. Nothing is seen of it before it is whole.

    Raises RegistryError and ImageError. Stop it by closing the iterator: what was fetched stays for the next time.
    """
    problem: ImageError | None = None
    *mirrors, _ = endpoints = settings.endpoints(reference.host)
    for number, endpoint in enumerate(endpoints):
        # nobody waits for a mirror to come back: the next one has the same
        attempts = 1 if number < len(mirrors) else ATTEMPTS
        with connect(reference, endpoint, given=given, attempts=attempts) as registry:
            try:
                yield from _pull(content, registry, reference, features, platform)
                return
            except DiskError:
                raise
            except ImageError as error:
                missing = isinstance(error, RegistryError) and error.status == 404
                problem = problem if problem is not None and missing else error
    assert problem is not None
    raise problem


def _pull(content: Content, registry: Registry, reference: Reference, features: Features, platform: str) -> Iterator[Progress]:
    what = f"image {reference.familiar}"
    data, media_type, digest = registry.manifest(reference.target)
    with lease.Lease(content) as held:
        held.add(digest)
        parsed: Manifest | Index = manifests.parse(data, what, media_type)
        content.put(data)
        one = digest
        for _ in range(4):
            if isinstance(parsed, Manifest):
                break
            entry = manifests.choose(parsed, platform, what)
            held.add(entry.digest)
            if content.has(entry.digest):
                data = content.read(entry.digest, manifests.MANIFEST_LIMIT)
            else:
                data, media_type, _ = registry.manifest(entry.digest)
                content.put(data)
            if len(data) != entry.size:
                raise ImageError(f"{what}: the manifest for {platform} has {len(data)} bytes, and its index says {entry.size}")
            one, parsed = entry.digest, manifests.parse(data, what, entry.media_type)
        if not isinstance(parsed, Manifest):
            raise ImageError(f"{what}: its indexes are nested too deeply")
        manifests.check_layers(parsed, what)
        held.add(parsed.config.digest, *(layer.digest for layer in parsed.layers))
        config = manifests.parse_config(_config(content, registry, parsed, what), what)
        manifests.check_platform(config, platform, what)
        if len(config.diff_ids) != len(parsed.layers):
            raise ImageError(f"{what}: {len(parsed.layers)} layers, but {len(config.diff_ids)} digests of them")
        held.add(*config.diff_ids)
        yield from _layers(content, registry, parsed, config.diff_ids, features, what)
        names.put(content, str(reference), digest, one, config.platform)
    yield Progress(digest=digest, status="image")


def _config(content: Content, registry: Registry, manifest: Manifest, what: str) -> bytes:
    entry = manifest.config
    if content.has(entry.digest):
        return content.read(entry.digest)
    data = b""
    for piece in registry.blob(entry.digest):
        data += piece
        if len(data) > entry.size:
            break
    if len(data) != entry.size or content_digest(data, entry.digest) != entry.digest:
        raise ImageError(f"{what}: its configuration is not what the manifest says", "the registry, or something on the way, is damaged")
    if entry.digest.startswith("sha256:"):
        content.put(data)
    else:
        with content.new() as ingest:
            ingest.write(data)
            ingest.commit(entry.digest)
    return data


def content_digest(data: bytes, like: str) -> str:
    """The digest of bytes by the algorithm of another digest."""
    import hashlib

    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _layers(content: Content, registry: Registry, manifest: Manifest, diff_ids: tuple[str, ...], features: Features, what: str) -> Iterator[Progress]:
    """The layers, a few at a time, the lowest first; their progress as it comes."""
    from _queue import SimpleQueue
    from threading import Thread

    news: SimpleQueue[Any] = SimpleQueue()
    left = list(dict(zip([layer.digest for layer in manifest.layers], zip(manifest.layers, diff_ids, strict=True), strict=True)).values())[::-1]
    running: list[Registry] = []
    stopped = False

    def one(twin: Registry) -> None:
        try:
            while left and not stopped:
                entry, diff_id = left.pop()
                _layer(content, twin, entry, diff_id, features, what, news.put)
        except HutchError as error:
            news.put(error)
        except BaseException as error:  # a bug must not hang whoever waits
            news.put(error)
        finally:
            twin.close()
            news.put(None)

    threads = []
    for number in range(min(AT_ONCE, len(left))):
        twin = registry if number == 0 else registry.twin()
        running.append(twin)
        threads.append(Thread(target=one, args=(twin,), daemon=True))
    problem: BaseException | None = None
    try:
        for thread in threads:
            thread.start()
        alive = len(threads)
        while alive:
            found = news.get()
            if found is None:
                alive -= 1
            elif isinstance(found, BaseException):
                problem = problem or found
                left.clear()
                for twin in running:
                    twin.stop()
            else:
                yield found
    finally:
        stopped = True
        left.clear()
        for twin in running:
            twin.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if problem is not None:
        raise problem


def _layer(content: Content, registry: Registry, entry: manifests.Descriptor, diff_id: str, features: Features, what: str, tell: Any) -> None:
    digest, total = entry.digest, entry.size
    if content.has(digest) and lowers.find(content, diff_id, features) is not None:
        tell(Progress(digest=digest, status="there", current=total, total=total))
        return

    def pieces(offset: int) -> Iterator[bytes]:
        current = offset
        for piece in registry.blob(digest, offset):
            current += len(piece)
            tell(Progress(digest=digest, status="fetching", current=current, total=total))
            yield piece

    waiting = Progress(digest=digest, status="waiting", total=total)
    lowers.fetch(content, digest, total, diff_id, pieces, features, what, waiting=lambda: tell(waiting), cancel=registry.stop)
    tell(Progress(digest=digest, status="done", current=total, total=total))
