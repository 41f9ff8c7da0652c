"""Images by name, users by name and number, and what of the host is hidden."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings, strategies as st

from hutch.errors import HutchError, ImageError, UsageError
from hutch.image import host, resolve
from hutch.image.rootfs import Hidden, Rootfs, View
from tests.unit.machines import ROOT_HYBRID

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


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory) -> Rootfs:
    top = tmp_path_factory.mktemp("root")
    (top / "etc").mkdir()
    (top / "etc/passwd").write_text(PASSWD)
    (top / "etc/group").write_text(GROUP)
    return Rootfs(name="x", views=(View(path="/", lowers=(str(top),)),))


def make(tmp_path, passwd: str = PASSWD, group: str = GROUP) -> Rootfs:
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/passwd").write_text(passwd)
    (tmp_path / "etc/group").write_text(group)
    return Rootfs(name="x", views=(View(path="/", lowers=(str(tmp_path),)),))


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


def test_no_passwd_at_all(tmp_path):
    bare = Rootfs(name="x", views=(View(path="/", lowers=(str(tmp_path),)),))
    assert resolve.user("5:6", ("7",), bare)[0].additional_gids == (7,)
    for text in ("root", "anna", "0:root"):
        with pytest.raises(UsageError, match="is not in the image's /etc/"):
            resolve.user(text, (), bare)


def test_first_entry_wins(tmp_path):
    found = make(tmp_path, "a:x:5:5::/first:\na:x:0:0::/second:\nb:x:5:0::/third:\n")
    assert resolve.user("a", (), found)[0].uid == 5
    assert resolve.user("5", (), found) == resolve.user("a", (), found)


@pytest.mark.parametrize("line", ["evil:x:²:0::/:", "evil:x:0:²::/:", "evil:x:1:" + "9" * 5000 + "::/:", "evil:x:4294967296:0::/:", "evil:x:1:4294967296::/:"])
def test_hostile_passwd(tmp_path, line):
    """The image's file, not the user's words: it must not crash, nor wrap round to root."""
    with pytest.raises(UsageError):
        resolve.user("evil", (), make(tmp_path, PASSWD + line + "\n"))


@pytest.mark.parametrize("gid", ["²", "4294967296", "4294967295", "9" * 5000])
def test_hostile_group(tmp_path, gid):
    """A group of 2**32 is group 0 by the time that setgroups(2) sees it."""
    found = make(tmp_path, group=f"big:x:{gid}:anna\n")
    try:
        user, _ = resolve.user("anna", (), found)
    except UsageError:
        return
    assert all(0 <= g < 2**31 for g in user.additional_gids)


def test_digits_of_other_scripts_in_passwd(tmp_path):
    with pytest.raises(UsageError):
        resolve.user("evil", (), make(tmp_path, PASSWD + "evil:x:٠:٠::/:\n"))


def test_only_newlines_end_a_line(tmp_path):
    """A form feed or U+2028 in a comment begins no entry: libc's readers go by newlines."""
    found = make(tmp_path, "anna:x:1000:1000:hi\u2028evil:x:0:0::/:/bin/sh\n")
    with pytest.raises(UsageError):
        resolve.user("evil", (), found)


def test_passwd_is_read_inside_the_root(tmp_path):
    """A link in the image leads to a file of the image's, or nowhere."""
    (tmp_path / "etc").mkdir()
    os.symlink("/etc/hostname", tmp_path / "etc/passwd")
    found = Rootfs(name="x", views=(View(path="/", lowers=(str(tmp_path),)),))
    assert resolve.read_in(found, "/etc/passwd") is None
    (tmp_path / "etc/hostname").write_text("inside")
    assert resolve.read_in(found, "/etc/passwd") == "inside"


def test_passwd_that_is_no_file(tmp_path):
    (tmp_path / "etc/passwd").mkdir(parents=True)
    os.mkfifo(tmp_path / "etc/group")
    found = Rootfs(name="x", views=(View(path="/", lowers=(str(tmp_path),)),))
    assert resolve.read_in(found, "/etc/passwd") is None
    assert resolve.read_in(found, "/etc/group") is None


def test_topmost_layer_wins(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc/passwd").write_text(name)
    views = (View(path="/", lowers=(str(tmp_path / "b"), str(tmp_path / "a"))),)
    assert resolve.read_in(Rootfs(name="x", views=views), "/etc/passwd") == "b"
    split = (View(path="/usr", lowers=(str(tmp_path / "a"),)), View(path="/etc", lowers=(str(tmp_path / "b/etc"),)))
    assert resolve.read_in(Rootfs(name="x", views=split), "/etc/passwd") == "b"


# Names


@pytest.mark.parametrize("name", ["alpine", "docker.io/library/alpine", "", "~/x", "image.tar"])
def test_image_names(name):
    with pytest.raises(ImageError, match="image names are not supported yet"):
        resolve.resolve(name, ROOT_HYBRID)


def test_image_paths(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match=f"image {tmp_path}/no: No such file or directory"):
        resolve.resolve(f"{tmp_path}/no", ROOT_HYBRID)
    found = resolve.resolve(str(tmp_path), ROOT_HYBRID)
    assert found.lowers == (str(tmp_path),) and found.views[0].path == "/"
    assert resolve.resolve(str(tmp_path), ROOT_HYBRID) is found
    monkeypatch.chdir(tmp_path)
    assert resolve.resolve(".", ROOT_HYBRID).lowers == (str(tmp_path),)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(HutchError):
        resolve.resolve("./notes.txt", ROOT_HYBRID)


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
