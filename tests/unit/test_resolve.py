"""Images by name, users by name and number, and what of the host is hidden."""

from __future__ import annotations

import os
import tarfile

import pytest
from hypothesis import given, settings, strategies as st

from hutch.errors import ImageError, UsageError
from hutch.image import host, resolve
from hutch.image.archive import reading
from hutch.image.layers import unmounted
from hutch.image.rootfs import Hidden, Rootfs, View
from hutch.image.store import names
from hutch.image.store.content import Content
from tests import archives
from tests.archives import directory, link, member, tar
from tests.unit.machines import ROOT_HYBRID, SINGLE

PASSWD = """root:x:0:0:root:/root:/bin/sh
anna:x:1000:1001:Anna:/home/anna:/bin/sh
bob:x:1001:1001::/home/bob:/bin/sh
nohome:x:1002:1002:::/bin/sh
1234:x:5:5::/five:/bin/sh
short:x:1:2
notanumber:x:abc:1::/:/bin/sh
+1:x:7:7::/seven:
"""
GROUP = "root:x:0:\nanna:x:1001:\naudio:x:29:anna,bob\nvideo:x:44:bob,anna\nwheel:x:10:annab\nbroken:x:z:anna\n"


# a user's own directory, and an archive's two forms: an index of it, and unpacked
FORMS = ("directory", *archives.FORMS)


def build(form: str, place, *layers: list[archives.Entry]) -> Rootfs:
    """A root file system of layers, from the lowest to the topmost."""
    if form != "directory":
        return archives.rootfs(form, place, *(tar(*members) for members in layers))
    tops = []
    for number, members in enumerate(layers):
        tops.append(place / f"directory-{number}")
        for info, content in members:
            path = tops[-1] / info.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if info.isdir():
                path.mkdir(exist_ok=True)
            elif info.issym():
                os.symlink(info.linkname, path)
            elif info.isfifo():
                os.mkfifo(path)
            else:
                path.write_bytes(content)
    return Rootfs(name="x", views=(View(path="/", lowers=tuple(map(str, reversed(tops)))),))


def make(form: str, place, passwd: str = PASSWD, group: str = GROUP) -> Rootfs:
    return build(form, place, [directory("etc"), member("etc/passwd", content=passwd.encode()), member("etc/group", content=group.encode())])


@pytest.fixture(scope="module", params=FORMS)
def rootfs(request, tmp_path_factory) -> Rootfs:
    return make(request.param, tmp_path_factory.mktemp("root"))


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


@pytest.mark.parametrize(
    ("text", "groups", "uid", "gid", "extra", "home"),
    [
        ("", (), 0, 0, (), "/root"),
        ("root", (), 0, 0, (), "/root"),
        ("anna", (), 1000, 1001, (29, 44), "/home/anna"),
        ("1000", (), 1000, 1001, (29, 44), "/home/anna"),
        ("anna:audio", (), 1000, 29, (), "/home/anna"),
        ("anna:5", (), 1000, 5, (), "/home/anna"),
        ("1000:0", (), 1000, 0, (), "/home/anna"),
        ("4242", (), 4242, 0, (), "/"),
        ("4242:4243", (), 4242, 4243, (), "/"),
        ("nohome", (), 1002, 1002, (), "/"),
        ("anna", ("video", "7", "29"), 1000, 1001, (29, 44, 7), "/home/anna"),
        ("anna:audio", ("video",), 1000, 29, (44,), "/home/anna"),
        ("", ("audio",), 0, 0, (29,), "/root"),
        ("2147483647", (), 2**31 - 1, 0, (), "/"),
        # a name that looks like a number is a number
        ("1234", (), 1234, 0, (), "/"),
        ("5", (), 5, 5, (), "/five"),
    ],
)
def test_user(rootfs, text, groups, uid, gid, extra, home):
    user, where = resolve.user(text, groups, rootfs)
    assert (user.uid, user.gid, user.additional_gids, where) == (uid, gid, extra, home)


@pytest.mark.parametrize(
    "text",
    [
        "nobody-here", "0x0", "-1", "-0", " 0", "0 ", "0\n", "٣", "²", "١٠٠٠", "1e3", "0b0", "1_000", "1000:", ":5", ":", "anna:nogroup", "1000:0x0", "1000:+1",
        "1000:٣", "2147483648", "4294967295", "4294967296", "99999999999999999999", "1000:4294967296", "anna:anna:anna", "root:root:", "notanumber", "short", "anna:broken",
        "root\0", "Root",
    ],
)  # fmt: skip
def test_user_refused(rootfs, text):
    """Nothing of this is root, and nothing is taken for a number that is none (crun's CVE-2026-30892)."""
    with pytest.raises(UsageError):
        resolve.user(text, (), rootfs)


