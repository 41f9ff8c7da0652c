"""Chapter 3, continued, to run: two network namespaces and a cable, a switch, and a way out.

``python networks.py`` goes through all three labs, ``python networks.py pair`` through one; ``--json`` prints data. Each step is
done by Hutch's kernel API, a netlink message that is printed in words, and beside it stands the command of iproute2 that does
the same. ``--by-ip`` lets those commands do it.

Everything happens in namespaces that the script makes: "host" and "outside" are such, too. They are gone when it ends, and
no interface of this machine has changed. Root is not needed.

Sources: veth(4), network_namespaces(7), rtnetlink(7), nft(8), raw(7), RFC 792.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from hutch.errors import HutchError
from hutch.kernel import syscalls as kernel
from hutch.kernel.netlink import route
from hutch.kernel.netlink.describe import describe
from hutch.kernel.netlink.route import Route
from hutch.network import nft

if TYPE_CHECKING:
    from collections.abc import Callable

    from hutch.kernel.netlink.route import Request

T = TypeVar("T")
Account = dict[str, Any]
ECHO_REQUEST, ECHO_REPLY = 8, 0  # RFC 792
PATIENCE = 0.3  # seconds


def in_thread(work: Callable[[], T]) -> T:
    """Do something in a thread of its own. Namespaces belong to threads, not to processes: what it enters, it leaves by ending."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


class Lab:
    """Network namespaces by name, and what is done in them."""

    def __init__(self, by_ip: bool, quiet: bool) -> None:
        self._by_ip, self._quiet = by_ip, quiet
        self._namespaces: dict[str, int] = {}
        self._sockets: dict[str, Route] = {}

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        for socket_ in self._sockets.values():
            socket_.close()
        for fd in self._namespaces.values():
            os.close(fd)  # nobody is in it, and nothing holds it any more: the kernel takes it apart, interfaces and all

    def namespace(self, *names: str) -> None:
        """Make network namespaces. No process stays in one: an open descriptor is enough to keep it."""

        def make() -> tuple[int, Route]:
            kernel.unshare(kernel.CLONE_NEWNET)
            # a socket belongs for life to the namespace that it was made in, and can be used from anywhere
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), Route()

        for name in names:
            self._namespaces[name], self._sockets[name] = in_thread(make)
            self._say(name, "ip netns add " + name, "a new network namespace")

    def fd(self, name: str) -> int:
        """A namespace's descriptor."""
        return self._namespaces[name]

    def index(self, name: str, interface: str) -> int:
        """An interface's number in a namespace."""
        link = self._sockets[name].link(interface)
        if link is None:
            raise HutchError(f"{name}: there is no interface {interface}")
        return link.index

    def inside(self, name: str, work: Callable[[], T]) -> T:
        """Do something in a namespace."""

        def enter() -> T:
            kernel.setns(self._namespaces[name], kernel.CLONE_NEWNET)
            return work()

        return in_thread(enter)

    def link(self, name: str, command: str, request: Request) -> None:
        """One step: a netlink message, or the command of iproute2 that sends the same. ``{red}`` in it is a namespace."""
        kind, _, body = request
        self._say(name, command.format_map(_Names()), describe(kind, body))
        if self._by_ip:
            # ip(8) knows namespaces by the names of files, and these have none: so the directory of our descriptors serves
            places = {other: f"/proc/{os.getpid()}/fd/{fd}" for other, fd in self._namespaces.items()}
            self._command(name, command.format(**places))
        else:
            self._sockets[name].do(request)

    def settle(self, name: str, *interfaces: str) -> None:
        """Wait until the kernel says that interfaces carry packets: it notices a cable behind the step that plugs it in, up to
        a second later (Documentation/networking/operstates.rst). Raises HutchError when one does not come up in three."""
        deadline = time.monotonic() + 3
        waiting = list(interfaces)
        while waiting:
            if time.monotonic() > deadline:
                raise HutchError(f"{name}: {', '.join(waiting)} did not come up")
            time.sleep(0.01)
            links = {link.name: link for link in self._sockets[name].links()}
            waiting = [one for one in waiting if one not in links or links[one].state != "up"]

    def rules(self, name: str, commands: list[str], rules: list[nft.Rule]) -> None:
        """One step of nftables: all of the rules in one transaction, by Hutch; one by one, by nft(8)."""
        for command, rule in zip(commands, rules, strict=True):
            self._say(name, command, f"a {next(iter(rule['add']))}, in one transaction")
            if self._by_ip:
                self._command(name, command)
        if not self._by_ip:
            self.inside(name, lambda: nft.run(rules))

    def setting(self, name: str, key: str, value: str) -> None:
        """One step of sysctl(8): /proc/sys/net shows the settings of the reader's own namespace."""

        def write() -> None:
            with open(f"/proc/sys/{key.replace('.', '/')}", "w", encoding="ascii") as file:
                file.write(value)

        self._say(name, f"sysctl -w {key}={value}", f"write {value} to /proc/sys/{key.replace('.', '/')}")
        self.inside(name, write)

    def _command(self, name: str, command: str) -> None:
        words = [word.strip('"') for word in command.split()]
        done = self.inside(name, lambda: subprocess.run(words, capture_output=True, text=True, check=False))
        if done.returncode:
            raise HutchError(f"{command}: {done.stderr.strip()}")

    def _say(self, name: str, command: str, words: str) -> None:
        if not self._quiet:
            print(f"  {name + ':':<9} {command:<64} # {words}")

    def ping(self, name: str, address: str) -> str:
        """Send an echo request, and wait for the reply: "reply", "nothing", or why it could not even be sent."""
        answer = self.inside(name, lambda: _ping(address))
        if not self._quiet:
            print(f"  {name + ':':<9} {'ping -c 1 ' + address:<64} # {answer}")
        return answer

    def state(self) -> Account:
        """What is in each namespace now: interfaces, addresses, routes."""
        found: Account = {}
        for name, sock in self._sockets.items():
            links = {link.index: link for link in sock.links() if link.name != "lo"}
            found[name] = {
                "interfaces": sorted(f"{link.name} {link.kind} {'up' if link.up else 'down'}" for link in links.values()),
                "addresses": sorted(
                    f"{item.address}/{item.prefix} {links[item.index].name}" for item in sock.addresses() if item.index in links and ":" not in item.address
                ),
                "routes": sorted(
                    f"{item.destination or 'default'} {item.gateway or 'direct'}" for item in sock.routes() if ":" not in f"{item.destination}{item.gateway}"
                ),
            }
        return found


