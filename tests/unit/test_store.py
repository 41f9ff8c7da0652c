"""The store: blobs, names, leases; what names and manifests may say; what streams may hold."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard
from hypothesis import assume, given, settings, strategies as st

from hutch.errors import ImageError, UsageError
from hutch.image import manifest as manifests, stored_image
from hutch.image.layers import ahead, compress, lowers
from hutch.image.reference import Reference, is_digest, parse
from hutch.image.store import content as contents, lease, names
from hutch.image.store.content import Content, digest_of
from hutch.image.store.names import Name
from hutch.kernel import syscalls, trees
from tests.archives import ARCHITECTURE, OCI, directory, listing, member, sha256, tar
from tests.unit.machines import SINGLE

ZERO = f"sha256:{'0' * 64}"
OTHER_BOOT = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def store(tmp_path) -> Content:
    return Content(str(tmp_path / "data"))


def forked(job: Callable[[], object]) -> int:
    """A process that does something; its exit code says whether it went well."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        job()
        code = 0
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """How a process ended; it has ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("it waits for ever")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Content


def test_blobs(store):
    digest = store.put(b"some bytes")
    assert digest == sha256(b"some bytes") == digest_of(b"some bytes")
    assert (store.has(digest), store.size(digest), store.read(digest)) == (True, 10, b"some bytes")
    assert store.put(b"some bytes") == digest
    assert [name for name, info in store.blobs() if info.st_size == 10] == [digest]
    assert os.listdir(f"{store.root}/ingest") == []
    assert (store.has(ZERO), store.size(ZERO)) == (False, 0)
    with pytest.raises(ImageError, match="not in the store"):
        store.read(ZERO)
    assert store.read(digest, 10) == b"some bytes"
    with pytest.raises(ImageError, match="larger"):
        store.read(digest, 9)


def test_only_the_owner_reads_it(store):
    digest = store.put(b"x")
    assert os.stat(store.path(digest)).st_mode & 0o777 == 0o600
    for name in ("content/sha256", "ingest", "layers", "images", "files", "unsettled"):
        assert os.stat(f"{store.root}/{name}").st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "digest",
    ["", "sha256", "sha256:", "sha256:../../x", f"sha256:{'0' * 63}", f"sha256:{'0' * 65}", f"sha256:{'A' * 64}", f"sha512:{'0' * 64}", f"md5:{'0' * 32}",
     f"../sha256:{'0' * 64}", f"sha256:{'0' * 63}/", f"sha256:{'0' * 63}\n", f"sha256:{'٠' * 64}", f"sha256:{'0' * 62}..", f"SHA256:{'0' * 64}", "0" * 64],
)  # fmt: skip
def test_what_is_no_digest(store, digest):
    """A digest is a file's name: nothing else gets there."""
    assert not is_digest(digest)
    for use in (store.path, store.has, store.size, store.read, store.claim):
        with pytest.raises(ImageError, match="is no digest"):
            use(digest)
    with store.new() as ingest:
        ingest.write(b"x")
        with pytest.raises(ImageError):
            ingest.commit(digest)
    assert list(store.blobs()) == [] and os.listdir(f"{store.root}/ingest") == []


def test_other_algorithms(store):
    import hashlib

    digest = f"sha512:{hashlib.sha512(b'x').hexdigest()}"
    with store.claim(digest) as claim:
        claim.write(b"x")
        claim.commit(digest)
    assert store.read(digest) == b"x" and digest in dict(store.blobs())
    assert store.sound(os.path.relpath(store.path(digest), store.root))


def test_a_data_directory_that_is_none(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ImageError, match="data directory") as caught:
        Content(str(tmp_path / "file"))
    assert "HUTCH_DATA" in caught.value.hint


def test_a_claim_stays_as_far_as_it_came(store):
    digest = sha256(b"0123456789")
    with store.claim(digest) as claim:
        assert claim.size == 0
        claim.write(b"01234")
    assert not store.has(digest)
    with store.claim(digest) as claim:
        assert claim.size == 5
        claim.write(b"x")
        claim.drop()
        assert claim.size == 0
        claim.write(b"0123456789")
        claim.commit(digest)
    assert store.read(digest) == b"0123456789" and store.claim(digest) is None
    with store.claim(ZERO):
        pass  # nothing came
    assert os.listdir(f"{store.root}/ingest") == []
    claim.close()  # again


def test_a_blob_that_comes_between(store, monkeypatch):
    """Another process finishes between two looks: nothing empty is left in its place."""
    digest = sha256(b"x")
    real = os.open

    def just_then(path, *arguments, **named):
        if str(path).endswith(contents.file_name(digest)):
            monkeypatch.undo()
            store.put(b"x")
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", just_then)
    assert store.claim(digest) is None
    assert os.listdir(f"{store.root}/ingest") == []


def test_one_fetches_and_the_others_wait(store, tmp_path):
    """Processes that want the same blob share the work: one fetches it, the others see that it is there."""
    raw = tar(directory("etc"), member("etc/x", content=random.Random(1).randbytes(300_000)))
    blob = gzip.compress(raw)
    begun = tmp_path / "begun"
    go = tmp_path / "go"

    def pieces(offset: int) -> Iterator[bytes]:
        with open(begun, "a") as file:
            file.write(f"{offset}\n")
        until(go.exists)
        yield from (blob[begin : begin + 50_000] for begin in range(offset, len(blob), 50_000))

    def one(number: int) -> None:
        def waiting() -> None:
            (tmp_path / f"waits-{number}").touch()

        layer = lowers.fetch(store, sha256(blob), len(blob), sha256(raw), pieces, SINGLE, "x", waiting)
        assert listing(layer)["/etc/x"][3] == random.Random(1).randbytes(300_000)

    children = [forked(lambda number=number: one(number)) for number in range(4)]
    until(lambda: len(list(tmp_path.glob("waits-*"))) == 3)
    go.touch()
    assert [ended(child) for child in children] == [0] * 4
    assert begun.read_text() == "0\n"
    assert store.has(sha256(blob)) and os.listdir(f"{store.root}/ingest") == []
    assert os.listdir(f"{store.root}/layers") == [contents.file_name(sha256(raw))]


def test_who_waits_takes_over(store, tmp_path):
    """The one that fetches is killed: who waited goes on where it stopped."""
    raw = tar(directory("etc"), member("etc/x", content=random.Random(1).randbytes(300_000)))
    blob = gzip.compress(raw)
    log = tmp_path / "log"

    def pieces(offset: int) -> Iterator[bytes]:
        with open(log, "a") as file:
            file.write(f"{offset}\n")
        for begin in range(offset, len(blob), 10_000):
            if begin >= 100_000 and not offset:
                (tmp_path / "stuck").touch()
                time.sleep(60)
            yield blob[begin : begin + 10_000]

    def fetch() -> None:
        lowers.fetch(store, sha256(blob), len(blob), sha256(raw), pieces, SINGLE, "x", lambda: (tmp_path / "waits").touch())

    first = forked(fetch)
    until((tmp_path / "stuck").exists)
    second = forked(fetch)
    until((tmp_path / "waits").exists)
    os.kill(first, signal.SIGKILL)
    assert ended(first) == -signal.SIGKILL
    assert ended(second) == 0
    assert log.read_text() == "0\n100000\n"
    assert store.read(sha256(blob)) == blob


