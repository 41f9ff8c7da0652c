"""New images out of layers: a commit on top of another image, an import of a root file system."""

from __future__ import annotations

import os
import time

from hutch import jsontext
from hutch.errors import UsageError
from hutch.image.layers import lowers
from hutch.image.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest, architecture
from hutch.image.store import names
from hutch.image.store.content import Content, digest_of
from hutch.image.store.lease import Lease
from hutch.kernel.features import Features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from hutch.image.store.names import Name
    from hutch.image.stored_image import Image

CHANGES = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")


def now() -> str:
    """The time as configurations write it (RFC 3339); $SOURCE_DATE_EPOCH instead of it where that is set."""
    moment = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(moment) if moment.isdigit() else time.time()))


def layer_of(content: Content, held: Lease, write: Callable[[Callable[[bytes], object]], object]) -> str:
    """Store a layer's tar as `write` writes it, held from its first moment; its digest."""
    import hashlib

    machine = hashlib.sha256()
    with content.new() as ingest:

        def out(data: bytes) -> None:
            machine.update(data)
            ingest.write(data)

        write(out)
        digest = f"sha256:{machine.hexdigest()}"
        held.add(digest)
        if not content.has(digest):
            ingest.commit(digest)
    return digest


def make(
    content: Content, held: Lease, base: Image | None, diff_ids: list[str], features: Features, reference: str, *,
    changes: Iterable[str] = (), author: str = "", comment: str = "", created_by: str = "",
) -> Name:  # fmt: skip
    """An image of another one's layers (None: of none) and some more, under a name ("" for none). Raises UsageError, ImageError."""
    data: dict[str, Any] = dict(base.config.data) if base is not None else {"architecture": architecture(features.machine), "os": "linux"}
    own = dict(data.get("config") or {})
    for change in changes:
        apply(own, change)
    moment = now()
    entry = {"created": moment, "created_by": created_by, "author": author, "comment": comment}
    ids = [*(base.config.diff_ids if base is not None else ()), *diff_ids]
    data.update(created=moment, config=own, rootfs={"type": "layers", "diff_ids": ids})
    line = {key: value for key, value in entry.items() if value}
    known = data.get("history")
    rows = [row for row in known if isinstance(row, dict)] if isinstance(known, list) else []
    below_count = len(base.config.diff_ids) if base is not None else 0
    if sum(1 for row in rows if not row.get("empty_layer")) != below_count:
        rows = [{"created_by": ""} for _ in range(below_count)]  # it does not fit its layers
    data["history"] = [*rows, *[line] * len(diff_ids)]
    if author:
        data["author"] = author
    for name in ("container", "container_config", "id", "parent"):
        data.pop(name, None)  # what old Dockers write of the container that it came from
    raw = jsontext.dumps(data).encode()
    below = base.manifest.layers if base is not None else ()
    held.add(*ids, *(layer.digest for layer in below), digest_of(raw))
    for diff_id in diff_ids:
        lowers.ensure(content, diff_id, diff_id, features, f"image {reference or names.NONE}")
    manifest = Manifest(
        media_type=OCI_MANIFEST,
        config=Descriptor(media_type=OCI_CONFIG, digest=content.put(raw), size=len(raw)),
        layers=(*(_as_oci(layer) for layer in below), *(Descriptor(media_type=OCI_LAYER, digest=diff_id, size=content.size(diff_id)) for diff_id in diff_ids)),
    )
    encoded = manifest.encode()
    held.add(digest_of(encoded))
    digest = content.put(encoded)
    platform = "/".join(str(data[key]) for key in ("os", "architecture") if data.get(key))
    return names.put(content, reference or f"{names.NONE}@{digest}", digest, digest, platform)


def _as_oci(layer: Descriptor) -> Descriptor:
    """Docker's name for a layer's type, in the OCI's words: one manifest does not mix them."""
    if layer.media_type.startswith("application/vnd.docker."):
        return layer.replace(media_type=f"{OCI_LAYER}+gzip" if layer.media_type.endswith("gzip") else OCI_LAYER)
    return layer


def apply(own: dict[str, Any], change: str) -> None:
    """One instruction of a Dockerfile on an image's ``config``: ``CMD ["sh"]``, ``ENV A=b``. Raises UsageError."""
    word, _, rest = change.strip().partition(" ")
    word, rest = word.upper(), rest.strip()
    if word not in CHANGES or not rest:
        raise UsageError(f"change: expected one of {', '.join(CHANGES)} and a value, got {change!r}")
    if word in ("CMD", "ENTRYPOINT"):
        own["Cmd" if word == "CMD" else "Entrypoint"] = _command(rest)
    elif word in ("ENV", "LABEL"):
        pairs = _pairs(rest, word)
        if word == "LABEL":
            own["Labels"] = {**(own.get("Labels") or {}), **pairs}
        else:
            kept = [item for item in own.get("Env") or [] if item.partition("=")[0] not in pairs]
            own["Env"] = kept + [f"{name}={value}" for name, value in pairs.items()]
    elif word in ("EXPOSE", "VOLUME"):
        items = _list(rest) if rest.startswith("[") else rest.split()
        items = [item if "/" in item else f"{item}/tcp" for item in items] if word == "EXPOSE" else items
        key = "ExposedPorts" if word == "EXPOSE" else "Volumes"
        own[key] = {**(own.get(key) or {}), **{item: {} for item in items}}
    elif word == "HEALTHCHECK":
        own["Healthcheck"] = {"Test": ["NONE"] if rest.upper() == "NONE" else _health(rest)}
    elif word == "ONBUILD":
        own["OnBuild"] = [*(own.get("OnBuild") or []), rest]
    else:
        own[{"STOPSIGNAL": "StopSignal", "USER": "User", "WORKDIR": "WorkingDir"}[word]] = rest


def _list(text: str) -> list[str]:
    try:
        found = jsontext.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise UsageError(f"change: expected a JSON list of texts, got {text!r}")
    return found


def _command(text: str) -> list[str]:
    return _list(text) if text.startswith("[") else ["/bin/sh", "-c", text]


def _health(text: str) -> list[str]:
    word, _, rest = text.partition(" ")
    if word.upper() != "CMD" or not rest.strip():
        raise UsageError(f"change: HEALTHCHECK: expected CMD and a command, or NONE, got {text!r}")
    rest = rest.strip()
    return ["CMD", *_list(rest)] if rest.startswith("[") else ["CMD-SHELL", rest]


def _pairs(text: str, word: str) -> dict[str, str]:
    import shlex

    try:
        items = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"change: {word} {text}: {error}") from None
    if items and "=" not in items[0]:  # the old form: NAME VALUE
        name, _, value = text.partition(" ")
        return {name: value.strip()}
    out = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise UsageError(f"change: {word}: expected NAME=VALUE, got {item!r}")
        out[name] = value
    return out
