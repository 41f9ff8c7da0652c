"""The command of such a process."""

from __future__ import annotations

import os
import sys

PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def command(module: str) -> list[str]:
    """The argv of a Python that runs the function `main` of a module, whatever its environment says about other modules."""
    code = f"import sys; sys.path.insert(0, {PACKAGE_PARENT!r}); from {module} import main; main()"
    return [sys.executable, "-I", "-S", "-c", code]
