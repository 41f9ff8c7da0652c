"""What the kernel has of a container or of a network, read from the kernel itself: `hutch inspect --kernel`.

Everything is asked at the moment of asking, of /proc and of netlink sockets in the network namespaces concerned; nothing comes from
Hutch's own records but where to look.
"""

from __future__ import annotations

import os
import socket as sockets

from hutch.engine.networks import definitions
from hutch.engine.networks.usernet import Host
from hutch.engine.records import state
from hutch.engine.reports.node import Node
from hutch.errors import HutchError
from hutch.network import bridge, egress, spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.engine.networks.definitions import Member
    from hutch.engine.records.state import Running
    from hutch.kernel.netlink.route import Link, Route
    from hutch.network.spec import Network

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
LISTENING = {"tcp": "0A", "udp": "07"}  # states of /proc/net (proc_net_tcp.rst): LISTEN, and a UDP socket without a peer


def of_container(reference: str) -> Node:
    """A container: its processes' namespaces, its interfaces to the other end of each, routes, rules, sockets, cgroups. Raises StateError
    for one that does not exist or has ended."""
    running = state.find(reference)
    if not running.pid:
        raise HutchError(f"container {running.name or running.id}: has ended: the kernel has nothing of it", "`hutch ps` lists those that run")
    below = [Node(text=f"process {running.pid}, its executor {running.executor}"), _namespaces(running.pid)]
    own = _namespace_number(running.pid)
    if own != _namespace_number(os.getpid()):
        with Host() as host:
            below.append(_network_namespace(host, running, own))
            below += _rules(host, running)
    if "machine" in running.data:
        from hutch.engine.reports.machineview import of_machine

        below.append(of_machine(running))
    below += [Node(text=f"published {text}") for text in running.data.get("ports", ())]
    below += _cgroups(running.pid)
    return Node(text=f"container {running.id}{f' {running.name}' if running.name else ''}", below=tuple(below))


def of_network(network: Network) -> Node:
    """A network: its bridge with the ports and whose they are, its tables."""
    members = definitions.members(network)
    if network.parent:
        return _of_parent(network, members)
    with Host() as host, host.route() as here:
        link = here.link(network.bridge)
        if link is None:
            return Node(text=f"network {network.name}: the kernel has nothing of it: nobody is on it")
        owners = {spec.port_name(container, member.number): container for container, member in members.items()}
        ports = []
        for port in here.links():
            if port.master == link.index:
                owner = owners.get(port.name, "")
                whose = f" → container {owner} ({', '.join(members[owner].addresses)})" if owner else ""
                ports.append(Node(text=f"port {_shown(port)}{whose}"))
        text = f"bridge {_shown(link)}{_addresses(here, link)}"
        tables = [_table(host, family, bridge.table_name(network)) for family in ("inet", "netdev")]
    return Node(text=f"network {network.name}", below=(Node(text=text, below=tuple(ports)), *(table for table in tables if table is not None)))


def _of_parent(network: Network, members: dict[str, Member]) -> Node:
    with Host() as host, host.route() as here:
        link = here.link(network.parent)
        shown = f"{_shown(link)}{_addresses(here, link)}" if link is not None else f"{network.parent}, which is gone"
    below = tuple(
        Node(text=f"{network.driver} eth{member.number} → container {container} ({', '.join(member.addresses)})") for container, member in members.items()
    )
    return Node(text=f"network {network.name}", below=(Node(text=f"interface {shown}", below=below),))


def _namespace_number(pid: int, kind: str = "net") -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return "?"


def _namespaces(pid: int) -> Node:
    found = []
    for kind in NAMESPACES:
        theirs, ours = _namespace_number(pid, kind), _namespace_number(os.getpid(), kind)
        if theirs != "?":
            found.append(Node(text=theirs if theirs != ours else f"{theirs}, the host's"))
    return Node(text="namespaces", below=tuple(found))


def _network_namespace(host: Host, running: Running, number: str) -> Node:
    try:
        below = _interfaces(host, running.pid)
    except HutchError:  # of a user's container on no network: its user namespace is not around ours, nor is ours around it
        below = [Node(text=f"{name}, whose addresses this user may not ask for") for name in _names(running.pid)]
    below += [Node(text=f"socket {text}") for text in _sockets(running.pid)]
    return Node(text=f"network namespace {number}", below=tuple(below))


