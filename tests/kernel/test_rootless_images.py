"""Images, volumes and copies of an ordinary user: owners are the archive's, and everything that was made can be removed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import directory, hard, link, member, tar
from tests.conftest import system_python
from tests.registry import base, make, serving

pytestmark = pytest.mark.root  # to become that user

NAME = "localhost/owners:1"
STAT = "cd / && stat -c '%n %u:%g %a' "
STRANGER = 54321  # an id that nobody has, and so none with subordinate ids
CHARACTER, BLOCK, FIFO = b"3", b"4", b"6"


def owned(name: str, number: int, mode: int = 0o644, content: bytes = b"x\n", **more: object):
    return member(name, content=content, mode=mode, uid=number, gid=number, **more)


def lower() -> bytes:
    """A root file system with files of many owners, modes and kinds."""
    return base(
        directory("srv"),
        owned("srv/root", 0, 0o600),
        owned("srv/daemon", 1, 0o640),
        owned("srv/www", 33, 0o600, b"www\n"),
        owned("srv/setuid", 33, 0o4755),
        owned("srv/setgid", 1, 0o2711),
        owned("srv/nothing", 33, 0o000),
        owned("srv/far", 65535, 0o444),
        hard("srv/www-again", "srv/www"),
        member("srv/pointer", b"2", "www", uid=33, gid=33),
        member("srv/pipe", FIFO, mode=0o622, uid=1, gid=1),
        member("srv/null", CHARACTER, mode=0o666, devmajor=1, devminor=3),
        member("srv/disk", BLOCK, mode=0o600, devmajor=8, devminor=0),
        member("srv/private", b"5", mode=0o700, uid=33, gid=33),
        owned("srv/private/inside", 33, 0o600, b"inside\n"),
        member("srv/locked", b"5", mode=0o500, uid=1, gid=1),
        owned("srv/locked/inside", 33, 0o400),
        member("srv/sticky", b"5", mode=0o3777, uid=1, gid=33),
        directory("srv/opaque"),
        owned("srv/opaque/old", 33),
        directory("srv/gone"),
        owned("srv/gone/old", 33),
        owned("srv/hidden", 1),
    )


def upper() -> bytes:
    """A layer on it that hides some of it."""
    return tar(
        member("srv/.wh.hidden"), member("srv/.wh.gone"), member("srv/opaque/.wh..wh..opq"), owned("srv/opaque/new", 33, 0o640), owned("srv/daemon", 33, 0o604)
    )


SEEN = {
    "srv/root": "0:0 600", "srv/daemon": "33:33 604", "srv/www": "33:33 600", "srv/www-again": "33:33 600", "srv/setuid": "33:33 4755",
    "srv/setgid": "1:1 2711", "srv/nothing": "33:33 0", "srv/far": "65535:65535 444", "srv/pointer": "33:33 777", "srv/pipe": "1:1 622",
    "srv/private": "33:33 700", "srv/private/inside": "33:33 600", "srv/locked": "1:1 500", "srv/locked/inside": "33:33 400",
    "srv/sticky": "1:33 3777", "srv/opaque/new": "33:33 640",
}  # fmt: skip
LIST = "find /srv | while read f; do stat -c '%n %u:%g %a' $f; done"


def listed(text: str) -> dict[str, str]:
    """What `LIST` printed, by path."""
    rows = (line.split(" ", 1) for line in text.splitlines())
    return {path.lstrip("/"): rest for path, rest in rows}


class User:
    """Somebody with a store of his own, and a place to exchange files in."""

    def __init__(self, run, place: Path, uid: int) -> None:
        self._run, self.place, self.data, self.uid = run, place, place / "data", uid

    def try_(self, *words: str, **options) -> subprocess.CompletedProcess:
        return self._run("-m", "hutch.cli", *words, **options)

    def __call__(self, *words: str, **options) -> str:
        done = self.try_(*words, **options)
        assert done.returncode == 0, f"hutch {' '.join(words)}: {done.returncode}, {done.stdout!r}, {done.stderr!r}"
        return done.stdout

    def code(self, text: str, **options) -> str:
        done = self._run("-c", text, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def give(self, path: str, content: bytes | None = None) -> str:
        """A file, or what already lies there, is this user's now."""
        full = self.place / path
        if content is not None:
            full.write_bytes(content)
        for here in (full, *full.rglob("*")):
            os.lchown(here, self.uid, self.uid)
        return str(full)

    def archive(self, image=None, name: str = NAME) -> str:
        """A path of an archive of an image."""
        with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
            (image or make(lower(), upper())).write(Path(scratch) / "layout", name)
            subprocess.run(["tar", "-C", f"{scratch}/layout", "-cf", str(self.place / "image.tar"), "."], check=True)
        return self.give("image.tar")

    def load(self, image=None, name: str = NAME) -> None:
        assert name.rpartition("/")[2] in self("load", "-i", self.archive(image, name))

    def see(self, image: str = NAME) -> dict[str, str]:
        return listed(self("run", image, "sh", "-c", LIST))

    def clean(self) -> None:
        """Remove everything by the commands that are there for it, and see that nothing stays."""
        self("system", "prune", "-a", "-f")
        self("volume", "prune", "-a")
        for name in ("layers", "ingest", "content/sha256", "images", "leases", "volumes", "files"):
            left = list((self.data / name).iterdir()) if (self.data / name).exists() else []
            left = [path for path in left if name != "leases" or path.name not in ("gate", ".gate", "lock")]
            assert not left, f"{name}: {left}"
        strangers = [path for path in self.data.rglob("*") if path.lstat().st_uid != self.uid]
        assert not strangers


