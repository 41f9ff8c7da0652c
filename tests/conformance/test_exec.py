"""exec: another process in a container that runs."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.conformance.runtime import CAPABILITIES, alive, config, label, mapped, until, wait

pytestmark = pytest.mark.root
clause = pytest.mark.clause
OPERATIONS = ("runtime.md", "Operations")


@pytest.fixture
def there(box):
    """A container that runs, as anna, with an environment and a directory of its own."""
    process = {"user": {"uid": 1000, "gid": 1000}, "env": ["PATH=/bin", "OWN=1"], "cwd": "/tmp"}
    return box(config("sleep", "100", process=process)).up()


@pytest.fixture
def of_root(box):
    return box(config("sleep", "100")).up()


def described(there, place, **fields):
    """Run exec with a --process file."""
    path = place / "process.json"
    path.write_text(json.dumps({"cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, **fields}))
    return there.runtime.call("exec", "--process", str(path), there.id)


@clause(*OPERATIONS, "exec: the exit code is the process'; a signal's is 128 more")
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -9 $$", 137)])
def test_exit_codes(there, script, code):
    assert there.exec("sh", "-c", script).code == code
    assert there.status == "running"


@clause(*OPERATIONS, "exec: the streams are the caller's")
def test_streams(there):
    result = there.exec("sh", "-c", "cat; echo err >&2", stdin="through\n")
    assert (result.ok().out, result.err) == ("through\n", "err\n")


@clause(*OPERATIONS, "exec: environment, directory and user are those of the container's process")
def test_defaults(there):
    lines = there.exec("sh", "-c", "echo $OWN; pwd; id -u; id -g; umask; echo $HOME").lines()
    assert lines == ["1", "/tmp", "1000", "1000", "0022", "/home/anna"]


@clause(*OPERATIONS, "exec: --cwd, --env, --user, --additional-gids, --no-new-privs")
@pytest.mark.parametrize(("options", "script", "seen"), [
    (["--cwd", "/etc"], "pwd", "/etc"), (["--env", "A=b c", "--env", "D=e"], "echo $A $D $OWN", "b c e 1"), (["-e", "A=1", "-e", "D=2"], "echo $A $D", "1 2"), (["--env", "OWN=2"], "echo $OWN", "2"),
    (["--user", "0"], "id -u", "0"), (["--user", "7:8"], "echo $(id -u) $(id -g)", "7 8"), (["-u", "0:0"], "echo $HOME", "/root"),
    (["--no-new-privs"], "grep NoNewPrivs /proc/self/status | tr -d '\\t'", "NoNewPrivs:1"),
], ids=label)  # fmt: skip
def test_options(there, options, script, seen):
    assert there.exec("sh", "-c", script, options=options).lines() == [seen]


@clause(*OPERATIONS, "exec: --additional-gids")
def test_additional_groups(there):
    assert {"29", "30"} <= set(there.exec("id", "-G", options=["--additional-gids", "29", "--additional-gids", "30"]).out.split())


@clause(*OPERATIONS, "exec: capabilities are the container's; --cap adds one")
def test_capabilities(of_root):
    bits = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SYS_CHROOT": 18, "CAP_MKNOD": 27}
    own = sum(1 << bits[name] for name in CAPABILITIES)
    for options, want in (([], own), (["--cap", "CAP_NET_RAW"], own | 1 << 13)):
        line = of_root.exec("grep", "CapEff", "/proc/self/status", options=options).lines()[0]
        assert int(line.split()[1], 16) == want


@clause(*OPERATIONS, "exec: --process is a whole process of config.md")
def test_process_file(there, place):
    script = "pwd; echo $KEY; id -u; ulimit -n; grep CapEff /proc/self/status | tr -d '\\t'"
    result = described(there, place, args=["sh", "-c", script], cwd="/etc", env=["PATH=/bin", "KEY=value"], rlimits=[{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}],
                       capabilities=dict.fromkeys(("bounding", "effective", "permitted"), ["CAP_CHOWN"]))  # fmt: skip
    assert result.lines() == ["/etc", "value", "0", "99", "CapEff:0000000000000001"]


@clause("config.md", "POSIX-platform User", "umask of a process that is executed")
def test_umask_of_exec(there, place):
    assert described(there, place, args=["sh", "-c", "umask"], user={"uid": 0, "gid": 0, "umask": 0o027}).lines() == ["0027"]


@clause("config.md", "Linux Process", "oomScoreAdj of a process that is executed")
def test_oom_score_of_exec(there, place):
    assert described(there, place, args=["cat", "/proc/self/oom_score_adj"], oomScoreAdj=600).lines() == ["600"]


@clause("config.md", "Linux Process", "scheduler and ioPriority of a process that is executed")
def test_scheduling_of_exec(there, place):
    result = described(
        there,
        place,
        args=["sh", "-c", "ionice; cat /proc/self/stat"],
        scheduler={"policy": "SCHED_BATCH", "nice": 4},
        ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 5},
    )
    first, second = result.lines()
    words = second.rpartition(")")[2].split()
    assert first == "best-effort: prio 5" and (words[16], words[38]) == ("4", "3")


@clause("config.md", "Linux Process", "execCPUAffinity: final are the CPUs the process will be run on")
@pytest.mark.parametrize(("affinity", "seen"), [({"initial": "0", "final": "1"}, "1"), ({"final": "0"}, "0")], ids=label)
def test_affinity(there, place, affinity, seen):
    if os.cpu_count() == 1:
        pytest.skip("unsupported: one CPU")
    result = described(there, place, args=["grep", "Cpus_allowed_list", "/proc/self/status"], execCPUAffinity=affinity)
    assert result.lines() == [f"Cpus_allowed_list:\t{seen}"]


@clause("config.md", "Linux Process", "execCPUAffinity of the configuration is for every exec")
def test_affinity_of_the_configuration(box):
    container = box(config("sleep", "100", process={"execCPUAffinity": {"initial": "0", "final": "0"}})).up()
    assert container.exec("grep", "Cpus_allowed_list", "/proc/self/status").lines() == ["Cpus_allowed_list:\t0"]


@clause("config.md", "Linux Process", "execCPUAffinity: what is no list of CPUs is an error")
def test_wrong_affinity(there, place):
    described(there, place, args=["true"], execCPUAffinity={"final": "x"}).failed()


@clause(*OPERATIONS, "exec: the process is in the container's namespaces and cgroups")
def test_where_it_is(of_root):
    kinds = ("pid", "net", "mnt", "ipc", "uts", "cgroup")
    seen = of_root.exec("sh", "-c", f"for n in {' '.join(kinds)}; do readlink /proc/self/ns/$n; done").lines()
    assert seen == [os.readlink(f"/proc/{of_root.init}/ns/{kind}") for kind in kinds]
    own = of_root.exec("cat", "/proc/self/cgroup").lines()
    assert next(line for line in own if ":pids:" in line or line.startswith("0::")).endswith(":/")


@clause(*OPERATIONS, "exec: in a user namespace the ids are the container's")
def test_in_a_user_namespace(box):
    container = box(mapped("sleep 100")).up()
    assert container.exec("sh", "-c", "id -u; readlink /proc/self/ns/user").lines() == ["0", os.readlink(f"/proc/{container.init}/ns/user")]


@clause(*OPERATIONS, "exec: --detach returns at once; --pid-file is the pid on the host; a shim sees the exit code")
def test_detach(there, place):
    path = str(place / "pid")
    there.exec("sh", "-c", "while test ! -e /tmp/go; do sleep 0.02; done; exit 9", options=["--detach", "--pid-file", path]).ok()
    with open(path) as file:
        pid = int(file.read())
    assert alive(pid) and os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(f"/proc/{there.init}/ns/mnt")
    (there.rootfs / "tmp/go").touch()
    assert wait(pid) == 9


@clause(*OPERATIONS, "exec: words after the command are the command's")
def test_words_of_the_command(there):
    assert there.exec("echo", "-n", "--cwd", "x").out == "--cwd x"


@clause(*OPERATIONS, "exec: --preserve-fds")
def test_preserved_descriptors(there):
    reader, writer = os.pipe()
    os.write(writer, b"kept\n")
    os.close(writer)
    prefix = ["bash", "-c", f'exec 3<&{reader}; exec "$@"', "bash"]
    result = there.exec("sh", "-c", "cat <&3", options=["--preserve-fds", "1"], prefix=prefix, pass_fds=(reader,))
    os.close(reader)
    assert result.lines() == ["kept"]


@clause(*OPERATIONS, "exec: no descriptor of the runtime's own is left open")
def test_descriptors(there):
    assert there.exec("sh", "-c", "ls /proc/self/fd | grep -v '^[012]$' | wc -l").lines() == ["1"]


@clause(*OPERATIONS, "exec: a program that does not exist is an error")
@pytest.mark.parametrize("program", ["/nowhere/program", "nowhere", "/tmp"])
def test_no_program(there, program):
    there.exec(program).failed()
    assert there.status == "running"


@clause(*OPERATIONS, "exec: nothing to execute is an error")
def test_no_words(there):
    there.exec().failed()


@clause(*OPERATIONS, "exec: a container that has stopped is an error")
def test_stopped(box):
    container = box(config("true")).up()
    container.wait()
    container.wait_status("stopped")
    container.exec("true").failed()


@clause(*OPERATIONS, "exec: a created container takes it, as its namespaces are there")
def test_created(box):
    container = box(config("sleep", "100"))
    container.create().ok()
    assert container.exec("echo", "early").lines() == ["early"]
    assert container.status == "created"


@clause(*OPERATIONS, "exec: a paused container is an error")
def test_paused(there):
    there.call("pause").ok()
    there.exec("true").failed("paused")
    there.call("resume").ok()


@clause(*OPERATIONS, "exec: --ignore-paused waits for the resume")
def test_ignore_paused(there):
    there.call("pause").ok()
    child = there.runtime.spawn(
        "exec", "--ignore-paused", there.id, "echo", "resumed", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        # it says so at once when it does not know the option
        until(lambda: child.poll() is not None or len(there.processes()) > 1, "the process in the cgroup")
    finally:
        there.call("resume").ok()
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (0, b"resumed\n"), err


@clause(*OPERATIONS, "exec: the end of the container ends it too")
def test_end_with_the_container(there, place):
    path = str(place / "pid")
    there.exec("sleep", "99", options=["--detach", "--pid-file", path]).ok()
    with open(path) as file:
        pid = int(file.read())
    there.kill("KILL").ok()
    assert wait(pid) == -9
    assert there.wait() == -9
