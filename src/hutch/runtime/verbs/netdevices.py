"""linux.netDevices: interfaces of the host's, moved into the container with their addresses (config-linux.md, "Network Devices")."""

from __future__ import annotations

import os

from hutch.errors import HutchError
from hutch.kernel.netlink import IFA_F_PERMANENT, RT_SCOPE_UNIVERSE, Socket
from hutch.oci.config import NetDevice


def move(devices: dict[str, NetDevice], pid: int, inside_fd: int) -> None:
    """Move each device into the network namespace of the process `pid`; `inside_fd` is a netlink socket of that namespace.

    Permanent addresses of global scope go with it, and it is switched on. Raises HutchError; what was moved by then ends with
    the container's namespace, from which the kernel gives physical devices back.
    """
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Socket() as outside, Socket(inside_fd) as inside:
            for name, device in devices.items():
                try:
                    _move(outside, inside, namespace, name, device.name or name)
                except OSError as error:
                    raise HutchError(f"linux.netDevices.{name}: move to the container: {error.strerror}") from None
    finally:
        os.close(namespace)


def _move(outside: Socket, inside: Socket, namespace: int, name: str, new_name: str) -> None:
    link = outside.link(name)
    if link is None:
        raise HutchError(f"linux.netDevices.{name}: the host has no such interface")
    if inside.link(new_name) is not None:
        raise HutchError(f"linux.netDevices.{name}: the container has an interface called {new_name} already")
    addresses = [a for a in outside.addresses(link.index) if a.flags & IFA_F_PERMANENT and a.scope == RT_SCOPE_UNIVERSE]
    outside.move(link.index, namespace, new_name)
    moved = inside.link(new_name)
    if moved is None:
        raise HutchError(f"linux.netDevices.{name}: it is not in the container after the move")
    for address in addresses:
        inside.add_address(moved.index, address)
    inside.up(moved.index)