@pytest.mark.parametrize("wrong", ["size too small", "size too large", "digest", "plain digest", "tar", "source", "empty pieces"])
def test_a_fetch_that_fails(store, wrong):
    """Whatever is wrong, nothing has a name; what may be right stays for the next attempt, and nothing else."""
    raw = tar(directory("etc"), member("etc/x", content=random.Random(1).randbytes(300_000)))
    if wrong == "tar":
        raw = b"no tar" + raw
    blob = gzip.compress(raw)
    size = len(blob) + {"size too small": -1, "size too large": 1}.get(wrong, 0)
    digest = ZERO if wrong == "digest" else sha256(blob)
    diff_id = ZERO if wrong == "plain digest" else sha256(raw)

    def pieces(offset: int) -> Iterator[bytes]:
        yield blob[offset : offset + 1000]
        if wrong == "source":
            raise ImageError("the line went dead")
        if wrong == "empty pieces":
            yield b""
        yield blob[offset + 1000 :]

    def fetch(**change: object) -> lowers.Layer:
        return lowers.fetch(store, digest, size, diff_id, pieces, SINGLE, "image x")

    if wrong == "empty pieces":
        fetch()
        return
    with pytest.raises(ImageError, match="image x: " if wrong != "source" else "dead"):
        fetch()
    assert list(store.blobs()) == [] and os.listdir(f"{store.root}/layers") == []
    left = {name: os.stat(f"{store.root}/ingest/{name}").st_size for name in os.listdir(f"{store.root}/ingest")}
    expected = {"source": {contents.file_name(digest): 1000}, "size too large": {contents.file_name(digest): len(blob)}}
    assert left == expected.get(wrong, {})
    for name in left:
        assert blob.startswith(Path(f"{store.root}/ingest/{name}").read_bytes())


# A full disk


def filling(monkeypatch, root: str, room: int, only: str = "") -> None:
    """The disk takes `room` more bytes into files below a directory whose names begin with something; the last write is a short one."""
    real = os.write
    left = [room]
    lock = threading.Lock()  # several threads write

    def write(fd: int, data: bytes) -> int:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(f"{root}/ingest/{only}"):
            return real(fd, data)
        with lock:
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            done = real(fd, bytes(data[: left[0]]))
            left[0] -= done
            return done

    monkeypatch.setattr(os, "write", write)


def test_a_full_disk(store, monkeypatch):
    data = random.Random(2).randbytes(100_000)
    filling(monkeypatch, store.root, 33_333)
    with store.claim(sha256(data)) as claim, pytest.raises(ImageError, match="No space left") as caught:
        for begin in range(0, len(data), 10_000):
            claim.write(data[begin : begin + 10_000])
    assert "prune" in caught.value.hint
    with pytest.raises(ImageError, match="No space left"):
        store.put(b"x")
    monkeypatch.undo()
    with store.claim(sha256(data)) as claim:
        assert claim.size == 33_333 and os.pread(claim.fd, 1 << 20, 0) == data[:33_333]
        claim.write(data[claim.size :])
        claim.commit(sha256(data))
    assert store.read(sha256(data)) == data and os.listdir(f"{store.root}/ingest") == []


def test_the_reserve_of_a_disk(store, monkeypatch):
    """The last bytes are everybody else's."""
    free = [contents.RESERVE + (80 << 20)]
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free[0] >> 10, f_frsize=1024))
    store.room(80 << 20)
    with pytest.raises(ImageError, match="disk is full"):
        store.room(81 << 20)
    with store.claim(ZERO) as claim:
        claim.write(bytes(1 << 20))
        free[0] = contents.RESERVE
        with pytest.raises(ImageError, match="disk is full") as caught:
            for _ in range(70):
                claim.write(bytes(1 << 20))
        assert "prune" in caught.value.hint and claim.size <= 65 << 20
    assert os.stat(f"{store.root}/ingest/{contents.file_name(ZERO)}").st_size == claim.size


@pytest.mark.parametrize("slow", [False, True])
def test_what_was_damaged_before_is_fetched_again(store, monkeypatch, slow):
    """Also where all bytes have come by the time that the damage is acted upon: the source is good for another time."""
    raw = tar(directory("etc"), member("etc/x", content=random.Random(1).randbytes(300_000)))
    blob = gzip.compress(raw)
    Path(f"{store.root}/ingest").mkdir(exist_ok=True)
    Path(f"{store.root}/ingest/{contents.file_name(sha256(blob))}").write_bytes(b"x" * 1000)
    asked: list[int] = []
    cancelled: list[int] = []
    build = lowers.build

    def later(*given: object) -> lowers.Layer:
        try:
            return build(*given)
        finally:
            time.sleep(0.2 * slow)

    def pieces(offset: int) -> Iterator[bytes]:
        assert not cancelled
        asked.append(offset)
        yield from (blob[begin : begin + 22_000] for begin in range(offset, len(blob), 22_000))

    monkeypatch.setattr(lowers, "build", later)
    lowers.fetch(store, sha256(blob), len(blob), sha256(raw), pieces, SINGLE, "x", cancel=lambda: cancelled.append(1))
    assert asked == [1000, 0] and not cancelled and store.read(sha256(blob)) == blob


@pytest.mark.parametrize("only", ["", "sha256-", "tree-"])
@pytest.mark.parametrize("room", [0, 5_000, 150_000])
def test_a_disk_that_is_full_while_a_layer_comes_in(store, monkeypatch, only, room):
    """The error is the disk's, and what was fetched stays good: the next attempt goes on from there."""
    raw = tar(directory("etc"), member("etc/x", content=random.Random(1).randbytes(300_000)))
    blob = gzip.compress(raw)
    asked: list[int] = []

    def pieces(offset: int) -> Iterator[bytes]:
        asked.append(offset)
        yield from (blob[begin : begin + 1000] for begin in range(offset, len(blob), 1000))

    filling(monkeypatch, store.root, room, only)
    with pytest.raises(ImageError, match="No space left") as caught:
        lowers.fetch(store, sha256(blob), len(blob), sha256(raw), pieces, SINGLE, "x")
    assert "prune" in (caught.value.hint or "")
    monkeypatch.undo()
    assert list(store.blobs()) == [] and os.listdir(f"{store.root}/layers") == []
    left = [Path(f"{store.root}/ingest/{name}") for name in os.listdir(f"{store.root}/ingest")]
    assert all(path.name == contents.file_name(sha256(blob)) and blob.startswith(path.read_bytes()) for path in left)
    lowers.fetch(store, sha256(blob), len(blob), sha256(raw), pieces, SINGLE, "x")
    kept = room > 0 or only == "tree-"
    assert len(left) == kept and (asked[1:] in ([], [len(blob)]) or (asked[-1] > 0) == kept)
    assert os.listdir(f"{store.root}/ingest") == []


# A power failure


def unsettle(store: Content, *paths: str, boot: str = OTHER_BOOT) -> Path:
    """Marks as another boot has left them."""
    place = Path(f"{store.root}/unsettled/{boot}")
    place.mkdir()
    for path in paths:
        (place / os.path.relpath(path, store.root).replace("/", "|")).touch()
    return place


def test_what_another_boot_left_is_verified(store):
    """A damaged blob vanishes, a sound one stays, an index or a tree is made anew; what was settled is not looked at."""
    sound, damaged, short, empty, settled = (store.path(store.put(text)) for text in (b"sound", b"damaged", b"short", b"empty", b"settled"))
    for path, text in ((damaged, "DAMAGED"), (short, "sho"), (empty, ""), (settled, "SETTLED")):
        Path(path).write_text(text)
    index, tree = f"{store.root}/layers/a/index", f"{store.root}/layers/b/tree"
    os.makedirs(f"{tree}/etc")
    os.makedirs(os.path.dirname(index))
    Path(index).write_text("x")
    shutil.rmtree(f"{store.root}/unsettled/{contents.boot_id()}")
    unsettle(store, sound, damaged, short, empty, index, tree, store.path(ZERO))
    again = Content(store.root)
    assert [os.path.exists(path) for path in (sound, damaged, short, empty, settled, index, tree)] == [True, False, False, False, True, False, False]
    assert os.listdir(f"{store.root}/unsettled") == []
    again.put(b"damaged")
    assert again.read(sha256(b"damaged")) == b"damaged"