@pytest.fixture
def user(as_user, ordinary_user) -> Iterator[User]:
    if not shutil.which("newuidmap"):
        pytest.skip("needs newuidmap")
    data = Path(as_user("-c", "import os; print(os.environ['HUTCH_DATA'])").stdout.strip())
    found = User(as_user, data.parent, ordinary_user.pw_uid)
    yield found
    for name in found("ps", "-aq").split():
        found.try_("rm", "-f", name)


@pytest.fixture
def single(public_source) -> Iterator[User]:
    """A user without subordinate ids."""
    place = Path(tempfile.mkdtemp(prefix="hutch-single-", dir="/var/tmp"))
    os.chown(place, STRANGER, STRANGER)
    environment = {"HOME": str(place), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(public_source), "HUTCH_STATE": f"{place}/state", "HUTCH_DATA": f"{place}/data"}  # fmt: skip
    words = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", system_python()]

    def run(*arguments: str, **options) -> subprocess.CompletedProcess:
        options.setdefault("timeout", 60)
        options.setdefault("text", True)
        return subprocess.run([*words, *arguments], capture_output=True, check=False, env=environment, cwd="/", **options)

    found = User(run, place, STRANGER)
    yield found
    for name in found("ps", "-aq").split():
        found.try_("rm", "-f", name)
    left = [name for name in os.listdir(place / "state") if not name.startswith(".")] if (place / "state").exists() else []
    shutil.rmtree(place)
    assert not left


def members(path: str | bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(path)) if isinstance(path, bytes) else tarfile.open(path) as archive:
        return {info.name.removeprefix("./").rstrip("/"): info for info in archive}


# load and run


def test_owners_modes_and_kinds_are_the_archives(user):
    user.load()
    found = user.see()
    assert {path: found.get(path) for path in SEEN} == SEEN
    assert not {"srv/hidden", "srv/gone", "srv/gone/old", "srv/opaque/old"} & set(found)
    out = user(
        "run",
        NAME,
        "sh",
        "-c",
        "stat -c %h /srv/www /srv/www-again; cat /srv/www-again /srv/private/inside; ls -A /srv/opaque; ls /srv/null /srv/disk 2>&1 || true",
    )
    assert out.split("\n")[:4] == ["2", "2", "www", "inside"] and out.split("\n")[4] == "new" and out.count("No such file") == 2
    # who may do what is the archive's, too
    out = user("run", "-u", "33:33", NAME, "sh", "-c", "cat /srv/www /srv/private/inside; cat /srv/root 2>&1 || true; ls /srv/locked 2>&1 || true")
    assert out.startswith("www\ninside\n") and out.count("Permission denied") == 2
    assert user.try_("run", "-u", "1:1", NAME, "cat", "/srv/private/inside").returncode == 1


