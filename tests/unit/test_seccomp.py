"""System call filters, run by a small interpreter of classic BPF over ``struct seccomp_data``."""

from __future__ import annotations

import functools
import os
import re
import struct

import pytest
from hypothesis import assume, given, settings, strategies as st

from hutch.engine.spec import profiles
from hutch.errors import ConfigError
from hutch.kernel import capabilities
from hutch.kernel.syscall_table import numbers
from hutch.oci import decode as oci_decode
from hutch.oci.config import Seccomp, SeccompArgument, SeccompRule
from hutch.runtime import profile, seccomp
from hutch.runtime.profile import default_profile
from hutch.runtime.seccomp import ALLOW, ERRNO, KILL_PROCESS, KILL_THREAD, LOG, TRACE, TRAP, compile_filter

X86_64, I386, AARCH64, PPC64 = 0xC000003E, 0x40000003, 0xC00000B7, 0x80000015
EPERM, ENOSYS = ERRNO | 1, ERRNO | 38
NUMBERS = {X86_64: numbers("x86_64"), I386: numbers("i386"), AARCH64: numbers("aarch64")}
M64 = 2**64 - 1


@functools.cache
def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    assert len(program) % 8 == 0
    code = [struct.unpack_from("<HBBI", program, i) for i in range(0, len(program), 8)]
    assert 0 < len(code) <= 4096 and code[-1][0] == 0x06
    return code


def run(program: bytes, number: int, architecture: int = X86_64, args: tuple[int, ...] = ()) -> int:
    """The answer of a filter. Whatever the kernel's checker would refuse is an assertion."""
    code = decode(program)
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0x1234, *(tuple(a & M64 for a in args) + (0,) * 6)[:6])
    a, at = 0, 0
    while True:
        op, if_true, if_false, k = code[at]
        at += 1
        if op == 0x20:
            assert k % 4 == 0 and k <= len(data) - 4
            a = struct.unpack_from("<I", data, k)[0]
        elif op == 0x05:
            at += k
        elif op == 0x15:
            at += if_true if a == k else if_false
        elif op == 0x25:
            at += if_true if a > k else if_false
        elif op == 0x35:
            at += if_true if a >= k else if_false
        elif op == 0x54:
            a &= k
        elif op == 0x06:
            return k
        else:
            raise AssertionError(f"instruction {op:#x} is not expected")
        assert at < len(code), "a jump leads out of the program"


def check_jumps(program: bytes) -> None:
    """As the kernel's bpf_check_classic: every jump, taken or not, stays inside."""
    code = [struct.unpack_from("<HBBI", program, i) for i in range(0, len(program), 8)]
    for at, (op, if_true, if_false, k) in enumerate(code):
        targets = [at + 1 + k] if op == 0x05 else [at + 1 + if_true, at + 1 + if_false] if op in (0x15, 0x25, 0x35) else []
        assert all(target < len(code) for target in targets)


def call(program: bytes, name: str, *args: int, architecture: int = X86_64) -> int:
    return run(program, NUMBERS[architecture][name], architecture, args)


def compiled(
    *rules: SeccompRule, default: str = "SCMP_ACT_ERRNO", errno: int | None = None, architectures: tuple[str, ...] = (), machine: str = "x86_64"
) -> bytes:
    program = compile_filter(Seccomp(default_action=default, default_errno_ret=errno, architectures=architectures, syscalls=rules), machine)
    check_jumps(program)
    return program


def compare(op: str, left: int, value: int, two: int = 0) -> bool:
    """libseccomp's comparisons of unsigned 64-bit numbers."""
    return {
        "SCMP_CMP_NE": left != value, "SCMP_CMP_LT": left < value, "SCMP_CMP_LE": left <= value, "SCMP_CMP_EQ": left == value,
        "SCMP_CMP_GE": left >= value, "SCMP_CMP_GT": left > value, "SCMP_CMP_MASKED_EQ": left & value == two,
    }[op]  # fmt: skip


