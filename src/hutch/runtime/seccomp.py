"""System call filters: the runtime-spec's rules compiled to classic BPF (Documentation/userspace-api/seccomp_filter.rst).

A filter reads ``struct seccomp_data``: number, architecture, instruction pointer, six arguments. Numbers are looked up by a
binary search over ranges with the same answer, so that a call costs some eight instructions whatever the list's length.
"""

from __future__ import annotations

from hutch.errors import ConfigError
from hutch.kernel.syscall_table import numbers
from hutch.oci.config import Seccomp, SeccompArgument, SeccompRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Rule: TypeAlias = tuple[tuple[SeccompArgument, ...], int]

# linux/bpf_common.h, linux/seccomp.h, linux/audit.h
LOAD, JUMP, JEQ, JGT, JGE, AND, RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x54, 0x06
OFFSET_NUMBER, OFFSET_ARCHITECTURE, OFFSET_ARGUMENTS = 0, 4, 16
KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, NOTIFY = 0x80000000, 0x00000000, 0x00030000, 0x00050000, 0x7FC00000
TRACE, LOG, ALLOW = 0x7FF00000, 0x7FFC0000, 0x7FFF0000
EPERM, ENOSYS = 1, 38
X32_BIT = 0x40000000
MOST_CALLS = 512  # more than any architecture has

ARCHITECTURES = {
    "SCMP_ARCH_X86_64": ("x86_64", 0xC000003E),
    "SCMP_ARCH_X86": ("i386", 0x40000003),
    "SCMP_ARCH_AARCH64": ("aarch64", 0xC00000B7),
}
FOREIGN = frozenset(  # of other machines: listed in engines' profiles, and passed over
    f"SCMP_ARCH_{name}"
    for name in (
        "X32 ARM MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
    ).split()
)
NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}  # fmt: skip
NEW_LISTENER = 8


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return code.to_bytes(2, "little") + bytes((if_true, if_false)) + (k & 0xFFFFFFFF).to_bytes(4, "little")


def action_value(action: str, errno: int | None, path: str, field: str = "errnoRet") -> int:
    """A filter's return value for the specification's action."""
    simple = {
        "SCMP_ACT_KILL": KILL_THREAD, "SCMP_ACT_KILL_THREAD": KILL_THREAD, "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
        "SCMP_ACT_TRAP": TRAP, "SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_LOG": LOG, "SCMP_ACT_NOTIFY": NOTIFY,
    }  # fmt: skip
    if action in simple:
        if errno is not None:
            raise ConfigError(f"{path}.{field}", f"{action} returns no errno")
        return simple[action]
    if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        number = EPERM if errno is None else errno
        if number > 4095:
            raise ConfigError(f"{path}.{field}", f"expected a number up to 4095, got {number}")
        return (ERRNO if action == "SCMP_ACT_ERRNO" else TRACE) | number
    raise ConfigError(f"{path}.action", f"unknown action {action}")


def flags_value(flags: tuple[str, ...], path: str) -> int:
    """seccomp(2)'s flags; TSYNC has no meaning for one thread and is left out."""
    value = 0
    for i, flag in enumerate(flags):
        if flag not in FLAGS:
            raise ConfigError(f"{path}.flags[{i}]", f"unknown flag {flag}")
        value |= FLAGS[flag]
    return value & ~1


_compiled: list[tuple[Seccomp, str, bytes]] = []


def cached_filter(seccomp: Seccomp, machine: str) -> bytes:
    """`compile_filter`, remembering the last few filters by identity: a profile object is compiled once a process."""
    for known, where, program in _compiled:
        if known is seccomp and where == machine:
            return program
    program = compile_filter(seccomp, machine)
    _compiled[:] = [*_compiled[-7:], (seccomp, machine, program)]
    return program