def test_on_disk_they_belong_to_subordinate_ids(user):
    user.load()
    owners = {path.lstat().st_uid for path in user.data.rglob("*")}
    assert user.uid in owners and len(owners) >= 4 and 0 not in owners and 33 not in owners
    for path in ("layers", "content/sha256", "images"):
        assert (user.data / path).stat().st_mode & 0o077 == 0


def test_from_standard_input_a_directory_and_compressed(user):
    path = user.archive()
    with open(path, "rb") as file:
        assert NAME in user("load", stdin=file)
    identity = user("images", "-q", "--no-trunc").strip()
    make(lower(), upper()).write(user.place / "layout", NAME)
    user.give("layout")
    user("load", "-q", "-i", str(user.place / "layout"))
    subprocess.run(["gzip", "-k", path], check=True)
    user("load", "-q", "-i", user.give("image.tar.gz"))
    assert user("images", "-q", "--no-trunc").strip() == identity


def test_import_and_run(user):
    path = user.give("root.tar", lower())
    user("import", "-c", 'CMD ["/bin/sh", "-c", "stat -c %u /srv/www"]', path, "mine:1")
    assert user("run", "mine:1") == "33\n"


def test_hostile_owners_are_an_error_that_says_so(user):
    """An owner that the user's mapping has no id for."""
    path = user.give("root.tar", base(owned("etc/far", 70000)))
    done = user.try_("import", path, "far:1")
    if done.returncode == 0:
        done = user.try_("run", "far:1", "stat", "-c", "%u", "/etc/far")
    assert "Traceback" not in done.stderr
    assert done.returncode == 125 and "etc/far" in done.stderr, done.stderr
    user.try_("rmi", "far:1")
    user.clean()


# changes


CHANGE = """set -e
cd /srv
echo mine > new; busybox chown 5:6 new; chmod 4711 new
mkdir -p made/deep; busybox chown -R 33:33 made; chmod 700 made
echo w >> www
rm daemon
rm -r opaque; mkdir opaque; echo o > opaque/third; busybox chown 7:7 opaque
busybox chown 1:1 root
rm -r private; busybox ln new new-again; busybox ln -s new pointer2; busybox mkfifo pipe2
"""
CHANGED = {
    "srv/new": "5:6 4711", "srv/new-again": "5:6 4711", "srv/made": "33:33 700", "srv/made/deep": "33:33 755", "srv/www": "33:33 600",
    "srv/opaque": "7:7 755", "srv/opaque/third": "0:0 644", "srv/root": "1:1 600", "srv/setuid": "33:33 4755", "srv/pipe2": "0:0 644",
}  # fmt: skip
GONE = {"srv/daemon", "srv/private", "srv/private/inside", "srv/opaque/new", "srv/opaque/old", "srv/hidden", "srv/gone"}


def changed(user: User, *flags: str) -> str:
    """A detached container that has changed what it was made from; its name."""
    user.load()
    user("run", "-d", "--name", "box", *flags, NAME, "sh", "-c", f"{CHANGE}touch /done; sleep 1000")
    deadline = time.monotonic() + 20
    while user.try_("exec", "box", "stat", "/done").returncode:
        assert time.monotonic() < deadline, user.try_("logs", "box")
        time.sleep(0.05)
    return "box"


