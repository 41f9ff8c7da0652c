"""IP addresses and MACs as text and as the kernel's bytes."""

from __future__ import annotations

import _socket

AF_INET, AF_INET6 = 2, 10


def family_of(address: str) -> int:
    """AF_INET or AF_INET6."""
    return AF_INET6 if ":" in address else AF_INET


def packed(address: str) -> bytes:
    """An IP address as bytes. Raises OSError for what is none."""
    return _socket.inet_pton(family_of(address), address)


def shown(data: bytes) -> str:
    """An IP address's bytes as text."""
    return _socket.inet_ntop(AF_INET6 if len(data) == 16 else AF_INET, data) if len(data) in (4, 16) else ""


def mac(address: str) -> bytes:
    """A MAC as bytes. Raises ValueError for what is none."""
    found = bytes.fromhex(address.replace(":", "")) if address.count(":") == 5 else b""
    if len(found) != 6:
        raise ValueError(f"{address!r} is no MAC address")
    return found


def show_mac(data: bytes) -> str:
    """A MAC's bytes as text."""
    return data.hex(":") if data else ""
