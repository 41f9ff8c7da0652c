"""containerd, Docker and Podman run their containers with the runtime under test: what a user of theirs sees."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.engines import (  # noqa: F401 - fixtures
    containerd,
    ctr_fixture,
    docker_daemon,
    docker_fixture,
    engine_fixture,
    podman_fixture,
    podman_store,
    room_fixture,
)
from tests.conformance.runtime import until
from tests.conftest import v2_only

pytestmark = pytest.mark.root
MEMORY = ("memory", "memory.limit_in_bytes", "memory.max")
PIDS = ("pids", "pids.max", "pids.max")
CPU = ("cpu", "cpu.cfs_quota_us", "cpu.max")
FOREVER = ["sleep", "1000"]
WAITING = "trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.05; done"


def namespace(engine, name: str, kind: str) -> str:
    return engine.exec(name, ["readlink", f"/proc/self/ns/{kind}"]).out


def test_output_and_exit_code(engine):
    said = engine.run("echo out; echo err >&2; exit 7")
    assert (said.code, said.out, said.err) == (7, "out\n", "err\n")


def test_environment_directory_user_and_hostname(engine):
    said = engine.run("echo $A; pwd; id; hostname", "--env", "A=b c", "--workdir", "/tmp", "--user", "anna", "--hostname", "house")
    words, directory, identity, name = said.out.splitlines()
    assert (words, directory, name) == ("b c", "/tmp", "house")
    assert "uid=1000(anna) gid=1000(anna)" in identity and "29(audio)" in identity


@pytest.mark.parametrize(
    "command, code, words",
    [
        ("not-there", 127, ["not-there"]),
        ("/bin/no-interpreter", 127, ["/bin/no-interpreter", "/not/there"]),
        ("/bin/plain-file", 126, ["/bin/plain-file"]),
        ("/tmp", 126, ["/tmp"]),
    ],
)
def test_a_program_that_cannot_be_run(engine, command, code, words):
    """The engine's exit code is the shell's, and its error has the runtime's words, which name the thing."""
    said = engine.run([command])
    if engine.name == "podman" and "interpreter" in command:
        code = said.code if said.code == 126 else code  # found by `start`, of which podman looks at nothing but the failure
    assert said.code == code, said
    assert all(word in said.err for word in words), said


def test_a_mistake_is_125(engine):
    assert engine("run", "--no-such-flag").code == 125


def test_a_command_that_cannot_be_run(engine):
    name = engine.start(FOREVER)
    for command, flags, word in (["not-there"], [], "not-there"), (["true"], ["--workdir", "/not/there"], "/not/there"):
        said = engine.exec(name, command, *flags)
        assert said.code in (126, 127) and word in said.out + said.err, said  # docker's client prints it to stdout


def test_a_terminal(engine):
    """A terminal of the container's own, as large as the user's."""
    script = 'tty; until [ "$(stty size)" = "33 99" ]; do sleep 0.02; done; echo large; read word; echo "<$word>"; exit 4'
    said = engine.typed("run", "--rm", "--interactive", "--tty", *engine.argv(script), typing="hello\n")
    assert said.code == 4 and "/dev/pts/0" in said.out and "large" in said.out and "<hello>" in said.out, said


def test_standard_input(engine):
    assert engine.run(["wc", "-c"], "--interactive", input="x" * 1_000_000).out == "1000000\n"


def test_commands(engine):
    """Commands in a container: their output, exit code, input, terminal, user, directory and environment."""
    name = engine.start(FOREVER)
    said = engine.exec(name, "echo out; echo err >&2; exit 5")
    assert (said.code, said.out, said.err) == (5, "out\n", "err\n")
    assert engine.exec(name, ["cat"], "--interactive", input="in").out == "in"
    assert engine.exec(name, "id -un; pwd; echo $A", "--user", "anna", "--workdir", "/tmp", "--env", "A=b").out == "anna\n/tmp\nb\n"
    said = engine.typed("exec", "--tty", name, "sh", "-c", "tty; exit 6")
    assert said.code == 6 and "/dev/pts/0" in said.out, said
    assert engine.exec(name, "touch /tmp/made; exec sleep 1000", "--detach").code == 0
    until(lambda: engine.exec(name, ["ls", "/tmp"]).out == "made\n", "the command in the background")
    links = "for kind in cgroup ipc mnt net pid uts; do readlink /proc/$0/ns/$kind; done; cat /proc/$0/cgroup"
    own, first = (engine.exec(name, ["sh", "-c", links, process]) for process in ("self", "1"))
    assert own.out == first.out and own.out.count("[") == 6