def test_a_damaged_tree_that_cannot_be_removed_is_no_layer(store, monkeypatch):
    """Its files may be subordinate ids' (subuid(5)), and this process's to remove only with a helper's hands."""
    raw = tar(directory("etc"), member("etc/x", content=b"x"))
    store.put(raw)
    lowers.ensure(store, sha256(raw), sha256(raw), SINGLE, "x")
    os.rename(f"{store.root}/unsettled/{contents.boot_id()}", f"{store.root}/unsettled/{OTHER_BOOT}")
    monkeypatch.setattr(trees, "remove_tree", lambda path: shutil.rmtree(f"{path}/etc"))
    again = Content(store.root)
    monkeypatch.undo()
    assert lowers.find(again, sha256(raw), SINGLE) is None
    assert listing(lowers.ensure(again, sha256(raw), sha256(raw), SINGLE, "x"))["/etc/x"][3] == b"x"


def test_what_this_boot_left_is_believed(store):
    path = store.path(store.put(b"x"))
    Path(path).write_text("y")
    (boot,) = os.listdir(f"{store.root}/unsettled")
    assert boot == contents.boot_id()
    Content(store.root)
    assert os.path.exists(path) and len(os.listdir(f"{store.root}/unsettled/{boot}")) == 1


def test_names_of_another_boot(store):
    good = names.put(store, "docker.io/library/good:latest", ZERO, ZERO, "linux/amd64")
    for name, text in (("half", '{"reference":"x'), ("empty", ""), ("zeros", "\0" * 100)):
        names.put(store, f"docker.io/library/{name}:latest", ZERO, ZERO, "linux/amd64")
        Path(f"{store.root}/images/docker.io%2Flibrary%2F{name}:latest").write_text(text)
    os.rename(f"{store.root}/unsettled/{contents.boot_id()}", f"{store.root}/unsettled/{OTHER_BOOT}")
    assert list(names.every(Content(store.root))) == [good]
    assert len(os.listdir(f"{store.root}/images")) == 1


@pytest.mark.parametrize("where", ["content/data", "images/data", "layers/content/sha256", "ingest"])
def test_a_store_at_a_place_that_is_called_like_its_parts(tmp_path, where):
    store = Content(str(tmp_path / where))
    digest = store.put(b"x")
    name = names.put(store, "docker.io/library/x:latest", digest, digest, "linux/amd64")
    os.rename(f"{store.root}/unsettled/{contents.boot_id()}", f"{store.root}/unsettled/{OTHER_BOOT}")
    again = Content(store.root)
    assert again.has(digest) and list(names.every(again)) == [name]


def test_a_mark_comes_before_the_name(store, monkeypatch):
    """Otherwise a power failure between the two leaves a blob that nobody verifies."""
    seen = []
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda old, new: (seen.append(os.listdir(f"{store.root}/unsettled/{contents.boot_id()}")), real(old, new)))
    digest = store.put(b"x")
    names.put(store, "docker.io/library/x:latest", digest, digest, "linux/amd64")
    assert seen[0] == [f"content|sha256|{digest[7:]}"] and len(seen[1]) == 2


def test_settling(store, monkeypatch):
    """The disk is waited for, for every file and then for its name, and nothing is left to be verified."""
    digest = store.put(b"x")
    names.put(store, "docker.io/library/x:latest", digest, digest, "linux/amd64")
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd)))
    monkeypatch.setattr(os, "fdatasync", os.fsync)
    store.settle()
    assert os.listdir(f"{store.root}/unsettled") == []
    assert synced.index(store.path(digest)) < synced.index(f"{store.root}/content/sha256")
    assert f"{store.root}/images" in synced
    store.settle()


