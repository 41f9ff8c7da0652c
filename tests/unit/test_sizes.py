"""Files and functions are of a size that one can read: what grows beyond is divided by subject."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "hutch"
LONGEST_FILE, LONGEST_FUNCTION = 399, 79  # lines


def test_no_file_is_long():
    lengths = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert len(lengths) > 200 and {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_long():
    found = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                found[f"{path.relative_to(SOURCE)}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert len(found) > 2000 and {name: length for name, length in found.items() if length > LONGEST_FUNCTION} == {}
