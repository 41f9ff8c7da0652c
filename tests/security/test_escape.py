"""Ways out of a running container, by the published escapes of others."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import hutch
from hutch.executor import launcher
from hutch.plan import ops
from tests.security import attack

pytestmark = pytest.mark.root
USERNS = ["auto", "host"]


def status(text: str) -> dict[str, str]:
    """/proc/PID/status by key."""
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host's that no container may see, below a directory that everyone may enter."""
    place = Path("/var/tmp") / f"hutch-secret-{os.getpid()}"
    place.mkdir()
    (place / "secret").write_text("the host's")
    shutil.copy("/bin/busybox", place / "busybox")
    yield place
    shutil.rmtree(place)


# CVE-2019-5736: the runtime's own binary behind /proc/self/exe


@pytest.mark.parametrize("userns", USERNS)
def test_the_binary_behind_pid_1_cannot_be_written(busybox_root, userns):
    """CVE-2019-5736: PID 1 of a Container is the executor: its image is a sealed memfd, never the host's file."""
    binary = Path(launcher.BINARY)
    with attack.untouched(binary, sys.executable), hutch.Container(str(busybox_root), userns=userns, cap_add=["DAC_OVERRIDE"]) as box:
        image = os.readlink(f"/proc/{box.pid}/exe")
        assert image.startswith("/memfd:hutch-executor"), image
        script = "for i in 1 2 3; do echo x >/proc/1/exe; done; echo x >>/proc/1/exe; ls -l /proc/1/exe; echo end"
        assert "end" in box.run(["sh", "-c", script]).stdout
        assert os.stat(f"/proc/{box.pid}/exe").st_size == binary.stat().st_size
        with open(f"/proc/{box.pid}/exe", "rb") as file:
            assert file.read() == binary.read_bytes()


def test_the_executor_image_is_sealed():
    """CVE-2019-5736: not even a descriptor of the executor's image, opened anew for writing, changes it."""
    import fcntl

    hutch.run("host", ["true"])
    image = launcher._executor_image()
    assert fcntl.fcntl(image, 1034) == 0x0F  # F_GET_SEALS: seal, shrink, grow, write
    fd = os.open(f"/proc/self/fd/{image}", os.O_RDWR)
    try:
        for attack_on in (lambda: os.ftruncate(fd, 0), lambda: os.pwrite(fd, b"x", 0), lambda: os.pwrite(fd, b"x", 10_000_000)):
            with pytest.raises(PermissionError):
                attack_on()
    finally:
        os.close(fd)


@pytest.mark.parametrize("userns", USERNS)
def test_a_program_that_is_a_link_to_proc_self_exe(busybox_root, userns):
    """CVE-2019-5736: the entry point is /proc/self/exe, or a script of it: the executor runs again, without its plan."""
    (busybox_root / "bin/evil").symlink_to("/proc/self/exe")
    (busybox_root / "bin/script").write_text("#!/proc/self/exe\n")
    (busybox_root / "bin/script").chmod(0o755)
    with attack.untouched(launcher.BINARY, sys.executable):
        for program in ("/bin/evil", "/bin/script", "/proc/self/exe"):
            result = hutch.run(str(busybox_root), [program, "sh", "-c", "echo ran"], userns=userns, timeout=10)
            assert not result.ok, program
            assert "ran" not in result.stdout


@pytest.mark.parametrize("userns", USERNS)
def test_an_entering_command_before_its_exec_shows_no_binary(busybox_root, fifo, userns):
    """CVE-2019-5736, 2016-9962: the container looks at a command that joins it, at its image, root and descriptors."""
    with hutch.Container(str(busybox_root), userns=userns) as box:
        plan = attack.entering(box, ("true",))
        stopped = attack.blocked(plan, "container", 1, fifo)  # after Protect, before anything is joined
        null = os.open("/dev/null", os.O_RDWR)
        execution = launcher.Execution(stopped, stdin=null, stdout=null, stderr=null, extra=(box._pidfd,))
        try:
            assert attack.until(lambda: any(attack.blocks_in(p, fifo) for p in attack.children(execution.executor_pid)))
            script = (
                "for p in /proc/[0-9]*; do n=${p#/proc/}; [ $n = 1 ] || [ $n = $$ ] || "
                "{ readlink $p/exe; readlink $p/root; ls $p/root/; for f in $p/fd/*; do readlink $f; done; cat $p/environ; echo x >$p/mem; }; done; echo end"
            )
            seen = box.run(["sh", "-c", script], merge_stderr=True).stdout
            assert seen.endswith("end\n")
            for word in ("memfd", "hutch", "var\n", "socket:", "usr\n"):
                assert word not in seen, seen
        finally:
            os.close(os.open(fifo, os.O_RDWR))
            execution.close()
            os.close(null)