def compile_filter(seccomp: Seccomp, machine: str, path: str = "linux.seccomp") -> bytes:
    """The BPF program of a filter for a machine (``uname -m``).

    System calls that the kernel may have and this table does not know get ENOSYS when the default is an errno: programs
    then fall back to older calls. Raises ConfigError for an unknown action, architecture or argument, or a filter over
    the kernel's 4096 instructions. Names that no architecture has are passed over, as libseccomp does.
    """
    if machine not in NATIVE:
        raise ConfigError(path, f"filters for {machine} are not known")
    default = action_value(seccomp.default_action, seccomp.default_errno_ret, path, "defaultErrnoRet")
    wanted = list(seccomp.architectures) or [NATIVE[machine]]
    known: list[str] = [NATIVE[machine]]
    for i, name in enumerate(wanted):
        if name not in FOREIGN and name not in ARCHITECTURES:
            raise ConfigError(f"{path}.architectures[{i}]", f"unknown architecture {name}")
        if name in ARCHITECTURES and name not in known and (machine, name) == ("x86_64", "SCMP_ARCH_X86"):
            known.append(name)
    blocks = []
    for name in known:
        table, audit = ARCHITECTURES[name]
        if machine == "aarch64" and table != "aarch64":
            continue
        blocks.append((audit, _search(_ranges(seccomp, numbers(table), default, path, table))))
    code: list[bytes] = [_instruction(LOAD, OFFSET_ARCHITECTURE)]
    for audit, block in blocks:
        body = [_instruction(LOAD, OFFSET_NUMBER), *block]
        code += [_instruction(JEQ, audit, 1, 0), _instruction(JUMP, len(body)), *body]
    code.append(_instruction(RETURN, KILL_PROCESS))
    if len(code) > 4096:
        raise ConfigError(path, f"the filter has {len(code)} instructions, the kernel takes 4096")
    return b"".join(code)


def _ranges(seccomp: Seccomp, table: dict[str, int], default: int, path: str, architecture: str) -> list[tuple[int, list[bytes]]]:
    """(first number, code) for runs of calls with one answer, ascending and without gaps."""
    rules: dict[int, list[Rule]] = {}
    for i, rule in enumerate(seccomp.syscalls):
        where = f"{path}.syscalls[{i}]"
        value = action_value(rule.action, rule.errno_ret, where)
        if not rule.names:
            raise ConfigError(f"{where}.names", "is empty: the rule is for no system call")
        for argument in rule.args:
            if argument.index > 5:
                raise ConfigError(f"{where}.args", f"expected an index from 0 to 5, got {argument.index}")
        for name in rule.names:
            if name in table:
                rules.setdefault(table[name], []).append((rule.args, value))
    codes = {number: _chain(chain, default) for number, chain in rules.items()}
    plain = [_instruction(RETURN, default)]
    newest = max(table.values())
    beyond = [_instruction(RETURN, ERRNO | ENOSYS)] if default & 0xFFFF0000 == ERRNO else plain
    out: list[tuple[int, list[bytes]]] = []

    def add(first: int, code: list[bytes]) -> None:
        if not out or out[-1][1] != code:
            out.append((first, code))

    at = 0
    for number in sorted(codes):
        if number > at:
            add(at, plain)
        add(number, codes[number])
        at = number + 1
    if at <= newest:
        add(at, plain)
    add(newest + 1, beyond)
    if architecture == "x86_64":
        add(X32_BIT, [_instruction(RETURN, ERRNO | ENOSYS)])  # x32 calls: a second door to every system call
    return out


def _chain(rules: list[Rule], default: int) -> list[bytes]:
    """The rules of one call, in their order: the first with arguments that match decides; then the one without arguments;
    then the default."""
    code: list[bytes] = []
    final = next((value for arguments, value in rules if not arguments), default)
    conditional = [rule for rule in rules if rule[0]]
    while conditional and conditional[-1][1] == final:
        conditional.pop()  # the last ones change nothing; earlier ones may keep a later one from deciding
    for arguments, value in conditional:
        test = [_instruction(RETURN, value)]
        for argument in reversed(arguments):
            test = _compare(argument, len(test)) + test
        code += test
    return [*code, _instruction(RETURN, final)]


