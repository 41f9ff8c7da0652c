"""Seccomp profiles from files: the runtime-spec's form, and Docker's with its conditions on capabilities and machines."""

from __future__ import annotations

import json
import os

from hutch.errors import ConfigError, UsageError
from hutch.oci.config import Seccomp
from hutch.oci.decode import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
LIMIT = 16 << 20  # bytes of a profile


def read(path: str, capabilities: tuple[str, ...]) -> dict[str, Any]:
    """A profile for a container with these capabilities, as the runtime-spec's JSON has it. Raises UsageError, with the field that is
    wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LIMIT + 1)
        if len(text) > LIMIT:
            raise UsageError(f"seccomp profile {path}: is larger than {LIMIT >> 20} MiB")
        data = json.loads(text)
    except OSError as error:
        raise UsageError(f"seccomp profile {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"seccomp profile {path}: is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"seccomp profile {path}: expected an object")
    plain = _plain(data, set(capabilities))
    try:
        decode(Seccomp, plain)
    except ConfigError as error:
        raise UsageError(f"seccomp profile {path}: {error}") from None
    return plain


def _plain(data: dict[str, Any], capabilities: set[str]) -> dict[str, Any]:
    """Docker's profile to the specification's: conditional rules decided, sub-architectures spelled out."""
    machine = _ARCHES.get(os.uname().machine, os.uname().machine)
    out = {k: v for k, v in data.items() if k not in ("archMap", "syscalls")}
    if "archMap" in data:
        out["architectures"] = [
            name
            for item in data["archMap"]
            if item.get("architecture") in ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")
            for name in (item["architecture"], *(item.get("subArchitectures") or ()))
        ]
    rules = []
    for rule in data.get("syscalls", ()):
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if includes.get("caps") and not set(includes["caps"]) <= capabilities:
            continue
        if excludes.get("caps") and set(excludes["caps"]) & capabilities:
            continue
        if includes.get("arches") and machine not in includes["arches"]:
            continue
        if excludes.get("arches") and machine in excludes["arches"]:
            continue
        kept = {k: v for k, v in rule.items() if k in ("names", "action", "errnoRet", "args")}
        if "name" in rule and "names" not in kept:
            kept["names"] = [rule["name"]]
        if kept.get("args") is None:
            kept.pop("args", None)
        rules.append(kept)
    out["syscalls"] = rules
    return out
