"""What stands beside a runtime: the ends of its sockets, and processes whose namespaces it joins."""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.runtime import expect, until


class Console:
    """A socket that gets the master end of a terminal."""

    def __init__(self, place: Path, owner: int = 0):
        self.path = str(place / "tty.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        os.chown(self.path, owner, owner)
        self.listener.listen()
        self.listener.settimeout(10)
        self.master = -1

    def receive(self) -> int:
        """Take the master; it is read with :meth:`read`."""
        connection, _ = self.listener.accept()
        with connection:
            _, descriptors = receive_descriptors(connection)
        assert len(descriptors) == 1
        self.master = descriptors[0]
        return self.master

    def read(self, mark: bytes = b"") -> str:
        """What comes from the terminal, until the mark or the end."""
        seen = b""
        while not (mark and mark in seen):
            assert select.select([self.master], [], [], 10)[0], f"nothing more after {seen!r}"
            try:
                part = os.read(self.master, 4096)
            except OSError:  # EIO: the other end is closed
                break
            if not part:
                break
            seen += part
        return seen.decode(errors="replace")

    def close(self) -> None:
        self.listener.close()
        if self.master >= 0:
            os.close(self.master)


def receive_descriptors(connection: socket.socket, limit: int = 8) -> tuple[bytes, list[int]]:
    """Everything up to the end of a connection, and the descriptors that came with it."""
    connection.settimeout(10)
    data, descriptors = b"", array.array("i")
    while True:
        part, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_LEN(limit * 4))
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        if not part:
            return data, list(descriptors)
        data += part
        if descriptors and data.endswith(b"ptmx"):  # a peer that keeps its end open
            return data, list(descriptors)


def in_namespace(pid: int, *kinds: str) -> list[str]:
    """The words that make a command run in another process' namespaces."""
    return ["nsenter", f"--target={pid}", *(f"--{kind}" for kind in kinds), "--"]


class Holder:
    """A process with namespaces of its own, for containers to join."""

    def __init__(self, *kinds: str):
        extra = ["--fork", "--kill-child"] if "pid" in kinds else []
        self.process = subprocess.Popen(["unshare", *(f"--{kind}" for kind in kinds), *extra, "sleep", "100"], stdin=subprocess.DEVNULL)
        self.pid = self.process.pid
        expect(self.pid)
        until(lambda: self._ready(kinds), "the holder's namespaces")

    def _ready(self, kinds: Sequence[str]) -> bool:
        try:
            if "pid" in kinds:
                with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
                    words = file.read().split()
                if not words:
                    return False
                self.pid = int(words[0])
            with open(f"/proc/{self.pid}/comm", encoding="ascii") as file:
                return file.read() == "sleep\n"
        except OSError:
            return False

    def path(self, kind: str) -> str:
        return f"/proc/{self.pid}/ns/{kind}"

    def close(self) -> None:
        if self.pid != self.process.pid:
            os.kill(self.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
