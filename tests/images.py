"""Archives as bytes that no program writes, how the reader sees them, and a real root file system to try things on."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from hutch.image.layers.erofs import writer
from hutch.image.layers.tree import Node, Tree
from hutch.image.tar.header import REGULAR, Member
from hutch.image.tar.reader import Reader

REPO = Path(__file__).resolve().parent.parent  # not the conftest's: its import makes a directory, which a program of a test would leave
CACHE = REPO / ".cache"
BLOCK = 512
END = bytes(2 * BLOCK)
_PLACES = {"name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12), "kind": (156, 1), "link": (157, 100),
           "magic": (257, 8), "uname": (265, 32), "gname": (297, 32), "major": (329, 8), "minor": (337, 8), "prefix": (345, 155)}  # fmt: skip
POSIX, GNU = b"ustar\x0000", b"ustar  \0"


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def summed(block: bytes, signed: bool = False) -> bytes:
    """A header's block with its checksum."""
    blank = block[:148] + b" " * 8 + block[156:]
    total = sum(blank) - (256 * sum(byte > 127 for byte in blank) if signed else 0)
    return block[:148] + b"%06o\0 " % total + block[156:]


def header(
    name: bytes = b"f", kind: bytes = b"0", size: int | bytes = 0, *, mode: int | bytes = 0o644, at: dict[int, bytes] | None = None, **fields: int | bytes
) -> bytes:
    """One block: numbers in octal where they fit, else in base 256; bytes as they are; `at` overwrites what lies there."""
    values = {"uid": 0, "gid": 0, "mtime": 0, "magic": POSIX, "name": name, "kind": kind, "size": size, "mode": mode, **fields}
    block = bytearray(BLOCK)
    for key, value in values.items():
        place, length = _PLACES[key]
        if isinstance(value, int):
            octal = b"%0*o\0" % (length - 1, value) if value >= 0 else b""
            value = octal if 0 < len(octal) <= length else base256(value, length)
        assert len(value) <= length
        block[place : place + len(value)] = value
    for place, value in (at or {}).items():
        block[place : place + len(value)] = value
    return summed(bytes(block))


