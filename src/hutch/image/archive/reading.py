"""Images in files: an OCI layout (directory or archive), an archive of `docker save`, a root file system's tar.

All of them end in the store: blobs by their digest, and a manifest. What they say is believed as little as a registry.
"""

from __future__ import annotations

import os

from hutch import jsontext
from hutch.errors import ImageError
from hutch.image import manifest as manifests
from hutch.image.archive.places import DirectoryPlace, Plain, TarPlace, open_file
from hutch.image.layers import compress, lowers
from hutch.image.layers.ahead import reader
from hutch.image.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Config, Descriptor, Index, Manifest
from hutch.image.store.content import Content, digest_of
from hutch.image.tar.reader import Reader
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hutch.image.archive.places import Place
    from hutch.kernel.features import Features


ANNOTATION_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


class Loaded(Record):
    """An image that is in the store now: the names that the archive has for it, and the digest of its manifest."""

    names: tuple[str, ...]
    digest: str
    manifest: Manifest
    config: Config


def load(
    content: Content, source: str | int, what: str, features: Features, platform: str, hold: Callable[..., None] = lambda *_: None
) -> list[Loaded]:  # fmt: skip
    """Every image of a layout or an archive (a path, or a descriptor that need not be seekable). Raises ImageError.

    `hold` is told the digests that must not be collected.
    """
    if isinstance(source, str) and os.path.isdir(source):
        return _layout(content, DirectoryPlace(source, what), what, features, platform, hold)
    with Plain(content, source, what) as fd:
        place = TarPlace(fd, what)
        if place.find("oci-layout") is not None and place.find("index.json") is not None:
            return _layout(content, place, what, features, platform, hold)
        if place.find("manifest.json") is not None:
            return _docker(content, place, what, features, platform, hold)
    raise ImageError(f"{what}: holds no image", "an OCI layout or an archive of `docker save` is expected; `hutch import` takes a root file system")


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _verified(content: Content, place: Place, entry: Descriptor, what: str, limit: int) -> bytes:
    """A manifest or a configuration, stored. Raises ImageError when it is not what its descriptor says."""
    data = place.read(_blob(entry.digest), limit)
    algorithm = entry.digest.partition(":")[0]
    if algorithm != "sha256":
        raise ImageError(f"{what}: {algorithm} is not supported for manifests")
    if len(data) != entry.size or digest_of(data) != entry.digest:
        raise ImageError(f"{what}: {_blob(entry.digest)} does not have the digest and the size that it is called by")
    content.put(data)
    return data


def _layout(content: Content, place: Place, what: str, features: Features, platform: str, hold: Callable[..., None]) -> list[Loaded]:
    """An OCI image layout (image-spec, image-layout.md): an index, manifests, configurations, layers."""
    top = manifests.parse(place.read("index.json"), f"{what}: index.json")
    if isinstance(top, Manifest):
        raise ImageError(f"{what}: index.json is no index")
    found = []
    for entry in top.manifests:
        if len(top.manifests) > 1 and entry.platform and entry.platform.split("/")[:2] != platform.split("/")[:2]:
            continue
        one = entry
        parsed: Manifest | Index = top
        for _ in range(8):  # an index may hold another one
            hold(one.digest)
            data = _verified(content, place, one, what, manifests.MANIFEST_LIMIT)
            parsed = manifests.parse(data, what, one.media_type)
            if isinstance(parsed, Manifest):
                break
            one = manifests.choose(parsed, platform, what)
        if not isinstance(parsed, Manifest):
            raise ImageError(f"{what}: its indexes are nested too deeply")
        manifests.check_layers(parsed, what)
        hold(parsed.config.digest, *(layer.digest for layer in parsed.layers))
        config = manifests.parse_config(_verified(content, place, parsed.config, what, manifests.CONFIG_LIMIT), what)
        manifests.check_platform(config, platform, what)
        if len(config.diff_ids) != len(parsed.layers):
            raise ImageError(f"{what}: {len(parsed.layers)} layers, but {len(config.diff_ids)} digests of them")
        hold(*config.diff_ids)
        for layer, diff_id in zip(parsed.layers, config.diff_ids, strict=True):
            lowers.fetch(
                content, layer.digest, layer.size, diff_id,
                lambda offset, digest=layer.digest: place.pieces(_blob(digest), offset), features, what,  # type: ignore[misc]
            )  # fmt: skip
        name = entry.annotations.get(CONTAINERD_NAME) or entry.annotations.get(ANNOTATION_NAME, "")
        found.append(Loaded(names=(name,) if name else (), digest=one.digest, manifest=parsed, config=config))
    if not found:
        raise ImageError(f"{what}: has no manifest for {platform}" if top.manifests else f"{what}: holds no image")
    return found


