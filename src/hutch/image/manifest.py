"""Manifests, indexes and configurations (OCI image-spec 1.1; Docker's image manifest, version 2, schema 2). Pure.

What a registry or an archive says is checked here before anything is done with it: every field that is used has its type,
every digest is one, every size a number.
"""

from __future__ import annotations

from hutch import jsontext
from hutch.errors import ImageError
from hutch.image.reference import is_digest
from hutch.image.rootfs import ImageConfig
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OCI_INDEX, OCI_MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG, OCI_LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST, DOCKER_MANIFEST = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
DOCKER_CONFIG, DOCKER_LAYER = "application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"
ACCEPTED = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
LAYERS = (OCI_LAYER, f"{OCI_LAYER}+gzip", f"{OCI_LAYER}+zstd", DOCKER_LAYER, "application/vnd.docker.image.rootfs.diff.tar")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64", "i686": "386"}

MANIFEST_LIMIT = 4 << 20  # what registries accept at the least (distribution-spec, "Pushing Manifests")
CONFIG_LIMIT = 8 << 20
DEPTH = 64  # of a document's lists and objects
MAX_LAYERS = 500  # overlayfs's own limit


class Descriptor(Record):
    """What names a blob (image-spec, descriptor.md): its type, its digest, its size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: str = ""
    annotations: dict[str, str] = {}
    artifact_type: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a manifest has it."""
        out: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**out, "annotations": self.annotations} if self.annotations else out


class Manifest(Record):
    """One image: its configuration, and its layers from the lowest to the topmost."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}
    subject: Descriptor | None = None

    def encode(self) -> bytes:
        """The manifest's bytes: the same for the same content."""
        out: dict[str, Any] = {
            "schemaVersion": 2, "mediaType": self.media_type, "config": self.config.to_json(), "layers": [layer.to_json() for layer in self.layers],
        }  # fmt: skip
        if self.subject is not None:
            out["subject"] = self.subject.to_json()
        if self.annotations:
            out["annotations"] = self.annotations
        return jsontext.dumps(out).encode()


class Index(Record):
    """Several images under one name, one for each platform."""

    media_type: str
    manifests: tuple[Descriptor, ...]

    def encode(self) -> bytes:
        """The index's bytes."""
        rows = [{**entry.to_json(), **({"artifactType": entry.artifact_type} if entry.artifact_type else {})} for entry in self.manifests]
        return jsontext.dumps({"schemaVersion": 2, "mediaType": self.media_type, "manifests": rows}).encode()


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises ImageError."""
    try:
        value = jsontext.loads(data.decode("utf-8"))
        if _depth(value) > DEPTH:
            raise ValueError("nested too deeply")
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ImageError(f"{what}: is no JSON object")
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= DEPTH:
        level = [item for outer in level if isinstance(outer, dict | list) for item in (outer.values() if isinstance(outer, dict) else outer)]
        depth += 1
    return depth


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 255:
        raise ImageError(f"{what} is no text")
    return value


def _texts(value: Any, what: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ImageError(f"{what} is no object")
    return {str(key): str(item) for key, item in value.items()}


def descriptor(data: Any, what: str) -> Descriptor:
    """A descriptor. Raises ImageError for a digest that is none, or a size that no blob has."""
    if not isinstance(data, dict):
        raise ImageError(f"{what} is no descriptor")
    digest, size = data.get("digest"), data.get("size")
    if not is_digest(digest) or not isinstance(digest, str):
        raise ImageError(f"{what}: {str(digest)[:90]!r} is no digest")
    if type(size) is not int or not 0 <= size < 1 << 50:
        raise ImageError(f"{what}: {str(size)[:30]} is no size")
    platform = data.get("platform")
    name = ""
    if isinstance(platform, dict):
        parts = [platform.get("os") or "linux", platform.get("architecture") or "", platform.get("variant") or ""]
        name = _text("/".join(str(part) for part in parts if part), f"{what}.platform")
    return Descriptor(
        media_type=_text(data.get("mediaType", ""), f"{what}.mediaType"), digest=digest, size=size, platform=name,
        annotations=_texts(data.get("annotations"), f"{what}.annotations"), artifact_type=str(data.get("artifactType") or ""),
    )  # fmt: skip


def parse(data: bytes, what: str, media_type: str = "") -> Manifest | Index:
    """A manifest or an index, by its ``mediaType``, the registry's word for it, or its fields. Raises ImageError."""
    value = parse_json(data, what)
    own = _text(value.get("mediaType") or "", f"{what}: mediaType")
    if own and media_type in ACCEPTED and own != media_type:
        raise ImageError(f"{what}: says that it is {own}, and was delivered as {media_type}")
    kind = own or (media_type if media_type in ACCEPTED else "") or (OCI_INDEX if "manifests" in value else OCI_MANIFEST)
    if value.get("schemaVersion") == 1 or "fsLayers" in value:
        raise ImageError(f"{what}: is a manifest of Docker's first version, which nobody should use", "push it again with a newer tool")
    if kind in (OCI_INDEX, DOCKER_LIST):
        items = value.get("manifests")
        if not isinstance(items, list) or len(items) > 10_000 or "layers" in value:
            raise ImageError(f"{what}: is no index")
        return Index(media_type=kind, manifests=tuple(descriptor(item, f"{what}: manifests[{n}]") for n, item in enumerate(items)))
    if kind not in (OCI_MANIFEST, DOCKER_MANIFEST):
        raise ImageError(f"{what}: {kind[:80]!r} is no manifest that is known")
    layers = value.get("layers")
    if not isinstance(layers, list) or "manifests" in value:
        raise ImageError(f"{what}: has no list of layers")
    if len(layers) > MAX_LAYERS:
        raise ImageError(f"{what}: has {len(layers)} layers, and overlayfs takes {MAX_LAYERS}")
    subject = value.get("subject")
    return Manifest(
        media_type=kind,
        config=descriptor(value.get("config"), f"{what}: config"),
        layers=tuple(descriptor(layer, f"{what}: layers[{n}]") for n, layer in enumerate(layers)),
        annotations=_texts(value.get("annotations"), f"{what}: annotations"),
        subject=descriptor(subject, f"{what}: subject") if subject is not None else None,
    )


