"""A network and its containers, by what their users call them: connecting, disconnecting, and a description of it."""

from __future__ import annotations

import time

from hutch.engine.networks.definitions import members, root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from hutch.network.spec import Network

    class HasId(Protocol):
        """A container's object."""

        id: str


def connect(name: str, container: str | HasId, *, ip: str = "", ip6: str = "", mac_address: str = "", aliases: Iterable[str] = ()) -> str:
    """Connect a running container, by its name or id, to a further network; the name of its interface there.

    Raises StateError for one that is on the network already, ContainerGone for one that has ended, UsageError for addresses that cannot be,
    UnsupportedError.
    """
    from hutch.engine.networks import connecting

    reference = container if isinstance(container, str) else container.id
    return connecting.connect(name, reference, ip=ip, ip6=ip6, mac_address=mac_address, aliases=aliases)


def disconnect(name: str, container: str | HasId) -> None:
    """Take a running container, by its name or id, off a network. Raises StateError for one that is not on it."""
    from hutch.engine.networks import connecting

    connecting.disconnect(name, container if isinstance(container, str) else container.id)


def inspect(network: Network) -> dict[str, Any]:
    """As `hutch network inspect` prints it: Docker's names, as far as they fit."""
    from hutch.engine.networks import usernet
    from hutch.network import egress

    on_it: dict[str, dict[str, Any]] = {
        container: {
            "IPv4Address": next((item for item in member.addresses if ":" not in item), ""),
            "IPv6Address": next((item for item in member.addresses if ":" in item), ""),
        }
        for container, member in members(network).items()
    }
    with usernet.Host() as host:
        for container, entry in on_it.items():
            table = host.table("inet", egress.table_name(root(), container))
            if table:
                entry["EgressRefused"] = dict(zip(("Packets", "Bytes"), egress.refused(table), strict=True))
    pools = [{"Subnet": item.subnet, "Gateway": item.gateway, **({"IPRange": item.range} if item.range else {})} for item in network.subnets]
    return {
        "Name": network.name, "Id": network.id, "Driver": network.driver, "Internal": network.internal, "Bridge": network.bridge, "MTU": network.mtu,
        "EnableIPv6": any(":" in item.subnet for item in network.subnets), "IPAM": {"Driver": "default", "Config": pools},
        **({"Options": {"parent": network.parent, f"{network.driver}_mode": network.mode}} if network.parent else {}),
        "Created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(network.created)), "Labels": network.labels, "Containers": on_it,
    }  # fmt: skip
