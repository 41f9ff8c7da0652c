"""Keyword arguments of the Python API to `Settings`: the same names and meanings for `run` and for `Container`."""

from __future__ import annotations

import os
import sys

from hutch.engine.spec import units
from hutch.engine.spec.settings import (
    CONTAINER,
    DEFAULT_NETWORK,
    NETWORKS,
    Attachment,
    Bind,
    ImageSource,
    Settings,
    Tmpfs,
    Ulimit,
    VolumeMount,
    check_volume_name,
)  # fmt: skip
from hutch.errors import UsageError
from hutch.network.spec import is_interface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TypedDict

    class Options(TypedDict, total=False):
        """What `hutch.run` and `hutch.Container` take; see `settings`."""

        name: str
        pull: str
        env: Mapping[str, str] | Iterable[str]
        workdir: str
        user: str | int
        groups: Iterable[str | int]
        hostname: str
        memory: int | str
        memory_swap: int | str
        cpus: float
        cpu_shares: int
        cpuset: str
        pids: int
        mounts: Iterable[Bind | Tmpfs | VolumeMount | ImageSource | str]
        tmpfs: Iterable[str] | str
        network: str | Iterable[str | Attachment]
        aliases: Iterable[str]
        ports: Iterable[str] | Mapping[str, int | str]
        publish_all: bool
        expose: Iterable[str]
        egress: Iterable[str] | str
        dns: Iterable[str] | str
        dns_search: Iterable[str] | str
        dns_options: Iterable[str] | str
        extra_hosts: Iterable[str]
        ip: str
        ip6: str
        mac_address: str
        readonly: bool
        capabilities: Iterable[str]
        cap_add: Iterable[str]
        cap_drop: Iterable[str]
        seccomp: str
        no_new_privileges: bool
        privileged: bool
        userns: str
        pid: str
        ipc: str
        uts: str
        devices: Iterable[str]
        ulimits: Mapping[str, int | tuple[int, int]]
        sysctls: Mapping[str, str]
        shm_size: int | str
        time_offsets: Mapping[str, int]
        unified: Mapping[str, str]
        init: bool
        upper: str
        upper_size: int | str
        labels: Mapping[str, str]
        oom_score_adj: int
        entrypoint: Iterable[str]
        cgroup_parent: str
        systemd: bool
        isolation: str
        vm_accel: str
        kernel: str | os.PathLike[str]
        vm_root: str


def command_of(command: object) -> tuple[str, ...]:
    """An argv. A bare string is refused: splitting it would be a shell's work, and is where injections come from."""
    if isinstance(command, str | bytes):
        raise UsageError(f"command: expected a list of arguments, got the string {command!r}", 'a shell is asked for by name: ["sh", "-c", "…"]')
    try:
        return tuple(os.fspath(item) if not isinstance(item, str) else item for item in command)  # type: ignore[attr-defined]
    except TypeError:
        raise UsageError(f"command: expected a list of strings, got {command!r}") from None


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


DEVICE = "device:"


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


def lent_device(text: str) -> tuple[str, str]:
    """``device:eth1[:name=eth0]``: an interface of the host's, and its name in the container."""
    outside, _, rest = text.removeprefix(DEVICE).partition(":")
    inside = rest.removeprefix("name=") if rest else outside
    if (rest and not rest.startswith("name=")) or not is_interface(outside) or not is_interface(inside):
        raise UsageError(f"network: expected {DEVICE}INTERFACE[:name=NAME], got {text!r}")
    return outside, inside


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


def device(text: str) -> tuple[str, str, str]:
    """``/dev/x[:/dev/y][:rwm]`` to (source, target, access)."""
    parts = text.split(":")
    access = "rwm"
    if len(parts) > 1 and not parts[-1].startswith("/"):
        access = parts.pop()
    if not all(part.startswith("/") for part in parts) or not parts or len(parts) > 2 or not access or set(access) - set("rwm"):
        raise UsageError(f"device: expected /dev/NAME[:/dev/NAME][:rwm], got {text!r}")
    return parts[0], parts[-1], access


