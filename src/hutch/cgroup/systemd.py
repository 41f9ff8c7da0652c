"""systemd's delegation: a transient scope for the container's process, asked for over D-Bus (org.freedesktop.systemd1(5)).

This is how a user without privileges gets limits on v2, and how limits stand on a host where systemd owns the tree. It is
used only when it is asked for: the bus can stall for seconds when many units come and go. `jeepney` speaks to the bus.
"""

from __future__ import annotations

import os
import time

from hutch.cgroup.settings import Setting
from hutch.errors import HutchError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INFINITY = 2**64 - 1
TIMEOUT = 15.0  # seconds that a scope may take
_AMOUNTS = {
    "memory.max": "MemoryMax", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight",
}  # fmt: skip


def cpu_mask(text: str) -> bytes:
    """``0-2`` to systemd's byte array, least significant first."""
    bits = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        for cpu in range(int(first), int(last or first) + 1):
            bits |= 1 << cpu
    return bits.to_bytes((bits.bit_length() + 7) // 8 or 1, "little")


def properties(settings: list[Setting]) -> list[tuple[str, tuple[str, Any]]]:
    """v2 settings as unit properties with their D-Bus types; keys that systemd has no property for are left out."""
    out: list[tuple[str, tuple[str, Any]]] = []
    for setting in settings:
        if setting.key in _AMOUNTS:
            out.append((_AMOUNTS[setting.key], ("t", INFINITY if setting.value == "max" else int(setting.value))))
        elif setting.key == "cpu.max":
            quota, _, period = setting.value.partition(" ")
            per_second = INFINITY if quota == "max" else int(quota) * 1_000_000 // int(period or 100_000)
            out.append(("CPUQuotaPerSecUSec", ("t", per_second)))
            if period:
                out.append(("CPUQuotaPeriodUSec", ("t", int(period))))
        elif setting.key == "io.weight" and setting.value.startswith("default "):
            out.append(("IOWeight", ("t", int(setting.value.split()[1]))))
        elif setting.key in ("cpuset.cpus", "cpuset.mems"):
            name = "AllowedCPUs" if setting.key == "cpuset.cpus" else "AllowedMemoryNodes"
            out.append((name, ("ay", cpu_mask(setting.value))))
    return out


class Manager:
    """A connection to the system's systemd, or to the user's. A context manager."""

    def __init__(self) -> None:
        try:
            from jeepney.io import blocking
        except ImportError:
            raise UnsupportedError("cgroup-manager systemd: the jeepney package is missing", "pip install 'hutch[systemd]'") from None
        self._blocking = blocking
        root = os.geteuid() == 0
        private = "/run/systemd/private" if root else f"{os.environ.get('XDG_RUNTIME_DIR', f'/run/user/{os.geteuid()}')}/systemd/private"
        try:
            if os.path.exists(private):
                # systemd's own socket: no message bus in between, and none needed; it knows no Hello
                sock = blocking.prep_socket(private, False, timeout=TIMEOUT)
                self._connection = blocking.DBusConnectionBase.__new__(blocking.DBusConnection)
                blocking.DBusConnectionBase.__init__(self._connection, sock, False)
                self._connection._filters = blocking.MessageFilters()
            else:
                self._connection = blocking.open_dbus_connection("SYSTEM" if root else "SESSION")
        except (OSError, KeyError) as error:
            raise UnsupportedError(
                f"cgroup-manager systemd: systemd does not answer ({error})", "a session of the user's is needed: loginctl enable-linger USER"
            ) from None

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _call(self, method: str, signature: str | None, body: tuple[Any, ...], interface: str = "org.freedesktop.systemd1.Manager") -> Any:
        from jeepney import DBusAddress, DBusErrorResponse, new_method_call

        address = DBusAddress("/org/freedesktop/systemd1", bus_name="org.freedesktop.systemd1", interface=interface)
        try:
            reply = self._connection.send_and_get_reply(new_method_call(address, method, signature, body), timeout=TIMEOUT)
        except TimeoutError:
            raise HutchError(f"systemd: {method} was not answered in {TIMEOUT:g} s") from None
        if reply.header.message_type.name == "error":
            raise HutchError(f"systemd: {method}: {DBusErrorResponse(reply)}")
        return reply.body

    def control_group(self) -> str:
        """Where this systemd's units begin, below the mount of cgroup2: "" for the system's."""
        body = self._call("Get", "ss", ("org.freedesktop.systemd1.Manager", "ControlGroup"), "org.freedesktop.DBus.Properties")
        return str(body[0][1]).rstrip("/")

    def start_scope(self, unit: str, pid: int, settings: list[Setting], slice_name: str = "") -> None:
        """Put a process into a new scope with these limits, in a slice ("" is systemd's default), and wait until it is there.
        Raises HutchError."""
        own = [
            ("Description", ("s", f"Hutch container {unit}")),
            ("PIDs", ("au", [pid])),
            ("Delegate", ("b", True)),
            ("DefaultDependencies", ("b", False)),
            ("CollectMode", ("s", "inactive-or-failed")),
            *([("Slice", ("s", slice_name))] if slice_name else []),
            *properties(settings),
        ]
        self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", own, []))
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            try:
                with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
                    if f"/{unit}" in file.read():
                        return
            except OSError as error:
                raise HutchError(f"systemd: process {pid}: {error.strerror}") from None
            time.sleep(0.002)
        raise HutchError(f"systemd: {unit} was not started in {TIMEOUT:g} s")


def slice_path(control_group: str, user: bool) -> str:
    """Where a scope of Hutch's comes to lie: in app.slice of a user's systemd, in system.slice of the system's."""
    return f"{control_group}/{'app.slice' if user else 'system.slice'}"
