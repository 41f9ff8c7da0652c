"""Networks that are bridges: what their containers reach and what they do not. Every host is a network namespace of the test's."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket as sockets
import struct
import tempfile
import threading
from collections.abc import Iterator

import pytest

from hutch.errors import HutchError
from hutch.executor import undo
from hutch.kernel.netlink import route
from hutch.kernel.netlink.route import Route
from hutch.network import attach, bridge, forwarding, hold, nft, spec
from hutch.network.attach import Connection, Endpoint
from hutch.network.spec import Network, parse_subnet
from tests.namespaces import Namespace, namespaces

pytestmark = pytest.mark.root

RED = Network(name="red", id="aaaaaaaaaaaa", bridge="hutch-aaaaaaaa", subnets=(parse_subnet("10.81.0.0/24"), parse_subnet("fd81::/64")))
BLUE = Network(name="blue", id="bbbbbbbbbbbb", bridge="hutch-bbbbbbbb", subnets=(parse_subnet("10.82.0.0/24"),))
CLOSED = Network(name="closed", id="cccccccccccc", bridge="hutch-cccccccc", subnets=(parse_subnet("10.83.0.0/24"),), internal=True)


class Lab:
    """A host with containers on networks, and an outside that it leads to (192.0.2.0/24, 2001:db8::/64)."""

    def __init__(self, host: Namespace, outside: Namespace) -> None:
        self.host, self.outside = host, outside
        self.route = host.route()
        self.count = 0
        self.place = tempfile.mkdtemp()
        self.locks = f"{self.place}/.lock-"
        with outside.route() as far:
            self.route.do(route.veth("uplink", "uplink", peer_namespace_fd=outside.fd))
            for here, number in ((self.route, 1), (far, 2)):
                link = here.link("uplink")
                assert link is not None
                here.do(route.set_link(link.index, up=True))
                here.do(route.new_address(link.index, f"192.0.2.{number}", 24))
                here.do(route.new_address(link.index, f"2001:db8::{number}", 64))

    def join(self, container: Namespace, network: Network, *addresses: str, number: int = 0) -> Endpoint:
        self.count += 1
        endpoint = attach.endpoint_of(f"{self.count:012x}", number, addresses)
        with container.route() as inside:
            inside.do(route.set_link(name="lo", up=True))
            connection = Connection(locks=self.locks, places=((network, endpoint),))
            self.host.inside(lambda: attach.connect(connection, container.fd, inside.fileno()))
        return endpoint

    def leave(self, network: Network) -> None:
        """What the executor of the last container does."""
        for operation in hold.holds(network, f"{self.place}/lock", self.locks, "0" * 12):
            self.host.inside(lambda operation=operation: undo.let_go(operation))

    def setting(self, name: str) -> str:
        return self.host.run("cat", f"/proc/sys/net/{name}").stdout.strip()

    def set(self, name: str, value: str) -> None:
        self.host.run("sh", "-c", f"echo {value} > /proc/sys/net/{name}")


@contextlib.contextmanager
def lab(containers: int) -> Iterator[tuple[Lab, list[Namespace]]]:
    with namespaces(containers + 2) as found:
        made = Lab(found[0], found[1])
        yield made, found[2:]
        made.route.close()
        shutil.rmtree(made.place)


def pings(source: Namespace, address: str) -> bool:
    return source.run("busybox", "ping6" if ":" in address else "ping", "-c", "1", "-W", "1", address, check=False).returncode == 0


def test_containers_reach_each_other_and_the_outside_and_nobody_reaches_them():
    with lab(3) as (made, (one, two, three)):
        made.join(one, RED, "10.81.0.2", "fd81::2")
        made.join(two, RED, "10.81.0.3", "fd81::3")
        made.join(three, BLUE, "10.82.0.2")
        assert pings(one, "10.81.0.3") and pings(two, "fd81::2") and pings(one, "10.81.0.1")
        # out, masqueraded: the outside knows no route back to these addresses
        assert pings(one, "192.0.2.2") and pings(three, "192.0.2.2") and pings(one, "2001:db8::2")
        # other networks, by their addresses, are another world; so are they for the outside, whatever routes it has
        assert not pings(one, "10.82.0.2") and not pings(three, "10.81.0.2")
        made.outside.run("ip", "route", "add", "10.81.0.0/24", "via", "192.0.2.1")
        assert not pings(made.outside, "10.81.0.2") and pings(made.outside, "192.0.2.1")
        # and the host reaches its containers
        assert pings(made.host, "10.81.0.2") and pings(made.host, "10.82.0.2")


def test_an_internal_network_leads_nowhere():
    with lab(2) as (made, (one, two)):
        made.join(one, CLOSED, "10.83.0.2")
        made.join(two, CLOSED, "10.83.0.3")
        assert pings(one, "10.83.0.3") and not pings(one, "192.0.2.2")
        one.run("ip", "route", "add", "default", "via", "10.83.0.1")
        assert not pings(one, "192.0.2.2")


OWN = """table inet own {
  chain forward {
    type filter hook forward priority 10
    ip daddr 192.0.2.2 drop
  }
}
"""


def test_the_hosts_own_rules_hold():
    """A `drop` of the host's is stronger than our `accept`, whichever comes first."""
    with lab(1) as (made, (one,)):
        made.join(one, BLUE, "10.82.0.2")
        made.host.run("nft", "-f", "-", input=OWN)
        assert not pings(one, "192.0.2.2")
        made.host.inside(lambda: bridge.remove(made.route, BLUE))
        assert "own" in made.host.run("nft", "list", "tables").stdout and "hutch-bbbb" not in made.host.run("nft", "list", "tables").stdout


