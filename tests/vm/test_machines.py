"""Containers in machines that are really booted: what a machine is, what it withstands, and its snapshots."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hutch
from hutch.engine.machines import channel
from hutch.kernel.kvm.probe import probe
from tests.images import make_debian
from tests.vm import kit
from tests.vm.kit import CLI, EMULATED, FLAGS, kernel_release, thorough

pytestmark = [pytest.mark.root, kit.needed]
OWN_ROOT = {**EMULATED, "vm_root": "disk"}


@pytest.fixture(scope="session")
def debian() -> str:
    """The name of an image of Debian in the store."""
    done = cli("import", str(make_debian()), "vm-debian")
    assert done.returncode == 0, done.stderr
    return "vm-debian"


def cli(*words: str, **options) -> subprocess.CompletedProcess[str]:
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([*CLI, *words], capture_output=True, text=True, check=False, timeout=120, **options)


def programs(box_pid: int) -> list[str]:
    children = Path(f"/proc/{box_pid}/task/{box_pid}/children").read_text().split()
    return sorted(Path(f"/proc/{child}/comm").read_text().strip() for child in children)


def test_debian_in_a_machine(debian):
    done = cli("run", *FLAGS, debian, "sh", "-c", "uname -r; . /etc/os-release; echo $VERSION_CODENAME; exit 3")
    assert (done.returncode, done.stdout.split()) == (3, [kernel_release(), "bookworm"]), done.stderr


def test_what_runs_on_the_host():
    """QEMU and virtiofsd are in the container's namespaces and cgroup, without a capability of QEMU's, under a filter."""
    with hutch.Container("host", **EMULATED, memory="64m") as box:
        pid = box.pid
        assert programs(pid) == ["hutch-relay", "qemu-system-x86", "virtiofsd"]
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            status = dict(line.split(":\t") for line in Path(f"/proc/{child}/status").read_text().splitlines() if ":\t" in line)
            name = status["Name"]
            assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", name
            for kind in ("user", "ipc", "uts") if name == "virtiofsd" else ("user", "ipc", "uts", "net", "pid"):  # it goes further itself
                assert os.readlink(f"/proc/{child}/ns/{kind}") == os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), (name, kind)
            assert f"hutch-{box.id}" in Path(f"/proc/{child}/cgroup").read_text()
            if name != "virtiofsd":
                assert int(status["CapEff"], 16) == 0 and status["Uid"].split()[0] not in ("0", str(os.stat(f"/proc/{pid}/root").st_uid)), name
            if name == "qemu-system-x86":
                assert not os.path.exists(f"/proc/{child}/root/etc/passwd") and os.listdir(f"/proc/{child}/root/host/root") == []


def test_python_killed_leaves_nothing():
    code = (
        "import hutch, time, sys\nbox = hutch.Container('host', isolation='vm', vm_accel='tcg')\n"
        "print(box.pid, flush=True)\nbox.start(['sleep', '99'])\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    inside = [pid, *(int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    assert len(inside) == 4
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while (left := [p for p in inside if os.path.exists(f"/proc/{p}")]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


def test_snapshot_and_copies(debian):
    """Copies begin where the machine was, in a fraction of its boot, and are not it: id, host name, random numbers, time."""
    ask = "cat /proc/sys/kernel/hostname /etc/hostname; cat /root/state; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; date +%s"
    with hutch.Container(debian, **OWN_ROOT) as box:
        counter = box.start(["sh", "-c", "i=0; while :; do i=$((i + 1)); echo $i > /root/state; sleep 0.02; done"])
        deadline = time.monotonic() + 20
        while int(box.run(["cat", "/root/state"]).stdout or 0) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        counter.kill()
        counter.close()
        box.run(["sh", "-c", "sleep 1000 &"], timeout=20)  # its group stays, in copies, too
        box.run(["sh", "-c", "echo warm > /root/state"])
        assert box.snapshot("warm").name == "warm"
        assert box.run(["cat", "/root/state"]).stdout == "warm\n"  # it goes on
        with pytest.raises(hutch.StateError, match="exists"):
            box.snapshot("warm")
    seen = set()
    try:
        for _ in range(3):
            with hutch.Container("snapshot:warm") as copy:
                first, second, state, numbers, seconds = copy.run(["sh", "-c", ask], check=True).stdout.split()
                assert first == second == copy.id and state == "warm" and abs(int(seconds) - time.time()) < 5
                assert copy.run(["sh", "-c", "echo mine > /root/state; cat /root/state"]).stdout == "mine\n"
                seen.add(numbers)
        assert len(seen) == 3
        with hutch.Container("snapshot:warm") as copy:
            assert copy.run(["true"], timeout=20).ok
        assert hutch.run("snapshot:warm", ["cat", "/root/state"]).stdout == "warm\n"
        assert "begins with the memory and the state of" in cli("plan", "snapshot:warm").stdout
    finally:
        hutch.snapshots.remove("warm")
    with pytest.raises(hutch.StateError, match="does not exist"):
        hutch.Container("snapshot:warm")


SERVER = (
    "use IO::Socket; $| = 1; my $s = IO::Socket::INET->new(LocalPort => 80, Listen => 9, ReuseAddr => 1) or die $!; my $n = 0; "
    "while (my $c = $s->accept) { $n++; open(F, '/proc/sys/kernel/hostname'); my $h = <F>; close F; print $c \"$n $h\"; close $c }"
)


def ask(port: int, patience: float = 30) -> list[str]:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 3) as connection:
                if answer := connection.recv(100):
                    return answer.decode().split()
        except OSError:
            pass
        time.sleep(0.1)
    return []


def port_of(name: str) -> int:
    return int(cli("port", name).stdout.strip().rpartition(":")[2])


@thorough
def test_copies_of_a_server_have_addresses_of_their_own(debian):
    started = cli("run", *FLAGS, "--vm-root", "disk", "-d", "--name", "origin", "-p", "127.0.0.1::80", debian, "perl", "-e", SERVER)
    assert started.returncode == 0, started.stderr
    try:
        count, name = ask(port_of("origin"))
        assert (count, name) == ("1", started.stdout.strip())
        made = cli("snapshot", "create", "origin", "server")
        assert made.stdout == "server\n", made.stderr
        listed = json.loads(cli("snapshot", "inspect", "server").stdout)[0]
        assert listed["Interfaces"] == 1 and listed["Kernel"] == kernel_release()
        ids = [cli("run", "-d", "--name", f"copy{i}", "-p", "127.0.0.1::80", "snapshot:server").stdout.strip() for i in range(2)]
        assert [ask(port_of(f"copy{i}")) for i in range(2)] == [["2", ids[0]], ["2", ids[1]]]
        assert ask(port_of("origin"))[0] == "2" and ask(port_of("copy1"))[0] == "3"
        addresses = {cli("exec", name, "sh", "-c", "cat /sys/class/net/eth0/address; grep -v local /etc/hosts").stdout for name in ("origin", "copy0", "copy1")}
        assert len(addresses) == 3
        refused = cli("run", "-d", "snapshot:server")
        assert refused.returncode == 125 and "has 1 interface, and 0 networks are asked for" in refused.stderr
    finally:
        for name in ("origin", "copy0", "copy1"):
            cli("rm", "-f", name)
        cli("snapshot", "rm", "server")


@thorough
def test_a_copy_in_the_foreground_and_a_copy_of_a_copy(debian):
    script = "i=0; while [ ! -e /root/go ]; do sleep 0.1; done; echo went; exit 4"
    assert cli("run", *FLAGS, "--vm-root", "disk", "-d", "--name", "waits", debian, "sh", "-c", script).returncode == 0
    try:
        assert cli("snapshot", "create", "waits", "waiting").returncode == 0
        assert cli("run", "-d", "--name", "second", "snapshot:waiting").returncode == 0
        assert cli("exec", "second", "touch", "/root/go").returncode == 0
        assert cli("snapshot", "create", "waits", "again").returncode == 0  # the first one still waits
        deadline = time.monotonic() + 20
        while "Exited (4)" not in cli("ps", "-a").stdout and time.monotonic() < deadline:
            time.sleep(0.1)
        assert cli("logs", "second").stdout == "went\n"
        third = cli("run", "-d", "--name", "third", "snapshot:again")
        assert third.returncode == 0 and cli("snapshot", "create", "third", "of-a-copy").returncode == 0, third.stderr
        assert cli("exec", "third", "touch", "/root/go").returncode == 0
        fourth = subprocess.Popen([*CLI, "run", "--name", "fourth", "snapshot:of-a-copy"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 20
        while cli("exec", "fourth", "touch", "/root/go").returncode and time.monotonic() < deadline:
            time.sleep(0.1)
        out, err = fourth.communicate(timeout=30)
        assert (fourth.returncode, out, err) == (4, "went\n", "")
    finally:
        for name in ("waits", "second", "third", "fourth"):
            cli("rm", "-f", name)
        cli("snapshot", "rm", "waiting", "again", "of-a-copy")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "5m"}, "memory: a copy of a snapshot has it as the snapshot has"),
        ({"readonly": True}, "readonly: a copy"),
        ({"network": "bridge"}, "has 0 interfaces, and 1 network is asked for"),
    ],
)
@thorough
def test_what_a_copy_cannot_be(debian, options, words):
    with hutch.Container(debian, **OWN_ROOT) as box:
        box.snapshot("fixed")
    try:
        with pytest.raises(hutch.UsageError, match=words):
            hutch.Container("snapshot:fixed", **options)
        with pytest.raises(hutch.UsageError, match="waits for commands"):
            hutch.run("snapshot:fixed")
    finally:
        hutch.snapshots.remove("fixed")


def test_what_machines_are_booted_from_is_kept_and_pruned(debian):
    with hutch.Container("host", **EMULATED) as box:
        place = Path(os.environ["HUTCH_DATA"]) / "machines"
        used = {place / os.path.basename(path) for path in (box.live.machine.machine.kernel, box.live.machine.machine.initramfs)}
        (place / "vmlinux-old").write_bytes(b"x" * 10000)
        for path in place.iterdir():
            os.utime(path, (1, 1))
        assert "Kernels" in cli("system", "df").stdout
        assert cli("system", "prune").returncode == 0
        assert used <= set(place.iterdir()) and not (place / "vmlinux-old").exists()


@thorough
def test_an_image_of_several_layers_on_disks(debian):
    """Each layer is a disk, and they lie on each other as in the image."""
    for number in (1, 2):
        with hutch.Container("vm-layers" if number == 2 else debian) as box:
            box.run(
                [
                    "sh",
                    "-c",
                    f"echo {number} > /etc/layer; echo {number} > /etc/only-{number}; rm -f /etc/only-1 /etc/issue"
                    if number == 2
                    else "echo 1 > /etc/layer; echo 1 > /etc/only-1",
                ]
            )
            box.commit("vm-layers")
    r = hutch.run("vm-layers", ["sh", "-c", "cat /etc/layer; ls /etc/only-* /etc/issue 2>/dev/null; grep -c erofs /proc/mounts"], **OWN_ROOT)
    assert r.stdout.split() == ["2", "/etc/only-2", "0"], r


@thorough
def test_changes_in_memory_have_room_beside_the_machine():
    """What fits into the limit of a container fits into a machine's."""
    r = hutch.run("host", ["sh", "-c", "dd if=/dev/zero of=/root/x bs=1M count=100 2>/dev/null && stat -c %s /root/x"], **EMULATED, memory="128m", timeout=60)
    assert (r.outcome, r.stdout) == ("exited", "104857600\n"), r


