"""Ways out of a container of hutch-oci's, by the published escapes of other runtimes."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hutch.executor import launcher
from tests.conformance import runtime as rt
from tests.security import attack, test_oci_tools as tools
from tests.security.test_oci_tools import USERNS, clear

pytestmark = pytest.mark.root
place, boxes = tools.place, tools.boxes
HOST = (launcher.BINARY, sys.executable, str(tools.OWN), "/bin/busybox")


def bind(source: Path, destination: str, *options: str) -> dict:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def leaking(path: Path | str) -> list[str]:
    """The words that make a command run with a directory of the host's on its descriptors from 3 to 9."""
    return ["sh", "-c", " ".join(f"exec {n}<{path};" for n in range(3, 10)) + ' exec "$@"', "sh"]


def without(data: dict, *destinations: str) -> dict:
    data["mounts"] = [m for m in data["mounts"] if m["destination"] not in destinations]
    return data


# CVE-2019-5736: the runtime's own binary behind /proc/self/exe


@USERNS
def test_a_command_overwrites_what_waits_as_pid_1(boxes, userns):
    """CVE-2019-5736: between create and start PID 1 is the executor: a sealed memfd."""
    with attack.untouched(*HOST):
        box = boxes.shell(userns, "echo fine")
        box.create().ok()
        assert os.readlink(f"/proc/{box.init}/exe").startswith("/memfd:hutch-executor")
        script = "for i in 1 2 3; do echo x >/proc/1/exe; echo x >>/proc/1/exe; cat /bin/busybox >/proc/1/exe; done; echo tried"
        assert box.exec("sh", "-c", script).out == "tried\n"
        box.start().ok()
        assert box.wait() == 0
        assert box.out() == "fine\n"


@USERNS
def test_a_hostile_pid_1_overwrites_commands_that_join_it(boxes, userns):
    """CVE-2019-5736: what comes in by exec is written to, by way of /proc/PID/exe, for as long as it is there."""
    with attack.untouched(*HOST):
        script = "while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || { echo x >>$p/exe; echo x >$p/mem; }; done; done 2>/dev/null"
        box = boxes.shell(userns, script).up()
        for i in range(6):
            assert box.exec("echo", str(i)).ok().out == f"{i}\n"


@USERNS
def test_programs_that_lead_to_the_executor(boxes, userns):
    """CVE-2019-5736: the program is /proc/self/exe, a link to it, a script or an ELF file of it; the linker is the image's."""
    with attack.untouched(*HOST):
        box = boxes.shell(userns, "sleep 100", process={"env": ["PATH=/bin", "LD_PRELOAD=/evil.so", "LD_LIBRARY_PATH=/"]})
        (box.rootfs / "evil.so").write_bytes(b"\x7fELF evil")
        (box.rootfs / "bin/link").symlink_to("/proc/self/exe")
        (box.rootfs / "bin/script").write_text("#!/proc/self/exe\n")
        (box.rootfs / "bin/script").chmod(0o755)
        source = box.bundle / "x.c"
        source.write_text("int main(void) { return 0; }")
        subprocess.run(["gcc", "-o", str(box.rootfs / "bin/elf"), str(source), "-Wl,--dynamic-linker=/proc/self/exe"], check=True)
        box.up()
        for name in ("/proc/self/exe", "/bin/link", "/bin/script", "/bin/elf", "/proc/1/../self/exe"):
            assert box.exec(name, "-c", "echo ran").code != 0
            other = boxes.shell(userns, "")
            other.data["process"]["args"] = [name, "-c", "echo ran"]
            for file in ("link", "script", "elf"):
                os.rename(box.rootfs / "bin" / file, other.rootfs / "bin" / file)
            other.write(other.data)
            result = other.run()
            assert result.code != 0 and "ran" not in result.out, result
            for file in ("link", "script", "elf"):
                os.rename(other.rootfs / "bin" / file, box.rootfs / "bin" / file)