@pytest.fixture
def neighbour() -> Iterator[Namespace]:
    """Somebody else beside the host, who sends through it."""
    with namespaces(1) as (found,):
        yield found


def beside(made: Lab, neighbour: Namespace) -> None:
    made.route.do(route.veth("beside", "eth0", peer_namespace_fd=neighbour.fd))
    for where, name, number in ((made.host, "beside", 1), (neighbour, "eth0", 2)):
        where.run("ip", "link", "set", name, "up")
        where.run("ip", "addr", "add", f"198.51.100.{number}/24", "dev", name)
        where.run("ip", "addr", "add", f"fd51::{number}/64", "dev", name, "nodad")
    neighbour.run("ip", "route", "add", "default", "via", "198.51.100.1")
    neighbour.run("ip", "route", "add", "default", "via", "fd51::1")
    made.outside.run("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1")
    made.outside.run("ip", "route", "add", "fd51::/64", "via", "2001:db8::1")


@pytest.mark.parametrize("first", [True, False])
def test_this_host_becomes_no_router_for_others(neighbour, first):
    """Neither for those who are there, nor for those who come later."""
    with lab(1) as (made, (one,)):
        if first:
            beside(made, neighbour)
        made.join(one, RED, "10.81.0.2", "fd81::2")
        if not first:
            beside(made, neighbour)
        assert made.setting("ipv4/ip_forward") == made.setting("ipv6/conf/all/forwarding") == "0", "its own switches are as they were"
        assert pings(neighbour, "198.51.100.1") and not pings(neighbour, "192.0.2.2") and pings(one, "192.0.2.2")
        assert pings(neighbour, "fd51::1") and not pings(neighbour, "2001:db8::2") and pings(one, "2001:db8::2")
        assert not pings(neighbour, "10.81.0.2") and pings(one, "198.51.100.2") == first
        bridge_settings = [
            f"ipv{version}/conf/{name}/{what}" for version, what in ((4, "forwarding"), (6, "force_forwarding")) for name in ("uplink", "beside")
        ]
        made.host.inside(lambda: bridge.remove(made.route, RED))
        made.leave(RED)
        assert {made.setting(name) for name in (*bridge_settings, "ipv4/ip_forward", "ipv6/conf/all/forwarding")} == {"0"}
        assert made.host.run("nft", "list", "ruleset").stdout == "" and made.host.ip("link", "show", "type", "bridge") == []
        made.host.inside(lambda: bridge.remove(made.route, RED))  # what is not there need not be removed
        made.leave(RED)


def test_somebody_flushes_all_rules(neighbour):
    """`systemctl reload nftables` does: with the next start this host is no router again, and at the end all is as it was."""
    with lab(2) as (made, (one, two)):
        beside(made, neighbour)
        made.join(one, RED, "10.81.0.2", "fd81::2")
        made.host.run("nft", "flush", "ruleset")
        made.join(two, RED, "10.81.0.3", "fd81::3")
        assert not pings(neighbour, "192.0.2.2") and not pings(neighbour, "2001:db8::2")
        made.host.run("nft", "flush", "ruleset")
        made.host.inside(lambda: bridge.remove(made.route, RED))
        made.leave(RED)
        settings = [f"ipv{version}/conf/{name}/{what}" for version, what in ((4, "forwarding"), (6, "force_forwarding")) for name in ("uplink", "beside")]
        assert {made.setting(name) for name in settings} == {"0"}


