"""How others find a container: what the name server is told of it, when it starts and whenever something has changed."""

from __future__ import annotations

import os
import time

from hutch.engine.networks import definitions
from hutch.errors import HutchError
from hutch.kernel.features import features
from hutch.network import egress, names
from hutch.network.spec import Network
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from hutch.engine.networks.definitions import Member
    from hutch.engine.networks.usernet import UserNetwork
    from hutch.engine.spec.settings import Settings
    from hutch.network.egress import Policy

YOUNG = 2.0  # seconds


class Known(Record):
    """A container on one of its networks, as others find it there: by `names`, the first of which is its own."""

    network: Network
    names: tuple[str, ...]
    addresses: tuple[str, ...]


def register(container: str, known: Sequence[Known], upstream: tuple[str, ...], policy: Policy, pidfd: int, namespace: int,
    user_network: UserNetwork | None, *, again: bool = False, always: bool = False, machine: bool = False,
) -> bool:  # fmt: skip
    """Tell the name server of a container, on all of its networks, unless nothing there is the server's business (`always`: even then).
    Whether the server had to be started. `again`: the container may have asked it before.
    `machine`: it is in one."""
    presences = tuple(names.Presence(network=item.network.name, names=item.names, addresses=item.addresses) for item in known if has_names(item.network))
    if not presences and policy.allowed is None and not always:
        return False
    forward = any(not item.network.internal for item in known)
    registration = names.Registration(
        container=container, presences=presences, upstream=upstream, forward=forward, egress=policy.words, guard=guard_of(container, policy)
    )
    if user_network is None:
        sockets: tuple[socket.socket, ...] = names.sockets_in(namespace, again=again, machine=machine)
    else:
        sockets = user_network.names(namespace, policy.allowed is not None, again, machine)
    try:
        return names.register(definitions.root(), registration, pidfd, sockets)
    finally:
        for one in sockets:
            one.close()


def known_of(container: str, s: Settings, memberships: Iterable[tuple[Network, Member]]) -> list[Known]:
    """A container on the networks that it is on."""
    own = names_of(container, s)
    return [Known(network=network, names=(*own, *member.tenant.aliases), addresses=member.addresses) for network, member in memberships]


def guard_of(container: str, policy: Policy) -> str:
    """The table of a container's egress policy; "" for one that allows everything."""
    return "" if policy.allowed is None else egress.table_name(definitions.root(), container)


def revive() -> None:
    """Have names again where the server was killed: it is started anew, with all containers that run. Those that have just been
    started are told of by who starts them."""
    if features().privileged:
        _revive(None)
        return
    from hutch.engine.networks import usernet

    with usernet.reach() as user_network:
        _revive(user_network)


def _revive(user_network: UserNetwork | None) -> None:
    from hutch.engine.records import live, state
    from hutch.engine.records.facts import settings_from

    for running in state.containers():
        if running.status != "running" or time.time() - running.created < YOUNG:
            continue
        s = settings_from(running.data["settings"])
        try:
            pidfd = live.open_pidfd(running)
        except HutchError:
            continue  # it has just ended
        namespace = -1
        try:
            namespace = os.open(f"/proc/{running.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            known = known_of(running.id, s, definitions.memberships(running.id))
            machine = "machine" in running.data
            register(running.id, known, s.dns, egress.parse(s.egress), pidfd, namespace, user_network, again=True, machine=machine)
        except (OSError, HutchError):
            continue  # it is about to end
        finally:
            for fd in (pidfd, namespace):
                if fd >= 0:
                    os.close(fd)


def revive_if_lost() -> None:
    """`revive`, where there is no server and somebody who would ask it."""
    if not names.running(definitions.root()) and any(definitions.members(network) for network in definitions.every()):
        revive()


def names_of(container: str, s: Settings) -> tuple[str, ...]:
    """By which others find a container on its networks: its name first, where it has one."""
    return tuple(dict.fromkeys(filter(None, (s.name, container, s.hostname))))


def has_names(network: Network) -> bool:
    """Whether containers find each other by name: not on the default network, as with Docker."""
    return network.name != definitions.DEFAULT
