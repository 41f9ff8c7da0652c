"""A name in the image's place to a root file system, and a user's name to its ids there."""

from __future__ import annotations

import os
import stat
import time

from hutch.errors import ImageError, UsageError
from hutch.image import host
from hutch.image.rootfs import Rootfs
from hutch.kernel.features import Features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hutch.image.store.content import Content
    from hutch.image.store.names import Name
    from hutch.oci.config import User

_resolved: dict[str, tuple[float, Features, Rootfs]] = {}


SNAPSHOT = "snapshot:"  # of a machine: what stands behind it is no image's tag


def is_path(name: str) -> bool:
    """Whether what stands in the image's place is a path, and no name."""
    return name.startswith(("/", "./", "../")) or name in (".", "..")


def resolve(name: str, features: Features) -> Rootfs:
    """``host``, a path (``/``, ``./``, ``../``) to a directory, a tar archive, an OCI layout or a saved image, or the name
    of an image that is in the store.

    Raises ImageError, with what would be right; `MissingImage` for a name that is not in the store.
    """
    if name == "host":
        cached = _resolved.get(name)
        now = time.monotonic()
        if cached is not None and cached[1] is features and now - cached[0] < host.SCAN_SECONDS:
            return cached[2]
        return _same(name, host.resolve(features), features, now)
    if is_path(name):
        return _same(name, _of_path(name, features), features)
    return _same(name, _of_name(name, features), features)


def _same(name: str, fresh: Rootfs, features: Features, now: float = 0.0) -> Rootfs:
    """The same object for the same content: what was compiled for it stays good."""
    cached = _resolved.get(name)
    rootfs = cached[2] if cached is not None and cached[1] is features and cached[2] == fresh else fresh
    _resolved[name] = (now, features, rootfs)
    return rootfs


class MissingImage(ImageError):
    """A name of an image that is not in the store, and could be pulled."""


def _of_name(name: str, features: Features) -> Rootfs:
    from hutch.image import reference, stored_image
    from hutch.image.store import names
    from hutch.image.store.content import Content

    content = Content()
    # the likeliest first: an exact name costs one small file
    try:
        record = names.get(content, reference.parse(name))
    except UsageError:
        record = None
    record = record or stored_image.find_name(content, name)
    if record is None:
        reference.parse(name)  # raises for what can be no name
        raise MissingImage(f"image {name}: is not in the store", "`hutch pull` fetches it")
    return _of_record(content, record, name, features)


def of_manifest(digest: str, name: str, features: Features) -> Rootfs:
    """An image by its manifest's digest, whatever its name stands for by now. Raises ImageError."""
    from hutch.image.store.content import Content
    from hutch.image.store.names import NONE, Name

    return _of_record(Content(), Name(reference=NONE, digest=digest, manifest=digest, platform="", updated=0.0), name, features)


def _of_record(content: Content, record: Name, name: str, features: Features) -> Rootfs:
    from hutch.image import stored_image

    image = stored_image.read(content, record)
    return stored_image.rootfs(content, image.manifest_digest, image.manifest, image.config, features, f"image {name}", name)


def _of_path(name: str, features: Features) -> Rootfs:
    path = os.path.realpath(name)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ImageError(f"image {name}: {error.strerror}") from None
    from hutch.image import stored_image

    if stat.S_ISDIR(mode) and not os.path.exists(f"{path}/oci-layout"):
        return stored_image.of_directory(name, path)
    from hutch.image import manifest, rootfs
    from hutch.image.archive import reading
    from hutch.image.store.content import Content

    content = Content()
    what = f"image {name}"
    if stat.S_ISDIR(mode):
        loaded = reading.load(content, path, what, features, stored_image.platform_of(features))[0]
        return stored_image.rootfs(content, loaded.digest, loaded.manifest, loaded.config, features, what, name)
    place, known = reading.remembered(content, path)
    if not known or not _usable(content, known, features):
        known = _remember(content, path, what, features)
        with open(place, "w", encoding="ascii") as file:
            file.write(known)
    kind, _, digest = known.partition(" ")
    if kind == "rootfs":
        from hutch.image.layers import lowers

        return stored_image.of_layers(name, [lowers.ensure(content, digest, digest, features, what)], rootfs.ImageConfig(), "")
    parsed = manifest.parse(content.read(digest), what)
    assert isinstance(parsed, manifest.Manifest)
    return stored_image.rootfs(content, digest, parsed, manifest.parse_config(content.read(parsed.config.digest), what), features, what, name)


