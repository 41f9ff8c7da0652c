"""Network namespaces for tests: each stands for a host, and is gone with the process that holds it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hutch.kernel import syscalls
from hutch.kernel.netlink.route import Route

T = TypeVar("T")


class Namespace:
    """A network namespace that a process of the test's holds."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["unshare", "--net", "--", "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"
        self.fd = os.open(f"/proc/{self.process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.fd)

    def inside(self, action: Callable[[], T]) -> T:
        """Do something in a thread that is in it."""
        out: list[Any] = []

        def run() -> None:
            try:
                syscalls.setns(self.fd, 0x40000000)
                out.append((True, action()))
            except BaseException as error:
                out.append((False, error))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if not out[0][0]:
            raise out[0][1]
        return out[0][1]

    def route(self) -> Route:
        return self.inside(Route)

    def run(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """A program of the host's in it."""
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", "--", *words], capture_output=True, text=True, check=check, timeout=60, **options
        )

    def ip(self, *words: str) -> Any:
        """What ``ip -j`` says."""
        return json.loads(self.run("ip", "-j", "-d", *words).stdout or "[]")


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    made: list[Namespace] = []
    try:
        for _ in range(count):
            made.append(Namespace())
        yield made
    finally:
        for namespace in made:
            namespace.close()