# CVE-2024-21626: descriptors of the host's


@USERNS
@pytest.mark.parametrize("given", [0, 2])
def test_no_descriptor_reaches_the_container(boxes, userns, given):
    """CVE-2024-21626: PID 1 and a command hold the standard streams, and what --preserve-fds names."""
    box = boxes(rt.config("/report") if not userns else rt.mapped(""))
    box.data["process"]["args"] = ["/report"]
    box.put("report")
    box.write(box.data)
    before = [*range(3, 3 + given)]
    flags = ["--preserve-fds", str(given)] if given else []
    opened = leaking("/dev")  # more than are named
    first = box.run(*flags, prefix=opened).ok().out
    other = boxes.shell(userns, "sleep 100")
    other.put("report")
    second = other.up().exec("/report", options=flags, prefix=opened).ok().out
    for text in (first, second):
        found = [line.split() for line in text.splitlines() if line.startswith("fd ")]
        assert [int(f[1]) for f in found] == [0, 1, 2, *before], text
        assert not any("memfd" in f[2] or str(boxes.runtime.root) in f[2] for f in found), text


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("verb", ["run", "exec"])
def test_closed_standard_streams_are_not_replaced_by_the_engines_own(boxes, verb, closed):
    """CVE-2024-21626, in the small: with a standard stream closed, what the engine opens next gets its number."""
    box = boxes.shell(False, "sleep 100" if verb == "exec" else "ls -l /proc/1/fd >/tmp/fds; :")
    words = ["run", "--bundle", str(box.bundle), box.id]
    if verb == "exec":
        box.up()
        words = ["exec", box.id, "sh", "-c", "ls -l /proc/$$/fd >/tmp/fds; :"]
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *box.runtime.argv, "--root", box.runtime.root, *words]
    said = subprocess.run(line, check=False, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL).stderr
    assert "Traceback" not in said
    found = [line.split(" -> ")[1] for line in box.read("tmp/fds").splitlines() if " -> " in line]
    assert not [name for name in found if not name.startswith(("pipe:", "/dev/null", "/tmp/fds"))], found


def test_the_working_directory_is_a_descriptor(boxes, place):
    """CVE-2024-21626: process.cwd and exec --cwd are /proc/self/fd/N, for every N that could be; and a directory is handed over."""
    (place / "secret").write_text("the host's")
    running = boxes.shell(False, "sleep 100").up()
    opened = leaking(place)
    for n in range(3, 12):
        for where in (f"/proc/self/fd/{n}", f"/proc/thread-self/fd/{n}/..") if n == 3 else (f"/proc/self/fd/{n}",):
            keep = ["--preserve-fds", "2"] if n < 5 else []
            result = clear(boxes.shell(False, "ls", process={"cwd": where}).run(*keep, prefix=opened), "cwd")
            assert "secret" not in result.out
            result = clear(running.exec("ls", options=["--cwd", where, *keep], prefix=opened), "cwd")
            assert "secret" not in result.out
    box = boxes.shell(False, "ls", process={"cwd": "/work"})
    (box.rootfs / "work").symlink_to("/proc/self/fd/3")
    assert "secret" not in clear(box.run("--preserve-fds", "1", prefix=opened), "outside").out


# /proc, /sys and /dev as the image arranged them


@USERNS
@pytest.mark.parametrize("where", ["proc", "sys", "dev", "dev/pts", "dev/mqueue", "sys/fs"])
def test_links_where_file_systems_go(boxes, place, userns, where):
    """CVE-2019-19921, CVE-2023-27561 and /dev as a link: nothing is mounted through a link of the image's."""
    trap = place / "trap"
    trap.mkdir()
    mounts = [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
    ]
    data = (rt.mapped if userns else rt.shell)("echo ran", mounts=mounts)
    if "/" in where:
        data = without(data, "/dev" if where.startswith("dev") else "/sys")
    box = boxes(data)
    path = box.rootfs / where
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        path.rmdir()
    for target in (f"../../../../../..{trap}", "/etc", "/proc/self/root", "/proc/1/cwd"):
        path.symlink_to(target)
        result = box.run()
        assert "ran" not in result.out, result
        clear(result, "symbolic link", "no such file", "exist")
        path.unlink()
    assert not os.listdir(trap)