@pytest.mark.parametrize("userns", USERNS)
def test_entering_beside_a_debugger(busybox_root, fifo, userns, secret):
    """CVE-2016-9962: a container with CAP_SYS_PTRACE must not see the host's root through a command that is about to join."""
    with hutch.Container(str(busybox_root), userns=userns, cap_add=["SYS_PTRACE"]) as box:
        plan = attack.entering(box, ("true",))
        joins = next(i for i, op in enumerate(plan.container) if isinstance(op, ops.Join))
        execution = None
        null = os.open("/dev/null", os.O_RDWR)
        try:
            stopped = attack.blocked(plan, "container", joins, fifo)
            execution = launcher.Execution(stopped, stdin=null, stdout=null, stderr=null, extra=(box._pidfd,))
            assert attack.until(lambda: any(attack.blocks_in(p, fifo) for p in attack.children(execution.executor_pid)))
            seen = box.run(["sh", "-c", f"cat /proc/[0-9]*/root{secret}/secret"])
            assert "the host's" not in seen.stdout
        finally:
            os.close(null)
            os.close(os.open(fifo, os.O_RDWR))
            if execution is not None:
                execution.close()


# CVE-2024-21626: descriptors


@pytest.mark.parametrize("userns", USERNS)
def test_no_descriptor_is_leaked(busybox_root, userns):
    """CVE-2024-21626: a program starts with its three streams and nothing else, whatever the owner has open."""
    leaky = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(leaky, True)
    try:
        script = "cd /proc/self/fd && for i in *; do readlink $i; done"
        with hutch.Container(str(busybox_root), userns=userns) as box:
            for result in (hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns), box.run(["sh", "-c", script])):
                targets = [line for line in result.stdout.split() if not line.startswith(("pipe:", "/dev/null"))]
                assert all("/fd" in t for t in targets), targets  # the shell's own look at the directory
            links = [os.readlink(f"/proc/{box.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{box.pid}/fd")]
            assert links == []
    finally:
        os.close(leaky)


@pytest.mark.parametrize("userns", USERNS)
def test_working_directory_behind_a_descriptor(busybox_root, userns):
    """CVE-2024-21626: WORKDIR=/proc/self/fd/N leads to a directory of the host's while the runtime has it open."""
    with hutch.Container(str(busybox_root), userns=userns) as box:
        for number in range(3, 21):
            for path in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/..", f"/proc/thread-self/fd/{number}/../.."):
                for result in (hutch.run(str(busybox_root), ["pwd"], workdir=path, userns=userns), box.run(["pwd"], workdir=path)):
                    if result.ok:  # the container's own directories may be open, under any number
                        assert result.stdout in ("/\n", "/dev\n", "/proc\n"), path
                    else:
                        assert result.outcome == "failed-to-start", (path, result)


@pytest.mark.parametrize("userns", USERNS)
def test_program_behind_a_descriptor(busybox_root, userns, secret):
    """CVE-2024-21626: argv[0] below /proc/self/fd/N runs a program of the host's, whose /proc/self/exe can then be written."""
    path = {"PATH": ":".join(f"/proc/self/fd/{number}{secret}" for number in range(3, 256))}
    (busybox_root / "bin/busybox-of-the-image").symlink_to("busybox")
    with hutch.Container(str(busybox_root), userns=userns, env=path) as box:
        for result in (hutch.run(str(busybox_root), ["busybox", "readlink", "/proc/self/exe"], userns=userns, env=path), box.run(["busybox", "true"])):
            assert result.outcome == "failed-to-start", f"a program of the host's was run: {result.stdout}"


@pytest.mark.parametrize("userns", USERNS)
def test_interpreter_behind_a_descriptor(busybox_root, userns, secret):
    """CVE-2024-21626: a script of the image's names an interpreter below /proc/self/fd/N; the kernel opens it before exec closes it."""
    found = []
    for number in range(3, 81):
        script = busybox_root / f"bin/script-{number}"
        script.write_text(f"#!/proc/self/fd/{number}{secret}/busybox true\n")
        script.chmod(0o755)
        if hutch.run(str(busybox_root), [f"/bin/script-{number}"], userns=userns).outcome != "failed-to-start":
            found.append(number)
    assert not found, f"descriptors {found} lead to the host's programs"


