"""Terminals: the console socket, and what of it the container sees."""

from __future__ import annotations

import os

import pytest

from tests.conformance.runtime import config, shell, until

pytestmark = pytest.mark.root
clause = pytest.mark.clause


def terminal(script: str, **fields) -> dict:
    return shell(script, process={"terminal": True, **fields})


@clause("config.md", "Process", "terminal: the master goes to the console socket, the pty is the standard streams")
def test_terminal(box, console):
    container = box(terminal("tty; test -t 0 && test -t 1 && test -t 2 && echo all; ls -l /proc/self/fd/0 | grep -c pts; echo end"))
    container.create("--console-socket", console.path).ok()
    console.receive()
    container.start().ok()
    text = console.read()
    assert "all" in text and "1\r\n" in text and "end" in text, text
    assert container.wait() == 0


@clause("config.md", "Process", "the terminal is the controlling one: its keys are signals")
def test_controlling_terminal(box, console):
    container = box(terminal("trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done"))
    container.create("--console-socket", console.path).ok()
    console.receive()
    container.start().ok()
    console.read(b"ready")
    os.write(console.master, b"\x03")
    assert "interrupted" in console.read()
    assert container.wait() == 5


@clause("config.md", "Process", "consoleSize is the size of the terminal")
def test_console_size(box, console):
    container = box(terminal("stty size", consoleSize={"height": 30, "width": 101}))
    container.create("--console-socket", console.path).ok()
    console.receive()
    container.start().ok()
    assert "30 101" in console.read()
    container.wait()


@clause("config-linux.md", "Default Devices", "/dev/console is the pty when terminal is enabled")
def test_dev_console(box, console):
    container = box(terminal("echo to the console > /dev/console; test -c /dev/console && echo device"))
    container.create("--console-socket", console.path).ok()
    console.receive()
    container.start().ok()
    text = console.read()
    assert "to the console" in text and "device" in text
    container.wait()


@clause("config.md", "Process", "consoleSize MUST be ignored if terminal is false")
def test_console_size_without_a_terminal(box):
    assert box(config("echo", "ok", process={"consoleSize": {"height": 30, "width": 101}})).run().lines() == ["ok"]


@clause("runtime.md", "Create", "a terminal needs a place for its master: an error without a console socket")
def test_no_console_socket(box):
    box(terminal("true")).create().failed()


@clause("runtime.md", "Create", "a console socket that nobody listens on is an error")
def test_dead_console_socket(box, place):
    box(terminal("true")).create("--console-socket", str(place / "nothing.sock")).failed()


@clause("config.md", "POSIX-platform User", "the terminal is the process' user's")
def test_terminal_of_a_user(box, console):
    container = box(terminal("echo x > /proc/self/fd/1 && echo opened; stat -L -c %u /proc/self/fd/0", user={"uid": 1000, "gid": 1000}))
    container.create("--console-socket", console.path).ok()
    console.receive()
    container.start().ok()
    text = console.read()
    assert "opened" in text and "1000" in text
    container.wait()


@clause("runtime.md", "Operations", "exec --tty with a console socket")
def test_exec_tty(box, console, place):
    container = box(config("sleep", "100")).up()
    options = ["--tty", "--console-socket", console.path, "--detach", "--pid-file", str(place / "pid")]
    container.exec("sh", "-c", "tty; stty size; test -t 0 && echo yes", options=options).ok()
    console.receive()
    text = console.read()
    assert "yes" in text
    pid = int((place / "pid").read_text())
    until(lambda: not os.path.exists(f"/proc/{pid}") or os.waitpid(pid, os.WNOHANG)[0], "the end of exec")
