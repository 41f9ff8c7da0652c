"""What a network is, and who has which address."""

from __future__ import annotations

import ipaddress
import os
import signal
import time

import pytest
from hypothesis import given, settings, strategies as st

from hutch import jsontext
from hutch.errors import HutchError, UsageError
from hutch.network import leases, port_filter, spec
from hutch.network.attach import endpoint_of
from hutch.network.bridge import rules, table_name
from hutch.network.leases import Tenant
from hutch.network.spec import Network, parse_subnet

SMALL = parse_subnet("10.9.0.0/29")  # .1 is the gateway's, .2 to .6 are free


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("10.0.0.1/24",), "host bits"), (("10.0.0.0/33",), "does not appear"), (("x",), "does not appear"), (("10.0.0.0/31",), "no room"),
        (("224.0.0.0/8",), "no network can have"), (("127.0.0.0/8",), "no network can have"), (("fe80::/64",), "no network can have"), (("0.0.0.0/0",), "no network can have"),
        (("10.0.0.0/24", "10.0.1.1"), "gateway 10.0.1.1"), (("10.0.0.0/24", "10.0.0.0"), "gateway"), (("10.0.0.0/24", "10.0.0.255"), "gateway"),
        (("10.0.0.0/24", "fd00::1"), "gateway"), (("10.0.0.0/24", "x"), "no address"), (("10.0.0.0/24", "", "10.0.1.0/25"), "does not lie in"),
        (("10.0.0.0/24", "", "fd00::/64"), "does not lie in"), (("10.0.0.0/24", "", "10.0.0.3/25"), "host bits"),
    ],
)  # fmt: skip
def test_subnets_that_are_none(words, said):
    with pytest.raises(UsageError, match=said):
        parse_subnet(*words)


@pytest.mark.parametrize("name", ["", ".x", "-x", "a b", "a/b", "..", "none", "host", "default", "x" * 129, "ä", "a\n"])
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="network"):
        spec.check_name(name)


def test_what_a_subnet_gets_by_itself():
    assert parse_subnet("10.0.0.0/24").gateway == "10.0.0.1" and parse_subnet("fd00::/64").gateway == "fd00::1"
    assert list(spec.hosts(SMALL)) == [f"10.9.0.{n}" for n in range(2, 7)]
    assert list(spec.hosts(parse_subnet("10.9.0.0/29", range_="10.9.0.4/30"))) == ["10.9.0.4", "10.9.0.5", "10.9.0.6"]
    assert spec.mac_of("10.9.0.2") == "02:42:0a:09:00:02"


@given(st.integers(0, 1 << 40))
def test_hosts_are_each_there_once_wherever_one_begins(start):
    assert sorted(spec.hosts(SMALL, start)) == [f"10.9.0.{n}" for n in range(2, 7)]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 32)), max_size=30))
def test_a_free_subnet_is_free(taken):
    used = [str(ipaddress.ip_network((address, size), strict=False)) for address, size in taken]
    try:
        found = spec.free_subnet(used)
    except UsageError:
        return
    assert not spec.overlapping(found, used) and ipaddress.ip_network(found).is_private


def test_subnets_run_out():
    taken: list[str] = []
    while True:
        try:
            taken.append(spec.free_subnet(taken))
        except UsageError as error:
            assert error.hint and "--subnet" in error.hint
            break
    assert (
        len(taken) == len(set(taken)) == 2 + 4 + 8 + 16 and spec.overlapping("172.20.0.0/16", ["10.0.0.0/8", "0.0.0.0/0", "172.20.3.4/32"]) == "172.20.3.4/32"
    )


def test_ipv6_of_ones_own():
    found = ipaddress.ip_network(spec.local_subnet("0123456789ab"))
    assert found.subnet_of(ipaddress.ip_network("fd00::/8")) and found.prefixlen == 64
    assert spec.local_subnet("0123456789ab") == spec.local_subnet("0123456789ab") != spec.local_subnet("0123456789ac")


# leases


