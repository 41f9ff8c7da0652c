"""What the project says of its own package is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_every_extra_that_is_recommended_exists():
    """`pip install 'hutch[NAME]'` in a hint or a page."""
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = [*REPO.glob("src/**/*.py"), *REPO.glob("docs/**/*.md"), REPO / "README.md", REPO / "CONTRIBUTING.md"]
    named = {name: path for path in files for words in re.findall(r"hutch\[([\w, -]+)\]", path.read_text()) for name in re.split(r", *", words)}
    assert named and not {name: str(path) for name, path in named.items() if name not in extras}


def test_every_library_that_is_looked_for_is_declared():
    """`hutch doctor` asks for libraries that the package or one of its extras brings."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[><=; ]", item)[0].lower() for group in (project["dependencies"], *project["optional-dependencies"].values()) for item in group}
    wanted = re.findall(r"pip install ([\w.-]+)", (REPO / "src/hutch/engine/reports/doctor.py").read_text())
    assert wanted and set(wanted) <= declared
