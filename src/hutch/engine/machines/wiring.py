"""A machine's interfaces: what the guest gives them, and how frames reach the container's on the host."""

from __future__ import annotations

from hutch.errors import UnsupportedError
from hutch.executor.late import offsets
from hutch.vm.compile import NETWORK, NETWORK_ROOM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hutch.engine.networks.joining import Place
    from hutch.executor.late import Places

NETWORK_VALUE = "network"


def addresses_of(container: str) -> list[tuple[int, str, int]]:
    """The IPv4 addresses that a container's interfaces have: (number of the interface, address, length of the prefix)."""
    from hutch.engine.networks import definitions

    found = []
    for number, (network, member) in enumerate(definitions.memberships(container)):
        for subnet, address in zip(network.subnets, member.addresses, strict=False):
            if ":" not in address:
                found.append((number, address, int(subnet.subnet.partition("/")[2])))
    return found


def network_of(places: Iterable[Place], before: Iterable[tuple[int, str, int]] = ()) -> bytes:
    """What the guest's interfaces are given: netlink messages for the container's namespace, as long as `NETWORK`. The guest
    moves them there in their order, the first with the index 2. In a copy they have had other addresses `before`."""
    from hutch.kernel.netlink import addresses, codec, route

    requests = [route.set_link(2 + number, up=False) for number in sorted({number for number, _, _ in before})]
    requests += [route.del_address(2 + number, address, prefix) for number, address, prefix in before]
    from hutch.network.names import MACHINE_ADDRESS

    for number, place in enumerate(places):
        network, endpoint, index = place.network, place.endpoint, 2 + number
        requests.append(route.set_link(index, new_name=endpoint.interface, address=endpoint.mac, mtu=network.mtu))
        for subnet, address in zip(network.subnets, endpoint.addresses, strict=True):
            requests.append(route.new_address(index, address, int(subnet.subnet.partition("/")[2])))
        requests.append(route.set_link(index, up=True))
        if number == 0:
            requests.append(route.new_route(MACHINE_ADDRESS, 32, index=index))
        if endpoint.default and not network.internal:
            requests += [route.new_route(gateway=subnet.gateway, index=index, family=addresses.family_of(subnet.gateway)) for subnet in network.subnets]
    data = b"".join(codec.message(kind, flags, body) for kind, flags, body in requests)
    if len(data) > NETWORK_ROOM:
        raise UnsupportedError("network: a machine's interfaces have too many addresses to be handed over")
    return data + bytes(NETWORK_ROOM - len(data))


def network_places(encoded: bytes) -> Places:
    """Where an encoded plan has room for the interfaces' settings."""
    return tuple((NETWORK_VALUE, at) for at in offsets(encoded, NETWORK))


def join_taps(netlink: int, places: Sequence[Place]) -> None:
    """Let each tap carry what its container's interface does: frames go from one to the other, past the host's own stack. The
    addresses are the guest's alone; what it asks the name server comes in here.

    Raises HutchError.
    """
    from hutch.errors import HutchError
    from hutch.kernel.netlink import route, traffic
    from hutch.kernel.netlink.socket import NetlinkError
    from hutch.network.names import MACHINE_ADDRESS

    with route.Route(netlink) as inside:
        for number, place in enumerate(places):
            try:
                ends = [inside.link(f"{kind}{number}") for kind in ("eth", "tap")]
                first, second = (link.index if link is not None else 0 for link in ends)
                mtu = ends[0].mtu if ends[0] is not None else 0
                inside.do(route.set_link(second, mtu=mtu))
                for subnet, address in zip(place.network.subnets, place.endpoint.addresses, strict=True):
                    inside.do(route.del_address(first, address, int(subnet.subnet.partition("/")[2])))
                if number == 0:
                    for request in (traffic.ingress(second), *traffic.keep(second, MACHINE_ADDRESS), route.new_address(second, MACHINE_ADDRESS, 32)):
                        inside.do(request)
                    traffic.join(inside, first, second, prepared=True)
                else:
                    traffic.join(inside, first, second)
                inside.do(route.set_link(second, up=True))
                if number == 0:
                    inside.do(route.new_route(place.address, 32, index=second))
            except NetlinkError as error:
                raise HutchError(
                    f"network: join tap{number} to eth{number}: {error.strerror}", "the kernel's act_mirred, cls_u32 and sch_ingress do it"
                ) from None
