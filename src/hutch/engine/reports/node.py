"""What `hutch inspect --kernel` draws."""

from __future__ import annotations

from hutch.record import Record


class Node(Record):
    """A line, and those below it."""

    text: str
    below: tuple[Node, ...] = ()

    def lines(self) -> list[str]:
        """As a tree."""
        out = [self.text]
        for number, node in enumerate(self.below):
            last = number == len(self.below) - 1
            first, *rest = node.lines()
            out.append(f"{'└─' if last else '├─'} {first}")
            out += [f"{'  ' if last else '│ '} {line}" for line in rest]
        return out
