"""What tests of machines share: both isolations under one set of words, and what this host lacks."""

from __future__ import annotations

import functools
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import hutch

EMULATED = {"isolation": "vm", "vm_accel": "tcg"}
FLAGS = ["--isolation", "vm", "--vm-accel", "tcg"]
CLI = [sys.executable, "-m", "hutch.cli"]


def lacking() -> str:
    """Why no machine can be emulated here; "" when one can."""
    if os.geteuid() != 0:
        return "needs root"
    if not shutil.which("qemu-system-x86_64"):
        return "needs qemu-system-x86"
    if not glob.glob("/boot/vmlinuz-*cloud-amd64") and not os.environ.get("HUTCH_KERNEL"):
        return "needs a kernel to boot: linux-image-cloud-amd64"
    return ""


needed = pytest.mark.skipif(bool(lacking()), reason=lacking())
# Every boot takes a second or two under emulation: `make test` runs a few, `make test-vm` all
thorough = pytest.mark.skipif(os.environ.get("HUTCH_TEST_VM") != "all", reason="make test-vm runs it")


@functools.cache
def kernel_release() -> str:
    """The release of the kernel that machines boot here."""
    from hutch.vm import kernel

    return kernel.find().release


class Kit:
    """One isolation: containers that are made in it, by Python and by the command line."""

    def __init__(self, isolation: str) -> None:
        self.isolation = isolation
        self.options: dict[str, Any] = dict(EMULATED) if isolation == "vm" else {}
        self.flags = FLAGS if isolation == "vm" else []
        self._box: hutch.Container | None = None

    @property
    def box(self) -> hutch.Container:
        """A container for any number of commands, one for all tests of a run."""
        if self._box is None or not self._box.running:
            self._box = self.container()
        return self._box

    def container(self, image: str = "host", **options: Any) -> hutch.Container:
        return hutch.Container(image, **self.options, **options)

    def sh(self, script: str, **options: Any) -> hutch.Result:
        """A shell's script in the one container."""
        return self.box.run(["sh", "-c", script], **options)

    def run(self, *command: str, image: str = "host", **options: Any) -> hutch.Result:
        """A container of its own."""
        return hutch.run(image, list(command), **self.options, **options)

    def cli(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", subprocess.DEVNULL) if "input" not in options else None
        return subprocess.run([*CLI, *words], capture_output=True, text=True, check=False, timeout=120, **options)

    def close(self) -> None:
        if self._box is not None:
            self._box.close()
            self._box = None


def error_of(action: Callable[[], Any]) -> str:
    """The kind and the first words of what an action raises; "" when it raises nothing."""
    try:
        result = action()
        if isinstance(result, hutch.Container):
            result.close()
    except hutch.HutchError as error:
        return f"{type(error).__name__}: {error.message}"
    return ""