def test_what_is_marked_while_the_disk_is_waited_for(store, monkeypatch):
    """A mark whose file has not got its name yet stays, and settling disturbs nobody who writes."""
    store.put(b"x")
    real = os.fsync
    done = []

    def fsync(fd: int) -> None:
        if not done:
            done.append(store.put(b"comes in between"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with store.new() as ingest:
        ingest.write(b"named later")
        store.mark(f"content/sha256/{sha256(b'named later')[7:]}")
        store.settle()
        os.rename(ingest.release(), store.path(sha256(b"named later")))
    marks = {mark for boot in os.listdir(f"{store.root}/unsettled") for mark in os.listdir(f"{store.root}/unsettled/{boot}")}
    assert f"content|sha256|{sha256(b'named later')[7:]}" in marks


def test_a_tree_is_settled_with_all_that_is_in_it(store, monkeypatch):
    raw = tar(directory("etc"), member("etc/x", content=b"x"))
    store.put(raw)
    layer = lowers.ensure(store, sha256(raw), sha256(raw), SINGLE, "x")
    synced = []
    monkeypatch.setattr(syscalls, "syncfs", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    store.settle()
    assert os.path.dirname(layer.lower) in synced and not os.listdir(f"{store.root}/unsettled")


def test_what_cannot_be_opened_is_settled_with_its_tree(store):
    """A pipe takes no fsync, a device would be woken, and what belongs to a subordinate id is closed to its owner."""
    raw = tar(directory("etc"), member("pipe", b"6"), member("closed", content=b"x", mode=0))
    store.put(raw)
    lowers.ensure(store, sha256(raw), sha256(raw), SINGLE, "x")
    store.settle()
    assert not os.listdir(f"{store.root}/unsettled")


def test_many_open_and_settle_at_once(store):
    """Several processes begin after a power failure, and end at the same time."""
    good = [store.put(f"{number}".encode()) for number in range(40)]
    bad = [store.put(f"bad {number}".encode()) for number in range(40)]
    for digest in bad:
        Path(store.path(digest)).write_text("x")
    os.rename(f"{store.root}/unsettled/{contents.boot_id()}", f"{store.root}/unsettled/{OTHER_BOOT}")

    def one() -> None:
        for number in range(20):
            again = Content(store.root)
            again.put(f"{os.getpid()} {number}".encode())
            again.settle()

    children = [forked(one) for _ in range(6)]
    assert [ended(child) for child in children] == [0] * 6
    assert all(map(store.has, good)) and not any(map(store.has, bad))


# Leases


def test_leases(store):
    assert lease.held(store) == set()
    with lease.Lease(store) as one, lease.Lease(store) as two:
        one.add(ZERO, sha256(b"a"))
        one.add(sha256(b"b"))
        two.add(sha256(b"c"))
        with lease.Gate(store, exclusive=True):
            assert lease.held(store) == {ZERO, *(sha256(text) for text in (b"a", b"b", b"c"))}
        two.close()
        two.close()
        assert sha256(b"c") not in lease.held(store)
    assert lease.held(store) == set() and os.listdir(f"{store.root}/leases") == []


def test_leases_of_the_dead(store):
    """A lease is worth what its owner is: it goes with him, whatever ended him; a living one's stays."""

    def hold() -> None:
        held = lease.Lease(store)
        held.add(sha256(b"%d" % os.getpid()))
        Path(f"{store.root}/ready-{os.getpid()}").touch()
        time.sleep(60)

    children = [forked(hold) for _ in range(2)]
    until(lambda: len(list(Path(store.root).glob("ready-*"))) == 2)
    assert lease.held(store) == {sha256(b"%d" % child) for child in children}
    for count, child in enumerate(children, 1):
        os.kill(child, signal.SIGKILL)
        ended(child)
        assert lease.held(store) == {sha256(b"%d" % other) for other in children[count:]}
    assert os.listdir(f"{store.root}/leases") == []


def test_odd_leases(store):
    with lease.Lease(store) as held:
        held.add(ZERO, "../../etc/passwd", "", "sha256:1")
        Path(f"{store.root}/leases/1-empty").touch()
        assert lease.held(store) == {ZERO}
        assert len(os.listdir(f"{store.root}/leases")) == 1


def test_nobody_takes_a_lease_while_it_is_collected(store):
    """A new lease, or a new digest in one, waits for the collector, and the collector for whoever is just taking one."""
    held = lease.Lease(store)
    shut = Path(f"{store.root}/shut")
    # they begin before it is shut: a lock is shared with children
    children = [forked(lambda: (until(shut.exists), lease.Lease(store).add(ZERO))), forked(lambda: (until(shut.exists), held.add(ZERO)))]
    with lease.Gate(store, exclusive=True):
        shut.touch()
        time.sleep(0.2)
        assert [os.waitpid(child, os.WNOHANG)[0] for child in children] == [0, 0]
        assert lease.held(store) == set()
    assert [ended(child) for child in children] == [0, 0]
    assert lease.held(store) == {ZERO}
    with lease.Gate(store), lease.Gate(store):  # leases do not wait for each other
        pass
    held.close()


# Names of images


@pytest.mark.parametrize(
    ("text", "complete", "familiar"),
    [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/library/alpine:x", "docker.io/library/alpine:x", "alpine:x"),
        ("user/image", "docker.io/user/image:latest", "user/image:latest"),
        ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("quay.io/a/b:1", "quay.io/a/b:1", "quay.io/a/b:1"),
        ("myhost:80/x", "myhost:80/x:latest", "myhost:80/x:latest"),
        ("MyHost/x", "MyHost/x:latest", "MyHost/x:latest"),
        ("myhost/x", "docker.io/myhost/x:latest", "myhost/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("[2001:db8::1]/x:y", "[2001:db8::1]/x:y", "[2001:db8::1]/x:y"),
        ("a__b-c--d.e", "docker.io/library/a__b-c--d.e:latest", "a__b-c--d.e:latest"),
        ("docker.io", "docker.io/library/docker.io:latest", "docker.io:latest"),
        ("x:_.-", "docker.io/library/x:_.-", "x:_.-"),
        (f"alpine@{ZERO}", f"docker.io/library/alpine@{ZERO}", f"alpine@{ZERO}"),
        (f"alpine:3@{ZERO}", f"docker.io/library/alpine:3@{ZERO}", f"alpine:3@{ZERO}"),
        (f"h.x:1/a:3@{ZERO}", f"h.x:1/a:3@{ZERO}", f"h.x:1/a:3@{ZERO}"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
        ("docker.io/localhost/c", "docker.io/localhost/c:latest", "docker.io/localhost/c:latest"),
    ],
)
def test_references(text, complete, familiar):
    """Docker's defaults; what is shown means the same when it is typed again."""
    found = parse(text)
    assert str(found) == complete
    assert parse(complete) == parse(found.familiar) == found
    assert found.familiar == familiar
    assert found.target == (found.digest or found.tag) and f"{found.repository}" == complete.partition("@")[0].removesuffix(f":{found.tag}")


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a b", "Alpine", "a/B", "a:", ":a", "a::b", "a:b:c", "a@", f"a@{ZERO}@{ZERO}", "a@sha256:0", "a@md5:00", f"a@{ZERO[:-1]}G", "/a", "a/", "a//b", ".a", "a.", "-a", "a-", "_a",
        "a_", "a..b", "a___b", "a._b", "a-_b", "a/../b", "../a", "./a", "..", ".", "a/./b", "a:-x", "a:.x", f"a:{'x' * 129}", "a:x/y", "é", "a:é", "a\n", "a\0", "host:port/x", "host:/x",
        "host:65536/x", f"host:{'9' * 200}/x", f"host:{'9' * 5000}/x", "-h.x/a", "h-.x/a", "h..x/a", ".h/a", "h./a", "h_x.y/a", "[::1/x", "[]/x", "[g::1]/x", "[::1]x/a", "http://x/y", "h.x/",
        f"{'a/' * 200}a", "a" * 300, "0" * 64, "é.x/a", "h.x:٣/a",
    ],
)  # fmt: skip
def test_references_that_are_none(text):
    with pytest.raises(UsageError):
        parse(text)


def test_a_missing_tag_can_stay_missing():
    assert (parse("a", tag=False).tag, parse("a:x", tag=False).tag, parse(f"a@{ZERO}").tag) == ("", "x", "")


# github.com/distribution/reference, regexp.go and normalize.go
COMPONENT = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
LABEL = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
HOST = rf"(?:{LABEL}(?:\.{LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
GRAMMAR = re.compile(rf"({HOST})/({COMPONENT}(?:/{COMPONENT})*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@(sha256:[0-9a-f]{{64}}))?")


def docker(text: str) -> tuple[str, str, str, str] | None:
    """What Docker's own parser makes of a name."""
    if re.fullmatch("[0-9a-f]{64}", text):
        return None
    host, slash, rest = text.partition("/")
    if not slash or (not set(host) & set(".:") and host != "localhost" and host.lower() == host):
        host, rest = "docker.io", text
    host = "docker.io" if host == "index.docker.io" else host
    if host == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    found = GRAMMAR.fullmatch(f"{host}/{rest}")
    if found is not None and len(found[1].rpartition("]")[2].partition(":")[2]) > 5:
        return None  # which Docker takes for a port all the same
    return None if found is None else (found[1], found[2], found[3] or "", found[4] or "")


WORDS = st.sampled_from(
    [
        "a",
        "b0",
        "library",
        "docker.io",
        "index.docker.io",
        "localhost",
        "x.org",
        "X",
        "[::1]",
        "5000",
        "latest",
        "-",
        "_",
        "__",
        ".",
        "..",
        "",
        ZERO,
        "sha256",
        "é",
        "0" * 64,
    ]
)
NAMES = st.lists(st.tuples(WORDS, st.sampled_from(["/", "/", ":", "@", "", "-", "."])), min_size=1, max_size=6).map(
    lambda pairs: "".join(a + b for a, b in pairs)[: -len(pairs[-1][1]) or None]
)


@settings(max_examples=600, deadline=None)
@given(text=NAMES | st.text("ab:/@._-A0", max_size=12))
def test_references_as_docker_reads_them(text):
    """The same names are names, and mean the same."""
    assume(len(text) < 200)
    try:
        found = parse(text, tag=False)
    except UsageError:
        found = None
    expected = docker(text)
    assert (None if found is None else (found.host, found.path, found.tag, found.digest)) == expected
    if found is not None:
        assert parse(str(found), tag=False) == found == parse(found.familiar, tag=False)
        assert Name(reference=str(found), digest="", manifest="", platform="", updated=0.0).parsed == found


COMPONENTS = st.lists(st.from_regex(COMPONENT, fullmatch=True).filter(lambda text: len(text) < 40), min_size=1, max_size=4).map("/".join)


@settings(max_examples=150, deadline=None)
@given(
    host=st.sampled_from(["docker.io", "localhost", "localhost:5000", "x.org", "A.b:1", "[::1]:5"]), path=COMPONENTS, digest=st.sampled_from(["", ZERO]),
    tag=st.from_regex("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True) | st.just(""),
)  # fmt: skip
def test_references_come_back(host, path, tag, digest):
    """Written and read again, in full and as people write them, a name is the same one."""
    one = Reference(host=host, path=path if host != "docker.io" or "/" in path else f"library/{path}", tag=tag, digest=digest)
    assert parse(str(one), tag=False) == one == parse(one.familiar, tag=False)


# Names in the store


def put(store: Content, name: str, config: bytes = b"", **fields: object) -> tuple[str, str]:
    """An image without layers under a name: the digests of its manifest and of its configuration."""
    raw = config or json.dumps({"os": "linux", "architecture": ARCHITECTURE, "rootfs": {"diff_ids": []}, **fields}).encode()
    identity = store.put(raw)
    one = manifests.Manifest(
        media_type=manifests.OCI_MANIFEST, config=manifests.Descriptor(media_type=manifests.OCI_CONFIG, digest=identity, size=len(raw)), layers=()
    )
    digest = store.put(one.encode())
    names.put(store, name, digest, digest, f"linux/{ARCHITECTURE}")
    return digest, identity


def test_names(store, monkeypatch):
    """A name stands for one image, the last one that it was given; the newest come first."""
    clock = iter(range(1, 100))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    texts = [
        "docker.io/library/a:latest",
        "docker.io/library/b:latest",
        "x.org:5000/a/b/c:d",
        f"x.org/{'y/' * 100}z:{'t' * 128}",
        f"x.org/{'y/' * 100}z:{'t' * 127}",
        f"x.org/a/b:c@{ZERO}",
    ]
    records = [names.put(store, text, ZERO, ZERO, "linux/amd64") for text in texts]
    assert list(names.every(store)) == records[::-1]
    for text, record in zip(texts, records, strict=True):
        assert names.get(store, parse(text)) == record and record.parsed == parse(text)
    again = names.put(store, texts[0], sha256(b"x"), ZERO, "linux/amd64")
    assert list(names.every(store))[0] == again == names.get(store, parse("a")) and len(list(names.every(store))) == len(texts)
    names.remove(store, again)
    names.remove(store, again)
    assert names.get(store, parse("a")) is None and names.get(store, parse("b")) == records[1]
    nameless = names.put(store, f"{names.NONE}@{ZERO}", ZERO, ZERO, "linux/amd64")
    assert nameless.parsed is None and stored_image.familiar(nameless.reference) == names.NONE and nameless in list(names.every(store))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "null", '"x"', "{}", "\0" * 50, "[" * 100_000, '{"reference":"x"}', '{"reference":5,"digest":5,"manifest":5,"platform":5,"updated":"x"}',
     '{"reference":"x","digest":null,"manifest":[],"platform":{},"updated":null}', '{"reference":"A B","digest":"","manifest":"","platform":"","updated":1}'],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_damaged_record_is_nobodys_trouble_but_its_own(store, text):
    digest, identity = put(store, "docker.io/library/good:latest")
    for name in ("docker.io%2Flibrary%2Fbad:latest", "anything"):
        Path(f"{store.root}/images/{name}").write_text(text)
    assert names.get(store, parse("good")).manifest == digest
    assert parse("good") in [name.parsed for name in names.every(store) if name.manifest == digest]
    assert stored_image.find(store, "good").id == stored_image.find(store, identity[7:20]).id == identity
    with pytest.raises(ImageError):
        stored_image.find(store, "bad")


def test_a_name_is_always_whole(store):
    """Whoever reads it while it is set sees the old one or the new one."""
    digests = [sha256(b"%d" % number) for number in range(50)]
    names.put(store, "docker.io/library/x:latest", digests[0], ZERO, "linux/amd64")
    stop = []

    def change() -> None:
        while not stop:
            for digest in digests:
                names.put(store, "docker.io/library/x:latest", digest, ZERO, "linux/amd64")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2000):
            assert names.get(store, parse("x")).digest in digests
    finally:
        stop.append(1)
        thread.join()


def test_images_are_found_by_what_people_say(store):
    first, one = put(store, "docker.io/library/a:latest")
    second, two = put(store, "x.org/a:1", author="somebody else")
    put(store, "docker.io/library/b:latest")  # the same as a
    for text in ("a", "docker.io/a", "library/a:latest", f"a@{first}", one, one[7:], one[7:19], f"{one[:15]}"):
        assert stored_image.find(store, text).id == one, text
    for text in ("x.org/a:1", f"x.org/a@{second}", two[7:19]):
        assert stored_image.find(store, text).id == two
    for text in ("x.org/a", "a:1", f"a@{second}", f"x.org/a@{first}", one[7:9], "", "zzz", f"sha256:{'0' * 64}", one[7:19] + "0" * 60, "../a"):
        with pytest.raises(ImageError, match="not in the store"):
            stored_image.find(store, text)


def test_an_id_that_several_images_have(store):
    number = 0
    seen: dict[str, str] = {}
    while True:
        raw = json.dumps({"os": "linux", "rootfs": {"diff_ids": []}, "author": str(number)}).encode()
        start = sha256(raw)[7:10]
        if start in seen:
            break
        seen[start] = str(number)
        number += 1
    put(store, "docker.io/library/a:latest", raw)
    put(store, "docker.io/library/b:latest", json.dumps({"os": "linux", "rootfs": {"diff_ids": []}, "author": seen[start]}).encode())
    with pytest.raises(ImageError, match="2 images"):
        stored_image.find(store, start)
    names.put(store, f"docker.io/library/{start}:latest", *[names.get(store, parse("a")).manifest] * 2, "linux/amd64")
    assert stored_image.find(store, start).name == f"docker.io/library/{start}:latest"  # a name is a name


def test_an_image_that_is_not_whole(store):
    digest, identity = put(store, "docker.io/library/a:latest")
    os.unlink(store.path(identity))
    with pytest.raises(ImageError, match="not in the store"):
        stored_image.find(store, "a")
    os.unlink(store.path(digest))
    with pytest.raises(ImageError, match="not in the store"):
        stored_image.find(store, "a")


# Manifests


def entry(kind: str = "layer.v1.tar+gzip", digest: str = ZERO, size: object = 5, **more: object) -> dict[str, object]:
    return {"mediaType": f"{OCI}.{kind}", "digest": digest, "size": size, **more}


def image(**change: object) -> dict[str, object]:
    return {"schemaVersion": 2, "mediaType": manifests.OCI_MANIFEST, "config": entry("config.v1+json"), "layers": [entry()], **change}


def of(value: object, media_type: str = "") -> manifests.Manifest | manifests.Index:
    return manifests.parse(json.dumps(value).encode(), "image x", media_type)


def test_manifests():
    found = of(image(annotations={"a": "b"}, subject=entry("manifest.v1+json", sha256(b"s"))))
    assert isinstance(found, manifests.Manifest)
    assert (found.config.digest, found.layers[0].size, found.annotations) == (ZERO, 5, {"a": "b"})
    assert manifests.parse(found.encode(), "x") == found and json.loads(found.encode())["schemaVersion"] == 2
    manifests.check_layers(found, "x")
    docker = {
        "schemaVersion": 2, "mediaType": manifests.DOCKER_MANIFEST, "config": {**entry(), "mediaType": manifests.DOCKER_CONFIG},
        "layers": [{**entry(), "mediaType": manifests.DOCKER_LAYER}],
    }  # fmt: skip
    manifests.check_layers(of(docker, manifests.DOCKER_MANIFEST), "x")
    # OCI's media type is optional: the registry's word counts, or the fields
    bare = {key: value for key, value in image().items() if key != "mediaType"}
    assert isinstance(of(bare), manifests.Manifest) and isinstance(of(bare, manifests.OCI_MANIFEST), manifests.Manifest)
    assert isinstance(of({"schemaVersion": 2, "manifests": []}), manifests.Index)
    assert of(bare, "text/plain").media_type == manifests.OCI_MANIFEST


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"5", b"null", b'"x"', b"\xff\xfe{}", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b'{"schemaVersion":2}', b'{"size":NaN}', b"{} {}", b"\0" * 10, b'{"a":1}garbage',
     b"9" * 5000, b'{"layers":[' + b"9" * 5000 + b"]}"],
    ids=lambda data: repr(data[:20]),
)  # fmt: skip
def test_what_is_no_manifest(data):
    for media_type in ("", *manifests.ACCEPTED):
        with pytest.raises(ImageError, match="image x"):
            manifests.parse(data, "image x", media_type)
    with pytest.raises(ImageError, match="image x"):
        manifests.parse_config(data, "image x")


