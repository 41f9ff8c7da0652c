"""Files of a container that its owner asks for, which turn out to be something else: a way into /proc,
/sys or /dev, a fifo, a device.

What a file is has to be known before it is opened, and the container's root has to have the right to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hutch
from tests.conftest import HUTCH

pytestmark = pytest.mark.root
LIBC = ctypes.CDLL(None, use_errno=True)
IN_OPEN = 0x20
# of the host's root alone, and one mode for every /proc of the machine
CLOSED = ("/proc/slabinfo", "/proc/vmallocinfo", "/proc/driver")


@contextlib.contextmanager
def opens(*paths: str | Path) -> Iterator[Callable[[], bool]]:
    """Whether one of some files has been opened for use since then: the kernel's word (inotify(7)), which
    O_PATH does not count for.
    """
    fd = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    seen: list[bool] = []

    def opened() -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(fd, 65536)
            while data:  # struct inotify_event; an end of the file is told of, too
                mask, length = struct.unpack_from("=4xI4xI", data)
                seen.append(bool(mask & IN_OPEN))
                data = data[16 + length :]
        return any(seen)

    try:
        for path in paths:
            assert LIBC.inotify_add_watch(fd, os.fsencode(path), IN_OPEN) >= 0, os.strerror(ctypes.get_errno())
        yield opened
    finally:
        os.close(fd)


@pytest.fixture(params=["auto", "host"])
def box(request, busybox_root):
    with hutch.Container(str(busybox_root), userns=request.param) as running:
        yield running


@pytest.fixture(params=["auto", "host"])
def web(request, busybox_root, hutch_cli):
    """A detached container, for the command line."""
    name = f"web-{uuid.uuid4().hex[:8]}"
    started = hutch_cli("run", "-d", "--name", name, "--userns", request.param, str(busybox_root), "sleep", "1000")
    assert started.returncode == 0, started.stderr
    assert hutch_cli("exec", name, "mkdir", "/srv").returncode == 0
    yield name
    hutch_cli("rm", "-f", name)


@pytest.fixture
def place():
    """A directory of the user's."""
    path = Path(tempfile.mkdtemp(prefix="hutch-source-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def modes():
    """What the machine's closed files look like in a new /proc, set right again after the test."""
    before = {path: stat.S_IMODE(os.stat(path).st_mode) for path in CLOSED if os.path.exists(path)}

    def now() -> dict[str, int]:
        words = ["unshare", "-pfm", "--mount-proc", "stat", "-c", "%n %a", *before]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return {path: int(mode, 8) for path, mode in (line.split() for line in done.stdout.splitlines())}

    if now() != before:
        pytest.skip("somebody has changed modes of /proc already")
    yield lambda: now() == before
    for path, mode in before.items():
        os.chmod(path, mode)


def shell(box: hutch.Container, script: str) -> str:
    return str(box.run(["sh", "-c", script]).stdout)


def inside(box: hutch.Container, path: str) -> str:
    """A container's file by a path of the host's."""
    return f"/proc/{box.pid}/root{path}"


def members(*names: str, mode: int = 0o644) -> bytes:
    """A tar of empty files, or directories where a name ends in a slash."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode, info.type = mode, tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info)
    return out.getvalue()


def tree(place: Path, *names: str) -> Path:
    """A tree of the user's with empty files that everybody may read."""
    for name in names:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
        path.chmod(0o777 if name.endswith("/") else 0o644)
    return place


# writing

LINKS = "mkdir -p /srv; ln -s /proc/slabinfo /srv/results.log; ln -s /proc /srv/dir; ln -s dir /srv/chain; ln -s ../../proc /srv/dots"
WRITES = {
    "empty": lambda box, place: box.write("/srv/results.log", "", 0o644),
    "text": lambda box, place: box.write("/srv/results.log", "x", 0o666),
    "below": lambda box, place: box.write("/srv/dir/slabinfo", "", 0o644),
    "chain": lambda box, place: box.write("/srv/chain/slabinfo", b"", 0o644),
    "dots": lambda box, place: box.write("/srv/dots/vmallocinfo", b"", 0o644),
    "put": lambda box, place: box.put(tree(place, "f") / "f", "/srv/results.log"),
    "put-tree": lambda box, place: box.put(tree(place, "results.log"), "/srv"),
    "put-into": lambda box, place: box.put(tree(place, "slabinfo"), "/srv/dir"),
    "put-mode": lambda box, place: box.put(tree(place, "driver/"), "/srv/dir"),
}


@pytest.mark.parametrize("how", WRITES)
def test_writing_through_a_link_into_proc(box, place, modes, how):
    """write() and put() of the container's owner must not open what is closed to the container, nor change
    the mode that it has.
    """
    shell(box, LINKS)
    try:
        WRITES[how](box, place)
    except hutch.HutchError:
        pass
    else:
        pytest.fail("a file of the host's kernel was taken for one of the container's")
    finally:
        assert modes(), "a mode of the host's kernel was changed"
    if box.run(["stat", "-c", "%u", "/proc/slabinfo"]).stdout != "0\n":
        assert not box.run(["cat", "/proc/slabinfo"]).ok


TYPED = {
    "file": lambda box, place: box.write("/proc/slabinfo", "", 0o644),
    "tree": lambda box, place: box.put(tree(place, "slabinfo", "driver/"), "/proc"),
    "root": lambda box, place: box.put(tree(place, "proc/slabinfo", "proc/driver/"), "/"),
    "root-mode": lambda box, place: box.put(tree(place, "proc/driver/"), "/"),
}


@pytest.mark.parametrize("how", TYPED)
def test_writing_to_proc_itself_changes_no_mode(box, place, modes, how):
    """A tree that is put over a whole root has a directory `proc`, and the container has its /proc mounted
    there.
    """
    with contextlib.suppress(hutch.HutchError):
        TYPED[how](box, place)
    assert modes(), "a mode of the host's kernel was changed"


CP = {
    "file": (["{place}/f", "{web}:/srv/results.log"], b""),
    "named": (["{place}/results.log", "{web}:/srv/"], b""),
    "tree": (["{place}/.", "{web}:/srv"], b""),
    "below": (["{place}/slabinfo", "{web}:/srv/dir/"], b""),
    "tar": (["-", "{web}:/srv"], members("results.log")),
    "tar-below": (["-", "{web}:/srv"], members("dir/slabinfo")),
    "tar-into": (["-", "{web}:/srv/dir"], members("slabinfo")),
    "tar-mode": (["-", "{web}:/srv"], members("d/", mode=0o777)),
    "tar-root": (["-", "{web}:/"], members("proc/driver/", mode=0o777)),
}


@pytest.mark.parametrize("how", CP)
def test_cp_through_a_link_into_proc(web, place, modes, hutch_cli, how):
    """`hutch cp` of empty files, trees and archives under names that are links into /proc."""
    tree(place, "f", "results.log", "slabinfo")
    assert hutch_cli("exec", web, "sh", "-c", LINKS + "; ln -s /proc/driver /srv/d").returncode == 0
    words, data = CP[how]
    done = subprocess.run(
        [*HUTCH, "cp", *(word.format(place=place, web=web) for word in words)],
        input=data,
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert modes(), "a mode of the host's kernel was changed"
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "where",
    [
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/proc/1/oom_score_adj",
        "/proc/1/comm",
        "/dev/full",
        "/dev/ptmx",
    ],
)
def test_writing_through_other_links(box, where):
    """Links into /sys, into a process' files, and to devices."""
    shell(box, f"mkdir -p /srv; ln -s {where} /srv/x")
    for data in ("", "-5"):
        with pytest.raises(hutch.HutchError):
            box.write("/srv/x", data)
    assert shell(box, "cat /proc/1/oom_score_adj") == "0\n" and shell(box, "cat /proc/1/comm") != "-5\n"


# reading

TARGETS = ["/proc/version", "/proc/slabinfo", "/proc/kmsg", "/proc/1/status", "/proc/1/environ", "/proc/sys/kernel/hostname",
           "/sys/kernel/mm/transparent_hugepage/enabled", "/dev/full", "/dev/zero", "/dev/ptmx", "/dev/stdin", "/dev/fd/0"]  # fmt: skip


@pytest.mark.parametrize("how", ["read", "get"])
@pytest.mark.parametrize("target", TARGETS)
def test_reading_through_a_link(box, place, target, how):
    """read() and get() of a link into /proc, /sys or /dev are refused, and nothing of it comes out."""
    shell(
        box,
        f"mkdir -p /srv; ln -s {target} /srv/x; ln -s {os.path.dirname(target)} /srv/d; ln -s d/{os.path.basename(target)} /srv/y",
    )
    for path in ("/srv/x", "/srv/y"):
        with pytest.raises(hutch.HutchError):
            box.get(path, place / "out") if how == "get" else box.read_bytes(path)
    assert not (place / "out").is_file()


@pytest.mark.parametrize("target", ["/proc/1/net", "/proc/sys/kernel/random", "/sys/kernel/mm", "/dev"])
def test_a_tree_through_a_link(box, place, target):
    """get() of a link to a directory of /proc, /sys or /dev."""
    shell(box, f"mkdir -p /srv; ln -s {target} /srv/x")
    with contextlib.suppress(hutch.HutchError):
        box.get("/srv/x", place / "out")
    assert not (place / "out").is_dir() or not os.listdir(place / "out")


@pytest.mark.parametrize("out", ["file", "tar"])
@pytest.mark.parametrize(
    "target",
    ["/proc/version", "/proc/sys/kernel/hostname", "/proc/kmsg", "/dev/zero", "/proc/sys/kernel/random"],
)
def test_cp_out_of_a_link(web, place, hutch_cli, target, out):
    """`hutch cp` of such a link, to a file or as a tar: refused, or the link itself."""
    assert hutch_cli("exec", web, "ln", "-s", target, "/srv/x").returncode == 0
    words = [*HUTCH, "cp", f"{web}:/srv/x", "-" if out == "tar" else str(place / "out")]
    done = subprocess.run(words, capture_output=True, check=False, timeout=20, stdin=subprocess.DEVNULL)
    assert b"Traceback" not in done.stderr
    if out == "file":
        assert (place / "out").is_symlink() or not (place / "out").exists()
    elif done.returncode == 0:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            assert all(member.issym() for member in archive)


@pytest.mark.parametrize(
    "path",
    ["/proc/kmsg", "/proc/sys/kernel/hostname", "/proc/1/status", "/proc/slabinfo", "/dev/shm", "/proc"],
)
def test_an_answer_or_an_error_of_hutchs_own(box, path):
    """Of paths that the owner himself names below /proc: a text, or a HutchError; no other exception."""
    with contextlib.suppress(hutch.HutchError):
        assert isinstance(box.read_bytes(path), bytes)
