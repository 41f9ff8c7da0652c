"""Snapshots of machines: ``hutch.snapshots.list()``, `get` and `remove`; `hutch.Container.snapshot` makes one."""

from hutch.engine.machines.machine_snapshots import Snapshot as Snapshot, every as list, find as get, remove as remove

__all__ = ("Snapshot", "get", "list", "remove")
