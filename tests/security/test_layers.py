"""Malicious archives: what a layer must not do to the host, whether it is read through an index or unpacked."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

import hutch
from hutch.image import collect
from hutch.image.layers import lowers as image_layers
from hutch.image.layers.erofs import writer
from hutch.image.layers.unpack import unpack
from hutch.image.store import content as contents
from hutch.image.store.content import Content, hash_file
from hutch.kernel import syscalls
from hutch.kernel.features import features
from tests import archives
from tests.archives import Entry, busybox, directory, hard, layout, link, listing, member, sha256, tar
from tests.conftest import descriptors
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
    """A store of the test's own."""
    place = tmp_path / "data"
    monkeypatch.setenv("HUTCH_DATA", str(place))
    return place


@pytest.fixture
def deep_data(data):
    """The same, for what pytest cannot remove."""
    yield data
    subprocess.run(["rm", "-rf", str(data)], check=True)


UNPACK = "from hutch.image.layers import lowers\nlowers.indexed = lambda *_: False\n"


@pytest.fixture(params=["index", "tree"])
def way(request, monkeypatch, tmp_path) -> str:
    """Both of a layer's forms: an index of its tar that the kernel mounts, and a directory."""
    monkeypatch.setattr(image_layers, "_mountable", type(image_layers._mountable)())  # found out anew: it depends on the disk, too
    if request.param == "tree":
        monkeypatch.setattr(image_layers, "indexed", lambda *_: False)
    elif not image_layers.indexed(Content(str(tmp_path / "other")), features()):
        pytest.skip("this kernel mounts no EROFS from a file")
    return request.param


def kept(data: Path) -> list[str]:
    """What a store holds of layers: their own files, and what is half written."""
    return sorted(str(path.relative_to(data)) for name in ("layers", "ingest") for path in data.glob(f"{name}/*"))


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
def test_escapes(data, tmp_path, outside, way, name):
    """`..`, absolute names, links of both kinds, whiteouts: everything lands inside the layer, where a container sees it, or is refused."""
    path = image(data, tar(*busybox(), directory("var"), *escapes(str(outside))[name]), tmp_path)
    try:
        box = hutch.Container(path)
    except hutch.ImageError:
        assert kept(data) == []
        return
    with box:
        found = box.run(["sh", "-c", 'grep -rs "the host\'s" / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev; cat /a /l /d/file /a/file; true'])
        assert found.ok and "the host's" not in found.stdout and "root:" not in found.stdout
        assert box.run(["sh", "-c", f"for n in /a /a/file /a/new /b /l /d/file {outside}/file; do echo changed > $n; done; rm -rf /a /b /l; true"]).ok


@pytest.mark.parametrize("name", list(escapes("/x")))
def test_both_ways_agree(tmp_path, outside, name):
    """The same archive gives the same files by either way, or neither takes it."""
    raw = tar(*escapes(str(outside))[name])
    found: list[object] = []
    for form, make in archives.FORMS.items():
        try:
            found.append(listing(make(raw, tmp_path / form)))
        except hutch.ImageError:
            found.append("refused")
    assert found[0] == found[1]


@pytest.mark.parametrize("name", list(escapes("/x")))
def test_escapes_while_unpacking(tmp_path, outside, name):
    """Nothing is written but below the layer's directory."""
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


@pytest.mark.parametrize("form", list(archives.FORMS))
def test_marks_of_overlayfs_are_not_the_archives_to_set(tmp_path, form):
    """trusted.overlay.redirect or metacopy in a layer would show directories of other layers: they are left out."""
    names = [f"{space}.overlay.{mark}" for space in ("trusted", "user") for mark in ("redirect", "metacopy", "opaque", "whiteout", "origin", "protattr")]
    headers = {f"SCHILY.xattr.{name}": "y" for name in [*names, "trusted.other", "system.posix_acl_access", "user.own"]}
    raw = tar(member("d", tarfile.DIRTYPE, mode=0o755, pax_headers=headers), member("f", content=b"x", pax_headers=headers))
    layer = archives.FORMS[form](raw, tmp_path)
    if form == "tree":
        found = [name for path in ("d", "f") for name in os.listxattr(f"{layer.lower}/{path}")]
    else:
        with archives.reader.Index(layer.index, layer.tar) as index:
            found = [name.decode() for path in (b"d", b"f") for name in index.lookup(path).xattrs]
    assert found == ["user.own"] * 2


