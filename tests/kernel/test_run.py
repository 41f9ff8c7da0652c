"""`hutch.run` on the real kernel: streams, results, limits, time, and what it leaves (nothing: the fixture looks)."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import pytest

import hutch

pytestmark = pytest.mark.root


def test_the_example_of_the_readme():
    r = hutch.run("host", ["python3", "-c", "print(6 * 7)"], memory="512m", pids=64, timeout=10)
    assert (r.stdout, r.stderr, r.exit_code, r.outcome, r.ok) == ("42\n", "", 0, "exited", True)
    assert r.check() is r
    assert r.usage.wall > 0 and r.usage.memory_peak and r.usage.memory_peak < 512 << 20


def test_exit_codes_and_signals_are_data():
    assert hutch.run("host", ["sh", "-c", "exit 7"]).exit_code == 7
    r = hutch.run("host", ["sh", "-c", "kill -9 $$; sleep 1"], init=True)
    assert (r.outcome, r.signal, r.exit_code) == ("signalled", 9, 137)
    with pytest.raises(hutch.CommandFailed, match="exit code 7: oops") as caught:
        hutch.run("host", ["sh", "-c", "echo oops >&2; exit 7"]).check()
    assert caught.value.result.exit_code == 7


def test_failing_to_start_says_why():
    r = hutch.run("host", ["no-such-program"])
    assert (r.outcome, r.exit_code) == ("failed-to-start", 127)
    with pytest.raises(hutch.NotFoundInContainer, match="no such program in the container's PATH"):
        r.check()
    assert hutch.run("host", ["/etc/passwd"]).exit_code == 126
    assert hutch.run("host", ["/etc"]).exit_code == 126
    assert hutch.run("host", ["true"], workdir="/proc/1/nowhere").outcome == "failed-to-start"


def test_a_missing_interpreter_is_named(busybox_root):
    (busybox_root / "bin/script").write_text("#!/usr/bin/nothing\n")
    (busybox_root / "bin/script").chmod(0o755)
    r = hutch.run(str(busybox_root), ["script"])
    assert r.exit_code == 127 and "/usr/bin/nothing, which does not exist" in str(r.error)


def test_an_interpreter_in_a_home_gets_a_hint(tmp_path):
    program = tmp_path / "bin" / "tool"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    r = hutch.run("host", [str(program)])
    assert r.exit_code == 127 and 'is not part of "host"' in (r.error.hint or "")


def test_streams():
    r = hutch.run("host", ["sh", "-c", "cat; echo err >&2"], stdin="in\n")
    assert (r.stdout, r.stderr) == ("in\n", "err\n")
    assert hutch.run("host", ["cat"], stdin=b"\xff\0", text=False).stdout == b"\xff\0"
    assert hutch.run("host", ["cat"], stdin=io.BytesIO(b"file-like")).stdout == "file-like"
    with open("/etc/hostname") as file:
        assert hutch.run("host", ["cat"], stdin=file).stdout == open("/etc/hostname").read()
    assert hutch.run("host", ["sh", "-c", "echo a; echo b >&2"], merge_stderr=True).stdout == "a\nb\n"
    assert hutch.run("host", ["cat"]).stdout == ""
    big = "x" * 1_000_000
    assert hutch.run("host", ["cat"], stdin=big).stdout == big


def test_output_is_bounded():
    r = hutch.run("host", ["head", "-c", "1000000", "/dev/zero"], output_limit=1000, text=False)
    assert len(r.stdout) == 1000 and r.truncated and r.ok


def test_a_reader_that_ends_early_does_not_hang_the_feeder():
    assert hutch.run("host", ["true"], stdin="x" * 1_000_000).ok


def test_timeout_kills_the_whole_tree():
    r = hutch.run("host", ["sh", "-c", "setsid sleep 100 & trap '' TERM INT; sleep 100"], timeout=0.5)
    assert r.outcome == "timeout"


def test_memory_limit():
    r = hutch.run("host", ["python3", "-c", "bytearray(300 << 20)"], memory="64m")
    assert (r.outcome, r.exit_code) == ("out-of-memory", 137)
    assert r.usage.oom_kills == 1
    # a shell that reports the death of its child is the same thing to its user
    r = hutch.run("host", ["sh", "-c", "python3 -c 'bytearray(300 << 20)'; exit $?"], memory="64m")
    assert r.outcome == "out-of-memory"
    # another exit code is the program's own decision
    r = hutch.run("host", ["sh", "-c", "python3 -c 'bytearray(300 << 20)'; exit 3"], memory="64m")
    assert (r.outcome, r.exit_code) == ("exited", 3)


def test_a_limit_of_one_megabyte_still_starts(busybox_root):
    assert hutch.run(str(busybox_root), ["true"], memory="1m").ok


def test_pids_limit_holds_a_fork_bomb():
    code = "import os\nn = 0\ntry:\n  while True:\n    if os.fork() == 0:\n      import time; time.sleep(30)\n    n += 1\nexcept OSError: print(n)"
    r = hutch.run("host", ["python3", "-c", code], pids=32, timeout=20)
    assert r.stdout == "31\n" and r.usage.pids_refused


def test_cpu_limit_is_seen_in_the_counters():
    r = hutch.run("host", ["timeout", "1", "sh", "-c", "while :; do :; done"], cpus=0.3)
    assert r.usage.throttled_periods and r.usage.throttled_periods >= 3


def test_environment_user_and_directory():
    r = hutch.run("host", ["sh", "-c", "echo $A $HOME $HOSTNAME; id -u; id -g; pwd"], env={"A": "1"}, user="1234:5678", workdir="/made/here", hostname="box")
    assert r.stdout == "1 / box\n1234\n5678\n/made/here\n"
    r = hutch.run("host", ["id"], user="nobody")
    assert "uid=65534(nobody)" in r.stdout


def test_users_and_groups_of_the_image(busybox_root):
    r = hutch.run(str(busybox_root), ["id"], user="anna")
    assert r.stdout == "uid=1000(anna) gid=1000(anna) groups=29(audio)\n"
    with pytest.raises(hutch.UsageError, match="'berta' is not in the image's /etc/passwd"):
        hutch.run(str(busybox_root), ["id"], user="berta")


def test_mounts(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a").write_text("from the host")
    r = hutch.run("host", ["sh", "-c", "cat /data/a; echo new > /data/b; touch /ro/x"], mounts=[f"{shared}:/data", f"{shared}:/ro:ro"])
    assert r.stdout == "from the host" and "Read-only file system" in r.stderr
    assert (shared / "b").read_text() == "new\n"
    assert (shared / "b").stat().st_uid == os.geteuid()  # idmapped: the container's root writes as the mount's owner
    r = hutch.run("host", ["sh", "-c", "stat -f -c %T /scratch; df -k /scratch | tail -1"], tmpfs="/scratch:size=1m")
    assert "tmpfs" in r.stdout and "1024" in r.stdout
    file = tmp_path / "file"
    file.write_text("one file")
    assert hutch.run("host", ["cat", "/etc/inside"], mounts=[f"{file}:/etc/inside"]).stdout == "one file"


def test_a_missing_source_is_named():
    r = hutch.run("host", ["true"], mounts=["/no/such/thing:/x"])
    assert r.outcome == "failed-to-start" and str(r.error).startswith("-v /no/such/thing:/x: /no/such/thing does not exist")
    assert r.error.origin.startswith("mounts[")


def test_readonly_root():
    r = hutch.run("host", ["sh", "-c", "touch /x; touch /tmp/y"], readonly=True, tmpfs="/tmp")
    assert "Read-only" in r.stderr and "/tmp/y" not in r.stderr


def test_capabilities_and_seccomp():
    status = hutch.run(
        "host", ["grep", "-E", "CapEff|CapBnd|CapInh|CapAmb|Seccomp:|NoNewPrivs", "/proc/self/status"], capabilities=["chown", "NET_BIND_SERVICE"]
    ).stdout
    fields = dict(line.split(":\t") for line in status.splitlines())
    assert fields == {"CapEff": "0000000000000401", "CapBnd": "0000000000000401", "CapInh": "0" * 16, "CapAmb": "0" * 16, "Seccomp": "2", "NoNewPrivs": "1"}
    assert hutch.run("host", ["unshare", "-U", "true"]).exit_code != 0
    assert "Seccomp:\t0" in hutch.run("host", ["cat", "/proc/self/status"], seccomp="unconfined").stdout


def test_namespaces_are_new():
    r = hutch.run("host", ["sh", "-c", "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done"])
    inside = r.stdout.split()
    assert len(set(inside)) == 7
    for link in inside:
        name = link.partition(":")[0]
        assert os.readlink(f"/proc/self/ns/{name}") != link


def test_host_namespaces_on_demand():
    r = hutch.run("host", ["sh", "-c", "readlink /proc/self/ns/net /proc/self/ns/uts /proc/self/ns/ipc"], network="host", uts="host", ipc="host")
    assert r.stdout.split() == [os.readlink(f"/proc/self/ns/{n}") for n in ("net", "uts", "ipc")]
    r = hutch.run("host", ["readlink", "/proc/self/ns/pid"], pid="host")
    assert r.stdout.strip() == os.readlink("/proc/self/ns/pid")


def test_a_shared_pid_namespace_leaves_nothing():
    r = hutch.run("host", ["sh", "-c", "setsid sleep 987 & exit 0"], pid="host")
    assert r.ok
    assert b"sleep\x00987" not in b"".join(
        open(f"/proc/{p}/cmdline", "rb").read() for p in os.listdir("/proc") if p.isdigit() and os.path.exists(f"/proc/{p}/cmdline")
    )


def test_time_offsets():
    r = hutch.run("host", ["cat", "/proc/uptime"], time_offsets={"boottime": 1_000_000})
    assert float(r.stdout.split()[0]) > 1_000_000


def test_sysctls_devices_ulimits():
    r = hutch.run("host", ["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"], sysctls={"net.ipv4.ip_unprivileged_port_start": "80"})
    assert r.stdout == "80\n"
    with pytest.raises(hutch.ConfigError, match="it would change the host"):
        hutch.run("host", ["true"], sysctls={"vm.swappiness": "10"})
    assert hutch.run("host", ["sh", "-c", "ulimit -n"], ulimits={"nofile": 128}).stdout == "128\n"
    assert hutch.run("host", ["stat", "-c", "%F %t:%T", "/dev/xyz"], devices=["/dev/null:/dev/xyz"]).stdout == "character special file 1:3\n"


def test_a_limit_that_cannot_be_raised_is_refused_before_the_start():
    features = hutch.features()
    if features.capabilities >> 24 & 1:
        pytest.skip("CAP_SYS_RESOURCE is there")
    with pytest.raises(hutch.UnsupportedError, match="raising it needs CAP_SYS_RESOURCE"):
        hutch.run("host", ["true"], ulimits={"nofile": features.hard_limits["RLIMIT_NOFILE"] + 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "10q"}, "memory: expected a size"),
        ({"memory": 100}, "the least is one page"),
        ({"cpus": -1}, "cpus: expected a number of CPUs"),
        ({"network": "host", "aliases": ["a"]}, "need a network to be on"),
        ({"ports": ["80/icmp"]}, "publish: expected tcp, udp or sctp"),
        ({"workdir": "relative"}, "workdir: expected an absolute path"),
        ({"mounts": ["nothing"]}, "mount: expected SOURCE:TARGET"),
        ({"nonsense": 1}, "unknown option 'nonsense'"),
        ({"cap_add": ["CAP_FLY"]}, "unknown capability"),
        ({"timeout": 0}, "timeout: expected seconds above 0"),
        ({"env": ["=x"]}, "env: expected NAME=VALUE"),
        ({"user": ":5"}, "user: expected USER"),
    ],
)
def test_bad_input_is_refused_before_anything_is_touched(options, message):
    with pytest.raises(hutch.UsageError, match=message):
        hutch.run("host", ["true"], **options)


def test_a_string_is_no_command():
    with pytest.raises(hutch.UsageError, match="expected a list of arguments"):
        hutch.run("host", "echo hello")


def test_missing_images():
    with pytest.raises(hutch.ImageError, match="No such file"):
        hutch.run("./no-such-directory", ["true"])
    with pytest.raises(hutch.ImageError, match="is not in the store"):
        hutch.run("debian:12", ["true"], pull="never").check()
    with pytest.raises(hutch.UsageError, match="lower case"):
        hutch.run("Debian/X:12", ["true"], pull="never").check()


def test_the_host_view_hides_homes_and_secrets():
    r = hutch.run(
        "host", ["sh", "-c", "ls -A /home /root /srv /mnt /run/secrets /var/lib 2>/dev/null | grep -v :; cat /etc/shadow /etc/gshadow /etc/ssl/private/* 2>&1"]
    )
    assert "No such file" in r.stdout and "root:" not in r.stdout
    secret = "/etc/hutch-test-secret"
    with open(secret, "w") as file:
        file.write("secret")
    os.chmod(secret, 0o600)
    try:
        code = f"import hutch; print(hutch.run('host', ['cat', {secret!r}]).stdout)"
        assert "secret" not in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    finally:
        os.unlink(secret)


def test_nothing_is_written_back():
    before = os.stat("/etc/passwd").st_mtime_ns
    assert hutch.run("host", ["sh", "-c", "echo x >> /etc/passwd; rm -rf /usr/share /opt; touch /usr/hutch-was-here"]).outcome == "exited"
    assert os.stat("/etc/passwd").st_mtime_ns == before and os.path.isdir("/usr/share") and not os.path.exists("/usr/hutch-was-here")


def test_from_many_threads():
    results: list[str] = []
    threads = [threading.Thread(target=lambda n=n: results.append(hutch.run("host", ["echo", str(n)]).stdout)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(f"{n}\n" for n in range(16))


def test_in_a_child_of_fork():
    hutch.run("host", ["true"])
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if hutch.run("host", ["echo", "child"]).stdout == "child\n" else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_no_descriptor_is_lost():
    hutch.run("host", ["true"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        hutch.run("host", ["true"])
        hutch.run("host", ["nosuch"])
        hutch.run("host", ["sleep", "9"], timeout=0.1)
        with pytest.raises(hutch.UsageError):
            hutch.run("host", ["true"], memory="x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_low_descriptors_of_the_caller_are_kept_apart():
    """A program may have closed its standard streams: the pipes then get the numbers that the executor expects."""
    code = "import os, hutch\nr0 = os.dup(1); os.close(0); os.close(2)\nr = hutch.run('host', ['sh', '-c', 'echo out; echo err >&2'])\nos.write(r0, repr((r.stdout, r.stderr)).encode())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "('out\\n', 'err\\n')"


def test_disk_upper_is_removed():
    place = f"{os.environ['HUTCH_DATA']}/containers"
    before = set(os.listdir(place)) if os.path.isdir(place) else set()
    r = hutch.run("host", ["sh", "-c", "dd if=/dev/zero of=/usr/big bs=1M count=20 2>/dev/null; ls -s /usr/big"], upper="disk")
    assert r.ok and "20480" in r.stdout
    assert set(os.listdir(place)) <= before


def test_upper_size_bounds_what_is_kept_in_memory():
    r = hutch.run("host", ["dd", "if=/dev/zero", "of=/usr/big", "bs=1M", "count=50"], upper_size="8m")
    assert r.exit_code == 1 and "No space left" in r.stderr


def test_python_dying_takes_its_containers_along():
    code = "import hutch, os, time\np = hutch.start('host', ['sleep', '1000'])\nprint(p.pid, flush=True)\ntime.sleep(1000)"
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(owner.stdout.readline())
    pidfd = os.pidfd_open(pid)
    owner.kill()
    owner.wait()
    import select

    assert select.select([pidfd], [], [], 5)[0], "the container outlived its owner"
    os.close(pidfd)
    owner.stdout.close()
