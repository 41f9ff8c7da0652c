"""A fifo that a plan can be stopped at."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest


@pytest.fixture
def fifo():
    """A fifo that the container's own root can reach too, while it still sees the host."""
    place = tempfile.mkdtemp(prefix="hutch-fifo-", dir="/var/tmp")
    os.chmod(place, 0o755)
    path = f"{place}/fifo"
    os.mkfifo(path)
    os.chmod(path, 0o666)
    yield path
    shutil.rmtree(place)
