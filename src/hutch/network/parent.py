"""A network that stands on an interface of the host's: its containers are neighbours of whoever is at the other end of that.

They have no bridge, no rules and no addresses of the host's in between: macvlan(4) gives each interface a MAC of its own, ipvlan
(Documentation/networking/ipvlan.rst) the parent's. The host itself they do not reach by it, nor it them: so the kernel has it.
"""

from __future__ import annotations

from hutch.errors import HutchError, UnsupportedError
from hutch.kernel.netlink import route
from hutch.kernel.netlink.socket import NetlinkError
from hutch.network.spec import IPVLAN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from hutch.kernel.netlink.route import Route
    from hutch.network.spec import Network

EBUSY, ENODEV, EINVAL, EOPNOTSUPP = 16, 19, 22, 95


def make(host: Route, namespace_fd: int, network: Network, interface: str, mac: str) -> None:
    """Make a container's interface on the parent, in the container's namespace. Raises HutchError, UnsupportedError."""
    name = f"network {network.name}"
    parent = host.link(network.parent)
    if parent is None:
        raise HutchError(f"{name}: this host has no interface {network.parent} any more")
    if not parent.up:
        raise HutchError(f"{name}: its interface {network.parent} is off", f"`ip link set {network.parent} up`")
    if network.driver == IPVLAN:
        request = route.ipvlan(interface, parent.index, network.mode, mtu=network.mtu, namespace_fd=namespace_fd)
    else:
        request = route.macvlan(interface, parent.index, network.mode, mtu=network.mtu, address=mac, namespace_fd=namespace_fd)
    try:
        host.do(request)
    except NetlinkError as error:
        if error.errno == EOPNOTSUPP:
            raise UnsupportedError(f"{name}: the kernel has no {network.driver}", f"`modprobe {network.driver}`") from None
        hint = "an interface is the parent of networks of one driver alone, and of one container's with mode passthru" if error.errno in (EBUSY, EINVAL) else ""
        raise HutchError(f"{name}: make {interface} on {network.parent}: {error.strerror}", hint) from None


def remove(host: Route, inside: Route, network: Network, interface: str, others: Collection[str] = ()) -> None:
    """Remove a container's interface, by sockets here and in its namespace, if it is there. Raises HutchError.

    It is known by what it stands on: its name the container may have changed, to one that is not among its `others`."""
    own = host.link(network.parent)
    if own is None:
        return  # they went with it
    # on this host's interface, not on one of the container's that has the same number
    found = [link for link in inside.links() if link.kind == network.driver and link.parent == own.index and link.peer_namespace >= 0]
    named = [link for link in found if link.name == interface]
    for link in named or [link for link in found if link.name not in others]:
        try:
            inside.do(route.del_link(link.index))
        except NetlinkError as error:
            if error.errno != ENODEV:
                raise HutchError(f"network {network.name}: remove {link.name}: {error.strerror}") from None
