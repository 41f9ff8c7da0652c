"""Compile the executor when the package is built; the wheel is this machine's, not a Python version's."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    from wheel.bdist_wheel import bdist_wheel

SOURCE = Path(__file__).parent / "src/hutch/executor"
FLAGS = [
    "-std=gnu11", "-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie",
    "-fno-asynchronous-unwind-tables", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-s",
]  # fmt: skip
# for tests: what C leaves undefined is an illegal instruction, and so the end of the process that does it
SANITIZER = ["-g", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"] if os.environ.get("HUTCH_SANITIZE") else []


def compiler() -> list[str]:
    """$CC, the machine's, or zig's."""
    if os.environ.get("CC"):
        return os.environ["CC"].split()
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise SystemExit("hutch: no C compiler: install gcc, clang, or the ziglang package")


class BuildExecutor(Command):
    """Build src/hutch/executor/executor, and copy it where the build is."""

    editable_mode = False
    build_lib: str | None = None

    def initialize_options(self) -> None:
        self.build_lib = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        numbers: dict[str, object] = {}
        exec((SOURCE.parent / "plan/numbers.py").read_text(), numbers)
        (SOURCE / "numbers.h").write_text(numbers["header"]())  # type: ignore[operator]
        command = compiler()
        zig = "ziglang" in command
        link = ["-no-pie", "-Wl,--build-id=none"] + ([] if zig else ["-Wl,-z,noseparate-code"])
        sources = sorted(map(str, SOURCE.glob("*.c")))
        words = [*command, *FLAGS, *SANITIZER, *link, "-o", str(SOURCE / "executor.new"), *sources]
        # as one program, whose parts see into each other; not every compiler has a linker for that
        if zig or subprocess.run([*words, "-flto"], check=False, stderr=subprocess.DEVNULL).returncode:
            subprocess.run(words, check=True)
        os.replace(SOURCE / "executor.new", SOURCE / "executor")  # one that runs is not written to
        if not self.editable_mode and self.build_lib:
            target = Path(self.build_lib) / "hutch/executor"
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / "executor", target / "executor")

    def get_source_files(self) -> list[str]:
        return [str(path.relative_to(Path(__file__).parent)) for path in SOURCE.glob("*.[ch]")]

    def get_outputs(self) -> list[str]:
        return [f"{self.build_lib}/hutch/executor/executor"]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    sub_commands = [*build.sub_commands, ("build_executor", None)]


class Wheel(bdist_wheel):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build": Build, "build_executor": BuildExecutor, "bdist_wheel": Wheel})
