"""What a user asks of a virtual machine, and what of it has no meaning in one."""

from __future__ import annotations

from hutch.errors import UnsupportedError, UsageError
from hutch.vm.machine import KVM, MOST_INTERFACES, TCG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.engine.spec.settings import Settings

ISOLATIONS, ACCELS = ("namespaces", "vm"), (KVM, TCG)
SHARED, DISK = "shared", "disk"


def check(s: Settings) -> None:
    """What has no meaning in a machine, or none yet. Raises UsageError, UnsupportedError."""
    for name, chosen, allowed in (("isolation", s.isolation, ISOLATIONS), ("vm-accel", s.vm_accel, ACCELS), ("vm-root", s.vm_root, (SHARED, DISK))):
        if chosen not in allowed:
            raise UsageError(f"{name}: expected {' or '.join(allowed)}, got {chosen!r}")
    if s.isolation != "vm":
        for name, given in (("kernel", bool(s.kernel)), ("vm-accel", s.vm_accel != KVM), ("vm-root", s.vm_root != SHARED)):
            if given:
                raise UsageError(f"{name}: is for --isolation vm alone")
        return
    for name in ("pid", "ipc", "uts"):
        if getattr(s, name) == "host":
            raise UsageError(f"{name} host: a machine shares no namespace with the host", "leave it out, or --isolation vm")
    if s.network == "host" or s.network_path:
        raise UsageError(f"network {s.network}: a machine has a network of its own", "--network bridge, a network by its name, or none")
    if s.net_devices:
        raise UnsupportedError(f"network device:{s.net_devices[0][0]}: an interface of the host's cannot be lent to a machine", "--network NAME")
    if s.devices:
        raise UnsupportedError(f"device {s.devices[0][0]}: a machine has no devices of the host's", "leave --device or --isolation vm out")
    if s.vm_root == DISK and (s.binds or s.volumes or s.images):
        raise UnsupportedError("mount: a machine with a root of its own sees nothing of the host's", "--vm-root shared does")
    if len(s.attachments) > MOST_INTERFACES:
        raise UnsupportedError(f"network: a machine has {MOST_INTERFACES} interfaces at most, and {len(s.attachments)} are asked for")
