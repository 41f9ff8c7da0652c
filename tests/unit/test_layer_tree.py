"""What a layer's members make of each other: replacement, links of both kinds, whiteouts in any order, names that are refused."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from hutch.errors import ImageError
from hutch.image.layers.tree import Node, Tree, whiteout_of, xattrs_of
from hutch.image.tar.header import BLOCKDEVICE, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Member
from tests.images import END, bounded, entry, extended, header, tree_of


def F(name: str, content: str = "", **fields: object) -> Member:
    """A regular file, told apart by its size and offset, which stand for its content."""
    made = Member(name.encode(), REGULAR, 0o644, size=len(content))
    made.offset = sum(content.encode()) * 512
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def D(name: str, mode: int = 0o755, **fields: object) -> Member:
    made = Member(name.encode(), DIRECTORY, mode)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def L(name: str, target: str) -> Member:
    return Member(name.encode(), SYMLINK, 0o777, link=target.encode())


def H(name: str, target: str) -> Member:
    return Member(name.encode(), HARDLINK, link=target.encode())


def C(name: str, *rdev: int) -> Member:
    made = Member(name.encode(), CHARACTER, 0o600)
    made.rdev = rdev
    return made


def build(*members: Member) -> Tree:
    tree = Tree()
    for member in members:
        tree.member(member)
    return tree


def flat(tree: Tree) -> dict[str, str]:
    """What stands where: ``d`` and ``d!`` (opaque), ``f`` and its content, ``l`` and its target, ``wh``; ``*2`` for two links."""
    found: dict[str, str] = {}
    left = [("", tree.root)]
    counts: dict[int, int] = {}
    nodes: dict[int, Node] = {}
    while left:
        path, node = left.pop()
        if path:
            found[path] = describe(node)
        for name, child in (node.children or {}).items():
            left.append((f"{path}/{os.fsdecode(name)}".lstrip("/"), child))
            counts[id(child)], nodes[id(child)] = counts.get(id(child), 0) + 1, child
    assert all(node.children is not None or node.links == counts[key] for key, node in nodes.items()), "every name is a link, and no other"
    assert all(counts[key] == 1 for key, node in nodes.items() if node.children is not None), "a directory has one place"
    if tree.root.opaque:
        found[""] = "d!"
    return dict(sorted(found.items()))


def describe(node: Node) -> str:
    if node.children is not None:
        return "d!" if node.opaque else "d"
    if node.whiteout:
        return "wh"
    what = {
        stat.S_IFREG: f"f{node.offset // 512}",
        stat.S_IFLNK: f"l{node.target.decode()}",
        stat.S_IFCHR: f"c{node.rdev}",
        stat.S_IFIFO: "p",
        stat.S_IFBLK: "b",
    }[stat.S_IFMT(node.mode)]
    return what + (f"*{node.links}" if node.links > 1 else "")


def f(content: str) -> str:
    return f"f{sum(content.encode())}"


def names(*members: Member) -> set[str]:
    return set(flat(build(*members)))


def refused(*members: Member, why: str | None = None) -> None:
    with pytest.raises(ImageError, match=why):
        build(*members)


# Replacement

REPLACED = {
    "a file by a file": ([F("a", "x"), F("a", "y")], {"a": f("y")}),
    "a file by a directory": ([F("a", "x"), D("a"), F("a/b", "y")], {"a": "d", "a/b": f("y")}),
    "a directory by a file": ([D("a"), F("a/b", "x"), F("a/c/d", "x"), F("a", "y")], {"a": f("y")}),
    "a directory by a link": ([D("a"), F("a/b", "x"), D("c"), L("a", "c"), F("a/d", "y")], {"a": "lc", "c": "d", "c/d": f("y")}),
    "a directory by a device": ([F("a/b", "x"), C("a", 1, 3)], {"a": "c(1, 3)"}),
    "a link by a directory": ([D("c"), L("a", "c"), D("a"), F("a/b", "x")], {"a": "d", "a/b": f("x"), "c": "d"}),
    "a link by a file": ([F("c", "x"), L("a", "c"), F("a", "y")], {"a": f("y"), "c": f("x")}),
    "a link by a link": ([L("a", "b"), L("a", "c")], {"a": "lc"}),
    "a file by a link": ([F("a", "x"), L("a", "b")], {"a": "lb"}),
    "a link without a target by a directory": ([L("a", "nowhere"), D("a")], {"a": "d"}),
    "a directory keeps what it holds": ([D("a"), F("a/b", "x"), D("a", 0o700)], {"a": "d", "a/b": f("x")}),
    "a directory behind its files": ([F("a/b", "x"), D("a")], {"a": "d", "a/b": f("x")}),
    "a fifo by a file": ([Member(b"a", FIFO), F("a", "x")], {"a": f("x")}),
    "a file below what was a file": ([F("a", "x"), D("a"), D("a/b"), F("a/b/c", "y")], {"a": "d", "a/b": "d", "a/b/c": f("y")}),
    "a directory, a file, a directory": ([F("a/b", "x"), F("a", "y"), D("a")], {"a": "d"}),
    "what was dropped stays dropped": ([F("a/b/c", "x"), F("a", "y"), D("a"), F("a/b/d", "z")], {"a": "d", "a/b": "d", "a/b/d": f("z")}),
}


@pytest.mark.parametrize("name", REPLACED)
def test_the_last_of_a_name_stays(name):
    members, wanted = REPLACED[name]
    assert {path: what.rstrip("!") for path, what in flat(build(*members)).items()} == wanted


def test_a_replaced_parent_is_not_written_to():
    """The place of the last member is remembered; it may be gone, or be somewhere else by now."""
    assert names(D("a"), F("a/x", "1"), F("a", "y"), D("a"), F("a/z", "2")) == {"a", "a/z"}
    assert names(D("a"), D("a/b"), F("a/b/x", "1"), F("a", "2"), D("a"), F("a/b/y", "3")) == {"a", "a/b", "a/b/y"}
    assert names(D("b"), L("a", "b"), F("a/x", "1"), D("a"), F("a/y", "2")) == {"a", "a/y", "b", "b/x"}
    assert flat(build(D("b"), D("c"), L("a", "b"), F("a/x", "1"), L("a", "c"), F("a/y", "2"))) == {"a": "lc", "b": "d", "b/x": f("1"), "c": "d", "c/y": f("2")}


def test_a_link_that_is_replaced_through_itself():
    """``s`` is the root, so that ``s/s`` is ``s``: what comes after it lies in what it has become."""
    assert names(L("s", "."), F("s/a", "1"), D("s/s"), F("s/x", "2")) == {"a", "s", "s/x"}
    refused(L("s", "."), F("s/a", "1"), F("s/s", "2"), F("s/x", "3"), why="no directory")
    assert flat(build(D("b"), L("s", "."), F("s/a", "1"), L("s/s", "b"), F("s/x", "2"))) == {"a": f("1"), "b": "d", "b/x": f("2"), "s": "lb"}


def test_a_directorys_description_is_its_last():
    tree = build(F("a/x"), D("a", 0o700, uid=1, mtime=5, xattrs={b"user.a": b"1"}), D("a", 0o1777, gid=2))
    node = tree.root.children[b"a"]
    assert (node.mode, node.uid, node.gid, node.mtime, node.xattrs) == (stat.S_IFDIR | 0o1777, 0, 2, 0, {})
    assert build(F("a/x")).root.children[b"a"].mode == stat.S_IFDIR | 0o755


def test_the_root_may_be_described_and_nothing_else():
    for name in ("./", "/", ".", "", "//.//"):
        tree = build(D(name, 0o1700, uid=5, mtime=7))
        assert (tree.root.mode, tree.root.uid, tree.root.mtime) == (stat.S_IFDIR | 0o1700, 5, 7)
        assert flat(build(F("a"), F(name, "x"), L(name, "a"), C(name, 0, 0))) == {"a": f("")}


def test_modes_and_sizes():
    tree = build(F("a", "xyz", mode=0o4755, uid=1, gid=2, mtime=3, sparse=((0, 3),), xattrs={b"user.a": b"1"}), L("l", "a"), Member(b"b", BLOCKDEVICE, 0o660))
    node = tree.root.children[b"a"]
    assert (node.mode, node.uid, node.gid, node.mtime, node.size, node.sparse) == (stat.S_IFREG | 0o4755, 1, 2, 3, 3, ((0, 3),))
    assert tree.root.children[b"l"].mode == stat.S_IFLNK | 0o777 and stat.S_ISBLK(tree.root.children[b"b"].mode)


# Links


def test_hard_links_are_one_file():
    tree = build(F("a", "x"), H("b", "a"), H("d/c", "./b"), H("e", "/d/c"))
    assert flat(tree) == {"a": f("x") + "*4", "b": f("x") + "*4", "d": "d", "d/c": f("x") + "*4", "e": f("x") + "*4"}


def test_hard_links_to_what_is_replaced_keep_it():
    assert flat(build(F("a", "x"), H("b", "a"), F("a", "y"))) == {"a": f("y"), "b": f("x")}
    assert {"b": f("x"), "a/c": f("y")}.items() <= flat(build(F("a", "x"), H("b", "a"), D("a"), F("a/c", "y"))).items()
    assert flat(build(F("d/a", "x"), H("b", "d/a"), H("c", "b"), F("d", "y"))) == {"b": f("x") + "*2", "c": f("x") + "*2", "d": f("y")}


def test_a_hard_link_replaces():
    assert flat(build(F("a", "x"), F("b", "y"), H("b", "a"))) == {"a": f("x") + "*2", "b": f("x") + "*2"}
    assert flat(build(F("a", "x"), F("b/c", "y"), H("b", "a"))) == {"a": f("x") + "*2", "b": f("x") + "*2"}
    assert flat(build(F("b/c", "y"), H("b", "b/c"))) == {"b": f("y")}, "its own parent"
    assert flat(build(F("a", "x"), H("a", "a"), H("a", "./a"))) == {"a": f("x")}, "itself"
    assert flat(build(F("a", "x"), H("b", "a"), H("b", "a"), H("a", "b"))) == {"a": f("x") + "*2", "b": f("x") + "*2"}


def test_a_hard_link_to_a_link_is_that_link():
    assert flat(build(L("l", "a"), F("a", "x"), H("h", "l"))) == {"a": f("x"), "h": "la*2", "l": "la*2"}


def test_hard_links_to_anything_but_a_directory():
    assert flat(build(C("c", 1, 3), H("d", "c"), Member(b"p", FIFO), H("q", "p"))) == {"c": "c(1, 3)*2", "d": "c(1, 3)*2", "p": "p*2", "q": "p*2"}


def test_hard_links_through_links():
    assert flat(build(F("d/a", "x"), L("l", "d"), H("h", "l/a"), H("l/b", "l/a"))) == {
        "d": "d",
        "d/a": f("x") + "*3",
        "d/b": f("x") + "*3",
        "h": f("x") + "*3",
        "l": "ld",
    }


@pytest.mark.parametrize(
    "members",
    [
        [H("a", "b")], [H("a", "a")], [D("d"), H("a", "d")], [H("a", "d/e/f")], [H("a", "/")], [H("a", ".")], [F("b"), H("a", "../b")], [F("b"), H("a", "c/../b")],
        [F("b"), H("a", "b/c")], [L("l", "d"), D("d"), H("a", "l/x")], [F(".wh.b"), H("a", "b")], [C("b", 0, 0), H("a", "b")], [F("b"), H("a", "b" * 300)],
        [F("a", "x"), F("d/a"), F("d", "y"), H("b", "d/a")],
    ],
    ids=lambda members: " ".join(f"{m.kind}{m.name.decode()}>{m.link.decode()[:9]}" for m in members),
)  # fmt: skip
def test_hard_links_to_what_is_not_there(members):
    refused(*members)


THROUGH = {
    "relative": [L("l", "d")],
    "absolute": [L("l", "/d")],
    "up and down": [L("x/l2", "../d"), L("l", "x/l2")],
    "above the root": [L("l", "../../../d")],
    "dots": [L("l", "././/d/.")],
    "a link to a link": [L("m", "d"), L("l", "m")],
    "many": [L("l0", "d"), *(L(f"l{n}", f"l{n - 1}") for n in range(1, 39)), L("l", "l38")],
    "back to the root": [L("r", "/"), L("l", "r/r/r/d")],
    "absolute from below": [L("x/y/z", "/d"), L("l", "x/y/z")],
}


@pytest.mark.parametrize("made", [True, False], ids=["a directory", "nothing yet"])
@pytest.mark.parametrize("name", THROUGH)
def test_paths_through_links_stay_in_the_layer(name, made):
    """The place that a link points to is made where it is missing, below the layer's root."""
    found = flat(build(*([D("d")] if made else []), *THROUGH[name], F("l/f", "x"), D("l/sub"), L("l/link", "f")))
    assert {path: what for path, what in found.items() if path.startswith("d")} == {"d": "d", "d/f": f("x"), "d/link": "lf", "d/sub": "d"}
    assert found["l"][0] == "l"


