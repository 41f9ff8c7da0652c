"""Encoded plans kept from one `hutch run` to the next.

Compiling imports most of Hutch and takes as long as the interpreter itself; the same command on the same machine gives the
same plan. A kept plan is used only when everything that it was compiled from is the same, compared as text and not by a
hash: the words of the command, the directory, this user's rights, the mounts, the cgroups, the root file system as it was
just resolved (with every path that is hidden in it). It lives beside the records, in memory, and any
process may remove it.
"""

from __future__ import annotations

import os

from hutch.engine.launch.identity import Marks
from hutch.kernel import proc
from hutch.kernel.features import Features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from hutch.executor.late import Places
    from hutch.image.rootfs import Rootfs

# Flags whose plan depends on nothing but their own words (and see `keepable`). Others (users by name, profiles, devices, files) are compiled anew.
PLAIN = frozenset(
    "interactive tty console rm pull quiet workdir hostname entrypoint init timeout sig_proxy memory memory_swap memory_reservation cpus cpu_shares "
    "cpu_period cpu_quota cpuset_cpus pids_limit shm_size read_only cap_add cap_drop network pid ipc uts cgroupns userns upper_size".split()
)


def keepable(values: dict[str, object]) -> bool:
    """Whether a command's plan may be kept: on the host's network it holds the resolver's settings of the moment."""
    return PLAIN.issuperset(values) and values.get("network", ["none"]) == ["none"]


def key(words: Sequence[str], rootfs: Rootfs, features: Features) -> bytes:
    """Everything that a plan depends on, as text."""
    parts = [
        repr(words), os.getcwd(), str((features.kernel, features.uid, features.gid, features.capabilities)),
        _mounts(), proc.read_text("/proc/self/cgroup"), repr(rootfs), repr(features.replace(mounts=())),
        os.environ.get("HUTCH_DATA", ""), os.environ.get("HUTCH_STATE", ""), os.environ.get("XDG_RUNTIME_DIR", ""),
    ]  # fmt: skip
    return "\n".join(parts).encode("utf-8", "surrogateescape")


def _mounts() -> str:
    """What is mounted, without layers, which come and go with other containers."""
    return "\n".join(line for line in proc.read_text("/proc/self/mountinfo").split("\n") if " - erofs " not in line)


def said(exports: tuple[str, ...], marks: Marks, places: Places) -> str:
    """What is kept with a plan: what it exports, its marks, and where they stand."""
    return "\n".join((" ".join(exports), " ".join(marks.words()), " ".join(f"{name}:{at}" for name, at in places)))


def parts(text: str) -> tuple[tuple[str, ...], Marks, Places]:
    """What `said` gave."""
    exports, words, places = text.split("\n")
    identity, created, address, port = words.split(" ")
    found = tuple((name, int(at)) for name, _, at in (item.partition(":") for item in places.split(" ")))
    return tuple(exports.split()), Marks(id=identity, created=created, address=address, port=port), found


def place(base: str) -> str:
    """Where the plans are kept: beside the records of `base`."""
    return f"{base}/.plans"
