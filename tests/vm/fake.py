"""A monitor that is none: a script instead of QEMU, with the same descriptors, that plays a machine's guest. What the host's side of
the control channel makes of a guest is tried with it, without a boot."""

from __future__ import annotations

import shutil
import textwrap

import pytest

from hutch.engine.machines import assembly
from hutch.record import Record
from hutch.vm.machine import Machine

# What every script begins with: the channel, frames (executor/frames.c) and messages (executor/executor.h)
PRELUDE = r"""
import os, random, socket, struct, sys, time
channel = socket.socket(fileno=3)
SETUP, PLAN, START, INPUT, CREDIT, TO_EXECUTOR, RESIZE, HANG_UP, READ_FILE, NETWORK, SHUT_DOWN, QUIESCE, RESUME = range(1, 14)
HELLO, OUTPUT, ERRORS, INPUT_CREDIT, FROM_EXECUTOR, ENDED, FILE_CONTENT, GUEST_FAILED, QUIET = range(32, 41)
READY, FAILED, EXITED = 1, 2, 3
def raw(kind, session=1, data=b"", size=None):
    return struct.pack("<IHH", len(data) if size is None else size, kind, session) + data
def send(kind, session=1, data=b"", size=None):
    channel.sendall(raw(kind, session, data, size))
def message(kind, a=0, error=0, lane=0, index=0, detail=b""):
    return struct.pack("<iiiiqqqq512s", kind, lane, index, error, a, 0, 0, 0, detail)
def exactly(n):
    out = b""
    while len(out) < n:
        part = channel.recv(n - len(out))
        if not part: sys.exit(0)
        out += part
    return out
def take():
    size, kind, session = struct.unpack("<IHH", exactly(8))
    return kind, session, exactly(size)
def until(wanted):
    while (frame := take())[0] != wanted: pass
    return frame
def started():
    until(START); send(FROM_EXECUTOR, 1, message(READY, a=7))
def ended(status=0):
    send(FROM_EXECUTOR, 1, message(EXITED, a=status)); send(ENDED)
"""


class Fake(Record):
    """Python instead of QEMU."""

    script: str
    path: str = ""

    @property
    def name(self) -> str:
        return "qemu"

    def command(self, machine: Machine) -> tuple[str, ...]:
        return self.path, "-I", "-S", "-c", PRELUDE + textwrap.dedent(self.script)

    def files(self, machine: Machine) -> tuple[tuple[str, str], ...]:
        return ()

    def describe(self, machine: Machine) -> list[str]:
        return ["a fake"]


def guest(monkeypatch: pytest.MonkeyPatch, script: str, patience: int = 3000) -> None:
    """From here on machines are this script."""
    path = shutil.which("python3", path="/usr/bin:/bin")
    assert path is not None
    monkeypatch.setattr(assembly.qemu, "find", lambda: Fake(script=script, path=path))
    monkeypatch.setattr("hutch.vm.compile.PATIENCE", {"tcg": patience, "kvm": patience})
