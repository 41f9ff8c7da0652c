"""v2's device control: an eBPF program attached to the cgroup (BPF_PROG_TYPE_CGROUP_DEVICE, bpf(2)).

The program gets ``struct bpf_cgroup_dev_ctx``: access type and kind in one word, major, minor. It returns 1 to allow. As in
v1's list, the last rule that matches decides; so the rules are compiled from the last to the first.
"""

from __future__ import annotations

from hutch.oci.config import DeviceRule

KINDS = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR
ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_MKNOD, _READ, _WRITE

LDX_W = 0x61
MOV_IMM, MOV_REG, AND_IMM, RSH_IMM = 0xB7, 0xBF, 0x57, 0x77
JNE_IMM, JEQ_IMM, JNE_REG = 0x55, 0x15, 0x5D
EXIT = 0x95


def instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """One eBPF instruction (struct bpf_insn)."""
    head = bytes((code, destination | source << 4))
    return head + offset.to_bytes(2, "little", signed=True) + (immediate & 0xFFFFFFFF).to_bytes(4, "little")


def program(rules: tuple[DeviceRule, ...]) -> bytes:
    """The program for a list of rules; what no rule matches is denied."""
    code = [
        instruction(LDX_W, 2, 1, 0),  # r2 = kind: the low 16 bits of access_type
        instruction(AND_IMM, 2, immediate=0xFFFF),
        instruction(LDX_W, 3, 1, 0),  # r3 = the access asked for
        instruction(RSH_IMM, 3, immediate=16),
        instruction(LDX_W, 4, 1, 4),  # r4 = major
        instruction(LDX_W, 5, 1, 8),  # r5 = minor
    ]
    for rule in reversed(_merged(rules)):
        code += _rule(rule)
        if rule.type in (None, "a", "") and _all_access(rule):
            return b"".join(code)  # nothing before it can matter
    code += [instruction(MOV_IMM, 0, immediate=0), instruction(EXIT)]
    return b"".join(code)


def _merged(rules: tuple[DeviceRule, ...]) -> list[DeviceRule]:
    """v1 adds the accesses of rules for one device up: ``r`` and then ``w`` allow an open for both."""
    out: list[DeviceRule] = []
    for rule in rules:
        for i in range(len(out) - 1, -1, -1):
            other = out[i]
            if other.allow != rule.allow:
                break
            if (other.type, other.major, other.minor) == (rule.type, rule.major, rule.minor):
                out[i] = other.replace(access="".join(sorted(set((other.access or "rwm") + (rule.access or "rwm")))))
                break
        else:
            out.append(rule)
            continue
        if out[i].allow != rule.allow:
            out.append(rule)
    return out


def _all_access(rule: DeviceRule) -> bool:
    return rule.type in (None, "a", "") or set(rule.access or "rwm") == set("rwm")


def _rule(rule: DeviceRule) -> list[bytes]:
    tests: list[tuple[int, int, int]] = []  # (code, register, immediate): leave the rule when it holds
    access = sum(ACCESS[c] for c in set(rule.access or "rwm"))
    wildcard = rule.type in (None, "a", "")
    if not wildcard:
        tests.append((JNE_IMM, 2, KINDS[rule.type or ""]))
        if rule.major is not None and rule.major >= 0:
            tests.append((JNE_IMM, 4, rule.major))
        if rule.minor is not None and rule.minor >= 0:
            tests.append((JNE_IMM, 5, rule.minor))
    out: list[bytes] = []
    tail = [instruction(MOV_IMM, 0, immediate=1 if rule.allow else 0), instruction(EXIT)]
    access_test: list[tuple[int, int]] = []
    if not wildcard and access != 7:
        access_test = [(AND_IMM, ~access & 7 if rule.allow else access)]
    length = len(tests) + (3 if access_test else 0) + len(tail)
    for code, register, immediate in tests:
        length -= 1
        out.append(instruction(code, register, offset=length, immediate=immediate))
    if access_test:
        # allow: only when nothing beyond the rule's accesses is asked for; deny: when any of them is
        out.append(instruction(MOV_REG, 1, 3))
        out.append(instruction(AND_IMM, 1, immediate=access_test[0][1]))
        out.append(instruction(JNE_IMM if rule.allow else JEQ_IMM, 1, offset=len(tail), immediate=0))
    return out + tail


def summary(rules: tuple[DeviceRule, ...]) -> str:
    """The rules in a few words."""
    allowed = [f"{r.type or 'a'} {_n(r.major)}:{_n(r.minor)} {r.access or 'rwm'}" for r in rules if r.allow]
    return "allow " + ", ".join(allowed) if allowed else "deny all"


def _n(number: int | None) -> str:
    return "*" if number is None or number < 0 else str(number)