@pytest.mark.parametrize("form", list(archives.FORMS))
def test_whiteouts_do_what_they_say_and_no_more(tmp_path, outside, form):
    """A whiteout becomes overlayfs's, an opaque mark too; odd names stay plain files or are refused."""
    members = [directory("d"), member("d/.wh.gone"), directory("o"), member("o/.wh..wh..opq"), member("d/.whx", content=b"x")]
    found = listing(archives.FORMS[form](tar(*members), tmp_path / "layer"))
    assert set(found) == {"", "/d", "/d/gone", "/d/.whx", "/o"}
    mode, _, _, device, _ = found["/d/gone"]
    assert stat.S_ISCHR(int(mode, 8)) and device == (0, 0)
    assert (found["/o"][3], found["/d"][3]) == (True, False)
    assert found["/d/.whx"][3] == b"x"


@pytest.mark.parametrize("userns", ["auto", "host"])
def test_whiteouts_in_a_container(data, tmp_path, way, userns):
    """They hide what is below, in the container and for the lookup of its users, and are seen as nothing themselves."""
    passwd = member("etc/passwd", content=b"anna:x:1000:1000::/:/bin/sh\n")
    low = [*busybox(), passwd, directory("d"), member("d/gone", content=b"x"), member("d/here"), directory("o"), member("o/gone"), member("file")]
    top = [member("d/.wh.gone"), member("o/.wh..wh..opq"), member("o/new"), member(".wh.file"), member("etc/.wh.passwd")]
    place = layout(tmp_path / "layout", tar(*low), tar(*top))
    result = hutch.run(str(place), ["find", "/d", "/o", "/file", "/etc/passwd"], userns=userns)
    assert result.stdout.split() == ["/d", "/d/here", "/o", "/o/new"]
    assert hutch.run(str(place), ["sh", "-c", "echo new > /d/gone; cat /d/gone"], userns=userns).stdout == "new\n"
    with pytest.raises(hutch.UsageError):
        hutch.run(str(place), ["true"], user="anna")


def image(data: Path, raw: bytes, tmp_path: Path, name: str = "image.tar") -> str:
    """A root file system's archive on disk."""
    path = tmp_path / name
    path.write_bytes(raw)
    return str(path)


@pytest.mark.parametrize("userns", ["auto", "host"])
def test_device_nodes_in_a_layer(tmp_path, data, way, userns):
    """A node of the host's disk in a layer cannot be read in a container."""
    device = os.stat("/").st_dev
    nodes = [
        member(name, kind, mode=0o666, devmajor=os.major(device), devminor=os.minor(device))
        for name, kind in (("disk", tarfile.BLKTYPE), ("char", tarfile.CHRTYPE))
    ]
    path = image(data, tar(*busybox(), *nodes, member("kmsg", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=11)), tmp_path)
    result = hutch.run(path, ["sh", "-c", "for n in /disk /char /kmsg; do head -c 1 $n >/dev/null && echo READ $n; done; echo end"], userns=userns)
    assert result.stdout == "end\n", result