WRONG = [None, 5, -1, 1.5, True, "", "x", "\0", [], ["x"], {}, {"a": {"b": []}}, "x" * 70_000, 1 << 70, "\ud800"]


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("place", ["mediaType", "config", "layers", "annotations", "subject", "manifests", "fsLayers", "schemaVersion", "layers.0", "config.digest", "config.size",
                                   "config.mediaType", "layers.0.digest", "layers.0.size", "layers.0.annotations", "layers.0.platform", "layers.0.platform.os", "layers.0.artifactType"])  # fmt: skip
def test_manifests_of_wrong_types(place, value):
    """A field of a wrong type is an ImageError, or is not used; nothing else comes of it."""
    for top in (image(), {"schemaVersion": 2, "layers": [entry()], "config": entry()}):
        for media_type in ("", manifests.OCI_MANIFEST, manifests.DOCKER_LIST):
            data = json.loads(json.dumps(top))
            here = data
            *way, last = place.split(".")
            for part in way:
                here = here[0] if part == "0" else here.setdefault(part, {})
            here[0 if last == "0" else last] = value
            try:
                found = of(data, media_type)
                manifests.check_layers(found, "image x")
            except ImageError as error:
                assert error.message.startswith("image x")
                continue
            assert is_digest(found.config.digest) and all(
                is_digest(layer.digest) and type(layer.size) is int and 0 <= layer.size < 1 << 50 for layer in found.layers
            )
            assert type(found.media_type) is str and type(found.config.media_type) is str
            manifests.parse(found.encode(), "x")


