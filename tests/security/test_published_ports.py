"""Clients of a published port that want to keep it from others."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest

from tests.hosts import host, joined, until
from tests.namespaces import namespaces

__all__ = ["host"]
pytestmark = pytest.mark.root

# answers a line, and keeps as many connections as come
SERVER = """
import resource, selectors, socket
resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
listener = socket.create_server(("", 80), backlog=4096)
chosen = selectors.DefaultSelector()
chosen.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in chosen.select():
        if key.fileobj is listener:
            chosen.register(listener.accept()[0], selectors.EVENT_READ)
            continue
        try:
            found = key.fileobj.recv(100)
            found and key.fileobj.sendall(b"hello " + found)
        except OSError:
            found = b""
        if not found:
            chosen.unregister(key.fileobj); key.fileobj.close()
"""
CROWD = 4500


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CROWD + 500:
        pytest.skip("not as many descriptors may be had")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def says_hello(address: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, 8080), timeout=8) as client:
        client.sendall(b"fresh")
        return client.recv(100) == b"hello fresh"
    return False


@pytest.mark.parametrize("what", ["say nothing", "have said something", "have closed their half"])
def test_idle_clients_leave_room_for_others(host, many_descriptors, what):
    """Thousands connect and stay, silent or after a word: who comes from elsewhere is answered."""
    with namespaces(1) as (outside,), contextlib.ExitStack() as kept:
        joined(host, outside)
        host("run", "-d", "--name", "web", "-p", "8080:80", "host", "python3", "-c", SERVER)
        until(lambda: outside.inside(lambda: says_hello("192.0.2.1")))

        def crowd() -> None:
            for _ in range(CROWD):
                try:
                    client = kept.enter_context(socket.create_connection(("127.0.0.1", 8080), timeout=2))
                except OSError:
                    continue  # that one is refused, which is a way to defend oneself
                with contextlib.suppress(OSError):
                    if what == "have said something":
                        client.sendall(b"x")
                    if what == "have closed their half":
                        client.shutdown(socket.SHUT_WR)

        host.inside(crowd)
        assert outside.inside(lambda: says_hello("192.0.2.1"))
        kept.close()
        until(lambda: host.inside(lambda: says_hello("127.0.0.1")))
