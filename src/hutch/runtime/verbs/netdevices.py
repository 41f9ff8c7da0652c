"""linux.netDevices: interfaces of the host's, moved into the container with their addresses (config-linux.md, "Network Devices")."""

from __future__ import annotations

import os

from hutch.errors import HutchError
from hutch.kernel.netlink import route
from hutch.kernel.netlink.route import Address, Route
from hutch.oci.config import NetDevice


class Moved:
    """Interfaces on their way into a network namespace, which this holds open: when the container cannot be made after all, they
    go back, and would end with the namespace otherwise."""

    def __init__(self, pid: int, inside_fd: int) -> None:
        self._namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._outside, self._inside = Route(), Route(inside_fd)
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
        addresses = [a for a in self._outside.addresses(link.index) if a.flags & route.IFA_F_PERMANENT and a.scope == route.RT_SCOPE_UNIVERSE]
        index = _moved(self._outside, link.index, self._inside, self._namespace, new_name)
        self._moved.append((name, index, addresses, link.up))
        _give(self._inside, index, addresses)
        self._inside.do(route.set_link(index, up=True))

    def back(self) -> None:
        """Return what was moved, as it was, as far as that can be."""
        for name, index, addresses, up in reversed(self._moved):
            try:
                returned = _moved(self._inside, index, self._outside, self._home, name)
                _give(self._outside, returned, addresses)
                if up:
                    self._outside.do(route.set_link(returned, up=True))
            except (OSError, StopIteration):
                continue
        self._moved = []

    def close(self) -> None:
        """Let go of both namespaces."""
        self._outside.close()
        self._inside.close()
        os.close(self._namespace)
        os.close(self._home)


def _moved(here: Route, index: int, there: Route, namespace: int, name: str) -> int:
    """Move an interface; its new index, which the kernel chooses, like the name, where that is a pattern."""
    before = {link.index for link in there.links()}
    here.do(route.set_link(index, namespace_fd=namespace, new_name=name))
    return next(link.index for link in there.links() if link.index not in before)


def _give(socket: Route, index: int, addresses: list[Address]) -> None:
    for item in addresses:
        socket.do(route.new_address(index, item.address, item.prefix, peer=item.peer, broadcast=item.broadcast, scope=item.scope))
