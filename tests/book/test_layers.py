"""Chapter 5's script: what overlays, whiteouts and layers do on this kernel. Run as root and as an ordinary user."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs/rabbit-hole/layers.py"
CHAPTER = SCRIPT.with_name("5-layers.md")


def load():
    spec = importlib.util.spec_from_file_location("book_layers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BOOK = load()
FROM_FILES = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 12)


def check(name: str, found: dict, root: bool) -> None:
    """What must hold of a part's account, whoever ran it."""
    assert "failed" not in found, found
    if name == "tar" and not root:
        assert "user namespace" in found["skipped"]
        return
    if "skipped" in found:
        assert name != "tar" or not FROM_FILES or "mounts no EROFS" in found["skipped"]
        return
    if name == "objects":
        names, files, mounts = found["names"], found["open files"], found["mounts"]
        assert names["inode"] == names["inode of its hard link"] == names["inode after a rename"] != names["inode of a symbolic link"]
        assert names["names it has"] == 2 and names["the symbolic link now"] == "No such file or directory"
        assert [files[key] for key in list(files)[:3]] == ["ab", "cd", "ab"]
        assert files["names after unlink"] == 0 and files["what still can be read"] == "abcdef"
        assert mounts["bind mount: the same superblock"] and mounts["bind mount: the same inode"]
        ids, devices = zip(*(re.match(r"(\d+) shows \S+ of (\S+)", mounts[key]).groups() for key in ("mount", "bind mount", "another tmpfs")), strict=True)
        assert len(set(ids)) == 3 and devices[0] == devices[1] != devices[2]
        assert mounts["write through the mount"] == "done" and mounts["write through the bind mount"] == "Read-only file system"
        assert mounts["link from the one into the other"] == "Invalid cross-device link" and mounts["what the bind mount hides"] == ["hidden"]
    elif name == "copy-up":
        assert found["upper at first"] == found["upper after reading"] == []
        assert found["upper after opening to write"] == ["etc/", "etc/motd"] and found["its content there"] == found["lower file"] == "the image's"
        assert found["merged file"] == found["descriptor from before reads"] == "container's"
        assert found["mapping from before has"] == "the image's" and found["inode number stays"]
        assert found["upper after chmod of another file"] == ["etc/", "etc/mode", "etc/motd"]
        assert (found["one hard link, written to"], found["the other hard link"]) == ("mine", "linked")
    elif name == "whiteouts":
        assert found["upper after removing its own file"] == [] and found["whiteout"] == "c 0,0"
        assert found["upper after removing the image's"] == ["cache/", "cache/old(whiteout)", "secret(whiteout)"]
        assert found["merged"] == ["cache/", "docs/", "docs/old"] and "secret" in found["lower"] and "cache/old" in found["lower"]
        assert "docs(whiteout)" in found["upper after rmdir docs"] and "docs/new" in found["upper after mkdir docs"]
        assert found["mark on docs"] == [f"{'trusted' if root else 'user'}.overlay.opaque=y"] and found["merged docs"] == ["new"]
        assert "secret" in found["upper after making secret again"]
    elif name == "tar":
        assert found["bytes of its index"] < found["bytes of the tar"] / 100 and found["file system"] == "erofs, read-only"
        assert found["loop devices it took"] == 0 and found["that is a multiple of 512"]
        assert "etc/shadow" in found["first layer"] and "etc/shadow(whiteout)" in found["second layer"]
        assert found["merged"] == ["bin/", "bin/same-tool", "bin/tool", "etc/", "etc/motd", "var/", "var/cache/", "var/cache/new"]
        assert "user.overlay.opaque=y" in found["mark on var/cache"]
        assert (found["the index leads to"], found["merged etc/motd"]) == ("the first layer's", "the second layer's")
        assert found["owner and mode of etc/shadow"] == "0:42 0600" and found["bin/tool"] == f"4755, 2 names, {BOOK.BIG} bytes"
        assert (found["write into a layer"], found["write into the overlay"]) == ("Read-only file system", "done")
    elif name == "cache":
        pages = found["pages of the file"]
        assert found["one reads"] == BOOK.BIG and found["two: in memory now"] == pages
        assert found["one: inode"] == found["two: inode"]
        if found["the layer"] == "an EROFS mount":
            assert found["one: in memory at first"] == found["two: in memory at first"] == 0
            assert found["one: page frame of the first page"] == found["two: page frame of the first page"] > 0


@pytest.mark.root
@pytest.mark.parametrize("name", BOOK.PARTS)
def test_as_root(name):
    done = subprocess.run([sys.executable, str(SCRIPT), "--json", name], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)[name]
    check(name, found, root=True)
    assert "hutch-book" not in Path("/proc/self/mountinfo").read_text()
    if "skipped" in found:
        pytest.skip(found["skipped"])


@pytest.fixture
def readable_script():
    """The script where an ordinary user can read it."""
    place = Path(f"/var/tmp/hutch-script-{os.getpid()}")
    place.mkdir(mode=0o755)
    copy = shutil.copy(SCRIPT, place)
    os.chmod(copy, 0o644)
    yield copy
    shutil.rmtree(place)


@pytest.mark.root
def test_as_an_ordinary_user(as_user, readable_script):
    if int(Path("/proc/sys/user/max_user_namespaces").read_text()) == 0:
        pytest.skip("no user namespaces here")
    done = as_user(str(readable_script), "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert list(found) == list(BOOK.PARTS)
    for name, account in found.items():
        check(name, account, root=False)


@pytest.mark.root
def test_nothing_is_left_in_the_file_system():
    """Also of a part that fails in its middle."""
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("book", {str(SCRIPT)!r})
book = importlib.util.module_from_spec(spec)
spec.loader.exec_module(book)
def broken(lowers, home, target):
    book.write(home + "/file", "x")
    raise OSError(19, "no such thing", home)
book.overlay = broken
sys.exit(book.main(["copy-up"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "no such thing" in done.stdout and done.returncode == 1, done.stderr
    place = re.search(r"/var/tmp/hutch-book-[^/]+", done.stdout)
    assert place and not os.path.exists(place[0])


@pytest.mark.root
def test_an_older_kernel_is_told_so(monkeypatch):
    monkeypatch.setattr(BOOK, "features", lambda: SimpleNamespace(kernel=(6, 11)))
    with pytest.raises(BOOK.Skipped, match=r"since 6\.12"):
        BOOK.need_erofs()


@pytest.mark.root
def test_the_account_is_readable():
    done = subprocess.run([sys.executable, str(SCRIPT), "objects", "copy-up"], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "Objects: superblock, inode, dentry, file, mount."
    assert "bind mount:" in done.stdout and "upper after opening to write:" in done.stdout
    assert max(map(len, lines)) < 130


@pytest.mark.root
def test_the_chapter_shows_what_the_script_prints():
    """Every line of the chapter's output has a line of the script's with the same beginning."""
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=60, check=True)
    if "skipped" in done.stdout:
        pytest.skip("this kernel does not show all of it")
    printed = {line.partition(":  ")[0] for line in done.stdout.splitlines() if ":  " in line}
    shown = [line.partition(":  ")[0] for line in CHAPTER.read_text().splitlines() if line.startswith("  ") and ":  " in line]
    assert len(shown) > 40 and not [line for line in shown if line not in printed]


def test_an_unknown_name_is_refused():
    done = subprocess.run([sys.executable, str(SCRIPT), "moon"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "moon" in done.stderr