def test_set_uid_programs_are_out_of_everybodys_reach(data, tmp_path, ordinary_user, way):
    """CVE-2021-41091: a set-uid program in a layer, or in a container's upper directory, is one of the host's for its other users."""
    path = image(data, tar(*busybox(), member("suid", content=Path("/bin/busybox").read_bytes(), mode=0o4755)), tmp_path)
    for place in (tmp_path, *tmp_path.parents):
        if str(place).startswith("/tmp/"):
            place.chmod(0o755)
    become = ["setpriv", f"--reuid={ordinary_user.pw_uid}", f"--regid={ordinary_user.pw_gid}", "--clear-groups"]

    def reachable(where: Path) -> bool:
        return subprocess.run([*become, "test", "-r", str(where)], check=False).returncode == 0

    assert reachable(Path(path))
    with hutch.Container(path, upper="disk", userns="host") as box:
        assert box.run(["sh", "-c", "/bin/busybox cp /bin/busybox /own; /bin/busybox chmod 4755 /own"]).ok
        programs = list(data.glob("layers/*/*/suid"))  # of the mounted index, while a container is on it
        own = list(data.glob(f"containers/{box.id}/*/own"))
        blobs = list(data.glob("content/*/*"))
        assert len(programs) == 1 and programs[0].stat().st_mode & stat.S_ISUID and own and blobs
        assert not [p for p in (*programs, *own, *blobs, *data.glob("layers/*/*")) if reachable(p)]
    assert bool(list(data.glob("layers/*/*/suid"))) == (way == "tree")


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "truncated gzip": lambda raw: gzip.compress(raw)[:-200],
    "damaged gzip": lambda raw: (lambda z: z[:500] + b"\xff" * 200 + z[700:])(gzip.compress(raw)),
    "wrong checksum": lambda raw: gzip.compress(raw)[:-8] + b"\0" * 8,
    "truncated zstd": lambda raw: zstandard.compress(raw)[:-200],
    "zstd without its last byte": lambda raw: zstandard.compress(raw)[:-1],
    "damaged zstd": lambda raw: (lambda z: z[:500] + b"\xff" * 200 + z[700:])(zstandard.ZstdCompressor(write_checksum=True).compress(raw)),
    "wrong checksum of zstd": lambda raw: zstandard.ZstdCompressor(write_checksum=True).compress(raw)[:-4] + bytes(4),
    "something behind gzip": lambda raw: gzip.compress(raw) + b"something else",
    "something behind zstd": lambda raw: zstandard.compress(raw) + b"something else",
    "truncated tar": lambda raw: raw[: len(raw) // 2 + 100],
    "truncated xz": lambda raw: lzma.compress(raw)[:-200],
    "damaged xz": lambda raw: (lambda z: z[:60] + b"\xff" * 200 + z[260:])(lzma.compress(raw)),
    "truncated bzip2": lambda raw: bz2.compress(raw)[:-200],
    "damaged bzip2": lambda raw: (lambda z: z[:60] + b"\xff" * 200 + z[260:])(bz2.compress(raw)),
    "random behind gzip's mark": lambda raw: b"\x1f\x8b" + os.urandom(4000),
    "random behind zstd's mark": lambda raw: b"\x28\xb5\x2f\xfd" + os.urandom(4000),
    "random behind xz's mark": lambda raw: b"\xfd7zXZ\0" + os.urandom(4000),
    "random behind bzip2's mark": lambda raw: b"BZh9" + os.urandom(4000),
    "nothing": lambda raw: b"",
    "random": lambda raw: os.urandom(8192),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_archives(data, tmp_path, way, name):
    """Whatever is broken in an archive is an ImageError, and leaves nothing in the store."""
    raw = tar(directory("etc"), member("etc/x", content=os.urandom(200_000)), member("y", content=os.urandom(100_000)))
    path = image(data, BROKEN[name](raw), tmp_path)
    before = descriptors()
    with pytest.raises(hutch.ImageError) as caught:
        hutch.run(path, ["true"])
    assert path in caught.value.message
    caught = None
    assert kept(data) == [] and list(data.glob("content/*/*")) == []
    assert descriptors() <= before


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
    """Huge names, links to nothing or in circles, impossible owners and times: taken or refused with an ImageError, by both ways alike."""
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        try:
            raw = tar(*members, form=form)
        except (ValueError, UnicodeError):
            continue
        found: list[object] = []
        for kind, make in archives.FORMS.items():
            try:
                layer = make(raw, tmp_path / f"{kind}-{form}")
            except hutch.ImageError as error:
                assert str(error)
                found.append("refused")
            except OSError as error:  # the store makes an ImageError of it
                assert kind == "tree"
                found.append(f"refused: {error}")
            else:
                found.append(listing(layer))
        assert found[0] == found[1] or str(found[1]).startswith("refused")


@pytest.mark.parametrize(
    "members", [[member("a", mtime=1 << 62)], [member("d", tarfile.DIRTYPE, uid=1 << 40)], [member("d/x"), member("d", content=b"x"), member("d/y")]]
)
def test_strange_members_in_the_store(data, tmp_path, way, members):
    """Whatever the disk says to it, too, is an ImageError."""
    path = image(data, tar(*members, form=tarfile.GNU_FORMAT), tmp_path)
    try:
        assert hutch.run(path, ["true"]).outcome == "failed-to-start"
    except hutch.ImageError as error:
        assert path in error.message
        assert kept(data) == []


def test_a_header_of_a_gigabyte(tmp_path, way):
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
        f"import resource, sys, hutch\n{UNPACK if way == 'tree' else ''}"
        "resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))\n"
        "try:\n    hutch.run(sys.argv[1], ['true'])\n"
        "except hutch.ImageError as error:\n    print('refused', error)\n"
        "print(next(int(line.split()[1]) >> 10 for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    environment = {**os.environ, "HUTCH_DATA": str(tmp_path / "data")}
    try:
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False, timeout=5, env=environment)
    except subprocess.TimeoutExpired:
        pytest.fail("16 MiB of digits keep it busy for ever")
    assert done.returncode == 0 and "refused" in done.stdout, done.stderr[-600:]
    assert int(done.stdout.split()[-1]) < 160, "the header was read into memory"


