"""What hutch-oci reads and writes for an engine, where others put something else: devices, pipes, links."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import runtime as rt
from tests.conftest import HUTCH
from tests.security import attack, test_oci_tools as tools

pytestmark = pytest.mark.root
place, boxes = tools.place, tools.boxes
STRANGER = 54321
ROOM = 400 << 20  # bytes of memory that a command may take


def put(path: Path, form: str) -> None:
    """Something that is no document, in a document's place."""
    path.unlink(missing_ok=True)
    if form == "a directory":
        path.mkdir()
    elif form == "a pipe":
        os.mkfifo(path)
    elif form == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif form == "a giant":
        with open(path, "wb") as file:
            file.write(b'{"ociVersion": "')
            file.truncate(2 << 30)
    else:
        path.symlink_to(form)


FORMS = ["/dev/zero", "a directory", "a pipe", "a socket", "a giant"]


def refuses(words: list[str], path: Path, form: str, *, code: int = 1) -> None:
    """It ends soon, within its memory, and says what is wrong with which file."""
    put(path, form)
    words = ["prlimit", f"--as={ROOM}", *words]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    limited = subprocess.Popen(words, **streams, text=True, start_new_session=True)
    rt.expect(limited.pid)
    try:
        _, said = limited.communicate(timeout=8)
    except subprocess.TimeoutExpired:
        limited.kill()
        limited.communicate()
        raise AssertionError(f"{form}: it hangs") from None
    assert limited.returncode == code, (form, limited.returncode, said)
    assert path.name in said, (form, said)
    assert not any(word in said for word in ("Traceback", "MemoryError", "mistake")) and len(said) < 1000, (
        form,
        said[:2000],
    )


def own(boxes, *words: str) -> list[str]:
    return [*boxes.runtime.argv, "--root", boxes.runtime.root, *words]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("verb", ["run", "create", "plan"])
def test_a_configuration_that_is_no_file(boxes, form, verb):
    """config.json of a bundle."""
    box = boxes(rt.shell("true"))
    if verb == "plan":
        refuses([*HUTCH, "plan", "--bundle", str(box.bundle)], box.bundle / "config.json", form, code=125)
    else:
        refuses(own(boxes, verb, "--bundle", str(box.bundle), box.id), box.bundle / "config.json", form)
    assert not box.record.parent.exists()


@pytest.mark.parametrize("form", FORMS)
def test_documents_that_are_no_files(boxes, place, form):
    """What `update --resources` and `exec --process` name."""
    box = boxes(rt.shell("sleep 100")).up()
    refuses(own(boxes, "update", "--resources", str(place / "r.json"), box.id), place / "r.json", form)
    refuses(own(boxes, "exec", "--process", str(place / "p.json"), box.id), place / "p.json", form)
    assert box.status == "running"


@pytest.mark.parametrize("form", ["/dev/zero", "a giant"])  # a pipe is of use: <(command)
@pytest.mark.parametrize("flag", ["--env-file", "--security-opt"])
def test_files_of_a_command_without_end(busybox_root, place, form, flag):
    """What `hutch run` reads for its user: variables, a filter's profile."""
    path = place / "document"
    refuses(
        [
            *HUTCH,
            "run",
            flag,
            f"seccomp={path}" if flag == "--security-opt" else str(path),
            str(busybox_root),
            "true",
        ],
        path,
        form,
        code=125,
    )


# Files that are written


@pytest.fixture
def theirs(place: Path) -> Path:
    """A directory of another user's, where an engine of root's was told to put its log."""
    path = place / "theirs"
    path.mkdir(mode=0o777)
    os.chown(path, STRANGER, STRANGER)
    return path