def test_dots_in_a_links_target_are_those_of_where_it_leads():
    """Not of the path's text: l/.. is the parent of what l points to."""
    assert flat(build(D("a/b"), L("l", "a/b"), L("m", "l/../c"), F("m/f", "x"))) == {
        "a": "d",
        "a/b": "d",
        "a/c": "d",
        "a/c/f": f("x"),
        "l": "la/b",
        "m": "ll/../c",
    }


@pytest.mark.parametrize(
    "members",
    [
        [L("l", "l"), F("l/f")], [L("a", "b"), L("b", "a"), F("a/f")], [F("a"), F("a/f")], [F("a"), L("l", "a"), F("l/f")], [L("l", "l/x"), F("l/f")], [C("c", 1, 3), F("c/f")],
        [L("l0", "d"), *(L(f"l{n}", f"l{n - 1}") for n in range(1, 41)), F("l40/f")], [F("a"), D("a/b")], [F("a"), L("l", "a/.."), F("l/f")], [F("a/f"), F("a/f/g/h/i")],
        [L("l", "/".join(["l"] * 2000)), F("l/f")],
    ],
)  # fmt: skip
def test_paths_that_lead_nowhere(members):
    refused(*members)


def test_links_that_double_what_is_left_to_walk():
    """Each target names the next link a thousand times."""
    members = [D("d"), *(L(f"l{n}", "/".join([f"../l{n + 1}"] * 700)) for n in range(39)), L("l39", "d")]
    refused(*members, F("l0/f"))


