"""What Hutch writes and reads on the host for its user, in a directory that a container shares: links
that it has laid there, and names that it exchanges meanwhile. The path that the user typed may lead
anywhere; below it, no link is followed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest

import hutch
from tests.archives import busybox, layout, tar
from tests.security import attack
from tests.security.test_oci_tools import SOURCES, program
from tests.security.test_special_files import opens

pytestmark = pytest.mark.root
SECONDS = 3.0  # a race is tried for so long
SECRET = "the host's secret"


@pytest.fixture
def outside():
    """A directory of the host's that no container has, closed to strangers. It must not change."""
    place = Path(tempfile.mkdtemp(prefix="hutch-outside-", dir="/var/tmp"))
    for name in ("file", "secret"):
        (place / name).write_text(SECRET)
        (place / name).chmod(0o600)
    (place / "sub").mkdir(mode=0o700)
    try:
        with attack.untouched(place, place / "file", place / "secret", place / "sub"):
            yield place
    finally:
        shutil.rmtree(place)


@pytest.fixture
def share():
    """A directory of the host's that the container has as /share; the user works in it, too."""
    place = Path(tempfile.mkdtemp(prefix="hutch-share-", dir="/var/tmp"))
    place.chmod(0o755)
    shutil.copy(program("restless"), place / "restless")
    yield place
    shutil.rmtree(place)


@pytest.fixture
def box(share):
    with hutch.Container("host", mounts=[f"{share}:/share"]) as running:
        yield running


@pytest.fixture
def web(hutch_cli, busybox_root):
    """A detached container for the command line, with a tree at /srv/data."""
    name = f"web-{uuid.uuid4().hex[:8]}"
    assert hutch_cli("run", "-d", "--name", name, str(busybox_root), "sleep", "1000").returncode == 0
    assert hutch_cli("exec", name, "sh", "-c", TREE).returncode == 0
    yield name
    hutch_cli("rm", "-f", name)


# every directory of it has files and open directories, of names that the attacks lay links under
TREE = ("mkdir -p /srv/data/a/b; for d in /srv/data /srv/data/a /srv/data/a/b; do for n in 1 2 3 4 5 6; do echo pwned >$d/p$n; "
        "mkdir -p -m 777 $d/sub$n; done; echo pwned >$d/file; echo pwned >$d/new; done")  # fmt: skip
# restless KIND TARGET NAME LINK [NAME LINK]...: exchange the names of each pair for ever. What is taken
# away is laid anew: NAME a
# directory (d) or a file (f), LINK a link to TARGET; with - they are as they were found
SOURCES["restless"] = """static int is_link(char *p) { struct stat s; return lstat(p, &s) == 0 && S_ISLNK(s.st_mode); }
int main(int c, char **v) {
    for (int n = 0;; ) for (int i = 3; i + 1 < c; i += 2) {
        char old[600], *name = v[i], *link = v[i + 1];
        if (*v[1] == 'd') mkdir(name, 0755);
        if (*v[1] == 'f') close(open(name, O_CREAT | O_EXCL | O_WRONLY, 0644));
        if (*v[1] != '-' && !is_link(name) && !is_link(link)) {
            snprintf(old, sizeof old, "%s.%d", link, n++);
            rename(link, old);
            symlink(v[2], link);
        }
        syscall(SYS_renameat2, -100, name, -100, link, 2);
    }
}"""


def shell(box: hutch.Container, script: str) -> str:
    done = box.run(["sh", "-c", script])
    assert done.ok, done.stderr
    return str(done.stdout)


@contextlib.contextmanager
def restless(box: hutch.Container, kind: str, target: Path | str, *names: str):
    """The container exchanges some names below /share with links to the target, or whatever else has the
    name with `.o`, all the time.
    """
    pairs = [f"/share/{name}" for pair in names for name in (pair, f"{pair.replace('/', '-')}.o")]
    process = box.start(["/share/restless", kind, str(target), *pairs])
    try:
        yield
    finally:
        process.close()


