"""The words in which users write mounts, devices, limits and networks: for the command line and for Python alike.

Each function reads one notation and gives records of `settings`. All raise UsageError for what they cannot read.
"""

from __future__ import annotations

import os

from hutch.engine.spec import units
from hutch.engine.spec.settings import (
    CONTAINER,
    NETWORKS,
    Attachment,
    Bind,
    ImageSource,
    Tmpfs,
    Ulimit,
    VolumeMount,
    check_volume_name,
)
from hutch.errors import UsageError
from hutch.network.spec import is_interface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeAlias

    Mount: TypeAlias = Bind | Tmpfs | VolumeMount | ImageSource

DEVICE = "device:"  # in front of an interface of the host's that is lent to a container


def bind(text: str) -> Bind | VolumeMount:
    """``/host:/container[:ro,…]`` or ``volume:/container[:ro,nocopy]``, as Docker writes it; ``/container`` alone is an
    anonymous volume."""
    source, colon, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not colon and source.startswith("/"):
        return VolumeMount(name="", target=source)
    if not colon or not source or not target:
        raise UsageError(f"mount: expected SOURCE:TARGET or SOURCE:TARGET:OPTIONS, got {text!r}")
    if not source.startswith((".", "~", "/")):
        check_volume_name(source)
        flags = options.split(",") if options else []
        unknown = next((word for word in flags if word not in ("ro", "rw", "nocopy", "z", "Z")), None)
        if unknown is not None:
            raise UsageError(f"mount: unknown option {unknown!r} for a volume in {text!r}", "ro, rw and nocopy are known")
        return VolumeMount(name=source, target=target, readonly="ro" in flags, nocopy="nocopy" in flags)
    if source.startswith((".", "~")):
        source = os.path.abspath(os.path.expanduser(source))
    words = tuple(word for word in options.split(",") if word and word not in ("ro", "rw"))
    return Bind(source=source, target=target, readonly="ro" in options.split(","), options=words)


def tmpfs(text: str) -> Tmpfs:
    """``/path[:options]``."""
    target, _, options = text.partition(":")
    return Tmpfs(target=target, options=tuple(word for word in options.split(",") if word))


def mount(text: str) -> Bind | Tmpfs | VolumeMount | ImageSource:
    """``type=bind,source=/a,target=/b,readonly``, as Docker writes it."""
    fields: dict[str, str] = {}
    for part in csv_fields(text, "mount"):
        name, _, value = part.partition("=")
        fields[name] = value
    kind = fields.pop("type", "volume")
    source = fields.pop("source", fields.pop("src", ""))
    target = fields.pop("target", fields.pop("destination", fields.pop("dst", "")))
    if not target:
        raise UsageError(f"mount: no target in {text!r}")
    if kind == "tmpfs":
        words = [f"size={units.size(fields.pop('tmpfs-size'), 'tmpfs-size')}"] if "tmpfs-size" in fields else []
        words += [f"mode={fields.pop('tmpfs-mode')}"] if "tmpfs-mode" in fields else []
        found: Bind | Tmpfs | VolumeMount | ImageSource = Tmpfs(target=target, options=tuple(words))
    elif kind == "bind":
        if not source:
            raise UsageError(f"mount: no source in {text!r}")
        readonly = _switch(fields, "readonly", "ro")
        words = [fields.pop("bind-propagation")] if "bind-propagation" in fields else []
        words += ["noidmap"] if fields.pop("idmap", "true") in ("false", "0") else []
        found = Bind(source=os.path.abspath(source), target=target, readonly=readonly, options=tuple(words))
    elif kind == "volume":
        if source:
            check_volume_name(source)
        readonly = _switch(fields, "readonly", "ro")
        subpath = fields.pop("volume-subpath", fields.pop("subpath", ""))
        found = VolumeMount(name=source, target=target, readonly=readonly, subpath=subpath, nocopy=_switch(fields, "volume-nocopy"))
    elif kind == "image":
        if not source:
            raise UsageError(f"mount: no source in {text!r}")
        _switch(fields, "readonly", "ro")  # it always is
        found = ImageSource(image=source, target=target, subpath=fields.pop("image-subpath", fields.pop("subpath", "")))
    else:
        raise UsageError(f"mount: type {kind!r} is not supported", "bind, volume, image and tmpfs are")
    if fields:
        raise UsageError(f"mount: unknown field {next(iter(fields))!r} in {text!r}")
    return found


def _switch(fields: dict[str, str], *names: str) -> bool:
    """A field that may stand alone: whether it is there, and not false."""
    return any(fields.pop(name) not in ("false", "0") for name in names if name in fields)


def csv_fields(text: str, what: str) -> list[str]:
    """One line of comma-separated values (RFC 4180): a field in quotes may hold commas, and quotes that are doubled. Raises
    UsageError for quotes elsewhere."""
    fields, rest = [], text
    while True:
        if rest.startswith('"'):
            field, end = "", 1
            while True:
                close = rest.find('"', end)
                if close < 0:
                    raise UsageError(f"{what}: a quote is not closed in {text!r}")
                field += rest[end:close]
                if rest[close + 1 : close + 2] != '"':
                    break
                field, end = field + '"', close + 2
            rest = rest[close + 1 :]
            if rest and not rest.startswith(","):
                raise UsageError(f"{what}: a comma is missing behind a quote in {text!r}")
        else:
            field = rest.partition(",")[0]
            if '"' in field:
                raise UsageError(f"{what}: a field with a quote is to be in quotes, in {text!r}", 'such as type=bind,"src=/a,b",dst=/c')
            rest = rest[len(field) :]
        fields.append(field)
        if not rest:
            return fields
        rest = rest[1:]


