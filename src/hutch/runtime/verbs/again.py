"""A bundle that runs again under its name, as a service does: by the plan of the last time, if everything else is the same.

Reading the configuration and compiling it import most of the runtime. A plan is kept when it names nothing but files,
limits and a program: no hooks, no terminal, no agent, no interfaces. What it was compiled from is compared as text: the
configuration, the mounts and cgroups of this process, its rights and limits, and Hutch itself.
"""

from __future__ import annotations

import os
import time

from hutch import jsontext
from hutch.executor import kept
from hutch.executor.late import fill, offsets
from hutch.executor.launcher import Execution
from hutch.kernel import proc
from hutch.runtime.verbs.common import Options, occupied, utc, vacant, write_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hutch.plan.plan import Plan
    from hutch.runtime.verbs.create import Creation
    from hutch.runtime.verbs.store import Store

MOMENT = "moment"


def place(store: Store) -> str:
    """Where the plans are kept: not among the containers, whose names are anybody's choice."""
    return f"{store.root}.plans"


def key(store: Store, identity: str, bundle: str, text: str, options: Options) -> bytes:
    """Everything that the plan of a `run` depends on."""
    rights = [line for line in proc.read_text("/proc/self/status").split("\n") if line.startswith(("Uid", "Gid", "CapEff"))]
    parts = [store.root, identity, bundle, repr(options.replace(pid_file="")), os.uname().release, *rights]
    parts += [proc.read_text(f"/proc/self/{name}") for name in ("mountinfo", "cgroup", "limits")]
    return "\n".join([*parts, text]).encode("utf-8", "surrogateescape")


def plain(options: Options) -> bool:
    """Whether nothing was asked for that a kept plan has not."""
    return not (options.console_socket or options.systemd or options.debug or options.preserve)


def keep(own: bytes, creation: Creation) -> None:
    """Keep the plan of a creation with `plain` options, if it is one to be kept."""
    config = creation.config
    process, linux = config.process, config.linux
    asks = bool(linux.net_devices or linux.intel_rdt or (config.hooks is not None and any(config.hooks.as_dict().values())))
    listens = linux.seccomp is not None and bool(linux.seccomp.listener_path)
    if asks or listens or process is None or process.terminal or creation.warned:
        return
    paths = creation.compiled.cgroup_paths
    above = {directory: cpuset(directory) for directory in (path.rpartition("/")[0] for path in paths.values())}
    encoded = creation.plan.encode(0)
    # the moment of creation has nanoseconds: no configuration that was read before contains it
    moments = offsets(encoded, creation.created.encode())
    said = {"exports": creation.plan.exports(), "paths": paths, "above": above, "moments": moments}
    kept.save(place(creation.store), own, jsontext.dumps(said), encoded)


def cpuset(directory: str) -> str:
    """The CPUs and nodes of a v1 cpuset, which its children inherit; "" for other directories."""
    try:
        return proc.read_text(f"{directory}/cpuset.cpus") + proc.read_text(f"{directory}/cpuset.mems")
    except OSError:
        return ""


class Again:
    """A run by a kept plan."""

    def __init__(self, encoded: bytes, moments: list[int], exports: tuple[str, ...], options: Options, compile_: Callable[[str], Plan]) -> None:
        moment = utc(time.time_ns())
        whole = fill(encoded, ((MOMENT, at) for at in moments), {MOMENT: moment.encode()})
        self._stored = kept.Stored(exports, whole, lambda: compile_(moment))
        self._options = options

    def launch(self) -> Execution:
        """Start the executor."""
        self.execution = Execution(self._stored, stdin=0, stdout=1, stderr=2)
        return self.execution

    def ready(self) -> None:
        """Wait until the program runs. Raises StartError."""
        self.execution.wait_ready()
        if self._options.pid_file:
            write_pid(self._options.pid_file, self.execution.pid)

    def ended(self) -> None:
        """Nothing is left to be done: the executor undid it all."""


def find(store: Store, own: bytes, identity: str, options: Options, compile_: Callable[[str], Plan]) -> Again | None:
    """A run by the plan that is kept under a key; None when there is none, or when its cgroups' place has changed. `compile_` gives
    the plan whole, for a moment of creation, if it is needed after all."""
    found = kept.load(place(store), own)
    if found is None:
        return None
    said = jsontext.loads(found[0])
    if any(not os.path.isdir(path) or cpuset(path) != text for path, text in said["above"].items()):
        return None
    vacant(store, identity)
    occupied(said["paths"])
    store.prepare()
    return Again(found[1], said["moments"], tuple(said["exports"]), options, compile_)
