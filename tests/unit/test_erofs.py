"""The index of a layer: what is written is what is read back, the same every time, and nothing that is damaged hurts."""

from __future__ import annotations

import hashlib
import random
import stat
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from hutch.errors import ImageError
from hutch.image.layers.erofs import format as disk, writer
from hutch.image.layers.erofs.reader import Index
from hutch.image.layers.tree import Node
from tests.images import BLOCK, DIRECTORY, END, FILE, LINK, Made, base256, bounded, entry, extended, header, index_of, node_of, small, tree_of


def whole(made: Made, node: Node) -> bytes:
    """A file's content, as the tree has it."""
    if node.sparse is None:
        return made.read(node.offset, node.size)
    out = bytearray(node.size)
    at = node.offset
    for offset, length in node.sparse:
        out[offset : offset + length] = made.read(at, length)
        at += length
    return bytes(out)


def opened(place: Path, image: bytes, tar: bytes = b"") -> Index:
    (place / "index").write_bytes(image)
    (place / "tar").write_bytes(tar)
    return Index(str(place / "index"), str(place / "tar"))


def compare(made: Made, index: Index) -> None:
    """That an index is the tree."""
    numbers: dict[int, int] = {}
    left = [(made.root, index.root)]
    while left:
        node, file = left.pop()
        wanted = {**node.xattrs, **({b"trusted.overlay.opaque": b"y", b"user.overlay.opaque": b"y"} if node.opaque else {})}
        assert (file.mode, file.uid, file.gid, file.mtime, file.xattrs) == (node.mode, node.uid, node.gid, node.mtime, wanted)
        assert numbers.setdefault(id(node), file.number) == file.number
        if node.children is not None:
            entries = index.entries(file)
            assert [name for name, _ in entries] == sorted(node.children)
            assert file.links == 2 + sum(child.children is not None for child in node.children.values())
            left += [(node.children[name], index.get(nid)) for name, nid in entries]
            continue
        assert file.links == node.links
        if stat.S_ISREG(node.mode):
            assert file.size == node.size and index.read(file) == whole(made, node)
        elif stat.S_ISLNK(node.mode):
            assert (index.target(file), file.size) == (node.target, len(node.target))
        elif stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            assert file.rdev == node.rdev
    assert len(set(numbers.values())) == len(numbers) == index.count


# What is written is what is read


TIMES = st.integers(-(2**62), 2**62)
OWNERS = st.integers(0, 2**32 - 2)
PARTS = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"!", b"-", b".x", b"..x", b"z" * 255, b"y" * 200]),
    st.binary(min_size=1, max_size=20).map(lambda n: n.replace(b"/", b"_").replace(b"\0", b"_")),
).filter(lambda n: n not in (b".", b".."))
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(b"/".join)
ATTRIBUTES = st.dictionaries(
    st.one_of(
        st.sampled_from([b"user.a", b"security.capability", b"user." + b"n" * 250]),
        st.binary(min_size=1, max_size=30).map(lambda n: b"user." + n.replace(b"\0", b"_")),
    ),
    st.one_of(st.binary(max_size=20), st.integers(0, 3000).map(lambda n: b"v" * n)),
    max_size=3,
)
FIELDS = st.fixed_dictionaries({"uid": OWNERS, "gid": OWNERS, "mtime": TIMES}, optional={"xattrs": ATTRIBUTES})


@st.composite
def maps(draw: st.DrawFn) -> tuple[tuple[tuple[int, int], ...], int]:
    """The pieces of a sparse file and its size: on blocks of some size or of none."""
    unit = draw(st.sampled_from([1, 7, 512, 1024, 4096, 65536]))
    at, found = 0, []
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=5)):
        at += gap * unit
        found.append((at, length * unit))
        at += length * unit
    end = draw(st.integers(0, 4)) * unit
    if found and not end and draw(st.booleans()):
        offset, length = found[-1]
        cut = draw(st.integers(0, length - 1))  # the last piece ends with the file, wherever
        found[-1], at = (offset, length - cut), at - cut
    return tuple(found), max(at + end, 1)