def test_the_host_binary_is_overwritten_through_a_descriptor(busybox_root, secret):
    """CVE-2024-21626 and 2019-5736 as one: run the host's program by a descriptor, then write it through /proc/PID/exe."""
    target = secret / "busybox"
    (busybox_root / "bin/evil").write_text("#!/bin/sh\nfor n in 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do :; done\nexec sleep 0\n")
    with attack.untouched(target):
        for number in range(3, 81):
            # the host's busybox is the shell that keeps its own image open, leaves it, and writes to what it kept
            script = "exec 9</proc/self/exe; exec /bin/sh -c 'echo pwned >/proc/self/fd/9'"
            hutch.run(str(busybox_root), [f"/proc/self/fd/{number}{target}", "sh", "-c", script], userns="host")


# CVE-2022-0492 and the like: cgroups


@pytest.mark.parametrize("userns", USERNS)
def test_release_agent(busybox_root, userns):
    """CVE-2022-0492: mount a v1 hierarchy and set its release_agent, in a user namespace of the container's own or without."""
    (busybox_root / "bin/unshare").symlink_to("busybox")
    script = """
    mkdir /tmp/cg
    mount -t cgroup -o memory cgroup /tmp/cg && echo MOUNTED
    mount -t cgroup -o rdma cgroup /tmp/cg && echo MOUNTED
    mount -t cgroup2 cgroup /tmp/cg && echo MOUNTED
    unshare -U -r -m -C sh -c 'mount -t cgroup -o memory cgroup /tmp/cg && echo MOUNTED'
    unshare -m sh -c 'mount -t tmpfs none /tmp && echo MOUNTED'
    for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent; do echo /evil >$f && echo WROTE; done
    echo end
    """
    result = hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns)
    assert result.stdout == "end\n", result.stdout


@pytest.mark.parametrize("userns", USERNS)
def test_disks_of_the_host(busybox_root, userns):
    """CAP_MKNOD and a node of the host's disk, made by the container or brought by the image."""
    device = os.stat("/").st_dev
    os.mknod(busybox_root / "disk", 0o060666, device)
    (busybox_root / "bin/dd").symlink_to("busybox")
    script = f"mknod /tmp/d b {os.major(device)} {os.minor(device)}; for d in /disk /tmp/d; do dd if=$d of=/tmp/x bs=512 count=1 && echo READ; done; echo end"
    with hutch.Container(str(busybox_root), userns=userns) as box:
        for result in (hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns), box.run(["sh", "-c", script])):
            assert result.stdout == "end\n"


# Capabilities


