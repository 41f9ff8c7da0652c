"""`hutch run --network`, on hosts that are network namespaces of the test's: what a user of Docker's networks expects."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.hosts import Host, host, joined, refused, until
from tests.namespaces import namespaces

__all__ = ["host"]
pytestmark = pytest.mark.root


PING = "busybox ping -c 1 -W 1"


def addresses(host: Host, network: str) -> dict[str, str]:
    found = json.loads(host("network", "inspect", network))[0]["Containers"]
    return {container: entry["IPv4Address"] for container, entry in found.items()}


def test_two_networks(host):
    with namespaces(1) as (outside,):
        joined(host, outside)
        for name in ("red", "blue"):
            identity = host("network", "create", "--ipv6", name).strip()
            assert re.fullmatch("[0-9a-f]{12}", identity)
        assert host.empty(), "a network is nothing to the kernel before a container is on it"
        one = host("run", "-d", "--name", "one", "--network", "red", "host", "sleep", "1000").strip()
        two = host("run", "-d", "--name", "two", "--network", "blue", "host", "sleep", "1000").strip()
        of_one, of_two = addresses(host, "red")[one], addresses(host, "blue")[two]
        shown = host(
            "run",
            "--network",
            "red",
            "host",
            "sh",
            "-c",
            f"hostname; cat /etc/hosts; ip -4 route; {PING} {of_one} && {PING} 192.0.2.2; {PING} {of_two}; echo $?",
        )
        name, *lines = shown.splitlines()
        assert lines[-1] == "1" and shown.count(" 0% packet loss") == 2 and shown.count("100% packet loss") == 1
        own = next(line.split()[0] for line in lines if line.split()[1:] == [name])
        assert ipaddress.ip_address(own).is_private and "127.0.1.1" not in shown and f"default via {own.rpartition('.')[0].rpartition('.')[0]}." in shown
        six = json.loads(host("network", "inspect", "red"))[0]["Containers"][one]["IPv6Address"]
        assert host("run", "--network", "red", "host", "sh", "-c", f"until busybox ping6 -c 1 -W 1 {six} >/dev/null; do :; done; echo reached") == "reached\n"
        assert host("exec", "one", "sh", "-c", f"{PING} 192.0.2.2 >/dev/null; echo $?") == "0\n"
        refused(host.try_("network", "rm", "red"), f"container {one} is on it")
        host("stop", "-t", "0", "one")
        # the last one has left: the executor alone has removed what the network was
        until(lambda: not [name for name in host.links() if name == json.loads(host("network", "inspect", "red"))[0]["Bridge"]])
        assert host("network", "rm", "red") == "red\n" and "red" not in host("network", "ls")
        host("rm", "-f", "one", "two")
        until(host.empty)


def test_the_default_network_and_fixed_addresses(host):
    shown = host("run", "--network", "bridge", "host", "ip", "-4", "addr", "show", "eth0")
    subnet = json.loads(host("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Subnet"]
    own = next(line.split()[1] for line in shown.splitlines() if " inet " in line)
    assert ipaddress.ip_interface(own).network == ipaddress.ip_network(subnet)
    assert "bridge" in host("network", "ls")
    host(
        "network",
        "create",
        "--subnet",
        "10.77.0.0/24",
        "--gateway",
        "10.77.0.254",
        "--ip-range",
        "10.77.0.128/30",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "fixed",
    )
    shown = host(
        "run",
        "--network",
        "fixed",
        "--ip",
        "10.77.0.9",
        "--mac-address",
        "02:11:22:33:44:55",
        "host",
        "sh",
        "-c",
        "ip addr show eth0; ip route; getent hosts $(hostname)",
    )
    assert (
        "inet 10.77.0.9/24" in shown
        and "02:11:22:33:44:55" in shown
        and "mtu 1400" in shown
        and "via 10.77.0.254" in shown
        and shown.rstrip().splitlines()[-1].startswith("10.77.0.9")
    )
    identity = host("run", "-d", "--name", "kept", "--network", "fixed", "--ip", "10.77.0.9", "host", "sleep", "1000").strip()
    refused(host.try_("run", "--network", "fixed", "--ip", "10.77.0.9", "host", "true"), "10.77.0.9", f"container {identity}")
    refused(host.try_("run", "--network", "fixed", "--ip", "10.77.1.9", "host", "true"), "none of a host in 10.77.0.0/24")
    refused(host.try_("run", "--network", "fixed", "--ip6", "fd00::9", "host", "true"), "has no IPv6")
    refused(host.try_("run", "--network", "fixed", "--mac-address", "03:00:00:00:00:01", "host", "true"), "a group's")
    refused(host.try_("run", "--network", "fixed", "--mac-address", "x", "host", "true"), "no MAC address")
    for number in range(4):
        host("run", "-d", "--name", f"n{number}", "--network", "fixed", "host", "sleep", "1000")
    refused(host.try_("run", "--network", "fixed", "host", "true"), "every address of 10.77.0.128/30 is in use")
    assert sorted(addresses(host, "fixed").values()) == sorted(["10.77.0.9", *(f"10.77.0.{n}" for n in range(128, 132))])
    host("rm", "-f", "n2")
    until(lambda: len(addresses(host, "fixed")) == 4)
    assert "10.77.0.1" in host("run", "--network", "fixed", "host", "hostname", "-I")


def test_requests_that_make_no_sense(host):
    host.run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
    host.run("ip", "addr", "add", "10.66.0.1/16", "dev", "here")
    host("network", "create", "--subnet", "10.77.0.0/24", "there-is")
    for words, *said in (
        (("network", "create", "there-is"), "exists already"), (("network", "create", "bridge"), "exists already"), (("network", "create", "host"), "meaning of its own"),
        (("network", "create", "a/b"), "expected letters"), (("network", "create"), "expected one name"), (("network", "create", "-d", "overlay", "x"), "overlay"),
        (("network", "create", "--subnet", "10.66.3.0/24", "x"), "overlaps with 10.66.0.1/16"), (("network", "create", "--subnet", "10.77.0.128/25", "x"), "overlaps with 10.77.0.0/24"),
        (("network", "create", "--gateway", "10.1.0.1", "x"), "lies in none of"), (("network", "create", "-o", "com.docker.network.driver.mtu=9", "x"), "mtu: expected 68"),
        (("network", "create", "-o", "x=y", "x"), "'x' is not known"), (("network", "create", "--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24", "x"), "one subnet of each"),
        (("run", "--network", "nonesuch", "host", "true"), "'nonesuch': does not exist", "hutch network create"), (("network", "inspect", "nonesuch"), "does not exist"),
        (("network", "rm", "nonesuch"), "does not exist"), (("network", "rm"), "expected a network"), (("run", "--ip", "10.0.0.2", "host", "true"), "need a network"),
    ):  # fmt: skip
        refused(host.try_(*words), *said)
    assert host("network", "rm", "-f", "nonesuch") == "" and host("network", "ls", "-q").count("\n") == 1
    host.run("ip", "link", "del", "here")


def test_doctor_says_whose_rules_are_in_the_way(host):
    assert "nobody's policy is drop" in host("doctor")
    for within, remedy in (
        ("DOCKER-USER", "iptables -I DOCKER-USER -i hutch-+ -j ACCEPT"),
        ("ufw-user-forward", "ufw default allow routed"),
        ("own", "iifname hutch-*"),
    ):
        host.run(
            "nft", "-f", "-", input=f"table ip filter {{ chain FORWARD {{ type filter hook forward priority 0; policy drop; }}\nchain {within} {{\n}}\n}}\n"
        )
        said = host.try_("doctor").stdout
        assert "ip filter FORWARD drops what it does not accept" in said and remedy in said
        host.run("nft", "insert", "rule", "ip", "filter", "FORWARD", "iifname", "hutch-*", "accept")
        assert "Hutch's networks are let through" in host("doctor")
        host.run("nft", "delete", "table", "ip", "filter")


def test_many_at_once(host):
    """200 containers on one network, each of which finds another by name; in a program that has more descriptors than select(2) can count."""
    host("network", "create", "--subnet", "10.50.0.0/22", "crowd")
    script = """
        import random, resource
        from concurrent.futures import ThreadPoolExecutor
        import hutch

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        pool = ThreadPoolExecutor(16)
        boxes = list(pool.map(lambda number: hutch.Container("host", network="crowd", name=f"box{number}"), range(200)))
        look = "getent hosts box{0} >/dev/null && busybox ping -c 1 -W 5 box{0} >/dev/null; echo $?"
        found = pool.map(lambda box: box.run(["sh", "-c", look.format(random.randrange(200))]).stdout, boxes)
        print(set(found), len({box.run(["hostname", "-I"]).stdout for box in boxes}))
        list(pool.map(lambda box: box.close(), boxes))
        print(sum(pool.map(lambda _: hutch.run("host", ["true"], network="crowd").exit_code, range(200))))
    """
    assert host.python(textwrap.dedent(script)).splitlines() == ["{'0\\n'} 200", "0"]


def test_two_that_end_at_once(host):
    """Each looks whether it is the last while the other still holds the network. Their looks are held up, so that both are at it."""
    host("network", "create", "brief")
    for name in ("one", "two"):
        host("run", "-d", "--name", name, "--network", "brief", "host", "sleep", "1000")
    records = [json.loads(line) for line in host("ps", "--json").splitlines()]
    delay = ["strace", "-q", "-o", "/dev/null", "-e", "trace=fcntl", "-e", "inject=fcntl:delay_exit=400000"]
    tracers = [subprocess.Popen([*delay, "-p", str(record["executor"])]) for record in records]
    try:
        until(lambda: all("TracerPid:\t0" not in Path(f"/proc/{record['executor']}/status").read_text() for record in records))
        for record in records:
            os.kill(record["pid"], signal.SIGKILL)
        until(host.empty, lambda: f"left behind: {host.links()} {host.tables()}")
    finally:
        for tracer in tracers:
            tracer.terminate()
            tracer.wait(20)


def test_everything_is_killed(host):
    """Neither Python nor an executor is left: the next command that has to do with it reclaims what there was."""
    host("network", "create", "killed")
    host("run", "-d", "--name", "one", "--network", "killed", "host", "sleep", "1000")
    host("run", "-d", "--name", "two", "--network", "killed", "host", "sleep", "1000")
    for name in ("one", "two"):
        (record,) = [json.loads(line) for line in host("ps", "--json").splitlines() if json.loads(line)["name"] == name]
        for pid in (record["executor"], record["pid"]):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    until(lambda: not addresses(host, "killed"))
    assert "hutch-" in host.tables()
    assert host("network", "prune") == "killed\n"
    assert host("ps", "-aq") == ""


def test_rules_of_the_dead_are_swept_while_others_live(host):
    host("network", "create", "mixed")
    host("run", "-d", "--name", "alive", "--network", "mixed", "host", "sleep", "1000")
    dead = host("run", "-d", "--name", "dead", "--network", "mixed", "host", "sleep", "1000").strip()
    (record,) = [json.loads(line) for line in host("ps", "--json").splitlines() if json.loads(line)["name"] == "dead"]
    os.kill(record["executor"], signal.SIGKILL)
    until(lambda: len(addresses(host, "mixed")) == 1 and f"v{dead}0" not in host.links())
    assert host("network", "prune") == ""
    ruleset = host.run("nft", "list", "ruleset").stdout
    assert dead not in ruleset and ruleset.count("its ARP") == 1
    assert host("exec", "alive", "sh", "-c", "ip -4 addr show eth0 | grep -c inet") == "1\n"


def test_a_failing_start_leaves_nothing(host):
    host("network", "create", "--subnet", "10.78.0.0/24", "unlucky")
    done = host.try_("run", "--network", "unlucky", "host", "no-such-program")
    assert done.returncode == 127
    until(host.empty)
    # the host has an interface where the network's bridge should be
    bridge = json.loads(host("network", "inspect", "unlucky"))[0]["Bridge"]
    host.run("ip", "link", "add", bridge, "type", "veth", "peer", "name", "x")
    refused(host.try_("run", "--network", "unlucky", "host", "true"), bridge, "another kind")
    host.run("ip", "link", "del", "x", check=False)


def test_a_command_that_was_started_is_on_its_network_at_once(host):
    """Also where nobody reads from it: `hutch.start` comes back when it runs."""
    code = """