@st.composite
def trees(draw: st.DrawFn) -> Made:
    made = Made()
    for key, value in draw(FIELDS).items():
        setattr(made.root, key, value)
    made.root.opaque = draw(st.booleans())
    hard: list[Node] = []
    for path in draw(st.lists(PATHS, max_size=25, unique=True)):
        kind = draw(st.sampled_from(["file", "file", "sparse", "directory", "link", "device", "fifo", "hard", "many"]))
        fields = draw(FIELDS)
        mode = draw(st.integers(0, 0o7777))
        if kind == "file":
            size = draw(st.sampled_from([0, 1, 511, 512, 513, 5000]))
            hard.append(made.file(path, bytes([len(made.tar) // BLOCK % 251]) * size, mode=stat.S_IFREG | mode, **fields))
        elif kind == "sparse":
            pieces, size = draw(maps())
            hard.append(
                made.file(
                    path,
                    b"".join(bytes([n % 255 + 1]) * length for n, (_, length) in enumerate(pieces)),
                    pieces,
                    size,
                    draw(st.sampled_from([0, 0, 3])),
                    **fields,
                )
            )
        elif kind == "link":
            hard.append(made.put(path, node_of(LINK, target=b"t" * draw(st.sampled_from([1, 100, 447, 448, 449, 512, 1024, 4095])), **fields)))
        elif kind == "device":
            rdev = (draw(st.integers(0, 0xFFF)), draw(st.integers(0, 0xFFFFF)))
            hard.append(made.put(path, node_of(draw(st.sampled_from([stat.S_IFCHR, stat.S_IFBLK])) | mode, rdev=rdev, **fields)))
        elif kind == "fifo":
            made.put(path, node_of(stat.S_IFIFO | mode, **fields))
        elif kind == "hard" and hard and hard[-1].children is None:
            node = draw(st.sampled_from(hard))
            if node.children is None and made.put(path, node) is node:
                node.links += 1
        elif kind == "many":
            pattern = draw(st.sampled_from([b"%d", b"%05d", b"%0100d", b"%0255d"]))
            for number in range(draw(st.integers(0, 120))):
                made.put(path + b"/" + pattern % number, node_of(FILE))
        else:
            made.directory(path)
    counted: dict[int, int] = {}
    left = [made.root]
    while left:
        for child in (left.pop().children or {}).values():
            counted[id(child)] = child.links = counted.get(id(child), 0) + 1
            left.append(child)
    return made


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large])
@given(made=trees())
def test_a_tree_comes_back(tmp_path, made):
    with opened(tmp_path, made.index(), made.tar) as index:
        compare(made, index)


@pytest.mark.parametrize("length", [1, 2, 17, 100, 231, 232, 233, 243, 244, 245, 254, 255])
def test_directories_of_every_size(tmp_path, length):
    """Names of one length, one more of them each time, past the ends of blocks; a directory may fit beside its inode or not."""
    made = Made()
    for count in range(90 if length < 100 else 12):
        for number in range(min(count, 10**length)):
            made.put(b"%d/%0*d" % (count, length, number), node_of(FILE))
    with opened(tmp_path, made.index(), made.tar) as index:
        compare(made, index)


@pytest.mark.parametrize("before", range(0, 520, 4))
def test_inodes_beside_the_ends_of_blocks(tmp_path, before):
    """Attributes push what follows along, to where an inode, its inline data or its chunks would cross into the next block."""
    made = Made()
    made.put(b"a", node_of(FILE, xattrs={b"user.a": b"v" * before}))
    made.put(b"b", node_of(LINK, target=b"t" * 400, xattrs={b"user.b": b"w" * (before % 13)}))
    made.file(b"c", b"c" * 100, xattrs={b"user.c": b"w" * (before % 7)})
    made.file(b"d", b"d" * 5, ((1, 3), (4097, 2)), 9000, xattrs={b"user.d": b""})
    made.put(b"e/f", node_of(FILE))
    made.put(b"g", node_of(LINK, target=b"t" * 448))
    with opened(tmp_path, made.index(), made.tar) as index:
        compare(made, index)


def test_many_files(tmp_path):
    made = Made()
    for number in range(20_000):
        made.file(b"%d/%d" % (number % 7, number), b"x" * (number % 3), mtime=number * 10**9 + number)
    with opened(tmp_path, made.index(), made.tar) as index:
        compare(made, index)


def test_deep_directories(tmp_path):
    made = Made()
    children = made.root.children
    for _ in range(5000):
        children[b"d"] = node = Node(DIRECTORY)
        children = node.children
    with opened(tmp_path, made.index()) as index:
        compare(made, index)


def test_lookups(tmp_path):
    raw = entry(b"etc/passwd", b"root:x:0:0\n") + header(b"etc/link", b"2", link=b"passwd") + b"".join(header(b"many/%d" % i) for i in range(500)) + END
    with opened(tmp_path, index_of(raw), raw) as index:
        passwd = index.lookup(b"/etc//./passwd")
        assert (
            index.read(passwd) == b"root:x:0:0\n"
            and index.read(passwd, 5, 1) == b"x"
            and index.read(passwd, 9, 100) == b"0\n"
            and index.read(passwd, 100, 1) == b""
        )
        assert index.target(index.lookup(b"etc/link")) == b"passwd"
        assert index.lookup(b"") == index.lookup(b"/") == index.root
        assert all(index.lookup(b"many/%d" % i) for i in range(500))
        for path in (b"etc/passwd/x", b"etc/link/x", b"nothing", b"many/500", b"etc/..", b"many/" + b"x" * 5000, b"\0"):
            assert index.lookup(path) is None
        for wrong in (index.root, index.lookup(b"etc/link")):
            with pytest.raises(ImageError):
                index.read(wrong)
        with pytest.raises(ImageError):
            index.entries(passwd)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=maps(), begin=st.integers(0, 70_000), length=st.integers(-1, 70_000), skew=st.sampled_from([0, 1]))
def test_parts_of_sparse_files(tmp_path, found, begin, length, skew):
    made = Made()
    pieces, size = found
    node = made.file(b"s", b"".join(bytes([n % 255 + 1]) * count for n, (_, count) in enumerate(pieces)), pieces, size, skew)
    with opened(tmp_path, made.index(), made.tar) as index:
        assert index.read(index.lookup(b"s"), begin, length) == whole(made, node)[begin : begin + length if length >= 0 else None]


def test_content_stays_in_the_tar():
    """What lies on blocks is named where it lies, and a hole costs nothing."""
    made = Made()
    made.file(b"large", b"x" * (8 << 20))
    made.file(b"sparse", b"y" * (4 << 20), tuple((i << 21, 1 << 20) for i in range(4)), 1 << 33)
    made.file(b"hole", b"", (), 1 << 40)
    made.file(b"tail", b"z" * 700, ((1 << 20, 700),), (1 << 20) + 700)
    assert len(made.index()) < 150_000


def test_the_tar_must_hold_what_the_tree_says():
    made = Made()
    made.file(b"f", b"x" * 600)
    for size in (0, 512, 599):
        with pytest.raises(ImageError, match="beyond its end"):
            writer.index(made.root, size, made.read)
    made = Made()
    made.file(b"s", b"x" * 4096, ((4096, 4096),), 8192)
    made.file(b"t", b"x" * 4096, ((4095, 4096),), 8192)
    for size in (0, 512, 4095, 8191):
        with pytest.raises(ImageError):
            writer.index(made.root, size, made.read)


# The same every time


def test_golden():
    """The format of a store's indexes: whoever changes it changes the number that they are kept under."""
    assert hashlib.sha256(small()).hexdigest() == "b66a6e71f421c8969f2951964011e616fc61787f5f6ba088a95d06bf5c1c4964"
    assert hashlib.sha256(index_of(small())).hexdigest() == "cfbe3f965e9c1cfedfb754a08e955554ab9cef30239a7b0d3ba785c1ad478521"


def test_the_same_tree_gives_the_same_bytes():
    assert index_of(small()) == index_of(small())
    assert bounded("import hashlib\nprint(hashlib.sha256(index_of(small())).hexdigest())") == hashlib.sha256(index_of(small())).hexdigest()


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_members_does_not_matter(noise):
    """As long as a directory's description comes, a link's target before it, and nothing has content: that lies elsewhere then."""
    found = [
        header(b"./", b"5", mtime=1), header(b"a/", b"5", mode=0o700), header(b"a/b/", b"5", mtime=7), header(b"a/b/f", mode=0o600), header(b"a/.wh.gone"), header(b"a/b/.wh..wh..opq"),
        header(b"l", b"2", link=b"elsewhere"), header(b"c", b"3", major=1, minor=3), extended({b"SCHILY.xattr.user.b": b"2", b"SCHILY.xattr.user.a": b"1"}) + header(b"x"), header(b"p", b"6"),
        header(b"h0") + header(b"h1", b"1", link=b"h0"), *(header(b"many/%d" % number) for number in range(50)),
    ]  # fmt: skip
    wanted = index_of(b"".join(found) + END)
    noise.shuffle(found)
    assert index_of(b"".join(found) + END) == wanted


def test_attributes_of_any_order():
    one, two = (
        extended(dict(found)) + header() + END
        for found in ([(b"SCHILY.xattr.user.a", b"1"), (b"SCHILY.xattr.user.b", b"2")], [(b"SCHILY.xattr.user.b", b"2"), (b"SCHILY.xattr.user.a", b"1")])
    )
    assert one != two and index_of(one) == index_of(two)


def test_the_tag_is_beside_the_device():
    image = Made().index(b"sha256:" + b"f" * 64)
    assert image[disk.DEVICE_OFFSET : disk.DEVICE_OFFSET + 64] == b"sha256:" + b"f" * 57
    assert Made().index()[disk.DEVICE_OFFSET : disk.DEVICE_OFFSET + 64] == bytes(64)


# Limits


@pytest.mark.parametrize("size", [(1 << 44) + 1, 1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 90])
def test_files_that_no_file_system_holds(size):
    for pieces in ((), ((0, 1),), ((0, 512),), ((size - 1, 1),)):
        made = Made()
        made.file(b"s", b"x" * sum(length for _, length in pieces), pieces, size)
        with pytest.raises(ImageError):
            made.index()


@pytest.mark.parametrize("size", [1 << 40, (1 << 40) + 1, (1 << 42) + 511, (1 << 44) - 1, 1 << 44])
def test_the_largest_files(tmp_path, size):
    made = Made()
    made.file(b"hole", b"", (), size)
    made.file(b"begin", b"b" * 512, ((0, 512),), size)
    made.file(b"end", b"e", ((size - 1, 1),), size)
    with opened(tmp_path, made.index(), made.tar) as index:
        for name, place, wanted in (
            (b"hole", size - 3, bytes(3)),
            (b"begin", 510, b"bb\0"),
            (b"end", size - 3, b"\0\0e"),
            (b"begin", size // 2, bytes(3)),
            (b"end", size // 2, bytes(3)),
        ):
            file = index.lookup(name)
            assert file.size == size and index.read(file, place, 3) == wanted, name


def test_a_file_of_more_than_a_chunk_can_name(tmp_path):
    """A tar of terabytes is not made here; its numbers are. What the format has no number for is refused."""
    for offset, size in (
        (512, 1 << 40),
        (512, (1 << 40) + 512),
        (512, 1 << 43),
        (1 << 40, 1 << 20),
        ((1 << 41) - 512, 512),
        (1 << 41, 512),
        (1 << 44, 512),
        (1 << 62, 512),
    ):
        made = Made()
        node = made.file(b"f", b"x")
        node.offset, node.size = offset, size
        try:
            image = writer.index(made.root, offset + size, made.read)
        except ImageError:
            continue
        with opened(tmp_path, image) as index:
            file = index.lookup(b"f")
            chunk = BLOCK << (file.union & disk.CHUNK_BITS_MASK)
            assert file.union & ~disk.CHUNK_BITS_MASK == disk.CHUNK_INDEXES and file.size == size
            table = (file.place + 7) // 8 * 8
            for number in range(-(-size // chunk)):
                _, device, block = disk.CHUNK.unpack_from(image, table + number * disk.CHUNK.size)
                assert (device, block * BLOCK) == (disk.TAR_DEVICE, offset + number * chunk) and block != disk.HOLE


BOMBS = {
    "a quarter of a terabyte of unaligned bytes": "spread(1 << 38, 1000)",
    "sixteen terabytes": "spread(1 << 44, 1000)",
    "half a million unaligned pieces": "spread(1 << 40, 1 << 19)",
    "half a million pieces beside each other": "spread(1 << 30, 1 << 19, 1, 2)",
    "a piece in every block": "spread(1 << 30, 1 << 17, 512, 8192)",
    "a piece in every block of a terabyte": "spread(1 << 40, 1 << 17, 512)",
}
MANY = """
made = Made()
for i in range({count}):
    made.file(b"%d" % i, b"", {pieces}, {size})
"""
MANY_BOMBS = {
    "thousands of huge holes": (5000, (), 1 << 44),
    "thousands of huge files, a block each at their ends": (5000, (((1 << 43), 512),), (1 << 44) - 512),
    "thousands of huge files, a byte each": (5000, ((1, 1),), 1 << 44),
    "thousands of large files in small blocks": (5000, ((512, 512),), 1 << 31),
    "eight exabytes each": (5000, ((512, 512),), 1 << 63),
}
RUN = """
{build}
made.tar += bytes(1024)
try:
    print("fits" if len(made.index()) < 600 << 20 else "large")
except ImageError:
    print("ImageError")
"""


@pytest.mark.parametrize("name", [*BOMBS, *MANY_BOMBS])
def test_sparse_bombs(name):
    """A refusal, or an index that is not large: soon, and in less than 1.5 GiB."""
    if name in BOMBS:
        build = f"made = {BOMBS[name]}"
    else:
        count, pieces, size = MANY_BOMBS[name]
        build = MANY.format(count=count, pieces=pieces, size=size)
    assert bounded(RUN.format(build=build), 5, memory=3 << 29) in ("fits", "ImageError")


@pytest.mark.parametrize("gigabytes", [1, 64, 4096])
def test_much_that_would_have_to_be_copied(gigabytes):
    """Refused before its pieces are looked at one by one."""
    build = f"made = Made()\nmade.file(b's', b'', ((1, {gigabytes << 30}),), {(gigabytes << 30) + 1})\nmade.read = lambda offset, length: bytes(length)"
    assert bounded(RUN.format(build=build), memory=3 << 29) == "ImageError"


def test_attributes_beyond_the_format():
    made = Made()
    made.put(b"f", node_of(FILE, xattrs={b"user.%d" % i: b"v" * 60_000 for i in range(5)}))
    with pytest.raises(ImageError, match="256 KiB"):
        made.index()


def test_attributes_up_to_the_format(tmp_path):
    made = Made()
    made.put(b"f", node_of(FILE, xattrs={b"user." + b"n" * 250: b"v" * 65535, **{b"user.%d" % i: b"v" * 65_000 for i in range(2)}}))
    made.put(b"g", node_of(DIRECTORY, xattrs={b"security.capability": b"x" * 20}))
    with opened(tmp_path, made.index()) as index:
        compare(made, index)


@pytest.mark.parametrize("kind", [b"3", b"4"])
@pytest.mark.parametrize("rdev", [(0x1000, 0), (0, 1 << 20), (2**54, 2**54), (-1, -1), (1, -1)])
def test_devices_beyond_the_format_become_no_others(kind, rdev):
    """Least of all (0, 0), which hides what lower layers have."""
    with pytest.raises(ImageError):
        index_of(header(b"c", kind, major=base256(rdev[0], 8), minor=base256(rdev[1], 8)) + END)


# Damaged indexes


def walk(index: Index) -> int:
    """Use everything, each inode once; how many there were. Only an ImageError may come out of any of it."""
    seen: set[int] = set()
    try:
        left = [index.root]
    except ImageError:
        return 0
    while left and len(seen) < 3000:
        file = left.pop()
        for use in (
            index.entries,
            index.target,
            lambda f: index.read(f, 0, 1 << 20),
            lambda f: index.read(f, max(f.size - 10, 0), 1 << 20),
            lambda f: f.rdev,
            repr,
        ):
            try:
                found = use(file)
            except ImageError:
                continue
            if isinstance(found, list):
                for name, nid in found:
                    assert type(name) is bytes
                    if nid not in seen:
                        seen.add(nid)
                        try:
                            left.append(index.get(nid))
                        except ImageError:
                            pass
    for path in (b"etc/passwd", b"many/010", b"var/aligned", b"bin/ping/x", b"etc/" * 300):
        try:
            index.lookup(path)
        except ImageError:
            pass
    return len(seen)


def check(place: Path, image: bytes, tar: bytes) -> None:
    begun = time.process_time()
    try:
        index = opened(place, image, tar)
    except ImageError:
        return
    with index:
        walk(index)
    assert time.process_time() - begun < 5


def test_the_walk_walks(tmp_path):
    with opened(tmp_path, index_of(small()), small()) as index:
        assert walk(index) == index.count - 1


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 0x1F, 0x20, 0x3F, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 2**32), st.sampled_from("BHIQ"), NUMBERS), min_size=1, max_size=12))
def test_fuzz_of_changed_indexes(tmp_path, changes):
    image = bytearray(index_of(small()))
    for place, form, value in changes:
        number = struct.Struct(f"<{form}")
        number.pack_into(image, 1024 + place % (len(image) - 1024 - 8), value % (1 << 8 * number.size))
    check(tmp_path, bytes(image), small())


def test_every_byte_of_an_index(tmp_path):
    raw = small(2)
    image = index_of(raw)
    noise = random.Random(7)
    for place in range(disk.SUPER_OFFSET, len(image)):
        if image[place] or noise.random() < 0.02:
            check(tmp_path, image[:place] + bytes([image[place] ^ noise.choice([1, 0x80, 0xFF])]) + image[place + 1 :], raw)


def test_cut_indexes(tmp_path):
    image = index_of(small())
    for size in [*range(0, 2048, 64), *range(2048, len(image), 200)]:
        check(tmp_path, image[:size], small())
    for size in (0, 1, 1023, 1151):
        with pytest.raises(ImageError, match="is no index"):
            opened(tmp_path, image[:size])
    for wrong in (bytes(4096), b"x" * 4096, small()):
        with pytest.raises(ImageError, match="is no index"):
            opened(tmp_path, wrong)


@example(raw=b"\xff" * 2048)
@given(raw=st.binary(max_size=2048))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_behind_the_superblock(tmp_path, raw):
    image = index_of(small())
    check(tmp_path, image[: disk.META] + raw, small())


def test_a_directory_that_holds_itself(tmp_path):
    image = bytearray(index_of(header(b"d/e", b"5") + END))
    with opened(tmp_path, bytes(image)) as index:
        inner = dict(index.entries(index.lookup(b"d")))[b"e"]
    place = bytes(image).index(struct.pack("<Q", inner), disk.META)
    struct.pack_into("<Q", image, place, 48)  # the root
    with opened(tmp_path, bytes(image)) as index:
        assert index.lookup(b"d/e/d/e/d") is not None and index.lookup(b"d/e/d/e/x") is None


@pytest.mark.parametrize(
    ("block", "bits", "size"),
    [(disk.HOLE, 0, 1 << 36), (disk.HOLE, 20, 1 << 50), (disk.HOLE, 31, (1 << 64) - 1), (1, 0, 1 << 36), (1, 20, 1 << 50), (1, 31, (1 << 64) - 1)],
)
def test_a_size_that_no_memory_holds(block, bits, size):
    """To read all of a file is to have it in memory: what cannot be there is refused, not tried."""
    code = f"""
import os, tempfile
from hutch.image.layers.erofs import format as disk
from hutch.image.layers.erofs.reader import File, Index
file = File(number=1, mode=FILE, uid=0, gid=0, mtime=0, links=1, size={size}, union=disk.CHUNK_INDEXES | {bits}, layout=disk.CHUNKED, place=disk.META, xattrs={{}})
image = bytearray(Made().index() + bytes(1 << 16))
for i in range(5000):
    disk.CHUNK.pack_into(image, disk.META + 8 * i, 0, disk.TAR_DEVICE, {block})
with tempfile.TemporaryDirectory() as place:
    open(place + "/index", "wb").write(image)
    open(place + "/tar", "wb").write(bytes(5000 * 512))
    index = Index(place + "/index", place + "/tar")
    try:
        index.read(file)
    except ImageError:
        print("ImageError")
"""
    assert bounded(code) == "ImageError"


def test_a_tar_that_is_shorter_than_its_index_says(tmp_path):
    with opened(tmp_path, index_of(small()), small()[:4096]) as index, pytest.raises(ImageError, match="shorter"):
        index.read(index.lookup(b"bin/ping"))


def test_trees_of_archives_come_back(tmp_path):
    """The whole way, from an archive's bytes."""
    raw = small()
    tree = tree_of(raw)
    made = Made()
    made.root, made.tar = tree.root, bytearray(raw)
    with opened(tmp_path, index_of(raw), raw) as index:
        compare(made, index)
        assert index.read(index.lookup(b"var/aligned")) == b"a" * 512 + bytes(3584) + b"b" * 512 + bytes(9000 - 4608)
        assert index.read(index.lookup(b"var/unaligned")) == b"\0cd" + bytes(4997) + b"efg" + bytes(9000 - 5003)
        assert index.lookup(b"bin/ping") == index.lookup(b"bin/ping6") and index.lookup(b"bin/ping").links == 2
