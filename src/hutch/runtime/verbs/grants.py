"""What a configuration asks for and can be granted here: the rest is a warning, not a failure (config.md, "Linux Process")."""

from __future__ import annotations

from hutch.kernel import capabilities
from hutch.kernel.features import Features
from hutch.oci.config import Config, DeviceRule, Process, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# What every container may use whatever its list says: making nodes (which the capability decides), the usual devices,
# terminals. The same as with the other runtimes, whose callers count on it.
DEVICES = tuple(
    DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)
    for kind, major, minor, access in (
        ("c", None, None, "m"), ("b", None, None, "m"), ("c", 1, 3, "rwm"), ("c", 1, 5, "rwm"), ("c", 1, 7, "rwm"), ("c", 1, 8, "rwm"),
        ("c", 1, 9, "rwm"), ("c", 5, 0, "rwm"), ("c", 5, 1, "rwm"), ("c", 5, 2, "rwm"), ("c", 136, None, "rwm"),
    )
)  # fmt: skip


def granted(config: Config, found: Features, notice: Callable[[str, str], None]) -> Config:
    """The configuration as far as it can be granted, and with the usual devices: what no rule allows is denied."""
    process, linux = config.process, config.linux
    if process is not None:
        in_userns = any(n.type == "user" for n in linux.namespaces)
        process = known_capabilities(process, -1 if in_userns else found.capabilities, notice)
    if found.privileged:
        resources = linux.resources or Resources()
        own = resources.devices
        deny = () if own and own[0].type in (None, "a") else (DeviceRule(allow=False, type="a", access="rwm"),)
        rules = (*deny, *own, *DEVICES)
        linux = linux.replace(resources=resources.replace(devices=rules))
    return config.replace(process=process, linux=linux)


def known_capabilities(process: Process, held: int, notice: Callable[[str, str], None]) -> Process:
    """The process with the capabilities that can be granted; the others are left out with a warning (config.md)."""
    sets = process.capabilities
    if sets is None:
        return process
    kept: dict[str, tuple[str, ...]] = {}
    dropped: list[str] = []
    for field in sets._fields:
        names: tuple[str, ...] = getattr(sets, field)
        kept[field] = tuple(n for n in names if n in capabilities.NUMBERS and held >> capabilities.NUMBERS[n] & 1)
        dropped += [n for n in names if n not in kept[field] and n not in dropped]
    if not dropped:
        return process
    notice("warning", f"process.capabilities: {', '.join(dropped)}: cannot be granted here, and left out")
    return process.replace(capabilities=sets.replace(**kept))