@contextlib.contextmanager
def disk(kind: str, size: str, inodes: int) -> Iterator[Path]:
    """A file system of its own, in memory or in a file: the kernel mounts no index from the former."""
    place = Path(tempfile.mkdtemp(prefix="hutch-disk-", dir="/var/tmp"))
    file = Path(f"{place}.image")
    if kind == "tmpfs":
        words = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=755", "none", str(place)]
    else:
        subprocess.run(["truncate", "-s", size, str(file)], check=True)
        if subprocess.run(["mkfs.ext4", "-q", "-N", str(inodes), str(file)], check=False).returncode:
            pytest.skip("no ext4 here")
        words = ["mount", "-o", "loop", str(file), str(place)]
    if subprocess.run(words, check=False).returncode:
        pytest.skip(f"no {kind} can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)
    place.rmdir()
    file.unlink(missing_ok=True)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request):
    """A file system of 8 MiB."""
    with disk(request.param, "8m", 2000) as place:
        yield place


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


@pytest.mark.parametrize("reserve", [0, contents.RESERVE])
@pytest.mark.parametrize("kind", ["zeros", "inodes", "sparse"])
def test_tar_bombs(small_disk, monkeypatch, tmp_path, way, kind, reserve):
    """A bomb fills the disk that it is unpacked to, or all but the part of it that is never used: a clear error, and all of the space given back."""
    path = tmp_path / "bomb.tar"
    bombs(path)[kind]()
    monkeypatch.setenv("HUTCH_DATA", str(small_disk / "data"))
    monkeypatch.setattr(contents, "RESERVE", reserve)
    before = os.statvfs(small_disk)
    try:
        result = hutch.run(str(path), ["true"])
    except hutch.ImageError as error:
        if kind == "sparse" and not reserve:
            assert str(1 << 50) in error.message or "File too large" in error.message
        else:
            assert "No space left" in error.message or "disk is full" in error.message
            assert "prune" in (error.hint or "")
    else:
        # holes take no space, and in an index nor do empty files
        assert result.outcome == "failed-to-start" and not reserve and (kind == "sparse" or (kind, way) == ("inodes", "index"))
        return
    assert kept(small_disk / "data") == [] and not list(small_disk.glob("data/content/*/*"))
    after = os.statvfs(small_disk)
    assert after.f_bfree > before.f_bfree - 0.02 * before.f_blocks and after.f_ffree > before.f_ffree - 50


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_stores_on_other_disks(monkeypatch, tmp_path, way, kind):
    """Where the kernel mounts no index from, layers are unpacked; and what one disk cannot is not held against another."""
    path = image(tmp_path, tar(*busybox()), tmp_path)
    forms = []
    with disk(kind, "160m", 2000) as place:
        for data in (place / "data", tmp_path / "data", place / "again"):
            monkeypatch.setenv("HUTCH_DATA", str(data))
            assert hutch.run(path, ["true"]).ok
            assert hutch.run(path, ["true"]).ok
            forms.append("index" if list(data.glob("layers/*/index")) else "tree")
    there = "tree" if kind == "tmpfs" else way
    assert forms == [there, way, there]


