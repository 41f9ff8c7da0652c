"""Random archives: the index, the unpacked directory and GNU tar's must hold the same files.

``python -m tests.unit.test_unpack_agrees SECONDS`` searches for longer."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings, strategies as st

from hutch.errors import ImageError
from hutch.image.layers.erofs import reader
from hutch.image.rootfs import Layer
from hutch.kernel.trees import remove_tree
from tests.archives import as_index, as_tree, listing
from tests.images import END, entry, extended, header

pytestmark = pytest.mark.root
KINDS = {"hard": b"1", "link": b"2", "null": b"3", "disk": b"4", "directory": b"5", "fifo": b"6"}
TOOLS = ".gnu"  # GNU tar's own files, in the root directory in which it unpacks
Member = tuple[str, str, str, int, int, int]  # kind, name, content or target, mode, user, group
Listing = dict[str, tuple[object, ...]]

paths = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map("/".join)
targets = st.builds(str.__add__, st.sampled_from(["", "/", "../", "./", "../../", "/../", "a/../"]), paths)
MODES = [0o755, 0o700, 0o000, 0o1777, 0o4711, 0o555, 0o644]
SETGID = [0o2750, 0o6777]
owners = st.sampled_from([0, 1, 1000, 65534])


def members(
    kind: str, names: st.SearchStrategy[str] = paths, text: st.SearchStrategy[str] = st.just(""), modes: list[int] = MODES + SETGID
) -> st.SearchStrategy[Member]:
    return st.tuples(st.just(kind), names, text, st.sampled_from(modes), owners, owners)


folders = st.builds(str.__add__, paths | st.just("."), st.sampled_from(["", "/"]))
directories, setgid = members("directory", folders, modes=MODES), members("directory", folders, modes=SETGID)
links, hard = members("link", text=targets), members("hard", text=paths)
files = members("file", st.builds(str.__add__, st.sampled_from(["", "./", "/"]), paths), st.sampled_from(["", "x", "content\n", "z" * 700]))
others = st.sampled_from(["fifo", "null", "disk"]).flatmap(members)
whiteouts = members("file", st.builds(lambda above, name: f"{above}/.wh.{name}", folders, st.sampled_from(["a", "b", "c", ".wh..opq"])))
# GNU tar's own: directories that no member describes inherit the bit, and there are no whiteouts
PLAIN = st.lists(st.one_of(directories, directories, files, links, hard, others), min_size=2, max_size=12)
LAYERS = st.lists(st.one_of(directories, setgid, files, links, hard, others, whiteouts), min_size=2, max_size=12)


def archive(found: list[Member]) -> bytes:
    pieces = []
    for number, (kind, name, text, mode, uid, gid) in enumerate(found):
        fields = {"mode": mode, "uid": uid, "gid": gid, "mtime": 1_000_000_000 + number}
        if kind == "file":
            pieces.append(entry(name.encode(), text.encode(), **fields))
        else:
            fields |= {"major": 7, "minor": 3} if kind in ("null", "disk") else {}
            pieces.append(header(name.encode(), KINDS[kind], link=text.encode(), **fields))
    return b"".join(pieces) + END


def held(raw: bytes, form: object, place: Path) -> Listing | None:
    """The files of one form of an archive; None where the archive is refused."""
    try:
        return listing(form(raw, place))
    except ImageError:
        return None


class GnuTar:
    """GNU tar in a root directory of its own: a link to /a leads where it does in a layer.

    On a tmpfs, whose inodes have numbers of their own: GNU tar takes a file for the directory that had its number before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(root)], check=True)
        (root / TOOLS).mkdir()
        program = shutil.which("tar") or "tar"
        words = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
        self.loader = next(word for word in words if "/ld-linux" in word)
        for path in {program, *(word for word in words if word.startswith("/"))}:
            shutil.copy(path, root / TOOLS)

    def close(self) -> None:
        subprocess.run(["umount", str(self.root)], check=True)

    def listing(self, raw: bytes) -> Listing | None:
        """What it unpacks; None where it cannot."""
        for path in self.root.iterdir():
            if path.name != TOOLS:
                remove_tree(str(path)) if path.is_dir() and not path.is_symlink() else path.unlink()
        os.chmod(self.root, 0o755)
        os.chown(self.root, 0, 0)
        words = [f"/{TOOLS}/{os.path.basename(self.loader)}", "--library-path", f"/{TOOLS}", f"/{TOOLS}/tar", "-x", "-p", "-P", "--same-owner",
                 "--numeric-owner", "-f", "-", "-C", "/"]  # fmt: skip
        done = subprocess.run(words, input=raw, capture_output=True, check=False, preexec_fn=lambda: os.chroot(self.root), umask=0o022)
        found = listing(Layer(lower=str(self.root), lock=""))
        return {path: what for path, what in found.items() if path.split("/")[1:2] != [TOOLS]} if done.returncode == 0 else None


def differences(one: Listing | None, other: Listing | None) -> dict[str, object]:
    """What differs between two listings, by path."""
    if one is None or other is None:
        return {} if one is other else {"refused by the first": one is None, "by the second": other is None}
    return {path: (one.get(path), other.get(path)) for path in {*one, *other} if one.get(path) != other.get(path)}


