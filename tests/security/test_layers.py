"""Malicious archives: what a layer must not do to the host that unpacks it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import hutch
from hutch.image import store
from hutch.image.unpack import unpack
from hutch.kernel import syscalls
from tests.security import attack

pytestmark = pytest.mark.root


@pytest.fixture
def outside():
    """Files of the host's that no archive may touch."""
    place = Path(tempfile.mkdtemp(prefix="hutch-outside-", dir="/var/tmp"))
    place.chmod(0o777)
    (place / "file").write_text("the host's")
    with attack.untouched(place, place / "file", "/etc/shadow", "/etc"):
        yield place
    shutil.rmtree(place)


@pytest.fixture
def data(monkeypatch, tmp_path):
    """A store of layers of the test's own."""
    place = tmp_path / "data"
    monkeypatch.setenv("HUTCH_DATA", str(place))
    return place


@pytest.fixture
def deep_data(data):
    """The same, for what pytest cannot remove."""
    yield data
    subprocess.run(["rm", "-rf", str(data)], check=True)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"", mode: int = 0o644, **more: object) -> tuple[tarfile.TarInfo, bytes]:
    """One member of an archive, its name as it is."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(content), mode
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.SYMTYPE, target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.LNKTYPE, target)


def unpacked(raw: bytes, into: Path) -> hutch.HutchError | None:
    """Unpack, and give back what was refused."""
    into.mkdir(exist_ok=True)
    try:
        unpack(io.BytesIO(raw), str(into))
    except hutch.HutchError as error:
        return error
    return None


def escapes(o: str) -> dict[str, list[tuple[tarfile.TarInfo, bytes]]]:
    """Ways to write to the directory `o` of the host's."""
    up = "../" * 20
    x = b"pwned"
    return {
        "dots": [member(f"{up}{o}/new", content=x)],
        "dots behind a directory": [directory("a"), member(f"a/../{up}{o}/new", content=x)],
        "absolute": [member(f"{o}/new", content=x)],
        "many slashes": [member(f"//{o}//new", content=x)],
        "link, then a file through it": [link("a", o), member("a/new", content=x), member("a/file", content=x)],
        "dotted link": [link("a", f"{up}{o}"), member("a/new", content=x), member("a/file", content=x)],
        "link in a link": [link("a", "b"), link("b", f"{up}{o}"), member("a/file", content=x)],
        "link to the root's parent": [link("a", ".."), member(f"a{o}/file", content=x), member(f"a/..{o}/file", content=x)],
        "file over a link to a file": [link("a", f"{o}/file"), member("a", content=x)],
        "directory over a link": [link("a", o), directory("a", 0o700), member("a/file", content=x)],
        "directory mode through a link": [directory("a", 0o700), link("a", o), directory("b", 0o700)],
        "hard link to outside": [hard("a", f"{o}/file"), member("a", content=x)],
        "hard link up": [hard("a", f"{up}{o}/file"), member("a", content=x)],
        "hard link through a link": [link("d", o), hard("a", "d/file"), member("a", content=x)],
        "hard link to a link": [link("l", f"{o}/file"), hard("a", "l"), member("a", content=x), member("l", content=x)],
        "hard link to /proc/self/root": [hard("a", f"proc/self/root{o}/file"), member("a", content=x)],
        "magic link": [link("a", "/proc/self/cwd"), member(f"a/{up}{o}/file", content=x), link("r", "/proc/1/root"), member(f"r{o}/file", content=x)],
        "whiteout of outside": [member(f"{up}{o}/.wh.file")],
        "whiteout through a link": [link("a", o), member("a/.wh.file")],
        "whiteout of the parent": [directory("a"), member("a/.wh...")],
        "whiteout of the directory": [directory("a"), member("a/.wh..")],
        "whiteout of nothing": [member(".wh.")],
        "whiteout with a slash": [member(f".wh./{o}/file"), member(f".wh.{up}{o}/file")],
        "opaque through a link": [link("a", o), member("a/.wh..wh..opq")],
        "link named as an opaque mark": [link(".wh..wh..opq", o), hard(".wh..wh..opq", f"{o}/file")],
        "fifo and device through a link": [link("a", o), member("a/p", tarfile.FIFOTYPE), member("a/n", tarfile.CHRTYPE, devmajor=1, devminor=3)],
        "link through a link": [link("a", o), link("a/new", "/etc/shadow"), hard("a/new2", "etc/shadow")],
        "owner through a link": [link("a", f"{o}/file"), member("b", tarfile.LNKTYPE, "a", uid=1234, gid=1234, mode=0o777)],
        "a directory for the root": [member("./", tarfile.DIRTYPE, mode=0o777), link(".", o), member("new", content=x)],
        "the root as a file": [member("/", content=x), member(".", content=x)],
        "an attribute through a link": [link("a", f"{o}/file"), member("a", content=x, pax_headers={"SCHILY.xattr.user.evil": "1"})],
        "a replaced directory": [directory("a"), member("a/x"), link("a", o), member("a/x", content=x)],
    }  # fmt: skip


