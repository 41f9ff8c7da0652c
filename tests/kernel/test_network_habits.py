"""What a user of Docker takes for granted: low ports, pings, short host names, networks that go away."""

from __future__ import annotations

import pytest

from tests.hosts import Host, host, until
from tests.kernel.test_rootless_networks import host as user_host

__all__ = ["host", "user_host"]
pytestmark = pytest.mark.root


@pytest.fixture(params=["root", "rootless"])
def machine(request) -> Host:
    """A host, with root's containers or an ordinary user's."""
    return request.getfixturevalue("host" if request.param == "root" else "user_host")


BIND = """
import socket
with socket.create_server(("", 80)), socket.create_server(("::", 81), family=socket.AF_INET6):
    print("bound")
"""
PING = """
import socket
for family, protocol, kind, address in (
    (socket.AF_INET, socket.IPPROTO_ICMP, 8, "127.0.0.1"),
    (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, "::1"),
):
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as s:
        s.settimeout(2)
        s.sendto(bytes([kind, 0, 0, 0, 0, 0, 0, 1]), (address, 0))
        s.recv(100)
print("answered")
"""
NETWORKS = ["none", "bridge", "mine"]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("user", ["1000:1000", "1000:60000"])
def test_another_user_binds_low_ports_and_pings(machine, network, user):
    """A user other than root, without any capability, at the start and by exec."""
    if network == "mine":
        machine("network", "create", network)
    flags = ("--network", network, "--cap-drop", "ALL")
    for program, said in ((BIND, "bound\n"), (PING, "answered\n")):
        assert machine("run", "-u", user, *flags, "host", "python3", "-c", program) == said
    machine("run", "-d", "--name", "box", *flags, "host", "sleep", "1000")
    for program, said in ((BIND, "bound\n"), (PING, "answered\n")):
        assert machine("exec", "-u", user, "box", "python3", "-c", program) == said


LIMITS = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range"


def test_what_the_user_says_holds_and_the_host_stays_as_it_is(machine):
    """`--sysctl` is stronger than the habit, and the host's own settings stay."""
    flags = (
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=1024",
        "--sysctl",
        "net.ipv4.ping_group_range=5 5",
    )
    assert machine("run", "--network", "bridge", *flags, "host", "sh", "-c", LIMITS).split() == [
        "1024",
        "5",
        "5",
    ]
    before = machine.run("sh", "-c", LIMITS).stdout
    machine("run", "--network", "host", "host", "true")
    machine("run", "--network", "bridge", "host", "true")
    assert machine.run("sh", "-c", LIMITS).stdout == before
    if hasattr(machine, "user"):
        return  # who cannot share another container's network
    machine("run", "-d", "--name", "box", "--network", "bridge", "host", "sleep", "1000")
    words = ("-u", "1000", "host", "python3", "-c", BIND)
    assert machine("run", "--network", "container:box", *words) == "bound\n"


@pytest.mark.parametrize("how", ["it ends", "it is killed", "it is removed", "it leaves"])
def test_a_network_is_removed_behind_its_last_container(machine, how):
    """`network rm` right after the last container has gone."""
    for number in range(3):
        machine("network", "create", "short")
        if how == "it ends":
            machine("run", "--network", "short", "host", "true")
        else:
            machine("run", "-d", "--name", f"box{number}", "--network", "short", "host", "sleep", "1000")
        if how == "it leaves":
            machine("network", "disconnect", "short", f"box{number}")
        elif how != "it ends":
            machine(*(("kill",) if how == "it is killed" else ("rm", "-f")), f"box{number}")
        if how == "it is killed":
            until(lambda number=number: f"box{number}" not in machine("ps"))
        done = machine.try_("network", "rm", "short")
        assert (done.returncode, done.stdout, done.stderr) == (0, "short\n", "")


@pytest.mark.parametrize("network", NETWORKS)
def test_a_host_name_with_a_domain_is_known_by_its_first_word(machine, network):
    """As with Docker: /etc/hosts has `foo.example.org foo`."""
    if network == "mine":
        machine("network", "create", network)
    shown = machine(
        "run",
        "-h",
        "foo.example.org",
        "--network",
        network,
        "host",
        "sh",
        "-c",
        "getent hosts foo; hostname -f; cat /etc/hosts",
    )
    lines = [line.split() for line in shown.splitlines()]
    assert lines[0][1:] == ["foo.example.org", "foo"], shown
    assert ["foo.example.org"] in lines and lines[-1][1:] == lines[0][1:], shown
