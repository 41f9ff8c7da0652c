"""The options of `hutch.run` and `hutch.Container`: their names, types and meanings, and how `Settings` come of them."""

from __future__ import annotations

import os
import sys

from hutch.engine.spec import arguments, syntax, units
from hutch.engine.spec.settings import DEFAULT_NETWORK, Attachment, Bind, ImageSource, Settings, Tmpfs, Ulimit, VolumeMount
from hutch.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, BinaryIO, TypeAlias, TypedDict

    from hutch.engine.spec.arguments import AnyPath
    from hutch.engine.spec.syntax import Mount

    Input: TypeAlias = "str | bytes | int | BinaryIO | None"

    class Streams(TypedDict, total=False):
        """What a started command reads, how long it may take, and how much of what it writes is kept."""

        stdin: Input
        timeout: float | None
        output_limit: int
        merge_stderr: bool

    class Options(TypedDict, total=False):
        """What makes a container. `DESCRIPTION` says what each means."""

        name: str
        hostname: str
        domainname: str
        labels: Mapping[str, str]
        pull: str
        entrypoint: Iterable[AnyPath]
        env: Mapping[str, str] | Iterable[str]
        workdir: AnyPath
        user: str | int
        groups: Iterable[str | int]
        init: bool
        stop_signal: str
        stop_timeout: float
        memory: int | str
        memory_swap: int | str
        memory_reservation: int | str
        memory_swappiness: int
        cpus: float
        cpu_shares: int
        cpu_quota: int
        cpu_period: int
        cpuset: str
        cpuset_mems: str
        pids: int
        blkio_weight: int
        unified: Mapping[str, str | int]
        oom_score_adj: int
        ulimits: Mapping[str, int | tuple[int, int]]
        cgroup_parent: AnyPath
        systemd: bool
        mounts: Iterable[Mount | str]
        tmpfs: Iterable[str] | str
        devices: Iterable[AnyPath]
        readonly: bool
        shm_size: int | str
        upper: str
        upper_size: int | str
        network: str | Attachment | Iterable[str | Attachment]
        aliases: Iterable[str]
        ip: str
        ip6: str
        mac_address: str
        ports: Iterable[str | int] | Mapping[str, int | str] | Mapping[int, int | str]
        publish_all: bool
        expose: Iterable[str | int]
        egress: Iterable[str] | str
        dns: Iterable[str] | str
        dns_search: Iterable[str] | str
        dns_options: Iterable[str] | str
        extra_hosts: Iterable[str] | str
        userns: str
        pid: str
        ipc: str
        uts: str
        cgroupns: str
        time_offsets: Mapping[str, int]
        privileged: bool
        capabilities: Iterable[str]
        cap_add: Iterable[str]
        cap_drop: Iterable[str]
        seccomp: AnyPath
        no_new_privileges: bool
        sysctls: Mapping[str, str | int]
        isolation: str
        vm_accel: str
        vm_root: str
        kernel: AnyPath

    class RunOptions(Options, Streams, total=False):
        """What `hutch.run` and `hutch.start` take."""

    class CommandOptions(Streams, total=False):
        """What a command in a container that runs takes."""

        env: Mapping[str, str] | Iterable[str] | None
        workdir: AnyPath | None
        user: str | int | None


