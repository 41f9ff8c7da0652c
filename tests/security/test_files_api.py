"""The files of a running container, asked for by its owner, while the container lays traps for the answer."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

import hutch
from tests.security import attack

pytestmark = pytest.mark.root
USERNS = ["auto", "host"]
TARGETS = [
    "/etc/shadow",
    "../../../../../../etc/shadow",
    "/proc/self/root/etc/shadow",
    "/proc/1/root/etc/shadow",
    "/proc/self/cwd/etc/shadow",
    "/dev/../../etc/shadow",
]


@pytest.fixture
def outside():
    """A directory of the host's that must not change."""
    place = Path(tempfile.mkdtemp(prefix="hutch-outside-", dir="/var/tmp"))
    place.chmod(0o777)
    (place / "file").write_text("the host's")
    with attack.untouched(place, place / "file", "/etc/shadow", "/etc"):
        yield place
    shutil.rmtree(place)


@pytest.fixture(params=USERNS)
def box(request, busybox_root):
    with hutch.Container(str(busybox_root), userns=request.param) as running:
        yield running


def shell(box: hutch.Container, script: str) -> str:
    return str(box.run(["sh", "-c", script]).stdout)


@pytest.mark.parametrize("target", TARGETS)
def test_reading_through_links(box, target, outside):
    """read() of a link to the host's /etc/shadow, absolute, relative, or by /proc's magic links."""
    shell(box, f"ln -s {target} /tmp/evil; ln -s {os.path.dirname(target)} /tmp/dir")
    for path in ("/tmp/evil", "/tmp/dir/shadow", f"/tmp/../..{target}", target):
        with pytest.raises(hutch.HutchError):
            print(box.read(path))


@pytest.mark.parametrize("how", ["absolute", "dots", "magic", "thread"])
def test_writing_through_links(box, how, outside):
    """write() and put() to a link that leads to the host: inside the root, or refused."""
    target = {
        "absolute": f"{outside}",
        "dots": f"{'../' * 20}{outside}",
        "magic": f"/proc/self/root{outside}",
        "thread": f"/proc/thread-self/root/..{outside}",
    }[how]
    source = Path(tempfile.mkdtemp(prefix="hutch-source-", dir="/var/tmp"))
    try:
        (source / "file").write_text("pwned")
        shell(box, f"ln -s {target} /tmp/dir; ln -s {target}/file /tmp/evil; ln -s {target}/new /tmp/new")
        for path in ("/tmp/evil", "/tmp/new", "/tmp/dir/file", "/tmp/dir/new", f"{'/..' * 9}{outside}/new", f"/tmp/dir/..{outside}/x"):
            for action in (lambda p=path: box.write(p, "pwned"), lambda p=path: box.put(str(source / "file"), p), lambda p=path: box.put(str(source), p)):
                try:
                    action()
                except hutch.HutchError:
                    pass
    finally:
        shutil.rmtree(source)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory", "tty", "loop"])
def test_what_is_no_file(box, kind):
    """A fifo must not make the owner wait; a device or a directory is no file."""
    box.run(
        [
            "sh",
            "-c",
            {
                "fifo": "mknod /tmp/x p",
                "socket": "true",
                "device": "ln -s /dev/zero /tmp/x",
                "directory": "mkdir /tmp/x",
                "tty": "ln -s /dev/tty /tmp/x",
                "loop": "ln -s x /tmp/x",
            }[kind],
        ]
    )
    if kind == "socket":
        pytest.skip("busybox makes none")
    for action in (
        lambda: box.read("/tmp/x"),
        lambda: box.write("/tmp/x", "data"),
        lambda: box.read("/tmp/x/y"),
        lambda: box.write("/tmp/x/y", "data") if kind != "directory" else box.read("/tmp/x"),
        lambda: box.get("/tmp/x", "/var/tmp/hutch-never/x") if kind != "directory" else box.read("/tmp/x"),
    ):
        with pytest.raises(hutch.HutchError):
            action()
    assert not os.path.exists("/var/tmp/hutch-never")


def test_a_fifo_in_a_tree(box, tmp_path, outside):
    """get() of a tree with fifos, devices and links to the host: files and links only, and no link is followed."""
    script = f"""
    mkdir -p /tmp/t/d && cd /tmp/t && mknod pipe p && mknod d/pipe p; ln -s {outside} link; ln -s {outside}/file f; ln -s /etc/shadow shadow
    ln -s /proc/self/root root; ln -s ../../../../../../.. up; echo data >plain; echo x >d/y; chmod 4755 plain; chmod 0 d
    """
    shell(box, script)
    target = tmp_path / "got"
    for _ in range(2):  # the second time over what the first one made, links among it
        box.get("/tmp/t", target)
    assert (target / "plain").read_text() == "data\n"
    assert not (target / "plain").stat().st_mode & 0o7000
    assert os.readlink(target / "link") == str(outside)
    assert not (target / "pipe").exists() and (target / "d/y").read_text() == "x\n"
    assert (target / "plain").stat().st_uid == 0


def test_get_never_writes_through_its_own_links(box, tmp_path, outside):
    """A first get() leaves links to the host; the container then has directories and files of those names, and get() comes again."""
    shell(box, f"mkdir /tmp/t; ln -s {outside} /tmp/t/a; ln -s {outside}/file /tmp/t/b; ln -s {outside}/new /tmp/t/c")
    target = tmp_path / "got"
    box.get("/tmp/t", target)
    shell(box, "cd /tmp/t; rm a b c; mkdir a; echo pwned >a/file; echo pwned >b; echo pwned >c")
    box.get("/tmp/t", target)
    assert (target / "a/file").read_text() == "pwned\n" and not (target / "a").is_symlink()
    shell(box, f"cd /tmp/t; rm -r a b; ln -s {outside} b; ln -s {outside} a")
    try:
        box.get("/tmp/t", target)
    except hutch.HutchError:
        pass  # a directory stands where a link should: refused is as good