def test_somebody_switches_forwarding_off():
    with lab(2) as (made, (one, two)):
        made.join(one, BLUE, "10.82.0.2")
        made.set("ipv4/ip_forward", "1")
        made.set("ipv4/ip_forward", "0")  # which the kernel does to every interface
        assert not pings(one, "192.0.2.2")
        made.join(two, BLUE, "10.82.0.3")
        assert pings(one, "192.0.2.2") and pings(two, "192.0.2.2")


@pytest.mark.parametrize("first", [True, False])
def test_where_ipv6_has_one_switch_for_all(neighbour, monkeypatch, first):
    """As before Linux 6.17."""
    known = forwarding.read
    monkeypatch.setattr(forwarding, "read", lambda name: "" if name.endswith("force_forwarding") else known(name))
    with lab(1) as (made, (one,)):
        made.set("ipv6/conf/uplink/accept_ra", "1")
        if first:
            beside(made, neighbour)
        made.join(one, RED, "10.81.0.2", "fd81::2")
        if not first:
            beside(made, neighbour)
        assert made.setting("ipv6/conf/all/forwarding") == "1" and made.setting("ipv6/conf/uplink/accept_ra") == "2", "the host's own way out stays"
        assert pings(one, "2001:db8::2") and not pings(neighbour, "2001:db8::2")
        made.host.inside(lambda: bridge.remove(made.route, RED))
        made.leave(RED)
        assert made.setting("ipv6/conf/all/forwarding") == "0" and made.setting("ipv6/conf/uplink/accept_ra") == "1"


def test_another_engine_comes_while_we_are_here(neighbour):
    """It makes this host a router, with a bridge of its own, and goes on when we have gone."""
    with lab(1) as (made, (one,)), namespaces(2) as (theirs, second):
        made.join(one, BLUE, "10.82.0.2")
        made.set("ipv4/ip_forward", "1")
        made.route.do(route.bridge("docker0", up=True))
        made.host.run("ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
        for number, space in ((2, theirs), (3, second)):
            made.route.do(route.veth(f"d{number}", "eth0", up=True, master=made.route.link("docker0").index, peer_namespace_fd=space.fd))
            space.run("ip", "addr", "add", f"172.17.0.{number}/16", "dev", "eth0")
            space.run("ip", "link", "set", "eth0", "up")
            space.run("ip", "route", "add", "default", "via", "172.17.0.1")
        made.outside.run("ip", "route", "add", "172.17.0.0/16", "via", "192.0.2.1")
        made.host.run(
            "nft", "-f", "-", input="table ip theirs { chain pre { type nat hook prerouting priority -100; tcp dport 8080 dnat to 172.17.0.2:80; }\n}"
        )

        def works() -> bool:
            with serving(theirs, 80) as _:
                through = made.outside.run("busybox", "nc", "-w", "2", "192.0.2.1", "8080", input="", check=False).stdout == "here"
            return through and pings(theirs, "172.17.0.3") and pings(theirs, "192.0.2.2")

        assert works() and not pings(made.outside, "172.17.0.2") and pings(one, "192.0.2.2")
        made.host.inside(lambda: forwarding.allow(made.route, made.locks, ipv6=False))  # the next start sees what it is
        assert works() and pings(made.outside, "172.17.0.2") and pings(one, "192.0.2.2")
        made.host.inside(lambda: bridge.remove(made.route, BLUE))
        made.leave(BLUE)
        assert works() and made.setting("ipv4/ip_forward") == made.setting("ipv4/conf/uplink/forwarding") == "1"


@contextlib.contextmanager
def serving(where: Namespace, port: int) -> Iterator[None]:
    """A server that says "here" to each who comes."""

    def listen() -> sockets.socket:
        return sockets.create_server(("", port))

    with where.inside(listen) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(b"here")
                    connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(sockets.SHUT_RDWR)
            thread.join()


def test_a_host_that_forwards_already_goes_on_doing_so():
    with lab(1) as (made, (one,)):
        made.set("ipv4/ip_forward", "1")
        made.join(one, BLUE, "10.82.0.2")
        assert forwarding.TABLE not in made.host.run("nft", "list", "tables").stdout
        made.leave(BLUE)
        assert made.setting("ipv4/ip_forward") == "1"


# what a container may not send


def send_raw(namespace: Namespace, frame: bytes, count: int = 1) -> None:
    def send() -> None:
        with sockets.socket(sockets.AF_PACKET, sockets.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for _ in range(count):
                raw.send(frame)

    namespace.inside(send)


def sniff(namespace: Namespace, wanted: bytes, action) -> bool:
    """Whether a frame with these bytes arrives while something is done."""

    def listen() -> sockets.socket:
        raw = sockets.socket(sockets.AF_PACKET, sockets.SOCK_RAW, sockets.htons(3))
        raw.bind(("eth0", 3))
        raw.settimeout(0.4)
        return raw

    with namespace.inside(listen) as raw:
        action()
        while True:
            try:
                if wanted in raw.recv(2048):
                    return True
            except TimeoutError:
                return False


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


MARK = b"a mark that nobody else sends."


def ipv4(source: str, target: str, *, mac: str, port: int = 5000) -> bytes:
    udp = struct.pack("!HHHH", port, 5000, 8 + len(MARK), 0) + MARK
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, sockets.inet_aton(source), sockets.inet_aton(target))
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x08\x00" + head + udp


def arp(source: str, mac: str, sender_mac: str) -> bytes:
    raw = bytes.fromhex(mac.replace(":", ""))
    return (
        b"\xff" * 6
        + bytes.fromhex(sender_mac.replace(":", ""))
        + b"\x08\x06"
        + struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, raw, sockets.inet_aton(source), b"\0" * 6, sockets.inet_aton(source))
        + MARK[:18]
    )