def test_plus_is_a_name(rootfs):
    assert resolve.user("+1", (), rootfs)[0].uid == 7


@pytest.mark.parametrize("group", ["nogroup", "-1", "0x0", "", "٣", "4294967296"])
def test_group_refused(rootfs, group):
    with pytest.raises(UsageError):
        resolve.user("anna", (group,), rootfs)


@pytest.mark.parametrize("text", ["9" * 5000, f"0:{'9' * 5000}"])
def test_endless_numbers(rootfs, text):
    """int() itself refuses more than 4300 digits, with a ValueError."""
    with pytest.raises(UsageError):
        resolve.user(text, (), rootfs)


@settings(max_examples=200, deadline=None)
@given(text=st.text("0123456789:+-x٣² \nrotan", max_size=8))
def test_user_is_total(rootfs, text):
    try:
        user, _ = resolve.user(text, (), rootfs)
    except UsageError:
        return
    name = text.partition(":")[0]
    assert user.uid != 0 or name in ("", "root") or set(name) == {"0"}


def test_no_passwd_at_all(tmp_path, form):
    bare = build(form, tmp_path, [directory("usr")])
    assert resolve.user("5:6", ("7",), bare)[0].additional_gids == (7,)
    for text in ("root", "anna", "0:root"):
        with pytest.raises(UsageError, match="is not in the image's /etc/"):
            resolve.user(text, (), bare)


def test_first_entry_wins(tmp_path, form):
    found = make(form, tmp_path, "a:x:5:5::/first:\na:x:0:0::/second:\nb:x:5:0::/third:\n")
    assert resolve.user("a", (), found)[0].uid == 5
    assert resolve.user("5", (), found) == resolve.user("a", (), found)


@pytest.mark.parametrize("line", ["evil:x:²:0::/:", "evil:x:0:²::/:", "evil:x:1:" + "9" * 5000 + "::/:", "evil:x:4294967296:0::/:", "evil:x:1:4294967296::/:"])
def test_hostile_passwd(tmp_path, form, line):
    """The image's file, not the user's words: it must not crash, nor wrap round to root."""
    with pytest.raises(UsageError):
        resolve.user("evil", (), make(form, tmp_path, PASSWD + line + "\n"))


@pytest.mark.parametrize("gid", ["²", "4294967296", "4294967295", "9" * 5000])
def test_hostile_group(tmp_path, form, gid):
    """A group of 2**32 is group 0 by the time that setgroups(2) sees it."""
    found = make(form, tmp_path, group=f"big:x:{gid}:anna\n")
    try:
        user, _ = resolve.user("anna", (), found)
    except UsageError:
        return
    assert all(0 <= g < 2**31 for g in user.additional_gids)


def test_digits_of_other_scripts_in_passwd(tmp_path, form):
    with pytest.raises(UsageError):
        resolve.user("evil", (), make(form, tmp_path, PASSWD + "evil:x:٠:٠::/:\n"))


def test_only_newlines_end_a_line(tmp_path, form):
    """A form feed or U+2028 in a comment begins no entry: libc's readers go by newlines."""
    found = make(form, tmp_path, "anna:x:1000:1000:hi\u2028evil:x:0:0::/:/bin/sh\n")
    with pytest.raises(UsageError):
        resolve.user("evil", (), found)


def test_passwd_is_read_inside_the_root(tmp_path, form):
    """A link in the image leads to a file of the image's, or nowhere."""
    found = build(form, tmp_path, [directory("etc"), link("etc/passwd", "/etc/hostname")])
    assert unmounted.read(found, "/etc/passwd") is None
    up = build(form, tmp_path / "up", [directory("etc"), link("etc/passwd", "../" * 20 + "etc/hostname"), member("etc/hostname", content=b"inside")])
    assert unmounted.read(up, "/etc/passwd") == "inside"
    elsewhere = build(form, tmp_path / "to", [directory("a"), link("etc", "../a/../a/"), member("a/passwd", content=b"inside")])
    assert unmounted.read(elsewhere, "/etc/passwd") == unmounted.read(elsewhere, "etc/../etc/./passwd") == "inside"