OPERATORS = ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"]
EDGES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**63 - 1, 2**63, M64 - 2**32, M64 - 1, M64]
WORD = st.sampled_from(EDGES) | st.integers(0, M64) | st.builds(lambda edge, by: (edge + by) & M64, st.sampled_from(EDGES), st.integers(-2, 2))


@pytest.mark.parametrize("op", OPERATORS)
def test_operators_at_the_edges(op):
    for value in EDGES:
        program = compiled(seccomp.rule("read", args=(SeccompArgument(index=2, value=value, value_two=value & 0xFFFFFFFF0000FFFF, op=op),)))
        for left in {*EDGES, (value + 1) & M64, (value - 1) & M64, value ^ 2**32, value ^ 1}:
            expected = ALLOW if compare(op, left, value, value & 0xFFFFFFFF0000FFFF) else EPERM
            assert call(program, "read", 0, 0, left) == expected, (op, hex(left), hex(value))


@settings(max_examples=150, deadline=None)
@given(op=st.sampled_from(OPERATORS), index=st.integers(0, 5), left=WORD, value=WORD, two=WORD)
def test_operators(op, index, left, value, two):
    program = compiled(seccomp.rule("read", args=(SeccompArgument(index=index, value=value, value_two=two, op=op),)))
    args = tuple(left if i == index else ~left & M64 for i in range(6))
    assert (call(program, "read", *args) == ALLOW) == compare(op, left, value, two)


@settings(max_examples=100, deadline=None)
@given(
    tests=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(OPERATORS), WORD, WORD), min_size=1, max_size=6), args=st.lists(WORD, min_size=6, max_size=6)
)
def test_all_arguments_must_match(tests, args):
    program = compiled(seccomp.rule("write", args=tuple(SeccompArgument(index=i, op=op, value=v, value_two=w) for i, op, v, w in tests)))
    assert (call(program, "write", *args) == ALLOW) == all(compare(op, args[i], v, w) for i, op, v, w in tests)


CALLS = ["read", "write", "clone", "socket", "personality", "ioctl", "openat", "statx"]
ACTIONS = st.sampled_from([("SCMP_ACT_ALLOW", None), ("SCMP_ACT_ERRNO", 1), ("SCMP_ACT_ERRNO", 13), ("SCMP_ACT_LOG", None), ("SCMP_ACT_KILL_PROCESS", None)])
SMALL = st.integers(0, 3)
ARGUMENT = st.builds(SeccompArgument, index=st.integers(0, 1), value=SMALL, value_two=SMALL, op=st.sampled_from(OPERATORS))
RULE = st.builds(
    lambda names, action, args: SeccompRule(names=tuple(names), action=action[0], errno_ret=action[1], args=tuple(args)),
    st.lists(st.sampled_from(CALLS), min_size=1, max_size=3), ACTIONS, st.lists(ARGUMENT, max_size=2),
)  # fmt: skip


def model(rules: list[SeccompRule], default: int, name: str, args: tuple[int, ...]) -> int:
    """The first rule with arguments that match; else the first without arguments; else the default."""
    own = [(r.args, seccomp.action_value(r.action, r.errno_ret, "")) for r in rules if name in r.names]
    for tests, value in own:
        if tests and all(compare(a.op, args[a.index], a.value, a.value_two) for a in tests):
            return value
    return next((value for tests, value in own if not tests), default)


@settings(max_examples=300, deadline=None)
@given(rules=st.lists(RULE, max_size=6), name=st.sampled_from(CALLS), args=st.tuples(SMALL, SMALL))
def test_rules_of_one_call(rules, name, args):
    assert call(compiled(*rules), name, *args) == model(rules, EPERM, name, args)


def test_a_denial_before_a_wider_permission_holds():
    """The smallest case of the above: what the first rule refuses, the second must not let through."""
    rules = (
        seccomp.rule("personality", action="SCMP_ACT_ERRNO", errno=1, args=(SeccompArgument(index=0, value=5, op="SCMP_CMP_EQ"),)),
        seccomp.rule("personality", args=(SeccompArgument(index=0, value=9, op="SCMP_CMP_LT"),)),
    )
    program = compiled(*rules)
    assert call(program, "personality", 4) == ALLOW
    assert call(program, "personality", 9) == EPERM
    assert call(program, "personality", 5) == EPERM