@pytest.mark.parametrize("userns", USERNS)
@pytest.mark.parametrize("user", ["0", "1000"])
def test_capabilities(busybox_root, userns, user):
    """CVE-2022-29162 and 24769: inheritable capabilities, an unlimited bounding set, or more than asked for."""
    limit = sum(1 << n for n in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))  # Docker's default
    with hutch.Container(str(busybox_root), userns=userns, user=user) as box:
        alone = hutch.run(str(busybox_root), ["cat", "/proc/self/status"], userns=userns, user=user)
        for result in (alone, box.run(["cat", "/proc/self/status"]), box.run(["cat", "/proc/1/status"])):
            found = status(result.stdout)
            masks = {key: int(found[f"Cap{key}"], 16) for key in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
            assert masks["Inh"] == masks["Amb"] == 0
            assert masks["Bnd"] | limit == limit
            held = limit if user == "0" else 0
            assert masks["Prm"] | held == held and masks["Eff"] | held == held
            assert found["NoNewPrivs"].strip() == "1" and found["Seccomp"].strip() == "2"
            assert found["Uid"].split() == [user] * 4


@pytest.mark.parametrize("userns", USERNS)
def test_set_uid_programs_give_nothing(userns):
    """A set-uid root program in the image makes an ordinary user of the container no more than that."""
    with hutch.Container("host", userns=userns) as box:
        box.put("/usr/bin/cat", "/srv/cat")
        assert box.run(["chmod", "4755", "/srv/cat"]).ok
        found = status(box.run(["/srv/cat", "/proc/self/status"], user="1000").stdout)
        assert found["Uid"].split() == ["1000"] * 4 and int(found["CapEff"], 16) == 0


# Views


@pytest.mark.parametrize("userns", USERNS)
@pytest.mark.parametrize("image", ["busybox", "host"])
def test_dots_lead_nowhere(busybox_root, userns, image, secret):
    """`cd /dev/..`, /proc/1/root/.. and the like: the parent of everything is the container's root."""
    marker = "/tmp/inside"
    paths = ("/dev/../..", "/..", "/proc/1/root/..", "/proc/self/root/../..", "/proc/1/cwd/..", "/dev/fd/../../..", "/proc/self/task/../../../..")
    script = f"touch {marker}; for p in {' '.join(paths)}; do cd $p && ls -d ./tmp/inside ./.{secret} 2>/dev/null; done; cd /; echo end"
    result = hutch.run(str(busybox_root) if image == "busybox" else "host", ["sh", "-c", script], userns=userns)
    assert result.stdout.endswith("end\n")
    assert "secret" not in result.stdout
    with hutch.Container(str(busybox_root), userns=userns) as box:
        seen = box.run(["sh", "-c", f"touch {marker}; for p in {' '.join(paths)}; do ls $p{secret}; ls $p/proc/1/root{secret}; done; ls /proc/1/root{marker}"])
        assert "busybox" not in seen.stdout


@pytest.mark.parametrize("userns", USERNS)
def test_every_mount_is_the_containers_own(busybox_root, userns):
    """A mount of the host's left over after pivot_root is a way out; there is one root, one file system a row, none of a disk."""
    allowed = {"overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}
    with hutch.Container(str(busybox_root), userns=userns) as box:
        alone = hutch.run(str(busybox_root), ["cat", "/proc/self/mountinfo"], userns=userns).stdout
        for text in (alone, box.run(["cat", "/proc/self/mountinfo"]).stdout, box.run(["cat", "/proc/1/mountinfo"]).stdout):
            rows = [line.split() for line in text.splitlines()]
            numbers = {row[0] for row in rows}
            assert [row[4] for row in rows if row[1] not in numbers] == ["/"]
            for row in rows:
                kind = row[row.index("-") + 1]
                assert kind in allowed or (kind == "devtmpfs" and row[3] == "/null"), row
                assert "shared:" not in " ".join(row[6 : row.index("-")])


@pytest.mark.parametrize("userns", USERNS)
def test_masks_are_not_a_handle_on_the_hosts_null(busybox_root, userns):
    """CVE-2025-31133's other side: masked files are the host's /dev/null: chmod, chown or utime on them reach the host."""
    mode = os.stat("/dev/null")
    script = "for f in /proc/keys /proc/interrupts /proc/timer_list /proc/kcore; do chmod 600 $f; chmod 0 $f; touch -d 1971-01-01 $f; done"
    try:
        hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns)
        now = os.stat("/dev/null")
        assert (now.st_mode, now.st_uid, now.st_mtime) == (mode.st_mode, mode.st_uid, mode.st_mtime)
    finally:
        os.chmod("/dev/null", 0o666)


@pytest.mark.parametrize("userns", USERNS)
def test_streams_are_not_a_handle_on_the_hosts_null(busybox_root, userns):
    """stdin is the host's /dev/null: fchmod on descriptor 0 makes it useless for every program of the machine."""
    before = os.stat("/dev/null")
    script = "chmod 600 /proc/self/fd/0; chmod 600 /dev/stdin; chmod 600 /proc/1/fd/0"
    try:
        hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns)
        with hutch.Container(str(busybox_root), userns=userns) as box:
            box.run(["sh", "-c", script])
        assert os.stat("/dev/null").st_mode == before.st_mode
    finally:
        os.chmod("/dev/null", 0o666)


@pytest.mark.parametrize("userns", USERNS)
def test_processes_and_environment_of_the_host(busybox_root, userns):
    """The host's processes, its kernel arguments to programs, and the owner's environment stay outside."""
    os.environ["HUTCH_SECRET_OF_THE_OWNER"] = "do-not-tell"
    try:
        with hutch.Container(str(busybox_root), userns=userns) as box:
            script = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; echo; ls -d /proc/[0-9]*; kill -0 -1"
            for result in (box.run(["sh", "-c", script]), hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns)):
                assert "do-not-tell" not in result.stdout and "pytest" not in result.stdout
                pids = {int(line.removeprefix("/proc/")) for line in result.stdout.splitlines() if line.startswith("/proc/")}
                assert pids and max(pids) < 20
            assert not box.run(["kill", "-9", str(os.getpid())]).ok
            box.run(["sh", "-c", "kill -9 1; kill -9 -1"])
            assert box.running
    finally:
        del os.environ["HUTCH_SECRET_OF_THE_OWNER"]


