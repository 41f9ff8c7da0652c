"""What of a request makes no sense, found before anything is touched."""

from __future__ import annotations

from hutch.engine.spec.settings import CONTAINER, NETWORKS, USERNS, Settings, place
from hutch.errors import UsageError
from hutch.kernel import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def _one_of(value: str, allowed: Iterable[str], what: str) -> None:
    if value not in allowed:
        raise UsageError(f"{what}: expected {' or '.join(allowed)}, got {value!r}")


def _check_dns(s: Settings) -> None:
    from hutch.network.spec import is_address

    for server in s.dns:
        if not is_address(server):
            raise UsageError(f"dns: expected an address, got {server!r}")
    for what, words in (("dns-search", s.dns_search), ("dns-option", s.dns_options)):
        for word in words:
            if not word or any(c.isspace() or c == "\0" for c in word):
                raise UsageError(f"{what}: expected a word, got {word!r}")


def check(s: Settings) -> None:
    """Find what makes no sense before anything is touched. Raises UsageError."""
    if (s.network in NETWORKS or s.network.startswith(CONTAINER)) == bool(s.attachments):
        raise UsageError(f"network {s.network}: is named with others, or without what it is to give")
    if (s.ports or s.publish_all) and not s.attachments:
        raise UsageError(f"publish: network {s.network} has no ports to be published", "on the host's network every port is the host's; --network bridge")
    if s.egress:
        from hutch.network import egress

        if egress.parse(s.egress).allowed is not None and not s.attachments:
            raise UsageError(f"egress: network {s.network} has no way out that could be guarded", "--network bridge, or one of your own")
    _check_dns(s)
    if s.stop_signal:
        from hutch.engine.spec import signals

        signals.number(s.stop_signal, "stop-signal")
    if s.isolation != "namespaces" or s.vm_accel != "kvm" or s.kernel or s.vm_root != "shared":
        from hutch.engine.spec import machine_settings

        machine_settings.check(s)
    _one_of(s.userns, USERNS, "userns")
    for name in ("pid", "ipc", "uts", "cgroupns"):
        _one_of(getattr(s, name), ("private", "host"), name)
    _one_of(s.upper or "tmpfs", ("tmpfs", "disk"), "upper")
    for name, value in (("name", s.name), ("hostname", s.hostname)):
        if value and (not value[0].isalnum() or not all(c.isalnum() or c in "_.-" for c in value) or len(value) > 63):
            raise UsageError(f"{name}: expected up to 63 letters, digits, dots, dashes and underscores, got {value!r}")
    texts = [s.image, s.user, s.workdir, s.domainname, *s.groups, *(t for b in s.binds for t in (b.source, b.target)), *(t.target for t in s.tmpfs)]
    if any("\0" in text for text in texts):
        raise UsageError("a path or a name contains a NUL")
    for clock in s.time_offsets:
        if clock not in ("monotonic", "boottime"):
            raise UsageError(f"time-offset: expected monotonic or boottime, got {clock!r}")
    if s.shm_size < 0 or s.upper_size < 0:
        raise UsageError("shm-size and upper-size: expected a size, got -1")
    if s.workdir and not s.workdir.startswith("/"):
        raise UsageError(f"workdir: expected an absolute path, got {s.workdir!r}")
    for item in s.env:
        if not item.partition("=")[0] or "\0" in item:
            raise UsageError(f"env: expected NAME=VALUE, got {item!r}")
    for item in (*s.command, *(s.entrypoint or ())):
        if "\0" in item:
            raise UsageError("command: an argument contains a NUL")
    targets = [mount.target for mounts in (s.binds, s.tmpfs, s.volumes, s.images) for mount in mounts]
    places = [place(target) for target in targets]
    twice = next((target for target, where in zip(targets, places, strict=True) if places.count(where) > 1), None)
    if twice is not None:
        raise UsageError(f"mount: duplicate mount point {twice}")
    for image in s.images:
        if ".." in image.subpath.split("/") or "\0" in image.image + image.target + image.subpath:
            raise UsageError(f"mount: subpath {image.subpath!r} leads out of the image")
    for volume in s.volumes:
        if ".." in volume.subpath.split("/") or "\0" in volume.name + volume.target + volume.subpath:
            raise UsageError(f"mount: subpath {volume.subpath!r} leads out of the volume")
    if (target := next((target for target, where in zip(targets, places, strict=True) if where == "/proc"), None)) is not None:
        raise UsageError(f"mount {target}: is the container's own, which shows its processes")
    for target in targets:
        if not target.startswith("/") or place(target) == "/":
            raise UsageError(f"mount: expected an absolute path below the root as target, got {target!r}")
    for bind in s.binds:
        if not bind.source.startswith("/"):
            raise UsageError(f"mount: expected an absolute path as source, got {bind.source!r}")
    if s.memory is not None and s.memory not in (-1, 0) and s.memory < 4096:
        raise UsageError(f"memory: the least is one page of 4096 bytes, got {s.memory}")
    if s.memory_swappiness is not None and not -1 <= s.memory_swappiness <= 100:
        raise UsageError(f"memory-swappiness: expected 0 to 100, or -1 for the host's own, got {s.memory_swappiness}")
    if s.memory_swap and s.memory_swap > 0 and not s.memory:
        raise UsageError("memory-swap: is memory and swap together, and needs a memory limit")
    if s.memory_swap is not None and s.memory is not None and 0 < s.memory_swap < s.memory:
        raise UsageError("memory-swap: is memory and swap together, and below the memory limit")
    for cap in (*s.cap_add, *s.cap_drop):
        if cap.upper() != "ALL":
            capabilities.canonical(cap)