@pytest.mark.parametrize("name", list(escapes("/x")))
def test_escapes(tmp_path, outside, name):
    """`..`, absolute names, links of both kinds, whiteouts: everything lands below the layer's directory, or is refused."""
    layer = tmp_path / "parent" / "layer"
    layer.parent.mkdir()
    unpacked(tar(*escapes(str(outside))[name]), layer)
    assert os.listdir(layer.parent) == ["layer"]
    assert layer.is_dir() and not layer.is_symlink()
    for path in layer.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.stat().st_ino != (outside / "file").stat().st_ino


def test_old_formats(tmp_path, outside):
    """The same by GNU and old names, whose long names come in members of their own."""
    for form in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        for number, members in enumerate(escapes(str(outside)).values()):
            with contextlib.suppress(ValueError):  # ustar cannot hold every name
                unpacked(tar(*members, form=form), tmp_path / f"{form}-{number}")


def test_marks_of_overlayfs_are_not_the_archives_to_set(tmp_path):
    """trusted.overlay.redirect or metacopy in a layer would show directories of other layers: they are left out."""
    names = (
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "trusted.overlay.opaque",
        "user.overlay.redirect",
        "user.overlay.opaque",
        "user.overlay.whiteout",
    )
    headers = {f"SCHILY.xattr.{name}": "y" for name in names}
    assert (
        unpacked(tar(member("d", tarfile.DIRTYPE, mode=0o755, pax_headers=headers), member("f", content=b"x", pax_headers=headers)), tmp_path / "layer") is None
    )
    for name in ("d", "f"):
        assert not [key for key in os.listxattr(tmp_path / "layer" / name) if "overlay" in key]


def test_whiteouts_do_what_they_say_and_no_more(tmp_path, outside):
    """A whiteout becomes overlayfs's, an opaque mark too; odd names stay plain files or are refused."""
    layer = tmp_path / "layer"
    members = [directory("d"), member("d/.wh.gone"), directory("o"), member("o/.wh..wh..opq"), member("d/.whx", content=b"x")]
    assert unpacked(tar(*members), layer) is None
    info = os.lstat(layer / "d/gone")
    assert stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
    assert os.getxattr(layer / "o", "user.overlay.opaque") == b"y"
    assert (layer / "d/.whx").read_text() == "x"


def image(data: Path, raw: bytes, tmp_path: Path, name: str = "image.tar") -> str:
    """A root file system's archive on disk."""
    path = tmp_path / name
    path.write_bytes(raw)
    return str(path)


def busybox() -> list[tuple[tarfile.TarInfo, bytes]]:
    with open("/bin/busybox", "rb") as file:
        content = file.read()
    names = ("etc", "bin", "proc", "sys", "dev", "tmp")
    return [
        *map(directory, names),
        member("bin/busybox", content=content, mode=0o755),
        *(link(f"bin/{n}", "busybox") for n in ("sh", "cat", "ls", "id", "head")),
    ]


@pytest.mark.parametrize("userns", ["auto", "host"])
def test_device_nodes_in_a_layer(tmp_path, data, userns):
    """A node of the host's disk in a layer cannot be read in a container."""
    device = os.stat("/").st_dev
    nodes = [
        member(name, kind, mode=0o666, devmajor=os.major(device), devminor=os.minor(device))
        for name, kind in (("disk", tarfile.BLKTYPE), ("char", tarfile.CHRTYPE))
    ]
    path = image(data, tar(*busybox(), *nodes, member("kmsg", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=11)), tmp_path)
    result = hutch.run(path, ["sh", "-c", "for n in /disk /char /kmsg; do head -c 1 $n >/dev/null && echo READ $n; done; echo end"], userns=userns)
    assert result.stdout == "end\n", result


