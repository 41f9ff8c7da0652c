"""Descriptors for the runtime's caller: the terminal to its console socket, a filter's listener to the agent (SCM_RIGHTS, unix(7))."""

from __future__ import annotations

import _socket
import os

from hutch import jsontext
from hutch.errors import HutchError
from hutch.oci.config import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TERMINAL_NAME = b"/dev/ptmx"  # what engines expect beside the descriptor: the name of a terminal's file


def connect(path: str, what: str) -> _socket.socket:
    """A connection to somebody's unix socket, whatever the length of its path. Raises HutchError."""
    directory, name = os.path.split(os.path.abspath(path))
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    fd = -1
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.connect(f"/proc/self/fd/{fd}/{name}")
    except OSError as error:
        sock.close()
        raise HutchError(f"{what} {path}: connect: {error.strerror}") from None
    finally:
        if fd >= 0:
            os.close(fd)
    return sock


def send(sock: _socket.socket, text: bytes, fd: int, what: str) -> None:
    """Send a descriptor with some text, and close the connection. Raises HutchError."""
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))
    try:
        sent = sock.sendmsg([text], [rights])
        if sent < len(text):  # a write of nothing to somebody who has closed his end is an error, too
            sock.sendall(text[sent:])
    except OSError as error:
        raise HutchError(f"{what}: send the descriptor: {error.strerror}") from None
    finally:
        sock.close()


def send_listener(path: str, metadata: str | None, fd: int, pid: int, state: str) -> None:
    """Give a seccomp agent the listener, with the process's state (config-linux.md, "The Container Process State")."""
    process: dict[str, Any] = {"ociVersion": VERSION, "fds": ["seccompFd"], "pid": pid}
    if metadata is not None:
        process["metadata"] = metadata
    process["state"] = jsontext.loads(state)
    send(connect(path, "linux.seccomp.listenerPath"), jsontext.dumps(process).encode(), fd, "linux.seccomp.listenerPath")