def test_text_that_is_deep_enough_to_be_read_and_no_deeper():
    """What the JSON scanner takes may still be too deep for whatever prints it."""
    for depth in (*range(100, 1000, 100), *range(880, 1000)):
        deep = json.loads("[" * depth + "]" * depth) if depth < 500 else None
        text = json.dumps(image(annotations={"a": "DEEP"})).replace('"DEEP"', "[" * depth + "]" * depth).encode()
        assert deep is None or isinstance(deep, list)
        for data in (text, text.replace(b"annotations", b"artifactType"), text.replace(b'"annotations": {"a"', b'"config": {"digest"')):
            try:
                manifests.parse(data, "image x")
            except ImageError:
                pass
        config = json.dumps({"os": "DEEP", "rootfs": {"diff_ids": []}, "created": "DEEP", "config": {"Labels": {"a": "DEEP"}}}).replace(
            '"DEEP"', "[" * depth + "]" * depth
        )
        try:
            manifests.parse_config(config.encode(), "image x")
        except ImageError:
            pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([ZERO, *manifests.ACCEPTED, *manifests.LAYERS, "linux", "amd64", ""]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from("schemaVersion mediaType config layers manifests digest size platform os architecture variant annotations subject rootfs diff_ids Env Cmd User Labels Healthcheck Test".split()),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(value=JSON, media_type=st.sampled_from(["", *manifests.ACCEPTED]))
def test_anything_is_a_manifest_or_an_error(value, media_type):
    for use in (
        lambda data: (
            manifests.check_layers(found, "x")
            if isinstance(found := manifests.parse(data, "x", media_type), manifests.Manifest)
            else manifests.choose(found, "linux/amd64", "x")
        ),
        lambda data: manifests.check_platform(manifests.parse_config(data, "x"), "linux/amd64", "x"),
    ):
        try:
            use(json.dumps(value).encode())
        except ImageError:
            pass


@pytest.mark.parametrize(
    "digest", ["", "sha256:", f"sha256:{'0' * 63}", f"sha256:{'A' * 64}", f"md5:{'0' * 32}", "sha256:../../x", f"sha512:{'0' * 64}", None, 5, [ZERO]]
)
@pytest.mark.parametrize("place", ["config", "layers", "subject", "manifests", "diff_ids"])
def test_digests_that_are_none(place, digest):
    data = {"config": image(config=entry(digest=digest)), "layers": image(layers=[entry(), entry(digest=digest)]), "subject": image(subject=entry(digest=digest)),
            "manifests": {"manifests": [entry(digest=digest)]}}  # fmt: skip
    with pytest.raises(ImageError, match="digest"):
        if place == "diff_ids":
            manifests.parse_config(json.dumps({"rootfs": {"diff_ids": [ZERO, digest]}}).encode(), "x")
        else:
            of(data[place])


@pytest.mark.parametrize("size", [-1, 1 << 50, 1.0, "5", None, True, [], 10**400])
def test_sizes_that_are_none(size):
    for data in (image(config=entry(size=size)), image(layers=[entry(size=size)]), {"manifests": [entry(size=size)]}):
        with pytest.raises(ImageError, match="size"):
            of(data)


def test_a_manifest_that_is_two_things():
    """What one reader takes for an index and another for an image is refused by both (CVE-2021-41190)."""
    both = {"schemaVersion": 2, "config": entry(), "layers": [], "manifests": []}
    for media_type in ("", *manifests.ACCEPTED):
        for own in ({}, *({"mediaType": kind} for kind in manifests.ACCEPTED)):
            with pytest.raises(ImageError):
                of({**both, **own}, media_type)
    for own, delivered in (
        (manifests.OCI_MANIFEST, manifests.OCI_INDEX),
        (manifests.OCI_MANIFEST, manifests.DOCKER_MANIFEST),
        (manifests.OCI_INDEX, manifests.OCI_MANIFEST),
    ):
        with pytest.raises(ImageError, match="delivered"):
            of({**image(), "mediaType": own}, delivered)


def test_a_manifest_of_the_first_version():
    old = {"schemaVersion": 1, "name": "x", "tag": "latest", "architecture": "amd64", "fsLayers": [{"blobSum": ZERO}], "history": [], "signatures": []}
    for media_type in ("", "application/vnd.docker.distribution.manifest.v1+prettyjws", manifests.OCI_MANIFEST):
        with pytest.raises(ImageError, match="first version"):
            of(old, media_type)


@pytest.mark.parametrize(
    "change",
    [
        {"config": entry("empty.v1+json") | {"mediaType": "application/vnd.oci.empty.v1+json"}, "artifactType": "application/vnd.example+json"},
        {"config": {**entry(), "mediaType": "application/vnd.cncf.helm.config.v1+json"}},
        {"layers": [entry("layer.nondistributable.v1.tar+gzip")]},
        {"layers": [{**entry(), "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["http://x/"]}]},
        {"layers": [{**entry(), "mediaType": "application/vnd.in-toto+json"}]},
        {"layers": [{**entry(), "mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip"}]},
        {"layers": [{**entry(), "mediaType": ""}]},
        {"layers": [entry("layer.v1.tar+gzip+encrypted")]},
        {"config": entry("config.v1+json", size=manifests.CONFIG_LIMIT + 1)},
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_image(change):
    """Registries hold other things, too; and layers that have to come from elsewhere."""
    with pytest.raises(ImageError, match="image x"):
        manifests.check_layers(of(image(**change)), "image x")


def test_too_many_layers():
    of(image(layers=[entry()] * manifests.MAX_LAYERS))
    with pytest.raises(ImageError, match="layers"):
        of(image(layers=[entry()] * (manifests.MAX_LAYERS + 1)))
    with pytest.raises(ImageError):
        of({"manifests": [entry()] * 10_001})


def index(*platforms: object) -> manifests.Index:
    found = of({"manifests": [entry("manifest.v1+json", sha256(b"%d" % n), platform=platform) for n, platform in enumerate(platforms)]})
    assert isinstance(found, manifests.Index)
    return found


def machine(text: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


@pytest.mark.parametrize(
    ("platforms", "wanted", "found"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", 1),
        (["linux/amd64", "linux/amd64"], "linux/amd64", 0),
        (["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", 1),
        (["linux/arm64/v8"], "linux/arm64", 0),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", 1),
        (["windows/amd64", "linux/amd64"], "linux/amd64", 1),
        (["unknown/unknown", "linux/amd64"], "linux/amd64", 1),
        ([None], "linux/amd64", 0),
        ([None, "linux/amd64"], "linux/amd64", 1),
        (["linux/arm64"], "linux/amd64", None),
        (["windows/amd64"], "linux/amd64", None),
        (["unknown/unknown"], "linux/amd64", None),
        (["linux/arm/v7"], "linux/arm/v6", None),
        ([], "linux/amd64", None),
    ],
)  # fmt: skip
def test_platforms_of_an_index(platforms, wanted, found):
    one = index(*(None if text is None else machine(text) for text in platforms))
    if found is None:
        with pytest.raises(ImageError, match=wanted):
            manifests.choose(one, wanted, "image x")
    else:
        assert manifests.choose(one, wanted, "image x").digest == sha256(b"%d" % found)


def test_platforms_that_lie():
    """The index says one thing and the configuration another: nothing for a foreign machine is run."""

    def config(**fields: object) -> manifests.Config:
        return manifests.parse_config(json.dumps({"rootfs": {"diff_ids": []}, **fields}).encode(), "x")

    for fields in ({"os": "linux", "architecture": "amd64"}, {"architecture": "amd64"}, {}, {"os": "linux", "architecture": "amd64", "variant": "v1"}):
        manifests.check_platform(config(**fields), "linux/amd64", "x")
    for fields in (
        {"os": "linux", "architecture": "arm64"},
        {"os": "windows", "architecture": "amd64"},
        {"os": "windows"},
        {"os": 5, "architecture": "amd64"},
        {"architecture": ["amd64"]},
    ):
        with pytest.raises(ImageError, match="linux/amd64"):
            manifests.check_platform(config(**fields), "linux/amd64", "x")


@pytest.mark.parametrize(
    "fields",
    [
        {"rootfs": None}, {"rootfs": []}, {"rootfs": {}}, {"rootfs": {"diff_ids": {}}}, {"rootfs": {"diff_ids": [5]}}, {"rootfs": {"diff_ids": ["x"]}}, {"config": [1]},
        {"config": "x"}, {"config": {"Env": "A=B"}}, {"config": {"Env": [5]}}, {"config": {"Env": ["A\0"]}}, {"config": {"Cmd": [[]]}}, {"config": {"Entrypoint": "sh"}}, {"config": {"User": 5}},
        {"config": {"User": "a\nb"}}, {"config": {"WorkingDir": ["/"]}}, {"config": {"WorkingDir": "/\x1b[2J"}}, {"config": {"Labels": [1]}},
        {"config": {"StopSignal": {"a": 1}}}, {"config": {"Volumes": "x"}}, {"config": {"ExposedPorts": 5}},
    ],
    ids=repr,
)  # fmt: skip
def test_configurations_of_wrong_types(fields):
    with pytest.raises(ImageError, match="image x"):
        manifests.parse_config(json.dumps({"rootfs": {"diff_ids": []}, **fields}).encode(), "image x")


def test_a_configuration():
    own = {
        "Env": ["A=b", "=x", "B"], "Entrypoint": ["/bin/sh", "-c"], "Cmd": None, "User": "1:2", "WorkingDir": "/x", "Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGINT", "Labels": {"a": "b"}, "Healthcheck": {"Test": ["CMD", "true"]}, "Unknown": [5],
    }  # fmt: skip
    found = manifests.parse_config(
        json.dumps({"os": "linux", "architecture": "arm", "variant": "v7", "created": "then", "rootfs": {"diff_ids": [ZERO]}, "config": own}).encode(), "x"
    )
    run = found.run
    assert (found.platform, found.diff_ids, found.created) == ("linux/arm/v7", (ZERO,), "then")
    assert (run.env, run.entrypoint, run.cmd, run.user, run.workdir) == (("A=b", "B"), ("/bin/sh", "-c"), (), "1:2", "/x")
    assert (run.volumes, run.ports, run.stop_signal, run.labels, run.health) == (("/v",), ("80/tcp",), "SIGINT", {"a": "b"}, ("CMD", "true"))


# Compressions

ZSTD = zstandard.ZstdCompressor(write_checksum=True)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda raw: gzip.compress(raw, 1),
    "zstd": ZSTD.compress,
    "xz": lambda raw: lzma.compress(raw, preset=0),
    "bzip2": bz2.compress,
}
NOISE = random.Random(3).randbytes(40_000) + bytes(3 << 20) + b"end"


def inflated(data: bytes, size: int = 1 << 16) -> bytes:
    """What comes out of a stream that comes in small pieces."""
    out = []
    for piece in compress.plain(ahead.reader(iter([data[begin : begin + size] for begin in range(0, len(data), size)])), "image x"):
        assert 0 < len(piece) <= compress.PIECE
        out.append(piece)
    return b"".join(out)


@pytest.mark.parametrize("name", list(PACKERS))
def test_compressions(name):
    pack = PACKERS[name]
    data = pack(NOISE)
    assert compress.kind(data) == name
    for size in (7, 1 << 12, 1 << 20):
        assert inflated(data, size) == NOISE
    assert inflated(pack(b"")) == b""
    assert inflated(pack(b"x"), 1) == b"x"


def test_what_is_not_compressed():
    for data in (b"", b"x", b"\x1f", b"\x1e\x8b" + NOISE, b"BZ", NOISE):
        assert compress.kind(data) == "" and inflated(data) == data


@pytest.mark.parametrize("name", list(PACKERS))
def test_several_streams_one_behind_the_other(name):
    """As gzip, zstd, xz and bzip2 themselves have it: their contents, one behind the other."""
    pack = PACKERS[name]
    parts = [b"first", b"", NOISE, b"x" * 100, b"last"]
    data = b"".join(map(pack, parts))
    for size in (3, 1 << 20):
        assert inflated(data, size) == b"".join(parts)
    assert inflated(b"".join(pack(b"%d" % n) for n in range(2000))) == b"".join(b"%d" % n for n in range(2000))


@pytest.mark.parametrize("name", list(PACKERS))
def test_truncated(name):
    """Wherever it ends too early, that is an error: a stream that was cut off looks whole otherwise."""
    raw = random.Random(5).randbytes(3000) + bytes(100_000)
    data = PACKERS[name](raw)
    for end in [*range(7, 80), *range(80, len(data) - 40, 97), *range(len(data) - 40, len(data))]:
        with pytest.raises(ImageError, match="image x: the compressed data is broken"):
            inflated(data[:end])
        with pytest.raises(ImageError, match="broken"):
            inflated(data + data[:end])


@pytest.mark.parametrize("name", list(PACKERS))
def test_corrupted(name):
    """A flipped bit is found, by the format or by the checksum at its end; where it changes nothing, nothing changes."""
    raw = random.Random(6).randbytes(2000) + b"text " * 1000
    data = PACKERS[name](raw)
    refused = 0
    for number in range(0, len(data), 11):
        damaged = bytearray(data)
        damaged[number] ^= 1 << number % 8
        if compress.kind(damaged) != name:
            continue
        try:
            assert inflated(bytes(damaged)) == raw
        except ImageError as error:
            refused += 1
            assert "broken" in error.message
    assert refused > len(data) // 11 * 0.9


@pytest.mark.parametrize("name", list(PACKERS))
def test_something_behind_it(name):
    data = PACKERS[name](b"text")
    for more in (b"x", b"garbage" * 10, b"\0" * 100 + b"x", b"\0" * (3 << 20) + b"x", NOISE):
        with pytest.raises(ImageError, match="image x"):
            inflated(data + more)


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2"])
def test_zeros_behind_it(name):
    """Tapes are padded with them."""
    for count in (1, 512, 3 << 20):
        assert inflated(PACKERS[name](b"text") + bytes(count)) == b"text"


def test_skippable_frames():
    """zstd:chunked keeps its table of contents in one, at the end; others begin with one."""
    frame = struct.pack("<II", 0x184D2A5A, 8) + b"contents"
    assert inflated(ZSTD.compress(b"text") + frame) == b"text"
    assert inflated(ZSTD.compress(b"text") + frame + ZSTD.compress(b"more")) == b"textmore"
    assert inflated(frame + ZSTD.compress(b"text")) == b"text"


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), name=st.sampled_from(list(PACKERS)), keep=st.integers(0, 60))
def test_any_bytes_at_all(data, name, keep):
    magic = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\0", "bzip2": b"BZh"}[name]
    for text in (magic + data, PACKERS[name](b"some text, some text")[:keep] + data):
        try:
            inflated(text, 64)
        except ImageError:
            pass


def test_the_sources_own_troubles_are_not_the_datas():
    """What the disk or the registry says is passed on as it is."""

    def failing(error: BaseException) -> Callable[[int], bytes]:
        pieces = iter([gzip.compress(NOISE)[:5000]])

        def read(size: int) -> bytes:
            for piece in pieces:
                return piece
            raise error

        return read

    for error in (OSError(errno.EIO, "Input/output error"), ImageError("registry: it is gone"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            list(compress.plain(failing(error), "image x"))
        assert caught.value is error


def huge_window() -> bytes:
    """A zstd frame that wants a window of 2 GiB."""
    return b"\x28\xb5\x2f\xfd" + bytes([0, 21 << 3]) + (1 | 0 << 1 | 5 << 3).to_bytes(3, "little") + b"bytes"


def huge_dictionary() -> bytes:
    """An xz stream that wants a dictionary of 4 GiB."""
    data = bytearray(lzma.compress(b"text" * 100))
    size = (data[12] + 1) * 4
    at = data.index(b"\x21\x01", 12) + 2
    data[at] = 40
    data[12 + size - 4 : 12 + size] = zlib.crc32(data[12 : 12 + size - 4]).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("make", [huge_window, huge_dictionary])
def test_streams_that_want_very_much_memory(make):
    with pytest.raises(ImageError, match="broken"):
        inflated(make())


BOMBS = """
import bz2, gzip, lzma, resource, sys, zstandard
from hutch.image.layers import ahead, compress
name = sys.argv[1]
piece = bytes(1 << 20)
if name == "header":  # a file's name in gzip's header that does not end
    packed = [b"\\x1f\\x8b\\x08\\x08" + bytes(6)] + [b"a" * (1 << 20)] * 200
else:
    machine = {"gzip": lambda: __import__("zlib").compressobj(9, 8, 31), "zstd": lambda: zstandard.ZstdCompressor(level=19).compressobj(),
               "xz": lzma.LZMACompressor, "bzip2": bz2.BZ2Compressor}[name]()
    count = 64 if name in ("xz", "bzip2") else 300
    packed = [machine.compress(piece) for _ in range(count)] + [machine.flush()]
    packed = [b"".join(packed)] * (300 // count)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = 0
try:
    for found in compress.plain(ahead.reader(iter(packed)), "x"):
        total += len(found)
except compress.ImageError:
    pass
print(total >> 20, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("name", [*PACKERS, "header"])
def test_bombs_stay_in_bounded_memory(name):
    done = subprocess.run([sys.executable, "-c", BOMBS, name], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    total, grown = map(int, done.stdout.split())
    assert total >= 250 or (name == "header" and not total)
    assert grown < 40


@settings(max_examples=50, deadline=None)
@given(pieces=st.lists(st.binary(max_size=3000), max_size=5))
def test_gzip_is_written_the_same_every_time(pieces):
    packed = b"".join(compress.gzip_pieces(iter(pieces)))
    assert packed == b"".join(compress.gzip_pieces(iter(pieces))) and gzip.decompress(packed) == b"".join(pieces) == inflated(packed)
    assert packed[3:8] == bytes(5)  # no name, no time


def test_the_beginning_of_a_stream():
    source = compress.Source(io.BytesIO(b"0123456789").read)
    assert (source.peek(3), source.peek(20), source.read(4), source.peek(2), source.read(100), source.read(), source.peek(1)) == (
        b"012",
        b"0123456789",
        b"0123",
        b"45",
        b"456789",
        b"",
        b"",
    )


# A step ahead


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.fixture
def no_threads():
    """Every thread that was begun has ended."""
    before = threads()
    yield
    until(lambda: threads() <= before)


@settings(max_examples=50, deadline=None)
@given(pieces=st.lists(st.binary(max_size=20), max_size=40), depth=st.integers(1, 10))
def test_pieces_come_in_their_order(pieces, depth):
    with ahead.Ahead(iter(pieces), depth) as found:
        assert list(found) == pieces
        assert list(found) == []


@pytest.mark.parametrize("error", [ImageError("x"), OSError(5, "x"), KeyboardInterrupt(), MemoryError(), SystemExit(3)])
def test_errors_come_through(no_threads, error):
    """Behind the pieces that came before it, and once."""

    def pieces() -> Iterator[bytes]:
        yield b"a"
        yield b"b"
        raise error

    with ahead.Ahead(pieces()) as found:
        assert [next(found), next(found)] == [b"a", b"b"]
        with pytest.raises(type(error)) as caught:
            next(found)
        assert caught.value is error
        with pytest.raises(StopIteration):
            next(found)
    with pytest.raises(type(error)), ahead.Ahead(ahead.Ahead(pieces())) as found:  # through several stages
        list(found)


def test_it_does_not_run_away(no_threads):
    made = []

    def pieces() -> Iterator[bytes]:
        while True:
            made.append(1)
            yield b"x"

    with ahead.Ahead(pieces(), depth=4) as found:
        for read in range(3):
            until(lambda: len(made) >= 5 + read)
            time.sleep(0.02)
            assert len(made) == 5 + read
            next(found)


@pytest.mark.parametrize("read", [0, 1, 20])
def test_closing_early_ends_its_thread(no_threads, read):
    found = ahead.Ahead((b"x" for _ in iter(int, 1)), depth=2)
    assert [next(found) for _ in range(read)] == [b"x"] * read
    found.close()
    assert list(found) == []
    found.close()


def test_closing_ends_what_it_waits_for(no_threads):
    """A thread that waits for the network is woken, and waited for."""
    wake = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"x"
        assert wake.wait(10)
        raise OSError(9, "closed")

    begin = time.monotonic()
    with ahead.Ahead(pieces(), cancel=wake.set) as found:
        assert next(found) == b"x"
    assert time.monotonic() - begin < 5 and wake.is_set()


def test_nothing_is_cancelled_that_has_ended(no_threads):
    cancelled = []
    with ahead.Ahead(iter([b"x"]), cancel=lambda: cancelled.append(1)) as found:
        list(found)
    assert not cancelled


def test_a_reader_over_pieces():
    read = ahead.reader(iter([b"abc", b"d", b"efgh"]))
    assert [read(2), read(2), read(10), read(3), read(3), read(3), read(3)] == [b"ab", b"c", b"d", b"efg", b"h", b"", b""]
    assert ahead.reader(iter([b"a", b"", b"b"]))(9) == b"a"


def test_an_empty_piece_is_not_the_end():
    read = ahead.reader(iter([b"", b"a", b"", b"", b"b"]))
    assert [read(9), read(9), read(9)] == [b"a", b"b", b""]
