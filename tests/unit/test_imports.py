"""Who imports whom, and what the start does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SLOW = "re typing enum json argparse subprocess socket ctypes dataclasses asyncio threading".split()


def test_layers():
    program = Path(sys.executable).parent / "lint-imports"
    if not program.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([program, "--no-cache"], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.partition("Broken contracts")[2]


def loaded(code: str) -> set[str]:
    """What a piece of code imports, in an interpreter of its own, without site-packages' start-up files."""
    text = f"import sys; sys.path.insert(0, {str(REPO / 'src')!r}); before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", text], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "hutch",
        "hutch.cli.main",
        "hutch.cli.run",
        "hutch.cli.parse",
        "hutch.cli.flags",
        "hutch.cli.request",
        "hutch.engine.launch.prepare",
        "hutch.engine.containers.container",
        "hutch.engine.containers.once",
        "hutch.runtime.compile",
    ],
)
def test_start_imports_nothing_slow(module):
    assert loaded(f"import {module}") & set(SLOW) == set()


def test_import_hutch_is_small():
    assert {name for name in loaded("import hutch") if name.startswith("hutch")} <= {"hutch", "hutch.version"}


def test_run_path_imports_nothing_slow(tmp_path):
    """From the words of a command line to a plan, with all that is imported late on the way."""
    code = """
import os
os.environ["HUTCH_STATE"] = PLACE
from hutch.cli import main, run, request
from hutch.cli.parse import parse
from hutch.engine.launch import prepare
values, rest = parse(main.find("run"), ["-m", "64m", "host", "true"])
from hutch.errors import UnsupportedError
try:
    prepared = prepare.prepare(request.settings(values, rest))
except UnsupportedError:
    pass
"""
    assert loaded(code.replace("PLACE", repr(str(tmp_path)))) & set(SLOW) == set()


def test_names_of_the_package():
    import hutch

    for name in hutch.__all__:
        assert getattr(hutch, name) is not None
    assert set(hutch.__all__) <= set(dir(hutch))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hutch.nothing
