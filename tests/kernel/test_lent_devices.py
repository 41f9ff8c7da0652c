"""--network device:NAME: an interface of the host's in a container, and back as it was."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from hutch.kernel.netlink import route
from tests.hosts import Host, host, refused, until
from tests.namespaces import namespaces

__all__ = ["host"]
pytestmark = pytest.mark.root

PING = "busybox ping -c 1 -W 1 10.88.0.2 >/dev/null && echo reached"


@pytest.fixture
def card(host: Host) -> Iterator[Host]:
    """A host with an interface to an outside."""
    with namespaces(1) as (outside,):
        with host.route() as here, outside.route() as far:
            here.do(route.veth("card", "uplink", peer_namespace_fd=outside.fd))
            for socket, name, number in ((here, "card", 1), (far, "uplink", 2)):
                link = socket.link(name)
                socket.do(route.new_address(link.index, f"10.88.0.{number}", 24))
                socket.do(route.set_link(link.index, up=True))
        yield host
        host.run("ip", "link", "del", "card", check=False)


def state(host: Host) -> tuple[str, list[str]]:
    """Whether the card is on, and its addresses."""
    for link in host.ip("addr"):
        if link["ifname"] == "card":
            return "UP" in link["flags"], [f"{item['local']}/{item['prefixlen']}" for item in link["addr_info"] if item["scope"] == "global"]
    return False, []


def test_it_goes_in_and_comes_back(card):
    before = state(card)
    assert before == (True, ["10.88.0.1/24"])
    shown = card("run", "--network", "device:card", "host", "sh", "-c", f"ip -br addr show card; {PING}")
    assert "10.88.0.1/24" in shown and shown.endswith("reached\n")
    assert state(card) == before
    shown = card("run", "--network", "device:card:name=lan0", "--userns", "host", "host", "sh", "-c", f"ip -br link show lan0; {PING}; exit 0")
    assert shown.startswith("lan0") and shown.endswith("reached\n") and state(card) == before
    # what the container did to it is not the host's to keep
    card(
        "run",
        "--cap-add",
        "NET_ADMIN",
        "--network",
        "device:card",
        "host",
        "sh",
        "-c",
        "ip addr flush dev card; ip addr add 10.99.0.1/24 dev card; ip link set card down",
    )
    assert state(card) == before
    card("network", "create", "also")
    shown = card("run", "--network", "also", "--network", "device:card", "host", "sh", "-c", f"ip -br link | grep -c -E '^(eth0|card)'; {PING}")
    assert shown == "2\nreached\n" and state(card) == before


def test_from_a_container_that_is_killed(card):
    before = state(card)
    card("run", "-d", "--name", "kept", "--network", "device:card", "host", "sleep", "1000")
    assert state(card) == (False, [])
    refused(card.try_("run", "--network", "device:card", "host", "true"), "device:card", "no such interface")
    assert card("exec", "kept", "sh", "-c", PING) == "reached\n"
    card("rm", "-f", "kept")
    until(lambda: state(card) == before)
    # whoever started it is killed: its executor sees to it
    process = card.start("run", "--network", "device:card", "host", "sleep", "1000")
    until(lambda: state(card) == (False, []))
    process.kill()
    process.wait()
    until(lambda: state(card) == before)


def test_from_a_container_that_cannot_be_made(card):
    before = state(card)
    assert card.try_("run", "--network", "device:card", "host", "no-such-program").returncode == 127
    until(lambda: state(card) == before)
    card("network", "create", "taken")
    refused(
        card.try_("run", "--network", "taken", "--network", "device:card:name=eth0", "host", "true"),
        "eth0 is the container's interface on a network",
        "name=NAME",
    )
    until(lambda: state(card) == before)


def test_what_makes_no_sense(card):
    for words, *said in (
        (("device:nonesuch",), "no such interface", "ip link"), (("device:lo",), "loopback"), (("device:card:name=lo",), "loopback"),
        (("device:",), "expected device:INTERFACE"), (("device:card:ip=1.2.3.4",), "expected device:INTERFACE"), (("device:a/b",), "expected device:"),
        (("device:card", "device:card"), "twice"), (("device:card", "host"), "goes with no other"), (("device:" + "x" * 16,), "expected device:"),
    ):  # fmt: skip
        flags = [flag for word in words for flag in ("--network", word)]
        refused(card.try_("run", *flags, "host", "true"), *said)
    assert state(card) == (True, ["10.88.0.1/24"])


def test_the_plan_says_so(card):
    shown = card("plan", "--network", "device:card", "host", "true")
    assert "lend card to the container as card (undo: take it back)" in shown and state(card)[0]


def test_an_ordinary_user_is_told(as_user):
    refused(as_user("-m", "hutch.cli", "run", "--network", "device:lo", "host", "true"), "lent by root alone")


def test_it_is_unplugged_meanwhile(card):
    """The interface is deleted while the container has it: there is nothing to take back, and that is no error."""
    card("run", "-d", "--name", "kept", "--network", "device:card", "host", "sleep", "1000")
    (record,) = [json.loads(line) for line in card("ps", "--json").splitlines()]
    card.run("nsenter", f"--net=/proc/{record['pid']}/ns/net", "ip", "link", "del", "card")
    os.kill(record["pid"], signal.SIGKILL)
    until(lambda: card("ps", "-q") == "")
    card("rm", "-f", "kept")
