"""The same API for asyncio: the same names, awaited.

::

    import asyncio, hutch.aio

    async def main():
        async with hutch.aio.Container("host") as box:
            result = await box.run(["uname", "-a"])

Every call runs in a thread of its own, so a hundred containers can be waited for at once. Cancelling a task kills what it
waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

from hutch.engine.containers import container as sync, once
from hutch.engine.containers.process import Process as SyncProcess
from hutch.engine.spec.options import DESCRIPTION
from hutch.typed import Generic, Stream, overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from typing import Literal, Self, TypeVar, Unpack

    from hutch.cgroup.live import Stats
    from hutch.engine.containers.running import Run
    from hutch.engine.files.changes import Change
    from hutch.engine.machines.machine_snapshots import Snapshot
    from hutch.engine.spec.arguments import AnyPath
    from hutch.engine.spec.options import CommandOptions, Options, RunOptions
    from hutch.result import Result

    T = TypeVar("T")


async def _in_thread(function: Callable[[], T], cancel: Callable[[], None] | None = None) -> T:
    """Run a blocking call in a thread. The default executor's few threads would make containers wait for each other."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        try:
            result, error = function(), None
        except BaseException as caught:  # handed to whoever awaits
            result, error = None, caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody awaits any more
            loop.call_soon_threadsafe(settle, result, error)

    thread = threading.Thread(target=work, daemon=True, name="hutch")
    thread.start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
            with contextlib.suppress(BaseException):
                await asyncio.shield(future)
        raise