def test_an_address_is_given_once_and_comes_back(tmp_path):
    place = str(tmp_path / "leases")
    found = [leases.take(place, SMALL, Tenant(container=f"c{number}")) for number in range(5)]
    assert sorted(lease.address for lease in found) == [f"10.9.0.{n}" for n in range(2, 7)]
    with pytest.raises(HutchError, match="every address of 10.9.0.0/29 is in use"):
        leases.take(place, SMALL, Tenant(container="one more"))
    assert dict(leases.held(place)) == {lease.address: Tenant(container=f"c{number}") for number, lease in enumerate(found)}
    found[2].close()
    found[2].close()
    assert leases.take(place, SMALL, Tenant(container="next")).address == found[2].address


def test_an_address_that_is_asked_for(tmp_path):
    place = str(tmp_path)
    with pytest.raises(UsageError, match="is none"):
        leases.take(place, SMALL, Tenant(container="c"), "x")
    for address in ("10.9.1.2", "10.9.0.0", "10.9.0.7", "fd00::2"):
        with pytest.raises(UsageError, match="none of a host"):
            leases.take(place, SMALL, Tenant(container="c"), address)
    with pytest.raises(UsageError, match="gateway"):
        leases.take(place, SMALL, Tenant(container="c"), "10.9.0.1")
    lease = leases.take(place, SMALL, Tenant(container="first"), "10.9.0.5")
    with pytest.raises(UsageError, match="10.9.0.5: is container first's already"):
        leases.take(place, SMALL, Tenant(container="second"), "10.9.0.5")
    assert lease.address == "10.9.0.5" and os.listdir(place) == ["10.9.0.5"]
    six = parse_subnet("fd00::/64")
    assert leases.take(place, six, Tenant(container="c"), "fd00:0::00ff").address == "fd00::ff"


def test_a_range_is_for_those_who_do_not_ask(tmp_path):
    narrow = parse_subnet("10.9.0.0/24", range_="10.9.0.128/30")
    kept = [leases.take(str(tmp_path), narrow, Tenant(container=f"c{n}")) for n in range(4)]
    assert sorted(lease.address for lease in kept) == [f"10.9.0.{n}" for n in range(128, 132)]
    assert leases.take(str(tmp_path), narrow, Tenant(container="other"), "10.9.0.9").address == "10.9.0.9"


def test_an_address_says_whose_it_is_and_can_be_taken_away(tmp_path):
    place = str(tmp_path)
    lease = leases.take(place, SMALL, Tenant(container="first", number=3, aliases=("a", "b-c")), "10.9.0.5")
    assert dict(leases.held(place)) == {"10.9.0.5": Tenant(container="first", number=3, aliases=("a", "b-c"))}
    lease.sign(Tenant(container="first", number=3, holder=1234567))
    lease.sign(Tenant(container="first", number=3, holder=7))  # shorter: nothing of the longer one stays
    assert dict(leases.held(place)) == {"10.9.0.5": Tenant(container="first", number=3, holder=7)}
    leases.drop(place, "10.9.0.5", "second")
    leases.drop(place, "10.9.0.6", "first")
    assert dict(leases.held(place))
    leases.drop(place, "10.9.0.5", "first")
    assert not dict(leases.held(place)) and leases.take(place, SMALL, Tenant(container="second"), "10.9.0.5").address == "10.9.0.5"
    lease.close()