def test_set_uid_programs_are_out_of_everybodys_reach(data, tmp_path, ordinary_user):
    """CVE-2021-41091: a set-uid program in a layer, or in a container's upper directory, is one of the host's for its other users."""
    path = image(data, tar(*busybox(), member("suid", content=Path("/bin/busybox").read_bytes(), mode=0o4755)), tmp_path)
    for place in (tmp_path, *tmp_path.parents):
        if str(place).startswith("/tmp/"):
            place.chmod(0o755)
    become = ["setpriv", f"--reuid={ordinary_user.pw_uid}", f"--regid={ordinary_user.pw_gid}", "--clear-groups"]

    def reachable(where: Path) -> bool:
        return subprocess.run([*become, "test", "-x", str(where)], check=False).returncode == 0

    with hutch.Container(path, upper="disk", userns="host") as box:
        assert box.run(["sh", "-c", "/bin/busybox cp /bin/busybox /own; /bin/busybox chmod 4755 /own"]).ok
        layers = list(data.glob("layers/*/suid"))
        own = list(data.glob(f"{box.id}/*/own"))
        assert layers and own
        assert not [p for p in (*layers, *own) if reachable(p)]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "truncated gzip": lambda raw: gzip.compress(raw)[:-200],
    "damaged gzip": lambda raw: (lambda z: z[:500] + b"\xff" * 200 + z[700:])(gzip.compress(raw)),
    "wrong checksum": lambda raw: gzip.compress(raw)[:-8] + b"\0" * 8,
    "truncated tar": lambda raw: raw[: len(raw) // 2 + 100],
    "truncated xz": lambda raw: __import__("lzma").compress(raw)[:-200],
    "damaged xz": lambda raw: (lambda z: z[:60] + b"\xff" * 200 + z[260:])(__import__("lzma").compress(raw)),
    "truncated bzip2": lambda raw: __import__("bz2").compress(raw)[:-200],
    "damaged bzip2": lambda raw: (lambda z: z[:60] + b"\xff" * 200 + z[260:])(__import__("bz2").compress(raw)),
    "random behind gzip's mark": lambda raw: b"\x1f\x8b" + os.urandom(4000),
    "random behind zstd's mark": lambda raw: b"\x28\xb5\x2f\xfd" + os.urandom(4000),
    "random behind xz's mark": lambda raw: b"\xfd7zXZ\0" + os.urandom(4000),
    "random behind bzip2's mark": lambda raw: b"BZh9" + os.urandom(4000),
    "nothing": lambda raw: b"",
    "random": lambda raw: os.urandom(8192),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_archives(data, tmp_path, name):
    """Whatever is broken in an archive is an ImageError, and leaves nothing in the store."""
    raw = tar(directory("etc"), member("etc/x", content=os.urandom(200_000)), member("y", content=os.urandom(100_000)))
    path = image(data, BROKEN[name](raw), tmp_path)
    with pytest.raises(hutch.ImageError):
        hutch.run(path, ["true"])
    assert not list(data.glob("layers/*")) and not list(data.glob("layers/.new*"))


@pytest.mark.parametrize(
    "members",
    [
        [member("a" * 5000)],
        [member("a/" * 2000 + "b")],
        [member("x" * 300)],
        [link("a", "b" * 5000)],
        [link("a", "")],
        [hard("a", "")],
        [hard("a", "missing")],
        [hard("a", "a")],
        [directory("d"), hard("a", "d")],
        [member("a", b"Z")],
        [member("d/x"), member("d", content=b"x"), member("d/y")],
        [link("a", "b"), link("b", "a"), member("a/x")],
        [link("a", "nowhere"), member("a/x")],
        [member("a", mtime=1 << 62)],
        [member("a", mtime=-1.5)],
        [member("a", uid=1 << 40, gid=1 << 40)],
        [member("a\0b")],
        [member("\udcff\n\x1b[2J")],
        [member("a", tarfile.CHRTYPE, devmajor=2097151, devminor=2097151)],
    ],
    ids=lambda members: repr(members[-1][0].name[:12]),
)
def test_strange_members(tmp_path, members):
    """Huge names, links to nothing or in circles, impossible owners and times: unpacked or refused with an ImageError."""
    (tmp_path / "layer").mkdir()
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        try:
            raw = tar(*members, form=form)
        except (ValueError, UnicodeError):
            continue
        try:
            store_error = None
            unpack(io.BytesIO(raw), str(tmp_path / "layer"))
        except hutch.HutchError as error:
            store_error = error
        except OSError as error:  # the store makes an ImageError of it
            store_error = error
        assert store_error is None or str(store_error)


def test_a_header_of_a_gigabyte(tmp_path):
    """A pax header says how long it is, and tarfile reads all of it: some kilobytes of gzip must not take the owner's memory."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(tar(directory("etc"))[:512])
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(1 << 4):
            file.write(b"1" * (1 << 20))
    program = (
        "import resource, sys, hutch\n"
        "resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))\n"
        "try:\n    hutch.run(sys.argv[1], ['true'])\n"
        "except hutch.ImageError as error:\n    print('refused', error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)\n"
    )
    environment = {**os.environ, "HUTCH_DATA": str(tmp_path / "data")}
    try:
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False, timeout=5, env=environment)
    except subprocess.TimeoutExpired:
        pytest.fail("16 MiB of digits keep it busy for ever")
    assert done.returncode == 0 and "refused" in done.stdout, done.stderr[-600:]
    assert int(done.stdout.split()[-1]) < 160, "the header was read into memory"


@pytest.fixture
def small_disk():
    """A file system of 8 MiB in a mount namespace's private place."""
    place = Path(tempfile.mkdtemp(prefix="hutch-small-", dir="/var/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=2000,mode=755", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
    place.rmdir()


def bombs(path: Path) -> dict[str, Callable[[], None]]:
    def zeros() -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            info, _ = member("etc/zeros")
            info.size = 64 << 20
            file.write(info.tobuf(tarfile.PAX_FORMAT))
            for _ in range(64):
                file.write(bytes(1 << 20))
            file.write(bytes(1024))

    def inodes() -> None:
        path.write_bytes(gzip.compress(tar(directory("etc"), *(member(f"etc/{n}") for n in range(4000))), 1))

    def sparse() -> None:
        info = tarfile.TarInfo("etc/sparse")
        info.type = tarfile.REGTYPE
        info.size = 0
        info.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.name": "etc/sparse",
            "GNU.sparse.size": str(1 << 50),
            "GNU.sparse.map": "0,0",
        }
        path.write_bytes(tar(directory("etc"), (info, b"")))

    return {"zeros": zeros, "inodes": inodes, "sparse": sparse}


@pytest.mark.parametrize("kind", ["zeros", "inodes", "sparse"])
def test_tar_bombs(small_disk, monkeypatch, tmp_path, kind):
    """A bomb fills the disk that it is unpacked to: a clear error, and all of the space given back."""
    path = tmp_path / "bomb.tar"
    bombs(path)[kind]()
    monkeypatch.setenv("HUTCH_DATA", str(small_disk / "data"))
    try:
        result = hutch.run(str(path), ["true"])
        assert kind == "sparse" and result.outcome == "failed-to-start"  # holes take no space
        return
    except hutch.ImageError as error:
        assert "No space left" in str(error) or "layer" in str(error)
    assert not list(small_disk.glob("data/layers/*")) and not list(small_disk.glob("data/layers/.*"))
    free = os.statvfs(small_disk)
    assert free.f_bfree > 0.98 * free.f_blocks and free.f_ffree > 1900


def test_a_tree_deeper_than_recursion(deep_data, tmp_path):
    """Links take a path deeper than any name: what fails after that must still be removed, without Python's recursion."""
    members = [directory("etc"), directory("d/" * 400)]
    here = "d/" * 400
    for number in range(6):
        members += [link(f"l{number}", here), directory(f"l{number}/{'d/' * 400}")]
        here = f"l{number}/{'d/' * 400}"
    path = image(deep_data, tar(*members, member("a", b"Z")), tmp_path)
    with pytest.raises(hutch.ImageError):
        hutch.run(path, ["true"])
    assert os.listdir(deep_data / "layers") == []
    members += [directory("e"), link("e", "d"), member("d", content=b"in place of the tree")]
    path = image(deep_data, tar(*members), tmp_path, "replaced.tar")
    assert hutch.run(path, ["true"]).outcome == "failed-to-start"  # unpacked: it only has no program


def test_unpacking_is_not_seen_half_done(data, tmp_path, monkeypatch):
    """A crash while unpacking leaves nothing that looks whole, and the next one clears it away."""
    base = data / "layers"
    base.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        try:
            store.layer("key", lambda directory: os._exit(9))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [p.name for p in base.iterdir()] and not (base / "key").exists()
    assert store.layer("key", lambda directory: None) == str(base / "key")
    assert os.listdir(base) == ["key"]


# OCI layouts


def layout(place: Path, blob: bytes, **changes: object) -> Path:
    """An OCI layout of one layer, with some digests as the test wants them."""
    blobs = place / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(raw: bytes, key: str) -> dict[str, object]:
        digest = hashlib.sha256(raw).hexdigest()
        (blobs / digest).write_bytes(raw)
        return {"digest": changes.get(key, f"sha256:{digest}"), "size": len(raw)}

    config = changes.get(
        "config_json", {"architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux", "config": changes.get("image", {})}
    )
    manifest = {"config": put(json.dumps(config).encode(), "config"), "layers": [put(blob, "layer")]}
    (place / "index.json").write_text(json.dumps({"manifests": [put(json.dumps(manifest).encode(), "manifest")]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place


BAD = "0" * 64


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../etc/passwd", "sha256:/etc/passwd", "sha256:..", "sha256:", "sha256", "", "md5:00", "../sha256:00", f"sha256:{BAD}", f"sha512:{BAD}",
        "sha256:\0", "sha256:ab/../../..", 5, None, ["sha256:00"], {"a": "b"}, f"SHA256:{BAD}", f"sha256:{BAD}\n",
    ],
    ids=repr,
)  # fmt: skip
def test_digests(data, tmp_path, which, digest):
    """A digest is a file's name and a layer's place in the store: path tricks and lies in it are an ImageError."""
    place = layout(tmp_path / "layout", tar(*busybox()), **{which: digest})
    with pytest.raises(hutch.ImageError):
        hutch.run(str(place), ["id"])
    assert not list(data.glob("layers/*"))


def test_a_layer_that_is_not_what_it_is_called(data, tmp_path):
    """A layer whose bytes changed after the manifest was signed is not run, and not kept under that name."""
    place = layout(tmp_path / "layout", tar(*busybox()))
    other = tar(*busybox(), member("etc/backdoor", content=b"x"))
    index = json.loads((place / "index.json").read_text())
    manifest = json.loads((place / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    blob = place / "blobs/sha256" / manifest["layers"][0]["digest"][7:]
    good = blob.read_bytes()
    for bad in (other, good + b"appended", good[:-1] + b"x", gzip.compress(good)):
        blob.write_bytes(bad)
        with pytest.raises(hutch.ImageError):
            hutch.run(str(place), ["id"])
        assert not list(data.glob("layers/*"))
    blob.write_bytes(good)
    assert hutch.run(str(place), ["id"]).ok


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "link to zeros", "link out"])
@pytest.mark.parametrize("which", ["index", "layer"])
def test_blobs_that_are_no_files(data, tmp_path, kind, which):
    """A fifo or a device for a blob must not be waited for: the caller is stuck otherwise, without a time limit that helps."""
    place = layout(tmp_path / "layout", tar(*busybox()))
    index = json.loads((place / "index.json").read_text())
    manifest = json.loads((place / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    blob = place / "index.json" if which == "index" else place / "blobs/sha256" / manifest["layers"][0]["digest"][7:]
    blob.unlink()
    if kind == "fifo":
        os.mkfifo(blob)
    elif kind == "link to a fifo":
        os.mkfifo(tmp_path / "fifo")
        blob.symlink_to(tmp_path / "fifo")
    else:
        blob.symlink_to("/dev/zero" if kind == "link to zeros" else "/etc/shadow")
    program = "import sys, hutch\ntry:\n    hutch.run(sys.argv[1], ['id'])\nexcept hutch.ImageError as error:\n    print('refused', error)\n"
    try:
        done = subprocess.run([sys.executable, "-c", program, str(place)], capture_output=True, text=True, check=False, timeout=1.5, env=dict(os.environ))
    except subprocess.TimeoutExpired:
        pytest.fail("it waits for ever")
    assert done.stdout.startswith("refused"), done.stderr[-500:]
    assert "root:" not in done.stdout


@pytest.mark.parametrize(
    "own",
    [
        {"Env": [5]}, {"Env": "A=B"}, {"Env": ["A\0=B"]}, {"Env": ["=x", "A"]}, {"Entrypoint": "sh"}, {"Entrypoint": [None]}, {"Cmd": [["sh"]]}, {"Cmd": ["id\0"]},
        {"User": 5}, {"User": "0:0:0"}, {"User": "²"}, {"WorkingDir": 5}, {"WorkingDir": "etc"}, {"WorkingDir": "../../etc"}, {"WorkingDir": "/proc/self/fd/9"},
        {"Labels": ["a"]}, {"Volumes": 5}, {"Env": ["LD_PRELOAD=/evil.so", "PATH=/proc/self/fd/5:/bin"]}, {"StopSignal": []},
    ],
    ids=repr,
)  # fmt: skip
def test_strange_configurations(data, tmp_path, own):
    """An image's configuration is the attacker's: of the wrong types it is an ImageError (or a UsageError), nothing else."""
    place = layout(tmp_path / "layout", tar(*busybox()), image=own)
    try:
        result = hutch.run(str(place), [] if {"Cmd", "Entrypoint"} & own.keys() else ["id", "-u"])
    except hutch.HutchError:
        return
    assert result.outcome in ("exited", "failed-to-start")


@pytest.mark.parametrize("config", [[], "x", 5, None, {"architecture": 5}, {"config": []}, {"config": "x"}], ids=repr)
def test_configurations_of_other_types(data, tmp_path, config):
    """JSON, but no configuration."""
    place = layout(tmp_path / "layout", tar(*busybox()), config_json=config)
    try:
        hutch.run(str(place), ["id"])
    except hutch.HutchError:
        pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        '{"manifests": 5}',
        '{"manifests": [5]}',
        '{"manifests": [{}]}',
        '{"layers": 5, "config": {}}',
        '{"manifests": {}}',
        "[" * 100_000,
    ],
)
def test_strange_indexes(data, tmp_path, text):
    """index.json of any shape is an ImageError."""
    place = layout(tmp_path / "layout", tar(*busybox()))
    (place / "index.json").write_text(text)
    with pytest.raises(hutch.ImageError):
        hutch.run(str(place), ["id"])


@pytest.mark.parametrize(
    "manifest",
    [
        [], {}, [5], [{"Config": 5, "Layers": []}], [{"Config": "../../etc/passwd", "Layers": []}],
        [{"Config": "config.json", "Layers": ["/etc/shadow"]}], [{"Config": "config.json", "Layers": ["link"]}], [{"Config": "config.json", "Layers": [5]}],
        [{"Config": "config.json", "Layers": ["dir"]}], [{"Config": "config.json", "Layers": 5}],
    ],
    ids=repr,
)  # fmt: skip
def test_saved_images(data, tmp_path, manifest):
    """`docker save` archives whose manifest names what is not in them, or is no manifest."""
    config = {"rootfs": {"diff_ids": [f"sha256:{BAD}"]}}
    raw = tar(
        member("manifest.json", content=json.dumps(manifest).encode()), member("config.json", content=json.dumps(config).encode()), link("link", "/etc/shadow"), directory("dir"),
    )  # fmt: skip
    path = image(data, raw, tmp_path)
    with pytest.raises(hutch.ImageError):
        hutch.run(path, ["id"])


def test_openat2_is_what_resolves():
    """The unpacker's promise rests on the kernel's RESOLVE_IN_ROOT; without it nothing may be unpacked."""
    with pytest.raises(OSError):
        root = os.open("/var/tmp", os.O_PATH)
        try:
            syscalls.openat2(root, "../../etc/passwd", os.O_RDONLY, 0, syscalls.RESOLVE_BENEATH)
        finally:
            os.close(root)