DESCRIPTION = """
    Options of the container. Sizes are bytes, or text such as "512m"; a path is text or a pathlib.Path; what is not given
    is as the image, or else the default, has it.

    Who it is
      name: str                         its name, which no other container has; else its id stands for it
      hostname, domainname: str         host name (default: the id's first digits) and NIS domain name
      labels: {str: str}                words of yours that its record keeps
      pull: str                         "missing" (default), "always" or "never": when to fetch the image

    What runs in it
      entrypoint: [str]                 what begins its command, in place of the image's
      env: {str: str} or ["NAME=VALUE"] variables beside the image's
      workdir: path                     working directory, made where it is missing
      user: str or int                  "name|uid[:group|gid]"; groups: [str or int], further ones
      init: bool                        a PID 1 that reaps, before the command (default False)
      stop_signal: str                  such as "INT"; stop_timeout: float, seconds until a stop kills

    What it may use
      memory, memory_swap, memory_reservation: size    limit, limit with swap, what it keeps under pressure
      memory_swappiness: int            0 to 100, on cgroup v1
      cpus: float                       CPU time, in CPUs: 0.5 is half of one
      cpu_shares, cpu_quota, cpu_period: int           weight; microseconds in each period
      cpuset, cpuset_mems: str          the CPUs and memory nodes it may use, such as "0-3,7"
      pids: int                         processes and threads; -1 for no limit
      blkio_weight: int                 10 to 1000
      unified: {str: str or int}        files of cgroup v2 by name, such as {"memory.high": "1g"}
      oom_score_adj: int                -1000 to 1000; ulimits: {str: int or (soft, hard)}, such as {"nofile": 1024}
      cgroup_parent: path               the cgroup to be in; systemd: bool, whether systemd is to make it

    Its files
      mounts: [...]                     Bind, Tmpfs, VolumeMount, ImageSource, or "/host:/there:ro", "volume:/there"
      tmpfs: [str]                      directories in memory, such as "/run:size=64m"
      devices: [path]                   such as "/dev/fuse", "/dev/sda:/dev/xvda:r"
      readonly: bool                    a root that it cannot change (default False)
      shm_size: size                    of /dev/shm (default 64 MiB)
      upper: str                        where its changes live: "tmpfs" (default) or "disk"; upper_size: size

    Networks
      network: str, Attachment or [...] "none" (default), "host", "container:NAME", or networks' names
      ip, ip6, mac_address: str         on the first network; aliases: [str], further names there
      ports: ["8080:80/tcp"] or {"80/tcp": 8080}       what is published; publish_all: bool; expose: [str or int]
      egress: [str]                     whom it may reach, such as "example.org:443"; "none" for nobody
      dns, dns_search, dns_options, extra_hosts: [str] name servers and hosts(5), in place of the host's

    How it is held
      userns: str                       "auto" (default), "private", "single" or "host"
      pid, ipc, uts, cgroupns: str      "private" (default) or "host": namespaces
      time_offsets: {str: int}          seconds by clock, "monotonic" or "boottime"
      capabilities: [str]               exactly these; or, from the default ones, cap_add, cap_drop: [str]
      seccomp: str or path              "default", "compat" (32-bit programs too), "unconfined", or a profile's file
      no_new_privileges: bool           set-uid programs give nothing (default True)
      privileged: bool                  next to nothing is held back (default False)
      sysctls: {str: str or int}        of its own namespaces, such as {"net.ipv4.ip_forward": 1}

    A virtual machine
      isolation: str                    "namespaces" (default) or "vm"
      vm_accel: str                     "kvm" (default) or "tcg", emulation
      vm_root: str                      "shared" (default), or "disk", which can be snapshotted
      kernel: path                      the guest's kernel; else the host's, or the best that is installed
"""

# other engines' names for options, which their users try first
ELSEWHERE = {
    "volumes": 'mounts=["/host:/there:ro"]', "volume": 'mounts=["/host:/there:ro"]', "environment": "env", "mem_limit": "memory",
    "memswap_limit": "memory_swap", "mem_reservation": "memory_reservation", "mem_swappiness": "memory_swappiness", "working_dir": "workdir",
    "network_mode": "network", "read_only": "readonly", "pids_limit": "pids", "pid_mode": "pid", "ipc_mode": "ipc", "uts_mode": "uts",
    "userns_mode": "userns", "cpuset_cpus": "cpuset", "nano_cpus": "cpus", "group_add": "groups", "security_opt": "seccomp, no_new_privileges",
    "hosts": "extra_hosts", "dns_opt": "dns_options", "storage_opt": "upper_size", "device": "devices",
    "detach": "hutch.start, or hutch.Container", "remove": "nothing: what ends is removed", "auto_remove": "nothing: what ends is removed",
    "tty": "`hutch run -t`", "stdin_open": "stdin", "platform": "hutch.images.pull(…, platform=…)",
}  # fmt: skip