@thorough
def test_what_has_no_snapshot(debian):
    with hutch.Container("host", **EMULATED) as box, pytest.raises(hutch.UnsupportedError, match="QEMU cannot copy a machine with virtio-fs"):
        box.snapshot("none")
    with hutch.Container("host") as box, pytest.raises(hutch.UnsupportedError, match="is in no machine of its own"):
        box.snapshot("none")
    with pytest.raises(hutch.ImageError, match="cannot have it on a disk of its own"):
        hutch.Container("host", **OWN_ROOT)
    with pytest.raises(hutch.UnsupportedError, match="sees nothing of the host's"):
        hutch.Container(debian, **OWN_ROOT, mounts=["/tmp:/tmp"])
    with hutch.Container(debian, **OWN_ROOT) as box:
        for action in (lambda: box.read("/etc/passwd"), box.diff, lambda: box.commit("x")):
            with pytest.raises(hutch.UnsupportedError, match="in its machine's memory"):
                action()


@thorough
def test_a_snapshot_that_is_killed_half_way_leaves_a_machine_that_goes_on(debian):
    with hutch.Container(debian, **OWN_ROOT, name="halfway") as box:
        door = socket.socket(fileno=channel.connect(box.live.directory, box.name))
        door.send((0).to_bytes(4, "little") + (12).to_bytes(2, "little") + bytes(2))  # QUIESCE
        assert int.from_bytes(door.recv(64)[4:6], "little") == 40
        other = socket.socket(fileno=channel.connect(box.live.directory, box.name))
        started = box.start(["echo", "waited"])
        time.sleep(0.3)
        door.close()  # whoever made it quiet is gone
        assert started.wait().stdout == "waited\n"
        other.close()
        box.snapshot("after")
        hutch.snapshots.remove("after")
        box.pause()
        with pytest.raises(hutch.StateError, match="is paused"):
            box.snapshot("paused")
        box.resume()
        assert box.run(["echo", "on"]).stdout == "on\n"


