"""`hutch network connect` and `disconnect`: networks of containers that run already."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from hutch.executor.launcher import FIRST_EXTRA, Execution
from hutch.plan import ops
from hutch.plan.plan import Plan
from tests.hosts import Host, host, joined, processes, refused, until
from tests.namespaces import namespaces

__all__ = ["host"]
pytestmark = pytest.mark.root

PING = "busybox ping -c 1 -W 1"


def on(host: Host, network: str) -> dict[str, str]:
    found = json.loads(host("network", "inspect", network))[0]["Containers"]
    return {container: entry["IPv4Address"] for container, entry in found.items()}


def interfaces(host: Host, container: str) -> list[str]:
    return [line.split("@")[0] for line in host("exec", container, "ip", "-br", "link").splitlines() if not line.startswith("lo")]


def reaches(host: Host, container: str, what: str) -> bool:
    return host("exec", container, "sh", "-c", f"{PING} {what} >/dev/null 2>&1 && echo yes || echo no") == "yes\n"


def test_on_and_off(host):
    for name in ("red", "blue"):
        host("network", "create", name)
    one = host("run", "-d", "--name", "one", "--network", "red", "host", "sleep", "1000").strip()
    two = host("run", "-d", "--name", "two", "--network", "blue", "host", "sleep", "1000").strip()
    address = on(host, "blue")[two]
    assert not reaches(host, "one", address)
    assert host("network", "connect", "--alias", "store", "--ip", address.rpartition(".")[0] + ".77", "blue", "one") == ""
    assert interfaces(host, "one") == ["eth0", "eth1"] and on(host, "blue")[one].endswith(".77")
    assert all(reaches(host, "two", name) for name in ("one", "store", "one.blue")) and reaches(host, "one", "two")
    assert host("exec", "one", "sh", "-c", "ip -4 route | grep ^default").count("eth0") == 1, "the way out stays what it was"
    refused(host.try_("network", "connect", "blue", "one"), "container one is on it already")
    refused(host.try_("network", "rm", "blue"), "is on it")
    # its address is free as soon as it has left
    host("network", "disconnect", "blue", "one")
    assert interfaces(host, "one") == ["eth0"] and one not in on(host, "blue") and not reaches(host, "one", address)
    assert host("exec", "two", "sh", "-c", "getent hosts store; echo $?") == "2\n"
    host("run", "--network", "blue", "--ip", address.rpartition(".")[0] + ".77", "host", "true")
    refused(host.try_("network", "disconnect", "blue", "one"), "container one is not on it")
    assert host("network", "disconnect", "-f", "blue", "one") == ""
    # the one that it began with, too
    bridge = json.loads(host("network", "inspect", "red"))[0]["Bridge"]
    before = on(host, "red")[one]
    host("network", "disconnect", "red", "one")
    assert interfaces(host, "one") == [] and on(host, "red") == {}
    host("run", "--network", "red", "--ip", before, "host", "true")
    host("network", "rm", "red")
    assert bridge not in host.links()
    host("network", "connect", "blue", "one")
    assert interfaces(host, "one") == ["eth0"] and reaches(host, "two", "one") and reaches(host, "one", "two")
    host("rm", "-f", "two")
    assert reaches(host, "one", on(host, "blue")[one])
    host("rm", "-f", "one")
    until(host.empty)


def test_the_way_out_moves(host):
    with namespaces(1) as (outside,):
        joined(host, outside)
        host("network", "create", "first")
        host("network", "create", "second")
        host("network", "create", "--internal", "inner")
        host("run", "-d", "--name", "box", "--network", "inner", "host", "sleep", "1000")
        assert not reaches(host, "box", "192.0.2.2")
        host("network", "connect", "first", "box")
        assert reaches(host, "box", "192.0.2.2")
        host("network", "connect", "second", "box")
        host("network", "disconnect", "first", "box")
        assert reaches(host, "box", "192.0.2.2") and interfaces(host, "box") == ["eth0", "eth2"]
        host("network", "disconnect", "second", "box")
        assert not reaches(host, "box", "192.0.2.2")


def test_a_container_without_a_network(host):
    host("network", "create", "web")
    host("run", "-d", "--name", "other", "--network", "web", "host", "sleep", "1000")
    host("run", "-d", "--name", "alone", "host", "sleep", "1000")
    host("network", "connect", "--alias", "late", "web", "alone")
    assert reaches(host, "other", "late") and reaches(host, "alone", "other")
    host("network", "disconnect", "web", "alone")
    assert host("exec", "alone", "sh", "-c", "getent hosts other; echo $?") == "2\n"
    # from the default network, which has no names; and a resolver's file of one's own stays
    host("run", "-d", "--name", "plain", "--network", "bridge", "host", "sleep", "1000")
    host("exec", "plain", "sh", "-c", "echo '# mine' >> /etc/resolv.conf")
    host("network", "connect", "web", "plain")
    assert "127.0.0.11" not in host("exec", "plain", "cat", "/etc/resolv.conf") and reaches(host, "other", "plain")


def test_requests_that_make_no_sense(host):
    host("network", "create", "--subnet", "10.7.0.0/24", "web")
    host("run", "-d", "--name", "on-host", "--network", "host", "host", "sleep", "1000")
    host("run", "-d", "--name", "box", "--network", "web", "host", "sleep", "1000")
    host("run", "-d", "--name", "ended", "host", "true")
    until(lambda: "ended" not in host("ps"))
    host("network", "create", "--subnet", "10.8.0.0/24", "more")
    for words, *said in (
        (("network", "connect", "more"), "expected a network and a container"), (("network", "disconnect", "more"), "expected a network and a container"),
        (("network", "connect", "nonesuch", "box"), "'nonesuch': does not exist"), (("network", "connect", "more", "nobody"), "no container is called 'nobody'"),
        (("network", "connect", "more", "ended"), "ended"), (("network", "connect", "more", "on-host"), "no network of its own"),
        (("network", "connect", "--ip", "10.9.0.1", "more", "box"), "none of a host in 10.8.0.0/24"), (("network", "connect", "--ip6", "fd00::1", "more", "box"), "no IPv6"),
        (("network", "connect", "--mac-address", "x", "more", "box"), "no MAC"), (("network", "connect", "--alias", "a b", "more", "box"), "network-alias"),
    ):  # fmt: skip
        refused(host.try_(*words), *said)
    assert interfaces(host, "box") == ["eth0"] and on(host, "more") == {}


def test_a_policy_goes_along(host):
    with namespaces(1) as (outside,):
        joined(host, outside)
        host("network", "create", "red")
        host("network", "create", "blue")
        host("run", "-d", "--name", "two", "--network", "blue", "host", "sleep", "1000")
        kept = host("run", "-d", "--name", "kept", "--network", "red", "--egress", "none", "host", "sleep", "1000").strip()
        host("network", "connect", "blue", "kept")
        host("network", "disconnect", "red", "kept")
        assert reaches(host, "kept", "two") and reaches(host, "two", "192.0.2.2") and not reaches(host, "kept", "192.0.2.2")
        assert json.loads(host("network", "inspect", "blue"))[0]["Containers"][kept]["EgressRefused"]["Packets"] > 0


def test_who_has_the_address_next_is_not_judged_by_it(host):
    """Its MAC is the address's as well."""
    with namespaces(1) as (outside,):
        joined(host, outside)
        host("network", "create", "red")
        kept = host("run", "-d", "--name", "kept", "--network", "red", "--egress", "none", "host", "sleep", "1000").strip()
        address = on(host, "red")[kept]
        host("network", "disconnect", "red", "kept")
        host("run", "-d", "--name", "next", "--network", "red", "--ip", address, "host", "sleep", "1000")
        assert reaches(host, "next", "192.0.2.2")
        host("network", "connect", "red", "kept")
        assert not reaches(host, "kept", "192.0.2.2") and reaches(host, "next", "192.0.2.2") and reaches(host, "kept", "next")