def _mounts(name: str, value: object) -> list[Mount]:
    expected = 'a list of Bind, Tmpfs, VolumeMount, ImageSource, or texts such as "/host:/there:ro"'
    found: list[Mount] = []
    for item in arguments.items(name, value, expected):
        if isinstance(item, str):
            found.append(syntax.bind(item))
        elif isinstance(item, Bind | Tmpfs | VolumeMount | ImageSource):
            found.append(item)
        else:
            arguments.wrong(name, expected, item)
    return found


def _ulimits(name: str, value: object) -> tuple[Ulimit, ...]:
    found = []
    for key, item in arguments.mapping(name, value, 'a mapping such as {"nofile": 1024}').items():
        pair = item if isinstance(item, tuple | list) else (item, item)
        if len(pair) != 2:
            arguments.wrong(f"{name} {key}", "a number, or the soft and the hard one", item)
        soft, hard = (arguments.whole(f"{name} {key}", part) for part in pair)
        found.append(Ulimit(name=key, soft=soft, hard=hard))
    return tuple(found)


def _ports(name: str, value: object) -> tuple[str, ...]:
    """As docker-py has them, {"80/tcp": 8080}; or as the command line has: ["8080:80/tcp"]."""
    if hasattr(value, "items"):
        by_name = {str(key) if isinstance(key, int) else key: item for key, item in value.items()}
        return tuple(f"{host}:{container}" for container, host in arguments.value_by_name(name, by_name).items())
    return tuple(arguments.identity(name, item) for item in arguments.items(name, value, 'a list such as ["8080:80/tcp"]'))


def _entrypoint(name: str, value: object) -> tuple[str, ...]:
    return arguments.command(value, name)


def _kernel(name: str, value: object) -> str:
    return os.path.abspath(arguments.path(name, value))


def _seccomp(name: str, value: object) -> str:
    return os.path.abspath(arguments.path(name, value)) if isinstance(value, os.PathLike) else arguments.text(name, value)


def _size(name: str, value: object) -> int:
    return units.size(arguments.size(name, value), name)


def _devices(name: str, value: object) -> tuple[tuple[str, str, str], ...]:
    return tuple(syntax.device(arguments.path(name, item)) for item in arguments.items(name, value, 'a list such as ["/dev/fuse"]'))


# the options that are a field of `Settings` by themselves, and how their value is read
READERS: dict[str, Callable[[str, Any], object]] = {
    **dict.fromkeys(
        (
            "name", "hostname", "domainname", "pull", "stop_signal", "cpuset_mems", "upper", "userns", "pid", "ipc", "uts", "cgroupns", "isolation",
            "vm_accel", "vm_root",
        ),
        arguments.text,
    ),
    **dict.fromkeys(("workdir", "cgroup_parent"), arguments.path),
    **dict.fromkeys(("init", "systemd", "readonly", "publish_all", "privileged", "no_new_privileges"), arguments.flag),
    **dict.fromkeys(("memory_swappiness", "cpu_shares", "cpu_quota", "cpu_period", "pids", "blkio_weight", "oom_score_adj"), arguments.whole),
    **dict.fromkeys(("memory", "memory_swap", "memory_reservation", "shm_size", "upper_size"), _size),
    **dict.fromkeys(("egress", "dns", "dns_search", "dns_options", "extra_hosts"), arguments.text_or_texts),
    **dict.fromkeys(("unified", "sysctls"), arguments.value_by_name),
    **dict.fromkeys(("expose", "groups"), arguments.identities),
    **dict.fromkeys(("cap_add", "cap_drop"), arguments.texts),
    "labels": arguments.text_by_name,
    "entrypoint": _entrypoint,
    "env": arguments.environment,
    "user": arguments.identity,
    "stop_timeout": arguments.number,
    "ulimits": _ulimits,
    "devices": _devices,
    "ports": _ports,
    "time_offsets": arguments.whole_by_name,
    "seccomp": _seccomp,
    "kernel": _kernel,
}  # fmt: skip
# those that become several fields, or other ones
COMPOSED = ("cpus", "cpuset", "mounts", "tmpfs", "capabilities", "network", "ip", "ip6", "mac_address", "aliases")