def stop(user: User, name: str) -> None:
    user("stop", "-t", "1", name)
    assert name in user("ps", "-a")


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
@pytest.mark.parametrize("flags", [(), ("--upper", "disk")], ids=["default", "disk"])
def test_commit(user, flags, stopped):
    box = changed(user, *flags)
    if stopped:
        stop(user, box)
    identity = user("commit", "-m", "a test", "-c", "ENV A=b", box, "localhost/changed:1").strip()
    again = user("commit", "-m", "a test", "-c", "ENV A=b", box, "localhost/changed:2").strip()
    user("rm", "-f", box)
    found = user.see("localhost/changed:1")
    assert {path: found.get(path) for path in CHANGED} == CHANGED and not GONE & set(found)
    assert user("run", "localhost/changed:1", "sh", "-c", "stat -c %h /srv/new; echo $A; cat /srv/www") == "2\nb\nwww\nw\n"
    layers = [json.loads(user("inspect", name))[0]["RootFS"]["Layers"] for name in (identity, again)]
    assert layers[0] == layers[1] and len(layers[0]) == 3
    # what is in the layer itself
    user("save", "-o", str(user.place / "saved.tar"), "localhost/changed:1")
    layer = last_layer(user.place / "saved.tar")
    assert (layer["srv/new"].uid, layer["srv/new"].gid, layer["srv/new"].mode) == (5, 6, 0o4711)
    assert layer["srv/new-again"].islnk() and layer["srv/made"].uid == 33
    assert {"srv/.wh.daemon", "srv/.wh.private", "srv/opaque/.wh..wh..opq"} <= set(layer)
    assert "srv/setuid" not in layer and not [name for name in layer if name.startswith(("proc", "sys", "dev/"))]
    user("rmi", "localhost/changed:1", "localhost/changed:2", NAME)
    user.clean()


def last_layer(path: Path) -> dict[str, tarfile.TarInfo]:
    """The members of the topmost layer of an archive's image."""
    with tarfile.open(path) as archive:

        def blob(digest: str) -> bytes:
            return archive.extractfile(f"blobs/sha256/{digest[7:]}").read()

        manifest = json.loads(blob(json.load(archive.extractfile("index.json"))["manifests"][0]["digest"]))
        return members(blob(manifest["layers"][-1]["digest"]))


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_diff(user, stopped):
    box = changed(user)
    if stopped:
        stop(user, box)
    rows = dict(reversed(line.split(" ", 1)) for line in user("diff", box).splitlines())
    expected = {
        "/srv/new": "A", "/srv/new-again": "A", "/srv/made": "A", "/srv/made/deep": "A", "/srv/www": "C", "/srv/daemon": "D", "/srv/opaque": "C",
        "/srv/opaque/third": "A", "/srv/root": "C", "/srv/private": "D", "/srv/pipe2": "A", "/done": "A",
    }  # fmt: skip
    assert {path: rows.get(path) for path in expected} == expected
    assert not [path for path in rows if path.startswith(("/proc", "/sys", "/dev/"))] and "/srv/setuid" not in rows
    user("rm", "-f", box)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_export(user, stopped):
    box = changed(user)
    if stopped:
        stop(user, box)
    user("export", "-o", str(user.place / "root.tar"), box)
    user("rm", "-f", box)
    found = members(str(user.place / "root.tar"))
    assert {name: (found[name].uid, found[name].gid) for name in ("srv/new", "srv/www", "srv/locked/inside", "srv/setgid")} == {
        "srv/new": (5, 6), "srv/www": (33, 33), "srv/locked/inside": (33, 33), "srv/setgid": (1, 1),
    }  # fmt: skip
    assert found["srv/setuid"].mode == 0o4755 and found["srv/nothing"].mode == 0 and found["srv/sticky"].mode == 0o3777
    assert found["srv/new"].islnk() or found["srv/new-again"].islnk()
    assert not GONE & set(found) and not [name for name in found if name.startswith(("proc/", "sys/")) or ".wh." in name]
    # what was exported is a root file system again
    user("import", str(user.place / "root.tar"), "again:1")
    again = user.see("again:1")
    assert {path: again.get(path) for path in CHANGED} == CHANGED
    user("rmi", "again:1", NAME)
    user.clean()


def test_disk_uppers_are_removed_with_their_containers(user):
    box = changed(user)
    assert len(list(user.data.glob("containers/*/upper-0"))) == 1
    user("rm", "-f", box)
    assert not list(user.data.glob("containers/*/upper-0"))
    user("run", "--rm", "--upper", "disk", NAME, "sh", "-c", CHANGE)
    assert not list(user.data.glob("containers/*/upper-0"))
    user("rmi", NAME)
    user.clean()


# archives