class Trial:
    """A place in which archives are compared; `compared` counts those that GNU tar unpacks as well."""

    def __init__(self, place: Path) -> None:
        self.place, self.gnu = place, GnuTar(place / "gnu")
        self.seen = self.compared = 0

    def forms(self, found: list[Member]) -> Listing | None:
        """Assert that both forms of a layer agree; what they hold."""
        raw = archive(found)
        try:
            one, other = held(raw, as_index, self.place / "index"), held(raw, as_tree, self.place / "tree")
            wrong = differences(one, other)
            assert not wrong, f"index, unpacked directory: {wrong}"
            return one
        finally:
            remove_tree(str(self.place / "tree"))

    def all(self, found: list[Member]) -> None:
        """Assert that GNU tar unpacks the same."""
        ours = self.forms(found)
        theirs = self.gnu.listing(archive(found)) if ours is not None else None
        self.seen += 1
        if theirs is not None:
            self.compared += 1
            wrong = differences(ours, theirs)
            assert not wrong, f"layer, GNU tar: {wrong}"


@contextlib.contextmanager
def trial() -> Iterator[Trial]:
    place = Path(tempfile.mkdtemp(prefix="hutch-agrees-", dir="/var/tmp"))
    try:
        found = Trial(place)
        try:
            yield found
        finally:
            found.gnu.close()
    finally:
        shutil.rmtree(place)


def search(examples: int, number: int = 0) -> None:
    """Compare random archives, half of them with whiteouts, which GNU tar does not know. The same number gives the same archives."""
    with trial() as here:
        for strategy, check in ((PLAIN, here.all), (LAYERS, here.forms)):
            attempt(strategy, check, examples // 2, number)
        assert here.compared > here.seen // 10, "GNU tar refuses nearly all"


def attempt(strategy: st.SearchStrategy[list[Member]], check: Callable[[list[Member]], object], examples: int, number: int) -> None:
    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(found=strategy)
    def one(found: list[Member]) -> None:
        check(found)

    one()


def search_for(seconds: float) -> None:
    """Compare random archives for some time."""
    end, number = time.monotonic() + seconds, time.time_ns()
    while time.monotonic() < end:
        search(2000, number := number + 1)


@pytest.fixture
def here() -> Iterator[Trial]:
    with trial() as found:
        yield found


@pytest.mark.parametrize("number", [1, 2])
def test_random_archives(number):
    """A few hundred archives whose members replace each other, lead through links, and come twice."""
    search(300, number)


def D(name: str, mode: int, owner: int = 0) -> Member:
    return "directory", name, "", mode, owner, owner


def F(name: str) -> Member:
    return "file", name, "x", 0o644, 0, 0


def L(name: str, target: str) -> Member:
    return "link", name, target, 0o777, 0, 0


ARCHIVES: dict[str, list[Member]] = {
    "a directory twice": [D("a", 0o700, 1), F("a/f"), D("a", 0o711, 2)],
    "a directory three times": [D("a", 0o711), D("b", 0o700), D("a", 0o700), D("./a/", 0o750)],
    "the root twice": [D(".", 0o700, 1), F("f"), D("./", 0o711, 2)],
    "below an absolute link": [D("d", 0o755), L("l", "/d"), D("l/x", 0o700, 1), F("l/x/f")],
    "below a link to above the root": [D("d", 0o755), L("l", "../../d"), D("l/x", 0o700)],
    "below a chain of links": [D("d", 0o755), L("m", "/d"), L("l", "m"), D("l/x", 0o1777)],
    "by two names": [D("d/x", 0o700), L("l", "/d"), D("l/x", 0o711), D("d/x", 0o750)],
    "below a link that leads elsewhere later": [L("l", "a"), D("a", 0o755), D("l/x", 0o700), D("b", 0o755), L("l", "b"), F("b/x/f")],
    "a directory again, not described": [D("d/s", 0o700), F("d"), D("d", 0o711), F("d/s/f")],
    "a directory that a link takes over": [D("d", 0o711), D("a", 0o700), L("a", "d"), F("a/f")],
    "a directory over a link": [D("d", 0o711), L("a", "d"), D("a", 0o700), F("a/f")],
    "a hard link over the directory of its target": [F("b/c"), ("hard", "b", "b/c", 0o644, 0, 0)],
    "dots behind a directory that is not there": [L("c", "a/../b"), F("c/f")],
    "dots behind a link": [D("x/y", 0o755), L("a", "x/y"), L("c", "a/../b"), F("c/f")],
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_differed(here, name):
    """Modes of directories that are listed twice, that links lead to, or that are replaced later: in every form the same."""
    here.all(ARCHIVES[name])


def test_the_last_description_counts_whole(tmp_path):
    """Not the mode alone: a directory's time and attributes, too, are those of its last member."""
    said = [(b"user.a", b"1", 5), (b"user.b", b"2", 7)]
    raw = b"".join(extended({b"SCHILY.xattr." + key: value}) + header(b"d", b"5", mode=0o700, mtime=time) for key, value, time in said) + END
    layer, tree = as_index(raw, tmp_path / "index"), Path(as_tree(raw, tmp_path / "tree").lower)
    with reader.Index(layer.index, layer.tar) as index:
        file = index.lookup(b"d")
    assert (file.mtime, set(file.xattrs)) == (7 * 10**9, {b"user.b"})
    assert (tree / "d").stat().st_mtime_ns == 7 * 10**9
    assert set(os.listxattr(tree / "d")) == {"user.b"}


if __name__ == "__main__":
    search_for(float(sys.argv[1]))
