"""The cgroup of a container in a machine: its files are the guest's, and are asked for through the machine's control channel."""

from __future__ import annotations

from contextlib import contextmanager

from hutch.cgroup.live import Cgroup, whole
from hutch.engine.machines import channel
from hutch.errors import ContainerGone, UnsupportedError
from hutch.vm import frames
from hutch.vm.compile import GUEST_CGROUP

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from hutch.cgroup.live import Stats
    from hutch.oci.config import Resources

PATIENCE = 2.0  # seconds for an answer: of a machine that is paused there is none


class GuestCgroup(Cgroup):
    """As any container's; but its limits are the machine's, which do not change, and it is the machine that is paused."""

    def __init__(self, directory: str, name: str) -> None:
        super().__init__({"": f"/sys/fs/cgroup{GUEST_CGROUP}"})
        self._directory, self._name = directory, name
        self._door: socket.socket | None = None

    def stats(self) -> Stats:
        """The numbers now, as the guest counts them; an empty record for a machine that is gone, or paused."""
        with self._asking():
            return super().stats()

    def oom_kills(self) -> int | None:
        """As `Cgroup.oom_kills`; None for a machine that is gone, or paused."""
        with self._asking():
            return super().oom_kills()

    @contextmanager
    def _asking(self, *, there: bool = False) -> Iterator[None]:
        """One connexion for several files. To a machine that is gone there is none, and no file has an answer; where it must be
        `there`, ContainerGone is raised."""
        import socket

        try:
            door = socket.socket(fileno=channel.connect(self._directory, self._name))
        except ContainerGone:
            if there:
                raise
            yield
            return
        with door:
            self._door = door
            try:
                yield
            finally:
                self._door = None

    def _text(self, controller: str, key: str) -> str | None:
        if self._door is None:
            return None
        path = f"{self._file(controller, key)}\0".encode()
        try:
            answer = frames.ask(self._door, frames.pack("READ_FILE", path), "FILE_CONTENT", PATIENCE)
        except OSError:
            answer = None
        if answer is None:
            self._door = None
            return None
        return answer.decode("ascii", "replace") or None

    def _hugetlb(self, controller: str, suffix: str) -> dict[str, int]:
        return {}

    def _there(self) -> bool:
        from hutch.engine.records import state

        return state.locked(f"{self._directory}/{state.RECORD}")

    def update(self, resources: Resources) -> None:
        """Raises UnsupportedError."""
        raise UnsupportedError(f"container {self._name}: the limits of a machine are its memory and its processors, and do not change")

    def processes(self) -> list[int]:
        """The pids in it, as its guest numbers them. Raises ContainerGone."""
        with self._asking(there=True):
            return [found for word in (self._text("", "cgroup.procs") or "").split() if (found := whole(word)) is not None]

    def freeze(self, frozen: bool = True, timeout: float = 5.0) -> None:
        """Stop the machine's processors, or let them go on. Raises ContainerGone, HutchError, UnsupportedError."""
        channel.pause(self._directory, self._name, frozen)
