"""Flags of `hutch run` to `Settings`."""

from __future__ import annotations

import os
import stat

from hutch.cli.parse import truth
from hutch.engine.spec import syntax, units
from hutch.engine.spec.settings import DEFAULT_NETWORK, Bind, ImageSource, Settings, Tmpfs, VolumeMount
from hutch.engine.spec.syntax import integer, pairs
from hutch.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


ENV_FILE_LIMIT = 16 << 20  # bytes


def seconds(text: str | None, what: str) -> float | None:
    """A number of seconds above 0, or None. Raises UsageError."""
    if text is None:
        return None
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise UsageError(f"{what}: expected seconds above 0, got {text!r}")
    return value


def patience(text: str | None, what: str) -> float | None:
    """Seconds to wait for an end; 0 kills at once, and -1 waits for ever, as for Docker."""
    return float(text) if text in ("0", "-1") else seconds(text, what)


def environment(values: dict[str, Any]) -> tuple[str, ...]:
    """--env-file first, then -e; a bare NAME takes this process's value, and nothing when there is none."""
    out: list[str] = []

    def add(item: str) -> None:
        name, equals, _ = item.partition("=")
        if equals:
            out.append(item)
        elif name in os.environ:
            out.append(f"{name}={os.environ[name]}")

    for path in values.get("env_file", ()):
        try:
            with open(path, encoding="utf-8-sig") as file:
                whole = file.read(ENV_FILE_LIMIT + 1)
        except OSError as error:
            raise UsageError(f"env-file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"env-file {path}: is not UTF-8 text") from None
        if len(whole) > ENV_FILE_LIMIT:
            raise UsageError(f"env-file {path}: is larger than {ENV_FILE_LIMIT >> 20} MiB")
        for line in whole.split("\n"):
            text = line.removesuffix("\r").lstrip()
            if text and not text.startswith("#"):
                if " " in text.partition("=")[0]:
                    raise UsageError(f"env-file {path}: a name may not contain a blank: {text!r}")
                add(text)
    for item in values.get("env", ()):
        if not item or item.startswith("="):
            raise UsageError(f"env: expected NAME=VALUE, got {item!r}")
        add(item)
    return tuple(out)


def rates(values: dict[str, Any]) -> tuple[tuple[str, int, int, int], ...]:
    """``--device-read-bps /dev/sda:1m`` and the like to (kind, major, minor, rate)."""
    out = []
    for kind in ("read_bps", "write_bps", "read_iops", "write_iops"):
        for item in values.get(f"device_{kind}", ()):
            path, colon, rate = item.rpartition(":")
            what = f"device-{kind.replace('_', '-')}"
            if not colon:
                raise UsageError(f"{what}: expected DEVICE:RATE, got {item!r}")
            try:
                info = os.stat(path)
            except OSError as error:
                raise UsageError(f"{what}: {path}: {error.strerror}") from None
            if not stat.S_ISBLK(info.st_mode):
                raise UsageError(f"{what}: {path}: is no block device")
            number = info.st_rdev
            amount = units.size(rate, what)
            if amount < 0:
                raise UsageError(f"{what}: expected a rate, got {rate!r}")
            out.append((kind, os.major(number), os.minor(number), amount))
    return tuple(out)


def security(items: list[str] | tuple[str, ...]) -> tuple[str, bool]:
    """``(seccomp, no_new_privileges)`` from --security-opt."""
    seccomp, protected = "default", True
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            name, _, value = item.partition(":")
        if name == "seccomp":
            seccomp = value if value in ("default", "compat", "unconfined", "builtin") else os.path.abspath(value)
            seccomp = "default" if seccomp == "builtin" else seccomp
        elif name == "no-new-privileges":
            protected = value == "" or truth("security-opt no-new-privileges", value)
        elif (name, value) in (("label", "disable"), ("apparmor", "unconfined")):
            continue
        else:
            raise UsageError(f"security-opt: {item!r} is not supported", "seccomp=… and no-new-privileges are")
    return seccomp, protected


def settings(values: dict[str, Any], rest: list[str]) -> Settings:
    """The container that the flags ask for. Raises UsageError."""
    if not rest:
        raise UsageError("run: no image was given", "`hutch run host bash`, or `hutch run --help`")
    image, *command = rest
    seccomp, protected = security(values.get("security_opt", ()))
    manager = values.get("cgroup_manager", "cgroupfs")
    if manager not in ("cgroupfs", "systemd"):
        raise UsageError(f"cgroup-manager: expected cgroupfs or systemd, got {manager!r}")
    return Settings(
        image=image,
        command=tuple(command),
        entrypoint=((values["entrypoint"],) if values["entrypoint"] else ()) if "entrypoint" in values else None,
        env=environment(values),
        groups=tuple(values.get("group_add", ())),
        terminal=values.get("tty", False),
        console=values.get("console", (0, 0)),
        readonly=values.get("read_only", False),
        seccomp=seccomp,
        no_new_privileges=protected,
        time_offsets={name: integer(value, "time-offset") or 0 for name, value in pairs(values.get("time_offset", ()), "time-offset").items()},
        stop_timeout=patience(values.get("stop_timeout"), "stop-timeout"),
        systemd=manager == "systemd",
        kernel=os.path.abspath(values["kernel"]) if values.get("kernel") else "",
        labels=pairs([item if "=" in item else f"{item}=" for item in values.get("label", ())], "label"),
        extra_hosts=tuple(values.get("add_host", ())),
        cap_add=tuple(values.get("cap_add", ())),
        cap_drop=tuple(values.get("cap_drop", ())),
        sysctls=pairs(values.get("sysctl", ()), "sysctl"),
        **{name: values[name] for name in PLAIN if name in values},
        **_limits(values),
        **_mounts(values),
        **_networks(values),
    )


# flags whose value is the setting of their name
PLAIN = (
    "name", "workdir", "user", "hostname", "domainname", "interactive", "privileged", "pid", "ipc", "uts", "cgroupns", "userns", "init", "stop_signal",
    "upper", "cgroup_parent", "isolation", "vm_accel", "vm_root", "pull",
)  # fmt: skip


def _limits(values: dict[str, Any]) -> dict[str, Any]:
    def size(name: str) -> int | None:
        return units.size(values[name], name.replace("_", "-")) if name in values else None

    quota = integer(values.get("cpu_quota"), "cpu-quota")
    period = integer(values.get("cpu_period"), "cpu-period")
    if "cpus" in values:
        cpus = units.cpus(values["cpus"])
        if cpus and (quota is not None or period is not None):
            raise UsageError("cpus: stands for --cpu-quota and --cpu-period: give one or the other")
        quota = cpus or quota
    return {
        "memory": size("memory"),
        "memory_swap": size("memory_swap"),
        "memory_reservation": size("memory_reservation"),
        "memory_swappiness": integer(values.get("memory_swappiness"), "memory-swappiness"),
        "cpu_quota": quota,
        "cpu_period": period,
        "cpu_shares": integer(values.get("cpu_shares"), "cpu-shares"),
        "cpuset_cpus": values.get("cpuset_cpus", ""),
        "cpuset_mems": values.get("cpuset_mems", ""),
        "pids": integer(values.get("pids_limit"), "pids-limit"),
        "blkio_weight": integer(values.get("blkio_weight"), "blkio-weight"),
        "device_rates": rates(values),
        "unified": pairs(values.get("cgroup_conf", ()), "cgroup-conf"),
        "oom_score_adj": integer(values.get("oom_score_adj"), "oom-score-adj"),
        "ulimits": tuple(syntax.ulimit(item) for item in values.get("ulimit", ())),
        "shm_size": size("shm_size") or 64 << 20,
        "upper_size": size("upper_size") or 0,
    }


def _mounts(values: dict[str, Any]) -> dict[str, Any]:
    mounts = [syntax.bind(item) for item in values.get("volume", ())] + [syntax.mount(item) for item in values.get("mount", ())]
    own = tuple(syntax.tmpfs(item) for item in values.get("tmpfs", ()))
    return {
        "binds": tuple(item for item in mounts if isinstance(item, Bind)),
        "volumes": tuple(item for item in mounts if isinstance(item, VolumeMount)),
        "images": tuple(item for item in mounts if isinstance(item, ImageSource)),
        "tmpfs": tuple(item for item in mounts if isinstance(item, Tmpfs)) + own,
        "devices": tuple(syntax.device(item) for item in values.get("device", ())),
    }


def _networks(values: dict[str, Any]) -> dict[str, Any]:
    network = values.get("network", ())
    if not network and (values.get("publish") or values.get("publish_all")):
        network = [DEFAULT_NETWORK]
    return {
        "ports": tuple(values.get("publish", ())),
        "publish_all": values.get("publish_all", False),
        "expose": tuple(values.get("expose", ())),
        "egress": tuple(values.get("egress", ())),
        "dns": tuple(values.get("dns", ())),
        "dns_search": tuple(values.get("dns_search", ())),
        "dns_options": tuple(values.get("dns_option", ())),
        **syntax.attachments(network, values.get("ip", ""), values.get("ip6", ""), values.get("mac_address", ""), values.get("network_alias", ())),
    }
