"""Archives and layouts that the tests are made of, and both of a layer's forms: an index of its tar, and a directory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from pathlib import Path

from hutch.image.layers.erofs import reader, writer
from hutch.image.layers.tree import Tree
from hutch.image.layers.unpack import unpack
from hutch.image.rootfs import Layer, Rootfs, View
from hutch.image.tar.reader import Reader

OCI = "application/vnd.oci.image"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)

Entry = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"", mode: int = 0o644, **more: object) -> Entry:
    """One member of an archive, its name as it is."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(content), mode
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def directory(name: str, mode: int = 0o755) -> Entry:
    return member(name, tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str) -> Entry:
    return member(name, tarfile.SYMTYPE, target)


def hard(name: str, target: str) -> Entry:
    return member(name, tarfile.LNKTYPE, target)


def tar(*members: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def busybox() -> list[Entry]:
    """A root file system's members."""
    content = Path("/bin/busybox").read_bytes()
    return [
        *map(directory, ("etc", "bin", "proc", "sys", "dev", "tmp")),
        member("bin/busybox", content=content, mode=0o755),
        *(link(f"bin/{n}", "busybox") for n in ("sh", "cat", "ls", "id", "head", "find", "grep", "stat", "true")),
    ]


def layout(place: Path, *layers: bytes, plain: tuple[bytes, ...] = (), **changes: object) -> Path:
    """An OCI layout of some layers; `plain` their tars, where they are compressed. Some things are as the test wants them:
    the digest of the `manifest`, the `config`, the `layer`, its `diff_id`; the `image`'s part of the configuration, or all of it (`config_json`).
    """
    blobs = place / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(raw: bytes, key: str, kind: str) -> dict[str, object]:
        digest = sha256(raw)
        (blobs / digest[7:]).write_bytes(raw)
        return {"mediaType": f"{OCI}.{kind}", "digest": changes.get(key, digest), "size": len(raw)}

    diff_ids = [changes.get("diff_id", sha256(raw)) for raw in plain or layers]
    config = {"architecture": ARCHITECTURE, "os": "linux", "config": changes.get("image", {}), "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": put(json.dumps(changes.get("config_json", config)).encode(), "config", "config.v1+json"),
        "layers": [put(blob, "layer", "layer.v1.tar") for blob in layers],
    }
    index = {"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode(), "manifest", "manifest.v1+json")]}
    (place / "index.json").write_text(json.dumps(index))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place


def as_index(raw: bytes, place: Path) -> Layer:
    """The archive as a kernel with EROFS has it: the tar as it is, and an index of it."""
    tree = Tree()
    parser = Reader(tree)
    parser.feed(raw)
    parser.close()
    place.mkdir(parents=True, exist_ok=True)
    (place / "tar").write_bytes(raw)
    (place / "index").write_bytes(writer.index(tree.root, len(raw), lambda offset, length: raw[offset : offset + length]))
    return Layer(lower=str(place / "mount"), lock=str(place / "lock"), index=str(place / "index"), tar=str(place / "tar"))


def as_tree(raw: bytes, place: Path, owners: bool | None = None) -> Layer:
    """The archive unpacked, as every other kernel and every ordinary user have it."""
    (place / "tree").mkdir(parents=True, exist_ok=True)
    unpack(io.BytesIO(raw), str(place / "tree"), owners)
    return Layer(lower=str(place / "tree"), lock=str(place / "lock"))


FORMS = {"index": as_index, "tree": as_tree}


def rootfs(form: str, place: Path, *raws: bytes) -> Rootfs:
    """A root file system of archives, from the lowest to the topmost, in one of the two forms."""
    layers = tuple(FORMS[form](raw, place / f"{form}-{number}") for number, raw in enumerate(raws))[::-1]
    return Rootfs(name="x", views=(View(path="/", lowers=tuple(layer.lower for layer in layers)),), layers=layers)


def listing(layer: Layer) -> dict[str, tuple[object, ...]]:
    """What a layer holds, the same for both forms: a path's mode, owner, and content, target or device."""
    return _of_index(layer) if layer.index else _of_tree(Path(layer.lower))


def _of_index(layer: Layer) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    with reader.Index(layer.index, layer.tar) as index:
        left = [("", index.root)]
        while left:
            path, file = left.pop()
            if stat.S_ISDIR(file.mode):
                what: object = file.xattrs.get(b"user.overlay.opaque") == b"y"
                left += [(f"{path}/{os.fsdecode(name)}", index.get(nid)) for name, nid in index.entries(file)]
            elif stat.S_ISREG(file.mode):
                what = index.read(file)
            else:
                what = os.fsdecode(index.target(file)) if stat.S_ISLNK(file.mode) else file.rdev
            found[path] = (oct(file.mode), file.uid, file.gid, what, file.links if not stat.S_ISDIR(file.mode) else 0)
    return found


def _of_tree(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for here, directories, files in os.walk(top):
        for path in [here] * (here == str(top)) + [f"{here}/{name}" for name in (*directories, *files)]:
            info = os.lstat(path)
            if stat.S_ISDIR(info.st_mode):
                what: object = "user.overlay.opaque" in os.listxattr(path)
            elif stat.S_ISREG(info.st_mode):
                what = Path(path).read_bytes()
            elif stat.S_ISLNK(info.st_mode):
                what = os.readlink(path)
            else:
                what = (os.major(info.st_rdev), os.minor(info.st_rdev)) if not stat.S_ISFIFO(info.st_mode) else (0, 0)
            links = info.st_nlink if not stat.S_ISDIR(info.st_mode) else 0
            found[path.removeprefix(str(top))] = (oct(info.st_mode), info.st_uid, info.st_gid, what, links)
    return found
