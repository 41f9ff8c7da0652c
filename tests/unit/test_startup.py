"""The file that the commands' modules are read from: right, or not used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hutch import startup

CODE = """
import sys
sys.path.insert(0, {path!r})
from hutch import startup
startup.install()
import hutch.cli.oci.main
print(sorted(name for name, module in sys.modules.items() if isinstance(module.__spec__ and module.__spec__.loader, startup.Bundle)))
import hutch.plan.plan
print(hutch.plan.plan.MAGIC, hutch.plan.plan.__file__)
startup.keep()
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the package, and a function that runs a program with it."""
    shutil.copytree(startup.PACKAGE, tmp_path / "hutch", ignore=shutil.ignore_patterns("__pycache__"), symlinks=False)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}

    def run() -> tuple[list[str], str]:
        done = subprocess.run([sys.executable, "-S", "-c", CODE.format(path=str(tmp_path))], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        return eval(first), second

    run.file = tmp_path / "hutch/__pycache__" / Path(startup.FILE).name
    run.source = tmp_path / "hutch"
    return run


def test_it_is_written_used_and_grows(package):
    assert package()[0] == []
    names, _ = package()
    assert "hutch.cli.oci.main" in names and "hutch.errors" in names
    assert package.file.stat().st_mode & 0o022 == 0


def test_it_is_written_once(package):
    """To write it takes longer than many a command: a command that found everything there leaves it alone."""
    package()
    before = package.file.stat()
    package()
    after = package.file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_changed_source_is_read_itself(package):
    package()
    source = package.source / "plan/plan.py"
    source.write_text(source.read_text() + "\nMAGIC = 7\n")
    assert package()[1] == f"7 {source}"
    assert package()[1] == f"7 {source}", "and kept anew"


@pytest.mark.parametrize("damage", [b"", b"\0" * 7, b"\xff" * 64, b"\x05" + bytes(7) + b"nope!"])
def test_a_damaged_file_is_not_used(package, damage):
    package()
    package.file.write_bytes(damage)
    assert package()[0] == []
    assert package()[0] != [], "written anew"


def test_a_removed_source_is_missing(package):
    package()
    (package.source / "cli/oci/log.py").unlink()
    with pytest.raises(AssertionError, match="log"):
        package()


def test_every_module_can_be_kept():
    names = set(startup.everything())
    assert {"hutch", "hutch.startup", "hutch.cli.oci", "hutch.runtime.verbs.create"} <= names
    assert not any(name.endswith("__init__") for name in names)