def attempt(action, until, seconds: float = SECONDS) -> None:
    """Do it again and again, whether it is refused or not, until it has done harm."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not until():
        with contextlib.suppress(hutch.HutchError):
            action()


def strangers(outside: Path) -> list[str]:
    """What has been written into the directory. It is removed, so that one failure is told of once."""
    found = sorted(set(os.listdir(outside)) - {"file", "secret", "sub"})
    for name in found:
        path = outside / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return found


def within(box: hutch.Container, path: str) -> str:
    """Everything that the files of the container hold below a path."""
    return shell(box, f"find {path} -type f -exec cat '{{}}' + 2>/dev/null; true")


# out of a container

LAID = {
    "directory": "ln -s {0} data",
    "relative": "ln -s ../{1} data",
    "below": "mkdir -p data/a; ln -s {0} data/a/b",
    "file": "mkdir -p data/a/b; ln -s {0}/file data/a/b/p1",
    "missing": "mkdir -p data/a/b; ln -s {0}/new data/a/b/p1; ln -s {0}/dir data/a/b/sub",
    "chain": "ln -s {0} x; ln -s x data",
    "dots": "mkdir -p d; ln -s ../../{1} d/up; ln -s d/up data",
}


@pytest.mark.parametrize("typed", ["{}/", "{}/."])
@pytest.mark.parametrize("laid", LAID)
def test_cp_out_over_links(web, share, outside, hutch_cli, laid, typed):
    """`hutch cp` of a tree into a directory where the container has laid links under the names that are to
    come.
    """
    subprocess.run(["sh", "-c", LAID[laid].format(outside, outside.name)], check=True, cwd=share)
    done = hutch_cli("cp", f"{web}:/srv/data", typed.format(share))
    assert "Traceback" not in done.stderr and strangers(outside) == []
    content = hutch_cli("cp", f"{web}:/srv/.", str(share))
    assert "Traceback" not in content.stderr and strangers(outside) == []


@pytest.mark.parametrize("source", ["/srv/data/..", "/srv/data/a/..", "/.."])
def test_cp_out_of_a_path_that_ends_in_dots(web, share, hutch_cli, source):
    """A copy has no name then; it is made inside the directory that was typed, not beside it."""
    (share / "sub").mkdir()
    before = sorted(os.listdir(share))
    done = hutch_cli("cp", f"{web}:{source}", f"{share}/sub")
    assert "Traceback" not in done.stderr and sorted(os.listdir(share)) == before


@pytest.mark.parametrize("laid", LAID)
def test_get_over_links(box, share, outside, laid):
    """Container.get() of a tree to the shared directory itself."""
    shell(box, TREE)
    subprocess.run(["sh", "-c", LAID[laid].format(outside, outside.name)], check=True, cwd=share)
    with contextlib.suppress(hutch.HutchError):
        box.get("/srv", share)
    assert strangers(outside) == []


@pytest.mark.parametrize("kind", ["fifo", "character", "block"])
@pytest.mark.parametrize("how", ["tree", "file"])
def test_out_onto_what_is_no_file(web, share, hutch_cli, kind, how):
    """A fifo or a device under the name of a file that is to come (a container without a user namespace
    makes both): it is not
    opened, nothing is written to it, and nobody waits for it.
    """
    (share / "data").mkdir()
    node = share / "data/file"
    kinds = {
        "fifo": (stat.S_IFIFO, 0),
        "character": (stat.S_IFCHR, os.makedev(1, 3)),
        "block": (stat.S_IFBLK, os.makedev(7, 250)),
    }
    os.mknod(node, kinds[kind][0] | 0o666, kinds[kind][1])
    with opens(node) as opened:
        if how == "tree":
            done = hutch_cli("cp", f"{web}:/srv/data", f"{share}/", timeout=20)
        else:
            done = hutch_cli("cp", f"{web}:/srv/data/file", f"{share}/data/", timeout=20)
        assert not opened(), "the container's node was opened"
    assert node.is_file() if done.returncode == 0 else "Traceback" not in done.stderr


RACES = {"directory": ("d", ["data/a"]), "deep": ("d", ["data/a/b"]), "many": ("d", [f"data/a/sub{n}" for n in range(1, 7)]),
         "top": ("d", ["data"]), "file": ("f", [f"data/a/p{n}" for n in range(1, 7)])}  # fmt: skip


@pytest.mark.parametrize("race", RACES)
def test_get_while_names_are_exchanged(box, share, outside, race):
    """Directories or files of the copy's target, and links that lead out, change places all the time."""
    shell(box, f"{TREE}; mkdir -p /share/data/a; for n in 1 2 3 4 5 6; do touch /srv/data/a/sub$n/pwned; done")
    kind, names = RACES[race]
    with restless(box, kind, outside if kind == "d" else outside / "file", *names):
        attempt(
            lambda: box.get("/srv", share),
            lambda: len(os.listdir(outside)) > 3 or (outside / "file").read_text() != SECRET,
        )
    assert strangers(outside) == []


