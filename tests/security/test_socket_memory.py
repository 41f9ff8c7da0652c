"""What lies unread in a container's sockets: memory of the host's, within a few times its limit."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import HUTCH

pytestmark = pytest.mark.root
LIMIT, TIMES = 128 << 20, 10  # TCP is never refused the first segments of each socket: 20,000 of them hold some 800 MiB

# Fills sockets that nobody reads until it is refused, in four processes with all their descriptors.
FILL = """
import os, resource, socket, sys, time
kind = sys.argv[1]
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
for _ in range(4):
    if os.fork() == 0:
        kept, family = [], socket.AF_INET6 if kind.endswith("6") else socket.AF_INET
        stream = kind.startswith("tcp")
        address = "::1" if kind.endswith("6") else "127.0.0.1"
        try:
            for _ in range(min(most, 10000) // 2 - 50):
                one = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
                one.bind((address, 0))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 30)
                kept.append(one)
                if stream:
                    one.listen()
                    other = socket.create_connection(one.getsockname()[:2], timeout=1)
                    kept.append(one.accept()[0])
                    kept.append(other)
                else:
                    other = kept[0]
                other.setblocking(False)
                try:
                    for _ in range(400 if stream else 9):
                        other.send(bytes(60000)) if stream else other.sendto(bytes(60000), one.getsockname())
                except BlockingIOError:
                    pass
        except OSError as error:
            print(error, flush=True)
        time.sleep(1000)
print("filling", flush=True)
try:
    os.wait()
except OSError:
    pass
"""


def held() -> int:
    """Bytes that the kernel holds in the sockets of all network namespaces."""
    words = Path("/proc/net/sockstat").read_text().split()
    pages = [int(words[i + 1]) for i, word in enumerate(words) if word == "mem"]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", ["udp", "udp6", "tcp", "tcp6"])
@pytest.mark.parametrize("userns", ["auto", "host"])
def test_unread_sockets(kind, userns):
    """Thousands of sockets full of unread bytes, with a limit of 128 MiB: what the host loses is bounded."""
    words = [*HUTCH, "run", "-m", str(LIMIT), "--userns", userns, "host", "python3", "-c", FILL, kind]
    before, most = held(), 0
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(words, text=True, **streams)
    try:
        assert process.stdout.readline() == "filling\n"
        end, grew = time.monotonic() + 20, time.monotonic()
        while process.poll() is None and most <= TIMES * LIMIT and time.monotonic() < min(end, grew + 3):
            select.select([], [], [], 0.05)
            if held() - before > most:
                most, grew = held() - before, time.monotonic()
    finally:
        process.kill()
        process.communicate()
    assert most <= TIMES * LIMIT, f"{most >> 20} MiB of sockets with a limit of {LIMIT >> 20} MiB"