@pytest.mark.parametrize(
    "name", ["..", "../a", "a/..", "a/../b", "/..", "./../a", "a/b/../../../c", "n" * 256, "a/" + "n" * 256, "n/" * 600, "/".join(["n" * 99] * 50), "a\0b"]
)
def test_names_that_are_refused(name):
    for member in (F(name), D(name), L(name, "x"), C(name, 1, 3), H(name, "a")):
        refused(F("a"), member)


def test_names_that_are_odd_and_fine():
    for name in ("...", "..a", "a..", " ", "\n", "-rf", "a\\b", "n" * 255, "*", "con", ".wh", ".whx", "x.wh.y", "é"):
        assert flat(build(F(name, "x"))) == {name: f("x")}
    assert flat(build(F("//a///b/./c", "x"))) == {"a": "d", "a/b": "d", "a/b/c": f("x")}


# Whiteouts


def test_a_whiteout_hides_what_is_below():
    assert flat(build(F(".wh.a"), F("d/.wh.b"))) == {"a": "wh", "d": "d", "d/b": "wh"}
    tree = build(F(".wh.a"))
    assert tree.root.children[b"a"].mode == stat.S_IFCHR and tree.root.children[b"a"].rdev == (0, 0)


ORDERS = {
    "its own file stays": ([F(".wh.a"), F("a", "x")], {"a": f("x")}),
    "its own link stays": ([F(".wh.a"), L("a", "x")], {"a": "lx"}),
    "its own directory stays and hides": ([F(".wh.a"), D("a")], {"a": "d!"}),
    "a directory that is not described": ([F(".wh.a"), F("a/b", "x")], {"a": "d!", "a/b": f("x")}),
    "with what it holds": ([F(".wh.a"), D("a"), F("a/b/c", "x")], {"a": "d!", "a/b": "d", "a/b/c": f("x")}),
    "opaque": ([F("a/.wh..wh..opq"), D("a"), F("a/b", "x")], {"a": "d!", "a/b": f("x")}),
    "opaque of nothing": ([F("a/.wh..wh..opq")], {"a": "d!"}),
    "opaque root": ([F(".wh..wh..opq"), F("a", "x")], {"": "d!", "a": f("x")}),
    "both": ([F(".wh.a"), F("a/.wh..wh..opq"), F("a/b", "x")], {"a": "d!", "a/b": f("x")}),
    "within": ([F("a/.wh..wh..opq"), F("a/.wh.b"), F("a/.wh.c"), F("a/c", "x")], {"a": "d!", "a/b": "wh", "a/c": f("x")}),
    "twice": ([F(".wh.a"), F(".wh.a"), D("b")], {"a": "wh", "b": "d"}),
    "of a whiteout's name": ([F(".wh..wh.x"), F("x", "y")], {"x": f("y")}),
    "of a parent": ([F(".wh.a"), F("a/.wh.b")], {"a": "d!", "a/b": "wh"}),
    "of a file and of its parent": ([F(".wh.a"), F("a/.wh.b"), F("a/b", "x")], {"a": "d!", "a/b": f("x")}),
}


