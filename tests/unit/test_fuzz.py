"""A few thousand attempts of the fuzzers (`make fuzz` goes on for longer)."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(name, tmp_path):
    pytest.importorskip("atheris")
    words = [sys.executable, "-m", "tests.fuzz", name, "-runs=2000", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
