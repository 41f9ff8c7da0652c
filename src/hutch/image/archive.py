"""Root file systems from files: a tar, an OCI layout (directory or archive), an archive of `docker save`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
import zlib

from hutch.errors import ImageError
from hutch.image import store
from hutch.image.rootfs import ImageConfig, Rootfs, View
from hutch.image.unpack import Member, unpack
from hutch.kernel.features import Features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
JSON_LIMIT = 8 << 20


def inflate(stream: BinaryIO, what: str) -> BinaryIO:
    """The plain bytes of a stream that may be gzip, zstd, xz or bzip2, by its first bytes. Raises ImageError."""
    buffered = io.BufferedReader(stream, 1 << 20) if not hasattr(stream, "peek") else stream  # type: ignore[type-var]
    head = buffered.peek(8)[:8]
    if head[:2] == b"\x1f\x8b":
        import gzip

        return gzip.GzipFile(fileobj=buffered)  # type: ignore[return-value]
    if head[:4] == b"\x28\xb5\x2f\xfd":
        try:
            import zstandard
        except ImportError:
            raise ImageError(f"{what}: is zstd-compressed, and the zstandard package is missing", "pip install 'hutch[zstd]'") from None
        return zstandard.ZstdDecompressor().stream_reader(buffered)
    if head[:6] == b"\xfd7zXZ\0":
        import lzma

        return lzma.LZMAFile(buffered)  # type: ignore[return-value]
    if head[:3] == b"BZh":
        import bz2

        return bz2.BZ2File(buffered)  # type: ignore[return-value]
    return buffered


class _Verified(io.RawIOBase):
    """A stream that knows its own digest, to be compared once it was read to the end."""

    def __init__(self, stream: BinaryIO, algorithm: str) -> None:
        self._stream = stream
        self._hash = hashlib.new(algorithm)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._hash.update(data)
        buffer[: len(data)] = data
        return len(data)

    def digest(self) -> str:
        while data := self._stream.read(1 << 20):  # padding behind the compressed data belongs to the blob
            self._hash.update(data)
        return self._hash.hexdigest()


def _unpack_blob(opened: BinaryIO, digest: str | None, directory: str, what: str) -> None:
    algorithm, _, expected = (digest or "sha256:").partition(":")
    if algorithm not in ("sha256", "sha512"):
        raise ImageError(f"{what}: unknown digest algorithm {algorithm!r}")
    with opened:
        verified = _Verified(opened, algorithm)
        try:
            plain = inflate(verified, what)  # type: ignore[arg-type]
            unpack(plain, directory)
            while plain.read(1 << 20):
                pass  # to the end, where the compressor's checksum is
        except (OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise ImageError(f"{what}: the compressed data is broken: {error}") from None
        except Exception as error:
            if _broken(error):
                raise ImageError(f"{what}: the compressed data is broken: {error}") from None
            raise
        if expected and verified.digest() != expected:
            raise ImageError(f"{what}: its digest is not {digest}", "the file was damaged or changed: fetch it again")


def _broken(error: Exception) -> bool:
    """Whether an exception is a decompressor's or tarfile's word for bad data; their types need not be imported for that."""
    return isinstance(error, tarfile.TarError | EOFError | OSError | zlib.error | ValueError) or type(error).__name__ in ("ZstdError", "LZMAError")


def resolve(name: str, path: str, features: Features) -> Rootfs:
    """The root file system that a file, or a layout's directory, holds. Raises ImageError."""
    if stat.S_ISDIR(os.stat(path).st_mode):
        return _layout(name, lambda blob: _open_blob(path, blob), features)
    try:
        with open(path, "rb") as file:
            kind = _kind(file, name)
    except ImageError:
        raise
    except Exception as error:
        if not _broken(error):
            raise
        raise ImageError(f"image {name}: is no tar archive ({error})", "a directory or a tar (gzip, zstd, xz) is expected") from None
    if kind == "rootfs":
        return _rootfs_tar(name, path)
    archive = tarfile.open(path)
    try:

        def member(blob: str) -> BinaryIO:
            try:
                found = archive.extractfile(blob)
            except KeyError:
                found = None
            if found is None:
                raise ImageError(f"image {name}: {blob} is missing in the archive")
            return found  # type: ignore[return-value]

        return _layout(name, member, features) if kind == "oci" else _docker(name, member, features)
    finally:
        archive.close()


