"""Layers as the kernel shows them: a tar mounted through its index is what GNU tar unpacks."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import os
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.image.layers.erofs import writer
from hutch.image.layers.tree import Tree
from hutch.image.tar.reader import Reader
from tests.images import END, base256, debian_tar, entry, extended, header, padded, record  # noqa: F401

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")]
LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MNT_DETACH = 1, 2
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C"}


@contextlib.contextmanager
def mounted(source: str, place: Path, kind: str, options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    if LIBC.mount(source.encode(), bytes(place), kind.encode(), MS_RDONLY, options.encode()):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), kind)
    try:
        yield place
    finally:
        if LIBC.umount2(bytes(place), 0):
            LIBC.umount2(bytes(place), MNT_DETACH)


@contextlib.contextmanager
def index_of(tar: Path, name: str = "layer") -> Iterator[Path]:
    """The tar mounted through its index, beside it."""
    tree = Tree()
    reader = Reader(tree)
    with open(tar, "rb") as file:
        while piece := file.read(1 << 20):
            reader.feed(piece)
        reader.close()
        image = writer.index(tree.root, file.tell(), lambda offset, length: os.pread(file.fileno(), length, offset))
    source = tar.parent / f"{name}.index"
    source.write_bytes(image)
    with mounted(str(source), tar.parent / name, "erofs", f"device={tar}") as place:
        yield place


@pytest.fixture(scope="module", autouse=True)
def erofs() -> None:
    """Skip where this kernel cannot mount an index from a file."""
    place = Path(tempfile.mkdtemp(prefix="hutch-erofs-", dir="/var/tmp"))
    try:
        (place / "tar").write_bytes(END)
        with index_of(place / "tar"):
            pass
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENOTBLK, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP):
            pytest.skip(f"cannot mount EROFS from a file: {error}")
        raise
    finally:
        shutil.rmtree(place)


@pytest.fixture
def place():
    """A directory on a file system that holds every attribute and every name, which pytest may not be able to remove."""
    made = Path(tempfile.mkdtemp(prefix="hutch-erofs-", dir="/var/tmp"))
    yield made
    subprocess.run(["rm", "-rf", "--one-file-system", str(made)], check=True)


def gnu_tar(*words: str | Path) -> None:
    """Run GNU tar, which need not tell what it thinks of old files."""
    subprocess.run(["tar", "--warning=no-timestamp", "--numeric-owner", *words], check=True, env=ENVIRONMENT, timeout=60)


def pack(top: Path, tar: Path, *options: str) -> Path:
    gnu_tar("-c", "-f", tar, "-C", top, *options, ".")
    return tar


def unpack(tar: Path, into: Path) -> Path:
    into.mkdir()
    gnu_tar("-x", "-p", "-f", tar, "-C", into, "--same-owner", "--xattrs", "--xattrs-include=*")
    return into


def digest(file: int, size: int) -> str:
    """Of a file's content; of a huge one some of it."""
    found = hashlib.sha256()
    parts = [(at, 1 << 20) for at in range(0, size, 1 << 20)] if size <= 1 << 27 else [(0, 1 << 20), (size // 2 - 4096, 8192), (size - 4096, 4096)]
    for at, length in parts:
        found.update(os.pread(file, length, at))
    return found.hexdigest()


def listing(top: Path) -> dict[bytes, tuple[object, ...]]:
    """All that stat(2), readlink(2), read(2) and getxattr(2) tell, and which names are of one file."""
    found: dict[bytes, tuple[object, ...]] = {}
    names: dict[int, list[bytes]] = {}
    left = [b"."]
    while left:
        path = left.pop()
        full = os.path.join(bytes(top), path)
        info = os.lstat(full)
        what: object = None
        if stat.S_ISDIR(info.st_mode):
            left += [os.path.join(path, name) for name in os.listdir(full)]
        elif stat.S_ISREG(info.st_mode):
            fd = os.open(full, os.O_RDONLY)
            what = (info.st_size, digest(fd, info.st_size))
            os.close(fd)
        elif stat.S_ISLNK(info.st_mode):
            what = (os.readlink(full), info.st_size)
        elif not stat.S_ISFIFO(info.st_mode):
            what = (os.major(info.st_rdev), os.minor(info.st_rdev))
        attributes = {
            name: os.getxattr(full, name, follow_symlinks=False)
            for name in os.listxattr(full, follow_symlinks=False)
            if name.startswith(("user.", "security.")) and not name.startswith("user.overlay.")
        }
        names.setdefault(info.st_ino, []).append(path)
        found[path] = (oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, info.st_nlink, what, attributes, names[info.st_ino])
    return {path: (*row[:-1], sorted(row[-1])) for path, row in found.items()}


def same(tar: Path) -> dict[bytes, tuple[object, ...]]:
    """That the mounted index is what GNU tar unpacks; all of it."""
    wanted = listing(unpack(tar, tar.parent / "unpacked"))
    with index_of(tar) as layer:
        found = listing(layer)
    shutil.rmtree(tar.parent / "unpacked")
    assert found.keys() == wanted.keys()
    for path, row in wanted.items():
        assert found[path] == row, path
    return found


def write(path: Path, pieces: list[tuple[int, bytes]], size: int) -> None:
    with open(path, "wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)


@pytest.fixture(scope="module")
def nasty() -> Iterator[Path]:
    """A directory of everything that a file system can hold."""
    top = Path(tempfile.mkdtemp(prefix="hutch-nasty-", dir="/var/tmp"))
    noise = random.Random(3)
    base = bytes(top)
    names = [
        b"plain", b"\xff\xfe\x80", b"new\nline", b"n" * 255, b"a\\b", b" ", b"-rf", b"'\"$`", bytes(range(1, 47)), b"long/" + b"d" * 200 + b"/" + b"f" * 200,
        b"deep/" * 300 + b"end", b"x" * 99 + b"/y" * 80, b"p" * 154 + b"/" + b"q" * 100, "grün".encode(), b"...", b"..x", b"!", b"\x7f",
    ]  # fmt: skip
    for number, name in enumerate(names):
        path = os.path.join(base, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(noise.randbytes(noise.choice([0, 1, 511, 512, 513, 4095, 4096, 4097, 70_000])))
        os.chown(path, number * 1000, 2**31 + number)
        os.chmod(path, [0o644, 0o4755, 0, 0o2711, 0o1777, 0o6555][number % 6])
    for number in (1, 30, 255, 256, 257, 1500):
        (top / f"dir{number}").mkdir(mode=[0o755, 0o1777, 0o2770, 0o500][number % 4])
        for entry_ in range(number):
            (top / f"dir{number}" / f"{'e' * (entry_ % 40)}{entry_}").touch()
    (top / "empty").mkdir()
    os.symlink("plain", top / "link")
    os.symlink("/nowhere/" + "t" * 4000, top / "long-link")
    for length in (1, 440, 447, 448, 449, 511, 512, 513, 1024):
        os.symlink("t" * length, top / f"link{length}")
    os.symlink(b"\xff\n", os.path.join(base, b"odd-link"))
    os.link(top / "plain", top / "plain2")
    os.link(top / "plain", top / "dir30/plain3")
    os.link(top / "link", top / "link2", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(4095, (1 << 20) - 1))
    os.chown(top / "link", 5, 6, follow_symlinks=False)
    page = noise.randbytes(4096)
    write(top / "sparse", [(0, page), (65536, page * 2), (1 << 19, page), (1 << 20, page[:700])], 1 << 20 | 700)
    write(top / "sparse-hole-at-end", [(8192, page)], 1 << 21)
    write(top / "sparse-many", [(i << 16, page) for i in range(60)], (60 << 16) + 5)
    write(top / "sparse-odd", [(4096 * i + 512 * (i % 3), noise.randbytes(512)) for i in range(0, 50, 3)], 300_001)
    write(top / "hole", [], 1_234_567)
    write(top / "huge-hole", [(1 << 33, b"x" * 4096)], (1 << 34) + 1)
    os.link(top / "sparse-odd", top / "sparse-odd2")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    (top / "ping").write_bytes(b"\x7fELF" * 999)
    os.chmod(top / "ping", 0o755)
    os.setxattr(top / "ping", "security.capability", capability)
    for name, value in (
        ("user.empty", b""),
        ("user.binary", bytes(range(256))),
        ("user.a=b%3D", b"\n"),
        ("user." + "n" * 250, b"x"),
        ("user.big", noise.randbytes(1500)),
    ):
        os.setxattr(top / "ping", name, value)
    for number in range(70):
        path = top / f"attribute{number}"
        path.write_bytes(b"y" * number)
        os.setxattr(path, "user.a", b"v" * (number * 8 + 1))
        os.symlink("t" * (400 + number), top / f"attribute-link{number}")
    os.setxattr(top / "empty", "user.of-a-directory", b"1")
    os.setxattr(top, "user.of-the-root", b"1")
    os.chmod(top, 0o1751)
    for here, below, files in os.walk(base, topdown=False):
        for name in [*below, *files]:
            moment = noise.choice([0, 1, -1, -86400 * 10**9 - 1, 1_700_000_000_123_456_789, 2**33 * 10**9 + 999_999_999]) + noise.randrange(10**9)
            os.utime(os.path.join(here, name), ns=(0, moment), follow_symlinks=False)
    os.utime(top, ns=(0, 1_600_000_000_000_000_001))
    yield top
    subprocess.run(["rm", "-rf", "--one-file-system", str(top)], check=True)


ATTRIBUTES = ["--xattrs", "--xattrs-include=user.*", "--xattrs-include=security.*"]
PACKED = {
    "pax": ["--format=pax", *ATTRIBUTES], "pax sparse": ["--format=pax", "--sparse", *ATTRIBUTES], "pax sparse 0.0": ["--format=pax", "--sparse", "--sparse-version=0.0"],
    "pax sparse 0.1": ["--format=pax", "--sparse", "--sparse-version=0.1"], "pax raw holes": ["--format=pax", "--sparse", "--hole-detection=raw"], "gnu sparse": ["--format=gnu", "--sparse"],
    "oldgnu, a label": ["--format=oldgnu", "--sparse", "--label=x"], "gnu, of an incremental dump": ["--format=gnu", "--sparse", "--listed-incremental=SNAPSHOT"],
}  # fmt: skip


@pytest.mark.parametrize("options", PACKED)
def test_what_gnu_tar_packs_and_unpacks(nasty, place, options):
    words = [word.replace("SNAPSHOT", str(place / "snapshot")) for word in PACKED[options]]
    if options in ("pax", "pax raw holes"):
        words += ["--anchored", "--exclude=./huge-hole"]  # which would be read
    found = same(pack(nasty, place / "tar", *words))
    assert len(found) > 2400
    if options == "pax sparse":
        assert found == listing(nasty), "and it is what was packed"


def archive(*members: tuple[str, bytes, bytes | str], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A layer: (name, kind, content or target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as made:
        for name, kind, what in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if isinstance(what, str):
                info.linkname = what
            else:
                info.size = len(what)
            made.addfile(info, io.BytesIO(what if isinstance(what, bytes) else b""))
    return buffer.getvalue()


F, D, L, H = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
ODD = {
    "no parents": archive(("a/b/c", F, b"x"), ("d/e", L, "x")),
    "a parent at the end": archive(("a/b/c", F, b"x"), ("a/b", D, b""), ("a", D, b"")),
    "a name twice": archive(("a", F, b"x"), ("a", F, b"yy"), ("h", H, "a"), ("a", F, b"zzz")),
    "a directory over a link": archive(("d", D, b""), ("a", L, "d"), ("a", D, b""), ("a/f", F, b"x")),
    "through a link": archive(("d", D, b""), ("l", L, "d"), ("l/f", F, b"x"), ("l/h", H, "l/f")),
    "dots and slashes": archive(("././a//b/./c", F, b"x"), ("a/b/", D, b"")),
    "old numbers": header(b"f", uid=b"    12 \0", gid=b"12\0", mtime=b"         17 ", size=b"          3 ") + padded(b"abc") + END,
    "base 256": header(b"f", mtime=base256(-5, 12), uid=base256(2**31, 8), size=base256(3, 12)) + padded(b"abc") + END,
    "v7": header(b"d/", b"\0", magic=bytes(8), mode=0o750) + entry(b"d/f", b"x", kind=b"\0", magic=bytes(8)) + END,
    "no end": entry(b"f", b"x" * 513),
    "one block at its end, and garbage": entry(b"f", b"x") + bytes(512) + b"garbage" * 1000,
    "sizes of what has none": header(b"d", b"5", 999, mode=0o755) + header(b"l", b"2", 999, link=b"x") + entry(b"f", b"x") + END,
    "a device larger than old numbers": header(b"c", b"3", mode=0o600, major=0xFFF, minor=0xFFFFF) + END,
    "a long name that a slash cuts": archive(("a" * 99 + "/" + "b" * 160 + "/" + "c" * 120, F, b"content")),
    "a global header": extended({b"mtime": b"5.25", b"uid": b"77"}, b"g") + entry(b"f", b"x") + extended({b"uid": b"78"}) + entry(b"g", b"y") + END,
    "a sparse file off the blocks": extended({b"GNU.sparse.size": b"100000", b"GNU.sparse.numblocks": b"4", b"GNU.sparse.map": b"1,512,1024,512,9001,1024,99999,1"})
    + entry(b"s", b"a" * 512 + b"b" * 512 + b"h" * 1024 + b"i") + END,
    "a sparse file whose pieces touch": extended({b"GNU.sparse.size": b"8192", b"GNU.sparse.numblocks": b"4", b"GNU.sparse.map": b"0,512,512,512,4096,1024,5120,3072"})
    + entry(b"s", bytes(range(256)) * 20) + END,
    "nothing": END,
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_archives(place, name):
    (place / "tar").write_bytes(ODD[name])
    wanted = unpack(place / "tar", place / "unpacked")
    with index_of(place / "tar") as layer:
        found = listing(layer)
    expected = listing(wanted)
    assert found.keys() == expected.keys()
    made = {"no parents": {b"./a", b"./a/b", b"./d"}, "dots and slashes": {b"./a"}, "through a link": {b"./d"}}.get(name, set())
    for path, row in expected.items():
        if path != b"." and path not in made and not ("cuts" in name and row[5] is None):  # what tar makes or touches has this moment's time
            assert found[path] == row, path


def test_debian(debian_tar, place):  # noqa: F811
    """A real root file system."""
    (place / "tar").symlink_to(debian_tar)
    found = same(place / "tar")
    assert len(found) > 5000 and b"./etc/debian_version" in found


def test_reading_in_every_way(nasty, place):
    """Read by small pieces, at random places, through mmap, and by many at once: the content is the same."""
    import mmap

    pack(nasty, place / "tar", "--format=pax", "--sparse")
    noise = random.Random(5)
    with index_of(place / "tar") as layer:
        for name in ("sparse", "sparse-many", "sparse-odd", "ping", "sparse-hole-at-end"):
            with open(nasty / name, "rb") as real, open(layer / name, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                assert size == os.fstat(real.fileno()).st_size
                with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                    for _ in range(200):
                        at, length = noise.randrange(min(size, 1 << 21)), noise.choice([1, 511, 512, 513, 5000, 70_000])
                        wanted = os.pread(real.fileno(), length, at)
                        assert os.pread(file.fileno(), length, at) == wanted == mapped[at : at + length]
                assert os.pread(file.fileno(), 9, size - 5) == os.pread(real.fileno(), 9, size - 5)
        with open(layer / "huge-hole", "rb") as file:
            assert os.pread(file.fileno(), 3, (1 << 33) - 1) == b"\0xx" and os.fstat(file.fileno()).st_size == (1 << 34) + 1


def test_files_that_are_not_there(nasty, place):
    """Every lookup ends, with names that lie before, between and behind all others."""
    pack(nasty, place / "tar", "--format=pax", "--sparse")
    with index_of(place / "tar") as layer:
        for directory in (layer, *(layer / f"dir{number}" for number in (1, 30, 255, 256, 257, 1500)), layer / "empty"):
            for name in {b"\x01", b"00", b"zzzz", b"e", b"eeee", b"\xff" * 255, b"m", b"e" * 39 + b"!"} - set(os.listdir(bytes(directory))):
                assert not os.path.lexists(os.path.join(bytes(directory), name))
        with pytest.raises(NotADirectoryError):
            os.stat(layer / "ping/x")
        with pytest.raises(OSError, match="Read-only"):
            (layer / "new").touch()


def test_every_size_of_a_directory(place):
    """One more name, each time, around the ends of a block of 512 bytes and of a page."""
    members = [(f"{count}/{'n' * 20}{number:04}", F, b"") for count in (*range(10, 20), *range(110, 118)) for number in range(count)]
    (place / "tar").write_bytes(archive(*members, form=tarfile.USTAR_FORMAT))
    with index_of(place / "tar") as layer:
        for path in layer.iterdir():
            assert sorted(os.listdir(path)) == [f"{'n' * 20}{number:04}" for number in range(int(path.name))]
            assert all(os.path.exists(path / name) for name in os.listdir(path))


# Above each other

LOWER = archive(
    ("a", F, b"lower"), ("b", F, b"lower"), ("c", F, b"lower"), ("d/x", F, b"lower"), ("d/y", F, b"lower"), ("e/x", F, b"lower"), ("e/sub/y", F, b"lower"), ("g/x", F, b"lower"),
    ("h/x", F, b"lower"), ("i/x", F, b"lower"), ("k/x", F, b"lower"), ("l", L, "a"), ("m/x", F, b"lower"),
)  # fmt: skip
UPPER = archive(
    (".wh.a", F, b""), ("b", F, b"upper"), ("d/.wh.x", F, b""), ("d/z", F, b"upper"), ("e/z", F, b"upper"), ("e/.wh..wh..opq", F, b""), (".wh.g", F, b""), ("g/z", F, b"upper"), ("h/z", F, b"upper"),
    (".wh.h", F, b""), ("i", F, b"upper"), ("k", D, b""), (".wh.k", F, b""), (".wh.l", F, b""), (".wh.nothing", F, b""), ("m/z", F, b"upper"),
)  # fmt: skip
MERGED = {
    "b": "upper", "c": "lower", "d": None, "d/y": "lower", "d/z": "upper", "e": None, "e/z": "upper", "g": None, "g/z": "upper", "h": None, "h/z": "upper", "i": "upper", "k": None,
    "m": None, "m/x": "lower", "m/z": "upper",
}  # fmt: skip


@pytest.mark.parametrize("options", ["", ",userxattr"])
def test_whiteouts_under_overlayfs(place, options):
    """Files hidden, directories opaque, for a mount by root (trusted.*) and for one in a user namespace (user.*)."""
    with contextlib.ExitStack() as stack:
        lowers = []
        for name, raw in (("upper", UPPER), ("lower", LOWER)):
            (place / f"{name}.tar").write_bytes(raw)
            lowers.append(str(stack.enter_context(index_of(place / f"{name}.tar", name))))
        merged = stack.enter_context(mounted("overlay", place / "merged", "overlay", f"lowerdir={':'.join(lowers)}{options}"))
        found = {str(path.relative_to(merged)): path.read_text() if path.is_file() else None for path in merged.rglob("*")}
        assert found == MERGED
        for hidden in ("a", "d/x", "e/x", "e/sub", "g/x", "h/x", "k/x", "l", "nothing"):
            assert not os.path.lexists(merged / hidden)


def test_a_writable_overlay_over_an_index(place):
    """Copied up with its attributes, its links and its times; removed; a directory renamed."""
    raw = (
        extended({b"mtime": b"5.5", b"SCHILY.xattr.user.a": b"1"}) + entry(b"f", b"content", uid=7) + header(b"h", b"1", link=b"f") + entry(b"d/x", b"1") + END
    )
    (place / "tar").write_bytes(raw)
    for name in ("up", "work"):
        (place / name).mkdir()
    with index_of(place / "tar") as layer:
        (place / "merged").mkdir()
        options = f"lowerdir={layer},upperdir={place}/up,workdir={place}/work"
        assert LIBC.mount(b"overlay", bytes(place / "merged"), b"overlay", 0, options.encode()) == 0, os.strerror(ctypes.get_errno())
        try:
            path = place / "merged/f"
            assert os.getxattr(path, "user.a") == b"1"
            os.chmod(path, 0o600)
            info = os.stat(path)
            assert (info.st_mtime_ns, info.st_uid, path.read_text(), os.getxattr(path, "user.a")) == (5_500_000_000, 7, "content", b"1")
            (place / "merged/d/x").unlink()
            (place / "merged/d").rmdir()
            (place / "merged/d").mkdir()
            assert os.listdir(place / "merged/d") == [] and sorted(os.listdir(place / "merged")) == ["d", "f", "h"]
        finally:
            LIBC.umount2(bytes(place / "merged"), 0)


def test_programs_run_from_an_index(place):
    """Mapped and executed, from the tar as it lies there."""
    raw = entry(b"busybox", Path("/bin/busybox").read_bytes(), mode=0o755) + END
    (place / "tar").write_bytes(raw)
    with index_of(place / "tar") as layer:
        assert subprocess.run([layer / "busybox", "echo", "here"], capture_output=True, text=True, check=True).stdout == "here\n"


def test_the_largest_sparse_files(place):
    """Terabytes, at their ends and in the middle."""
    size = 1 << 43
    pieces = [(0, b"begin"), ((1 << 42) + 7, b"middle"), (size - 3, b"end")]
    body = record(b"GNU.sparse.size", b"%d" % size) + record(b"GNU.sparse.map", b",".join(b"%d,%d" % (at, len(data)) for at, data in pieces))
    aligned = record(b"GNU.sparse.size", b"%d" % size) + record(b"GNU.sparse.map", b"%d,512" % (1 << 42))
    raw = extended(body) + entry(b"s", b"".join(data for _, data in pieces)) + extended(aligned) + entry(b"t", b"x" * 512) + END
    (place / "tar").write_bytes(raw)
    with index_of(place / "tar") as layer:
        with open(layer / "s", "rb") as file:
            assert os.fstat(file.fileno()).st_size == size
            for at, data in pieces:
                assert os.pread(file.fileno(), len(data), at) == data
            assert os.pread(file.fileno(), 4096, 1 << 41) == bytes(4096) and os.pread(file.fileno(), 9, 3) == b"in" + bytes(7)
        with open(layer / "t", "rb") as file:
            assert os.pread(file.fileno(), 514, (1 << 42) - 1) == b"\0" + b"x" * 512 + b"\0"


@pytest.mark.skipif(not shutil.which("fsck.erofs"), reason="needs erofs-utils")
def test_the_tools_of_erofs_find_nothing_wrong(nasty, place):
    pack(nasty, place / "tar", "--format=pax", "--sparse", *ATTRIBUTES)
    with index_of(place / "tar"):
        done = subprocess.run(["fsck.erofs", f"--device={place}/tar", str(place / "layer.index")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
