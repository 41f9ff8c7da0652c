"""Networks: ``hutch.networks.create("web")`` and the other verbs.

A network is a file. The kernel has nothing of it until the first container joins, and nothing again when the last one has
left. `bridge` is there without being made: it is the network of those who name no other.
"""

from hutch.engine.networks.api import connect as connect, disconnect as disconnect, inspect as inspect
from hutch.engine.networks.definitions import (
    DEFAULT as DEFAULT,
    Member as Member,
    create as create,
    every as list,
    get as get,
    members as members,
)
from hutch.engine.networks.reclaiming import prune as prune, remove as remove
from hutch.network.spec import Network as Network

__all__ = (
    "DEFAULT", "Member", "Network", "connect", "create", "disconnect", "get", "inspect", "list", "members", "prune", "remove",
)  # fmt: skip