def _remember(content: Content, path: str, what: str, features: Features) -> str:
    """Bring what a file holds into the store: ``rootfs DIGEST`` or ``image DIGEST``."""
    from hutch.image import stored_image
    from hutch.image.archive import places, reading

    if reading.kind(path, what) == "rootfs":
        fd = places.open_file(path, what)
        with open(fd, "rb", buffering=0) as file:
            return f"rootfs {reading.import_tar(content, iter(lambda: file.read(1 << 20), b''), what, features)}"
    return f"image {reading.load(content, path, what, features, stored_image.platform_of(features))[0].digest}"


def _usable(content: Content, known: str, features: Features) -> bool:
    from hutch.image.layers import lowers
    from hutch.image.reference import is_digest

    kind, _, digest = known.partition(" ")
    if kind not in ("rootfs", "image") or not is_digest(digest):
        return False
    return content.has(digest) or (kind == "rootfs" and lowers.find(content, digest, features) is not None)


def user(text: str, groups: tuple[str, ...], rootfs: Rootfs) -> tuple[User, str]:
    """``name|uid[:group|gid]`` as the root file system's own /etc/passwd and /etc/group have it; and its home.

    Numbers need no entry. Raises UsageError for a name that does not exist, and for a number out of range: a name that
    looks like a number is one (crun's CVE-2026-30892 was a parser that was not sure).
    """
    from hutch.image.layers import unmounted

    return user_in(text, groups, lambda path: unmounted.read(rootfs, path))


def user_in(text: str, groups: tuple[str, ...], read: Callable[[str], str | None]) -> tuple[User, str]:
    """As `user`, by the files that `read` gives."""
    from hutch.oci.config import User

    name, colon, group = text.partition(":")
    if (colon and not group) or (not name and colon):
        raise UsageError(f"user: expected USER or USER:GROUP, got {text!r}")
    if not text and not groups:
        return User(), "/root"
    uid, gid, home, extra = 0, 0, "/root", []
    passwd = (read("/etc/passwd") or "").split("\n")
    if name:
        entry = _entry(passwd, name)
        if name.isascii() and name.isdigit():
            uid, home = _number(name, "user"), "/"
            if entry:
                gid, home = _number(entry[3], "user"), entry[5] or "/"
        elif entry is None:
            raise UsageError(f"user: {name!r} is not in the image's /etc/passwd", "a number needs no entry there")
        else:
            uid, gid, home = _number(entry[2], "user"), _number(entry[3], "user"), entry[5] or "/"
    else:
        entry = None
    lines = (read("/etc/group") or "").split("\n")
    if group:
        gid = _group(lines, group)
    elif entry is not None:
        for line in lines:
            fields = line.split(":")
            if len(fields) > 3 and entry[0] in fields[3].split(",") and _is_number(fields[2]):
                extra.append(_number(fields[2], "group"))
    extra += [_group(lines, item) for item in groups]
    return User(uid=uid, gid=gid, additional_gids=tuple(dict.fromkeys(extra))), home


def _entry(lines: list[str], name: str) -> list[str] | None:
    number = name.isascii() and name.isdigit()
    for line in lines:
        fields = line.split(":")
        if len(fields) >= 6 and fields[2 if number else 0] == name and _is_number(fields[2]) and _is_number(fields[3]):
            return fields
    return None


def _group(lines: list[str], name: str) -> int:
    if name.isascii() and name.isdigit():
        return _number(name, "group")
    for line in lines:
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] == name and _is_number(fields[2]):
            return _number(fields[2], "group")
    raise UsageError(f"group: {name!r} is not in the image's /etc/group", "a number needs no entry there")


def _is_number(text: str) -> bool:
    """ASCII digits, and no more of them than an id has: int() takes other scripts' and refuses very many."""
    return text.isascii() and text.isdigit() and len(text) <= 10


def _number(text: str, what: str) -> int:
    if not _is_number(text) or int(text) > 2**31 - 1:
        shown = text if len(text) <= 20 else text[:19] + "…"
        raise UsageError(f"{what}: {shown} is not an id from 0 to {2**31 - 1}")
    return int(text)