@USERNS
def test_settings_do_not_go_through_a_replaced_proc(boxes, place, userns):
    """CVE-2019-16884, CVE-2025-52881: with a volume or tmpfs for /proc, or over a part of it, no setting is written elsewhere."""
    volume = place / "volume"
    (volume / "sys/net/ipv4").mkdir(parents=True)
    (volume / "sys/net/ipv4/ip_forward").write_text("untouched")
    (volume / "self/attr").mkdir(parents=True)
    setting = {"sysctl": {"net.ipv4.ip_forward": "1"}}
    with open("/proc/sys/net/ipv4/ip_forward", encoding="ascii") as file:
        before = file.read()
    tmpfs = {"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}
    for extra, drop in (([bind(volume, "/proc")], True), ([tmpfs], True), ([bind(volume, "/proc")], False), ([bind(volume / "sys", "/proc/sys")], False)):
        data = (rt.mapped if userns else rt.shell)("cat /proc/sys/net/ipv4/ip_forward", linux=dict(setting))
        data = without(data, "/proc") if drop else data
        data["mounts"] += extra
        result = boxes(data).run()
        assert "Traceback" not in result.err
        assert (volume / "sys/net/ipv4/ip_forward").read_text() == "untouched", (extra, result)
    with open("/proc/sys/net/ipv4/ip_forward", encoding="ascii") as file:
        assert file.read() == before


@pytest.mark.parametrize("form", ["link", "file", "device", "missing"])
def test_masks_do_not_trust_the_images_null(boxes, place, form):
    """CVE-2025-31133: maskedPaths are covered by the host's null device, whatever the image has for one."""
    volume = place / "dev"
    volume.mkdir()
    target = place / "core_pattern"
    target.write_text("the host's")
    if form == "link":
        (volume / "null").symlink_to(f"../../../../../..{target}")
    elif form == "file":
        (volume / "null").write_text("")
    elif form == "device":
        os.mknod(volume / "null", 0o600 | 0o020000, os.makedev(1, 11))  # the kernel's log
    for name in ("zero", "console"):
        (volume / name).symlink_to(f"../../../../../..{target}")
    script = "stat -c '%F %t:%T' /proc/timer_list /secret; echo evil >/proc/timer_list; echo evil >/secret; cat /secret /proc/timer_list; echo end"
    data = without(rt.shell(script, linux={"maskedPaths": ["/proc/timer_list", "/secret", "/nothing"]}), "/dev", "/dev/pts")
    data["mounts"].append(bind(volume, "/dev"))
    box = boxes(data)
    (box.rootfs / "secret").write_text("the image's")
    result = box.run().ok()
    assert result.out.splitlines() == ["character special file 1:3"] * 2 + ["end"], result
    assert target.read_text() == "the host's"
    assert (box.rootfs / "secret").read_text() == "the image's"


@pytest.mark.parametrize("image", [["null", "console", "ptmx"], []])
def test_an_image_with_devices_of_its_own(boxes, place, image):
    """2026's /dev as the image's own directory: its links and files are not followed, and a container starts twice."""
    trap = place / "trap"
    trap.write_text("the host's")
    box = boxes(without(rt.shell("stat -c '%F %t:%T' /dev/null; echo x >/dev/null"), "/dev", "/dev/pts"))
    for name in image:
        (box.rootfs / "dev" / name).symlink_to(f"../../../../../../..{trap}")
    first, second = box.run(), box.run()
    assert trap.read_text() == "the host's"
    for result in (first, second):
        if image:
            result.failed("another file is there")
        else:
            assert result.ok().out.startswith("character special file 1:3")


# Rights


@USERNS
def test_nothing_is_inheritable(boxes, userns):
    """CVE-2022-24769, CVE-2022-29162: neither PID 1 nor a command has inheritable capabilities that were not asked for."""
    box = boxes.shell(userns, "/report; sleep 100")
    box.put("report")
    box.up()
    rt.until(lambda: "CapAmb" in box.out(), "the first report")
    texts = [box.out()]
    for flags in ([], ["--cap", "CAP_NET_RAW"], ["--user", "1000:1000"], ["--user", "1000", "--cap", "CAP_NET_ADMIN"]):
        texts.append(box.exec("/report", options=flags).ok().out)
    for text in texts:
        caps = dict(line.split(":\t") for line in text.splitlines() if line.startswith("Cap"))
        assert int(caps["CapInh"], 16) == int(caps["CapAmb"], 16) == 0, text
    for text in texts[3:]:
        assert "CapEff:\t0000000000000000" in text and "CapPrm:\t0000000000000000" in text


NO_USERS = ("abc", "1000x", "-1", "0:", ":0", ":", "0:0:0", " 0", "0 ", "+0", "٠", "０", "0x0", "1e3", "4294967295", "1\n", "1,0")


def test_users_that_are_no_numbers(boxes):
    """CVE-2026-30892: `exec --user` takes numbers; nothing else makes the command root."""
    box = boxes.shell(False, "sleep 100", process={"user": {"uid": 1000, "gid": 1000}}).up()
    for word in NO_USERS:
        clear(box.exec("id", "-u", options=["--user", word]), "--user")
    result = box.exec("id", "-u", options=["--user", ""])  # an error, or as if it had not been given: the container's own user
    assert result.code or result.out == "1000\n", result


@USERNS
def test_the_way_out_by_release_agent(boxes, userns):
    """CVE-2022-0492: no release_agent, and no right over devices, behind cgroup mounts that may be written."""
    agents = {path: Path(path).read_text() for path in glob.glob("/sys/fs/cgroup/*/release_agent")}
    script = """
        find /sys/fs/cgroup -name release_agent
        cat /proc/self/cgroup | grep -v ':/$'
        echo a >/sys/fs/cgroup/devices/devices.allow && echo allowed
        for c in memory pids devices freezer; do
          mkdir -p /tmp/$c; mount -t cgroup -o $c none /tmp/$c && echo /tmp/evil >/tmp/$c/release_agent && echo agent
          mkdir /sys/fs/cgroup/$c/x && echo 1 >/sys/fs/cgroup/$c/x/notify_on_release; rmdir /sys/fs/cgroup/$c/x
        done
        mknod /tmp/disk b 7 0 && cat /tmp/disk && echo disk
        echo end"""
    mounts = [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
    ]
    caps = [*rt.CAPABILITIES, *(["CAP_SYS_ADMIN"] if userns else [])]
    box = boxes.shell(userns, script, mounts=mounts, process={"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), caps)})
    assert box.run().out.splitlines() == ["end"]
    assert {path: Path(path).read_text() for path in agents} == agents


@USERNS
def test_a_sibling_cgroup_is_out_of_sight(boxes, userns):
    """A container sees its own cgroup as the root, and `exec --cgroup` stays below it."""
    box = boxes.shell(userns, "sleep 100").up()
    seen = {line.rpartition(":")[2] for line in box.exec("cat", "/proc/self/cgroup").lines() if not line.startswith("0:")}
    assert seen <= {"/", "/.."}  # the second: a hierarchy that it has no cgroup of its own in
    for path in ("..", "../..", "/../x", "memory:../..", "nothing:x", "x", "memory:/x/../../.."):
        clear(box.exec("true", options=["--cgroup", path]), "--cgroup")