def base256(value: int, length: int) -> bytes:
    """A number as GNU tar writes it where octal digits are too few."""
    raw = bytearray(value.to_bytes(length, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def entry(name: bytes = b"f", content: bytes = b"", **fields: int | bytes) -> bytes:
    """A regular file."""
    return header(name, size=len(content), **fields) + padded(content)


def record(key: bytes, value: bytes) -> bytes:
    """A record of an extended header."""
    length = len(key) + len(value) + 3
    digits = len(str(length))
    while len(str(length + digits)) != digits:
        digits = len(str(length + digits))
    return b"%d %s=%s\n" % (length + digits, key, value)


def extended(body: bytes | dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header, before what it describes."""
    if isinstance(body, dict):
        body = b"".join(record(key, value) for key, value in body.items())
    return header(b"pax", kind, len(body)) + padded(body)


class Sink:
    """Keeps the members and their content."""

    def __init__(self, wants: bool = True) -> None:
        self.wants = wants
        self.members: list[Member] = []
        self.content: list[bytearray] = []

    def member(self, member: Member) -> None:
        self.members.append(member)
        self.content.append(bytearray())

    def data(self, piece: bytes) -> None:
        self.content[-1] += piece


def pieces(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The archive cut there."""
    places = [0, *sorted(cuts), len(raw)]
    return [raw[begin:end] for begin, end in zip(places, places[1:], strict=False)]


def parse(raw: bytes, cuts: Iterable[int] = (), wants: bool = True) -> Sink:
    """What the reader finds in an archive that is fed in pieces. Raises ImageError."""
    sink = Sink(wants)
    reader = Reader(sink)
    for piece in pieces(raw, cuts):
        reader.feed(piece)
    reader.close()
    return sink


def members(raw: bytes) -> dict[bytes, Member]:
    """The members by their names."""
    return {member.name: member for member in parse(raw).members}


def content(raw: bytes, member: Member) -> bytes:
    """A regular file's own bytes, from where the archive has them."""
    stored = raw[member.offset : member.offset + member.stored]
    assert member.kind == REGULAR and len(stored) == member.stored
    if member.sparse is None:
        return stored
    out = bytearray(member.size)
    at = 0
    for offset, length in member.sparse:
        out[offset : offset + length] = stored[at : at + length]
        at += length
    return bytes(out)


def tree_of(raw: bytes) -> Tree:
    tree = Tree()
    reader = Reader(tree)
    reader.feed(raw)
    reader.close()
    return tree


def index_of(raw: bytes) -> bytes:
    """An archive's index. Raises ImageError."""
    return writer.index(tree_of(raw).root, len(raw), lambda offset, length: raw[offset : offset + length])


def sparse_1_0(name: bytes, size: int, found: list[tuple[int, bytes]]) -> bytes:
    """GNU tar's newest form: the map before the content."""
    mapped = padded(b"%d\n" % len(found) + b"".join(b"%d\n%d\n" % (offset, len(data)) for offset, data in found))
    stored = mapped + b"".join(data for _, data in found)
    return extended({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": name, b"GNU.sparse.realsize": b"%d" % size}) + entry(
        b"GNUSparseFile.0/x", stored
    )


def sparse_0_0(name: bytes, size: int, found: list[tuple[int, bytes]]) -> bytes:
    """Its oldest: a record for every number."""
    body = record(b"GNU.sparse.size", b"%d" % size) + record(b"GNU.sparse.numblocks", b"%d" % len(found))
    body += b"".join(record(b"GNU.sparse.offset", b"%d" % offset) + record(b"GNU.sparse.numbytes", b"%d" % len(data)) for offset, data in found)
    return extended(body) + entry(name, b"".join(data for _, data in found))


def sparse_0_1(name: bytes, size: int, found: list[tuple[int, bytes]]) -> bytes:
    """The one between: a record for all of them."""
    line = b",".join(b"%d,%d" % (offset, len(data)) for offset, data in found)
    records = {b"GNU.sparse.size": b"%d" % size, b"GNU.sparse.numblocks": b"%d" % len(found), b"GNU.sparse.map": line, b"GNU.sparse.name": name}
    return extended(records) + entry(b"GNUSparseFile.0/x", b"".join(data for _, data in found))


def sparse_old(name: bytes, size: int, found: list[tuple[int, bytes]]) -> bytes:
    """Before pax: four pieces in the header, and blocks of 21 behind it."""
    numbers = [b"%011o\0%011o\0" % (offset, len(data)) for offset, data in found]
    stored = b"".join(data for _, data in found)
    at = {386: b"".join(numbers[:4]), 482: bytes([len(numbers) > 4]), 483: b"%011o\0" % size}
    blocks = [b"".join(numbers[i : i + 21]).ljust(504, b"\0") + bytes([i + 21 < len(numbers)]) + bytes(7) for i in range(4, len(numbers), 21)]
    return header(name, b"S", len(stored), magic=GNU, at=at) + b"".join(blocks) + padded(stored)


SPARSE = {"1.0": sparse_1_0, "0.0": sparse_0_0, "0.1": sparse_0_1, "old": sparse_old}


def small(many: int = 60) -> bytes:
    """A small archive of everything."""
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    pieces = b"".join(b"%d\n%d\n" % pair for pair in ((0, 512), (4096, 512)))
    sparse = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"var/aligned", b"GNU.sparse.realsize": b"9000"}
    return (
        header(b"./", b"5", mode=0o755, mtime=1)
        + header(b"etc/", b"5", mode=0o755, mtime=2)
        + entry(b"etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", mtime=3)
        + extended({b"mtime": b"4.5", b"SCHILY.xattr.security.capability": capability, b"SCHILY.xattr.user.a": b"1"})
        + entry(b"bin/ping", b"\x7fELF" * 300, mode=0o4755, uid=1000, gid=2**31)
        + header(b"bin/ping6", b"1", link=b"bin/ping")
        + header(b"bin/sh", b"2", link=b"dash", mtime=5)
        + header(b"dev/null", b"3", mode=0o666, major=1, minor=3)
        + header(b"run/pipe", b"6", mode=0o600)
        + header(b"etc/.wh.shadow")
        + header(b"opt/.wh..wh..opq")
        + b"".join(header(b"many/%03d" % number, mtime=number) for number in range(many))
        + extended(sparse)
        + entry(b"x", padded(b"2\n" + pieces) + b"a" * 512 + b"b" * 512)
        + extended({b"GNU.sparse.size": b"9000", b"GNU.sparse.map": b"1,2,5000,3"})
        + entry(b"var/unaligned", b"cdefg")
        + END
    )


FILE, DIRECTORY, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


class Made:
    """A tree under construction, and the tar that its content lies in."""

    def __init__(self) -> None:
        self.root = Node(DIRECTORY)
        self.tar = bytearray()

    def directory(self, path: bytes) -> dict[bytes, Node]:
        node = self.root
        for part in path.split(b"/") if path else ():
            node = node.children.setdefault(part, Node(DIRECTORY))
            if node.children is None:
                return {}
        return node.children

    def put(self, path: bytes, node: Node) -> Node:
        above, _, name = path.rpartition(b"/")
        children = self.directory(above)
        if name not in children:
            children[name] = node
        else:
            node = children[name]
        return node

    def file(self, path: bytes, content: bytes, pieces: tuple[tuple[int, int], ...] | None = None, size: int = 0, skew: int = 0, **fields: object) -> Node:
        """A regular file; of `pieces` it is sparse. `skew` moves its content off the tar's blocks, where only a sparse file's may lie."""
        self.tar += bytes(-len(self.tar) % BLOCK + skew)
        node = node_of(FILE, **fields)
        node.offset, node.size, node.sparse = len(self.tar), size or len(content), pieces
        self.tar += content
        return self.put(path, node)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.tar[offset : offset + length])

    def index(self, tag: bytes = b"") -> bytes:
        return writer.index(self.root, len(self.tar), self.read, tag)


def node_of(kind: int, **fields: object) -> Node:
    node = Node(kind)
    for key, value in fields.items():
        setattr(node, key, value)
    return node


def spread(size: int, pieces: int, length: int = 1, step: int | None = None) -> Made:
    made = Made()
    step = step or size // (pieces + 1)
    made.file(b"s", b"x" * (pieces * length), tuple((i * step, length) for i in range(pieces)), size)
    return made


def bounded(code: str, seconds: int = 8, memory: int = 512 << 20) -> str:
    """Run Python with little time and memory: what it printed, else how it failed."""
    limits = f"import resource as r; r.setrlimit(r.RLIMIT_AS, ({memory},) * 2); r.setrlimit(r.RLIMIT_CPU, ({seconds}, {seconds + 1}))\n"
    words = [sys.executable, "-c", f"{limits}from tests.images import *\nfrom hutch.errors import ImageError\n{code}"]
    environment = {**os.environ, "PYTHONPATH": f"{REPO}/src:{REPO}"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd="/", timeout=20 * seconds)
    return done.stdout.strip() if done.returncode == 0 else f"{done.returncode}: {done.stderr.strip()[-300:]}"


def make_debian() -> Path:
    """A root file system of Debian as a tar, made by mmdebstrap once for all runs."""
    path = CACHE / "minbase.tar"
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "minbase.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
        if not path.exists():
            fresh = CACHE / "minbase.new.tar"
            done = subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(fresh)], capture_output=True, text=True, check=False)
            if done.returncode:
                fresh.unlink(missing_ok=True)
                pytest.skip(f"mmdebstrap: {done.stderr.strip().splitlines()[-1:]}")
            fresh.rename(path)
    return path


@pytest.fixture(scope="session")
def debian_tar() -> Path:
    """The path of a tar of Debian; to be imported where it is needed."""
    if not shutil.which("mmdebstrap"):
        pytest.skip("needs mmdebstrap")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return make_debian()
