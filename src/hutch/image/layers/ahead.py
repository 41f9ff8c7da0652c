"""Stages of a pipeline in threads of their own: hashing, inflating and writing leave the interpreter's lock alone."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Ahead:
    """Runs an iterator ahead of whoever reads it, by a few pieces. Errors come out where they would have.

    Close it (or use ``with``) when it is not read to its end: its thread ends at its next piece, for which `cancel` ends
    whatever it waits for.
    """

    def __init__(self, pieces: Iterator[bytes], depth: int = 8, cancel: Callable[[], None] = lambda: None) -> None:
        from _queue import SimpleQueue
        from _thread import allocate_lock, start_new_thread

        self._pieces = pieces
        self._cancel = cancel
        self._out: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(depth):
            self._room.put(None)
        self._stopped = self._ended = False
        self._alive = allocate_lock()
        self._alive.acquire()
        start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            try:
                for piece in self._pieces:
                    self._room.get()
                    if self._stopped:
                        return
                    self._out.put(piece)
                self._out.put(None)
            except BaseException as error:  # whatever it is, it is the reader's
                self._out.put(error)
        finally:
            self._alive.release()

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        found = self._out.get()
        if isinstance(found, bytes | bytearray | memoryview):
            self._room.put(None)
            return found
        self._ended = True
        if found is None:
            raise StopIteration
        raise found

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread, and wait for it."""
        self._stopped = True
        self._room.put(None)
        if not self._ended:
            self._cancel()
        with self._alive:
            self._ended = True


def reader(pieces: Iterator[bytes]) -> Callable[[int], bytes]:
    """A `read(n)` over an iterator of pieces."""
    rest = b""

    def read(size: int) -> bytes:
        nonlocal rest
        while not rest:
            found = next(pieces, None)
            if found is None:
                return b""
            rest = found  # an empty piece is not the end
        out, rest = rest[:size], rest[size:]
        return out

    return read
