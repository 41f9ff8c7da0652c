"""Doing something in another network namespace, without being there oneself."""

from __future__ import annotations

from hutch.kernel import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


def inside(namespace: int, action: Callable[[], T]) -> T:
    """What `action` gives in a network namespace, by its descriptor. Raises OSError where it may not be entered, and whatever the
    action raises.

    A thread of its own enters the namespace (setns(2)) and ends: no other ever runs there."""
    import threading

    found: list[T] = []
    failed: list[BaseException] = []

    def enter() -> None:
        try:
            syscalls.setns(namespace, syscalls.CLONE_NEWNET)
            found.append(action())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
