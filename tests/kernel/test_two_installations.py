"""Two data directories on one host: neither the life nor the end of one's containers disturbs the other's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import Host, host, joined, processes, refused, until
from tests.kernel.test_ports import SERVER, fetch
from tests.namespaces import Namespace, namespaces

__all__ = ["host"]
pytestmark = pytest.mark.root

PING = "busybox ping -c 1 -W 1"
LISTENS = "import socket; socket.create_connection(('127.0.0.1', 80), 1)"


class Second(Host):
    """Another data and another state directory on a host."""

    def __init__(self, first: Host, place: Path) -> None:
        self.process, self.fd = first.process, first.fd
        self.environment = {
            **os.environ,
            "HUTCH_DATA": str(place / "data"),
            "HUTCH_STATE": str(place / "state"),
        }


@pytest.fixture
def second(host) -> Iterator[Second]:
    place = Path(tempfile.mkdtemp(prefix="hutch-host-", dir="/var/tmp"))
    place.chmod(0o755)
    found = Second(host, place)
    yield found
    for name in found("ps", "-aq").split():
        found("rm", "-f", name)
    until(lambda: found("ps", "-aq") == "")
    until(lambda: not [name for name in os.listdir(place / "state") if name[0] != "."])
    until(lambda: not processes(place, "hutch-names"))
    shutil.rmtree(place)


@pytest.fixture
def outside(host) -> Iterator[Namespace]:
    with namespaces(1) as (found,):
        joined(host, found)
        yield found


def start(where: Host, name: str, *flags: str) -> bool:
    """Whether a container has started; who cannot have a network that overlaps with another's is told so."""
    done = where.try_("run", "-d", "--name", name, *flags, "host", "python3", "-c", SERVER)
    if done.returncode:
        refused(done, "overlap")
        return False
    until(lambda: where.try_("exec", name, "python3", "-c", LISTENS).returncode == 0)
    return True


def address_of(where: Host, container: str) -> str:
    found = where("exec", container, "sh", "-c", "ip -4 -br addr show eth0; exit 0").split()
    return found[2].partition("/")[0] if len(found) > 2 else "192.0.2.99"  # which nobody has


def pings(where: Host, container: str, target: str) -> bool:
    return where.try_("exec", container, "sh", "-c", f"{PING} {target}").returncode == 0


def broken(where: Host, container: str) -> list[str]:
    """Which of these do not work: the container reaches its gateway and the outside, the host reaches it."""
    found = where("exec", container, "ip", "-4", "route", "show", "default").split()
    targets = {"the gateway": found[2] if found else "", "outside": "192.0.2.2"}
    failed = [what for what, target in targets.items() if not pings(where, container, target)]
    own = address_of(where, container)
    if where.run("busybox", "ping", "-c", "1", "-W", "1", own, check=False).returncode:
        failed.append("the host")
    return failed


ENDS = ["it ends", "it is killed", "its executor is killed", "it is disconnected"]


@pytest.mark.parametrize(("network", "later"), [("bridge", True), ("mine", False)])
@pytest.mark.parametrize("how", ENDS)
def test_the_last_one_of_one_leaves_the_others_alone(host, second, outside, network, later, how):
    """The last container of one takes nothing away from the other's: bridge, rules, way out, ports, names."""
    for where, subnet in ((host, "10.92.0.0/24"), (second, "10.93.0.0/24")):
        if network != "bridge":
            where("network", "create", "--subnet", subnet, network)
    published = () if how == "it is disconnected" else ("-p", "8081:80")
    if later:
        assert start(host, "stays", "--network", network, "-p", "8080:80")
    began = start(second, "goes", "--network", network, *published)
    if not later:
        assert start(host, "stays", "--network", network, "-p", "8080:80")
    assert broken(host, "stays") == [] and not (began and broken(second, "goes"))
    if began:
        executor = json.loads(second("ps", "--json"))["executor"]
        if how == "it ends":
            second("rm", "-f", "goes")
        elif how == "it is killed":
            second("kill", "goes")
            second("rm", "-f", "goes")
        elif how == "it is disconnected":
            second("network", "disconnect", network, "goes")
        else:
            os.kill(executor, 9)
    second("network", "prune")
    assert broken(host, "stays") == [] and fetch(host, "127.0.0.1", 8080, "/x").endswith(b"hello /x")
    assert fetch(outside, "192.0.2.1", 8080, "/y").endswith(b"hello /y")
    if network != "bridge":
        assert host("exec", "stays", "getent", "hosts", "stays")
    # and a container that comes later finds what it needs
    assert start(host, "later", "--network", network)
    assert broken(host, "later") == [] and pings(host, "later", address_of(host, "stays"))


