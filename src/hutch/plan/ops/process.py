"""Operations of the container lane on its process: names, limits, scheduling, terminal, program."""

from __future__ import annotations

from hutch.plan.numbers import OPERATIONS
from hutch.plan.operation import Operation, Slot, namespace_names, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.plan.operation import Argument


class Hostname(Operation):
    """sethostname(2)."""

    code = OPERATIONS["HOSTNAME"]
    name: str

    def arguments(self) -> Iterable[Argument]:
        return (self.name,)

    def describe(self) -> str:
        return f"set the host name to {self.name}"


class DomainName(Operation):
    """setdomainname(2)."""

    code = OPERATIONS["DOMAINNAME"]
    name: str

    def arguments(self) -> Iterable[Argument]:
        return (self.name,)

    def describe(self) -> str:
        return f"set the NIS domain name to {self.name}"


class WriteAt(Operation):
    """Write a file below a directory's descriptor without following a link or leaving the file system: /proc/sys. Without a path
    the descriptor is the file's."""

    code = OPERATIONS["WRITE_AT"]
    base: Slot
    path: str
    data: str

    def arguments(self) -> Iterable[Argument]:
        return (self.base, self.path, self.data)

    def describe(self) -> str:
        return f"write {shown(self.data)} to {f'{self.path} in ' if self.path else ''}{self.base}"


class Loopback(Operation):
    """Bring the loopback interface up."""

    code = OPERATIONS["LOOPBACK"]

    def describe(self) -> str:
        return "bring lo up"


class Unshare(Operation):
    """unshare(2), for namespaces that begin after the clone: cgroup (its root is where the process is) and time."""

    code = OPERATIONS["UNSHARE"]
    flags: int

    def arguments(self) -> Iterable[Argument]:
        return (self.flags,)

    def describe(self) -> str:
        return f"unshare namespaces: {namespace_names(self.flags)}"


class EnterCgroup(Operation):
    """Move into a cgroup: the process itself, late, so that the set-up is not charged to the container."""

    code = OPERATIONS["ENTER_CGROUP"]
    tasks: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.tasks,)

    def describe(self) -> str:
        return f"enter cgroup {self.tasks}"


class NewSession(Operation):
    """setsid(2)."""

    code = OPERATIONS["NEW_SESSION"]

    def describe(self) -> str:
        return "start a new session"


class Terminal(Operation):
    """A pseudoterminal from the container's own devpts, as standard streams, and with `control` as controlling terminal."""

    code = OPERATIONS["TERMINAL"]
    devpts: Slot
    master: Slot
    peer: Slot
    rows: int = 0
    columns: int = 0
    control: bool = True

    def arguments(self) -> Iterable[Argument]:
        return (self.devpts, self.master, self.rows, self.columns, self.peer, self.control)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.master, self.peer)

    def describe(self) -> str:
        size = f" of {self.columns} by {self.rows}" if self.rows else ""
        return f"open a terminal{size}: master {self.master}, standard streams on {self.peer}"


class ControllingTerminal(Operation):
    """TIOCSCTTY (ioctl_tty(2)): the terminal on standard input becomes the new session's."""

    code = OPERATIONS["CONTROLLING_TERMINAL"]

    def describe(self) -> str:
        return "make standard input the controlling terminal"


class Stdio(Operation):
    """dup2(2) descriptors onto the standard streams; None leaves one as it is."""

    code = OPERATIONS["STDIO"]
    stdin: Slot | None = None
    stdout: Slot | None = None
    stderr: Slot | None = None

    def arguments(self) -> Iterable[Argument]:
        return (self.stdin, self.stdout, self.stderr)

    def describe(self) -> str:
        named = (("stdin", self.stdin), ("stdout", self.stdout), ("stderr", self.stderr))
        return "set " + ", ".join(f"{name} to {value}" for name, value in named if value)


class CloseDescriptors(Operation):
    """close_range(2): unshare the descriptor table and close all but stdio, before anything that the container names is
    looked up: /proc/self/fd/N must lead nowhere. `preserve` becomes the container's 3 and on; `keep` stays until execve."""

    code = OPERATIONS["CLOSE_DESCRIPTORS"]
    preserve: tuple[Slot, ...] = ()
    keep: tuple[Slot, ...] = ()

    def arguments(self) -> Iterable[Argument]:
        return (len(self.preserve), *self.preserve, len(self.keep), *self.keep)

    def describe(self) -> str:
        kept = f" but {', '.join(map(str, self.keep))}" if self.keep else ""
        given = f"hand {', '.join(map(str, self.preserve))} to the container, " if self.preserve else ""
        return f"{given}close every descriptor from {3 + len(self.preserve)} on{kept}"