@pytest.mark.parametrize("target", ["passwd", "/etc/passwd", "../etc/passwd", "other", "/proc/self/root/etc/hostname"])
def test_links_in_circles(tmp_path, form, target):
    found = build(form, tmp_path, [directory("etc"), link("etc/passwd", target), link("etc/other", "passwd")])
    assert unmounted.read(found, "/etc/passwd") is None


def test_passwd_that_is_no_file(tmp_path, form):
    found = build(form, tmp_path, [directory("etc/passwd"), member("etc/group", tarfile.FIFOTYPE)])
    assert unmounted.read(found, "/etc/passwd") is None
    assert unmounted.read(found, "/etc/group") is None
    assert unmounted.read(found, "/etc/group/below") is None


def test_a_passwd_of_any_size(tmp_path, form):
    """What is read of it is bounded."""
    found = make(form, tmp_path, PASSWD + "x" * (unmounted.FILE_LIMIT + 100))
    assert len(unmounted.read(found, "/etc/passwd")) == unmounted.FILE_LIMIT
    assert unmounted.read(found, "/etc/passwd", 5) == "root:"
    assert resolve.user("anna", (), found)[0].uid == 1000


def test_topmost_layer_wins(tmp_path, form):
    found = build(form, tmp_path, [member("etc/passwd", content=b"a"), member("etc/low", content=b"low")], [member("etc/passwd", content=b"b")])
    assert unmounted.read(found, "/etc/passwd") == "b"
    assert unmounted.read(found, "/etc/low") == "low"
    replaced = build(form, tmp_path / "r", [member("etc/passwd", content=b"a")], [member("etc", content=b"a file in its place")])
    assert unmounted.read(replaced, "/etc/passwd") is None
    linked = build(form, tmp_path / "l", [member("real/passwd", content=b"a"), directory("etc")], [link("etc", "real")])
    assert unmounted.read(linked, "/etc/passwd") == "a"


