"""Operations between create and start: the wait for the start, hooks in the container, a process that takes over."""

from __future__ import annotations

from hutch.plan.numbers import OPERATIONS
from hutch.plan.operation import Operation, Slot, namespace_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.plan.operation import Argument


class AwaitStart(Operation):
    """Be nobody's child, and wait for a byte on the pipe `commands`. What fails from here on is told to the pipe `report`,
    whose end closes when the program begins."""

    code = OPERATIONS["AWAIT_START"]
    commands: Slot
    report: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.commands, self.report)

    def describe(self) -> str:
        return f"wait for the start on {self.commands}, and report to {self.report}"


class RunHook(Operation):
    """Run a hook in the container's namespaces, with the container's state on its standard input: `head`, the container's
    pid as it sees itself, `tail`. `timeout` in seconds; 0 is none."""

    code = OPERATIONS["RUN_HOOK"]
    path: str
    argv: tuple[str, ...]
    environment: tuple[str, ...]
    head: str
    tail: str
    timeout: int = 0

    def arguments(self) -> Iterable[Argument]:
        yield from (self.path, self.timeout, len(self.argv), len(self.environment))
        yield from (*self.argv, *self.environment, self.head, self.tail)

    def describe(self) -> str:
        return f"run the hook {self.path}{f' (at most {self.timeout} s)' if self.timeout else ''}"


class Respawn(Operation):
    """clone3(2) with CLONE_PARENT: the lane goes on in a sibling, in namespaces that only a child can begin."""

    code = OPERATIONS["RESPAWN"]
    flags: int

    def arguments(self) -> Iterable[Argument]:
        return (self.flags,)

    def describe(self) -> str:
        return f"go on in a new process with new namespaces: {namespace_names(self.flags)}"


class Netlink(Operation):
    """A route netlink socket of the container's network namespace, for the owner to configure it with (rtnetlink(7))."""

    code = OPERATIONS["NETLINK"]
    into: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.into,)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"open a netlink socket as {self.into}"
