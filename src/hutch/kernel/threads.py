"""What belongs to a thread and not to its process (namespaces, a table of descriptors) is changed in one that ends with it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


def apart(action: Callable[[], T]) -> T:
    """What `action` gives, done in a thread of its own, which is waited for. Raises whatever the action raises."""
    import threading

    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(action())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
