"""Addresses that are this host's own, or of networks that Hutch made on it: what a name of the world outside never stands for."""

from __future__ import annotations

import ipaddress

from hutch.kernel.netlink.route import Route

BRIDGE = "hutch-"  # what the names of networks' bridges begin with (`spec.bridge_name`)


def is_local(address: str) -> bool:
    """Whether an address is loopback, link-local, unspecified or multicast, one of this host's, or in the subnet of a network of
    Hutch's. Asked of the kernel each time: interfaces come and go. An address that cannot be judged is local."""
    found = ipaddress.ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    if found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast:
        return True
    try:
        with Route() as socket:
            bridges = {link.index for link in socket.links() if link.name.startswith(BRIDGE)}
            for own in socket.addresses():
                known = ipaddress.ip_interface(f"{own.address}/{own.prefix}")
                if found == known.ip or (own.index in bridges and found in known.network):
                    return True
    except OSError:
        return True
    return False
