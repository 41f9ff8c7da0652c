"""Doing something in another network namespace, without being there oneself."""

from __future__ import annotations

from hutch.kernel import syscalls, threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


def inside(namespace: int, action: Callable[[], T]) -> T:
    """What `action` gives in a network namespace, by its descriptor. Raises OSError where it may not be entered, and whatever the
    action raises.

    A thread of its own enters the namespace (setns(2)) and ends: no other ever runs there."""

    def enter() -> T:
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        return action()

    return threads.apart(enter)
