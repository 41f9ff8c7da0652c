"""seccomp: actions, arguments, flags, and the listener."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import socket
import struct

import pytest

from tests.conformance.outside import receive_descriptors
from tests.conformance.runtime import config, label, shell

pytestmark = pytest.mark.root
clause = pytest.mark.clause
MKDIR = ["mkdir", "mkdirat"]
# what busybox and the runtimes' own last steps before execve need
ENOUGH = (
    "access arch_prctl bind brk capget capset chdir clone clone3 close close_range connect dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait eventfd2 execve"
    " execveat exit exit_group faccessat faccessat2 fchdir fchown fcntl fstat fstatfs futex getcwd getdents64 geteuid getegid getgid getpgrp getpid getppid getrandom"
    " gettid getuid getxattr ioctl keyctl lseek lstat madvise memfd_create mmap mprotect mremap munmap nanosleep newfstatat open openat openat2 pipe pipe2 poll ppoll prctl"
    " pread64 prlimit64 read readlink readlinkat readv rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield seccomp sendmsg sendto recvmsg recvfrom"
    " set_robust_list set_tid_address setgid setgroups setresgid setresuid setuid sigaltstack socket socketpair stat statx sysinfo tgkill time times uname umask wait4"
    " waitid write writev"
).split()


def filtered(*rules: dict, default: str = "SCMP_ACT_ALLOW", script: str = "mkdir /tmp/x; echo $?", nnp: bool = True, **rest) -> dict:
    seccomp = {"defaultAction": default, "syscalls": list(rules), **rest}
    return shell(script, process={"noNewPrivileges": nnp}, linux={"seccomp": seccomp})


def rule(action: str, names=MKDIR, **rest) -> dict:
    return {"names": [*names], "action": action, **rest}


@clause("config-linux.md", "Seccomp", "SCMP_ACT_ERRNO: the default is EPERM; errnoRet is another")
@pytest.mark.parametrize(
    ("extra", "number"), [({}, errno.EPERM), ({"errnoRet": errno.ENOSPC}, errno.ENOSPC), ({"errnoRet": errno.ENOTSUP}, errno.ENOTSUP)], ids=label
)
@pytest.mark.parametrize("nnp", [True, False], ids=["no new privileges", ""])
def test_errno(box, extra, number, nnp):
    result = box(filtered(rule("SCMP_ACT_ERRNO", **extra), nnp=nnp)).run()
    assert result.lines() == ["1"] and os.strerror(number) in result.err


@clause("config-linux.md", "Seccomp", "SCMP_ACT_ALLOW and SCMP_ACT_LOG let the call happen")
@pytest.mark.parametrize("action", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"])
def test_allow(box, action):
    container = box(filtered(rule(action)))
    assert container.run().lines() == ["0"] and (container.rootfs / "tmp/x").is_dir()


@clause("config-linux.md", "Seccomp", "SCMP_ACT_KILL, KILL_PROCESS, KILL_THREAD, TRAP end the process with SIGSYS")
@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP"])
def test_kill(box, action):
    assert box(filtered(rule(action))).run().lines() == [str(128 + 31)]


@clause("config-linux.md", "Seccomp", "SCMP_ACT_TRACE without a tracer is ENOSYS")
def test_trace(box):
    result = box(filtered(rule("SCMP_ACT_TRACE"))).run()
    assert result.lines() == ["1"] and os.strerror(errno.ENOSYS) in result.err


@clause("config-linux.md", "Seccomp", "defaultAction is for what no rule names; defaultErrnoRet is its errno")
@pytest.mark.parametrize(("extra", "number"), [({}, errno.EPERM), ({"defaultErrnoRet": errno.ENOTSUP}, errno.ENOTSUP)], ids=label)
def test_default_action(box, extra, number):
    result = box(filtered(rule("SCMP_ACT_ALLOW", ENOUGH), default="SCMP_ACT_ERRNO", **extra)).run()
    assert result.lines() == ["1"] and os.strerror(number) in result.err


SIGNALS = (0, 17, 18, 28)  # an ordinary shell ignores them all


@clause("config-linux.md", "Seccomp", "args: every operator")
@pytest.mark.parametrize(("op", "extra", "denied"), [
    ("SCMP_CMP_EQ", {}, [18]), ("SCMP_CMP_NE", {}, [0, 17, 28]), ("SCMP_CMP_LT", {}, [0, 17]), ("SCMP_CMP_LE", {}, [0, 17, 18]), ("SCMP_CMP_GE", {}, [18, 28]),
    ("SCMP_CMP_GT", {}, [28]), ("SCMP_CMP_MASKED_EQ", {"value": 0x10, "valueTwo": 0x10}, [17, 18, 28]), ("SCMP_CMP_MASKED_EQ", {"value": 0x3, "valueTwo": 0x2}, [18]),
], ids=["EQ", "NE", "LT", "LE", "GE", "GT", "MASKED_EQ", "MASKED_EQ 2"])  # fmt: skip
def test_operators(box, op, extra, denied):
    script = "for s in " + " ".join(map(str, SIGNALS)) + "; do kill -$s $$ 2>/dev/null || echo $s; done"
    args = [{"index": 1, "value": 18, "op": op, **extra}]
    assert box(filtered(rule("SCMP_ACT_ERRNO", ["kill"], args=args), script=script)).run().lines() == [str(s) for s in denied]


@clause("config-linux.md", "Seccomp", "args of one rule must all match")
def test_several_arguments(box):
    args = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 18, "op": "SCMP_CMP_EQ"}]
    script = "kill -18 1 2>/dev/null || echo one; kill -0 1 2>/dev/null || echo zero; sleep 9 & kill -18 $! 2>/dev/null || echo other; kill -9 $!"
    assert box(filtered(rule("SCMP_ACT_ERRNO", ["kill"], args=args), script=script)).run().out.split() == ["one"]


@clause("config-linux.md", "Seccomp", "several rules of one call")
def test_several_rules(box):
    rules = [rule("SCMP_ACT_ERRNO", ["kill"], args=[{"index": 1, "value": s, "op": "SCMP_CMP_EQ"}]) for s in (17, 28)]
    script = "for s in 0 17 18 28; do kill -$s $$ 2>/dev/null || echo $s; done"
    assert box(filtered(*rules, script=script)).run().lines() == ["17", "28"]


@clause("config-linux.md", "Seccomp", "names of calls that this kernel's architecture does not have are passed over")
def test_unknown_calls(box):
    assert box(filtered(rule("SCMP_ACT_ERRNO", ["novel_call", *MKDIR]))).run().lines() == ["1"]


@clause("config-linux.md", "Seccomp", "architectures")
@pytest.mark.parametrize(
    "names", [["SCMP_ARCH_X86_64"], ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], ["SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"]], ids=",".join
)
def test_architectures(box, names):
    if os.uname().machine != "x86_64":
        pytest.skip("unsupported: another machine")
    assert box(filtered(rule("SCMP_ACT_ERRNO"), architectures=names)).run().lines() == ["1"]


@clause("config-linux.md", "Seccomp", "flags of seccomp(2)")
@pytest.mark.parametrize("flags", [["SECCOMP_FILTER_FLAG_LOG"], ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"], ["SECCOMP_FILTER_FLAG_TSYNC"], [],
    ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]], ids=lambda flags: ",".join(f[20:] for f in flags) or "none")  # fmt: skip
def test_flags(box, flags):
    assert box(filtered(rule("SCMP_ACT_ERRNO"), flags=flags)).run().lines() == ["1"]


@clause("config-linux.md", "Seccomp", "what is not in the lists is an error")
@pytest.mark.parametrize("change", [
    {"defaultAction": "SCMP_ACT_NOVEL"}, {"architectures": ["SCMP_ARCH_NOVEL"]}, {"flags": ["SECCOMP_FILTER_FLAG_NOVEL"]},
    {"syscalls": [rule("SCMP_ACT_NOVEL")]}, {"syscalls": [rule("SCMP_ACT_ERRNO", args=[{"index": 0, "value": 1, "op": "SCMP_CMP_NOVEL"}])]},
    {"syscalls": [rule("SCMP_ACT_ERRNO", args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}])]}, {"syscalls": [rule("SCMP_ACT_ERRNO", [])]},
], ids=["defaultAction", "architectures", "flags", "action", "op", "index", "no names"])  # fmt: skip
def test_wrong_values(box, change):
    data = filtered()
    data["linux"]["seccomp"] |= change
    container = box(data)
    if container.create().code == 0:
        container.start().failed()


@clause("config-linux.md", "Seccomp", "when the action does not support an errno the runtime MUST print an error and fail")
@pytest.mark.parametrize("change", [{"syscalls": [rule("SCMP_ACT_KILL", errnoRet=5)]}, {"syscalls": [rule("SCMP_ACT_ALLOW", errnoRet=5)]}, {"defaultErrnoRet": 5}],
                         ids=["kill", "allow", "default"])  # fmt: skip
def test_errno_where_there_is_none(box, change):
    data = filtered()
    data["linux"]["seccomp"] |= change
    container = box(data)
    if container.create().code == 0:
        container.start().failed()


@clause("config-linux.md", "Seccomp", "the filter is the process', its children's and those of exec")
def test_filter_is_there(box):
    container = box(filtered(rule("SCMP_ACT_ERRNO"), script="sleep 100")).up()
    with open(f"/proc/{container.init}/status") as file:
        assert "Seccomp:\t2" in file.read()
    assert container.exec("sh", "-c", "mkdir /tmp/y 2>/dev/null; echo $?").lines() == ["1"]


@pytest.fixture
def agent(place):
    """A socket for the listener."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = str(place / "agent.sock")
    listener.bind(path)
    listener.listen()
    listener.settimeout(10)
    yield listener, path
    listener.close()