def check_layers(manifest: Manifest, what: str) -> None:
    """Whether it is an image that can be run, and not something else that registries hold. Raises ImageError."""
    if manifest.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG, ""):
        raise ImageError(f"{what}: is no container image, but {manifest.config.media_type[:80]}")
    if manifest.config.size > CONFIG_LIMIT:
        raise ImageError(f"{what}: a configuration of {manifest.config.size} bytes")
    for number, layer in enumerate(manifest.layers):
        if layer.media_type not in LAYERS:
            known = "nondistributable" in layer.media_type or "foreign" in layer.media_type
            why = "may not be distributed" if known else f"is of an unknown type {layer.media_type[:80]!r}"
            raise ImageError(f"{what}: layers[{number}] {why}")


def architecture(machine: str) -> str:
    """The images' name for this machine (Go's GOARCH)."""
    return MACHINES.get(machine, machine)


def choose(index: Index, platform: str, what: str) -> Descriptor:
    """The manifest for a platform, such as ``linux/amd64`` or ``linux/arm/v7``. Raises ImageError with those that there are.

    Entries without a platform serve any, attestations (``unknown/unknown``) none.
    """
    wanted = platform.split("/")
    for exactly in (True, False):
        for entry in index.manifests:
            has = entry.platform.split("/")
            if entry.platform and (has == wanted if exactly else has[:2] == wanted[:2] and len(wanted) == 2):
                return entry
    for entry in index.manifests:
        if not entry.platform and entry.media_type in (*ACCEPTED, ""):
            return entry
    found = ", ".join(sorted({entry.platform for entry in index.manifests if entry.platform and "unknown" not in entry.platform})) or "none"
    raise ImageError(f"{what}: has no manifest for {platform} (there are: {found})")


class Config(Record):
    """An image's configuration file: what to run, what the layers' plain tars are called, and the rest as it stands."""

    run: ImageConfig
    diff_ids: tuple[str, ...]
    platform: str
    created: str
    data: dict[str, Any]


def parse_config(data: bytes, what: str) -> Config:
    """The configuration. Raises ImageError for fields of the wrong type: whoever made the image wrote it."""
    value = parse_json(data, what)
    rootfs = value.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list) or not all(is_digest(item) for item in ids):
        raise ImageError(f"{what}: rootfs.diff_ids is no list of digests")
    parts = [str(value.get("os") or "linux"), str(value.get("architecture") or ""), str(value.get("variant") or "")]
    return Config(
        run=image_config(value, what), diff_ids=tuple(ids), platform="/".join(part for part in parts if part),
        created=str(value.get("created") or ""), data=value,
    )  # fmt: skip


def check_platform(config: Config, platform: str, what: str) -> None:
    """Whether a configuration is for a platform, whatever its index said. Raises ImageError."""
    wanted, has = platform.split("/"), config.platform.split("/")
    if has[0] != wanted[0] or (len(has) > 1 and has[1] != wanted[1]):
        raise ImageError(f"{what}: is for {config.platform}, and {platform} is wanted")


def _is_argument(item: object) -> bool:
    """Whether it can be given to a program: without a NUL, and without half a character (a surrogate)."""
    return isinstance(item, str) and "\0" not in item and (item.isascii() or item.encode("utf-8", "ignore").decode() == item)


def image_config(value: dict[str, Any], what: str) -> ImageConfig:
    """The part that says how to run it. Raises ImageError."""
    own = value.get("config") or {}
    if not isinstance(own, dict):
        raise ImageError(f"{what}: config is no object")

    def text(name: str) -> str:
        found = own.get(name) or ""
        if not isinstance(found, str) or not found.isprintable():
            raise ImageError(f"{what}: config.{name} is no text")
        return found

    def texts(name: str) -> tuple[str, ...]:
        found = own.get(name) or []
        if isinstance(found, dict):
            found = list(found)
        if not isinstance(found, list) or not all(_is_argument(item) for item in found):
            raise ImageError(f"{what}: config.{name} is no list of texts")
        return tuple(found)

    labels = own.get("Labels") or {}
    if not isinstance(labels, dict):
        raise ImageError(f"{what}: config.Labels is no object")
    health = own.get("Healthcheck") or {}
    test = health.get("Test") if isinstance(health, dict) else None
    return ImageConfig(
        env=tuple(item for item in texts("Env") if item.partition("=")[0]),
        entrypoint=texts("Entrypoint"),
        cmd=texts("Cmd"),
        user=text("User"),
        workdir=text("WorkingDir"),
        volumes=texts("Volumes"),
        ports=texts("ExposedPorts"),
        stop_signal=text("StopSignal"),
        labels={str(key): str(item) for key, item in labels.items()},
        health=tuple(map(str, test)) if isinstance(test, list) else (),
    )
