"""A command on its way to its result: for `run` of a container of its own or of one that runs, awaited or not."""

from __future__ import annotations

from hutch.errors import NotFoundInContainer
from hutch.result import FAILED_TO_START

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from hutch.engine.containers.process import Process
    from hutch.result import Result


class Run:
    """A started command of which the result is wanted. `judge` says more of a result than the command's own end does;
    `after` lets go of what was made for it."""

    def __init__(
        self,
        process: Process[str] | Process[bytes],
        image: str,
        judge: Callable[[Result[str] | Result[bytes]], Result[str] | Result[bytes]] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        self.process, self.judge = process, judge
        self._image, self._after = image, after

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def result(self) -> Result[str] | Result[bytes]:
        """What came of it, when it has ended."""
        result: Result[str] | Result[bytes] = self.process.wait()
        if self.judge is not None:
            result = self.judge(result)
        if result.outcome == FAILED_TO_START and isinstance(result.error, NotFoundInContainer):
            from hutch.engine.spec.options import interpreter_hint

            result.error.hint = result.error.hint or interpreter_hint(self._image, result.command)
        return result

    def kill(self) -> None:
        """End it."""
        self.process.kill()

    def close(self) -> None:
        """End it where it still runs, and free everything. Safe to call twice."""
        try:
            self.process.close()
        finally:
            if self._after is not None:
                self._after()
