"""The files by which programs find names: /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

from hutch.engine.networks import definitions
from hutch.engine.networks.joining import joinings as joinings_of
from hutch.engine.networks.naming import has_names
from hutch.engine.spec.settings import CONTAINER
from hutch.errors import HutchError, UsageError
from hutch.kernel.features import features
from hutch.network import egress, names
from hutch.runtime.layers import with_short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.engine.networks.joining import Joining
    from hutch.engine.records.state import Running
    from hutch.engine.spec.settings import Settings

HOST_GATEWAY = "host-gateway"
RESOLV_CONF = "/etc/resolv.conf"
SYSTEMD_SERVERS = "/run/systemd/resolve/resolv.conf"


def _other(s: Settings) -> tuple[Settings, tuple[Joining, ...], str]:
    """Of the container whose network namespace is shared: its settings, networks, and its line of /etc/hosts."""
    from hutch.engine.records import state
    from hutch.engine.records.facts import settings_from

    other = state.find(s.network.removeprefix(CONTAINER))
    theirs = settings_from(other.data["settings"])
    found = joinings_of(theirs)
    own = definitions.members(found[0].network).get(other.id) if found else None
    address = own.addresses[0] if own is not None else ""
    return theirs, found, f"{address}\t{with_short(theirs.hostname or other.id)}\n" if address else ""


def hosts(s: Settings, joinings: tuple[Joining, ...], hostname: str, address: str) -> str:
    """The lines of /etc/hosts beside localhost's. Raises UsageError."""
    lines = f"{address}\t{with_short(hostname)}\n" if joinings and hostname else ""
    if s.network_path:
        lines = _other(s)[2]
    for item in s.extra_hosts:
        name, _, place = item.replace("=", ":", 1).partition(":")
        place = place.removeprefix("[").removesuffix("]")
        if not name or not place or any(c.isspace() for c in item):
            raise UsageError(f"add-host: expected NAME:ADDRESS, got {item!r}")
        lines += f"{_host_gateway(s, joinings) if place == HOST_GATEWAY else place}\t{name}\n"
    return lines


def _host_gateway(s: Settings, joinings: tuple[Joining, ...]) -> str:
    if joinings and joinings[0].network.parent:
        raise UsageError(f"add-host: on network {joinings[0].network.name}, of driver {joinings[0].network.driver}, this host is not to be reached")
    if joinings and not features().privileged:
        from hutch.engine.networks import usernet

        return usernet.host_address() or joinings[0].network.subnets[0].gateway
    if joinings:
        return joinings[0].network.subnets[0].gateway
    if s.network == "host":
        return "127.0.0.1"
    raise UsageError(f"add-host: {HOST_GATEWAY} is this host's address on the container's network, and it has none", "--network bridge")


def resolv_conf(s: Settings, joinings: tuple[Joining, ...]) -> str | None:
    """The resolver's settings (resolv.conf(5)): the network's own server, or else the host's less what only the host itself can ask.
    None leaves the image's."""
    if s.network == "none" and not s.net_devices:
        return ""
    if s.network_path and not (s.dns or s.dns_search or s.dns_options):
        theirs, found, _ = _other(s)
        return resolv_conf(theirs, found)
    text = _read(RESOLV_CONF)
    own = bool(joinings) and (any(has_names(item.network) for item in joinings) or egress.parse(s.egress).allowed is not None)
    if text is None and not own and not s.dns:
        return None
    lines = [line.split() for line in (text or "").split("\n")]
    servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    search = next((words[1:] for words in reversed(lines) if words and words[0] in ("search", "domain")), [])
    options = [word for words in lines if words and words[0] == "options" for word in words[1:]]
    if s.network == "host" and not (s.dns or s.dns_search or s.dns_options):
        return text
    if own:
        servers, options = (
            [names.MACHINE_ADDRESS if s.isolation == "vm" else names.ADDRESS],
            [*(word for word in options if not word.startswith("ndots:")), "ndots:0"],
        )
    elif s.dns:
        servers = [*s.dns]
    elif joinings or s.net_devices:
        # the host's loopback is not the container's; behind it, systemd-resolved says whom it asks itself
        servers = _reachable(servers) or _reachable(
            [words[1] for line in (_read(SYSTEMD_SERVERS) or "").split("\n") if (words := line.split())[:1] == ["nameserver"] and words[1:]]
        )
    search = [] if s.dns_search == (".",) else [*s.dns_search] or search
    options = [*s.dns_options] or options
    out = [f"nameserver {server}" for server in servers]
    out += [f"search {' '.join(search)}"] if search else []
    out += [f"options {' '.join(options)}"] if options else []
    return "".join(f"{line}\n" for line in out)


def change(running: Running, s: Settings, joinings: tuple[Joining, ...]) -> None:
    """Have a container whose networks have changed ask the name server, where its resolver's settings are still those that it began with,
    and can be written."""
    import os

    from hutch.engine.files.files import Files
    from hutch.engine.records import live
    from hutch.engine.records.facts import RECORD_KEY, facts_from

    targets = [mount.target.rstrip("/") for mounts in (s.binds, s.volumes, s.images) for mount in mounts]
    if any(target in ("/etc", RESOLV_CONF) for target in targets):
        return  # it is somebody else's file
    try:
        before = resolv_conf(s, joinings_of(s))
        after = resolv_conf(s.replace(network=joinings[0].network.name), joinings)
        if before is None or after is None or before == after:
            return
        facts, root = facts_from(running.data.get(RECORD_KEY)), live.open_root(running)
        try:
            Files(root, facts.root_uid, facts.root_gid).exchange(RESOLV_CONF, before.encode(), after.encode())
        finally:
            os.close(root)
    except (HutchError, OSError):
        return  # a network of its beginning is no more, or the file is the container's own


def _reachable(servers: list[str]) -> list[str]:
    return [server for server in servers if not server.startswith("127.") and server != "::1"]


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return None