class _Names(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key


def _ping(address: str) -> str:
    own = os.urandom(4)
    body = struct.pack("!BBH", ECHO_REQUEST, 0, 0) + own + b"hutch"
    body = struct.pack("!BBH", ECHO_REQUEST, 0, _checksum(body)) + body[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        try:
            raw.sendto(body, (address, 0))
        except OSError as error:
            return error.strerror or str(error)
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0 and select.select([raw], [], [], left)[0]:
            packet = raw.recv(2048)
            message = packet[(packet[0] & 15) * 4 :]  # behind the IP header, which is as long as it says
            if message[0] == ECHO_REPLY and message[4:8] == own:
                return "reply"
    return "nothing"


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pair(lab: Lab) -> Account:
    """Two namespaces and a cable: a veth pair is two interfaces, and what goes into one comes out of the other."""
    lab.namespace("red", "blue")
    before = lab.ping("red", "10.0.0.2")
    lab.link("red", "ip link add eth0 type veth peer name eth0 netns {blue}", route.veth("eth0", "eth0", peer_namespace_fd=lab.fd("blue")))
    for name, address in (("red", "10.0.0.1"), ("blue", "10.0.0.2")):
        lab.link(name, f"ip address add {address}/24 dev eth0", route.new_address(lab.index(name, "eth0"), address, 24))
        lab.link(name, "ip link set eth0 up", route.set_link(lab.index(name, "eth0"), up=True))
    lab.settle("red", "eth0")
    lab.settle("blue", "eth0")
    return {"before": before, "after": lab.ping("red", "10.0.0.2"), "the other way": lab.ping("blue", "10.0.0.1")}


def bridge(lab: Lab) -> Account:
    """A switch: a bridge in the host's namespace, and a cable from it to each of three others."""
    guests = {"one": "10.0.0.11", "two": "10.0.0.12", "three": "10.0.0.13"}
    lab.namespace("host", *guests)
    lab.link("host", "ip link add br0 type bridge", route.bridge("br0"))
    lab.link("host", "ip address add 10.0.0.1/24 dev br0", route.new_address(lab.index("host", "br0"), "10.0.0.1", 24))
    lab.link("host", "ip link set br0 up", route.set_link(lab.index("host", "br0"), up=True))
    for name, address in guests.items():
        lab.link("host", f"ip link add {name} type veth peer name eth0 netns {{{name}}}", route.veth(name, "eth0", peer_namespace_fd=lab.fd(name)))
        lab.link("host", f"ip link set {name} master br0", route.set_link(lab.index("host", name), master=lab.index("host", "br0")))
        lab.link("host", f"ip link set {name} up", route.set_link(lab.index("host", name), up=True))
        lab.link(name, f"ip address add {address}/24 dev eth0", route.new_address(lab.index(name, "eth0"), address, 24))
        lab.link(name, "ip link set eth0 up", route.set_link(lab.index(name, "eth0"), up=True))
    lab.settle("host", *guests)
    together = {f"one to {name}": lab.ping("one", guests[name]) for name in ("two", "three")}
    host = lab.ping("one", "10.0.0.1")
    lab.link("host", "ip link set two nomaster", route.set_link(lab.index("host", "two"), master=0))
    return {**together, "one to the host": host, "unplugged": lab.ping("one", guests["two"]), "the others": lab.ping("one", guests["three"])}


def nat(lab: Lab) -> Account:
    """A way out: the host forwards a guest's packets to an outside that knows the host alone, under the host's address."""
    lab.namespace("guest", "host", "outside")
    for name, own, other, address in (("guest", "10.0.0.2", "10.0.0.1", "in"), ("outside", "192.0.2.2", "192.0.2.1", "out")):
        lab.link("host", f"ip link add {address} type veth peer name eth0 netns {{{name}}}", route.veth(address, "eth0", peer_namespace_fd=lab.fd(name)))
        for where, interface, mine in ((name, "eth0", own), ("host", address, other)):
            lab.link(where, f"ip address add {mine}/24 dev {interface}", route.new_address(lab.index(where, interface), mine, 24))
            lab.link(where, f"ip link set {interface} up", route.set_link(lab.index(where, interface), up=True))
    lab.settle("host", "in", "out")
    found = {"at first": lab.ping("guest", "192.0.2.2")}
    lab.link("guest", "ip route add default via 10.0.0.1", route.new_route(gateway="10.0.0.1"))
    found["with a route"] = lab.ping("guest", "192.0.2.2")
    lab.setting("host", "net.ipv4.ip_forward", "1")
    found["with forwarding"] = lab.ping("guest", "192.0.2.2")
    table, chain = nft.table("ip", "lab"), nft.chain("ip", "lab", "out", "nat", "postrouting", 100)
    rule = nft.rule("ip", "lab", "out", nft.match(nft.meta("oifname"), "out"), {"masquerade": None})
    commands = [
        "nft add table ip lab",
        "nft add chain ip lab out { type nat hook postrouting priority 100 ; }",
        "nft add rule ip lab out oifname out masquerade",
    ]
    lab.rules("host", commands, [{"add": table}, {"add": chain}, {"add": rule}])
    found["with masquerading"] = lab.ping("guest", "192.0.2.2")
    found["from outside"] = lab.ping("outside", "10.0.0.2")
    return found


LABS: dict[str, Callable[[Lab], Account]] = {"pair": pair, "bridge": bridge, "nat": nat}


def own_user_namespace() -> None:
    """An ordinary user may have network namespaces inside a user namespace of his own (user_namespaces(7)), where he is root."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def main(words: list[str]) -> int:
    """The command line: names of labs, all when there are none. 1 when one was not possible here."""
    flags = {word for word in words if word.startswith("--")}
    names = [word for word in words if word not in flags] or list(LABS)
    unknown = [*(flags - {"--json", "--by-ip"}), *(name for name in names if name not in LABS)]
    if unknown:
        print(f"{unknown[0]}: not one of {' '.join(LABS)} --json --by-ip", file=sys.stderr)
        return 2
    if "--by-ip" in flags and not (shutil.which("ip") and shutil.which("nft")):
        print("--by-ip: there is no ip or no nft here: apt-get install iproute2 nftables", file=sys.stderr)
        return 2
    found: dict[str, Account] = {}
    failed = 0
    try:
        own_user_namespace()
    except OSError as error:
        print(f"a user namespace: {error.strerror}: does /proc/sys/user/max_user_namespaces, or a security module, forbid it?", file=sys.stderr)
        return 1
    for name in names:
        if "--json" not in flags:
            print((LABS[name].__doc__ or name).splitlines()[0])
        with Lab("--by-ip" in flags, "--json" in flags) as lab:
            try:
                found[name] = {"found": LABS[name](lab), "state": lab.state()}
            except (OSError, HutchError) as error:
                failed = 1
                found[name] = {"failed": str(error)}
                print(f"{name}: {error}", file=sys.stderr)
        if "--json" not in flags:
            print()
    if "--json" in flags:
        print(json.dumps(found))
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
