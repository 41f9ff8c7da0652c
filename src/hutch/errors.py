"""Every error that Hutch raises.

::

    HutchError
    ├── UsageError            a request that makes no sense; nothing was touched
    │   └── ConfigError       a field of a configuration: `path: what was expected, what was found`
    ├── ImageError            a root file system that cannot be found, read or trusted
    │   └── RegistryError     a registry that cannot be reached, refuses, or does not keep to the protocol
    ├── StartError            a container that could not be started; names the operation that failed
    │   ├── NotFoundInContainer   its program does not exist there (exit code 127)
    │   └── NotExecutable         its program exists and cannot be run (exit code 126)
    ├── CommandFailed         a command that ended otherwise than with exit code 0 (`Result.check`; `hutch.result` has it)
    ├── ContainerGone         an operation on a container that runs no more
    ├── MachineLost           a virtual machine that ended before its container did
    ├── UnsupportedError      what this kernel, this host or this user may not do
    └── StateError            a container that does not exist, or whose record cannot be read

A message names the thing, the operation and the cause. `hint` says what to do about it, where that is known.
"""

from __future__ import annotations


class HutchError(Exception):
    """The root of the tree. `exit_code` is what the command line ends with (Docker's 125, 126, 127)."""

    exit_code = 125

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(HutchError):
    """A request that makes no sense, found before anything was touched."""


class ConfigError(UsageError):
    """A field of a configuration is wrong. `path` is its place, such as ``linux.resources.memory.limit``."""

    def __init__(self, path: str, problem: str, hint: str | None = None) -> None:
        super().__init__(f"{path}: {problem}" if path else problem, hint)
        self.path = path


class ImageError(HutchError):
    """A root file system that cannot be found, read or trusted."""


class RegistryError(ImageError):
    """A registry that cannot be reached, refuses, or does not keep to the protocol. `status` is HTTP's (0: none came)."""

    def __init__(self, message: str, hint: str | None = None, status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status


class UnsupportedError(HutchError):
    """What this kernel, this host or this user may not do; `hutch doctor` tells more."""


class StateError(HutchError):
    """A container that does not exist, or whose record cannot be read."""


class ContainerGone(HutchError):
    """An operation on a container that runs no more."""


class MachineLost(HutchError):
    """A virtual machine ended before its container did: its kernel panicked, its monitor was killed, its guest broke the protocol."""


class StartError(HutchError):
    """A container could not be started.

    `operation` describes the failed operation, `origin` is the field of the configuration that it comes from, and
    `errno` is the kernel's number (0: none).
    """

    def __init__(self, message: str, hint: str | None = None, *, operation: str = "", origin: str = "", errno: int = 0) -> None:
        super().__init__(message, hint)
        self.operation = operation
        self.origin = origin
        self.errno = errno


class NotFoundInContainer(StartError):
    """The program does not exist in the container."""

    exit_code = 127


class NotExecutable(StartError):
    """The program exists in the container and cannot be run."""

    exit_code = 126