def test_save_and_load_again(user):
    user.load()
    identity = user("images", "-q", "--no-trunc")
    user("save", "-o", str(user.place / "saved.tar"), NAME)
    user("rmi", NAME)
    user.clean()
    assert NAME in user("load", "-i", str(user.place / "saved.tar"))
    assert user("images", "-q", "--no-trunc") == identity
    found = user.see()
    assert {path: found.get(path) for path in SEEN} == SEEN


def test_root_can_load_what_a_user_saved(user, hutch_cli, tmp_path, monkeypatch):
    user.load()
    user("save", "-o", str(user.place / "saved.tar"), NAME)
    monkeypatch.setenv("HUTCH_DATA", str(tmp_path / "data"))
    assert hutch_cli("load", "-i", str(user.place / "saved.tar")).returncode == 0
    done = hutch_cli("run", NAME, "sh", "-c", LIST)
    found = listed(done.stdout)
    assert {path: found.get(path) for path in SEEN} == SEEN, done.stderr
    assert hutch_cli("rmi", NAME).returncode == 0


# copies


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_cp_in_and_out(user, stopped):
    user.load()
    user("run", "-d", "--name", "box", NAME, "sleep", "1000")
    if stopped:
        stop(user, "box")
    (user.place / "tree/deep").mkdir(parents=True)
    (user.place / "tree/deep/file").write_text("from the host\n")
    (user.place / "tree/tool").write_text("#!/bin/sh\necho tool\n")
    (user.place / "tree/tool").chmod(0o755)
    user.give("tree")
    user("cp", str(user.place / "tree"), "box:/srv/")
    user("cp", str(user.place / "tree/tool"), "box:/srv/opaque/renamed")
    user("cp", "box:/srv/tree", str(user.place / "back"))
    assert (user.place / "back/deep/file").read_text() == "from the host\n" and (user.place / "back/tool").stat().st_mode & 0o777 == 0o755
    assert (user.place / "back/tool").stat().st_uid == user.uid
    user("cp", "box:/data/first", str(user.place))
    assert (user.place / "first").read_text() == "from the image\n" and (user.place / "first").stat().st_uid == user.uid
    raw = user.code(
        "import subprocess, sys; sys.stdout.write(subprocess.run([sys.executable, '-m', 'hutch.cli', 'cp', 'box:/data', '-'], stdout=-1, check=True).stdout.hex())"
    )
    found = members(bytes.fromhex(raw))
    assert (found["data/first"].uid, found["data/deep/second"].uid) == (1000, 0)
    user("commit", "box", "localhost/copied:1")
    user("rm", "-f", "box")
    out = user("run", "localhost/copied:1", "sh", "-c", "/srv/tree/tool; /srv/opaque/renamed; stat -c %u:%g:%a /srv/tree/tool /srv/tree/deep/file")
    assert out == "tool\ntool\n0:0:755\n0:0:644\n"


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_cp_reaches_what_only_another_owner_may_read(user, stopped):
    """The user is the container's root, whom no mode keeps out."""
    user.load()
    user("run", "-d", "--name", "box", NAME, "sleep", "1000")
    if stopped:
        stop(user, "box")
    problems = []
    for words in (("box:/srv/www", str(user.place / "www")), ("box:/srv/private", str(user.place / "private")), (user.give("x", b"x\n"), "box:/srv/private/x"), (user.give("y", b"y\n"), "box:/srv/www")):  # fmt: skip
        done = user.try_("cp", *words)
        assert "Traceback" not in done.stderr
        if done.returncode:
            problems.append((words, done.stderr))
    assert not problems
    assert (user.place / "www").read_text() == "www\n" and (user.place / "private/inside").read_text() == "inside\n"
    user("rm", "-f", "box")


def test_cp_of_an_archive_from_standard_input(user):
    user.load()
    user("run", "-d", "--name", "box", NAME, "sleep", "1000")
    path = user.give("in.tar", tar(directory("d"), owned("d/file", 33, 0o640, b"sent\n"), link("d/link", "file")))
    with open(path, "rb") as file:
        user("cp", "-", "box:/srv", stdin=file)
    assert user("exec", "box", "sh", "-c", "cat /srv/d/link; stat -c %a /srv/d/file") == "sent\n640\n"
    user("rm", "-f", "box")


