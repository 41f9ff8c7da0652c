"""Encoded plans kept from one `hutch run` to the next.

Compiling imports most of Hutch and takes as long as the interpreter itself; the same command on the same machine gives the
same plan. A kept plan is used only when everything that it was compiled from is the same, compared as text and not by a
hash: the words of the command, the directory, this user's rights, the mounts, the cgroups, the root file system as it was
just resolved (with every path that is hidden in it), and Hutch itself. It lives beside the records, in memory, and any
process may remove it.
"""

from __future__ import annotations

import os
from binascii import crc32

from hutch.kernel import proc
from hutch.kernel.features import Features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hutch.engine.prepare import Prepared
    from hutch.image.rootfs import Rootfs
    from hutch.plan.ops import Operation
    from hutch.plan.plan import Plan

# Flags whose plan depends on nothing but their own words (and see `keepable`). Others (users by name, profiles, devices, files) are compiled anew.
PLAIN = frozenset(
    "interactive tty rm workdir hostname entrypoint init timeout sig_proxy memory memory_swap memory_reservation cpus cpu_shares "
    "cpu_period cpu_quota cpuset_cpus pids_limit shm_size read_only cap_add cap_drop network pid ipc uts cgroupns userns upper_size".split()
)
SEPARATOR = b"\0\0hutch\0\0"
KEEP = 64


class Stored:
    """A kept plan: ready to run; compiled after all when somebody wants to look into it, as an error does."""

    detach = False

    def __init__(self, exports: tuple[str, ...], encoded: bytes, compile_: Callable[[], Prepared]) -> None:
        self._exports, self.encoded, self._compile = exports, encoded, compile_
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan:
        """The whole plan."""
        if self._plan is None:
            self._plan = self._compile().compiled.plan
        return self._plan

    @property
    def host(self) -> tuple[Operation, ...]:
        """The plan's host lane."""
        return self.plan.host

    @property
    def container(self) -> tuple[Operation, ...]:
        """The plan's container lane."""
        return self.plan.container

    def exports(self) -> tuple[str, ...]:
        """As `Plan.exports`."""
        return self._exports

    def operation(self, lane: int, index: int) -> Operation:
        """As `Plan.operation`."""
        return self.plan.operation(lane, index)


def keepable(values: dict[str, object]) -> bool:
    """Whether a command's plan may be kept: on the host's network it holds the resolver's settings of the moment."""
    return PLAIN.issuperset(values) and values.get("network") != "host"


def key(words: Sequence[str], rootfs: Rootfs, features: Features) -> bytes:
    """Everything that a plan depends on, as text."""
    here = os.path.dirname(os.path.dirname(__file__))
    own = [f"{os.stat(f'{here}/{name}').st_mtime_ns}" for name in ("executor/executor", "runtime/compile.py", "engine/settings.py")]
    parts = [
        *own, repr(words), os.getcwd(), str((features.kernel, features.uid, features.gid, features.capabilities)),
        proc.read_text("/proc/self/mountinfo"), proc.read_text("/proc/self/cgroup"), repr(rootfs), repr(features.replace(mounts=())),
        os.environ.get("HUTCH_DATA", ""), os.environ.get("HUTCH_STATE", ""), os.environ.get("XDG_RUNTIME_DIR", ""),
    ]  # fmt: skip
    return "\n".join(parts).encode("utf-8", "surrogateescape")


def _path(base: str, own: bytes) -> str:
    return f"{base}/.plans/{crc32(own):08x}"


def load(base: str, own: bytes) -> tuple[tuple[str, ...], bytes] | None:
    """The exports and the encoded plan kept under a key; None when there is none."""
    try:
        fd = os.open(_path(base, own), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            return None
        data = os.read(fd, 8 << 20)
    finally:
        os.close(fd)
    stored, _, rest = data.partition(SEPARATOR)
    exports, separator, encoded = rest.partition(SEPARATOR)
    if stored != own or not separator:
        return None
    return tuple(exports.decode().split()), encoded


def save(base: str, own: bytes, exports: tuple[str, ...], encoded: bytes) -> None:
    """Keep a plan; a failure to do so is nobody's trouble."""
    directory = f"{base}/.plans"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        names = os.listdir(directory)
        if len(names) >= KEEP:
            for name in names:
                os.unlink(f"{directory}/{name}")
        fresh = f"{directory}/.new-{os.getpid()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, own + SEPARATOR + " ".join(exports).encode() + SEPARATOR + encoded)
        finally:
            os.close(fd)
        os.rename(fresh, _path(base, own))
    except OSError:
        return