def test_get_while_the_container_swaps(box, tmp_path, outside):
    """Directory and link change places again and again while get() walks: the host's files are neither read nor written."""
    (outside / "secret").write_text("top secret")
    stopped = threading.Event()
    swapper = box.start(["sh", "-c", f"cd /tmp; mkdir -p t/a/b; echo ok >t/a/secret; while :; do mv t/a t/x; ln -s {outside} t/a; rm t/a; mv t/x t/a; done"])
    try:
        for number in range(60):
            try:
                box.get("/tmp/t", tmp_path / f"got-{number % 3}")
            except (hutch.HutchError, FileNotFoundError):
                continue
        for path in tmp_path.rglob("secret"):
            assert not path.is_symlink() and path.read_text() in ("ok\n", "")
    finally:
        stopped.set()
        swapper.close()
        (outside / "secret").unlink()


STEP = "mkdir -p {0}; cd {0};".format("d/" * 1000)
DEEP = f"mkdir /tmp/deep; cd /tmp/deep; {STEP} {STEP} {STEP} echo done"


@pytest.mark.parametrize("upper", ["tmpfs", "disk"])
def test_a_directory_nested_3000_deep(busybox_root, tmp_path, upper):
    """Deeper than Python recurses and than there are descriptors: get() and diff() end with an error or an answer, close() clears all away."""
    hutch.run(str(busybox_root), ["true"])  # what is opened once a process
    descriptors = len(os.listdir("/proc/self/fd"))
    with hutch.Container(str(busybox_root), upper=upper) as box:
        assert box.run(["sh", "-c", DEEP]).stdout == "done\n"
        for action in (
            lambda: box.get("/tmp/deep", tmp_path / "got"),
            box.diff,
            lambda: box.read("/tmp/" + "d/" * 3000),
            lambda: box.write("/tmp/" + "d/" * 3000 + "x", "y"),
        ):
            try:
                action()
            except hutch.HutchError:
                pass
        assert box.run(["true"]).ok
    assert attack.until(lambda: box.id not in attack.data_entries() | set(os.listdir(os.environ["HUTCH_STATE"])))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    import subprocess

    subprocess.run(["rm", "-rf", str(tmp_path / "got")], check=True)


def test_names_of_all_kinds(box, tmp_path):
    """Names with newlines, escapes and bytes that are no UTF-8 are carried as they are, and never take a path apart."""
    shell(box, r"""cd /tmp; mkdir t; cd t; for n in "$(printf 'a\nb')" "$(printf '\377\376')" "$(printf '\033[2J')" '-rf' '*' ' '; do echo x >"./$n"; done""")
    box.get("/tmp/t", tmp_path / "got")
    assert len(os.listdir(os.fsencode(tmp_path / "got"))) == 6
    assert len([c for c in box.diff() if c.path.startswith("/tmp/t/")]) == 6
    for path in ("", "/", ".", "..", "/tmp/..", "/tmp/", "/tmp/a\0b", "/tmp/a\0/b"):
        with pytest.raises(hutch.HutchError):
            box.write(path, "x")


def test_diff_with_hostile_links(box, outside):
    """diff() walks the upper layer by descriptors: links to the host are changes, not ways."""
    shell(box, f"ln -s {outside} /out; ln -s / /tmp/root; mkdir /tmp/d; mknod /tmp/d/p p; rm -r /usr; ln -s {outside} /usr")
    paths = {change.path for change in box.diff()}
    assert "/out" in paths and not any("file" in path for path in paths)


def test_a_file_larger_than_the_limit(box):
    """A sparse file of a terabyte is not read into the owner's memory."""
    (box.run(["sh", "-c", "echo >/tmp/x"]))
    program = "import os; os.truncate('/tmp/x', 1 << 40)"
    assert box.run(["/bin/busybox", "truncate", "-s", "1000G", "/tmp/x"]).ok, program
    with pytest.raises(hutch.HutchError, match="larger"):
        box.files.read("/tmp/x", limit=1 << 20)


def test_reading_what_the_container_masks(box):
    """The owner's view of the container's /proc and /sys is the container's own: nothing is written past the masks."""
    for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper", "/proc/1/mem", "/proc/self/mem"):
        with pytest.raises(hutch.HutchError):
            box.write(path, "x")
    shell(box, "ln -s /proc/sys/kernel/core_pattern /tmp/core; ln -s /proc/sysrq-trigger /tmp/sysrq")
    for path in ("/tmp/core", "/tmp/sysrq"):
        with pytest.raises(hutch.HutchError):
            box.write(path, "x")


def test_what_is_written_belongs_to_the_container(box):
    """A file made by write() or put() is the container's root's, never the host's root's with its set-uid bits intact."""
    box.write("/tmp/x", "data", mode=0o644)
    assert shell(box, "stat -c %u:%g:%a /tmp/x") == "0:0:644\n"
    box.put("/etc/hostname", "/srv/deep/er/hostname")
    assert shell(box, "stat -c %u:%g /srv/deep /srv/deep/er/hostname") == "0:0\n0:0\n"
