"""What the kernel has, as `hutch inspect --kernel` draws it: compared with what the machine's own tools say."""

from __future__ import annotations

import json
import os

import pytest

from tests.hosts import host, refused, until

__all__ = ["host"]
pytestmark = pytest.mark.root
LISTEN = "import socket, time; s = socket.create_server(('', 80)); time.sleep(1000)"


def test_a_container_and_its_network(host):
    host("network", "create", "shop")
    flags = ("--network", "shop", "-p", "8080:80", "--egress", "10.9.9.9:53")
    identity = host("run", "-d", "--name", "web", *flags, "host", "python3", "-c", LISTEN).strip()
    until(lambda: "socket tcp 0.0.0.0:80" in host("inspect", "--kernel", "web"))
    shown = host("inspect", "--kernel", "web")
    (record,) = [json.loads(line) for line in host("ps", "--json").splitlines()]
    entry = json.loads(host("network", "inspect", "shop"))[0]
    address, bridge = entry["Containers"][identity]["IPv4Address"], entry["Bridge"]
    assert shown.splitlines()[0] == f"container {identity} web" and f"process {record['pid']}" in shown
    for kind in ("user", "mnt", "pid", "net"):
        assert os.readlink(f"/proc/{record['pid']}/ns/{kind}") in shown
    lines = [line.lstrip("│├└─ ") for line in shown.splitlines()]
    (eth0,) = [line for line in lines if ": eth0 (veth) up" in line]
    gateway, prefix = entry["IPAM"]["Config"][0]["Gateway"], entry["IPAM"]["Config"][0]["Subnet"].partition("/")[2]
    assert f" {address}/{prefix}" in eth0
    (other,) = [line for line in lines if line.startswith("other end ")]
    assert "(veth) up" in other and f": {bridge} (bridge) up" in other
    assert f"route default via {gateway} by eth0" in lines
    assert any(line.startswith("nftables table inet hutch-egress-") for line in lines)
    assert any(line.startswith("chain ") and "ingress" in line for line in lines)
    assert any(line.startswith("published 0.0.0.0:8080") for line in lines)
    drawn = host("network", "inspect", "--kernel", "shop")
    assert f": {bridge} (bridge) up" in drawn and f"→ container {identity} ({address})" in drawn and "chain forward at forward" in drawn
    host("rm", "-f", "web")
    assert "nobody is on it" in host("network", "inspect", "--kernel", "shop")
    refused(host.try_("inspect", "--kernel", "web"), "web")


def test_a_container_without_a_network(host):
    host("run", "-d", "--name", "alone", "host", "sleep", "1000")
    shown = host("inspect", "--kernel", "alone")
    assert "network namespace net:[" in shown and "lo" in shown and "eth0" not in shown and "nftables" not in shown
    host("rm", "-f", "alone")
    host("run", "-d", "--name", "open", "--network", "host", "host", "sleep", "1000")
    shown = host("inspect", "--kernel", "open")
    assert "the host's" in shown and "network namespace" not in shown
