"""linux.netDevices: interfaces of the host's, moved into the container with their addresses (config-linux.md, "Network Devices")."""

from __future__ import annotations

import os

from hutch.errors import HutchError
from hutch.kernel.netlink import IFA_F_PERMANENT, IFF_UP, RT_SCOPE_UNIVERSE, Address, Socket
from hutch.oci.config import NetDevice


class Moved:
    """Interfaces on their way into a network namespace, which this holds open: when the container cannot be made after all, they
    go back, and would end with the namespace otherwise."""

    def __init__(self, pid: int, inside_fd: int) -> None:
        self._namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._outside, self._inside = Socket(), Socket(inside_fd)
        self._moved: list[tuple[str, int, list[Address], bool]] = []

    def move(self, devices: dict[str, NetDevice]) -> None:
        """Move each device under its new name. Permanent addresses of global scope go with it, and it is switched on. Raises
        HutchError."""
        for name, device in devices.items():
            try:
                self._move(name, device.name or name)
            except OSError as error:
                raise HutchError(f"{name}: move to the container: {error.strerror}") from None

    def _move(self, name: str, new_name: str) -> None:
        link = self._outside.link(name)
        if link is None:
            raise HutchError(f"{name}: the host has no such interface")
        if "%" not in new_name and self._inside.link(new_name) is not None:
            raise HutchError(f"{name}: the container has an interface called {new_name} already")
        addresses = [a for a in self._outside.addresses(link.index) if a.flags & IFA_F_PERMANENT and a.scope == RT_SCOPE_UNIVERSE]
        before = self._inside.links()
        self._outside.move(link.index, self._namespace, new_name)
        index = next(iter(self._inside.links() - before))  # the kernel chooses it, and the name, where that is a pattern
        self._moved.append((name, index, addresses, bool(link.flags & IFF_UP)))
        for address in addresses:
            self._inside.add_address(index, address)
        self._inside.up(index)

    def back(self) -> None:
        """Return what was moved, as it was, as far as that can be."""
        for name, index, addresses, up in reversed(self._moved):
            try:
                before = self._outside.links()
                self._inside.move(index, self._home, name)
                returned = next(iter(self._outside.links() - before))
                for address in addresses:
                    self._outside.add_address(returned, address)
                if up:
                    self._outside.up(returned)
            except (OSError, StopIteration):
                continue
        self._moved = []

    def close(self) -> None:
        """Let go of both namespaces."""
        self._outside.close()
        self._inside.close()
        os.close(self._namespace)
        os.close(self._home)