@pytest.mark.parametrize("race", ["directory", "top"])
def test_cp_out_while_names_are_exchanged(web, box, share, outside, hutch_cli, race):
    """The same by `hutch cp`, from another container."""
    (share / "data").mkdir()
    with restless(box, "d", outside, *RACES[race][1]):
        attempt(lambda: hutch_cli("cp", f"{web}:/srv/data", f"{share}/"), lambda: len(os.listdir(outside)) > 3, 5)
    assert strangers(outside) == []


def test_modes_are_not_set_through_a_link(box, share, outside):
    """A directory's mode is set when it is full: by then a link to a closed directory of the host's has
    taken its place.
    """
    names = [f"data/a{n}" for n in range(6)]
    shell(box, f"cd /srv; mkdir data {' '.join(names)}; chmod 755 {' '.join(names)}; mkdir /share/data")
    sub = outside / "sub"
    with restless(box, "d", sub, *names):
        attempt(lambda: box.get("/srv/data", share / "data"), lambda: sub.stat().st_mode & 0o777 != 0o700)
    mode = sub.stat().st_mode & 0o777
    sub.chmod(0o700)
    assert mode == 0o700, f"a directory of the host's is {mode:o} now"


# into a container

INTO = {"file": ("tree/f", "secret"), "directory": ("tree/d", ""), "deep": ("tree/d/e", "")}


def grow(share: Path, outside: Path, race: str) -> list[str]:
    """A tree with six names of a kind, and links to the host's secrets beside it; the names."""
    (share / "tree/d").mkdir(parents=True)
    base, target = INTO[race]
    names = [f"{base}{n}" for n in range(6)]
    for name in names:
        own = share / name / ("" if target else "secret")
        own.parent.mkdir(exist_ok=True)
        own.write_text("own")
        (share / f"{name.replace('/', '-')}.o").symlink_to(outside / target)
    return names


@pytest.mark.parametrize("race", INTO)
def test_put_while_names_are_exchanged(box, share, outside, race):
    """Files or directories of the tree that is copied, and links to the host's secrets, change places:
    none of them gets in.
    """
    number = itertools.count()
    with restless(box, "-", "", *grow(share, outside, race)):
        attempt(lambda: box.put(share / "tree", f"/srv/tree{next(number)}"), lambda: SECRET in within(box, "/srv"))
    assert SECRET not in within(box, "/srv")


