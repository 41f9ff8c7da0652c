"""QEMU's monitor protocol, by QEMU's own library (``qemu.qmp``): what a machine that runs can be told.

The library is asyncio's, whose import takes longer than a machine's copy: it is imported here alone, and nothing that starts a
machine comes here.
"""

from __future__ import annotations

import contextlib

from hutch.errors import HutchError, UnsupportedError
from hutch.plan.operation import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeAlias, TypeVar

    from qemu.qmp import QMPClient

    T = TypeVar("T")
    Work: TypeAlias = Callable[[QMPClient], Coroutine[Any, Any, T]]

PATIENCE = 30.0  # seconds for a greeting, and half of those for all that is said: a monitor that does not answer is stuck, or somebody else's


def talk(connection: socket.socket, work: Work[T]) -> T:
    """Do something with a machine's monitor, and return what came of it. The connection is closed.

    In a thread of its own: the caller may be in an event loop. Raises HutchError for what the monitor refuses, UnsupportedError
    without the library.
    """
    import threading

    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        import asyncio

        try:
            found.append(asyncio.run(asyncio.wait_for(_session(connection, work), 2 * PATIENCE)))
        except BaseException as error:
            failed.append(error)

    try:
        import qemu.qmp
    except ImportError:
        connection.close()
        raise UnsupportedError("isolation vm: Python's qemu.qmp package is missing, which speaks with a machine's monitor", "pip install 'hutch[vm]'") from None
    thread = threading.Thread(target=run, name="hutch-qmp", daemon=True)
    thread.start()
    thread.join()
    if failed:
        error = failed[0]
        if isinstance(error, qemu.qmp.QMPError | TimeoutError | OSError):
            raise HutchError(f"isolation vm: the machine's monitor: {printable(str(error) or type(error).__name__)}") from None
        raise error
    return found[0]


async def _session(connection: socket.socket, work: Work[T]) -> T:
    import asyncio

    from qemu.qmp import QMPClient

    client = QMPClient("hutch")
    client.logger.disabled = True
    try:
        await asyncio.wait_for(client.connect(connection), PATIENCE)
        return await work(client)
    finally:
        with contextlib.suppress(Exception):  # what was found is found
            await asyncio.wait_for(client.disconnect(), 1)


async def pause(client: QMPClient) -> None:
    """Stop the virtual processors."""
    await client.execute("stop")


async def resume(client: QMPClient) -> None:
    """Let them go on."""
    await client.execute("cont")


async def running(client: QMPClient) -> bool:
    """Whether they run."""
    status = await client.execute("query-status")
    return isinstance(status, dict) and status.get("running") is True


def save(state: int) -> Work[None]:
    """Write the state of the devices and processors, without the memory, to a file by its descriptor. The machine stands still from
    then on, until `resume`."""

    async def work(client: QMPClient) -> None:
        import asyncio

        # what the memory lies in is the machine's file, which is copied beside (migration.json, x-ignore-shared)
        await client.execute("migrate-set-capabilities", {"capabilities": [{"capability": "x-ignore-shared", "state": True}]})
        client.send_fd_scm(state)
        await client.execute("getfd", {"fdname": "state"})
        await client.execute("migrate", {"uri": "fd:state"})
        for _ in range(int(PATIENCE / 0.005)):
            found = await client.execute("query-migrate")
            status = found.get("status") if isinstance(found, dict) else ""
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise HutchError(f"snapshot: the machine's monitor could not save its state: {status}")
            await asyncio.sleep(0.005)
        raise HutchError(f"snapshot: the machine's state was not saved within {PATIENCE:g} s")

    return work


async def exits(client: QMPClient) -> list[dict[str, int]]:
    """KVM's counts of each virtual processor, by their names (api.rst, KVM_GET_STATS_FD)."""
    answer = await client.execute("query-stats", {"target": "vcpu", "providers": [{"provider": "kvm"}]})
    out = []
    for processor in answer if isinstance(answer, list) else []:
        counts = {item["name"]: item["value"] for item in processor.get("stats", ()) if isinstance(item.get("value"), int)}
        out.append(counts)
    return out