RECEIVE, SEND = 0xC0502100, 0xC0182101


def answer(descriptor: int, error: int) -> int:
    """Answer one call with an errno; the number of the call."""
    assert select.select([descriptor], [], [], 10)[0], "no notification"
    buffer = ctypes.create_string_buffer(80)
    fcntl.ioctl(descriptor, RECEIVE, buffer, True)
    number, _, _, call = struct.unpack_from("QIIi", buffer.raw)
    fcntl.ioctl(descriptor, SEND, struct.pack("QqiI", number, 0, -error, 0))
    return call


@clause("config-linux.md", "The Container Process State", "ociVersion, fds, pid, metadata, state; seccompFd by SCM_RIGHTS; one per connection")
def test_listener(box, agent):
    listener, path = agent
    data = filtered(rule("SCMP_ACT_NOTIFY"), listenerPath=path, listenerMetadata="the agent's own")
    container = box(data | {"annotations": {"org.example": "yes"}}).up()
    connection, _ = listener.accept()
    with connection:
        payload, descriptors = receive_descriptors(connection)
    state = json.loads(payload)
    assert state["fds"] == ["seccompFd"] and len(descriptors) == 1
    assert state["metadata"] == "the agent's own" and state["pid"] == container.init and state["ociVersion"].startswith("1.")
    inner = state["state"]
    assert (inner["id"], inner["bundle"], inner["pid"]) == (container.id, str(container.bundle), container.init)
    assert inner["status"] in ("creating", "created", "running") and inner["annotations"]["org.example"] == "yes"
    assert answer(descriptors[0], errno.ENOTSUP) in (83, 258)
    assert container.wait() == 0
    assert os.strerror(errno.ENOTSUP) in container.err() and container.out() == "1\n"
    os.close(descriptors[0])