# what is removed


def test_rmi_and_prune_leave_nothing(user):
    user.load()
    user.see()
    user("run", "-d", "--name", "box", NAME, "sleep", "1000")
    done = user.try_("rmi", NAME)
    assert done.returncode == 1 and "box" in done.stderr
    assert "layers removed: 0" in user("system", "prune", "-a", "-f")  # a container is on them
    assert user("exec", "box", "cat", "/srv/private/inside") == "inside\n"
    user("rm", "-f", "box")
    assert "removed:" in user("rmi", NAME)
    user.clean()


def test_a_killed_load_leaves_nothing_that_prune_does_not_remove(user):
    many = tar(*(owned(f"many/{number}", 33, 0o600) for number in range(4000)), member("many", b"5", mode=0o700, uid=33, gid=33))
    path = user.archive(make(lower(), many, how=""))
    code = f"""
import os, signal, subprocess, sys, time
process = subprocess.Popen([sys.executable, "-m", "hutch.cli", "load", "-i", {path!r}], stdout=-3, stderr=-3)
ingest = os.environ["HUTCH_DATA"] + "/ingest"
while process.poll() is None:
    try:
        if any(name.startswith("tree-") for name in os.listdir(ingest)):
            time.sleep(0.15)
            process.kill()
            break
    except FileNotFoundError:
        pass
print(process.wait())
"""
    assert user.code(code).strip() in (str(-signal.SIGKILL), "0")
    deadline = time.monotonic() + 10
    while any("hutch.image.layers.mapped" in text for text in commands()) and time.monotonic() < deadline:
        time.sleep(0.05)  # the helper in the user namespace hears of it by its pipe
    user("system", "fsck", "--repair")
    user.clean()
    user.load()
    assert user("run", NAME, "cat", "/srv/www") == "www\n"