def test_a_published_port_keeps_its_network(host):
    host("network", "create", "web")
    host("network", "create", "more")
    host("run", "-d", "--name", "box", "--network", "web", "-p", "8080:80", "host", "sleep", "1000")
    refused(host.try_("network", "disconnect", "web", "box"), "the published ports of container box lead to its address there")
    host("network", "connect", "more", "box")
    host("network", "disconnect", "more", "box")


def test_the_default_network_is_held_by_who_has_left(host):
    host("network", "create", "web")
    host("run", "-d", "--name", "box", "--network", "bridge", "host", "sleep", "1000")
    host("network", "connect", "web", "box")
    host("network", "disconnect", "bridge", "box")
    refused(host.try_("network", "rm", "bridge"), "a container that began on it and has left still holds it")
    host("rm", "-f", "box")
    until(host.empty)
    host("network", "rm", "bridge")


def test_both_ways_out(host):
    host("network", "create", "four")
    host("network", "create", "--ipv6", "both")
    host("run", "-d", "--name", "box", "--network", "four", "host", "sleep", "1000")
    host("network", "connect", "both", "box")
    assert "dev eth0" in host("exec", "box", "ip", "-4", "route", "show", "default") and "dev eth1" in host(
        "exec", "box", "ip", "-6", "route", "show", "default"
    )
    host("network", "disconnect", "four", "box")
    assert "dev eth1" in host("exec", "box", "ip", "-4", "route", "show", "default")