def test_a_tree_deeper_than_recursion(deep_data, tmp_path, way):
    """Links take a path deeper than any name: what fails after that must still be removed, without Python's recursion."""
    members = [directory("etc"), directory("d/" * 400)]
    here = "d/" * 400
    for number in range(6):
        members += [link(f"l{number}", here), directory(f"l{number}/{'d/' * 400}")]
        here = f"l{number}/{'d/' * 400}"
    path = image(deep_data, tar(*members, member("a", b"Z")), tmp_path)
    with pytest.raises(hutch.ImageError):
        hutch.run(path, ["true"])
    assert kept(deep_data) == []
    members += [directory("e"), link("e", "d"), member("d", content=b"in place of the tree")]
    path = image(deep_data, tar(*members), tmp_path, "replaced.tar")
    assert hutch.run(path, ["true"]).outcome == "failed-to-start"  # taken: it only has no program


# Killed on the way


def die(*_: object) -> None:
    os._exit(9)


def dying(original: Callable[..., object], count: int) -> Callable[..., object]:
    """A function that ends the process when it is called the `count`-th time."""
    calls = iter(range(count - 1))

    def call(*arguments: object, **named: object) -> object:
        if next(calls, None) is None:
            die()
        return original(*arguments, **named)

    return call


def after(original: Callable[..., object]) -> Callable[..., object]:
    """A function that ends the process when it is done."""
    return lambda *arguments, **named: die(original(*arguments, **named))


def committing(what: bytes, *, done: bool = False) -> Callable[[pytest.MonkeyPatch], None]:
    """The end comes when a blob gets its name, or has got it."""
    original = contents.Ingest.commit

    def commit(ingest: contents.Ingest, digest: str) -> None:
        if done or digest != sha256(what):
            original(ingest, digest)
        if digest == sha256(what):
            die()

    return lambda patch: patch.setattr(contents.Ingest, "commit", commit)


RAW = tar(directory("etc"), *(link(f"etc/{n}", "x") for n in range(5)), member("big", content=os.urandom(3 << 20)))
BLOB = gzip.compress(RAW, 1)
# where, in which form, and what becomes of what is called there
KILLED: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "before the first byte is kept": ("index tree", lambda patch: patch.setattr(contents.Ingest, "write", die)),
    "while the blob comes in": ("index tree", lambda patch: patch.setattr(contents.Ingest, "write", dying(contents.Ingest.write, 9))),
    "before the index is made": ("index", lambda patch: patch.setattr(writer, "index", die)),
    "after the index is made": ("index", lambda patch: patch.setattr(writer, "index", after(writer.index))),
    "before the tar has its name": ("index", committing(RAW)),
    "after the tar has its name": ("index", committing(RAW, done=True)),
    "before the mount is tried": ("index", lambda patch: patch.setattr(image_layers, "_try_mount", die)),
    "while a tree is unpacked": ("tree", lambda patch: patch.setattr(os, "symlink", dying(os.symlink, 3))),
    "before the blob has its name": ("index tree", committing(BLOB)),
    "after the blob has its name": ("index tree", committing(BLOB, done=True)),
    "before anything is marked": ("index tree", lambda patch: patch.setattr(Content, "mark", die)),
    "after something is marked": ("index tree", lambda patch: patch.setattr(Content, "mark", after(Content.mark))),
    "before the first rename": ("index tree", lambda patch: patch.setattr(os, "rename", die)),
    "after the first rename": ("index tree", lambda patch: patch.setattr(os, "rename", after(os.rename))),
    "before the second rename": ("index tree", lambda patch: patch.setattr(os, "rename", dying(os.rename, 2))),
    "before the third rename": ("index", lambda patch: patch.setattr(os, "rename", dying(os.rename, 3))),
}