def settings(image: AnyPath, command: tuple[str, ...], options: Options) -> Settings:
    """`Settings` from keyword arguments; None stands for what was not given. Raises UsageError, also for an option that
    does not exist."""
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    values: dict[str, Any] = {"image": arguments.image(image), "command": command}
    for name, value in given.items():
        reader = READERS.get(name)
        if reader is not None:
            values[name] = reader(name, value)
        elif name not in COMPOSED:
            raise UsageError(f"unknown option {name!r}", _instead(name))
    if (cpus := given.get("cpus")) is not None:
        values["cpu_quota"] = units.cpus(arguments.number("cpus", cpus))
    if (cpuset := given.get("cpuset")) is not None:
        values["cpuset_cpus"] = arguments.identity("cpuset", cpuset)
    if (capabilities := given.get("capabilities")) is not None:
        # exactly these: all dropped, these added
        values["cap_drop"] = ("ALL", *values.get("cap_drop", ()))
        values["cap_add"] = (*arguments.texts("capabilities", capabilities), *values.get("cap_add", ()))
    mounts = _mounts("mounts", given["mounts"]) if "mounts" in given else []
    for field, kind in (("binds", Bind), ("images", ImageSource), ("volumes", VolumeMount), ("tmpfs", Tmpfs)):
        values[field] = tuple(item for item in mounts if isinstance(item, kind))
    if (own := given.get("tmpfs")) is not None:
        values["tmpfs"] += tuple(syntax.tmpfs(item) for item in arguments.text_or_texts("tmpfs", own))
    return Settings(**values, **_networks(given, published=bool(values.get("ports") or values.get("publish_all"))))


def _networks(given: dict[str, Any], published: bool) -> dict[str, Any]:
    network = given.get("network", DEFAULT_NETWORK if published else ())
    wanted: list[str | Attachment] = []
    for item in [network] if isinstance(network, str | Attachment) else arguments.items("network", network, "names, or Attachment"):
        wanted.append(item if isinstance(item, str | Attachment) else arguments.wrong("network", "a name, or Attachment", item))
    ip, ip6, mac = (arguments.text(name, given.get(name, "")) for name in ("ip", "ip6", "mac_address"))
    return syntax.attachments(wanted, ip, ip6, mac, arguments.texts("aliases", given.get("aliases", ())))


def _instead(name: str) -> str:
    """What to use in place of an option that does not exist."""
    if name in ELSEWHERE:
        return f"use {ELSEWHERE[name]}"
    import difflib

    close = difflib.get_close_matches(name, [*READERS, *COMPOSED], 1)
    return f"{close[0]} is one" if close else "help(hutch.Container) lists the options"


def interpreter_hint(image: str, command: tuple[str, ...]) -> str | None:
    """What to do when a program lies in a place that the image "host" leaves out: this very interpreter, mostly."""
    from hutch.image.host import INVISIBLE

    if image != "host" or not command or not command[0].startswith("/"):
        return None
    top = next((place for place in INVISIBLE if command[0].startswith(place + "/")), None)
    if top is None or not os.path.exists(command[0]):
        return None
    prefix = sys.base_prefix if command[0].startswith((sys.prefix, sys.base_prefix)) else os.path.dirname(os.path.dirname(command[0]))
    return f'{top} is not part of "host": name a program of /usr, or show the directory with mounts=["{prefix}:{prefix}:ro"] (-v {prefix}:{prefix}:ro)'
