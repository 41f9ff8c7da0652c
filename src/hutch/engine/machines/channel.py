"""A machine that runs: its control channel, its monitor, and where its container's files are seen from here."""

from __future__ import annotations

import os

from hutch.errors import ContainerGone, UnsupportedError
from hutch.kernel import proc
from hutch.kernel.features import features
from hutch.vm.compile import SHARED as SHARED_PATH, Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import socket


def program_of(pid: int, name: str) -> int:
    """The pid of a program beside a machine's PID 1, by its name. Raises ContainerGone."""
    for child in proc.read_text(f"/proc/{pid}/task/{pid}/children").split():
        if proc.read_text(f"/proc/{child}/comm").strip() == name[:15]:
            return int(child)
    raise ContainerGone(f"isolation vm: {name} has ended")


def shared_root(machine: Parts, name: str) -> str:
    """Where a machine's PID 1 has the container's root, below its own. Raises UnsupportedError for one that the host does not see."""
    if machine.machine.disks:
        raise UnsupportedError(f"container {name}: its files are in its machine's memory, and nothing of them is seen from here", "--vm-root shared")
    return SHARED_PATH


def root_of(pid: int, machine: Parts, name: str) -> str:
    """A path by which this user reaches the root of a container in a machine, by the pid of its PID 1. Raises UnsupportedError,
    ContainerGone."""
    place = shared_root(machine, name)
    if features().privileged:
        return f"/proc/{pid}/root/{place}"
    # that process has never executed a program in the user namespace, so the kernel keeps it from its user; virtiofsd has, and has made
    # what it shows its own root
    return f"/proc/{program_of(pid, 'virtiofsd')}/root"


def connect(directory: str, name: str) -> int:
    """A connection to the relay of a machine that runs. Raises ContainerGone."""
    import _socket

    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    _connect(made, directory, "door", name)
    return made.detach()


def monitor(directory: str, name: str) -> socket.socket:
    """A connection to the monitor of a machine that runs, which has one at a time. Raises ContainerGone."""
    import socket

    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    _connect(made, directory, "monitor", name)
    return made


def _connect(made: _socket.socket, directory: str, which: str, name: str) -> None:
    try:
        place = os.open(directory, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)  # its name may be longer than an address has room for
        try:
            made.connect(f"/proc/self/fd/{place}/{which}")
        finally:
            os.close(place)
    except OSError:
        made.close()
        raise ContainerGone(f"container {name}: its machine has ended") from None


def pause(directory: str, name: str, still: bool) -> None:
    """Stop a machine's processors, or let them go on. Raises ContainerGone, HutchError, UnsupportedError."""
    from hutch.vm import qmp

    qmp.talk(monitor(directory, name), qmp.pause if still else qmp.resume)