def _compare(argument: SeccompArgument, skip: int) -> list[bytes]:
    """Fall through when a 64-bit argument compares; otherwise jump over `skip` instructions behind this test."""
    low, high = argument.value & 0xFFFFFFFF, argument.value >> 32
    at = OFFSET_ARGUMENTS + 8 * argument.index
    load_low, load_high = _instruction(LOAD, at), _instruction(LOAD, at + 4)
    if argument.op == "SCMP_CMP_MASKED_EQ":
        want_low, want_high = argument.value_two & 0xFFFFFFFF, argument.value_two >> 32
        return [
            load_high, _instruction(AND, high), _instruction(JEQ, want_high, 0, skip + 3),
            load_low, _instruction(AND, low), _instruction(JEQ, want_low, 0, skip),
        ]  # fmt: skip
    if argument.op == "SCMP_CMP_EQ":
        return [load_high, _instruction(JEQ, high, 0, skip + 2), load_low, _instruction(JEQ, low, 0, skip)]
    if argument.op == "SCMP_CMP_NE":
        return [load_high, _instruction(JEQ, high, 0, 2), load_low, _instruction(JEQ, low, skip, 0)]
    # the high words decide unless they are equal
    if argument.op in ("SCMP_CMP_GT", "SCMP_CMP_GE"):
        code = JGT if argument.op == "SCMP_CMP_GT" else JGE
        high_test = [_instruction(JGT, high, 3, 0), _instruction(JEQ, high, 0, skip + 2)]
        return [load_high, *high_test, load_low, _instruction(code, low, 0, skip)]
    code = JGT if argument.op == "SCMP_CMP_LE" else JGE
    high_test = [_instruction(JGT, high, skip + 3, 0), _instruction(JEQ, high, 0, 2)]
    return [load_high, *high_test, load_low, _instruction(code, low, skip, 0)]


def _search(ranges: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """A search over ranges, balanced by how many calls are in them: the kernel asks a new filter about every call, and remembers
    those that it always allows. Equal answers are one instruction, as translating a filter takes longer than running it.

    It is written from its end: jumps lead forward, so that where they lead is known then.
    """
    code: list[bytes] = []  # the last instruction first; a place is the number of instructions from it to the end
    answers: dict[bytes, int] = {}

    def put(instruction: bytes) -> int:
        code.append(instruction)
        return len(code)

    def near(place: int) -> int:
        """A place that 8 bits reach, with a few instructions yet to come: a long jump to it, where it is too far."""
        return place if len(code) - place < 250 else put(_instruction(JUMP, len(code) - place))

    def answer(instructions: list[bytes]) -> int:
        if len(instructions) > 1:
            return [put(instruction) for instruction in reversed(instructions)][-1]
        if instructions[0] not in answers:
            answers[instructions[0]] = put(instructions[0])
        return answers[instructions[0]]

    def search(first: int, last: int) -> int:
        """Where the search through `ranges[first:last]` begins."""
        if last - first == 1:
            return answer(ranges[first][1])
        starts = [min(number, MOST_CALLS) for number, _ in ranges[first:last]]
        half = (starts[0] + (min(ranges[last][0], MOST_CALLS) if last < len(ranges) else MOST_CALLS)) / 2
        middle = min(range(1, last - first), key=lambda i: abs(starts[i] - half)) + first
        above, below = search(middle, last), search(first, middle)
        above, below = near(above), near(below)
        return put(_instruction(JGE, ranges[middle][0], len(code) - above, len(code) - below))

    for instructions in [instructions for _, instructions in ranges if len(instructions) == 1]:
        answer(instructions)
    start = search(0, len(ranges))
    if start != len(code):
        put(_instruction(JUMP, len(code) - start))
    return code[::-1]


def describe(seccomp: Seccomp) -> str:
    """A few words for a plan."""
    allowed = {name for rule in seccomp.syscalls if rule.action == "SCMP_ACT_ALLOW" for name in rule.names}
    return f"{len(allowed)} calls allowed" if seccomp.default_action != "SCMP_ACT_ALLOW" else "all calls but some allowed"


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", errno: int | None = None, args: tuple[SeccompArgument, ...] = ()) -> SeccompRule:
    """A rule for some system calls."""
    return SeccompRule(names=names, action=action, errno_ret=errno, args=args)
