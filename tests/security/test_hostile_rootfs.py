"""Root file systems made to be run by Hutch's victims: links, pipes and giants where a runtime looks."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest

import hutch
from hutch.engine.launch import prepare
from hutch.engine.spec import options
from hutch.plan import ops
from tests.security import attack

pytestmark = pytest.mark.root
USERNS = ["auto", "host"]


@pytest.fixture
def outside():
    """A directory of the host's that nothing may write to, beside the root file systems, with a file in it."""
    place = Path(tempfile.mkdtemp(prefix="hutch-outside-", dir="/var/tmp"))
    place.chmod(0o777)
    (place / "file").write_text("the host's")
    (place / "null").write_text("")
    with attack.untouched(place, place / "file", place / "null"):
        yield place
    shutil.rmtree(place)


def replaced(root: Path, path: str, target: str) -> None:
    """A link in place of what stands there."""
    where = root / path
    if where.is_symlink() or where.is_file():
        where.unlink()
    elif where.exists():
        shutil.rmtree(where)
    where.parent.mkdir(parents=True, exist_ok=True)
    where.symlink_to(target)


@pytest.mark.parametrize("userns", USERNS)
@pytest.mark.parametrize("path", ["proc", "sys", "dev", "dev/pts", "dev/shm", "dev/mqueue", "etc"])
@pytest.mark.parametrize("how", ["absolute", "dots", "inside", "loop", "dangling"])
def test_system_directories_as_links(busybox_root, outside, userns, path, how):
    """CVE-2019-19921, 2023-27561, 2026-41579, 2026-47766: a link where the runtime mounts: refused, or kept inside the root."""
    target = {"absolute": str(outside), "dots": f"{'../' * 12}{outside}", "inside": "/tmp", "loop": f"/{path}", "dangling": "/nowhere/at/all"}[how]
    replaced(busybox_root, path, target)
    before = os.listdir(busybox_root)
    result = hutch.run(str(busybox_root), ["sh", "-c", f"cat /{path}/file; cat /proc/self/mountinfo"], userns=userns)
    assert "the host's" not in result.stdout
    if result.outcome != "failed-to-start":
        roots = [line.split() for line in result.stdout.splitlines() if " - " in line]
        assert not [row for row in roots if row[4].startswith(str(outside))]
        assert not [row for row in roots if row[row.index("-") + 1] == "proc" and not row[4].startswith("/proc")]
    else:
        assert result.error is not None and result.error.origin
    assert os.listdir(busybox_root) == before  # the image itself is never written


@pytest.mark.parametrize("userns", USERNS)
@pytest.mark.parametrize("kind", ["bind", "bind-ro", "bind-file", "tmpfs"])
@pytest.mark.parametrize("how", ["absolute", "dots", "parent", "chain", "dangling", "dangling-dots"])
def test_mount_targets_through_links(busybox_root, outside, userns, kind, how):
    """CVE-2017-1002101, 2021-30465: the target of -v or --tmpfs is a link out of the root: it lands inside, or nowhere."""
    source = Path(tempfile.mkdtemp(prefix="hutch-source-", dir="/var/tmp"))
    source.chmod(0o755)
    try:
        (source / "mine").write_text("mine")
        target = "/data"
        if how == "absolute":
            replaced(busybox_root, "data", str(outside))
        elif how == "dots":
            replaced(busybox_root, "data", f"{'../' * 12}{outside}")
        elif how == "parent":
            replaced(busybox_root, "data", f"{'../' * 12}{outside}")
            target = "/data/below/that"
        elif how == "chain":
            replaced(busybox_root, "data", "/one")
            replaced(busybox_root, "one", "two")
            replaced(busybox_root, "two", f"/..{outside}")
        elif how == "dangling":
            replaced(busybox_root, "data", f"{outside}/made/by/the/runtime")
        else:
            replaced(busybox_root, "data", f"../../../..{outside}/made")
        mount = {
            "bind": {"mounts": [f"{source}:{target}"]},
            "bind-ro": {"mounts": [f"{source}:{target}:ro"]},
            "bind-file": {"mounts": [f"{source}/mine:{target}"]},
            "tmpfs": {"tmpfs": [target]},
        }[kind]
        result = hutch.run(str(busybox_root), ["cat", "/proc/self/mountinfo"], userns=userns, **mount)
        assert result.outcome in ("exited", "failed-to-start")
        assert (source / "mine").read_text() == "mine"
        if result.ok and kind == "bind-ro":
            row = next(line for line in result.stdout.splitlines() if str(source) in line)
            assert row.split()[5].split(",")[0] == "ro", row
    finally:
        shutil.rmtree(source)


