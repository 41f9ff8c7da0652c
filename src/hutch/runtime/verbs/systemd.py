"""--systemd-cgroup: the container's cgroup is a scope of systemd's, named by ``slice:prefix:name`` in linux.cgroupsPath."""

from __future__ import annotations

import os

from hutch.cgroup import systemd
from hutch.cgroup.settings import v2_settings
from hutch.errors import ConfigError
from hutch.oci.config import Config, Resources


def parts(config: Config, identity: str) -> tuple[str, str]:
    """The slice and the scope's name. Raises ConfigError when the path is not of the form ``slice:prefix:name``."""
    text = config.linux.cgroups_path
    if not text:
        return ("user.slice" if os.geteuid() else "system.slice"), f"hutch-{identity}.scope"
    fields = text.split(":")
    if len(fields) != 3 or "/" in text or not fields[2]:
        raise ConfigError("linux.cgroupsPath", f"with --systemd-cgroup expected slice:prefix:name, got {text!r}")
    name = fields[2] if fields[2].endswith(".slice") else f"{fields[1]}-{fields[2]}.scope" if fields[1] else f"{fields[2]}.scope"
    return fields[0] or ("user.slice" if os.geteuid() else "system.slice"), name


def slice_path(name: str) -> str:
    """``a-b.slice`` lies in ``a.slice`` (systemd.slice(5)); "-.slice" is the root."""
    if name == "-.slice":
        return ""
    stem = name.removesuffix(".slice")
    if not stem or stem == name or "" in stem.split("-"):
        raise ConfigError("linux.cgroupsPath", f"{name!r} is no name of a slice")
    words = stem.split("-")
    return "".join(f"/{'-'.join(words[: i + 1])}.slice" for i in range(len(words)))


def scope_path(config: Config, identity: str) -> str:
    """Where systemd will put the scope, below the mount of cgroup2."""
    own, scope = parts(config, identity)
    with systemd.Manager() as manager:
        return f"{manager.control_group()}{slice_path(own)}/{scope}"


def start(unit: str, pid: int, config: Config) -> None:
    """Ask systemd for the scope with the container's limits, and wait until the process is in it. Raises HutchError."""
    own, _ = parts(config, "")
    with systemd.Manager() as manager:
        manager.start_scope(unit, pid, v2_settings(config.linux.resources or Resources()), slice_name=own)