def _interfaces(host: Host, pid: int) -> list[Node]:
    found = []
    with host.route() as here, host.route_of(pid) as inside:
        outer = {link.index: link for link in here.links()}
        names = {link.index: link.name for link in inside.links()}
        for link in inside.links():
            other = outer.get(link.parent)
            ends: tuple[Node, ...] = ()
            if link.kind == "veth" and other is not None and other.kind == "veth":
                master = outer.get(other.master)
                ends = (Node(text=f"other end {_shown(other)}{f', a port of {_shown(master)}' if master is not None else ''}"),)
            if link.kind in ("macvlan", "ipvlan") and other is not None:
                ends = (Node(text=f"on {_shown(other)}"),)
            found.append(Node(text=f"{_shown(link)}{_addresses(inside, link)}", below=ends))
        for entry in inside.routes():
            where = f"{entry.destination}/{entry.prefix}" if entry.destination else "default"
            way = f" via {entry.gateway}" if entry.gateway else ""
            found.append(Node(text=f"route {where}{way} by {names.get(entry.index, '?')}"))
    return found


def _names(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii", errors="replace") as file:
            return [line.partition(":")[0].strip() for line in file if ":" in line]
    except OSError:
        return []


def _shown(link: Link) -> str:
    kind = f" ({link.kind})" if link.kind else ""
    return f"{link.index}: {link.name}{kind} {'up' if link.up else 'down'}{f' {link.address}' if link.address and link.name != 'lo' else ''}"


def _addresses(socket: Route, link: Link) -> str:
    return "".join(f" {item.address}/{item.prefix}" for item in socket.addresses(link.index))


def _sockets(pid: int) -> list[str]:
    """The sockets that wait for somebody, of the network namespace of a process (proc_net_tcp.rst)."""
    found = []
    for protocol, wanted in LISTENING.items():
        for six in ("", "6"):
            try:
                with open(f"/proc/{pid}/net/{protocol}{six}", encoding="ascii") as file:
                    lines = [line.split() for line in file][1:]
            except OSError:
                continue
            for words in lines:
                place, _, port = words[1].rpartition(":")
                if words[3] == wanted and words[2].rpartition(":")[2] == "0000":
                    raw = b"".join(int(place[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(place), 8))
                    address = sockets.inet_ntop(sockets.AF_INET6 if six else sockets.AF_INET, raw)
                    found.append(f"{protocol} {f'[{address}]' if six else address}:{int(port, 16)}")
    return found


def _rules(host: Host, running: Running) -> list[Node]:
    out = [_table(host, "netdev", bridge.table_name(network), chain=running.id[:8]) for network, _ in definitions.memberships(running.id)]
    out.append(_table(host, "inet", egress.table_name(definitions.root(), running.id)))
    return [node for node in out if node is not None]


def _table(host: Host, family: str, name: str, chain: str = "") -> Node | None:
    """A table's chains, with what each has refused; those alone whose name has `chain` in it."""
    listed = host.table(family, name)
    if not listed:
        return None
    below = []
    for item in listed:
        if "chain" not in item or chain not in item["chain"]["name"]:
            continue
        own = item["chain"]
        rules = [entry["rule"] for entry in listed if "rule" in entry and entry["rule"]["chain"] == own["name"]]
        counters = [part["counter"]["packets"] for rule in rules for part in rule["expr"] if "counter" in part]
        place = f" at {own['hook']}{' of ' + str(own['dev']) if own.get('dev') else ''}" if own.get("hook") else ""
        refused = f", {sum(counters)} packets refused" if counters else ""
        below.append(Node(text=f"chain {own['name']}{place}: {len(rules)} rules{refused}"))
    return Node(text=f"nftables table {family} {name}", below=tuple(below)) if below else None


def _cgroups(pid: int) -> list[Node]:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            words = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    own = [f"{controllers or 'v2'}:{path}" for _, controllers, path in words if path != "/"]
    return [Node(text="cgroups", below=tuple(Node(text=text) for text in own))] if own else []
