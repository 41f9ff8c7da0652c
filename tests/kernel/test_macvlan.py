"""Networks on an interface of the host's: macvlan, and ipvlan where the kernel has it."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.hosts import host, joined, refused, until
from tests.kernel.test_connecting import interfaces, on, reaches
from tests.namespaces import namespaces

__all__ = ["host"]
pytestmark = pytest.mark.root

NEIGHBOURS = ("--subnet", "192.0.2.0/24", "--gateway", "192.0.2.2", "--ip-range", "192.0.2.128/26")


def kernel_has(driver: str) -> bool:
    words = f"ip link add a type veth peer name b && ip link add link a name c type {driver}"
    return subprocess.run(["unshare", "-n", "sh", "-c", words], capture_output=True, check=False).returncode == 0


def test_neighbours_of_the_hosts_neighbours(host):
    with namespaces(1) as (outside,):
        joined(host, outside)
        host("network", "create", "-d", "macvlan", *NEIGHBOURS, "-o", "parent=uplink", "-o", "com.docker.network.driver.mtu=1400", "lan")
        shown = json.loads(host("network", "inspect", "lan"))[0]
        assert shown["Driver"] == "macvlan" and shown["Options"] == {"parent": "uplink", "macvlan_mode": "bridge"}
        one = host("run", "-d", "--name", "one", "--network", "lan", "--network-alias", "store", "host", "sleep", "1000").strip()
        address = on(host, "lan")[one]
        assert address.startswith("192.0.2.1") and "default via 192.0.2.2" in host("exec", "one", "ip", "route")
        assert "mtu 1400" in host("exec", "one", "ip", "link", "show", "eth0")
        outside.run("busybox", "ping", "-c", "1", "-W", "1", address)
        assert reaches(host, "one", "192.0.2.2") and not reaches(host, "one", "192.0.2.1"), "but not the host"
        mac = host("exec", "one", "cat", "/sys/class/net/eth0/address").strip()
        assert mac in outside.run("ip", "neigh").stdout
        host("run", "-d", "--name", "two", "--network", "lan", "--ip", "192.0.2.77", "--mac-address", "02:00:00:00:00:77", "host", "sleep", "1000")
        assert reaches(host, "two", "store") and reaches(host, "one", "two")
        assert not host.tables() and host.links() == set(), "nothing stands between"
        drawn = host("network", "inspect", "--kernel", "lan")
        assert "interface" in drawn and "uplink" in drawn and f"macvlan eth0 → container {one} ({address})" in drawn
        assert "(macvlan)" in host("inspect", "--kernel", "one") and "on 2: uplink" in host("inspect", "--kernel", "one")
        # connected later, and off again
        host("run", "-d", "--name", "three", "--network", "bridge", "host", "sleep", "1000")
        host("network", "connect", "lan", "three")
        assert interfaces(host, "three") == ["eth0", "eth1"] and reaches(host, "three", on(host, "lan")[one])
        host("network", "disconnect", "lan", "three")
        assert interfaces(host, "three") == ["eth0"] and len(on(host, "lan")) == 2
        # its name is the container's to change
        host("run", "-d", "--name", "sly", "--network", "bridge", "--cap-add", "NET_ADMIN", "host", "sleep", "1000")
        host("network", "connect", "lan", "sly")
        host("exec", "sly", "sh", "-c", "ip link set eth1 down; ip link set eth1 name other; ip link add eth1 type veth peer name decoy")
        host("network", "disconnect", "lan", "sly")
        assert "macvlan" not in host("exec", "sly", "ip", "-d", "link")
        host("rm", "-f", "one", "two", "three", "sly")
        until(host.empty)
        host("network", "rm", "lan")


def test_modes_and_a_parent_that_is_taken(host):
    with namespaces(1) as (outside,):
        joined(host, outside)
        private = (
            "network",
            "create",
            "-d",
            "macvlan",
            "-o",
            "parent=uplink",
            "-o",
            "macvlan_mode=private",
            "--subnet",
            "192.0.2.0/25",
            "--gateway",
            "192.0.2.3",
        )
        host(*private, "--ip-range", "192.0.2.64/26", "apart")
        refused(host.try_(*private, "again"), "overlaps with 192.0.2.0/25")
        host("run", "-d", "--name", "one", "--network", "apart", "host", "sleep", "1000")
        host("run", "-d", "--name", "two", "--network", "apart", "host", "sleep", "1000")
        assert reaches(host, "one", "192.0.2.2") and not reaches(host, "one", "two")
        host("network", "create", "-d", "macvlan", "--subnet", "192.0.2.128/25", "-o", "parent=uplink", "-o", "macvlan_mode=passthru", "alone")
        refused(host.try_("run", "--network", "alone", "host", "true"), "network alone: make eth0 on uplink", "passthru")
        host("rm", "-f", "one", "two")
        until(lambda: on(host, "apart") == {})
        until(lambda: host.try_("run", "--network", "alone", "host", "true").returncode == 0)  # theirs go with their namespaces, by and by
        host.run("ip", "link", "set", "uplink", "down")
        refused(host.try_("run", "--network", "apart", "host", "true"), "its interface uplink is off", "ip link set uplink up")
        host.run("ip", "link", "del", "uplink")
        refused(host.try_("run", "--network", "apart", "host", "true"), "no interface uplink any more")


def test_ipvlan(host):
    with namespaces(1) as (outside,):
        joined(host, outside)
        host("network", "create", "-d", "ipvlan", *NEIGHBOURS, "-o", "parent=uplink", "lan")
        refused(host.try_("run", "--network", "lan", "--mac-address", "02:00:00:00:00:01", "host", "true"), "of driver ipvlan")
        if kernel_has("ipvlan"):
            assert host("run", "--network", "lan", "host", "sh", "-c", "busybox ping -c 1 -W 1 192.0.2.2 >/dev/null && echo reached") == "reached\n"
        else:
            refused(host.try_("run", "--network", "lan", "host", "true"), "network lan: the kernel has no ipvlan", "modprobe ipvlan")


def test_requests_that_make_no_sense(host):
    with namespaces(1) as (outside,):
        joined(host, outside)
        create = ("network", "create", "-d", "macvlan")
        for words, *said in (
            ((*create, *NEIGHBOURS, "x"), "none is named", "-o parent=eth0"), ((*create, "-o", "parent=uplink", "x"), "subnet has to be named"),
            ((*create, *NEIGHBOURS, "--ipv6", "-o", "parent=uplink", "x"), "IPv6 subnet has to be named"),
            ((*create, "--subnet", "fd00::/64", "-o", "parent=uplink", "x"), "IPv4 subnet has to be named"),
            ((*create, *NEIGHBOURS, "-o", "parent=a name that is too long", "x"), "no interface's name"),
            ((*create, *NEIGHBOURS, "-o", "parent=nonesuch", "x"), "no interface nonesuch"), ((*create, *NEIGHBOURS, "-o", "parent=uplink", "--internal", "x"), "cannot be internal"),
            ((*create, *NEIGHBOURS, "-o", "parent=uplink", "-o", "macvlan_mode=odd", "x"), "no mode 'odd'", "passthru"),
            ((*create, *NEIGHBOURS, "-o", "parent=uplink", "-o", "ipvlan_mode=l2", "x"), "'ipvlan_mode' is not known"),
            (("network", "create", "-o", "parent=uplink", "x"), "stands on no interface"),
        ):  # fmt: skip
            refused(host.try_(*words), *said)
        host(*create, *NEIGHBOURS, "-o", "parent=uplink", "lan")
        for words, *said in (
            (("run", "--network", "lan", "-p", "80", "host", "true"), "this host does not reach network lan"),
            (("run", "--network", "lan", "--egress", "none", "host", "true"), "leads past the host's rules"),
            (("run", "--network", "lan", "--add-host", "me:host-gateway", "host", "true"), "this host is not to be reached"),
        ):  # fmt: skip
            refused(host.try_(*words), *said)
