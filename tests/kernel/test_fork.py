"""Branching: new containers from a running one's files, in constant time where the kernel can, by a copy elsewhere."""

from __future__ import annotations

import os
import time

import pytest

import hutch
from hutch.engine.containers import forking
from hutch.kernel.features import features

pytestmark = pytest.mark.root
CONSTANT = pytest.mark.skipif(not features().detached_layers, reason="overlayfs takes no detached layers before Linux 6.15")


@pytest.fixture(params=["constant", "copied"])
def way(request, monkeypatch):
    """Both ways to fork: by freezing the upper directory, and by writing it into a layer."""
    if request.param == "constant" and not features().detached_layers:
        pytest.skip("overlayfs takes no detached layers before Linux 6.15")
    parted = []
    real = forking.part

    def part(box):
        parted.append(request.param == "constant" and real(box))
        return parted[-1]

    monkeypatch.setattr(forking, "part", part)
    yield request.param
    assert parted and all(parted) == (request.param == "constant")


def sh(box, text: str) -> str:
    return box.run(["sh", "-c", text]).check().stdout


def close(*boxes) -> None:
    for box in boxes:
        box.close()


def test_children_have_the_files_of_the_moment(way, busybox_root):
    with hutch.Container(str(busybox_root)) as box:
        sh(box, "echo one > /etc/a; rm /bin/true; mkdir -p /srv/d; echo x > /srv/d/f; chown 3:4 /srv/d/f; chmod 4750 /srv/d/f; ln -s /srv/d /srv/l")
        first, second = box.fork(2)
        sh(box, "echo two > /etc/a; rm -r /srv/d; echo new > /srv/new")
        sh(first, "echo mine > /etc/a; echo f > /srv/first")
        assert sh(first, "cat /etc/a; ls /srv; stat -c '%u %g %a' /srv/d/f") == "mine\nd\nfirst\nl\n3 4 4750\n"
        assert sh(second, "cat /etc/a; ls /srv; cat /srv/l/f") == "one\nd\nl\nx\n"
        assert sh(box, "cat /etc/a; ls /srv") == "two\nl\nnew\n"
        for child in (first, second, box):
            assert sh(child, "ls /bin | grep -c '^true$' || :") == "0\n"
        close(first, second)


def test_the_original_goes_on(way, busybox_root):
    """A process that runs meanwhile keeps its namespaces, its mounts and its pid, and its writes are the original's alone."""
    with hutch.Container(str(busybox_root), tmpfs="/scratch") as box:
        loop = box.start(["sh", "-c", "cd /; echo t > /scratch/t; i=0; while :; do i=$((i+1)); echo $i >> /etc/ticks; sleep 0.01; done"])
        time.sleep(0.3)
        before = box.pid
        (child,) = box.fork()
        time.sleep(0.3)
        assert os.path.exists(f"/proc/{loop.pid}") and box.pid == before
        seen = len(sh(child, "cat /etc/ticks").split())
        now = len(sh(box, "cat /etc/ticks").split())
        time.sleep(0.2)
        assert now > seen and len(sh(child, "cat /etc/ticks").split()) == seen
        assert sh(box, "cat /scratch/t; ls /proc/1/exe > /dev/null; echo > /dev/null; mount | grep -c scratch") == "t\n1\n"
        assert sh(child, "ls /scratch") == ""
        loop.close()
        child.close()


def test_forks_of_forks_and_again(way, busybox_root):
    with hutch.Container(str(busybox_root)) as box:
        family = [box]
        for number in range(4):
            sh(family[-1], f"echo {number} > /srv{number}")
            family.append(family[-1].fork()[0])
        assert sh(family[-1], "cat /srv*") == "0\n1\n2\n3\n"
        sh(box, "echo again > /srv0; rm -f /srv1")
        family += box.fork()
        assert sh(family[-1], "cat /srv*") == "again\n"
        assert sh(family[1], "cat /srv*") == "0\n1\n"
        close(*family[::-1])


def test_the_original_may_end_first(way, busybox_root):
    box = hutch.Container(str(busybox_root))
    sh(box, "head -c 5000000 /dev/urandom > /etc/big; md5sum /etc/big > /etc/sum")
    (child,) = box.fork()
    box.close()
    assert sh(child, "md5sum -c /etc/sum") == "/etc/big: OK\n"
    (grandchild,) = child.fork()
    child.close()
    assert sh(grandchild, "md5sum -c /etc/sum") == "/etc/big: OK\n"
    grandchild.close()