@pytest.mark.parametrize("userns", USERNS)
def test_a_target_that_changes_behind_the_runtimes_back(busybox_root, outside, fifo, userns):
    """CVE-2021-30465: somebody with a hand in a shared volume swaps the target of the next mount, between two steps of it."""
    shared = Path(tempfile.mkdtemp(prefix="hutch-shared-", dir="/var/tmp"))
    shared.chmod(0o755)
    (shared / "a").mkdir()
    try:
        wanted = {"mounts": [f"{shared}:/shared", f"{outside}:/shared/a:ro"], "userns": userns}
        plan = attack.compiled(str(busybox_root), ("touch", "/shared/moved/new"), **wanted)
        last = max(i for i, op in enumerate(plan.container) if isinstance(op, ops.Attach) and op.path == "/shared/a")
        execution = attack.launch(attack.blocked(plan, "container", last + 1, fifo))
        try:
            assert attack.until(lambda: any(attack.blocks_in(p, fifo) for p in attack.children(execution.executor_pid)))
            # the mount goes with its directory, and the name now leads to another mount: that one becomes read-only instead
            os.rename(shared / "a", shared / "moved")
            os.symlink("/dev/shm", shared / "a")
        finally:
            os.close(os.open(fifo, os.O_RDWR))
            try:
                execution.wait(10)
            except hutch.StartError:
                pass
            execution.close()
    finally:
        shutil.rmtree(shared)


@pytest.mark.parametrize("userns", USERNS)
def test_copying_up_through_links(busybox_root, outside, userns):
    """tmpcopyup of a directory that is a link to the host's copies nothing of the host's."""
    replaced(busybox_root, "data", str(outside))
    (busybox_root / "real").mkdir()
    (busybox_root / "real/link").symlink_to(outside / "file")
    mounts = ["/data:tmpcopyup", "/real:tmpcopyup"]
    result = hutch.run(str(busybox_root), ["sh", "-c", "cat /data/file /real/link; echo x >/real/link"], tmpfs=mounts, userns=userns)
    assert "the host's" not in result.stdout


@pytest.mark.parametrize("userns", USERNS)
def test_devices_below_links(busybox_root, outside, userns):
    """--device with a target that the image has made a link: no node appears on the host."""
    replaced(busybox_root, "nodes", str(outside))
    before = os.stat("/dev/zero")
    result = hutch.run(str(busybox_root), ["ls", "-l", "/nodes"], devices=["/dev/zero:/nodes/zero"], userns=userns)
    assert result.outcome in ("exited", "failed-to-start")
    assert os.stat("/dev/zero").st_mode == before.st_mode


@pytest.mark.parametrize("userns", USERNS)
def test_a_device_under_another_name(busybox_root, userns):
    """--device /dev/zero:/srv/zero shows the device, not whatever the host has at the target's path."""
    result = hutch.run(str(busybox_root), ["head", "-c", "3", "/srv/zero"], devices=["/dev/zero:/srv/zero"], userns=userns, text=False)
    assert result.stdout == b"\0\0\0", result
    result = hutch.run(str(busybox_root), ["cat", "/etc/shadow"], devices=["/dev/null:/etc/shadow"], userns=userns)
    assert result.stdout == "", "a device of the name /etc/shadow shows the host's own file"


# /etc/passwd


def test_a_passwd_of_a_gigabyte(busybox_root):
    """An /etc/passwd of any size must not be read into the owner's memory."""
    path = busybox_root / "etc/passwd"
    os.truncate(path, 1 << 30)
    result = hutch.run(str(busybox_root), ["cat", "/proc/self/status"], user="anna")
    assert "Uid:\t1000\t" in result.stdout
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 512 << 10


def test_a_passwd_that_is_all_zeros(busybox_root):
    """A gigabyte without a single line."""
    os.truncate(busybox_root / "etc/passwd", 0)
    os.truncate(busybox_root / "etc/passwd", 1 << 30)
    with pytest.raises(hutch.UsageError):
        hutch.run(str(busybox_root), ["true"], user="anna")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 512 << 10


def test_a_passwd_that_changes(busybox_root):
    """A name is looked up when a container starts: what it meant the last time may be somebody else's id by now."""
    assert "Uid:\t1000\t" in hutch.run(str(busybox_root), ["cat", "/proc/self/status"], user="anna").stdout
    (busybox_root / "etc/passwd").write_text("anna:x:1234:1234::/:/bin/sh\n")
    assert "Uid:\t1234\t" in hutch.run(str(busybox_root), ["cat", "/proc/self/status"], user="anna").stdout


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_pipes_and_devices_for_users(busybox_root, name):
    """A fifo or a device for /etc/passwd must neither be waited for nor read."""
    for kind in ("fifo", "device", "directory"):
        path = busybox_root / "etc" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, 0o020666, os.makedev(1, 5))
        else:
            path.mkdir()
        if name == "passwd":
            with pytest.raises(hutch.UsageError):
                hutch.run(str(busybox_root), ["id"], user="anna")
        else:
            assert hutch.run(str(busybox_root), ["true"], user="anna").ok