def ipv6(source: str, mac: str, kind: int) -> bytes:
    """An ICMPv6 message to all nodes."""
    target = sockets.inet_pton(sockets.AF_INET6, "ff02::1")
    own = sockets.inet_pton(sockets.AF_INET6, source)
    body = struct.pack("!BBH", kind, 0, 0) + bytes(12) + MARK
    pseudo = own + target + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return b"\x33\x33\0\0\0\1" + bytes.fromhex(mac.replace(":", "")) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + own + target + body


def test_what_a_container_may_not_send_is_dropped():
    with lab(2) as (made, (one, two)):
        own = made.join(one, RED, "10.81.0.2", "fd81::2")
        made.join(two, RED, "10.81.0.3", "fd81::3")
        assert pings(one, "10.81.0.3")
        mac, other = own.mac, "02:42:0a:51:00:03"
        allowed = {
            "its own packet": ipv4("10.81.0.2", "10.81.0.3", mac=mac),
            "its own ARP": arp("10.81.0.2", mac, mac),
            "its own ICMPv6": ipv6("fd81::2", mac, 128),
        }
        refused = {
            "another's MAC": ipv4("10.81.0.2", "10.81.0.3", mac=other),
            "another's address": ipv4("10.81.0.3", "10.81.0.3", mac=mac),
            "the gateway's address": ipv4("10.81.0.1", "10.81.0.3", mac=mac),
            "a DHCP server's": ipv4("10.81.0.2", "255.255.255.255", mac=mac, port=67),
            "the gateway's ARP": arp("10.81.0.1", mac, mac),
            "another's MAC in ARP": arp("10.81.0.2", mac, other),
            "a router's advertisement": ipv6("fe80::1", mac, 134),
            "a redirect": ipv6("fe80::1", mac, 137),
            "another's IPv6 address": ipv6("fd81::3", mac, 128),
        }
        for name, frame in allowed.items():
            assert sniff(two, MARK[:12], lambda frame=frame: send_raw(one, frame)), name
        for name, frame in refused.items():
            assert not sniff(two, MARK[:12], lambda frame=frame: send_raw(one, frame, 3)), name
        # and on a network without IPv6 there is none
        counted = made.host.run("nft", "list", "table", "netdev", bridge.table_name(RED)).stdout
        assert "packets 3" in counted


def ports(made: Lab, network: Network) -> str:
    return made.host.run("nft", "list", "table", "netdev", bridge.table_name(network)).stdout


def test_a_ports_rules_go_with_it():
    with lab(2) as (made, (one, two)):
        endpoint, other = made.join(one, BLUE, "10.82.0.2"), made.join(two, BLUE, "10.82.0.3")
        assert endpoint.port in ports(made, BLUE)
        for _ in range(2):
            made.host.inside(lambda: attach.detach(made.route, BLUE, endpoint.port))
        assert endpoint.port not in ports(made, BLUE) and other.port in ports(made, BLUE)
        # one whose container has died with everything around it
        made.route.do(route.del_link(name=other.port))
        assert made.host.inside(lambda: attach.sweep(made.route, BLUE)) in ([other.port], [])
        assert other.port not in ports(made, BLUE) and made.host.inside(lambda: attach.sweep(made.route, BLUE)) == []
        # and the same port again has the rules of now alone
        again = attach.endpoint_of("000000000001", 0, ("10.82.0.77",))
        with two.route() as inside:
            made.host.inside(lambda: attach.attach(made.route, inside, two.fd, BLUE, again))
        assert "10.82.0.77" in ports(made, BLUE) and "10.82.0.2 " not in ports(made, BLUE) and pings(two, "192.0.2.2")


