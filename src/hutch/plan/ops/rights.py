"""Operations of the container lane on what its process may do: ids, capabilities, keys, the filter of its system calls."""

from __future__ import annotations

from hutch.plan.numbers import OPERATIONS
from hutch.plan.operation import Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.plan.operation import Argument


class SetIds(Operation):
    """setgroups(2), setresgid(2), setresuid(2). `groups` None: left as they are (the kernel denies setgroups)."""

    code = OPERATIONS["SET_IDS"]
    uid: int
    gid: int
    groups: tuple[int, ...] | None = ()

    def arguments(self) -> Iterable[Argument]:
        groups = self.groups or ()
        return (self.uid, self.gid, self.groups is not None, len(groups), *groups)

    def describe(self) -> str:
        groups = f", groups {','.join(map(str, self.groups))}" if self.groups else ""
        return f"become uid {self.uid}, gid {self.gid}{groups}"


class Keyring(Operation):
    """KEYCTL_JOIN_SESSION_KEYRING (keyctl(2)): a session keyring of the process's own. It has no name: one by a name that is there
    already would be joined, whoever made it."""

    code = OPERATIONS["KEYRING"]

    def describe(self) -> str:
        return "begin a new session keyring"


class Capabilities(Operation):
    """Bounding set, KEEPCAPS, the three sets, the ambient set: masks, bit N for capability N; None leaves a set."""

    code = OPERATIONS["CAPABILITIES"]
    bounding: int | None = None
    keep: bool = False
    effective: int | None = None
    permitted: int = 0
    inheritable: int = 0
    ambient: int | None = None

    def arguments(self) -> Iterable[Argument]:
        parts = (self.bounding is not None) | (self.effective is not None) << 1 | (self.ambient is not None) << 2
        yield from (parts | self.keep << 3, self.bounding or 0, self.effective or 0, self.permitted)
        yield from (self.inheritable, self.ambient or 0)

    def describe(self) -> str:
        words = []
        if self.bounding is not None:
            words.append(f"bounding={self.bounding:#x}")
        if self.effective is not None:
            words.append(f"effective={self.effective:#x} permitted={self.permitted:#x} inheritable={self.inheritable:#x}")
        if self.ambient is not None:
            words.append(f"ambient={self.ambient:#x}")
        if self.keep:
            words.append("kept over the change of user")
        return "set capabilities " + ", ".join(words)


class NoNewPrivileges(Operation):
    """prctl(2) PR_SET_NO_NEW_PRIVS."""

    code = OPERATIONS["NO_NEW_PRIVILEGES"]

    def describe(self) -> str:
        return "set no_new_privs"


class Seccomp(Operation):
    """seccomp(2): a filter in classic BPF."""

    code = OPERATIONS["SECCOMP"]
    program: bytes
    flags: int = 0
    summary: str = ""
    listener: bool = False

    def arguments(self) -> Iterable[Argument]:
        return (self.flags, 0 if self.listener else -1, self.program)

    def describe(self) -> str:
        waits = ", and wait until its listener is taken" if self.listener else ""
        return f"install a seccomp filter of {len(self.program) // 8} instructions{f' ({self.summary})' if self.summary else ''}{waits}"


class Umask(Operation):
    """umask(2)."""

    code = OPERATIONS["UMASK"]
    mask: int

    def arguments(self) -> Iterable[Argument]:
        return (self.mask,)

    def describe(self) -> str:
        return f"set the umask to {self.mask:04o}"


class Protect(Operation):
    """PR_SET_DUMPABLE 0: nothing in a container that this process joins can look into it, unless it has CAP_SYS_PTRACE."""

    code = OPERATIONS["PROTECT"]
    lanes = "both"

    def describe(self) -> str:
        return "hide this process from debuggers"
