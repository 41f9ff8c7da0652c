"""The parts of `typing` that must be there when a module runs, without its import, which takes as long as a container."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Generic as Generic, overload as overload

    from typing_extensions import TypeVar

    Stream = TypeVar("Stream", str, bytes, default=str)  # what the streams of a command are read as
else:
    Stream = str

    class Generic:
        """A base that can be subscripted."""

        def __class_getitem__(cls, _: object) -> type:
            return cls

    def overload(function: object) -> object:
        """One signature of several; the last definition is the function."""
        return function