# What a machine withstands


@thorough
@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("echo c > /proc/sysrq-trigger; sleep 9", {"privileged": True}, "its kernel gave up: sysrq triggered crash"),
        ("kill -9 1; echo o > /proc/sysrq-trigger; sleep 9", {"privileged": True}, "the machine ended"),
    ],
)
def test_a_guest_that_panics_or_leaves(script, options, words):
    r = hutch.run("host", ["sh", "-c", script], **EMULATED, **options, timeout=60)
    assert (r.outcome, r.exit_code) == ("machine-lost", 125) and words in str(r.error)


@thorough
def test_a_guest_that_hangs_ends_with_its_time_limit():
    """All of its processors in a loop that nothing interrupts: as far as the host sees, it is stopped."""
    with hutch.start("host", ["sleep", "99"], **EMULATED, timeout=6) as process:
        pid = process.pid
        monitor = next(c for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if "qemu" in Path(f"/proc/{c}/comm").read_text())
        os.kill(int(monitor), signal.SIGSTOP)
        started = time.monotonic()
        r = process.wait()
    assert r.outcome == "timeout" and time.monotonic() - started < 12


@thorough
def test_a_guest_that_floods_its_console():
    script = "for i in $(seq 3000); do echo '<0>flood flood flood flood flood flood flood' > /dev/kmsg; done; echo done"
    r = hutch.run("host", ["sh", "-c", script], **EMULATED, privileged=True, timeout=60)
    assert r.stdout == "done\n"


