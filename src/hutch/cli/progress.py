"""Bars for what comes and goes: on a terminal redrawn in place, elsewhere a line for each blob that is done."""

from __future__ import annotations

import os
import sys
import time

from hutch.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hutch.image.registry.pull import Progress

REDRAW = 0.1  # seconds
WORDS = {"fetching": "fetching", "sending": "sending", "waiting": "waiting for another pull", "done": "done", "there": "there already"}


def amount(number: int) -> str:
    """``12.3 MB``."""
    return f"{number / 1e6:.1f} MB" if number >= 100_000 else f"{number / 1e3:.1f} kB"


def line(step: Progress, width: int) -> str:
    """One blob's line: its digest, a bar, how far it is."""
    short = step.digest.partition(":")[2][:12]
    if step.status in ("done", "there"):
        return f"{short}  {WORDS[step.status]:<14} {amount(step.total)}"
    if step.status == "waiting" or not step.total:
        return f"{short}  {WORDS.get(step.status, step.status)}"
    room = max(10, min(40, width - 48))
    full = int(room * step.current / step.total)
    return f"{short}  [{'=' * full}{'>' if full < room else ''}{' ' * (room - full - 1)}] {amount(step.current)} of {amount(step.total)}"


def show(steps: Iterable[Progress], *, quiet: bool = False) -> str:
    """Run a pull or a push to its end, drawing; the image's digest."""
    latest: dict[str, Progress] = {}
    drawn, last, result = 0, 0.0, ""
    terminal = sys.stderr is not None and sys.stderr.isatty() and not quiet
    width = os.get_terminal_size(2).columns if terminal else 80
    started: dict[str, float] = {}

    def draw() -> None:
        nonlocal drawn
        up = f"\x1b[{drawn}A" if drawn else ""
        output.draw(up, *(line(step, width)[: width - 1] for step in latest.values()), "")
        drawn = len(latest)

    for step in steps:
        if step.status == "image":
            result = step.digest
            continue
        now = time.monotonic()
        fresh = step.digest not in latest or latest[step.digest].status != step.status
        latest[step.digest] = step
        started.setdefault(step.digest, now)
        if terminal and (fresh or now - last > REDRAW):
            draw()
            last = now
        elif not terminal and not quiet and fresh and step.status in ("done", "there", "waiting"):
            output.warn(line(step, width))
    if terminal and latest:
        draw()
    return result