def test_the_host_becomes_no_router(host, second, outside):
    """Others are not passed on for as long as one of the two needs this host to forward."""
    with namespaces(1) as (neighbour,):
        host.run(*f"ip link add beside type veth peer name eth0 netns {neighbour.process.pid}".split())
        for where, name, number in ((host, "beside", 1), (neighbour, "eth0", 2)):
            where.run("ip", "addr", "add", f"198.51.100.{number}/24", "dev", name)
            where.run("ip", "link", "set", name, "up")
        neighbour.run("ip", "route", "add", "default", "via", "198.51.100.1")
        outside.run("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1")
        for where, subnet in ((host, "10.92.0.0/24"), (second, "10.93.0.0/24")):
            where("network", "create", "--subnet", subnet, "mine")
            assert start(where, "box", "--network", "mine")
        ping = ("busybox", "ping", "-c", "1", "-W", "1")
        neighbour.run(*ping, "198.51.100.1")
        assert neighbour.run(*ping, "192.0.2.2", check=False).returncode
        second("rm", "-f", "box")
        assert broken(host, "box") == [] and neighbour.run(*ping, "192.0.2.2", check=False).returncode


@pytest.mark.parametrize("how", ["chosen", "named", "within", "bridge"])
def test_both_have_the_same_subnet(host, second, outside, how):
    """Subnets overlap, as neither network was used when the other was made: one is refused at its start."""
    if how != "bridge":
        given = {
            "chosen": ((), ()),
            "named": (("--subnet", "10.91.0.0/24"),) * 2,
            "within": (("--subnet", "10.91.0.0/16"), ("--subnet", "10.91.3.0/24")),
        }
        for where, subnet in zip((host, second), given[how], strict=True):
            where("network", "create", *subnet, "net")
    name = "bridge" if how == "bridge" else "net"
    assert start(host, "one", "--network", name, *(("--ip", "10.91.3.7") if how == "within" else ()))
    before = host.run("ip", "-4", "route").stdout
    if not start(second, "two", "--network", name):
        assert host.run("ip", "-4", "route").stdout == before and broken(host, "one") == []
        return
    assert broken(host, "one") == broken(second, "two") == []
    ours, theirs = (json.loads(where("network", "inspect", name))[0] for where in (host, second))
    assert ours["IPAM"] != theirs["IPAM"] and ours["Bridge"] != theirs["Bridge"]


def test_one_clears_up_behind_itself_alone(host, second, outside):
    """`network prune` and `network rm` of one, whose container was killed, leave the other's alone."""
    for where in (host, second):
        where("network", "create", "mine")
    assert start(host, "stays", "--network", "bridge", "--network", "mine", "--egress", "192.0.2.2")
    if start(second, "goes", "--network", "bridge", "--network", "mine", "--egress", "none"):
        os.kill(json.loads(second("ps", "--json"))["executor"], 9)
    until(lambda: second("ps", "-q") == "")
    second("network", "prune")
    assert second.try_("network", "rm", "mine").returncode in (0, 125)
    second.try_("network", "rm", "bridge")
    assert pings(host, "stays", "192.0.2.2")
    with host.inside(lambda: socket.create_connection((address_of(host, "stays"), 80), timeout=5)):
        pass
    assert "hutch-egress" in host.tables()


def test_the_containers_of_one_are_strangers_to_the_others(host, second, outside):
    """Networks of one name in two installations are two: nobody reaches or names the other's."""
    for where in (host, second):
        where("network", "create", "mine")
    assert start(host, "one", "--network", "mine")
    if start(second, "two", "--network", "mine"):
        assert not pings(host, "one", address_of(second, "two"))
        assert not pings(second, "two", address_of(host, "one"))
        assert second("exec", "two", "sh", "-c", "getent hosts one; echo $?") == "2\n"
    assert start(host, "first", "--network", "bridge")
    if start(second, "other", "--network", "bridge"):
        assert not pings(host, "first", address_of(second, "other"))
