"""What a user typed, for the fields of the configuration that it became: a message names his words, and not the plan's.

An operation carries the field of the OCI configuration that it comes from (``mounts[6]``). Of a container that was asked for with
flags, nobody has seen that configuration.
"""

from __future__ import annotations

from hutch.engine.spec.settings import Settings, place
from hutch.errors import HutchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from hutch.oci.config import Config

# fields that one flag stands for, whose value is its own
FLAGS = {
    "linux.resources.memory.limit": ("memory", "memory"),
    "linux.resources.memory.swap": ("memory-swap", "memory_swap"),
    "linux.resources.memory.reservation": ("memory-reservation", "memory_reservation"),
    "linux.resources.memory.swappiness": ("memory-swappiness", "memory_swappiness"),
    "linux.resources.cpu.quota": ("cpu-quota", "cpu_quota"),
    "linux.resources.cpu.period": ("cpu-period", "cpu_period"),
    "linux.resources.cpu.shares": ("cpu-shares", "cpu_shares"),
    "linux.resources.cpu.cpus": ("cpuset-cpus", "cpuset_cpus"),
    "linux.resources.cpu.mems": ("cpuset-mems", "cpuset_mems"),
    "linux.resources.pids.limit": ("pids-limit", "pids"),
    "linux.resources.blockIO.weight": ("blkio-weight", "blkio_weight"),
    "process.oomScoreAdj": ("oom-score-adj", "oom_score_adj"),
    "linux.cgroupsPath": ("cgroup-parent", "cgroup_parent"),
    "process.user": ("user", "user"),
    "hostname": ("hostname", "hostname"),
    "domainname": ("domainname", "domainname"),
    "linux.seccomp": ("security-opt seccomp", "seccomp"),
    "upper-size": ("upper-size", "upper_size"),
    "name": ("name", "name"),
}
# and those that no single word of the user's stands for
OTHERS = (
    ("linux.resources.unified", "cgroup-conf"),
    ("linux.resources", "limits"),
    ("linux.sysctl", "sysctl"),
    ("linux.namespaces", "namespaces"),
    ("linux.uidMappings", "userns"),
    ("linux.cgroupsPath", "cgroup"),
    ("linux.devices", "device"),
    ("linux.netDevices", "net-device"),
    ("linux", "the container's isolation"),
    ("process.cwd", "workdir"),
    ("process.user", "user"),
    ("process.env", "env"),
    ("process.rlimits", "ulimit"),
    ("process.terminal", "tty"),
    ("process", "the program"),
    ("name", "name"),
    ("hostname", "the container's own files"),
    ("mounts", "mount"),
    ("root", "the root file system"),
    ("state", "the container's record"),
)


def typed(s: Settings, config: Config) -> tuple[tuple[str, str], ...]:
    """(a field of the configuration, the user's words for it) pairs; what is more exact comes first."""
    return (*_mounts(s, config), *_values(s, config), *OTHERS)


def _mounts(s: Settings, config: Config) -> Iterator[tuple[str, str]]:
    """`-v`, `--tmpfs`, `--device`; Hutch's own are at the front."""
    asked = {place(bind.target): f"-v {bind.source}:{bind.target}" for bind in s.binds}
    asked |= {place(volume.target): f"-v {volume.name}:{volume.target}" + (f" (subpath {volume.subpath})" if volume.subpath else "") for volume in s.volumes}
    asked |= {place(tmpfs.target): f"tmpfs {tmpfs.target}" + (f":{','.join(tmpfs.options)}" if tmpfs.options else "") for tmpfs in s.tmpfs}
    asked |= {target: f"device {source}:{target}" for source, target, _ in s.devices}
    for i, mount in enumerate(config.mounts):
        yield f"mounts[{i}]", asked.get(mount.destination, mount.destination)
    for i, device in enumerate(config.linux.devices):
        yield f"linux.devices[{i}]", asked.get(device.path, f"device {device.path}")


def _values(s: Settings, config: Config) -> Iterator[tuple[str, str]]:
    for field, (flag, name) in FLAGS.items():
        if (value := getattr(s, name)) not in (None, "", 0):
            yield field, f"{flag} {value}"
    yield from ((f"linux.sysctl.{name}", f"sysctl {name}={value}") for name, value in s.sysctls.items())
    yield from ((f"linux.resources.unified.{key}", f"cgroup-conf {key}={value}") for key, value in s.unified.items())
    yield from ((f"process.rlimits[{i}]", f"ulimit {limit.name}={limit.soft}:{limit.hard}") for i, limit in enumerate(s.ulimits))
    if s.time_offsets:
        yield "linux.timeOffsets", "time-offset " + ", ".join(f"{clock}={value}" for clock, value in s.time_offsets.items())
    if config.process is not None:
        yield "process.cwd", f"workdir {config.process.cwd}"
        yield "process.user", f"user {config.process.user.uid}:{config.process.user.gid}"
    seen: dict[str, int] = {}
    for kind, major, minor, rate in s.device_rates:
        number = seen[kind] = seen.get(kind, -1) + 1
        camel = "throttle" + "".join(part.upper() if part == "iops" else part.capitalize() for part in kind.split("_"))
        yield f"linux.resources.blockIO.{camel}Device[{number}]", f"device-{kind.replace('_', '-')} {_device(major, minor)}:{rate}"


def _device(major: int, minor: int) -> str:
    """A device's name in /dev, as sysfs tells it."""
    import os

    for kind in ("block", "char"):
        try:
            return f"/dev/{os.path.basename(os.readlink(f'/sys/dev/{kind}/{major}:{minor}'))}"
        except OSError:
            continue
    return f"{major}:{minor}"


def reword(error: HutchError, names: tuple[tuple[str, str], ...]) -> None:
    """Put the user's words in front of an error's message, where a field of the configuration is."""
    from hutch.plan.plan import called

    field, colon, rest = error.message.partition(": ")
    if colon and (words := called(names, field)):
        error.message = f"{words}: {rest}"
        error.args = (error.message,)