def settings(image: str, command: tuple[str, ...], options: Options) -> Settings:
    """`Settings` from keyword arguments. Raises UsageError, also for an option that does not exist."""
    o: dict[str, Any] = dict(options)
    values: dict[str, Any] = {"image": image, "command": command}

    def take(name: str) -> Any:
        return o.pop(name, None)

    env = take("env") or ()
    values["env"] = tuple(f"{k}={v}" for k, v in env.items()) if hasattr(env, "items") else tuple(env)
    for name in ("memory", "memory_swap"):
        if (value := take(name)) is not None:
            values[name] = units.size(value, name)
    for name in ("shm_size", "upper_size"):
        if (value := take(name)) is not None:
            values[name] = units.size(value, name)
    if (value := take("cpus")) is not None:
        values["cpu_quota"] = units.cpus(value)
    if (value := take("cpuset")) is not None:
        values["cpuset_cpus"] = str(value)
    if (value := take("user")) is not None:
        values["user"] = str(value)
    values["groups"] = tuple(str(item) for item in take("groups") or ())
    mounts = [bind(item) if isinstance(item, str) else item for item in take("mounts") or ()]
    values["binds"] = tuple(item for item in mounts if isinstance(item, Bind))
    values["images"] = tuple(item for item in mounts if isinstance(item, ImageSource))
    values["volumes"] = tuple(item for item in mounts if isinstance(item, VolumeMount))
    own = take("tmpfs") or ()
    own = (own,) if isinstance(own, str) else own
    values["tmpfs"] = tuple(item for item in mounts if isinstance(item, Tmpfs)) + tuple(tmpfs(item) for item in own)
    values["devices"] = tuple(device(item) for item in take("devices") or ())
    if (caps := take("capabilities")) is not None:
        # exactly these: all dropped, these added
        values["cap_drop"], values["cap_add"] = ("ALL",), tuple(caps)
    for name in ("cap_add", "cap_drop"):
        if (value := take(name)) is not None:
            values[name] = (*values.get(name, ()), *value)
    limits = take("ulimits") or {}
    values["ulimits"] = tuple(
        Ulimit(name=name, soft=value[0], hard=value[1]) if isinstance(value, tuple) else Ulimit(name=name, soft=value, hard=value)
        for name, value in limits.items()
    )
    for name in ("sysctls", "time_offsets", "labels", "unified"):
        if (value := take(name)) is not None:
            values[name] = dict(value)
    if (entrypoint := take("entrypoint")) is not None:
        values["entrypoint"] = command_of(entrypoint)
    network = take("network")
    ports = take("ports") or ()
    # as docker-py has them: {"80/tcp": 8080}; or as the command line has: ["8080:80/tcp"]
    values["ports"] = tuple(f"{host}:{container}" for container, host in ports.items()) if hasattr(ports, "items") else tuple(str(item) for item in ports)
    values["expose"] = tuple(str(item) for item in take("expose") or ())
    if network is None and (values["ports"] or o.get("publish_all")):
        network = DEFAULT_NETWORK
    wanted = () if network is None else (network,) if isinstance(network, str | Attachment) else tuple(network)
    values |= attachments(wanted, take("ip") or "", take("ip6") or "", take("mac_address") or "", take("aliases") or ())
    for name in ("egress", "dns", "dns_search", "dns_options", "extra_hosts"):
        if (value := take(name)) is not None:
            values[name] = (value,) if isinstance(value, str) else tuple(value)
    if (value := take("kernel")) is not None:
        values["kernel"] = os.path.abspath(os.fspath(value))
    for name in list(o):
        if name not in Settings._fields:
            raise UsageError(f"unknown option {name!r}", "hutch.Container lists the options")
        if (value := take(name)) is not None:
            values[name] = value
    return Settings(**values)


def interpreter_hint(command: tuple[str, ...]) -> str | None:
    """What to do when a program lies in a place that the host's view leaves out: this very interpreter, mostly."""
    from hutch.image.host import INVISIBLE

    if not command or not command[0].startswith("/"):
        return None
    top = next((place for place in INVISIBLE if command[0].startswith(place + "/")), None)
    if top is None or not os.path.exists(command[0]):
        return None
    prefix = sys.base_prefix if command[0].startswith((sys.prefix, sys.base_prefix)) else os.path.dirname(os.path.dirname(command[0]))
    return f'{top} is not part of "host": name a program of /usr, or show the directory with mounts=["{prefix}:{prefix}:ro"] (-v {prefix}:{prefix}:ro)'
