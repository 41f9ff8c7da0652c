"""A container that runs, or has ended: what is known of it, its first process, its files."""

from __future__ import annotations

import os

from hutch.errors import ContainerGone, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hutch.engine.records.facts import Facts
    from hutch.engine.records.state import Running
    from hutch.engine.spec.settings import Settings
    from hutch.image.rootfs import Rootfs
    from hutch.vm.compile import Parts


class Live:
    """A container as it was made: by its record, or by the object of whoever made it. `machine` is the virtual machine that
    it is in. `open_root` gives a descriptor of its root directory, while that can be reached."""

    def __init__(
        self, identity: str, directory: str, settings: Settings, facts: Facts, machine: Parts | None = None, *,
        rootfs: Callable[[], Rootfs], open_root: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        self.id, self.directory, self.settings, self.facts, self.machine = identity, directory, settings, facts, machine
        self._find_rootfs, self.open_root = rootfs, open_root
        self._rootfs: Rootfs | None = None

    @property
    def name(self) -> str:
        """Its name; its id where it has none."""
        return self.settings.name or self.id

    @property
    def rootfs(self) -> Rootfs:
        """What it was made from. Raises ImageError when that is not there any more."""
        if self._rootfs is None:
            self._rootfs = self._find_rootfs()
        return self._rootfs


def open_pidfd(running: Running) -> int:
    """A pidfd of the container's first process. Raises ContainerGone when it is gone, or its pid is somebody else's.

    The record is locked by its executor for as long as the process lives; the executor is the process's parent, so that a
    pid read between the two is the container's, and once the pidfd is open its number can be reused without harm.
    """
    from hutch.kernel import proc, syscalls

    if not running.pid:
        raise ContainerGone(f"container {running.name or running.id}: does not run")
    try:
        pidfd = syscalls.pidfd_open(running.pid)
    except OSError:
        raise ContainerGone(f"container {running.name or running.id}: has ended") from None
    found = proc.stat(running.pid)
    if found is None or found.parent != running.executor:
        os.close(pidfd)
        raise ContainerGone(f"container {running.name or running.id}: has ended")
    return pidfd


def open_root(running: Running, path: str = "") -> int:
    """A descriptor of a running container's root directory; `path` leads there from here, where that is not its first process's root.
    Raises ContainerGone, StateError."""
    os.close(open_pidfd(running))
    path = path or f"/proc/{running.pid}/root"
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"container {running.name or running.id}: {path}: {error.strerror}") from None
