"""Having this host forward packets for Hutch's networks, where it is no router, without making it one for others.

Whether a packet is passed on is asked of the interface that it comes in by (ip-sysctl.rst: `forwarding`, and of IPv6
`force_forwarding`, since Linux 6.17). So the host's own switch stays off, and whatever makes it a router on purpose (Docker, libvirt)
finds it so. What is switched on is the interfaces that are there; and a table of Hutch's lets nothing through by these but what
belongs to its networks, to connections that others have begun, and to ports that others publish. Interfaces that come later, such
as another engine's bridge, are not its business.

What a setting was is noted in a file before it is changed: who leaves last puts it back (`hutch.network.hold`).
"""

from __future__ import annotations

import os

from hutch.kernel.netlink import netfilter
from hutch.kernel.netlink.socket import NetlinkError
from hutch.network import nft, spec
from hutch.network.nft import ACCEPT, COUNTER, DROP, match, meta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.kernel.netlink.route import Route
    from hutch.network.nft import Rule

SYSCTL = "/proc/sys/net"
TABLE = "hutch-forwarding"
INTERFACES, BRIDGES = "interfaces", "bridges"
PRIORITY = 0  # nft(8), "Base chain priorities": filter
SWITCH = {"4": "ipv4/ip_forward", "6": "ipv6/conf/all/forwarding"}
FAMILY = {"4": "ip", "6": "ip6"}


def read(name: str) -> str:
    """A setting of /proc/sys/net in this network namespace; "" where the kernel has none such."""
    try:
        with open(f"{SYSCTL}/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def write(name: str, value: str) -> None:
    """Set one, if it is there and something else."""
    if read(name) not in ("", value):
        try:
            with open(f"{SYSCTL}/{name}", "w", encoding="ascii") as file:
                file.write(value)
        except OSError:
            return  # /proc/sys is read-only: the first packet tells


def notes(locks: str, version: str) -> str:
    """The file for what settings were, which is the lock of all who need them, too. `locks` is what all these files begin with."""
    return f"{locks}{version}"


def allow(socket: Route, locks: str, *, ipv6: bool) -> None:
    """Switch on what is off of this host's interfaces. To be called while the lock is held, at every start: interfaces come and go,
    and so do other engines."""
    names = [name for name in _listed() if name not in ("all", "default", "lo") and not name.startswith("hutch-") and not spec.is_port(name)]
    if read(SWITCH["4"]) == "0":
        _switch_on(socket, locks, "4", {f"ipv4/conf/{name}/forwarding": name for name in names})
    elif _noted(notes(locks, "4")):
        _be_a_router(notes(locks, "4"))
    if not ipv6:
        return
    if not read("ipv6/conf/all/force_forwarding"):
        _all_of_ipv6(socket, locks, names)
    elif read(SWITCH["6"]) == "0":
        _switch_on(socket, locks, "6", {f"ipv6/conf/{name}/force_forwarding": name for name in names})


def allow_bridge(name: str) -> None:
    """Switch on a bridge of Hutch's own, with which the setting goes."""
    write(f"ipv4/conf/{name}/forwarding", "1")
    write(f"ipv6/conf/{name}/force_forwarding", "1")


def _listed() -> list[str]:
    try:
        return sorted(os.listdir(f"{SYSCTL}/ipv4/conf"))
    except OSError:
        return []


def _switch_on(socket: Route, locks: str, version: str, settings: dict[str, str]) -> None:
    off = {setting: name for setting, name in settings.items() if read(setting) == "0"}
    ours = [setting for setting in _noted(notes(locks, version)) if setting in settings]
    if off or (ours and not netfilter.table_exists(FAMILY[version], TABLE)):  # somebody has flushed all tables
        nft.run(_rules(FAMILY[version], {settings[setting] for setting in (*off, *ours)}, _bridges(socket)))
    if off:
        _note(notes(locks, version), [(setting, "0") for setting in off])
        for setting in off:
            write(setting, "1")


def _be_a_router(path: str) -> None:
    """Somebody has made this host a router since: then it is one, for all, and stays one."""
    nft.drop_table("ip", TABLE)
    os.truncate(path, 0)


def _all_of_ipv6(socket: Route, locks: str, names: list[str]) -> None:
    """Before Linux 6.17 there is one switch for all, those who come later among them: so nobody else's packets are let through. A router
    takes no advice from other routers: where this host has taken it so far, it goes on (ip-sysctl.rst, accept_ra)."""
    off = read(SWITCH["6"]) == "0"
    if off or (_noted(notes(locks, "6")) and not netfilter.table_exists("ip6", TABLE)):
        nft.run(_rules("ip6", None, _bridges(socket)))
    if off:
        takes_advice = [f"ipv6/conf/{name}/accept_ra" for name in names if read(f"ipv6/conf/{name}/accept_ra") == "1"]
        _note(notes(locks, "6"), [(SWITCH["6"], "0"), *((setting, "1") for setting in takes_advice)])
        for setting in takes_advice:
            write(setting, "2")
        write(SWITCH["6"], "1")


def _bridges(socket: Route) -> list[str]:
    try:
        return [link.name for link in socket.links() if link.kind == "bridge" and not link.name.startswith("hutch-")]
    except NetlinkError:
        return []


def _noted(path: str) -> list[str]:
    """The settings that were changed."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line.split(" ", 1)[1].removeprefix(f"{SYSCTL}/") for line in file.read(65536).splitlines() if " " in line]
    except OSError:
        return []


def _note(path: str, lines: list[tuple[str, str]]) -> None:
    # appended in one piece: several may start at once
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, "".join(f"{value} {SYSCTL}/{setting}\n" for setting, value in lines).encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def _rules(family: str, names: Iterable[str] | None, bridges: list[str]) -> list[Rule]:
    """The table: for what comes in by the interfaces `names`, or by all that are not Hutch's (None)."""

    def members(name: str, kind: str | list[str], items: list[object]) -> list[Rule]:
        own = {"family": family, "table": TABLE, "name": name}
        found: list[Rule] = [{"add": {"set": {**own, "type": kind}}}]
        return found + ([{"add": {"element": {**own, "elem": items}}}] if items else [])

    def rule(*expressions: Rule, comment: str) -> Rule:
        return {"add": nft.rule(family, TABLE, "forward", *expressions, comment=comment)}

    others = match(meta("iifname"), "hutch-*") if names is None else match(meta("iifname"), f"@{INTERFACES}", "!=")
    through = {"concat": [meta("iifname"), meta("oifname")]}
    return [
        {"add": nft.table(family, TABLE)},
        *members(INTERFACES, "ifname", [*(names or ())]),
        *members(BRIDGES, ["ifname", "ifname"], [{"concat": [name, name]} for name in bridges]),
        {"add": nft.chain(family, TABLE, "forward", "filter", "forward", PRIORITY)},
        {"flush": {"chain": {"family": family, "table": TABLE, "name": "forward"}}},
        rule(others, ACCEPT, comment="forwarded without us, or refused"),
        rule(match(meta("oifname"), "hutch-*"), ACCEPT, comment="to our networks, whose tables judge"),
        rule(match({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT, comment="of connections that others have begun"),
        rule(match({"ct": {"key": "status"}}, ["dnat"], "in"), ACCEPT, comment="to ports that others publish"),
        rule(match(through, f"@{BRIDGES}"), ACCEPT, comment="within a bridge, where br_netfilter asks"),
        rule(COUNTER, DROP, comment="this host was no router before"),
    ]