def test_views_of_a_split_root(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc/passwd").write_text(name)
    split = (View(path="/usr", lowers=(str(tmp_path / "a"),)), View(path="/etc", lowers=(str(tmp_path / "b/etc"),)))
    assert unmounted.read(Rootfs(name="x", views=split), "/etc/passwd") == "b"


@pytest.mark.parametrize("form", list(archives.FORMS))
def test_what_a_layer_hides_has_no_users(tmp_path, form):
    """Whiteouts and opaque directories: who is no user in the container is none for the lookup either."""
    low = [directory("etc"), member("etc/passwd", content=PASSWD.encode()), member("etc/group", content=GROUP.encode())]
    assert unmounted.read(build(form, tmp_path / "1", low, [member("etc/.wh.passwd")]), "/etc/passwd") is None
    assert unmounted.read(build(form, tmp_path / "2", low, [member(".wh.etc")]), "/etc/passwd") is None
    opaque = build(form, tmp_path / "3", low, [member("etc/.wh..wh..opq"), member("etc/group", content=b"own")])
    assert (unmounted.read(opaque, "/etc/passwd"), unmounted.read(opaque, "/etc/group")) == (None, "own")
    again = build(form, tmp_path / "4", low, [member("etc/.wh.passwd")], [member("etc/passwd", content=b"again")])
    assert unmounted.read(again, "/etc/passwd") == "again"
    with pytest.raises(UsageError):
        resolve.user("anna", (), opaque)


# Names


@pytest.fixture
def data(monkeypatch, tmp_path):
    """A store of the test's own."""
    monkeypatch.setenv("HUTCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["alpine", "docker.io/library/alpine", "localhost:5000/x:1", "image.tar", f"alpine@sha256:{'0' * 64}", "deadbeef"])
def test_names_that_are_not_in_the_store(data, name):
    with pytest.raises(resolve.MissingImage, match="is not in the store") as caught:
        resolve.resolve(name, ROOT_HYBRID)
    assert isinstance(caught.value, ImageError) and name in caught.value.message and caught.value.hint


@pytest.mark.parametrize("name", ["", "~/x", "Alpine", "a:", "a@sha256:0", "-a", "a/../b", "a//b", "a b", "\0", "²"])
def test_names_that_are_none(data, name):
    """Nothing that could be asked of a registry."""
    with pytest.raises(UsageError):
        resolve.resolve(name, ROOT_HYBRID)


def test_images_by_name(data, tmp_path):
    """An image of the store: by its name, its digest, and its id's beginning; not by somebody else's digest."""
    place = archives.layout(tmp_path / "layout", tar(directory("etc"), member("etc/passwd", content=PASSWD.encode())), image={"User": "anna", "Env": ["A=b"]})
    store = Content()
    loaded = reading.load(store, str(place), "x", SINGLE, f"linux/{archives.ARCHITECTURE}")[0]
    names.put(store, "docker.io/library/thing:latest", loaded.digest, loaded.digest, loaded.config.platform)
    identity = loaded.manifest.config.digest
    for name in ("thing", "docker.io/thing:latest", f"thing@{loaded.digest}", identity, identity[7:], identity[7:19], identity[7:10]):
        found = resolve.resolve(name, SINGLE)
        assert (found.name, found.manifest, found.config.user) == (name, loaded.digest, "anna")
        assert resolve.user(found.config.user, (), found)[0].uid == 1000
        assert resolve.resolve(name, SINGLE) is found
    for name in ("thing:other", "x.org/thing", f"other@{loaded.digest}", f"thing@sha256:{'0' * 64}"):
        with pytest.raises(resolve.MissingImage):
            resolve.resolve(name, SINGLE)


def test_image_paths(data, tmp_path, monkeypatch):
    with pytest.raises(ImageError, match=f"image {tmp_path}/no: No such file or directory"):
        resolve.resolve(f"{tmp_path}/no", ROOT_HYBRID)
    found = resolve.resolve(str(tmp_path), ROOT_HYBRID)
    assert found.lowers == (str(tmp_path),) and found.views[0].path == "/"
    assert resolve.resolve(str(tmp_path), ROOT_HYBRID) is found
    monkeypatch.chdir(tmp_path)
    assert resolve.resolve(".", ROOT_HYBRID).lowers == (str(tmp_path),)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty.tar").write_text("")
    os.mkfifo(tmp_path / "fifo")
    for name in ("./notes.txt", "./empty.tar", "./fifo", "/dev/null"):
        with pytest.raises(ImageError):
            resolve.resolve(name, ROOT_HYBRID)


# What is hidden


def tree(top, files: dict[str, int]) -> None:
    for name, mode in files.items():
        path = top / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
    for name, mode in reversed(files.items()):
        (top / name).chmod(mode)


def test_scan(tmp_path):
    tree(tmp_path, {
        "a/": 0o755, "a/b/": 0o750, "a/b/inner": 0o644, "a/c/": 0o711, "a/d/": 0o701, "a/e/": 0o705, "a/e/key": 0o640,
        "open": 0o644, "shadow": 0o640, "mine": 0o600, "odd": 0o004, "x": 0o001,
    })  # fmt: skip
    os.symlink("shadow", tmp_path / "link")
    os.symlink("/nowhere", tmp_path / "dangling")
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert host.scan(str(tmp_path)) == (
        Hidden(path="a/b", parents=(0o755,)),
        Hidden(path="a/c", parents=(0o755,)),
        Hidden(path="a/d", parents=(0o755,)),
        Hidden(path="a/e/key", parents=(0o755, 0o705)),
        Hidden(path="mine"),
        Hidden(path="pipe"),
        Hidden(path="shadow"),
        Hidden(path="x"),
    )


def test_scan_of_nothing(tmp_path):
    assert host.scan(f"{tmp_path}/no") == () and host.scan(str(tmp_path)) == ()


def test_scan_odd_names(tmp_path):
    name = os.fsdecode(b"\xff bad\nname")
    tree(tmp_path, {name: 0o600})
    assert host.scan(str(tmp_path)) == (Hidden(path=name),)


def test_scan_beyond_its_depth(tmp_path):
    """What lies too deep to be looked at is not shown unlooked at."""
    tree(tmp_path, {"a/": 0o755, "a/b/": 0o755, "a/b/key": 0o600})
    hidden = {h.path for h in host.scan(str(tmp_path), 1)}
    assert any("a/b/key".startswith(path) for path in hidden)


def test_host_view():
    found = host.resolve(ROOT_HYBRID)
    paths = {view.path for view in found.views}
    assert {"/usr", "/etc"} <= paths and not paths & {"/home", "/root", "/var", "/run", "/tmp"}
    assert {"proc", "sys", "dev", "tmp"} <= {path for path, _ in found.directories}
    etc = next(view for view in found.views if view.path == "/etc")
    hidden = {h.path for h in etc.hidden}
    if os.path.exists("/etc/shadow"):
        assert "shadow" in hidden
    for h in etc.hidden:
        assert len(h.parents) == h.path.count("/")
