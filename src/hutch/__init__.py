"""Hutch: containers that you can import. No daemon, no root where the kernel allows it, nothing left behind.

>>> import hutch
>>> hutch.run("host", ["echo", "hello"]).stdout
'hello\\n'

Names are imported when they are first used, so that `import hutch` costs next to nothing.
"""

from __future__ import annotations

from hutch.version import VERSION as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch import aio as aio, images as images, networks as networks, snapshots as snapshots, volumes as volumes
    from hutch.cgroup.live import Event as Event, Pressure as Pressure, Stats as Stats
    from hutch.engine.containers.container import Container as Container
    from hutch.engine.containers.existing import Existing as Existing, containers as containers
    from hutch.engine.containers.once import run as run, start as start
    from hutch.engine.containers.process import Process as Process
    from hutch.engine.files.changes import Change as Change
    from hutch.engine.records.state import Running as Running
    from hutch.engine.spec.settings import (
        Attachment as Attachment,
        Bind as Bind,
        ImageSource as ImageSource,
        Settings as Settings,
        Tmpfs as Tmpfs,
        VolumeMount as VolumeMount,
    )
    from hutch.errors import (
        ConfigError as ConfigError,
        ContainerGone as ContainerGone,
        HutchError as HutchError,
        ImageError as ImageError,
        MachineLost as MachineLost,
        NotExecutable as NotExecutable,
        NotFoundInContainer as NotFoundInContainer,
        RegistryError as RegistryError,
        StartError as StartError,
        StateError as StateError,
        UnsupportedError as UnsupportedError,
        UsageError as UsageError,
    )
    from hutch.kernel.features import Features as Features, features as features
    from hutch.result import CommandFailed as CommandFailed, Result as Result, Usage as Usage

_PLACES = {
    "hutch.engine.containers.container": ("Container",),
    "hutch.engine.containers.once": ("run", "start"),
    "hutch.engine.containers.process": ("Process",),
    "hutch.result": ("CommandFailed", "Result", "Usage"),
    "hutch.engine.files.changes": ("Change",),
    "hutch.engine.spec.settings": ("Attachment", "Bind", "ImageSource", "Settings", "Tmpfs", "VolumeMount"),
    "hutch.engine.containers.existing": ("Existing", "containers"),
    "hutch.engine.records.state": ("Running",),
    "hutch.cgroup.live": ("Event", "Pressure", "Stats"),
    "hutch.kernel.features": ("Features", "features"),
    "hutch.errors": (
        "ConfigError", "ContainerGone", "HutchError", "ImageError", "MachineLost", "NotExecutable", "NotFoundInContainer", "RegistryError",
        "StartError", "StateError", "UnsupportedError", "UsageError",
    ),
}  # fmt: skip
_MODULES = ("aio", "images", "networks", "snapshots", "volumes")
_WHERE = {name: module for module, names in _PLACES.items() for name in names}
__all__ = [*_WHERE, *_MODULES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _WHERE and name not in _MODULES:
        raise AttributeError(f"module 'hutch' has no attribute {name!r}")  # `from hutch import MODULE` asks here first
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"hutch.{name}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