@pytest.mark.parametrize("name", ORDERS)
def test_whiteouts_in_whatever_order(name):
    members, wanted = ORDERS[name]
    for order in itertools.permutations(members):
        assert flat(build(*order)) == wanted, [m.name for m in order]


def test_a_whiteout_of_what_becomes_a_directory_later():
    """It hides what lower layers have, whatever its own layer had in its place when it came."""
    for order in ([F("a", "x"), F(".wh.a"), D("a")], [F(".wh.a"), F("a", "x"), D("a")], [F("a", "x"), D("a"), F(".wh.a")]):
        assert flat(build(*order)) == {"a": "d!"}, [m.name for m in order]


def test_a_whiteout_is_no_directory_and_no_file():
    refused(F(".wh.a"), H("b", "a"), why="not in the layer")
    assert flat(build(F(".wh.a"), F("x", "y"), H("a", "x"))) == {"a": f("y") + "*2", "x": f("y") + "*2"}


def test_whiteouts_through_links_are_of_where_they_lead():
    assert flat(build(D("d"), L("l", "d"), F("l/.wh.a"), F("l/.wh..wh..opq"))) == {"d": "d!", "d/a": "wh", "l": "ld"}


def test_a_whiteout_of_any_kind_is_one():
    """Its name says it, as with containerd."""
    for member in (D(".wh.a"), L(".wh.a", "x"), C(".wh.a", 1, 3), Member(b".wh.a", FIFO), H(".wh.a", "nothing"), F(".wh.a", "content")):
        assert flat(build(member)) == {"a": "wh"}


