"""Hosts for tests of networks: each is a network namespace with a data and a state directory of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hutch.kernel.netlink import route
from tests.conftest import HUTCH
from tests.namespaces import Namespace


class Host(Namespace):
    """A host of its own, with an uplink to an outside."""

    interpreter = sys.executable

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.environment = {**os.environ, "HUTCH_DATA": str(place / "data"), "HUTCH_STATE": str(place / "state")}
        with self.route() as own:
            own.do(route.set_link(name="lo", up=True))

    def command(self, *words: str) -> list[str]:
        return [*self.prefix(), *HUTCH, *words]

    def prefix(self) -> list[str]:
        """What has a program run on this host."""
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", "--"]

    def python(self, script: str) -> str:
        """What a program in Python prints."""
        words = [*self.prefix(), self.interpreter, "-c", script]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=self.environment, stdin=subprocess.DEVNULL, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def try_(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, env=self.environment, stdin=subprocess.DEVNULL, timeout=60)

    def __call__(self, *words: str) -> str:
        done = self.try_(*words)
        assert done.returncode == 0, f"hutch {' '.join(words)}: {done.returncode}, {done.stdout!r}, {done.stderr!r}"
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on."""
        streams = subprocess.DEVNULL
        return subprocess.Popen(self.command(*words), stdin=streams, stdout=streams, stderr=streams, text=True, env=self.environment)

    def links(self) -> set[str]:
        return {link["ifname"] for link in self.ip("link")} - {"lo", "uplink"}

    def tables(self) -> str:
        return self.run("nft", "list", "tables").stdout

    def empty(self) -> bool:
        return not self.links() and not self.tables()


@pytest.fixture
def host() -> Iterator[Host]:
    place = Path(tempfile.mkdtemp(prefix="hutch-host-", dir="/var/tmp"))
    place.chmod(0o755)  # a container's root has to come through
    found = Host(place)
    yield found
    for name in found("ps", "-aq").split():
        found("rm", "-f", name)
    # records of killed executors are believed to be such after two seconds
    until(lambda: found("ps", "-aq") == "" and not [name for name in os.listdir(place / "state") if name[0] != "."])
    until(lambda: not processes(place, "hutch-names"))  # it lingers a little, and the next test counts them
    until(found.empty, lambda: f"left behind: {found.links()} {found.tables()}")
    switches = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv6/conf/*/*forwarding"
    until(lambda: set(found.run("sh", "-c", switches).stdout.split()) == {"0"}, lambda: "this host still forwards")
    found.close()
    shutil.rmtree(place)


def processes(place: Path, name: str) -> list[int]:
    """The processes of a name that stand by for a data directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                if any(os.readlink(f"/proc/{pid}/fd/{fd}").startswith(str(place)) for fd in os.listdir(f"/proc/{pid}/fd")):
                    found.append(int(pid))
        except OSError:
            continue
    return found


def until(condition: Callable[[], object], what: Callable[[], str] = lambda: "it does not happen") -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 125 and all(word in done.stderr for word in said) and "Traceback" not in done.stderr, (done.returncode, done.stderr)


def joined(host: Host, outside: Namespace) -> None:
    """A cable between a host, 192.0.2.1, and what is outside of it, 192.0.2.2."""
    with host.route() as here, outside.route() as far:
        here.do(route.veth("uplink", "uplink", peer_namespace_fd=outside.fd))
        for link_socket, number in ((here, 1), (far, 2)):
            link = link_socket.link("uplink")
            link_socket.do(route.set_link(link.index, up=True))
            link_socket.do(route.new_address(link.index, f"192.0.2.{number}", 24))