def commands() -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                yield Path(f"/proc/{name}/cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue


def test_fsck(user):
    user.load()
    assert "nothing is wrong" in user("system", "fsck")
    blob = max((user.data / "content/sha256").iterdir(), key=lambda path: path.stat().st_size)
    with open(blob, "r+b") as file:
        file.seek(100)
        file.write(b"damage")
    done = user.try_("system", "fsck")
    assert done.returncode == 1 and blob.name in done.stdout
    user.try_("system", "fsck", "--repair")  # what is missing now is told, too
    assert not blob.exists()
    user.load()
    assert "nothing is wrong" in user("system", "fsck")
    assert user("run", NAME, "cat", "/srv/www") == "www\n"
    user("system", "df")


# volumes


def test_volumes_begin_with_the_images_content_and_owners(user):
    user.load()
    out = user("run", "-v", "kept:/srv", NAME, "sh", "-c", f"{LIST}; echo more > /srv/more; busybox chown 33:33 /srv/more; rm /srv/setgid")
    found = listed(out)
    assert {path: found.get(path) for path in SEEN} == SEEN
    again = listed(user("run", "-v", "kept:/srv", NAME, "sh", "-c", LIST))
    assert again["srv/more"] == "33:33 644" and "srv/setgid" not in again and again["srv/setuid"] == "33:33 4755" and again["srv/private/inside"] == "33:33 600"
    assert user("run", "-u", "33:33", "-v", "kept:/x", NAME, "cat", "/x/private/inside") == "inside\n"
    assert user("volume", "ls", "-q") == "kept\n"
    data = Path(json.loads(user("volume", "inspect", "kept"))[0]["Mountpoint"])
    assert (data / "root").stat().st_uid == user.uid and (data / "more").stat().st_uid not in (33, user.uid)
    assert user("run", "-v", "empty:/srv:nocopy", NAME, "sh", "-c", "ls -A /srv | wc -l").strip() == "0"
    user("volume", "rm", "kept", "empty")
    assert user("volume", "ls", "-q") == ""
    user("rmi", NAME)
    user.clean()


def test_a_volume_in_use_stays_and_a_read_only_one_is(user):
    user.load()
    user("volume", "create", "--label", "a=b", "used")
    user("run", "-d", "--name", "box", "-v", "used:/v", NAME, "sleep", "1000")
    assert user.try_("volume", "rm", "used").returncode == 1
    assert "used" not in user("volume", "prune", "-a").split()
    done = user.try_("run", "-v", "used:/v:ro", NAME, "touch", "/v/x")
    assert done.returncode == 1 and "Read-only" in done.stderr
    user("rm", "-f", "box")
    user("volume", "rm", "used")


def test_declared_volumes(user):
    user.load(make(lower(), upper(), config={"Volumes": {"/srv": {}}}))
    user("run", "-d", "--name", "box", NAME, "sleep", "1000")
    found = listed(user("exec", "box", "sh", "-c", LIST))
    assert {path: found.get(path) for path in SEEN} == SEEN
    names = user("volume", "ls", "-q").split()
    assert len(names) == 1
    user("rm", "-f", "box")
    user("volume", "prune")
    assert user("volume", "ls", "-q") == ""


# registries


def test_pull_run_push(user):
    with serving() as server:
        image = make(lower(), upper())
        name = server.put(image, "owners:1")
        user("pull", name)
        found = user.see(name)
        assert {path: found.get(path) for path in SEEN} == SEEN
        user("push", name, f"{server.host}/copy:1")
        assert server.manifest("copy:1")[0] == image.raw
        user("run", "-d", "--name", "box", name, "sh", "-c", f"{CHANGE}touch /done; sleep 1000")
        deadline = time.monotonic() + 20
        while user.try_("exec", "box", "stat", "/done").returncode:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        user("commit", "box", f"{server.host}/changed:1")
        user("rm", "-f", "box")
        user("push", f"{server.host}/changed:1")
        user("rmi", f"{server.host}/changed:1", name)
        user.clean()
        user("pull", "-q", f"{server.host}/changed:1")
        found = user.see(f"{server.host}/changed:1")
        assert {path: found.get(path) for path in CHANGED} == CHANGED and not GONE & set(found)
        user("rmi", f"{server.host}/changed:1")
        user.clean()


def test_run_pulls_what_is_missing(user):
    with serving() as server:
        name = server.put(make(lower(), upper()), "owners:1")
        assert user("run", name, "cat", "/srv/private/inside") == "inside\n"
        assert user.try_("run", "--pull", "never", f"{server.host}/other:1", "true").returncode == 125


# a user with one id


def test_without_subordinate_ids(single):
    single.load()
    found = single.see()
    assert set(SEEN) <= set(found)
    assert {rest.split()[0] for rest in found.values()} == {"0:0"}
    assert found["srv/root"] == "0:0 600" and found["srv/locked/inside"] == "0:0 400"
    assert not {"srv/hidden", "srv/gone", "srv/opaque/old"} & set(found)
    assert single("run", NAME, "cat", "/srv/private/inside", "/srv/www-again") == "inside\nwww\n"
    assert "nothing is wrong" in single("system", "fsck")
    single("rmi", NAME)
    single.clean()


def test_without_subordinate_ids_commit_export_volumes(single):
    single.load()
    single("run", "-d", "--name", "box", "-v", "kept:/data", NAME, "sh", "-c", "echo x > /srv/new; chmod 600 /srv/new; rm /srv/daemon; rm -r /srv/opaque; mkdir /srv/opaque; touch /done; sleep 1000")  # fmt: skip
    deadline = time.monotonic() + 20
    while single.try_("exec", "box", "stat", "/done").returncode:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert single("exec", "box", "cat", "/data/first") == "from the image\n"
    assert "A /srv/new" in single("diff", "box").splitlines()
    single("commit", "box", "localhost/changed:1")
    single("export", "-o", str(single.place / "root.tar"), "box")
    single("rm", "-f", "box")
    assert members(str(single.place / "root.tar"))["srv/private/inside"].uid == 0
    out = single("run", "localhost/changed:1", "sh", "-c", "cat /srv/new; ls /srv/daemon 2>&1; ls -A /srv/opaque | wc -l")
    assert out.startswith("x\n") and "No such file" in out and out.split()[-1] == "0"
    single("volume", "rm", "kept")
    single("rmi", NAME, "localhost/changed:1")
    single.clean()