def test_the_book_keeping_of_aufs_is_no_file():
    assert flat(build(F(".wh..wh.aufs"), D(".wh..wh.plnk"), D(".wh..wh.orph"), F("a/.wh..wh.x"))) == {"a": "d"}


def test_what_lies_below_a_whiteouts_name():
    """aufs keeps hard links in ``.wh..wh.plnk/``; no lower layer's file is called so."""
    try:
        found = flat(build(D(".wh..wh.plnk"), F(".wh..wh.plnk/12.34", "x"), F("a", "y")))
    except ImageError:
        return
    assert found["a"] == f("y")


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh..."])
def test_whiteouts_of_what_cannot_be(name):
    refused(F(name), why="no whiteout")


def test_whiteout_names():
    assert [whiteout_of(name) for name in (b"a", b".wh", b".wh.a", b".wh..wh..opq", b".wh..x", b".wh....")] == [None, None, b"a", b"", b".x", b"..."]


def test_a_device_of_nothing_is_a_whiteout_already():
    """Overlayfs's own form, which some layers have; a link cannot be made to it, and a directory over it hides."""
    assert (
        flat(build(C("a", 0, 0))) == {"a": "wh"}
        and flat(build(C("a", 0, 0), D("a"))) == {"a": "d!"}
        and flat(build(C("a", 0, 0), F("a/b", "x"))) == {"a": "d!", "a/b": f("x")}
    )