@pytest.mark.parametrize(
    ("action", "errno", "expected"),
    [
        ("SCMP_ACT_ALLOW", None, ALLOW), ("SCMP_ACT_KILL", None, KILL_THREAD), ("SCMP_ACT_KILL_THREAD", None, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", None, KILL_PROCESS), ("SCMP_ACT_TRAP", None, TRAP), ("SCMP_ACT_LOG", None, LOG),
        ("SCMP_ACT_ERRNO", None, ERRNO | 1), ("SCMP_ACT_ERRNO", 0, ERRNO), ("SCMP_ACT_ERRNO", 4095, ERRNO | 4095), ("SCMP_ACT_TRACE", 7, TRACE | 7),
    ],
)  # fmt: skip
def test_actions(action, errno, expected):
    program = compiled(seccomp.rule("read", action=action, errno=errno), default="SCMP_ACT_TRAP" if expected != TRAP else "SCMP_ACT_ALLOW")
    assert call(program, "read") == expected
    assert call(program, "write") == (TRAP if expected != TRAP else ALLOW)


def test_architectures():
    rules = (seccomp.rule("read", "socketcall"),)
    one, two = compiled(*rules), compiled(*rules, architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"))
    assert call(one, "read") == call(two, "read") == ALLOW
    assert call(two, "read", architecture=I386) == call(two, "socketcall", architecture=I386) == ALLOW
    assert run(two, NUMBERS[X86_64]["read"], I386) == EPERM, "0 is restart_syscall there"
    for foreign in (I386, AARCH64, PPC64, 0):
        assert run(one, 0, foreign) == KILL_PROCESS
    assert run(two, 0, PPC64) == KILL_PROCESS
    arm = compiled(*rules, machine="aarch64", architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"))
    assert call(arm, "read", architecture=AARCH64) == ALLOW
    assert run(arm, 0, X86_64) == run(arm, 3, I386) == KILL_PROCESS


def test_no_code_for_machines_that_this_one_is_not():
    """An x86_64 kernel never says AUDIT_ARCH_AARCH64: a block for it is dead weight, and a foreign architecture is killed."""
    program = compiled(seccomp.rule("read"), architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"))
    assert run(program, NUMBERS[AARCH64]["read"], AARCH64) == KILL_PROCESS


@pytest.mark.parametrize("default", ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"])
def test_x32_gets_enosys(default):
    program = compiled(seccomp.rule("read"), default=default)
    for number in (0x40000000, 0x40000000 | NUMBERS[X86_64]["read"], 0x40000000 + 520, 0x7FFFFFFF, 0xFFFFFFFF):
        assert run(program, number) == ENOSYS


def test_calls_of_the_future():
    program = compiled(seccomp.rule("read"))
    newest = max(NUMBERS[X86_64].values())
    assert run(program, newest) == EPERM
    assert {run(program, number) for number in (newest + 1, 1000, 2**20, 0x3FFFFFFF)} == {ENOSYS}
    killing = compiled(seccomp.rule("read"), default="SCMP_ACT_KILL_PROCESS")
    assert run(killing, newest + 1) == KILL_PROCESS


def test_long_jumps():
    """A rule for every call with arguments: the halves of the search are more than 255 instructions apart."""
    names = sorted(NUMBERS[X86_64])
    rules = [seccomp.rule(name, args=(SeccompArgument(index=0, value=i, op="SCMP_CMP_EQ"),)) for i, name in enumerate(names)]
    program = compiled(*rules)
    assert len(program) // 8 > 2000
    for i, name in enumerate(names):
        assert (call(program, name, i), call(program, name, i + 1)) == (ALLOW, EPERM)


def test_too_long():
    rules = [seccomp.rule("read", args=(SeccompArgument(index=0, value=i, op="SCMP_CMP_EQ"),)) for i in range(900)]
    with pytest.raises(ConfigError, match=r"^linux\.seccomp: the filter has \d+ instructions, the kernel takes 4096"):
        compiled(*rules)


def test_errors():
    with pytest.raises(ConfigError, match="filters for riscv64 are not known"):
        compile_filter(default_profile(()), "riscv64")
    with pytest.raises(ConfigError, match=r"^linux\.seccomp\.syscalls\[0\]\.args: expected an index from 0 to 5, got 6"):
        compiled(seccomp.rule("read", args=(SeccompArgument(index=6, value=0, op="SCMP_CMP_EQ"),)))
    with pytest.raises(ConfigError, match=r"^linux\.seccomp\.syscalls\[1\]\.errnoRet: expected a number up to 4095, got 4096"):
        compiled(seccomp.rule("read"), seccomp.rule("read", action="SCMP_ACT_ERRNO", errno=4096))
    with pytest.raises(ConfigError, match=r"^linux\.seccomp\.architectures\[0\]: unknown architecture x86"):
        compiled(architectures=("x86",))
    with pytest.raises(ConfigError, match=r"^linux\.seccomp\.flags\[1\]: unknown flag X"):
        seccomp.flags_value(("SECCOMP_FILTER_FLAG_LOG", "X"), "linux.seccomp")


def test_error_of_the_default_names_its_field():
    with pytest.raises(ConfigError, match=r"^linux\.seccomp\.defaultErrnoRet: "):
        compiled(errno=5000)


def test_unknown_names_are_passed_over():
    assert call(compiled(seccomp.rule("read", "no_such_call")), "read") == ALLOW


def test_flags():
    assert seccomp.flags_value(("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"), "") == 6


def test_the_cache_is_by_identity():
    one, two = default_profile(()), default_profile(("CAP_SYS_ADMIN",))
    assert seccomp.cached_filter(one, "x86_64") is seccomp.cached_filter(one, "x86_64")
    assert seccomp.cached_filter(two, "x86_64") != seccomp.cached_filter(one, "x86_64")


# The tables


@pytest.mark.parametrize(("architecture", "name"), [("x86_64", "unistd_64.h"), ("i386", "unistd_32.h")])
def test_numbers_are_the_headers(architecture, name):
    path = f"/usr/include/x86_64-linux-gnu/asm/{name}"
    if not os.path.exists(path):
        pytest.skip("no kernel headers")
    with open(path) as file:
        headers = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR_(\w+) (\d+)", file.read())}
    table = numbers(architecture)
    assert {n: v for n, v in headers.items() if table.get(n) != v} == {}


def test_tables_have_each_number_once():
    for table in NUMBERS.values():
        assert len(set(table.values())) == len(table)
    new = {name: number for name, number in NUMBERS[X86_64].items() if number >= 424}
    for table in NUMBERS.values():
        assert {n: v for n, v in table.items() if n in new and v != new[n]} == {}, "new calls have one number everywhere"


def test_profile_names_exist():
    """A name that no table has is passed over in silence: `uretprobe` (335, Linux 6.11) was blocked so by Docker, and
    killed every process that perf or bpftrace looked at."""
    known = {name for table in NUMBERS.values() for name in table}
    # calls of machines that no table is for (arm, and s390's and mips' old ones)
    elsewhere = {"recv", "send", *profile.ARM64}
    named = {*profile.ALWAYS, *(name for names in profile.BY_CAPABILITY.values() for name in names.split())}
    assert named - known - elsewhere == set()


def test_profile_names_each_call_once():
    assert len(set(profile.ALWAYS)) == len(profile.ALWAYS)


# The default profile

DEFAULT = compile_filter(default_profile(capabilities.DEFAULT), "x86_64")
COMPAT = compile_filter(default_profile(capabilities.DEFAULT, compat=True), "x86_64")


@pytest.mark.parametrize(
    "name",
    ["read", "openat", "openat2", "execve", "mmap", "futex", "statx", "ptrace", "process_vm_readv", "landlock_create_ruleset", "rseq", "close_range", "fork"],
)
def test_default_allows(name):
    assert call(DEFAULT, name) == ALLOW


@pytest.mark.parametrize(
    "name",
    """mount umount2 unshare setns pivot_root keyctl add_key request_key bpf kexec_load kexec_file_load open_by_handle_at init_module finit_module
    delete_module reboot swapon swapoff acct quotactl perf_event_open fsopen fsmount fsconfig fspick move_mount open_tree open_tree_attr mount_setattr
    io_uring_setup io_uring_enter io_uring_register userfaultfd iopl ioperm settimeofday clock_settime sethostname setdomainname syslog pidfd_getfd
    fanotify_init lookup_dcookie move_pages migrate_pages nfsservctl vhangup uselib kcmp process_madvise""".split(),
)
def test_default_denies(name):
    assert call(DEFAULT, name) == EPERM


def test_default_clone():
    clone_flags = {
        "NEWNS": 0x20000,
        "NEWCGROUP": 0x2000000,
        "NEWUTS": 0x4000000,
        "NEWIPC": 0x8000000,
        "NEWUSER": 0x10000000,
        "NEWPID": 0x20000000,
        "NEWNET": 0x40000000,
    }
    thread = 0x3D0F00
    for program, architecture in ((DEFAULT, X86_64), (COMPAT, X86_64), (COMPAT, I386)):
        assert call(program, "clone", thread, architecture=architecture) == ALLOW
        assert call(program, "clone", 17, architecture=architecture) == ALLOW
        for flag in clone_flags.values():
            assert call(program, "clone", thread | flag, architecture=architecture) == EPERM
        assert call(program, "clone3", architecture=architecture) == ENOSYS
    assert call(DEFAULT, "clone", 1 << 63 | 17) == ALLOW, "the kernel itself looks at the low word"


def test_default_socket():
    for family in (1, 2, 10, 16, 17):
        assert call(DEFAULT, "socket", family) == ALLOW
    assert call(DEFAULT, "socket", 40) == call(COMPAT, "socket", 40, architecture=I386) == EPERM


def test_32_bit_programs_by_request():
    assert call(DEFAULT, "read", architecture=I386) == KILL_PROCESS
    assert call(COMPAT, "read", architecture=I386) == ALLOW
    assert {call(COMPAT, name, architecture=I386) for name in ("mount", "keyctl", "bpf", "unshare", "vm86", "kexec_load")} == {EPERM}
    assert run(COMPAT, 20000, I386) == ENOSYS


def test_compat_has_no_second_door_to_vsock():
    """i386's socketcall(SYS_SOCKET, {AF_VSOCK, …}): its arguments lie in memory, so the rule on `socket` says nothing of it.
    Every kernel since 4.3 has `socket` itself there (359)."""
    assert call(COMPAT, "socketcall", 1, architecture=I386) == EPERM


def test_socket_family_is_an_int():
    """The kernel takes the low 32 bits of the argument: 2**32 + AF_VSOCK is AF_VSOCK."""
    assert call(DEFAULT, "socket", 2**32 + 40) == EPERM


def test_default_personality():
    for persona in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert call(DEFAULT, "personality", persona) == ALLOW
    assert call(DEFAULT, "personality", 0x0040000) == EPERM  # ADDR_NO_RANDOMIZE


@pytest.mark.parametrize("capability", sorted(profile.BY_CAPABILITY))
def test_capabilities_open_their_calls(capability):
    with_it = compile_filter(default_profile((capability,)), "x86_64")
    for name in profile.BY_CAPABILITY[capability].split():
        if name in NUMBERS[X86_64]:
            assert call(with_it, name, 0x10000000) == ALLOW
    if capability != "CAP_SYS_ADMIN":
        assert call(with_it, "mount") == EPERM and call(with_it, "clone3") == ENOSYS


@given(number=st.integers(0, 0xFFFFFFFF), args=st.lists(WORD, min_size=6, max_size=6))
@settings(max_examples=200, deadline=None)
def test_default_never_fails_open(number, args):
    names = {v: k for k, v in NUMBERS[X86_64].items()}
    assume(number not in names)
    assert run(DEFAULT, number, X86_64, tuple(args)) in (EPERM, ENOSYS)


# Beside Podman's

SYSTEM = "/usr/share/containers/seccomp.json"
# What our profile allows and theirs does not, and why that is all right.
EXCEPTIONS = {
    "bpf": "CAP_BPF stands for itself since 5.8",
    "perf_event_open": "CAP_PERFMON stands for itself since 5.8",
    "quotactl_fd": "5.14: CAP_SYS_ADMIN alone, as quotactl",
    "futex_waitv": "5.16",
    "set_mempolicy_home_node": "5.17: CAP_SYS_NICE alone, as mbind",
    "cachestat": "6.5: page cache statistics of an open file",
    "fchmodat2": "6.6: fchmodat with flags; glibc uses it",
    "map_shadow_stack": "6.6: user shadow stacks; glibc uses it",
    "futex_requeue": "6.7: futex, split",
    "futex_wait": "6.7: futex, split",
    "futex_wake": "6.7: futex, split",
    "listmount": "6.8: /proc/self/mountinfo as a call",
    "statmount": "6.8: /proc/self/mountinfo as a call",
    "mseal": "6.10: takes rights away only",
    "uretprobe": "6.11: entered by the kernel's own trampoline",
    "getxattrat": "6.13: getxattr by descriptor",
    "setxattrat": "6.13: setxattr by descriptor",
    "listxattrat": "6.13: listxattr by descriptor",
    "removexattrat": "6.13: removexattr by descriptor",
    "open_tree_attr": "6.15: CAP_SYS_ADMIN alone, as open_tree and mount_setattr",
    "io_pgetevents": "Docker's list has it",
    "io_pgetevents_time64": "Docker's list has it",
    "vmsplice": "Docker's list has it",
    "socket": "NETLINK_AUDIT without CAP_AUDIT_WRITE: the kernel itself checks that (audit_netlink_ok)",
}
FAMILIES = (0, 1, 2, 3, 10, 16, 17, 38, 40, 44)


@pytest.mark.skipif(not os.path.exists(SYSTEM), reason="no profile of Podman's here")
@pytest.mark.parametrize(
    "caps",
    [(), capabilities.DEFAULT, ("CAP_SYS_ADMIN",), ("CAP_SYS_PTRACE", "CAP_SYS_NICE"), ("CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"), tuple(capabilities.NUMBERS)],
)
def test_not_looser_than_podmans(caps):
    ours = compile_filter(default_profile(caps, compat=True), "x86_64")
    theirs = compile_filter(oci_decode.decode(Seccomp, profiles.read(SYSTEM, tuple(caps))), "x86_64")
    looser = set()
    for architecture in (X86_64, I386):
        for name, number in NUMBERS[architecture].items():
            chosen = name in ("clone", "socket", "personality")  # what either profile looks into the arguments of
            for first in (0, 17, 8, 0x20000, 0x20008, 0x10000000, 0x7E020000, 0xFFFFFFFF, *FAMILIES) if chosen else (0,):
                for third in (0, 9) if chosen else (0,):
                    args = (first, 0, third)
                    if run(ours, number, architecture, args) == ALLOW and run(theirs, number, architecture, args) != ALLOW:
                        looser.add(name)
    assert looser - set(EXCEPTIONS) == set()


@pytest.mark.skipif(not os.path.exists(SYSTEM), reason="no profile of Podman's here")
def test_docker_form_of_a_profile():
    loaded = oci_decode.decode(Seccomp, profiles.read(SYSTEM, ("CAP_SYS_CHROOT",)))
    program = compile_filter(loaded, "x86_64")
    assert call(program, "chroot") == ALLOW and call(program, "acct") == EPERM and call(program, "read") == ALLOW