@pytest.mark.parametrize("target", ["/etc/shadow", "../../../../../etc/shadow", "/proc/self/environ", "/proc/self/root/etc/shadow"])
def test_passwd_as_a_link_to_the_hosts(busybox_root, target):
    """A link to the host's files must not tell whether a user exists there."""
    replaced(busybox_root, "etc/passwd", target)
    with pytest.raises(hutch.UsageError, match="not in the image"):
        hutch.run(str(busybox_root), ["id"], user="root")


@pytest.mark.parametrize(
    "line",
    [
        "anna:x:0x0:0::/:/bin/sh",
        "anna:x:-1:-1::/:",
        "anna:x:4294967295:0::/:",
        "anna:x:99999999999999999999:0::/:",
        "anna:x:²:²::/:",
        "anna:x: 0:0::/:",
        "anna:x:::/",
    ],
)
def test_strange_ids(busybox_root, line):
    """crun's CVE-2026-30892: what is no number between 0 and the highest id must not end as uid 0."""
    (busybox_root / "etc/passwd").write_text(line + "\n")
    try:
        result = hutch.run(str(busybox_root), ["id", "-u"], user="anna")
    except hutch.HutchError:
        return
    assert result.outcome == "failed-to-start" or result.stdout != "0\n"


@pytest.mark.parametrize(
    "user", ["-1", "4294967295", "4294967296", "1e3", "+0", "0x0", " 0", "0 ", "²", "9" * 5000, "0:²", "0:", ":0", "anna:", "a\0", "anna\n", "root:x"]
)
def test_strange_users(busybox_root, user):
    """A user that is not there is refused with a message of Hutch's, never taken for root."""
    try:
        result = hutch.run(str(busybox_root), ["id", "-u"], user=user)
    except hutch.HutchError:
        return
    assert result.outcome == "failed-to-start", result


# Devices and the console


@pytest.mark.parametrize("userns", USERNS)
def test_a_null_that_is_a_link(busybox_root, outside, userns):
    """CVE-2025-31133: the image's /dev/null is a link: what is masked with it must stay masked, and the link's end unharmed."""
    for name in ("null", "console", "ptmx", "tty", "zero", "full", "urandom", "stdin", "fd"):
        (busybox_root / "dev" / name).symlink_to(outside / "null")
    result = hutch.run(
        str(busybox_root), ["sh", "-c", "echo x >/dev/null; cat /proc/keys /proc/interrupts; stat -c %F:%t:%T /dev/null /dev/zero"], userns=userns
    )
    assert result.stdout == "character special file:1:3\ncharacter special file:1:5\n", result


@pytest.mark.parametrize("userns", USERNS)
def test_a_console_that_is_a_link(busybox_root, outside, userns):
    """CVE-2025-52565: /dev/console is mounted early by others, where a link in the image leads it out."""
    (busybox_root / "dev/console").symlink_to(outside / "null")
    (busybox_root / "dev/pts").symlink_to(outside)
    s = options.settings(str(busybox_root), ("sh", "-c", "stat -c %F /dev/console /dev/pts/0; test -t 0 && echo tty; echo /dev/pts/*"), {"userns": userns})  # type: ignore[typeddict-item]
    plan = prepare.plan_of(prepare.prepare(s.replace(terminal=True)))
    execution = attack.launch(plan)
    try:
        execution.wait_ready(10)
        master = execution.descriptors["terminal"]
        text = b""
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:  # EIO: nobody has the other end any more
                break
            if not data:
                break
            text += data
        execution.wait(10)
        assert text.replace(b"\r", b"") == b"character special file\ncharacter special file\ntty\n/dev/pts/0 /dev/pts/ptmx\n"
    finally:
        execution.close()


# Masks