@clause("config-linux.md", "Seccomp", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is a listener's flag")
def test_flag_of_the_listener(box, agent):
    listener, path = agent
    container = box(filtered(rule("SCMP_ACT_NOTIFY"), listenerPath=path, flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])).up()
    connection, _ = listener.accept()
    with connection:
        _, descriptors = receive_descriptors(connection)
    answer(descriptors[0], errno.EPERM)
    assert container.wait() == 0 and container.out() == "1\n"
    os.close(descriptors[0])


@clause("config-linux.md", "Seccomp", "if sending to the socket fails: an error; listenerMetadata needs listenerPath; SCMP_ACT_NOTIFY needs it too")
@pytest.mark.parametrize("extra", [{"listenerPath": "/nowhere/agent.sock"}, {"listenerMetadata": "x"}, {}], ids=["no socket", "metadata alone", "no path"])
def test_wrong_listener(box, extra):
    container = box(filtered(rule("SCMP_ACT_NOTIFY"), **extra))
    if container.create().code == 0:
        container.start().failed()


@clause("config-linux.md", "Seccomp", "listenerPath is ignored when SCMP_ACT_NOTIFY is not used")
def test_listener_that_is_not_used(box):
    assert box(filtered(rule("SCMP_ACT_ERRNO"), listenerPath="/nowhere/agent.sock")).run().lines() == ["1"]


@clause("config-linux.md", "Seccomp", "without seccomp there is no filter")
def test_no_filter(box):
    assert "Seccomp:\t0" in box(config("cat", "/proc/self/status")).run().lines()
