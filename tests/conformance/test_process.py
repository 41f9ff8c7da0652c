"""The process: where, what, as whom, with which rights and limits."""

from __future__ import annotations

import os

import pytest

from tests.conformance.runtime import CAPABILITIES, config, label, shell

pytestmark = pytest.mark.root
clause = pytest.mark.clause
SETS = {"inheritable": "CapInh", "permitted": "CapPrm", "effective": "CapEff", "bounding": "CapBnd", "ambient": "CapAmb"}
CHOWN, KILL, NET_BIND = 1 << 0, 1 << 5, 1 << 10


def process(*args: str, **fields) -> dict:
    return config(*args, process=fields)


def script(text: str, **fields) -> dict:
    return shell(text, process=fields)


def status_of(lines: list[str]) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@clause("config.md", "Process", "cwd is the working directory that will be set")
@pytest.mark.parametrize("cwd", ["/", "/tmp", "/etc/../tmp"])
def test_cwd(box, cwd):
    assert box(process("pwd", cwd=cwd)).run().lines() == [os.path.normpath(cwd)]


@clause("config.md", "Process", "a cwd that is missing is made")
def test_missing_cwd(box):
    container = box(process("pwd", cwd="/made/for/it"))
    assert container.run().lines() == ["/made/for/it"] and (container.rootfs / "made/for/it").is_dir()


@clause("config.md", "Process", "cwd may be what only the process' own user can enter")
def test_cwd_of_the_user(box):
    container = box(process("pwd", cwd="/private", user={"uid": 1000, "gid": 1000}))
    (container.rootfs / "private").mkdir(mode=0o700)
    os.chown(container.rootfs / "private", 1000, 1000)
    assert container.run().lines() == ["/private"]


@clause("config.md", "Process", "env has the semantics of environ")
def test_environment(box):
    env = ["PATH=/bin", "ONE=1", "TWO=a b=c", "EMPTY=", "HOME=/elsewhere"]
    assert set(env) <= set(box(process("env", env=env)).run().lines())


@clause("config.md", "Process", "env holds what is listed and no more of the runtime's own")
def test_environment_is_no_more(box):
    result = box(process("env", env=["PATH=/bin"])).run(env={"HUTCH_CONF_SECRET": "x"})
    assert {line.partition("=")[0] for line in result.lines()} <= {"PATH", "HOME", "TERM"}


@clause("config.md", "Process", "args[0] is searched for in PATH of the configuration, as execvp does")
@pytest.mark.parametrize("args", [["tool"], ["/opt/tool"], ["./tool"]], ids=lambda args: args[0])
def test_program_search(box, args):
    container = box(process(*args, env=["PATH=/nowhere:/opt:/bin"], cwd="/opt"))
    (container.rootfs / "opt").mkdir()
    (container.rootfs / "opt/tool").write_text("#!/bin/sh\necho found\n")
    (container.rootfs / "opt/tool").chmod(0o755)
    assert container.run().lines() == ["found"]


@clause("config.md", "Process", "args are passed as they are")
def test_arguments(box):
    assert box(process("printf", "%s|", "a b", "", "*", "$X", "é")).run().out == "a b||*|$X|é|"


@clause("config.md", "POSIX-platform User", "uid, gid, additionalGids")
def test_user(box):
    user = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}
    lines = box(process("cat", "/proc/self/status", user=user, capabilities={})).run().lines()
    found = status_of(lines)
    assert found["Uid"].split() == ["1000"] * 4 and found["Gid"].split() == ["1001"] * 4
    assert {"5", "6"} <= set(found["Groups"].split()) <= {"5", "6", "1001"}


@clause("config.md", "POSIX-platform User", "no groups of the runtime's own stay")
def test_no_groups(box):
    prefix = ["setpriv", "--groups", "4,24"]
    found = status_of(box(process("cat", "/proc/self/status", user={"uid": 1000, "gid": 1000})).run(prefix=prefix).lines())
    assert not {"4", "24"} & set(found["Groups"].split())


@clause("config.md", "POSIX-platform User", "umask; 0022 when it is unspecified")
@pytest.mark.parametrize(("umask", "seen"), [(0o077, "0077"), (0, "0000"), (None, "0022")])
def test_umask(box, umask, seen):
    user = {"uid": 0, "gid": 0} | ({"umask": umask} if umask is not None else {})
    assert box(script("umask", user=user)).run(prefix=["sh", "-c", 'umask 007; exec "$@"', "sh"]).lines() == [seen]