def fetch(store: Content, asked: list[int]) -> image_layers.Layer:
    """The layer, from somewhere that gives it in small pieces; `asked` is where that was asked to begin."""

    def pieces(offset: int) -> Iterator[bytes]:
        asked.append(offset)
        for begin in range(offset, len(BLOB), 64 << 10):
            yield BLOB[begin : begin + (64 << 10)]

    return image_layers.fetch(store, sha256(BLOB), len(BLOB), sha256(RAW), pieces, features(), "x")


@pytest.mark.parametrize(("way", "point"), [(way, point) for point, (ways, _) in KILLED.items() for way in ways.split()], indirect=["way"])
def test_killed_on_the_way(data, tmp_path, monkeypatch, way, point):
    """Nothing that is half done is seen, what was fetched is not fetched again, and what is left over goes with the next attempt."""
    patch = KILLED[point][1]
    child = os.fork()
    if child == 0:
        try:
            patch(monkeypatch)
            fetch(Content(), [])
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    # what is there under its name is whole
    store = Content()
    assert all(hash_file(store.path(digest)) == digest[7:] for digest, _ in store.blobs())
    assert not list(collect.check(store, features(), repair=False))
    expected = listing(archives.FORMS[way](RAW, tmp_path / "expected"))
    found = image_layers.find(store, sha256(RAW), features())
    if found is not None:
        assert listing(found) == expected
    there = store.has(sha256(BLOB))
    # the next one goes on from there
    asked: list[int] = []
    assert listing(fetch(store, asked)) == expected
    if point == "before the first byte is kept":
        assert asked == [0]
    elif point == "while the blob comes in":
        assert len(asked) == 1 and 0 < asked[0] < len(BLOB)
    else:
        assert all(offset > 0 for offset in asked) and not (there and asked)
    assert os.listdir(data / "ingest") == []


def test_a_damaged_partial_blob_is_not_kept(data, way):
    """What the disk made of the part that was there (a power failure) costs one attempt, and never gets a name."""
    store = Content()
    with store.claim(sha256(BLOB)) as claim:
        claim.write(b"\0" * 100_000)
    try:
        fetch(store, [])
    except hutch.ImageError:
        assert kept(data) == []
        asked: list[int] = []
        fetch(store, asked)
        assert asked == [0]
    assert hash_file(store.path(sha256(BLOB))) == sha256(BLOB)[7:] and os.listdir(data / "ingest") == []


# OCI layouts


BAD = "0" * 64


def test_layouts_that_are_as_they_should_be(data, tmp_path, way):
    """What the attacks below begin with can be run."""
    raw = tar(*busybox())
    assert hutch.run(str(layout(tmp_path / "plain", raw, image={"Env": ["A=b"]})), ["sh", "-c", "echo $A"]).stdout == "b\n"
    for number, blob in enumerate((gzip.compress(raw), zstandard.compress(raw))):
        assert hutch.run(str(layout(tmp_path / str(number), blob, plain=(raw,))), ["true"]).ok


@pytest.mark.parametrize("which", ["manifest", "config", "layer", "diff_id"])
@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../etc/passwd", "sha256:/etc/passwd", "sha256:..", "sha256:", "sha256", "", "md5:00", "../sha256:00", f"sha256:{BAD}", f"sha512:{BAD}",
        "sha256:\0", "sha256:ab/../../..", 5, None, ["sha256:00"], {"a": "b"}, f"SHA256:{BAD}", f"sha256:{BAD}\n",
    ],
    ids=repr,
)  # fmt: skip
def test_digests(data, tmp_path, way, which, digest):
    """A digest is a file's name and a layer's place in the store: path tricks and lies in it are an ImageError."""
    place = layout(tmp_path / "layout", tar(*busybox()), **{which: digest})
    with pytest.raises(hutch.ImageError):
        hutch.run(str(place), ["id"])
    assert kept(data) == []