def _open_blob(path: str, blob: str) -> BinaryIO:
    if ".." in blob.split("/"):
        raise ImageError(f"image {path}: the name {blob!r} leads out of the layout")
    fd = os.open(f"{path}/{blob}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo must not make us wait
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"image {path}: {blob} is no regular file")
    return open(fd, "rb")


def _kind(file: BinaryIO, name: str) -> str:
    """By the first members: a layout's marker, a saved image's manifest, or neither: a root file system."""
    with tarfile.open(fileobj=inflate(file, name), mode="r|", tarinfo=Member) as archive:
        names = set()
        for count, member in enumerate(archive):
            names.add(member.name.removeprefix("./"))
            if {"oci-layout", "index.json"} <= names:
                return "oci"
            first = member.name.removeprefix("./").partition("/")[0]
            if first in ("etc", "usr", "bin", "lib", "var", "dev", "sbin") or count > 100_000:
                return "rootfs"
        if "manifest.json" in names:
            return "docker"
    return "rootfs"


def _rootfs_tar(name: str, path: str) -> Rootfs:
    info = os.stat(path)
    identity = f"{path}|{info.st_dev}|{info.st_ino}|{info.st_size}|{info.st_mtime_ns}"
    key = f"tar-{hashlib.sha256(identity.encode()).hexdigest()}"
    directory = store.layer(key, lambda target: _unpack_blob(open(path, "rb"), None, target, f"image {name}"))
    return _of_layers(name, [directory], ImageConfig())


def _of_layers(name: str, directories: list[str], config: ImageConfig) -> Rootfs:
    """`directories` from the lowest to the topmost."""
    if not directories:
        raise ImageError(f"image {name}: has no layers")
    lowers = tuple(reversed(directories))
    mode = stat.S_IMODE(os.stat(lowers[0]).st_mode)
    return Rootfs(name=name, views=(View(path="/", lowers=lowers, mode=mode),), config=config)


def _json(opened: BinaryIO, what: str) -> Any:
    with opened:
        raw = opened.read(JSON_LIMIT + 1)
    if len(raw) > JSON_LIMIT:
        raise ImageError(f"{what}: is larger than {JSON_LIMIT} bytes")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what}: is not JSON: {error}") from None


def _blob_path(digest: object, what: str) -> str:
    algorithm, _, number = str(digest).partition(":")
    if algorithm not in ("sha256", "sha512") or not number or set(number) - set("0123456789abcdef"):
        raise ImageError(f"{what}: {digest!r} is no digest")
    return f"blobs/{algorithm}/{number}"


def _verified_json(opener: Callable[[str], BinaryIO], digest: str, what: str) -> Any:
    path = _blob_path(digest, what)
    try:
        with opener(path) as file:
            raw = file.read(JSON_LIMIT + 1)
    except OSError as error:
        raise ImageError(f"{what}: {path}: {error.strerror}") from None
    if hashlib.new(digest.partition(":")[0], raw).hexdigest() != digest.partition(":")[2]:
        raise ImageError(f"{what}: {path} does not have the digest that it is called by")
    return _json(io.BytesIO(raw), what)