def content(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def linked(path: Path, target: Path) -> None:
    path.symlink_to(target)
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


@pytest.mark.parametrize("target", ["a file", "nothing"])
def test_a_log_is_no_link_of_anothers(boxes, place, theirs, target):
    """--log through somebody else's link: no file of the host's is written to, or made."""
    victim = place / "victim"
    if target == "a file":
        victim.write_text("the host's")
    linked(theirs / "log", victim)
    box = boxes(rt.shell("sleep 100"))
    for words in (
        ["create", "--bundle", str(box.bundle), box.id],
        ["start", box.id],
        ["delete", "--force", box.id],
    ):
        assert "Traceback" not in boxes.call(*words, options=("--debug", "--log", str(theirs / "log"))).err
    boxes.call("state", "nothing", options=("--log", str(theirs / "log"))).failed("nothing")
    assert content(victim) == ("the host's" if target == "a file" else None)


@pytest.mark.parametrize("form", ["a pipe", "a pipe that is full", "a directory", "a socket", "/dev/full"])
def test_a_log_that_is_no_file(boxes, theirs, form):
    """--log to a pipe without a reader, and the like: no command waits for it, nor hides its error."""
    log, reader = theirs / "log", -1
    put(log, "a pipe" if "pipe" in form else form)
    if "full" in form and "pipe" in form:
        reader = os.open(log, os.O_RDWR | os.O_NONBLOCK)
        try:
            while os.write(reader, b"x" * 4096):
                pass
        except BlockingIOError:
            pass
    try:
        box = boxes(rt.shell("echo fine"))
        assert box.run(options=("--debug", "--log", str(log)), timeout=8).ok().out == "fine\n"
        result = boxes.call("state", "nothing", options=("--log", str(log)), timeout=8)
        assert "does not exist" in result.err and "Traceback" not in result.err
    finally:
        if reader >= 0:
            os.close(reader)


@pytest.mark.parametrize("form", ["a link", "a hanging link", "a pipe", "a link where it is begun"])
@pytest.mark.parametrize("verb", ["create", "run", "exec"])
def test_a_pid_file_is_no_link_of_anothers(boxes, place, theirs, verb, form):
    """--pid-file where somebody else put a link or a pipe: nothing is written through it, or waits."""
    victim = place / "victim"
    if form != "a hanging link":
        victim.write_text("the host's")
    path = theirs / "pid"
    if form == "a pipe":
        put(path, form)
    elif "begun" in form:
        for name in (".pid", "pid.tmp", ".pid.tmp"):
            linked(theirs / name, victim)
    else:
        linked(path, victim)
    box = boxes(rt.shell("true" if verb == "run" else "sleep 100"))
    if verb == "exec":
        result = box.up().exec("true", options=["--pid-file", str(path)], timeout=8)
    elif verb == "run":
        result = box.run("--pid-file", str(path), timeout=8)
    else:
        result = box.create("--pid-file", str(path), timeout=8)
        Path(box.pid_file).write_text(str(box.state()["pid"]) if result.code == 0 else "0")
    assert "Traceback" not in result.err
    assert content(victim) == (None if form == "a hanging link" else "the host's")


# The root


def swapping(first: Path, second: Path, work: Callable[[], None]) -> None:
    """Work while two names are exchanged as fast as it goes."""
    swapper = subprocess.Popen([tools.program("swap"), str(first), str(second)])
    rt.expect(swapper.pid)
    try:
        work()
    finally:
        swapper.kill()
        swapper.wait()


@pytest.mark.parametrize("verb", ["run", "create"])
@pytest.mark.parametrize("readonly", [False, True], ids=["writable", "readonly"])
def test_a_root_that_is_swapped_with_a_link(boxes, place, verb, readonly):
    """root.path is a directory at one step and a link to / at the next: the host's / is never the root."""
    (place / "secret").write_text("the host's")
    script = f"cat {place}/secret; echo ran"
    root = {"path": "rootfs", "readonly": readonly}
    data = rt.shell(script, root=root, process={"args": ["/bin/sh", "-c", script]})
    bundle = boxes(dict(data))
    (bundle.bundle / "other").symlink_to("/")
    seen = []

    def work() -> None:
        for _ in range(25):
            box = bundle
            if verb == "run":
                seen.append(box.run().out)
            elif box.create().code == 0:
                seen.append("the host's" if os.path.exists(f"/proc/{box.init}/root{place}/secret") else "")
                box.delete("--force").ok()
                rt.reap()

    swapping(bundle.rootfs, bundle.bundle / "other", work)
    if bundle.rootfs.is_symlink():
        os.rename(bundle.rootfs, bundle.bundle / "link")
        os.rename(bundle.bundle / "other", bundle.rootfs)
    wrong = [text for text in seen if "the host's" in text]
    assert not wrong, f"{len(wrong)} of 25"


@pytest.mark.parametrize("which", ["config.json", "the bundle"])
def test_a_configuration_that_changes_while_it_is_read(boxes, place, which):
    """What runs is one of the two configurations, whole: not one's checks and the other's container."""
    script = "id -u; pwd"
    box = boxes(rt.shell(script, process={"user": {"uid": 1000, "gid": 1000}, "cwd": "/tmp"}))
    other = json.loads(json.dumps(box.data))
    other["process"].update(user={"uid": 0, "gid": 0}, cwd="/etc")
    (box.bundle / "other.json").write_text(json.dumps(other))
    if which == "the bundle":
        subprocess.run(["cp", "-a", str(box.bundle), str(place / "twin")], check=True)
        (place / "twin/config.json").write_text(json.dumps(other))
    files = (box.bundle / "config.json", box.bundle / "other.json")
    pair = files if which == "config.json" else (box.bundle, place / "twin")
    seen = set()
    swapping(*pair, lambda: seen.update((r.code, r.out) for r in (box.run() for _ in range(10))))
    assert {out for code, out in seen if code == 0} <= {"1000\n/tmp\n", "0\n/etc\n"}


def test_a_reader_of_a_log_that_goes_away(boxes, theirs):
    """The log is a pipe whose reader has gone: the command is not ended by it."""
    put(theirs / "log", "a pipe")
    fd = os.open(theirs / "log", os.O_RDONLY | os.O_NONBLOCK)
    thread = threading.Thread(target=lambda: attack.until(lambda: not os.read(fd, 100), 0.2) or os.close(fd))
    thread.start()
    result = boxes(rt.shell("echo fine")).run(options=("--debug", "--log", str(theirs / "log")), timeout=8)
    assert result.ok().out == "fine\n"
    thread.join()