@thorough
@pytest.mark.parametrize("root", ["shared", "disk"])
def test_a_guest_that_fills_its_disk(debian, root):
    r = hutch.run(debian, ["sh", "-c", "dd if=/dev/zero of=/root/x bs=1M count=100 2>&1; rm /root/x; echo still > /root/y; cat /root/y"], **EMULATED,
                  vm_root=root, upper_size="10m", timeout=60)  # fmt: skip
    assert "No space left" in r.stdout and r.stdout.endswith("still\n")


@thorough
def test_memory_that_is_too_little_or_too_much():
    assert hutch.run("host", ["true"], **EMULATED, memory="8m").ok
    with pytest.raises(hutch.UnsupportedError, match="and this host has"):
        hutch.run("host", ["true"], **EMULATED, memory="900g")


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ("PATH", "qemu-system-x86_64 is not installed"),
        ("virtiofsd", "virtiofsd is not installed"),
        ("kernel", "there is no kernel for the guest"),
        ("module", "has no module virtiofs"),
    ],
)
def test_what_a_host_lacks_is_said(monkeypatch, tmp_path, lacks, words):
    if lacks == "PATH":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif lacks == "virtiofsd":
        monkeypatch.setattr("hutch.vm.virtiofsd.PLACES", ())
    elif lacks == "kernel":
        monkeypatch.delenv("HUTCH_KERNEL", raising=False)
        monkeypatch.setattr("hutch.vm.kernel._names", lambda directory: [])
        monkeypatch.setattr("platform.release", lambda: "nothing")
    else:
        from hutch.vm import modules

        whole = modules.parse_dependencies
        monkeypatch.setattr(modules, "parse_dependencies", lambda text: {k: v for k, v in whole(text).items() if k != "virtiofs"})
    with pytest.raises(hutch.UnsupportedError, match=words):
        hutch.run("host", ["true"], **EMULATED)


def test_by_hardware(debian):
    """All of it once more by KVM, where there is one."""
    verdict = probe()
    if not verdict.works:
        pytest.skip(verdict.reason)
    r = hutch.run("host", ["sh", "-c", "uname -r; exit 5"], isolation="vm")
    assert (r.exit_code, r.stdout.strip()) == (5, kernel_release())
    assert hutch.run("host", ["python3", "-c", "bytearray(300 << 20)"], isolation="vm", memory="64m").outcome == "out-of-memory"
    with hutch.Container(debian, isolation="vm", vm_root="disk") as box:
        box.run(["sh", "-c", "echo warm > /root/state"])
        box.snapshot("hardware")
    try:
        assert hutch.run("snapshot:hardware", ["cat", "/root/state"]).stdout == "warm\n"
    finally:
        hutch.snapshots.remove("hardware")