def _layout(name: str, opener: Callable[[str], BinaryIO], features: Features) -> Rootfs:
    """An OCI image layout (image-spec, image-layout.md): index, manifest for this machine, config, layers."""
    what = f"image {name}"
    try:
        entry: dict[str, Any] = _json(opener("index.json"), what)
        for _ in range(8):
            if "layers" in entry:
                break
            entry = _verified_json(opener, _choose(entry, features, what)["digest"], what)
        config = _verified_json(opener, entry["config"]["digest"], what)
        directories = []
        for layer in entry["layers"]:
            digest = layer["digest"]
            path = _blob_path(digest, what)
            key = digest.replace(":", "-")
            directories.append(
                store.layer(key, lambda target, d=digest, p=path: _unpack_blob(opener(p), d, target, what))  # type: ignore[misc]
            )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ImageError(f"{what}: the manifest is not one: {error}") from None
    except OSError as error:
        raise ImageError(f"{what}: {error.filename or ''}: {error.strerror}") from None
    return _of_layers(name, directories, image_config(config, features, what))


def _choose(index: dict[str, Any], features: Features, what: str) -> dict[str, Any]:
    wanted = MACHINES.get(features.machine, features.machine)
    manifests: list[dict[str, Any]] = index.get("manifests", [])
    for entry in manifests:
        platform = entry.get("platform") or {}
        if platform.get("architecture", wanted) == wanted and platform.get("os", "linux") == "linux":
            return entry
    found = ", ".join(sorted({str((e.get("platform") or {}).get("architecture")) for e in manifests})) or "none"
    raise ImageError(f"{what}: has no manifest for linux/{wanted} (there are: {found})")


def _docker(name: str, opener: Callable[[str], BinaryIO], features: Features) -> Rootfs:
    """`docker save`: manifest.json names a config and the layers' tars."""
    what = f"image {name}"
    try:
        manifest = _json(opener("manifest.json"), what)[0]
        config = _json(opener(manifest["Config"]), what)
        identities = config["rootfs"]["diff_ids"]
        if len(identities) != len(manifest["Layers"]):
            raise ImageError(f"{what}: {len(manifest['Layers'])} layers, but {len(identities)} digests of them")
        directories = []
        for path, digest in zip(manifest["Layers"], identities, strict=True):
            _blob_path(digest, what)
            key = "diff-" + digest.replace(":", "-")
            directories.append(
                store.layer(key, lambda target, p=path, d=digest: _unpack_blob(inflate(opener(p), what), d, target, what))  # type: ignore[misc]
            )
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ImageError(f"{what}: manifest.json is not one: {error}") from None
    return _of_layers(name, directories, image_config(config, features, what))


def image_config(data: object, features: Features, what: str) -> ImageConfig:
    """The image-spec's config.json as far as a container needs it. Raises ImageError for another machine's image, and for
    fields of the wrong type: whoever made the image wrote it."""
    wanted = MACHINES.get(features.machine, features.machine)
    if not isinstance(data, dict):
        raise ImageError(f"{what}: its configuration is no object")
    if data.get("architecture", wanted) != wanted:
        raise ImageError(f"{what}: is for {data['architecture']}, and this machine is {wanted}")
    own = data.get("config") or {}
    if not isinstance(own, dict):
        raise ImageError(f"{what}: config is no object")

    def text(name: str) -> str:
        value = own.get(name) or ""
        if not isinstance(value, str) or "\0" in value or not value.isprintable():
            raise ImageError(f"{what}: config.{name} is no text")
        return value

    def texts(name: str) -> tuple[str, ...]:
        value = own.get(name) or []
        if isinstance(value, dict):
            value = list(value)
        if not isinstance(value, list) or any(not isinstance(item, str) or "\0" in item for item in value):
            raise ImageError(f"{what}: config.{name} is no list of texts")
        return tuple(value)

    labels = own.get("Labels") or {}
    if not isinstance(labels, dict):
        raise ImageError(f"{what}: config.Labels is no object")
    return ImageConfig(
        env=tuple(item for item in texts("Env") if item.partition("=")[0]),
        entrypoint=texts("Entrypoint"),
        cmd=texts("Cmd"),
        user=text("User"),
        workdir=text("WorkingDir"),
        volumes=texts("Volumes"),
        stop_signal=text("StopSignal"),
        labels={str(key): str(value) for key, value in labels.items()},
    )
