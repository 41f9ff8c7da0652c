"""Operations of the executor on itself: what it holds and watches for a container, what it tells whoever started it, and what it
does when the container ends."""

from __future__ import annotations

from hutch.plan.numbers import OPERATIONS
from hutch.plan.operation import Operation, Slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.plan.operation import Argument


class Watch(Operation):
    """Last until a process ends that is another executor's container, by its pidfd. It is never touched."""

    code = OPERATIONS["WATCH"]
    lanes = "host"
    process: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.process,)

    def describe(self) -> str:
        return f"stay for as long as the process {self.process}"


class ReadAtExit(Operation):
    """Nothing now; when the container has ended, the file's content goes to the owner under `tag`."""

    code = OPERATIONS["READ_AT_EXIT"]
    lanes = "host"
    path: str
    tag: int

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.tag)

    def describe(self) -> str:
        return f"at the end, read {self.path}"


class KillAtExit(Operation):
    """Nothing now; when the container ends, whatever still lives in its cgroup is killed."""

    code = OPERATIONS["KILL_AT_EXIT"]
    lanes = "host"
    path: str
    kill_file: str = ""

    def arguments(self) -> Iterable[Argument]:
        return (self.path, self.kill_file)

    def describe(self) -> str:
        return f"at the end, kill what lives in {self.path.rpartition('/')[0]}"


class WritePid(Operation):
    """Add the container's and the executor's pid to the record."""

    code = OPERATIONS["WRITE_PID"]
    lanes = "host"
    record: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.record,)

    def describe(self) -> str:
        return f"add the pids to {self.record}"


class CallOwner(Operation):
    """Ask the owner to do what needs more than a system call (a bus message), and wait for its answer."""

    code = OPERATIONS["CALL_OWNER"]
    lanes = "host"
    request: str

    def describe(self) -> str:
        return f"ask the owner: {self.request}"


class Inherit(Operation):
    """A descriptor that the owner handed to the executor."""

    code = OPERATIONS["INHERIT"]
    lanes = "host"
    into: Slot
    number: int

    def arguments(self) -> Iterable[Argument]:
        return (self.into, self.number)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"take descriptor {self.number} from the owner as {self.into}"


class Export(Operation):
    """Hand a slot's descriptor to the owner once the container runs."""

    code = OPERATIONS["EXPORT"]
    lanes = "host"
    value: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.value,)

    def uses(self) -> tuple[Slot, ...]:
        return ()  # it is filled by the time it is sent

    def describe(self) -> str:
        return f"hand {self.value} to the owner when the container runs"


class Log(Operation):
    """Detached: keep what the container writes in a file of at most `limit` bytes, begun anew when it is full."""

    code = OPERATIONS["LOG"]
    lanes = "host"
    path: str
    limit: int
    sources: tuple[Slot, ...]

    def arguments(self) -> Iterable[Argument]:
        padded = self.sources + (None,) * (3 - len(self.sources))
        return (self.path, self.limit, *padded)

    def describe(self) -> str:
        return f"keep the output in {self.path} (at most {self.limit} bytes)"


class ExitFile(Operation):
    """Detached: write the wait status to a file when the container has ended."""

    code = OPERATIONS["EXIT_FILE"]
    lanes = "host"
    path: str

    def arguments(self) -> Iterable[Argument]:
        return (self.path,)

    def describe(self) -> str:
        return f"at the end, write the exit status to {self.path}"


class TakeDescriptor(Operation):
    """pidfd_getfd(2): take the filter's listener, which the container's process has and the executor has not. The container
    goes on when it is taken."""

    code = OPERATIONS["TAKE_DESCRIPTOR"]
    lanes = "host"
    into: Slot

    def arguments(self) -> Iterable[Argument]:
        return (self.into,)

    def assigns(self) -> tuple[Slot, ...]:
        return (self.into,)

    def describe(self) -> str:
        return f"take the filter's listener from the container's process as {self.into}"


class HostWritePid(Operation):
    """Write the container's pid to a host's file: resctrl's ``tasks``."""

    code = OPERATIONS["HOST_WRITE_PID"]
    lanes = "host"
    path: str

    def arguments(self) -> Iterable[Argument]:
        return (self.path,)

    def describe(self) -> str:
        return f"write the container's pid to {self.path}"


class Publish(Operation):
    """Pass on what comes to sockets of the host's, by a process that ends with the executor: `ports` are (the number of a
    socket's descriptor, whether it is a stream's, the container's port), `address` the container's IPv4 address, `what` says it for people."""

    code = OPERATIONS["PUBLISH"]
    lanes = "host"
    what: str
    address: str
    ports: tuple[tuple[int, bool, int], ...]

    def arguments(self) -> Iterable[Argument]:
        yield self.what
        yield self.address
        yield len(self.ports)
        for socket, stream, port in self.ports:
            yield socket
            yield stream
            yield port

    def describe(self) -> str:
        return f"publish {self.what} (undo: stop)"


class HoldShared(Operation):
    """Hold something of the host's that several containers use, by a shared lock on a file, made if it is missing.

    The inverse sends netlink datagrams, as (protocol, bytes): `own`, and when nobody else holds the lock, `last`. Where the last of them was
    done, and with `restore`, the file has lines of a value and a path (of /proc/sys), which is written back, unless the file `unless`
    has something else than 0 by then. What has gone already is no error.
    """

    code = OPERATIONS["HOLD_SHARED"]
    lanes = "host"
    lock: str
    what: str
    own: tuple[tuple[int, bytes], ...] = ()
    last: tuple[tuple[int, bytes], ...] = ()
    restore: bool = False
    unless: str = ""

    def arguments(self) -> Iterable[Argument]:
        yield self.lock
        yield self.restore
        yield self.unless
        for datagrams in (self.own, self.last):
            yield len(datagrams)
            for protocol, data in datagrams:
                yield protocol
                yield data

    def describe(self) -> str:
        return f"hold {self.what} (undo: let go, and remove it as the last one)"


class ReturnDevice(Operation):
    """Nothing now; the inverse moves an interface back from the container's network namespace, under its old name, with what it
    had: `addresses` are RTM_NEWADDR messages, `up` whether it was on."""

    code = OPERATIONS["RETURN_DEVICE"]
    lanes = "host"
    namespace: Slot
    inside: str
    outside: str
    up: bool = False
    addresses: tuple[bytes, ...] = ()

    def arguments(self) -> Iterable[Argument]:
        return (self.namespace, self.inside, self.outside, self.up, len(self.addresses), *self.addresses)

    def describe(self) -> str:
        return f"lend {self.outside} to the container as {self.inside} (undo: take it back)"