class Process(Generic[Stream]):
    """A started command, asynchronously: see `hutch.Process`."""

    def __init__(self, process: SyncProcess[Stream]) -> None:
        self._process: SyncProcess[Stream] = process

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await _in_thread(self._process.close)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the command."""
        self._process.kill()

    async def wait(self) -> Result[Stream]:
        """Until the command has ended; its result."""
        return await _in_thread(self._process.wait, self._process.kill)

    async def lines(self) -> AsyncIterator[str]:
        """stdout line by line as it arrives."""
        iterator = self._process.lines()
        end = object()
        while (line := await _in_thread(lambda: next(iterator, end), self._process.kill)) is not end:
            yield line  # type: ignore[misc]


def _awaited(process: SyncProcess[str] | SyncProcess[bytes]) -> Process[str] | Process[bytes]:
    return Process(process)  # type: ignore[misc]


async def _to_its_end(begin: Callable[[], Run], check: bool) -> Result[str] | Result[bytes]:
    """Start a command, and wait; whoever is cancelled kills it."""
    beginning = asyncio.ensure_future(_in_thread(begin))
    try:
        running = await asyncio.shield(beginning)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # what has begun by then is ended: nobody else knows of it
            await _in_thread((await beginning).close)
        raise
    try:
        result = await _in_thread(running.result, running.kill)
    finally:
        await _in_thread(running.close)
    return result.check() if check else result


@overload
async def start(image: AnyPath, command: Iterable[AnyPath] = (), *, text: Literal[True] = True, **options: Unpack[RunOptions]) -> Process[str]: ...
@overload
async def start(image: AnyPath, command: Iterable[AnyPath] = (), *, text: Literal[False], **options: Unpack[RunOptions]) -> Process[bytes]: ...
@overload
async def start(image: AnyPath, command: Iterable[AnyPath] = (), *, text: bool, **options: Unpack[RunOptions]) -> Process[str] | Process[bytes]: ...
async def start(image: AnyPath, command: Iterable[AnyPath] = (), *, text: bool = True, **options: Unpack[RunOptions]) -> Process[str] | Process[bytes]:
    """`hutch.start`, awaited."""
    return _awaited(await _in_thread(lambda: once.start(image, command, text=text, **options)))


@overload
async def run(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    text: Literal[True] = True,
    check: bool = False,
    **options: Unpack[RunOptions],
) -> Result[str]: ...
@overload
async def run(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    text: Literal[False],
    check: bool = False,
    **options: Unpack[RunOptions],
) -> Result[bytes]: ...
@overload
async def run(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    text: bool,
    check: bool = False,
    **options: Unpack[RunOptions],
) -> Result[str] | Result[bytes]: ...
async def run(
    image: AnyPath,
    command: Iterable[AnyPath] = (),
    *,
    text: bool = True,
    check: bool = False,
    **options: Unpack[RunOptions],
) -> Result[str] | Result[bytes]:
    """`hutch.run`, awaited. Cancelling it kills the container."""
    return await _to_its_end(lambda: once.begin(image, command, text=text, **options), check)


class Container:
    """`hutch.Container`, awaited: ``async with hutch.aio.Container("host") as box``."""

    def __init__(self, image: AnyPath, **options: Unpack[Options]) -> None:
        self._make = lambda: sync.Container(image, **options)
        self._container: sync.Container | None = None

    @property
    def sync(self) -> sync.Container:
        """The container itself. Raises RuntimeError before it is entered."""
        if self._container is None:
            raise RuntimeError("the container is not started: use `async with`")
        return self._container

    async def __aenter__(self) -> Self:
        self._container = await _in_thread(self._make)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @overload
    async def start(self, command: Iterable[AnyPath], *, text: Literal[True] = True, **options: Unpack[CommandOptions]) -> Process[str]: ...
    @overload
    async def start(self, command: Iterable[AnyPath], *, text: Literal[False], **options: Unpack[CommandOptions]) -> Process[bytes]: ...
    @overload
    async def start(self, command: Iterable[AnyPath], *, text: bool, **options: Unpack[CommandOptions]) -> Process[str] | Process[bytes]: ...
    async def start(self, command: Iterable[AnyPath], *, text: bool = True, **options: Unpack[CommandOptions]) -> Process[str] | Process[bytes]:
        """`hutch.Container.start`."""
        return _awaited(await _in_thread(lambda: self.sync.start(command, text=text, **options)))

    @overload
    async def run(
        self,
        command: Iterable[AnyPath],
        *,
        text: Literal[True] = True,
        check: bool = False,
        **options: Unpack[CommandOptions],
    ) -> Result[str]: ...
    @overload
    async def run(
        self,
        command: Iterable[AnyPath],
        *,
        text: Literal[False],
        check: bool = False,
        **options: Unpack[CommandOptions],
    ) -> Result[bytes]: ...
    @overload
    async def run(self, command: Iterable[AnyPath], *, text: bool, check: bool = False, **options: Unpack[CommandOptions]) -> Result[str] | Result[bytes]: ...
    async def run(
        self,
        command: Iterable[AnyPath],
        *,
        text: bool = True,
        check: bool = False,
        **options: Unpack[CommandOptions],
    ) -> Result[str] | Result[bytes]:
        """`hutch.Container.run`. Cancelling it kills the command."""
        return await _to_its_end(lambda: self.sync.begin(command, text=text, **options), check)

    async def read(self, path: AnyPath) -> str:
        """`hutch.Container.read`."""
        return await _in_thread(lambda: self.sync.read(path))

    async def read_bytes(self, path: AnyPath) -> bytes:
        """`hutch.Container.read_bytes`."""
        return await _in_thread(lambda: self.sync.read_bytes(path))

    async def write(self, path: AnyPath, data: str | bytes, mode: int = 0o644) -> None:
        """`hutch.Container.write`."""
        await _in_thread(lambda: self.sync.write(path, data, mode))

    async def put(self, source: AnyPath, target: AnyPath) -> None:
        """`hutch.Container.put`."""
        await _in_thread(lambda: self.sync.put(source, target))

    async def get(self, source: AnyPath, target: AnyPath) -> None:
        """`hutch.Container.get`."""
        await _in_thread(lambda: self.sync.get(source, target))

    async def diff(self) -> list[Change]:
        """`hutch.Container.diff`."""
        return await _in_thread(self.sync.diff)

    async def stats(self) -> Stats:
        """`hutch.Container.stats`."""
        return await _in_thread(self.sync.stats)

    async def snapshot(self, name: str) -> Snapshot:
        """`hutch.Container.snapshot`."""
        return await _in_thread(lambda: self.sync.snapshot(name))

    async def pause(self) -> None:
        """`hutch.Container.pause`."""
        await _in_thread(self.sync.pause)

    async def resume(self) -> None:
        """`hutch.Container.resume`."""
        await _in_thread(self.sync.resume)

    async def close(self) -> None:
        """`hutch.Container.close`."""
        if self._container is not None:
            await _in_thread(self._container.close)


run.__doc__ = (run.__doc__ or "") + DESCRIPTION
Container.__doc__ = (Container.__doc__ or "") + DESCRIPTION
