"""What containers leave on a machine: ``python -m tests.leftovers`` prints it, a line each, to be compared before and after tests.

Tests in parallel workers see each other's mounts and cgroups, so each looks for its own alone; this is the whole run's.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import cgroups, executors, mounts


def leftovers() -> list[str]:
    """Executors, cgroups, mounts, interfaces, and the helpers of networks."""
    found = [f"executor {pid}" for pid in executors()]
    found += [f"cgroup {path}" for path in cgroups()]
    found += [f"mount {line}" for line in mounts()]
    found += [f"interface {name}" for name in os.listdir("/sys/class/net") if name.startswith("hutch-")]
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{name}/comm").read_text().strip()
        except OSError:
            continue
        if command in ("hutch-names", "hutch-egress", "hutch-ports"):
            found.append(f"process {name} {command}")
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(leftovers()))