def ulimit(text: str) -> Ulimit:
    """``nofile=1024:2048``."""
    name, _, value = text.partition("=")
    soft, _, hard = value.partition(":")
    from hutch.plan.ops import RLIMITS

    if f"RLIMIT_{name.upper()}" not in RLIMITS:
        raise UsageError(f"ulimit: unknown limit {name!r}", "one of " + ", ".join(n[7:].lower() for n in RLIMITS))
    numbers = [-1 if n in ("unlimited", "-1") else integer(n, f"ulimit {name}") for n in (soft, hard or soft)]
    if None in numbers or any(n is not None and not -1 <= n < 2**64 for n in numbers):
        raise UsageError(f"ulimit: expected {name}=SOFT[:HARD], got {text!r}")
    first, second = numbers[0] or 0, numbers[1] or 0
    if second != -1 and (first > second or first == -1):
        raise UsageError(f"ulimit: the soft limit of {name} is above the hard one")
    return Ulimit(name=name, soft=first, hard=second)


def device(text: str) -> tuple[str, str, str]:
    """``/dev/x[:/dev/y][:rwm]`` to (source, target, access)."""
    parts = text.split(":")
    access = "rwm"
    if len(parts) > 1 and not parts[-1].startswith("/"):
        access = parts.pop()
    if not all(part.startswith("/") for part in parts) or not parts or len(parts) > 2 or not access or set(access) - set("rwm"):
        raise UsageError(f"device: expected /dev/NAME[:/dev/NAME][:rwm], got {text!r}")
    return parts[0], parts[-1], access


def attachments(wanted: Iterable[str | Attachment], ip: str = "", ip6: str = "", mac_address: str = "", aliases: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of `Settings` for networks: ``NAME``, ``NAME:ip=…,alias=…`` (Podman's way) or ``name=NAME,ip=…`` (Docker's). What stands
    beside them is the first network's. Raises UsageError."""
    wanted = [*wanted]
    shared = next((item for item in wanted if isinstance(item, str) and item.startswith(CONTAINER)), None)
    if shared is not None:
        if len(wanted) > 1:
            raise UsageError(f"network {shared}: goes with no other network")
        if ip or ip6 or mac_address or [*aliases]:
            raise UsageError(f"network {shared}: has its addresses and names already")
        return {"network": shared}
    lent = tuple(lent_device(item) for item in wanted if isinstance(item, str) and item.startswith(DEVICE))
    found = [item if isinstance(item, Attachment) else attachment(item) for item in wanted if not (isinstance(item, str) and item.startswith(DEVICE))]
    aliases = tuple(aliases)
    first = found[0].network if found else "none"
    if first in NETWORKS:
        if len(found) > 1:
            raise UsageError(f"network {first}: goes with no other network")
        extras = found[0].replace(network="") != Attachment(network="") if found else False
        if ip or ip6 or mac_address or aliases or extras:
            raise UsageError("ip, mac-address, network-alias: need a network to be on", "--network NAME")
        if lent and first == "host":
            raise UsageError("network host: goes with no other network")
        return {"network": first, "net_devices": lent}
    alone = next((item.network for item in found if item.network in NETWORKS), None)
    if alone is not None:
        raise UsageError(f"network {alone}: goes with no other network")
    own = found[0]
    found[0] = own.replace(ip=ip or own.ip, ip6=ip6 or own.ip6, mac_address=mac_address or own.mac_address, aliases=(*own.aliases, *aliases))
    return {"network": first, "attachments": tuple(found), "net_devices": lent}


def attachment(text: str) -> Attachment:
    """One network as `attachments` reads it."""
    name, colon, rest = text.partition(":")
    if not colon and "=" in text:
        name, rest = "", text
    values: dict[str, Any] = {"aliases": []}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        key = {"mac": "mac_address", "mac-address": "mac_address"}.get(key, key)
        if key == "alias" and value:
            values["aliases"].append(value)
        elif key == "name" and value and not name:
            name = value
        elif key in ("ip", "ip6", "mac_address") and value:
            values[key] = value
        else:
            raise UsageError(f"network: unknown option {part!r} in {text!r}", "name, ip, ip6, mac and alias are known")
    if not name:
        raise UsageError(f"network: no name in {text!r}")
    return Attachment(network=name, **{**values, "aliases": tuple(values["aliases"])})


def lent_device(text: str) -> tuple[str, str]:
    """``device:eth1[:name=eth0]``: an interface of the host's, and its name in the container."""
    outside, _, rest = text.removeprefix(DEVICE).partition(":")
    inside = rest.removeprefix("name=") if rest else outside
    if (rest and not rest.startswith("name=")) or not is_interface(outside) or not is_interface(inside):
        raise UsageError(f"network: expected {DEVICE}INTERFACE[:name=NAME], got {text!r}")
    return outside, inside


def integer(text: str | None, what: str) -> int | None:
    """A whole number, or None for None. Raises UsageError."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{what}: expected a whole number, got {text!r}") from None


def pairs(items: list[str] | tuple[str, ...], what: str) -> dict[str, str]:
    """NAME=VALUE items as a dictionary. Raises UsageError."""
    out = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise UsageError(f"{what}: expected NAME=VALUE, got {item!r}")
        out[name] = value
    return out
