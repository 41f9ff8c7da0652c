"""Networks on hosts that lack something, and on those where something else has what they need."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil

import pytest

from tests.hosts import Host, host, refused, until

__all__ = ["host"]
pytestmark = pytest.mark.root

PING = "busybox ping -c 1 -W 1"


class Poorer(Host):
    """The same host, where some files are not there."""

    def __init__(self, host: Host, *hidden: str) -> None:
        self.__dict__.update(host.__dict__)
        self.hidden = hidden

    def prefix(self) -> list[str]:
        hide = "".join(f"mount --bind /dev/null {path}; " for path in self.hidden)
        return [*super().prefix(), "unshare", "--mount", "--", "sh", "-c", f'{hide}exec "$@"', "sh"]


def library() -> str:
    """libnftables' file, as the dynamic linker finds it."""
    ctypes.CDLL("libnftables.so.1")
    with open("/proc/self/maps", encoding="ascii") as file:
        return next(line.split()[-1] for line in file if "libnftables" in line)


def test_without_nftables(host):
    """A way out without rules would be one for everybody: there is none, and it says so."""
    program = shutil.which("nft")
    poor = Poorer(host, library(), os.path.realpath(program))
    refused(poor.try_("run", "--network", "bridge", "host", "true"), "nftables")
    refused(poor.try_("run", "-d", "--network", "bridge", "-p", "8080:80", "host", "sleep", "1000"), "nftables")
    assert host.empty() and host("ps", "-aq") == ""


def test_without_ipv6(host):
    for name in ("all", "default"):
        host.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    host("network", "create", "four")
    host("run", "-d", "--name", "one", "--network", "four", "-p", "8080:80", "host", "sleep", "1000")
    assert host("run", "--network", "four", "host", "sh", "-c", f"{PING} one >/dev/null && echo reached") == "reached\n"
    host("network", "create", "--ipv6", "six")
    done = host.try_("run", "--network", "six", "host", "true")
    if done.returncode:
        refused(done, "network six", "IPv6")
    host("rm", "-f", "one")
    until(host.empty)


@pytest.mark.parametrize("asks", ["0", "1"])
def test_whether_bridges_ask_the_firewall_or_not(host, asks):
    """br_netfilter, as Docker and Kubernetes load it, or not: who is on one network reaches the others of it, and nobody else."""
    if not os.path.isdir("/proc/sys/net/bridge"):
        pytest.skip("this kernel has no br_netfilter")
    for name in ("iptables", "ip6tables", "arptables"):
        host.run("sh", "-c", f"echo {asks} > /proc/sys/net/bridge/bridge-nf-call-{name}")
    for name in ("red", "blue"):
        host("network", "create", "--ipv6", name)
    one = host("run", "-d", "--name", "one", "--network", "red", "--egress", "none", "host", "sleep", "1000").strip()
    two = host("run", "-d", "--name", "two", "--network", "blue", "host", "sleep", "1000").strip()
    four, six = (json.loads(host("network", "inspect", "red"))[0]["Containers"][one][f"IPv{n}Address"] for n in (4, 6))
    other = json.loads(host("network", "inspect", "blue"))[0]["Containers"][two]["IPv4Address"]
    near = f"{PING} {four} >/dev/null && busybox ping6 -c 1 -W 1 {six} >/dev/null && {PING} one >/dev/null && echo reached"
    assert host("run", "--network", "red", "host", "sh", "-c", near) == "reached\n"
    far = f"{PING} {four} >/dev/null || busybox ping6 -c 1 -W 1 {six} >/dev/null || echo nothing"
    assert host("run", "--network", "blue", "host", "sh", "-c", far) == "nothing\n"
    assert host("exec", "one", "sh", "-c", f"{PING} {other} >/dev/null || echo nothing") == "nothing\n"


def test_an_address_that_the_host_gets_later(host):
    """A tunnel with the same addresses comes up when the network is there already: the container's neighbours are its own."""
    host("network", "create", "--subnet", "10.77.0.0/24", "web")
    host.run("ip", "link", "add", "tunnel", "type", "veth", "peer", "name", "far")
    host.run("ip", "addr", "add", "10.77.0.1/16", "dev", "tunnel")
    host.run("ip", "link", "set", "tunnel", "up")
    host.run("ip", "route", "add", "10.0.0.0/8", "dev", "tunnel")
    host("run", "-d", "--name", "one", "--network", "web", "host", "sleep", "1000")
    assert host("run", "--network", "web", "host", "sh", "-c", f"{PING} one >/dev/null && {PING} 10.77.0.1 >/dev/null && echo reached") == "reached\n"
    refused(host.try_("network", "create", "--subnet", "10.78.0.0/24", "x"), "overlaps with 10.0.0.0/8")
    host("rm", "-f", "one")
    host.run("ip", "link", "del", "tunnel")


def test_every_subnet_is_taken(host):
    host.run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
    for subnet in ("172.16.0.0/12", "192.168.0.0/16"):
        host.run("ip", "addr", "add", subnet.replace(".0/", ".1/"), "dev", "here")
    refused(host.try_("network", "create", "web"), "every subnet that could be chosen is in use", "--subnet names one")
    refused(host.try_("run", "--network", "bridge", "host", "true"), "every subnet that could be chosen is in use")
    host("network", "create", "--subnet", "10.3.0.0/24", "web")
    host("run", "--network", "web", "host", "true")
    host.run("ip", "link", "del", "here")


def test_a_bridge_of_another_kind_has_the_name(host):
    host("network", "create", "web")
    name = json.loads(host("network", "inspect", "web"))[0]["Bridge"]
    host.run("ip", "link", "add", name, "up", "type", "veth", "peer", "name", "other")
    refused(host.try_("run", "--network", "web", "host", "true"), f"{name} is an interface of another kind (veth)")
    host.run("ip", "link", "del", "other", check=False)  # whatever has our names is removed like ours