HIDDEN = """
for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/latency_stats /proc/sched_debug; do
    [ -e $f ] && [ "$(head -c 1 $f | wc -c)" != 0 ] && echo READ $f
done
for d in /proc/acpi /proc/asound /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do
    [ -e $d ] && [ -n "$(ls -A $d)" ] && echo LISTED $d
    [ -e $d ] && touch $d/x 2>/dev/null && echo MADE $d
done
for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/kernel/modprobe /proc/sys/vm/overcommit_memory \
    /proc/sys/kernel/ns_last_pid /proc/sys/net/ipv4/ip_forward /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run \
    /sys/power/state /sys/kernel/profiling /sys/fs/cgroup/cgroup.procs /sys/module/kernel/parameters/consoleblank; do
    [ -e $f ] && (echo h >$f) 2>/dev/null && echo WROTE $f
done
for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /sys/kernel/uevent_helper; do
    (chmod 777 $f) 2>/dev/null && [ -e $f ] && echo CHANGED $f
done
umount /proc/sys 2>/dev/null && echo UNMOUNTED
umount /proc/keys 2>/dev/null && echo UNMOUNTED
mount -o remount,rw /proc/sys 2>/dev/null && echo REMOUNTED
mount -o remount,rw /sys 2>/dev/null && echo REMOUNTED
mount -t proc proc /tmp 2>/dev/null && echo MOUNTED
echo end
"""


@pytest.mark.parametrize("userns", USERNS)
@pytest.mark.parametrize("image", ["busybox", "host"])
def test_masked_and_frozen_paths(busybox_root, userns, image):
    """CVE-2025-31133, 52881 and Docker's list: what tells of the host is hidden, what changes the host is read-only."""
    (busybox_root / "bin/umount").symlink_to("busybox")
    name = str(busybox_root) if image == "busybox" else "host"
    result = hutch.run(name, ["sh", "-c", HIDDEN], userns=userns)
    assert result.stdout == "end\n", result.stdout
    with hutch.Container(name, userns=userns) as box:
        assert box.run(["sh", "-c", HIDDEN]).stdout == "end\n"


@pytest.mark.parametrize("userns", USERNS)
def test_masks_below_links(busybox_root, outside, userns):
    """CVE-2025-31133: /proc and /sys of the image hold links where the masks go; they lie below the mounts and do not matter."""
    for path in ("proc/kcore", "proc/keys", "proc/sys", "proc/sysrq-trigger", "sys/firmware"):
        (busybox_root / path).symlink_to(outside / "file")
    result = hutch.run(str(busybox_root), ["sh", "-c", HIDDEN], userns=userns)
    assert result.stdout == "end\n", result.stdout


@pytest.mark.parametrize("userns", USERNS)
def test_own_files_of_etc_through_links(busybox_root, outside, userns):
    """/etc/hosts, hostname and resolv.conf are Hutch's to write: a link in their place must not be written through."""
    for name in ("hosts", "hostname", "resolv.conf"):
        replaced(busybox_root, f"etc/{name}", str(outside / "file"))
    result = hutch.run(str(busybox_root), ["cat", "/etc/hostname"], userns=userns, hostname="mine")
    assert result.outcome == "failed-to-start" or result.stdout == "mine\n"
    replaced(busybox_root, "etc", str(outside))
    result = hutch.run(str(busybox_root), ["cat", "/etc/hostname"], userns=userns, hostname="mine")
    assert "the host's" not in result.stdout


@pytest.mark.parametrize("userns", USERNS)
def test_a_working_directory_that_is_a_link(busybox_root, outside, userns):
    """WORKDIR is made when it is missing, inside the root, whatever links lie on the way."""
    replaced(busybox_root, "work", f"../../../..{outside}/made")
    result = hutch.run(str(busybox_root), ["pwd"], workdir="/work/below", userns=userns)
    assert result.outcome in ("exited", "failed-to-start")
    replaced(busybox_root, "work", "/proc/1/root")
    assert hutch.run(str(busybox_root), ["ls", str(outside)], workdir="/work/..", userns=userns).exit_code != 0


@pytest.mark.parametrize("userns", USERNS)
def test_a_read_only_root(userns, busybox_root):
    """readonly=True: nothing of the root can be written, in no view of it."""
    for image in (str(busybox_root), "host"):
        script = "for d in / /etc /usr /tmp /root /var/tmp /opt; do touch $d/x 2>/dev/null && echo WROTE $d; done; echo end"
        result = hutch.run(image, ["sh", "-c", script], userns=userns, readonly=True)
        assert result.stdout == "end\n", f"{image}: {result.stdout}"


def test_an_image_directory_is_never_written(busybox_root):
    """What a container changes lies in its upper layer: the image's directory stays byte for byte, also for userns=host."""
    before = sorted((p.relative_to(busybox_root), p.lstat().st_mtime_ns, p.lstat().st_mode) for p in busybox_root.rglob("*"))
    for userns in USERNS:
        script = "echo x >/etc/passwd; rm /bin/ls; chmod 777 /etc; mkdir /new; ln -s / /etc/link; chmod 0 /bin/busybox"
        assert hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns).outcome == "exited"
    after = sorted((p.relative_to(busybox_root), p.lstat().st_mtime_ns, p.lstat().st_mode) for p in busybox_root.rglob("*"))
    assert before == after