PARTS = st.sampled_from(["a", "b", "c"])
OWN = st.lists(st.tuples(st.sampled_from("fdl"), st.lists(PARTS, min_size=1, max_size=3).map("/".join)), max_size=6)
HIDDEN = st.lists(st.lists(PARTS, min_size=1, max_size=3), max_size=3)
OPAQUE = st.lists(st.lists(PARTS, max_size=2), max_size=2)


@settings(max_examples=200, deadline=None)
@given(own=OWN, hidden=HIDDEN, opaque=OPAQUE, noise=st.randoms(use_true_random=False))
def test_whiteouts_say_the_same_in_every_order(own, hidden, opaque, noise):
    """Members that leave each other alone, and whiteouts of anything: one tree, whatever comes first."""
    kinds: dict[str, str] = {}
    for kind, path in own:
        kinds.setdefault(path, kind)
    parents = {
        "/".join(parts[:n])
        for path in [*kinds, *("/".join(h) for h in hidden), *("/".join([*o, "x"]) for o in opaque)]
        for parts in [path.split("/")]
        for n in range(1, len(parts))
    }
    members = [D(path) if kind == "d" or path in parents else F(path, path) if kind == "f" else L(path, "t") for path, kind in kinds.items()]
    members += [F("/".join([*parts[:-1], f".wh.{parts[-1]}"])) for parts in hidden] + [F("/".join([*parts, ".wh..wh..opq"])) for parts in opaque]
    wanted = flat(build(*members))
    for path, what in wanted.items():
        if path in ("/".join(parts) for parts in hidden):
            assert what in ("wh", "d!") or kinds[path] in "fl", "hidden, or its own"
    noise.shuffle(members)
    assert flat(build(*members)) == wanted


def test_many_whiteouts_in_one_directory():
    assert bounded("""
tree = Tree()
for i in range(100_000):
    tree.member(Member(b"d/.wh.%d" % i, REGULAR))
print(len(tree.root.children[b"d"].children))
""") == "100000"  # fmt: skip


def test_many_paths_through_long_chains_of_links():
    """Forty links, each of two thousand parts: as far as a path may lead, but not for every member."""
    code = """
tree = Tree()
try:
    for i in range(39):
        tree.member(Member(b"l%d" % i, "l", link=b"./" * 1700 + b"l%d" % (i + 1)))
    for i in range(3000):
        tree.member(Member(b"l0/%d/f" % i, REGULAR))
    print("fits")
except ImageError:
    print("ImageError")
"""
    assert bounded(code) in ("fits", "ImageError")


# Attributes


def test_the_attributes_that_a_layer_may_set():
    member = F("a")
    member.xattrs = {
        b"user.a": b"1", b"security.capability": b"2", b"security.selinux": b"3", b"user.overlay.opaque": b"y", b"user.overlay.whiteout": b"", b"trusted.overlay.opaque": b"y",
        b"trusted.x": b"4", b"system.posix_acl_access": b"5", b"user." + b"n" * 251: b"6", b"user." + b"n" * 250: b"7", b"user.\0": b"8", b"user.big": b"v" * 65536, b"user.fits": b"v" * 65535,
        b"other": b"9", b"": b"10",
    }  # fmt: skip
    assert sorted(xattrs_of(member)) == [b"security.capability", b"security.selinux", b"user.a", b"user.fits", b"user." + b"n" * 250]