def test_diff_counts_all_generations(way, busybox_root):
    with hutch.Container(str(busybox_root)) as box:
        sh(box, "echo a > /a; echo b > /b; mkdir /d; echo 1 > /d/f; rm /bin/true")
        (child,) = box.fork()
        sh(box, "rm /a; echo c > /c; rm -r /d; mkdir /d")
        if way == "constant":
            assert [(c.kind, c.path) for c in box.diff()] == [("deleted", "/bin/true"), ("added", "/b"), ("added", "/c"), ("added", "/d")] or [
                (c.kind, c.path) for c in box.diff()
            ] == [("added", "/b"), ("deleted", "/bin/true"), ("added", "/c"), ("added", "/d")]
            assert {c.path for c in child.diff()} == {"/a", "/b", "/d", "/d/f", "/bin/true"}
        child.close()


def test_a_file_that_is_open_for_writing(busybox_root):
    """It would be written behind the children's back: the changes are copied, and the writer goes on."""
    with hutch.Container(str(busybox_root)) as box:
        writer = box.start(["sh", "-c", "exec 3>/etc/log; echo begun >&3; while :; do sleep 0.05; echo more >&3; done"])
        time.sleep(0.3)
        (child,) = box.fork()
        time.sleep(0.2)
        first = sh(child, "cat /etc/log")
        assert first.startswith("begun\n") and os.path.exists(f"/proc/{writer.pid}")
        time.sleep(0.2)
        assert sh(child, "cat /etc/log") == first and len(sh(box, "cat /etc/log")) > len(first)
        sh(box, "echo x > /etc/other")  # the root is not left read-only
        writer.close()
        child.close()


def test_a_process_that_works_in_a_directory(busybox_root):
    with hutch.Container(str(busybox_root)) as box:
        sh(box, "mkdir /srv")
        worker = box.start(["sh", "-c", "cd /srv; while :; do echo x >> here; sleep 0.02; done"])
        time.sleep(0.3)
        (child,) = box.fork()
        size = len(sh(child, "cat /srv/here"))
        time.sleep(0.2)
        assert 0 < size == len(sh(child, "cat /srv/here")) < len(sh(box, "cat /srv/here"))
        worker.close()
        child.close()


@CONSTANT
def test_nothing_is_copied(busybox_root):
    """The frozen file is the same inode's pages in all of them: twenty children of 64 MB take no 64 MB more."""
    with hutch.Container(str(busybox_root)) as box:
        sh(box, "head -c 67108864 /dev/zero > /etc/big")

        def shared() -> int:
            with open("/proc/meminfo") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("Shmem:"))

        before = shared()
        children = box.fork(20)
        assert sh(children[7], "stat -c %s /etc/big") == "67108864\n"
        assert shared() - before < 32 << 10
        close(*children)


@pytest.mark.parametrize("options", [{"userns": "host"}, {"upper": "disk"}, {"network": "host", "userns": "host"}, {"readonly": True}])
def test_other_kinds_of_containers(busybox_root, options):
    with hutch.Container(str(busybox_root), **options) as box:
        if not options.get("readonly"):
            sh(box, "echo kept > /etc/kept")
        (child,) = box.fork()
        if not options.get("readonly"):
            assert sh(child, "cat /etc/kept") == "kept\n"
        else:
            assert box.run(["sh", "-c", "echo > /x"]).exit_code and child.run(["sh", "-c", "echo > /x"]).exit_code
        child.close()


def test_what_cannot_be_forked(busybox_root):
    with hutch.Container("host") as box, pytest.raises(hutch.UsageError, match="image or a directory"):
        box.fork()
    with hutch.Container(str(busybox_root)) as box:
        with pytest.raises(hutch.UsageError, match="number"):
            box.fork(0)
    with pytest.raises(hutch.ContainerGone):
        box.fork()


def test_limits_and_names_are_not_shared(way, busybox_root):
    with hutch.Container(str(busybox_root), name="origin", memory="64m", pids=32) as box:
        first, second = box.fork(2)
        assert len({box.id, first.id, second.id}) == 3 and first.name != "origin"
        assert first.stats().memory_limit == 64 << 20
        assert sh(first, "hostname") != sh(second, "hostname")
        close(first, second)
        assert os.path.exists(f"/proc/{box.pid}")