def test_a_layer_that_is_not_what_it_is_called(data, tmp_path, way):
    """A layer whose bytes changed after the manifest was signed is not run, and not kept under that name."""
    place = layout(tmp_path / "layout", tar(*busybox()))
    other = tar(*busybox(), member("etc/backdoor", content=b"x"))
    index = json.loads((place / "index.json").read_text())
    manifest = json.loads((place / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    digest = manifest["layers"][0]["digest"]
    blob = place / "blobs/sha256" / digest[7:]
    good = blob.read_bytes()
    same_size = other[: len(good)].ljust(len(good), b"\0")
    for bad in (other, good + b"appended", good[:-1] + b"x", gzip.compress(good), same_size, good[:-512], b""):
        blob.write_bytes(bad)
        with pytest.raises(hutch.ImageError):
            hutch.run(str(place), ["id"])
        assert not list(data.glob("layers/*")) and not Content().has(digest)
    blob.write_bytes(good)
    assert hutch.run(str(place), ["id"]).ok
    assert os.listdir(data / "ingest") == []
    blob.write_bytes(other)  # what is in the store is what it was
    assert hutch.run(str(place), ["ls", "/etc/backdoor"]).exit_code == 1


@pytest.mark.parametrize("compressed", [False, True])
def test_a_layer_whose_plain_tar_is_another(data, tmp_path, way, compressed):
    """The blob is what the manifest says, and its content not what the configuration says: the image's identity would be a lie."""
    raw, other = tar(*busybox()), tar(*busybox(), member("etc/backdoor", content=b"x"))
    blob = gzip.compress(other) if compressed else other
    with pytest.raises(hutch.ImageError, match="digest"):
        hutch.run(str(layout(tmp_path / "lie", blob, plain=(raw,))), ["id"])
    assert kept(data) == [] and not Content().has(sha256(raw)) and not Content().has(sha256(other))
    assert hutch.run(str(layout(tmp_path / "truth", blob, plain=(other,))), ["id"]).ok


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "link to zeros", "link out"])
@pytest.mark.parametrize("which", ["index", "layer"])
def test_blobs_that_are_no_files(data, tmp_path, way, kind, which):
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
    program = (
        f"import sys, hutch\n{UNPACK if way == 'tree' else ''}"
        "try:\n    hutch.run(sys.argv[1], ['id'])\nexcept hutch.ImageError as error:\n    print('refused', error)\n"
    )
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
    raw = tar(*busybox())
    if isinstance(config, dict):
        config = {"os": "linux", "architecture": archives.ARCHITECTURE, "rootfs": {"type": "layers", "diff_ids": [sha256(raw)]}, **config}
    place = layout(tmp_path / "layout", raw, config_json=config)
    with contextlib.suppress(hutch.ImageError):
        assert hutch.run(str(place), ["id"]).ok and config == {**config, "config": []}


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


def saved(manifest: object, config: object, *more: Entry) -> bytes:
    """An archive of `docker save`."""
    return tar(member("manifest.json", content=json.dumps(manifest).encode()), member("config.json", content=json.dumps(config).encode()), *more)


def config_of(layer: bytes) -> dict[str, object]:
    return {"rootfs": {"diff_ids": [sha256(layer)]}, "architecture": archives.ARCHITECTURE, "os": "linux"}


@pytest.mark.parametrize("compressed", [False, True])
def test_saved_images_that_are_as_they_should_be(data, tmp_path, way, compressed):
    """Docker names a layer that several images have by a link, and may compress it."""
    layer = tar(*busybox())
    blob = gzip.compress(layer) if compressed else layer
    more = [directory("a"), member("a/layer.tar", content=blob), directory("b"), link("b/layer.tar", "../a/layer.tar")]
    for path in ("a/layer.tar", "b/layer.tar"):
        raw = saved([{"Config": "config.json", "Layers": [path], "RepoTags": None}], config_of(layer), *more)
        assert hutch.run(image(data, raw, tmp_path), ["true"]).ok
        assert hutch.run(image(data, gzip.compress(raw), tmp_path, "image.tgz"), ["true"]).ok
    assert os.listdir(data / "ingest") == []