@clause("config.md", "Process", "HOME is the container's passwd entry when the environment has none")
@pytest.mark.parametrize(("uid", "env", "home"), [(0, [], "/root"), (1000, [], "/home/anna"), (1000, ["HOME=/own"], "/own"), (4321, [], "/")])
def test_home(box, uid, env, home):
    assert box(script("echo $HOME", user={"uid": uid, "gid": 0}, env=["PATH=/bin", *env])).run().lines() == [home]


@clause("config.md", "Linux Process", "capabilities: each of the five sets")
def test_capability_sets(box):
    some = ["CAP_CHOWN", "CAP_KILL"]
    sets = {"bounding": [*some, "CAP_NET_BIND_SERVICE"], "permitted": some, "effective": ["CAP_KILL"], "inheritable": some, "ambient": ["CAP_KILL"]}
    found = status_of(box(process("cat", "/proc/self/status", user={"uid": 1000, "gid": 1000}, capabilities=sets)).run().lines())
    # after execve of an ordinary user what is ambient is permitted and effective
    assert {key: int(found[name], 16) for key, name in SETS.items()} == {
        "bounding": CHOWN | KILL | NET_BIND, "inheritable": CHOWN | KILL, "permitted": KILL, "effective": KILL, "ambient": KILL,
    }  # fmt: skip


@clause("config.md", "Linux Process", "capabilities: no set, no rights")
@pytest.mark.parametrize("sets", [{}, None, {"bounding": []}], ids=label)
def test_no_capabilities(box, sets):
    data = config("cat", "/proc/self/status")
    del data["process"]["capabilities"]
    if sets is not None:
        data["process"]["capabilities"] = sets
    found = status_of(box(data).run().lines())
    assert [int(found[name], 16) for name in SETS.values()] == [0] * 5


@clause("config.md", "Linux Process", "capabilities: root's effective ones are what bounding and permitted leave")
def test_capabilities_of_root(box):
    found = status_of(box(process("cat", "/proc/self/status")).run().lines())
    bits = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SYS_CHROOT": 18, "CAP_MKNOD": 27}
    want = sum(1 << bits[name] for name in CAPABILITIES)
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == want and int(found["CapAmb"], 16) == 0


@clause("config.md", "Linux Process", "a capability that is unknown or cannot be granted is a warning, not a failure")
@pytest.mark.parametrize("name", ["CAP_NOVEL", "CAP_SYS_RESOURCE"])
def test_ungrantable_capability(box, name):
    sets = dict.fromkeys(("bounding", "permitted", "effective"), ["CAP_CHOWN", name])
    result = box(script("grep CapEff /proc/self/status", capabilities=sets)).run()
    assert result.lines() == ["CapEff:\t0000000000000001"]
    assert name.lower() in result.err.lower() or name != "CAP_NOVEL", "no warning"


@clause("config.md", "POSIX process", "rlimits: soft and hard MUST match")
@pytest.mark.parametrize(("name", "row", "soft", "hard"), [("RLIMIT_NOFILE", "Max open files", 100, 200), ("RLIMIT_CORE", "Max core file size", 0, 0),
    ("RLIMIT_STACK", "Max stack size", 4194304, 8388608), ("RLIMIT_NPROC", "Max processes", 500, 600), ("RLIMIT_MSGQUEUE", "Max msgqueue size", 4096, 8192)])  # fmt: skip
def test_rlimits(box, name, row, soft, hard):
    lines = box(process("cat", "/proc/self/limits", rlimits=[{"type": name, "soft": soft, "hard": hard}])).run().lines()
    found = next(line for line in lines if line.startswith(row))
    assert found.removeprefix(row).split()[:2] == [str(soft), str(hard)]


@clause("config.md", "POSIX process", "rlimits: an error for a value that has no kernel interface, and for duplicates")
@pytest.mark.parametrize("names", [["RLIMIT_NOVEL"], ["RLIMIT_NOFILE", "RLIMIT_NOFILE"], ["NOFILE"]], ids=",".join)
def test_wrong_rlimits(box, names):
    box(process("true", rlimits=[{"type": name, "soft": 10 + n, "hard": 20} for n, name in enumerate(names)])).create().failed()


@clause("config.md", "Linux Process", "noNewPrivileges")
@pytest.mark.parametrize("value", [True, False])
def test_no_new_privileges(box, value):
    found = status_of(box(process("cat", "/proc/self/status", noNewPrivileges=value)).run().lines())
    assert found["NoNewPrivs"] == str(int(value))


