"""docs/security.md: every promise names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_promise_names_its_tests() -> None:
    """Each line of the table has a test, and each test that it names is a file."""
    rows = [line for line in (ROOT / "docs/security.md").read_text().splitlines() if line.startswith("| ") and "| --- |" not in line][1:]
    assert len(rows) > 10
    for row in rows:
        cells = row.strip("|").split(" | ")
        assert len(cells) == 4, row
        named = re.findall(r"`((?:security|kernel|unit|vm)/[\w*]+\.py)`", cells[2])
        assert named, row
        assert all((ROOT / "tests" / name).is_file() for name in named), named