class ChangeDirectory(Operation):
    """chdir(2), and proof that the place lies inside the root. The `first` of two comes while the container's root has its
    privileges, and may be refused, as a user can be let in where root is not; if it was not, the second only proves."""

    code = OPERATIONS["CHANGE_DIRECTORY"]
    path: str
    make: bool = False
    first: bool = False

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.make, self.first)

    def describe(self) -> str:
        return f"change directory to {self.path}{', made if missing' if self.make else ''}{', if root may' if self.first else ''}"


class Personality(Operation):
    """personality(2)."""

    code = OPERATIONS["PERSONALITY"]
    persona: int

    def arguments(self) -> Iterable[Argument]:
        return (self.persona,)

    def describe(self) -> str:
        return f"set the personality to {self.persona:#x}"


class Scheduler(Operation):
    """sched_setattr(2), with the kernel's struct sched_attr."""

    code = OPERATIONS["SCHEDULER"]
    attributes: bytes
    summary: str

    def arguments(self) -> Iterable[Argument]:
        return (self.attributes,)

    def describe(self) -> str:
        return f"schedule as {self.summary}"


class IoPriority(Operation):
    """ioprio_set(2)."""

    code = OPERATIONS["IO_PRIORITY"]
    value: int
    summary: str

    def arguments(self) -> Iterable[Argument]:
        return (self.value,)

    def describe(self) -> str:
        return f"set the I/O priority to {self.summary}"


class Affinity(Operation):
    """sched_setaffinity(2): a mask of CPUs, least significant first."""

    code = OPERATIONS["AFFINITY"]
    lanes = "both"
    mask: bytes
    summary: str

    def arguments(self) -> Iterable[Argument]:
        return (self.mask,)

    def describe(self) -> str:
        return f"run on CPUs {self.summary}"


class FindProgram(Operation):
    """Choose the first candidate that can be executed, before the filter is on, so that a failure can be explained."""

    code = OPERATIONS["FIND_PROGRAM"]
    candidates: tuple[str, ...]

    def arguments(self) -> Iterable[Argument]:
        return (len(self.candidates), *self.candidates)

    def describe(self) -> str:
        return f"find the program: {', '.join(self.candidates)}"


class Execute(Operation):
    """execve(2): the container's lane ends, its program begins."""

    code = OPERATIONS["EXECUTE"]
    argv: tuple[str, ...]
    environment: tuple[str, ...]

    def arguments(self) -> Iterable[Argument]:
        return (len(self.argv), len(self.environment), *self.argv, *self.environment)

    def describe(self) -> str:
        return f"execute {' '.join(self.argv)} with {len(self.environment)} variables"


class Init(Operation):
    """Stay as PID 1: adopt, reap, pass signals on. With a child, that child goes on to the program."""

    code = OPERATIONS["INIT"]
    child: bool

    def arguments(self) -> Iterable[Argument]:
        return (self.child,)

    def describe(self) -> str:
        return "stay as PID 1, which reaps and passes signals on" + (", and start a child" if self.child else "")


class ParentDeath(Operation):
    """PR_SET_PDEATHSIG, set again here because a change of ids or capabilities clears it; 0 lets the process outlive its
    executor."""

    code = OPERATIONS["PARENT_DEATH"]
    signal: int = 9

    def arguments(self) -> Iterable[Argument]:
        return (self.signal,)

    def describe(self) -> str:
        return f"die by signal {self.signal} with the executor" if self.signal else "live on without the executor"


class Home(Operation):
    """Find HOME in the container's /etc/passwd, for a program whose environment has none."""

    code = OPERATIONS["HOME"]
    uid: int

    def arguments(self) -> Iterable[Argument]:
        return (self.uid,)

    def describe(self) -> str:
        return f"find uid {self.uid}'s home in the container's /etc/passwd"


class OwnStdio(Operation):
    """fchown(2): the standard streams become the user's, where that is allowed."""

    code = OPERATIONS["OWN_STDIO"]
    uid: int

    def arguments(self) -> Iterable[Argument]:
        return (self.uid,)

    def describe(self) -> str:
        return f"give the standard streams to uid {self.uid}"


class MemoryPolicy(Operation):
    """set_mempolicy(2): mode with its flags, a mask of nodes, least significant first (none: empty)."""

    code = OPERATIONS["MEMORY_POLICY"]
    mode: int
    nodes: bytes
    summary: str

    def arguments(self) -> Iterable[Argument]:
        return (self.mode, self.nodes)

    def describe(self) -> str:
        return f"allocate memory by {self.summary}"


class CloneInside(Operation):
    """clone(2): go on in a new process, which a joined pid namespace sees. It has nothing of the host's: the other namespaces were
    entered before, its root, ids and capabilities are the container's, its descriptors are closed."""

    code = OPERATIONS["CLONE_INSIDE"]

    def describe(self) -> str:
        return "go on in a new process, inside the joined pid namespace"
