"""`hutch network`."""

from __future__ import annotations

from hutch import jsontext, networks
from hutch.cli.images import some
from hutch.cli.output import exact, table, tell
from hutch.cli.template import Template
from hutch.engine.networks import naming
from hutch.engine.spec.syntax import integer, pairs
from hutch.errors import StateError, UsageError
from hutch.network import spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.network.spec import Network

MTU = "com.docker.network.driver.mtu"


def create(values: dict[str, Any], rest: list[str]) -> int:
    """Make a network, and print its id."""
    if len(rest) != 1:
        raise UsageError("network create: expected one name", "`hutch network create web`")
    driver = values.get("driver", spec.BRIDGE)
    options = dict(pairs(values.get("opt", ()), "opt"))
    mtu = integer(options.pop(MTU, None), "mtu") or 0
    parent, mode = options.pop("parent", ""), options.pop(f"{driver}_mode", "") if driver in spec.MODES else ""
    if options:
        known = (MTU, "parent", *(f"{name}_mode" for name in spec.MODES))
        raise UsageError(f"opt: {next(iter(options))!r} is not known", f"{', '.join(known)} are")
    labels = dict(pairs([item if "=" in item else f"{item}=" for item in values.get("label", ())], "label"))
    found = networks.create(
        rest[0], subnets=values.get("subnet", ()), gateways=values.get("gateway", ()), ranges=values.get("ip_range", ()),
        ipv6=values.get("ipv6", False), internal=values.get("internal", False), mtu=mtu, labels=labels,
        driver=driver, parent=parent, mode=mode,
    )  # fmt: skip
    tell(found.id)
    return 0


def _matches(network: Network, filters: list[str]) -> bool:
    for item in filters:
        key, _, value = item.partition("=")
        if key == "name":
            good = value in network.name
        elif key == "id":
            good = network.id.startswith(value)
        elif key == "driver":
            good = network.driver == value
        elif key == "label":
            name, equals, wanted = value.partition("=")
            good = name in network.labels and (not equals or network.labels[name] == wanted)
        elif key == "dangling":
            good = (value == "true") == (not networks.members(network))
        else:
            raise UsageError(f"filter: {key!r} is not known", "name, id, driver, label and dangling are")
        if not good:
            return False
    return True


def ls(values: dict[str, Any], rest: list[str]) -> int:
    """List the networks."""
    if rest:
        raise UsageError(f"network ls: unexpected argument {rest[0]!r}")
    found = [network for network in networks.list() if _matches(network, values.get("filter", []))]
    if values.get("quiet"):
        for network in found:
            tell(network.id)
    elif values.get("format"):
        rows = [networks.inspect(network) for network in found]
        Template(values["format"]).print([{**row, "ID": row["Id"], "Scope": "local"} for row in rows])
    else:
        lines = [(network.id, network.name, network.driver, " ".join(subnet.subnet for subnet in network.subnets)) for network in found]
        tell(*table([("NETWORK ID", "NAME", "DRIVER", "SUBNETS"), *lines]))
    return 0


def inspect(values: dict[str, Any], rest: list[str]) -> int:
    """Show networks as JSON."""
    some(rest, "network inspect", "a network")
    if values.get("kernel"):
        from hutch.engine.reports import kernelview

        for name in rest:
            tell(*kernelview.of_network(networks.get(name)).lines())
        return 0
    exact(jsontext.dumps([networks.inspect(networks.get(name)) for name in rest], indent=2))
    return 0


def rm(values: dict[str, Any], rest: list[str]) -> int:
    """Remove networks."""
    some(rest, "network rm", "a network")
    for name in rest:
        try:
            networks.remove(name)
        except StateError as error:
            if not (values.get("force") and "does not exist" in error.message):
                raise
            continue
        tell(name)
    return 0


def connect(values: dict[str, Any], rest: list[str]) -> int:
    """Connect a running container to a network."""
    if len(rest) != 2:
        raise UsageError("network connect: expected a network and a container", "`hutch network connect web db`")
    given = {name: values.get(name, "") for name in ("ip", "ip6", "mac_address")}
    networks.connect(*rest, **given, aliases=values.get("alias", ()))
    return 0


def disconnect(values: dict[str, Any], rest: list[str]) -> int:
    """Take a running container off a network."""
    if len(rest) != 2:
        raise UsageError("network disconnect: expected a network and a container", "`hutch network disconnect web db`")
    try:
        networks.disconnect(rest[0], rest[1])
    except StateError as error:
        if not (values.get("force") and "is not on it" in error.message):
            raise
    return 0


def prune(_: dict[str, Any], rest: list[str]) -> int:
    """Remove networks that nobody is on."""
    if rest:
        raise UsageError(f"network prune: unexpected argument {rest[0]!r}")
    for name in networks.prune():
        tell(name)
    naming.revive_if_lost()
    return 0