def test_no_hardware_means_no_machine_unless_it_is_asked_for():
    verdict = probe()
    if verdict.works:
        pytest.skip("this host has it")
    with pytest.raises(hutch.UnsupportedError) as caught:
        hutch.run("host", ["true"], isolation="vm")
    assert verdict.reason in caught.value.message and "--vm-accel tcg" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"isolation": "box"}, "isolation: expected namespaces or vm, got 'box'"),
        ({"isolation": "vm", "vm_accel": "magic"}, "vm-accel: expected kvm or tcg"),
        ({"vm_accel": "tcg"}, "vm-accel: is for --isolation vm alone"),
        ({"kernel": "/boot/x"}, "kernel: is for --isolation vm alone"),
        ({"vm_root": "disk"}, "vm-root: is for --isolation vm alone"),
        ({**EMULATED, "vm_root": "cloud"}, "vm-root: expected shared or disk"),
        ({**EMULATED, "kernel": "/etc/passwd"}, "kernel /etc/passwd: is neither a bzImage nor an ELF file"),
        ({**EMULATED, "kernel": "/no/such"}, "kernel /no/such: No such file or directory"),
    ],
)
def test_requests_that_make_no_sense(options, words):
    with pytest.raises(hutch.UsageError, match=words):
        hutch.run("host", ["true"], **options)


@thorough
def test_a_kernel_that_is_named():
    kernel = f"/boot/vmlinuz-{kernel_release()}"
    assert hutch.run("host", ["uname", "-r"], **EMULATED, kernel=kernel).stdout.strip() == kernel_release()


@thorough
def test_more_processors():
    assert hutch.run("host", ["nproc"], **EMULATED, cpus=1.5).stdout == "2\n"


@thorough
def test_a_machine_shows_itself():
    """`hutch inspect --kernel` on a machine that runs: threads, memory, the taps."""
    started = cli("run", *FLAGS, "-d", "--name", "shown", "--network", "bridge", "host", "sleep", "99")
    assert started.returncode == 0, started.stderr
    try:
        shown = cli("inspect", "--kernel", "shown").stdout
        for words in ("qemu-system-x86_64", "virtual processor", "virtiofsd", "memory", "tap0", "eventfds"):
            assert words in shown, shown
    finally:
        cli("rm", "-f", "shown")


@thorough
def test_an_ordinary_users_machine(as_user, tmp_path):
    """Without root: QEMU and virtiofsd in a user namespace of the user's, the network by pasta."""
    from hutch.vm import kernel

    elf = Path("/var/tmp") / f"hutch-vmlinux-{os.getpid()}"  # unpacked already: that user's Python may lack lz4
    elf.write_bytes(kernel.elf_of(kernel.find()))
    flags = [*FLAGS, "--kernel", str(elf)]
    try:
        done = as_user("-m", "hutch.cli", "run", *flags, "host", "sh", "-c", "id -u; uname -r; touch /root/x && chown 5:5 /root/x && stat -c %u /root/x")
        assert done.stdout.split() == ["0", kernel_release(), "5"], done.stderr
        assert as_user("-m", "hutch.cli", "run", *flags, "-d", "--name", "mine", "host", "sh", "-c", "echo x > /root/x; sleep 99").returncode == 0
        assert as_user("-m", "hutch.cli", "exec", "mine", "id", "-u").stdout == "0\n"
        assert "A /root/x" in as_user("-m", "hutch.cli", "diff", "mine").stdout
        assert as_user("-m", "hutch.cli", "cp", "mine:/root/x", "-").returncode == 0
    finally:
        as_user("-m", "hutch.cli", "rm", "-f", "mine")
        elf.unlink()


@thorough
def test_a_hundred_boots():
    """None of them hangs."""
    for number in range(int(os.environ.get("HUTCH_TEST_BOOTS", "100"))):
        r = hutch.run("host", ["echo", str(number)], **EMULATED, timeout=30)
        assert (r.outcome, r.stdout) == ("exited", f"{number}\n"), r
