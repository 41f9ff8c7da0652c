"""Volumes, directories with a name that outlive their containers: ``hutch.volumes.create("data")`` and the other verbs."""

from hutch.engine.volumes.volumes import (
    Volume as Volume,
    create as create,
    every as list,
    get as get,
    prune as prune,
    remove as remove,
    users as users,
)

__all__ = ("Volume", "create", "get", "list", "prune", "remove", "users")