@pytest.mark.parametrize("userns", USERNS)
def test_no_controlling_terminal(busybox_root, userns):
    """TIOCSTI and TIOCSCTTY: a container that is handed the caller's terminal types nothing into the caller's shell."""
    master, slave = os.openpty()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            import fcntl
            import termios

            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            program = "import fcntl, os, termios\ntry:\n os.open('/dev/tty', os.O_RDWR); print('TTY')\nexcept OSError: pass\n"
            program += "for call, arg in ((termios.TIOCSTI, b'x'), (termios.TIOCSCTTY, 1), (termios.TIOCSCTTY, 0)):\n"
            program += " try: fcntl.ioctl(0, call, arg); print('DONE', call)\n except OSError: pass\nprint('end')"
            result = hutch.run("host", ["/usr/bin/python3", "-c", program], stdin=slave, userns=userns)
            code = 0 if result.stdout == "end\n" else 2
        finally:
            os._exit(code)
    os.close(slave)
    _, code = os.waitpid(child, 0)
    os.close(master)
    assert code == 0


ATTACH = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = ctypes.c_long
print("attach", libc.ptrace(16, 1, 0, 0))
try:
    for line in open("/proc/1/maps"):
        if "rw-s" in line:
            start = int(line.split("-")[0], 16)
            with open("/proc/1/mem", "r+b", 0) as mem:
                mem.seek(start)
                mem.write(b"\\xff" * 24)
            print("wrote")
except OSError as error:
    print("refused", error.errno)
"""


@pytest.mark.parametrize("userns", USERNS)
@pytest.mark.parametrize("init", [False, True])
def test_debugging_pid_1(userns, init):
    """ptrace(2) of PID 1, which shares a page with the executor outside: the container must not write to it."""
    if init:
        result = hutch.run("host", ["/usr/bin/python3", "-c", ATTACH], userns=userns, init=True, timeout=10)
        assert result.outcome == "exited", result
        assert "wrote" not in result.stdout and "attach 0" not in result.stdout
        return
    with hutch.Container("host", userns=userns) as box:
        result = box.run(["/usr/bin/python3", "-c", ATTACH], timeout=10)
        assert "wrote" not in result.stdout and "attach 0" not in result.stdout
        assert box.run(["true"]).ok


@pytest.mark.parametrize("userns", USERNS)
def test_namespaces_are_new(busybox_root, userns):
    """Every namespace that was asked for is another than the host's."""
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid", "ipc", "uts", "net", "cgroup", "user")}
    with hutch.Container(str(busybox_root), userns=userns) as box:
        script = "for n in mnt pid ipc uts net cgroup user; do readlink /proc/self/ns/$n; done"
        for result in (box.run(["sh", "-c", script]), hutch.run(str(busybox_root), ["sh", "-c", script], userns=userns)):
            seen = dict(zip(own, result.stdout.split(), strict=True))
            same = {kind for kind in own if seen[kind] == own[kind]}
            assert same == (set() if userns == "auto" else {"user"})


@pytest.mark.parametrize("userns", USERNS)
def test_dangerous_calls_are_refused(userns):
    """What opened kernels from inside: namespaces, keys, bpf, io_uring, userfaultfd, handles, modules, x32 and i386 doors."""
    program = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
calls = dict(unshare=(272, 0x10000000), setns=(308, 0, 0), mount=(165, 0, 0, 0, 0, 0), pivot_root=(155, 0, 0), bpf=(321, 0, 0, 0),
    io_uring_setup=(425, 1, 0), userfaultfd=(323, 0), open_by_handle_at=(304, -100, 0, 0), init_module=(175, 0, 0, 0), kexec_load=(246, 0, 0, 0, 0),
    add_key=(248, 0, 0, 0, 0, 0), keyctl=(250, 0, -3, 0, 0, 0), perf_event_open=(298, 0, 0, 0, 0, 0), reboot=(169, 0, 0, 0, 0), swapon=(167, 0, 0),
    clone_newuser=(56, 0x10000011, 0, 0, 0, 0), clone3=(435, 0, 0), fsopen=(430, b"tmpfs", 0), open_tree=(428, -100, b"/", 1), acct=(163, 0),
    x32_getpid=(0x40000000 + 39,), syslog=(103, 10, 0, 0), quotactl=(179, 0, 0, 0, 0), kcmp=(312, 1, 1, 0, 0, 0), pidfd_getfd=(438, 0, 0, 0))
for name, args in calls.items():
    result = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result >= 0 or ctypes.get_errno() not in (1, 38):
        print(name, result, ctypes.get_errno())
print("end")
"""
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of x86_64")
    result = hutch.run("host", ["/usr/bin/python3", "-c", program], userns=userns)
    assert result.stdout == "end\n", result.stdout + result.stderr
