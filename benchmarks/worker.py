"""Python processes to be measured from outside: ``worker.py heap`` and ``worker.py crowd COUNT``."""

from __future__ import annotations

import mmap
import signal
import sys
import time

import hutch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.engine.spec.options import Options

LIMITS: Options = {"memory": "512m", "pids": 64, "cpus": 1}


def heap() -> None:
    """With 1 GiB in small pages, run one container for each line that is read, and print its seconds."""
    held = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_NOHUGEPAGE)
    for offset in range(0, len(held), mmap.PAGESIZE):
        held[offset] = 1
    for _ in sys.stdin:
        start = time.perf_counter()
        result = hutch.run("host", ["true"], **LIMITS)
        taken = time.perf_counter() - start
        print(taken if result.exit_code == 0 else f"failed: {result}", flush=True)


def crowd(count: int) -> None:
    """Start that many containers, say so, and wait to be killed."""
    held = [hutch.start("host", ["sleep", "300"], **LIMITS) for _ in range(count)]
    print(sum(process.pid > 0 for process in held), flush=True)
    time.sleep(300)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it ends it
    heap() if sys.argv[1] == "heap" else crowd(int(sys.argv[2]))