def test_the_killed_hold_nothing(tmp_path):
    place = str(tmp_path)
    child = os.fork()
    if child == 0:
        kept = [leases.take(place, SMALL, Tenant(container="dying")) for _ in range(5)]
        os.write(1, b"")
        time.sleep(100 if kept else 0)
        os._exit(0)
    deadline = time.monotonic() + 10
    while len(list(leases.held(place))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    with pytest.raises(HutchError):
        leases.take(place, SMALL, Tenant(container="waiting"))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert leases.take(place, SMALL, Tenant(container="alive")).address.startswith("10.9.0.")


def test_many_at_once_get_different_ones(tmp_path):
    """Processes that take and give back, and others that sweep, for a while: no two have the same at any time."""
    place = str(tmp_path)
    subnet = parse_subnet("10.9.0.0/27")
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for round_ in range(60):
                    mine = [leases.take(place, subnet, Tenant(container=f"p{number}r{round_}")) for _ in range(3)]
                    for lease in mine:
                        with open(f"{place}/{lease.address}") as file:
                            assert Tenant.of_text(file.read()).container == f"p{number}r{round_}"
                    leases.sweep(place, rest=0)
                    for lease in mine:
                        lease.close()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
    leases.sweep(place, rest=0)
    assert os.listdir(place) == []


def test_sweeping_leaves_what_is_held_or_fresh(tmp_path):
    place = str(tmp_path)
    held, left = leases.take(place, SMALL, Tenant(container="a"), "10.9.0.2"), leases.take(place, SMALL, Tenant(container="b"), "10.9.0.3")
    left.close()
    leases.sweep(place)
    assert sorted(os.listdir(place)) == ["10.9.0.2", "10.9.0.3"]
    leases.sweep(place, rest=0)
    assert os.listdir(place) == ["10.9.0.2"]
    held.close()


# rules


def test_rules_name_their_own_tables_alone():
    network = Network(name="n", id="0123456789ab", bridge="hutch-01234567", subnets=(SMALL, parse_subnet("fd00::/64")))
    for commands in (
        rules(network),
        rules(network.replace(internal=True)),
        port_filter.rules(table_name(network), "vx", "02:42:0a:09:00:02", ("10.9.0.2", "fd00::2")),
    ):
        for command in commands:
            ((_, thing),) = command.items()
            ((kind, inside),) = thing.items()
            assert (inside["name"] if kind == "table" else inside["table"]) == "hutch-01234567"
    text = str(rules(network.replace(internal=True)))
    assert "masquerade" not in text and str(rules(network)).count("masquerade") == 2


def test_macs():
    assert endpoint_of("c" * 12, 1, ("10.9.0.2",)).mac == "02:42:0a:09:00:02"
    assert endpoint_of("0123456789ab", 0, ("fd00::2",)).mac == "02:01:23:45:67:89"
    assert endpoint_of("c" * 12, 1, ("10.9.0.2",), "02:00:00:00:00:01").mac == "02:00:00:00:00:01"
    assert endpoint_of("c" * 12, 1, ("10.9.0.2",)).interface == "eth1" and not endpoint_of("c" * 12, 1, ("10.9.0.2",)).default


def test_without_root_and_without_pasta(monkeypatch):
    """What is missing is said, with what to install."""
    from hutch.engine.networks import usernet
    from hutch.errors import UnsupportedError
    from hutch.kernel.features import features

    monkeypatch.setattr(usernet, "program", lambda name: "")
    monkeypatch.setattr(usernet, "features", lambda: features().replace(user_namespaces=True))
    with pytest.raises(UnsupportedError, match="pasta") as caught:
        usernet.check()
    assert "passt" in (caught.value.hint or "")
    monkeypatch.setattr(usernet, "features", lambda: features().replace(user_namespaces=False))
    with pytest.raises(UnsupportedError, match="user namespaces"):
        usernet.check()


def test_what_is_sent_to_the_users_network_comes_as_it_was():
    from hutch.engine.networks import usernet
    from hutch.network import egress
    from hutch.network.attach import Connection, Endpoint
    from hutch.network.spec import Network, Subnet

    network = Network(name="web", id="0123456789ab", bridge="hutch-01234567", subnets=(Subnet(subnet="10.0.0.0/24", gateway="10.0.0.1"),), labels={"a": "b"})
    endpoint = Endpoint(addresses=("10.0.0.2",), mac="02:42:0a:00:00:02", port="vx")
    for policy in (egress.Policy(), egress.parse(["none"]), egress.parse(["a.org:443", "10.0.0.0/8"])):
        connection = Connection(locks="/n/.lock-", places=((network, endpoint),), policy=policy, guard="hutch-egress-x")
        assert usernet.connection_of(jsontext.loads(jsontext.dumps(usernet.to_plain(connection)))) == connection