@pytest.mark.parametrize("race", INTO)
@pytest.mark.parametrize("typed", ["tree", "tree/."])
def test_cp_in_while_names_are_exchanged(web, box, share, outside, hutch_cli, race, typed):
    """The same by `hutch cp`, of the tree and of its content."""
    number = itertools.count()

    def seen() -> bool:
        return (
            SECRET
            in hutch_cli(
                "exec",
                web,
                "/bin/busybox",
                "find",
                "/srv",
                "-name",
                "[fs]*",
                "-type",
                "f",
                "-exec",
                "cat",
                "{}",
                ";",
            ).stdout
        )

    with restless(box, "-", "", *grow(share, outside, race)):
        attempt(
            lambda: [hutch_cli("cp", f"{share}/{typed}", f"{web}:/srv/new{next(number)}") for _ in range(3)],
            seen,
            5,
        )
    assert not seen()


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_in_of_files_that_become_something_else(web, box, share, hutch_cli, kind):
    """Files of the tree become fifos or devices while it is copied: they are not opened, so nobody waits
    for a writer.
    """
    (share / "tree").mkdir()
    names = [f"tree/f{n}" for n in range(6)]
    nodes = [share / f"tree-f{n}.o" for n in range(6)]
    for name, node in zip(names, nodes, strict=True):
        (share / name).write_text("own")
        os.mkfifo(node) if kind == "fifo" else os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    number = itertools.count()
    with opens(*nodes) as opened, restless(box, "-", "", *names):
        attempt(lambda: hutch_cli("cp", f"{share}/tree", f"{web}:/srv/new{next(number)}", timeout=8), opened)
        assert not opened(), "what is no file was opened"


def test_links_of_a_tree_stay_links_and_typed_ones_are_followed(box, share, outside):
    """Links inside a tree are copied as links; the path that the user typed may be one, in both
    directions.
    """
    shell(
        box,
        f"mkdir /share/tree /share/real; ln -s {outside}/secret /share/tree/l; ln -s {outside} /share/tree/d; echo own >/share/tree/f",
    )
    (share / "typed").symlink_to(share / "real")
    (share / "way").symlink_to(share)
    box.put(share / "way/tree", "/srv/tree")
    assert SECRET not in within(box, "/srv") and shell(box, "readlink /srv/tree/l; cat /srv/tree/f") == f"{outside}/secret\nown\n"
    box.get("/srv/tree", share / "typed")
    assert (share / "real/f").read_text() == "own\n" and (share / "typed").is_symlink()
    assert os.readlink(share / "real/l") == f"{outside}/secret"
    box.get("/srv/tree/f", share / "way/single")
    assert (share / "single").read_text() == "own\n"


# what commands write for their user

OUTPUTS = {
    "cidfile": ["run", "--cidfile", "{out}", "host", "true"],
    "export": ["export", "-o", "{out}", "{web}"],
    "save": ["save", "-o", "{out}", "attack-save:1"],
    "cp": ["cp", "{web}:/srv/data/file", "{share}/"],
}


@pytest.mark.parametrize("laid", ["link", "dangling", "fifo", "device"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_commands_file_in_a_shared_directory(web, share, outside, hutch_cli, output, laid):
    """`--cidfile`, `export -o` and `save -o` under a name that is a link to the host's file, a fifo or a
    device: nothing is written there.
    """
    out = share / "file"
    if laid in ("link", "dangling"):
        out.symlink_to(outside / ("file" if laid == "link" else "new"))
    else:
        os.mkfifo(out) if laid == "fifo" else os.mknod(out, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    if output == "save":
        hutch_cli("load", "-i", str(layout(share / "layout", tar(*busybox()))))
        hutch_cli("tag", hutch_cli("images", "-q").stdout.split()[0], "attack-save:1")
    try:
        with opens(out) if laid in ("fifo", "device") else contextlib.nullcontext(lambda: False) as opened:
            done = hutch_cli(*(word.format(out=out, web=web, share=share) for word in OUTPUTS[output]), timeout=15)
            assert not opened() and "Traceback" not in done.stderr
    finally:
        hutch_cli("rmi", "-f", "attack-save:1")
    assert strangers(outside) == []