@pytest.mark.parametrize(
    "manifest",
    [
        [], {}, [5], [{"Config": 5, "Layers": []}], [{"Config": "../../etc/passwd", "Layers": []}], None, "x", 5, [[]], [None], {"Config": "config.json", "Layers": []},
        [{"Config": "config.json", "Layers": ["/etc/shadow"]}], [{"Config": "config.json", "Layers": ["link"]}], [{"Config": "config.json", "Layers": [5]}],
        [{"Config": "config.json", "Layers": ["dir"]}], [{"Config": "config.json", "Layers": 5}], [{"Config": "config.json", "Layers": ["circle"]}],
        [{"Config": "config.json", "Layers": ["other.tar"]}], [{"Config": "config.json", "Layers": ["layer.tar", "layer.tar"]}], [{"Config": "config.json", "Layers": []}],
        [{"Config": "config.json", "Layers": ["fifo"]}], [{"Config": "dir", "Layers": ["layer.tar"]}], [{"Config": "layer.tar", "Layers": ["layer.tar"]}],
        [{"Config": "config.json", "Layers": ["layer.tar"], "RepoTags": 5}],
    ],
    ids=repr,
)  # fmt: skip
def test_saved_images(data, tmp_path, way, manifest):
    """`docker save` archives whose manifest names what is not in them, or is no manifest."""
    layer = tar(*busybox())
    more = [
        link("link", "/etc/shadow"), directory("dir"), link("circle", "circle"), member("fifo", tarfile.FIFOTYPE), member("layer.tar", content=layer),
        member("other.tar", content=tar(*busybox(), member("etc/backdoor"))),
    ]  # fmt: skip
    path = image(data, saved(manifest, config_of(layer), *more), tmp_path)
    with pytest.raises(hutch.ImageError):
        hutch.run(path, ["id"])
    assert kept(data) == []


@pytest.mark.parametrize("what", ["truncated", "full disk"])
def test_an_archive_that_cannot_be_inflated(data, tmp_path, monkeypatch, what):
    """A compressed archive is copied first: what goes wrong there is an ImageError, and leaves no file open."""
    place = layout(tmp_path / "layout", tar(*busybox()))
    first = [directory("blobs"), *(member(name, content=(place / name).read_bytes()) for name in ("oci-layout", "index.json"))]
    rest = [member(str(path.relative_to(place)), content=path.read_bytes()) for path in place.glob("blobs/*/*")]
    packed = gzip.compress(tar(*first, *rest))
    path = image(data, packed[:-2000] if what == "truncated" else packed, tmp_path, "image.tgz")
    if what == "full disk":
        real = os.write

        def write(fd: int, raw: bytes) -> int:
            if "/ingest/" in os.readlink(f"/proc/self/fd/{fd}"):
                raise OSError(28, "No space left on device")
            return real(fd, raw)

        monkeypatch.setattr(os, "write", write)
    before = descriptors()
    with pytest.raises(hutch.ImageError, match="broken" if what == "truncated" else "No space left"):
        hutch.run(path, ["true"])
    assert descriptors() == before and kept(data) == [] and not list(data.glob("content/*/*"))


def test_what_is_remembered_of_a_file(data, tmp_path, way):
    """What a file holds is remembered by its identity: a changed one is read again, a damaged note is none."""
    path = image(data, tar(*busybox(), member("etc/which", content=b"first")), tmp_path)
    run = ["cat", "/etc/which"]
    assert hutch.run(path, run).stdout == hutch.run(path, run).stdout == "first"
    for note in list(data.glob("files/*")):
        for text in ("", "rootfs", "rootfs sha256:12", f"image sha256:{BAD}", f"rootfs sha256:{BAD}", "rootfs ../../etc", "\xff", "\0" * 60):
            note.write_bytes(text.encode("latin-1"))
            assert hutch.run(path, run).stdout == "first", text
    image(data, tar(*busybox(), member("etc/which", content=b"other")), tmp_path)
    assert hutch.run(path, run).stdout == "other"


def test_openat2_is_what_resolves():
    """The unpacker's promise rests on the kernel's RESOLVE_IN_ROOT; without it nothing may be unpacked."""
    with pytest.raises(OSError):
        root = os.open("/var/tmp", os.O_PATH)
        try:
            syscalls.openat2(root, "../../etc/passwd", os.O_RDONLY, 0, syscalls.RESOLVE_BENEATH)
        finally:
            os.close(root)