def _docker(content: Content, place: Place, what: str, features: Features, platform: str, hold: Callable[..., None]) -> list[Loaded]:
    """`docker save`: manifest.json names configurations, layers' plain tars, and the images' names."""
    try:
        rows = jsontext.loads(place.read("manifest.json").decode("utf-8"))
        entries = [(str(row["Config"]), [str(path) for path in row["Layers"]], [str(name) for name in row.get("RepoTags") or []]) for row in rows]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ImageError(f"{what}: manifest.json is not one: {error}") from None
    found = []
    for config_path, paths, names in entries:
        raw = place.read(config_path, manifests.CONFIG_LIMIT)
        config = manifests.parse_config(raw, what)
        manifests.check_platform(config, platform, what)
        if len(config.diff_ids) != len(paths):
            raise ImageError(f"{what}: {len(paths)} layers, but {len(config.diff_ids)} digests of them")
        hold(*config.diff_ids, digest_of(raw))
        entries_of = []
        for path, diff_id in zip(paths, config.diff_ids, strict=True):
            _docker_layer(content, place, path, diff_id, features, what)
            entries_of.append(Descriptor(media_type=OCI_LAYER, digest=diff_id, size=content.size(diff_id)))
        built = Manifest(
            media_type=OCI_MANIFEST, config=Descriptor(media_type=OCI_CONFIG, digest=content.put(raw), size=len(raw)), layers=tuple(entries_of)
        )  # fmt: skip
        hold(digest_of(built.encode()))
        found.append(Loaded(names=tuple(names), digest=content.put(built.encode()), manifest=built, config=config))
    if not found:
        raise ImageError(f"{what}: holds no image")
    return found


def _docker_layer(content: Content, place: Place, path: str, diff_id: str, features: Features, what: str) -> None:
    """A layer's tar, which may be compressed although it is called by the plain one's digest: the plain one is kept."""
    if content.has(diff_id):
        lowers.ensure(content, diff_id, diff_id, features, what)
        return
    size = place.size(path)  # it must be there
    head = next(place.pieces(path), b"")
    if not compress.kind(head):
        lowers.fetch(content, diff_id, size, diff_id, lambda offset: place.pieces(path, offset), features, what)
        return
    if store_plain(content, place.pieces(path), what, expected=diff_id) == diff_id:
        lowers.ensure(content, diff_id, diff_id, features, what)


def store_plain(content: Content, pieces: Iterator[bytes], what: str, expected: str = "", hold: Callable[..., None] = lambda *_: None) -> str:
    """Inflate a stream and store its plain bytes; their digest. Raises ImageError when it is not the expected one."""
    import hashlib

    machine = hashlib.sha256()
    read = reader(pieces)
    with content.new() as ingest:
        for piece in compress.plain(read, what):
            machine.update(piece)
            ingest.write(piece)
        digest = f"sha256:{machine.hexdigest()}"
        if expected and digest != expected:
            raise ImageError(f"{what}: the layer's content does not have the digest {expected} that the configuration gives")
        hold(digest)
        if not content.has(digest):
            ingest.commit(digest)
    return digest


def import_tar(content: Content, pieces: Iterator[bytes], what: str, features: Features) -> str:
    """A root file system's tar as a layer: its digest. Raises ImageError."""
    known: list[bool] = []
    diff_id = store_plain(content, pieces, what, hold=lambda digest: known.append(content.has(digest)))
    try:
        lowers.ensure(content, diff_id, diff_id, features, what)
    except ImageError:
        if not known[0]:
            os.unlink(content.path(diff_id))  # a tar that makes no layer is of no use to anybody
        raise
    return diff_id


def kind(path: str, what: str) -> str:
    """What an archive is, by its first members: "oci", "docker", or "rootfs". Raises ImageError."""

    class Names:
        wants = False

        def __init__(self) -> None:
            self.names: set[str] = set()

        def data(self, piece: bytes) -> None:
            pass

        def member(self, member) -> None:  # type: ignore[no-untyped-def]
            name = os.fsdecode(member.name).removeprefix("./")
            self.names.add(name)
            if name.partition("/")[0] in ("etc", "usr", "bin", "lib", "var", "dev", "sbin", "home") or len(self.names) > 100_000:
                raise StopIteration

    names = Names()
    parser = Reader(names)
    fd = open_file(path, what)
    try:
        for piece in compress.plain(lambda size: os.read(fd, size), what):
            parser.feed(piece)
            if {"oci-layout", "index.json"} <= names.names:
                return "oci"
        parser.close()
    except StopIteration:
        return "rootfs"
    except ImageError as error:
        raise ImageError(
            f"{error.message}" if error.message.startswith(what) else f"{what}: {error.message}", "a tar is expected, plain or compressed"
        ) from None
    finally:
        os.close(fd)
    if not names.names:
        raise ImageError(f"{what}: is an empty archive", "a tar is expected, plain or compressed")
    return "docker" if "manifest.json" in names.names else "rootfs"


def remembered(content: Content, path: str) -> tuple[str, str]:
    """(where it is remembered what a file holds, what it held): by the file's identity, which changes with its content."""
    info = os.stat(path)
    identity = f"{path}|{info.st_dev}|{info.st_ino}|{info.st_size}|{info.st_mtime_ns}"
    place = f"{content.root}/files/{digest_of(os.fsencode(identity))[7:]}"
    try:
        with open(place, encoding="ascii") as file:
            return place, file.read()
    except (OSError, ValueError):  # not there, or a disk's garbage: it is found out again
        return place, ""