def test_commands_that_end_at_once(engine):
    """The engine waits for a command itself, however short that was: the runtime must not have done so before."""
    name = engine.start(FOREVER)
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda _: engine.exec(name, ["true"]).code, range(16)))
    assert codes == [0] * 16


def test_stop_signals_the_program(engine):
    name = engine.start(WAITING)
    until(lambda: "ready" in engine.ok("logs", name), "the program")
    engine.ok("stop", name)
    assert (engine.inspect(name, "ExitCode"), engine.inspect(name, "Status")) == ("3", "exited")
    assert engine.ok("logs", name) == "ready\ngot TERM"


def test_kill(engine):
    name = engine.start(FOREVER)
    engine.ok("kill", name)
    assert engine.ok("wait", name) == "137"
    name = engine.start("trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done")
    until(lambda: "ready" in engine.ok("logs", name), "the program")
    engine.ok("kill", "--signal", "USR1", name)
    assert engine.ok("wait", name) == "9"


def test_pause(engine, tmp_path):
    """Nothing of a paused container runs; it can be removed in that state too."""
    ticks = tmp_path / "ticks"
    name = engine.start("while :; do echo tick >> /data/ticks; sleep 0.01; done", "--volume", f"{tmp_path}:/data")
    until(ticks.exists, "the first tick")
    engine.ok("pause", name)
    before = ticks.stat().st_size
    assert engine.inspect(name, "Status") == "paused"
    time.sleep(0.1)
    assert ticks.stat().st_size == before
    engine.ok("unpause", name)
    assert engine.inspect(name, "Status") == "running"
    until(lambda: ticks.stat().st_size > before, "the next tick")
    engine.ok("pause", name)


