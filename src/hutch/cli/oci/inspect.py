"""state, list, ps, events."""

from __future__ import annotations

import sys
import time

from hutch import jsontext
from hutch.cli.oci.main import Context
from hutch.cli.output import exact, tell
from hutch.errors import UsageError
from hutch.runtime.verbs import inspect as verbs
from hutch.runtime.verbs.store import STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def format_of(values: dict[str, Any]) -> str:
    """``--format``: table or json. Raises UsageError."""
    form = str(values.get("format", "table"))
    if form not in ("table", "json"):
        raise UsageError(f"--format: expected table or json, got {form!r}")
    return form


def state_command(context: Context, _: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci state`."""
    exact(jsontext.dumps(verbs.state(context.store.load(words[0])), indent=2))
    return 0


def list_command(context: Context, values: dict[str, Any], _: list[str]) -> int:
    """`hutch-oci list`."""
    form = format_of(values)
    if values.get("quiet"):
        for identity in context.store.ids():
            tell(identity)
        return 0
    found, problems = verbs.containers(context.store)
    for problem in problems:
        context.log.notice("warning", problem)
    if form == "json":
        exact(jsontext.dumps(found or None))
        return 0
    heads = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
    rows = [heads, *(tuple(str(c[name.lower()]) for name in heads) for c in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    for row in rows:
        tell("   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def ps_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci ps`: pids as JSON, or what ps(1) says of them."""
    form = format_of(values)
    pids = verbs.processes(context.store.load(words[0]))
    if form == "json":
        exact(jsontext.dumps(pids))
        return 0
    import subprocess

    try:
        text = subprocess.run(["ps", *(words[1:] or ["-ef"])], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError("ps: the program ps is not installed", "`hutch-oci ps --format json` does without") from None
    lines = text.stdout.splitlines()
    if text.returncode or not lines:
        raise UsageError(f"ps {' '.join(words[1:])}: {text.stderr.strip() or 'it printed nothing'}")
    heads = lines[0].split()
    if "PID" not in heads:
        raise UsageError(f"ps {' '.join(words[1:])}: no PID among its columns, so the container's processes cannot be told apart")
    column = heads.index("PID")
    wanted = set(map(str, pids))
    tell(lines[0])
    for line in lines[1:]:
        fields = line.split()
        if len(fields) > column and fields[column] in wanted:
            tell(line)
    return 0


def seconds(text: str) -> float:
    """A duration as ``5s``, ``1m30s``, ``500ms``. Raises UsageError."""
    total, number, at = 0.0, "", 0
    while at < len(text):
        if text[at].isdigit() or text[at] == ".":
            number += text[at]
            at += 1
            continue
        unit = text[at : at + 2] if text[at : at + 2] in UNITS else text[at]
        if unit not in UNITS or not number:
            break
        total += float(number) * UNITS[unit]
        number, at = "", at + len(unit)
    if number or at < len(text) or total <= 0:
        raise UsageError(f"--interval: expected a duration such as 5s, got {text!r}")
    return total


def events_command(context: Context, values: dict[str, Any], words: list[str]) -> int:
    """`hutch-oci events`: one JSON object a line."""
    interval = seconds(values.get("interval", "5s"))
    entry = context.store.load(words[0])

    def report(kind: str, data: object = None) -> None:
        exact(jsontext.dumps({"type": kind, "id": entry.id, **({"data": data} if data is not None else {})}))
        if sys.stdout is not None:
            sys.stdout.flush()

    report("stats", verbs.statistics(entry))
    if values.get("stats"):
        return 0
    kills = verbs.oom_kills(entry) or 0
    following = time.monotonic() + interval
    while entry.status() != STOPPED:
        time.sleep(min(0.1, interval))
        now = verbs.oom_kills(entry)
        if now is not None and now > kills:
            kills = now
            report("oom")
        if time.monotonic() >= following and entry.status() != STOPPED:
            following += interval
            report("stats", verbs.statistics(entry))
    return 0