@clause("config.md", "Linux Process", "oomScoreAdj: MUST be set to the value, MUST NOT be changed when it is not set")
@pytest.mark.parametrize("value", [500, 0, None])
def test_oom_score(box, value):
    fields = {} if value is None else {"oomScoreAdj": value}
    prefix = [] if value is not None else ["sh", "-c", 'echo 321 > /proc/self/oom_score_adj; exec "$@"', "sh"]
    assert box(process("cat", "/proc/self/oom_score_adj", **fields)).run(prefix=prefix).lines() == [str(321 if value is None else value)]


def scheduling(line: str) -> tuple[int, int, int]:
    """Nice, real-time priority, policy: of /proc/<pid>/stat."""
    words = line.rpartition(")")[2].split()
    return int(words[16]), int(words[37]), int(words[38])


@clause("config.md", "Linux Process", "scheduler: policy and nice")
@pytest.mark.parametrize(("scheduler", "seen"), [({"policy": "SCHED_BATCH", "nice": 5}, (5, 0, 3)), ({"policy": "SCHED_IDLE"}, (0, 0, 5)),
    ({"policy": "SCHED_OTHER", "nice": 7}, (7, 0, 0))], ids=label)  # fmt: skip
def test_scheduler(box, scheduler, seen):
    assert scheduling(box(process("cat", "/proc/self/stat", scheduler=scheduler)).run().out) == seen


@clause("config.md", "Linux Process", "scheduler: what is not in the list is an error")
@pytest.mark.parametrize(
    "scheduler", [{"policy": "SCHED_NOVEL"}, {"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_NOVEL"]}, {"policy": "SCHED_DEADLINE", "runtime": 10}], ids=label
)
def test_wrong_scheduler(box, scheduler):
    container = box(process("true", scheduler=scheduler))
    if container.create().code == 0:
        container.start().failed()


@clause("config.md", "Linux Process", "ioPriority: class and priority")
@pytest.mark.parametrize(
    ("kind", "priority", "seen"), [("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"), ("IOPRIO_CLASS_IDLE", 0, "idle"), ("IOPRIO_CLASS_RT", 3, "realtime: prio 3")]
)
def test_io_priority(box, kind, priority, seen):
    assert box(process("ionice", ioPriority={"class": kind, "priority": priority})).run().out.strip().startswith(seen)


@clause("config.md", "Linux Process", "ioPriority: what is not in the list is an error")
@pytest.mark.parametrize("value", [{"class": "IOPRIO_CLASS_NOVEL", "priority": 1}, {"class": "IOPRIO_CLASS_BE", "priority": 8}], ids=label)
def test_wrong_io_priority(box, value):
    container = box(process("true", ioPriority=value))
    if container.create().code == 0:
        container.start().failed()


@clause("config.md", "Linux Process", "execCPUAffinity is not applicable to the container's init process")
def test_affinity_is_of_exec(box):
    found = status_of(box(process("cat", "/proc/self/status", execCPUAffinity={"initial": "0", "final": "0"})).run().lines())
    assert found["Cpus_allowed_list"] == status_of(open("/proc/self/status").read().splitlines())["Cpus_allowed_list"]


@clause("config.md", "Process", "no descriptor of the runtime's own is left open")
def test_descriptors(box):
    assert box(script("ls /proc/self/fd | grep -v '^[012]$' | wc -l")).run().lines() == ["1"]  # that of the directory itself


@clause("runtime.md", "Create", "--preserve-fds passes descriptors on")
def test_preserved_descriptors(box):
    reader, writer = os.pipe()
    os.write(writer, b"through the pipe\n")
    os.close(writer)
    first = ["bash", "-c", f'exec 3<&{reader}; exec "$@"', "bash"]  # the first of them is 3
    result = box(script("cat <&3")).run("--preserve-fds", "1", prefix=first, pass_fds=(reader,))
    os.close(reader)
    assert result.lines() == ["through the pipe"]


@clause("runtime.md", "Create", "$LISTEN_FDS descriptors are passed on, and the process is told of them: it is the first of its namespace")
@pytest.mark.parametrize(("word", "value"), [("LISTEN_FDS", "1"), ("LISTEN_PID", "1")])
def test_listening_descriptors(box, word, value):
    reader, writer = os.pipe()
    os.write(writer, b"activated\n")
    os.close(writer)
    first = ["bash", "-c", f'exec 3<&{reader}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "bash"]
    result = box(script("cat <&3; env")).run(prefix=first, pass_fds=(reader,))
    os.close(reader)
    assert result.lines()[0] == "activated" and f"{word}={value}" in result.lines()