import hutch
hutch.networks.create("mine")
with hutch.start("host", ["sleep", "100"], network="mine", name="server", ports=["8080:80"]) as server:
    print(hutch.run("host", ["getent", "hosts", "server"], network="mine").exit_code)
    server.kill()
try:
    hutch.start("host", ["no-such-program"], network="mine")
except hutch.StartError as error:
    print("StartError")
hutch.networks.remove("mine")
"""
    words = ["nsenter", f"--net=/proc/{host.process.pid}/ns/net", "--", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=host.environment, timeout=60)
    assert done.stdout == "0\nStartError\n", done.stderr


def test_another_containers_network(host):
    """--network container:NAME, as with Docker: its interfaces, its loopback, its names; whoever of the two ends first."""
    host("network", "create", "shop")
    host("run", "-d", "--name", "db", "--network", "shop", "host", "sleep", "1000")
    host(
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "shop",
        "host",
        "python3",
        "-c",
        "import socket, time; s = socket.create_server(('127.0.0.1', 80)); time.sleep(1000)",
    )
    script = "ip -4 -br addr show eth0; getent hosts db; cat /etc/resolv.conf; python3 -c \"import socket; socket.create_connection(('127.0.0.1', 80)); print('reached')\""
    until(lambda: "reached" in host.try_("run", "--network", "container:web", "host", "sh", "-c", script).stdout)
    shown = host("run", "--network", "container:web", "host", "sh", "-c", script)
    (web,) = [
        entry["IPv4Address"]
        for entry in json.loads(host("network", "inspect", "shop"))[0]["Containers"].values()
        if entry["IPv4Address"] in shown.split("\n")[0]
    ]
    assert web and "db" in shown and "nameserver 127.0.0.11" in shown
    assert host("run", "--network", "container:web", "--userns", "host", "host", "ip", "-4", "-br", "addr", "show", "eth0").split()[2].startswith(web)
    host("run", "-d", "--name", "late", "--network", "container:web", "host", "sleep", "1000")
    assert "reached" in host("exec", "late", "sh", "-c", script)
    refused(host.try_("run", "--network", "container:web", "-p", "80:80", "host", "true"), "no ports to be published")
    refused(host.try_("run", "--network", "container:web", "--network", "shop", "host", "true"), "goes with no other network")
    refused(host.try_("run", "--network", "container:web", "--ip", "10.0.0.1", "host", "true"), "has its addresses")
    refused(host.try_("run", "--network", "container:nobody", "host", "true"), "nobody")
    host("rm", "-f", "web")
    assert "lo" in host("exec", "late", "ip", "-br", "addr")
    refused(host.try_("run", "--network", "container:web", "host", "true"), "web")