def test_what_cannot_be_made_leaves_nothing():
    with lab(2) as (made, (one, two)):
        made.join(one, BLUE, "10.82.0.2")
        before = (made.host.run("nft", "-s", "list", "ruleset").stdout, made.host.ip("link"))
        endpoint = attach.endpoint_of("ffffffffffff", 0, ("10.82.0.9",))
        with one.route() as inside, pytest.raises(HutchError, match="eth0.*File exists"):
            made.host.inside(lambda: attach.attach(made.route, inside, one.fd, BLUE, endpoint))  # it has an eth0 already
        broken = endpoint.replace(addresses=("10.82.0.9", "10.82.0.10"))
        with two.route() as inside, pytest.raises(ValueError, match="zip"):
            made.host.inside(lambda: attach.attach(made.route, inside, two.fd, BLUE, broken))
        strip = lambda links: [(link["ifname"], link["flags"]) for link in links]  # noqa: E731
        assert made.host.run("nft", "-s", "list", "ruleset").stdout == before[0] and strip(made.host.ip("link")) == strip(before[1])
        taken = BLUE.replace(bridge="uplink")
        with pytest.raises(HutchError, match="uplink is an interface of another kind"):
            made.host.inside(lambda: bridge.ensure(made.route, taken))


def test_many_make_one_network_at_once():
    with lab(1) as (made, _):
        problems: list[BaseException] = []

        def ensure() -> None:
            try:
                with made.host.route() as own:
                    made.host.inside(lambda: bridge.ensure(own, RED))
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=ensure) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems
        (found,) = made.host.ip("addr", "show", RED.bridge)
        assert {item["local"] for item in found["addr_info"] if item["scope"] == "global"} == {"10.81.0.1", "fd81::1"} and "UP" in found["flags"]
        assert found["ifalias"] == "hutch network red"


@pytest.mark.parametrize("library", [True, False])
def test_nftables_by_its_library_and_by_its_program(monkeypatch, library):
    if not library:
        monkeypatch.setattr(nft, "_library", [None])
    with namespaces(1) as (host,):
        own = nft.table("inet", "of-a-test")
        host.inside(lambda: nft.run([{"add": own}]))
        (found,) = host.inside(lambda: nft.run([{"list": {"tables": None}}]))
        assert (found["table"]["family"], found["table"]["name"]) == ("inet", "of-a-test")
        with pytest.raises(nft.NftError, match="No such file or directory"):
            host.inside(lambda: nft.run([{"delete": own}, {"delete": own}]))
        assert host.inside(lambda: nft.run([{"list": {"tables": None}}])) == [found], "all or nothing"


def test_nftables_in_a_program_with_many_descriptors():
    """The library would end the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("no more than 2000 descriptors may be had")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    kept: list[int] = []
    try:
        with namespaces(1) as (space,):
            while len(kept) < 1200:
                kept.append(os.open("/", os.O_PATH))
            space.inside(lambda: nft.run([{"add": nft.table("inet", "mine")}]))
            assert [item["table"]["name"] for item in space.inside(lambda: nft.run([{"list": {"tables": None}}]))] == ["mine"]
            with pytest.raises(nft.NftError):
                space.inside(lambda: nft.run([{"create": nft.table("inet", "mine")}]))
            assert all(os.path.exists(f"/proc/self/fd/{fd}") for fd in kept)
    finally:
        for fd in kept:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_names_fit_their_interfaces():
    assert len(spec.bridge_name("0123456789ab")) <= 15 and len(spec.port_name("0123456789ab", 255)) <= 15


def test_links_of_an_older_run_are_taken_over(request):
    """A bridge that somebody made and did not finish: it is down, without addresses and rules."""
    with lab(1) as (made, (one,)):
        made.route.do(route.bridge(BLUE.bridge))
        made.join(one, BLUE, "10.82.0.2")
        assert pings(one, "192.0.2.2")
        with Route() as here:
            assert here.link(BLUE.bridge) is None, "nothing of a test's is made in the machine's own namespace"