def test_attributes_belong_to_the_file_and_not_to_its_name():
    raw = extended({b"SCHILY.xattr.user.a": b"1"}) + entry(b"a", b"x") + extended({b"SCHILY.xattr.user.b": b"2"}) + header(b"b", b"1", link=b"a") + END
    children = tree_of(raw).root.children
    assert children[b"a"] is children[b"b"] and children[b"a"].xattrs == {b"user.a": b"1"}


# As GNU tar unpacks them


GNU = {
    "a file over a file": [("f", "a", "1"), ("f", "a", "22")],
    "a file over a link": [("f", "c", "1"), ("l", "a", "c"), ("f", "a", "22")],
    "a directory over a link": [("d", "c", ""), ("l", "a", "c"), ("d", "a", ""), ("f", "a/x", "1")],
    "a link over a file": [("f", "a", "1"), ("l", "a", "b")],
    "a link over an empty directory": [("d", "a", ""), ("d", "b", ""), ("l", "a", "b"), ("f", "a/x", "1")],
    "a file over an empty directory": [("d", "a", ""), ("f", "a", "1")],
    "a directory over a file": [("f", "a", "1"), ("d", "a", ""), ("f", "a/x", "22")],
    "no parents": [("f", "a/b/c", "1")],
    "hard links": [("f", "a", "1"), ("h", "b", "a"), ("h", "d/c", "b"), ("f", "a", "22")],
    "a hard link over a file": [("f", "a", "1"), ("f", "b", "22"), ("h", "b", "a")],
    "a hard link to a link": [("f", "a", "1"), ("l", "l", "a"), ("h", "h", "l")],
    "through a link": [("d", "d", ""), ("l", "l", "d"), ("f", "l/x", "1"), ("h", "y", "l/x"), ("d", "l/s", "")],
    "through links": [("d", "d/e", ""), ("l", "l", "d/e"), ("l", "m", "l"), ("f", "m/x", "1"), ("f", "l/x", "22")],
    "a directory again": [("d", "a", ""), ("f", "a/x", "1"), ("d", "a", "")],
    "a fifo": [("p", "a", ""), ("h", "b", "a")],
    "odd names": [("f", "./a//b", "1"), ("f", "a\nb", "22"), ("d", "x/./y/", "")],
}  # fmt: skip


@pytest.mark.skipif(not shutil.which("tar") or b"GNU" not in subprocess.run(["tar", "--version"], capture_output=True).stdout, reason="needs GNU tar")
@pytest.mark.parametrize("name", GNU)
def test_the_same_as_gnu_tar(tmp_path, name):
    kinds = {"f": b"0", "l": b"2", "h": b"1", "d": b"5", "p": b"6"}
    raw = b"".join(
        entry(path.encode(), what.encode()) if kind == "f" else header(path.encode(), kinds[kind], mode=0o755, link=what.encode()) for kind, path, what in GNU[name]
    ) + END  # fmt: skip
    subprocess.run(["tar", "-x", "-f", "-", "-C", str(tmp_path), "--no-same-owner"], input=raw, check=True)
    wanted = {}
    for path in tmp_path.rglob("*"):
        info = path.lstat()
        kind = stat.S_IFMT(info.st_mode)
        what = {stat.S_IFREG: lambda p: p.read_text(), stat.S_IFLNK: os.readlink}.get(kind, lambda p: "")(path)
        wanted[str(path.relative_to(tmp_path))] = (kind, what, info.st_nlink if kind != stat.S_IFDIR else 0)
    assert {path: (stat.S_IFMT(node.mode), content, links) for path, node, content, links in unpacked(raw)} == wanted


def unpacked(raw: bytes) -> list[tuple[str, Node, str, int]]:
    found = []
    left: list[tuple[Path, Node]] = [(Path(), tree_of(raw).root)]
    while left:
        above, directory = left.pop()
        for name, node in directory.children.items():
            path = above / os.fsdecode(name)
            what = raw[node.offset : node.offset + node.size].decode() if stat.S_ISREG(node.mode) else node.target.decode()
            found.append((str(path), node, what, node.links if node.children is None else 0))
            if node.children is not None:
                left.append((path, node))
    return found