def test_a_resolvers_file_that_is_somebody_elses(host, tmp_path):
    """A link, what is no file, or a file of the host's is left alone; and the connection is made."""
    host("network", "create", "web")
    mine = tmp_path / "resolv.conf"
    mine.write_text("")
    tmp_path.chmod(0o755)
    host("run", "-d", "--name", "bound", "-v", f"{mine}:/etc/resolv.conf", "host", "sleep", "1000")
    host("network", "connect", "web", "bound")
    assert mine.read_text() == ""
    for name, target in (("link", "/etc/empty"), ("strange", "/proc/1/mem"), ("fifo", "")):
        host("run", "-d", "--name", name, "host", "sleep", "1000")
        host("exec", name, "sh", "-c", f"rm /etc/resolv.conf; : > /etc/empty; {f'ln -s {target}' if target else 'mkfifo'} /etc/resolv.conf")
        host("network", "connect", "web", name)
        assert reaches(host, name, on(host, "web")[host("exec", name, "hostname").strip()])
        assert host("exec", name, "cat", "/etc/empty") == ""


def holders(host) -> set[int]:
    """The executors that hold something of a host's networks."""
    return set(processes(Path(host.environment["HUTCH_DATA"]), "hutch-executor"))


def test_the_holder_is_killed(host):
    """Its address is lost, and so is its place: nobody else's packets come to who gets the address next."""
    host("network", "create", "web")
    host("network", "create", "more")
    host("run", "-d", "--name", "other", "--network", "more", "host", "sleep", "1000")
    host("run", "-d", "--name", "box", "--network", "web", "host", "sleep", "1000")
    before = holders(host)
    host("network", "connect", "more", "box")
    (holder,) = holders(host) - before
    os.kill(holder, signal.SIGKILL)
    until(lambda: holder not in holders(host))
    host("network", "prune")
    assert interfaces(host, "box") == ["eth0"] and len(on(host, "more")) == 1
    host("network", "connect", "more", "box")
    assert reaches(host, "other", "box")
    # of a network that it alone was on
    host("network", "create", "last")
    before = holders(host)
    host("network", "connect", "last", "box")
    (holder,) = holders(host) - before
    os.kill(holder, signal.SIGKILL)
    until(lambda: holder not in holders(host))
    host("network", "prune")
    assert interfaces(host, "box") == ["eth0", "eth1"]


def test_an_interruption_while_the_executor_asks():
    """Ctrl-C comes at any time, and is not waited for."""
    null = os.open(os.devnull, os.O_RDWR)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    pidfd = os.pidfd_open(os.getpid())
    watched = ops.slot("watched")
    plan = Plan(host=(ops.Inherit(into=watched, number=FIRST_EXTRA), ops.CallOwner(request="what"), ops.Watch(process=watched)), container=(), detach=True)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Execution(plan, stdin=null, stdout=null, stderr=null, extra=(pidfd,), on_call=interrupted) as execution:
        execution.wait_ready()
    assert time.monotonic() - began < 10
    os.close(null)
    os.close(pidfd)


def test_whoever_connects_is_killed(host):
    """At any time: the container goes on, and what was begun can be ended or begun again."""
    host("network", "create", "web")
    host("network", "create", "more")
    host("run", "-d", "--name", "box", "--network", "web", "host", "sleep", "1000")
    chance = random.Random(7)
    for round_ in range(12):
        verb = ("connect", "disconnect")[round_ % 2]
        started = host.start("network", verb, *(("-f",) if verb == "disconnect" else ()), "more", "box")
        time.sleep(chance.uniform(0.05, 0.35))
        started.kill()
        started.wait()
    host("network", "disconnect", "-f", "more", "box")
    host("network", "prune")
    host("network", "create", "more")  # nobody was on it
    host("network", "connect", "more", "box")
    assert len(interfaces(host, "box")) == 2 and len(on(host, "more")) == 1
    assert host("exec", "box", "echo", "alive") == "alive\n"


def test_from_python_and_by_several_at_once(host):
    script = (
        "import hutch\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "names = [f'n{i}' for i in range(8)]\n"
        "for name in names: hutch.networks.create(name)\n"
        "with hutch.Container('host', network='n0') as box:\n"
        "    with ThreadPoolExecutor(7) as pool: found = sorted(pool.map(lambda name: hutch.networks.connect(name, box), names[1:]))\n"
        "    print(found, box.run(['sh', '-c', 'ip -br link | grep -c eth']).stdout.strip())\n"
        "    def again(name):\n"
        "        try: hutch.networks.connect('n1', box)\n"
        "        except hutch.StateError as error: return error.message\n"
        "    print({again(n) for n in range(2)})\n"
        "    with ThreadPoolExecutor(8) as pool: list(pool.map(lambda name: hutch.networks.disconnect(name, box), names))\n"
        "    print(box.run(['sh', '-c', 'ip -br link | grep -c eth']).stdout.strip(), hutch.networks.prune() == names)\n"
    )
    first, second, third = host.python(script).splitlines()
    assert (first, third) == ("['eth1', 'eth2', 'eth3', 'eth4', 'eth5', 'eth6', 'eth7'] 8", "0 True")
    assert re.fullmatch("{'network n1: container [0-9a-f]{12} is on it already'}", second)