def test_limits_and_their_change(engine):
    name = engine.start(FOREVER, "--memory", "64m", "--memory-reservation", "32m", "--cpus", "0.5", "--cpu-shares", "512", "--pids-limit", "20")
    assert engine.limit(name, *MEMORY) == str(64 << 20)
    assert engine.limit(name, "memory", "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    assert engine.limit(name, *PIDS) == "20"
    assert engine.limit(name, *CPU).split()[0] == "50000"
    assert engine.limit(name, "cpu", "cpu.shares", "cpu.weight") == ("20" if v2_only() else "512")
    engine.ok("update", "--memory", "96m", "--memory-swap", "192m", "--cpus", "1.5", name)
    assert engine.limit(name, *MEMORY) == str(96 << 20)
    assert engine.limit(name, *CPU).split()[0] == "150000"
    assert engine.limit(name, *PIDS) == "20"  # what is not mentioned stays
    assert engine.limit(name, "cpu", "cpu.shares", "cpu.weight") == ("20" if v2_only() else "512")


def test_docker_changes_the_number_of_processes(docker):
    name = docker.start(FOREVER)
    docker.ok("update", "--pids-limit", "33", name)
    assert docker.limit(name, *PIDS) == "33"


def test_statistics_and_processes(engine):
    name = engine.start("sleep 1001 & exec sleep 1000", "--memory", "64m")
    used = engine.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", name)
    assert float(used.split("/")[0].strip().rstrip("kKMGiB")) > 0, used
    listed = engine.ok("top", name)
    assert "sleep 1000" in listed and "sleep 1001" in listed


def test_restart(engine):
    name = engine.start(WAITING)
    until(lambda: "ready" in engine.ok("logs", name), "the program")
    engine.ok("restart", name)
    until(lambda: engine.ok("logs", name).splitlines() == ["ready", "got TERM", "ready"], "the second start")
    assert engine.inspect(name, "Status") == "running"
    engine.ok("rm", "--force", name)
    assert name not in engine.ok("ps", "--all")


def test_created_then_started(engine):
    """`create` and `start --attach`, twice; and a container that is removed before it ever started."""
    engine.ok("create", "--name", "later", *engine.argv("echo ran; exit 8"))
    for _ in range(2):
        said = engine("start", "--attach", "later")
        assert (said.code, said.out) == (8, "ran\n"), said
    engine.ok("create", "--name", "never", *engine.argv(FOREVER))
    engine.ok("rm", "never")


def test_mounts(engine, tmp_path):
    (tmp_path / "given").write_text("given\n")
    flags = ["--read-only", "--tmpfs", "/tmp:size=1m", "--volume", f"{tmp_path}:/rw", "--volume", f"{tmp_path}:/ro:ro"]
    said = engine.run("touch /no; touch /ro/no; cat /ro/given; echo made > /rw/made; touch /tmp/yes && df -k /tmp | tail -1", *flags)
    given, size = said.out.splitlines()
    assert given == "given" and size.split()[1] == "1024", said
    assert said.err.count("Read-only file system") == 2, said
    assert (tmp_path / "made").read_text() == "made\n"


def test_privileges_are_dropped(engine):
    said = engine.run(["cat", "/proc/self/status"], "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    status = dict(line.split(":\t", 1) for line in said.out.splitlines())
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert engine.run(["cat", "/proc/kcore"]).out == "" and "sysrq" not in engine.run("echo x > /proc/sys/kernel/sysrq").out


def test_number_of_processes(engine):
    said = engine.run("for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo all", "--pids-limit", "5")
    assert said.code != 0 and "can't fork" in said.err and "all" not in said.out, said


def test_out_of_memory(engine):
    # a moment first: engines begin to listen for the kernel's word only once the container runs
    name = engine.start("sleep 1; x=x; while :; do x=$x$x; done", "--memory", "64m")
    assert engine.ok("wait", name) == "137"
    note = engine.room.path("/run/engines/oom")  # conmon 2.1.6 puts it into its working directory, where podman 4.3 does not look for it
    until(lambda: engine.inspect(name, "OOMKilled") == "true" or (engine.name == "podman" and note.exists()), "the engine to notice")


def test_an_init_of_the_engines(engine):
    init = [] if engine.name == "docker" else ["--init-path", "/usr/bin/docker-init"]  # podman's own is of a package apart
    if not os.path.exists("/usr/bin/docker-init"):
        pytest.skip("no docker-init: package tini")
    assert "init" in engine.run(["cat", "/proc/1/comm"], "--init", *init).out
    assert engine.run("exit 7", "--init", *init).code == 7


def test_privileged(engine):
    """Every capability and device. Docker asks for capabilities that this machine may lack: then their names are said."""
    said = engine.run("mount -t tmpfs none /tmp && ls /dev/kmsg && echo mounted", "--privileged")
    with open("/proc/self/status", encoding="utf-8") as file:
        bounding = int(next(line for line in file if line.startswith("CapBnd")).split()[1], 16)
    if engine.name == "docker" and not bounding >> 24 & 1 and said.code:
        assert "CAP_SYS_RESOURCE" in said.err, said
    else:
        assert said.code == 0 and "mounted" in said.out, said


def test_a_device(engine):
    said = engine.run("ls -l /dev/again; head -c 3 /dev/again | wc -c; head -c 3 /dev/zero | wc -c", "--device", "/dev/zero:/dev/again:r")
    assert "1,   5" in said.out and said.out.splitlines()[1:] == ["3", "3"], said
    made = "mknod /tmp/disk b 7 0; cat /tmp/disk"
    assert "not permitted" in engine.run(made, "--cap-add", "MKNOD").err


def test_namespaces_of_another_container(engine):
    donor = engine.start(FOREVER, "--ipc", "shareable")
    guest = engine.start(["sleep", "1001"], "--pid", f"container:{donor}", "--ipc", f"container:{donor}")
    for kind in ("pid", "ipc"):
        assert namespace(engine, donor, kind) == namespace(engine, guest, kind) != ""
    assert namespace(engine, donor, "mnt") != namespace(engine, guest, "mnt")
    assert "sleep 1000" in engine.exec(guest, ["ps"]).out
    engine.ok("kill", guest)
    assert engine.ok("wait", guest) == "137"
    assert engine.inspect(donor, "Status") == "running"
    engine.ok("rm", guest)  # podman's `rm --all` does not see that one needs the other


def test_the_processes_of_a_guest_end_with_it(engine):
    """In the machine's pid namespace the kernel ends nothing by itself: the engine asks the runtime for `kill --all`."""
    name = engine.start("sleep 1234 & echo $!; exec sleep 1000", "--pid", "host")
    until(lambda: engine.ok("logs", name), "the process beside it")
    beside = engine.room.path(f"/proc/{engine.ok('logs', name)}/cmdline")
    assert beside.read_bytes() == b"sleep\x001234\x00"
    engine.ok("kill", name)
    engine.ok("wait", name)
    until(lambda: not beside.exists() or not beside.read_bytes(), "the end of the process beside it")


def test_more_flags(engine):
    flags = ["--ulimit", "nofile=512:1024", "--sysctl", "kernel.msgmax=4096", "--oom-score-adj", "500", "--shm-size", "2m", "--cpuset-cpus", "0"]
    script = "ulimit -n; cat /proc/sys/kernel/msgmax /proc/self/oom_score_adj; df -k /dev/shm | tail -1; nproc; cat /proc/self/cgroup"
    lines = engine.run(script, *flags, "--cgroupns", "private").out.splitlines()
    assert lines[:3] == ["512", "4096", "500"] and lines[3].split()[1] == "2048" and lines[4] == "1", lines
    assert {line.split(":", 2)[2] for line in lines[5:]} == {"/"}


def test_rm_leaves_nothing(engine):
    before = set(engine.room.path("/proc/1/mountinfo").read_text().splitlines())
    assert engine.run("true").code == 0
    engine.gone()
    assert engine.ok("ps", "--all", "--quiet") == ""
    after = {line for line in engine.room.path("/proc/1/mountinfo").read_text().splitlines() if "overlay-containers" in line or "/merged" in line}
    assert after <= before


def test_a_user_namespace_of_podman(podman):
    said = podman.run("cat /proc/self/uid_map; id -u; touch /tmp/made && stat -c %u /tmp/made /bin", "--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000")
    assert said.out.split() == ["0", "100000", "5000", "0", "0", "0"], said


def test_a_pod(podman):
    """Two containers and the one that holds their namespaces."""
    infra = ["--infra-image", podman.image, "--infra-command", "sleep 1000"]
    podman.ok("pod", "create", "--name", "peas", "--cgroup-parent", podman.parent, "--share", "ipc,uts,net,pid", "--network", "none", *infra)
    try:
        limits = [word for word in podman.flags if "ulimit" in word or "=" in word]
        first, second = (podman.ok("run", "--detach", "--pod", "peas", *limits, podman.image, "sleep", str(n)) for n in (1001, 1002))
        for kind in ("ipc", "uts", "net", "pid"):
            assert namespace(podman, first, kind) == namespace(podman, second, kind) != ""
        assert namespace(podman, first, "mnt") != namespace(podman, second, "mnt")
        assert all(f"sleep {n}" in podman.exec(first, ["ps"]).out for n in (1000, 1001, 1002))
        podman.ok("kill", second)
        assert podman.ok("wait", second) == "137"
        assert podman.exec(first, ["true"]).code == 0
    finally:
        podman("pod", "rm", "--force", "--time", "0", "peas")


def test_twenty_at_once(docker, podman):
    def run(number: int):
        engine = (docker, podman)[number % 2]
        return engine.run(f"echo {number}; exit {number}")

    with ThreadPoolExecutor(20) as pool:
        said = list(pool.map(run, range(20)))
    assert [(one.code, one.out) for one in said] == [(n, f"{n}\n") for n in range(20)]


def test_ctr_output_and_exit_code(ctr):
    said = ctr.run("echo out; echo err >&2; exit 7")
    assert (said.code, said.out, said.err) == (7, "out\n", "err\n")


def test_ctr_program_that_cannot_be_run(ctr):
    said = ctr.run(["not-there"])
    assert said.code and "not-there" in said.err, said


def test_ctr_terminal(ctr):
    said = ctr.typed("run", "--rm", "--tty", *ctr.words("tty; exit 4"))
    assert said.code == 4 and "/dev/pts/0" in said.out, said


def test_ctr_task(ctr):
    name = ctr.start(FOREVER, "--memory-limit", str(64 << 20))
    pid, status = ctr.task(name)
    assert status == "RUNNING"
    assert ctr.room_limit(int(pid), *MEMORY) == str(64 << 20)
    said = ctr.exec(name, "echo out; exit 5")
    assert (said.code, said.out) == (5, "out\n"), said
    said = ctr.exec(name, ["not-there"])
    assert said.code and "not-there" in said.err, said
    assert pid in ctr.ok("task", "ps", name)
    assert "limit" in ctr.ok("task", "metrics", name)
    ctr.ok("task", "pause", name)
    assert ctr.task(name)[1] == "PAUSED"
    ctr.ok("task", "resume", name)
    assert ctr.task(name)[1] == "RUNNING"
    ctr.ok("task", "kill", "--signal", "KILL", name)
    until(lambda: ctr.task(name)[1] == "STOPPED", "the end of the task")
    assert "137" in ctr("task", "delete", name).err
    ctr.ok("containers", "rm", name)


def test_ctr_ends_by_force(ctr):
    """`kill --all`, which containerd asks for whatever the namespaces are, and a `delete` of what a `delete` has removed."""
    name = ctr.start("sleep 1001 & exec sleep 1000")
    ctr.ok("task", "delete", "--force", name)
    assert ctr.task(name) == []
    ctr.ok("containers", "rm", name)


def test_ctr_user_namespace(ctr):
    said = ctr.run("cat /proc/self/uid_map; id -u; stat -c %u /bin/busybox", "--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000")
    assert said.out.split() == ["0", "100000", "5000", "0", "0"], said
