"""Who has which address: a file each, locked (flock(2)) for as long as its container lives.

Nothing is given back: a lock goes with the last process that has the file open, however that ends, so an address can be
neither lost nor given twice, and no lock is held but those. Files that nobody holds are removed on the way.
"""

from __future__ import annotations

import fcntl
import os
import time
import zlib

from hutch.errors import HutchError, UsageError
from hutch.network import spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from hutch.network.spec import Subnet

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
ROUNDS = 5
REST = 60.0  # seconds before the file of an address that nobody has is removed


class Lease:
    """An address of a container's: `fd` is to be handed to whoever lives as long as the container."""

    def __init__(self, address: str, fd: int) -> None:
        self.address, self.fd = address, fd

    def close(self) -> None:
        """Let go of it, here. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def take(directory: str, subnet: Subnet, container: str, wanted: str = "") -> Lease:
    """An address that nobody has; `wanted`: this one. Raises UsageError for one that is not the network's or is taken,
    HutchError when all are."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError as error:
        raise HutchError(f"{directory}: {error.strerror}") from None
    if wanted:
        address = _check(subnet, wanted)
        fd = -1
        for _ in range(5):
            fd = _try(f"{directory}/{address}", container)
            if fd >= 0:
                break
            time.sleep(0.001)  # it may only be looked at
        else:
            raise UsageError(f"address {address}: is {_holder(f'{directory}/{address}')}'s already")
        return Lease(address, fd)
    # everybody begins elsewhere, so that two who start at once rarely try the same
    start = zlib.crc32(container.encode())
    for _ in range(ROUNDS):
        for count, address in enumerate(spec.hosts(subnet, start)):
            fd = _try(f"{directory}/{address}", container)
            if fd >= 0:
                if count % 8 == 7 or not start % 16:
                    sweep(directory)
                return Lease(address, fd)
        time.sleep(0.005)  # to see whether one is held is to hold it for a moment: it may be free all the same
    raise HutchError(f"every address of {subnet.range or subnet.subnet} is in use", "a larger --subnet, or fewer containers")


def _check(subnet: Subnet, wanted: str) -> str:
    import ipaddress

    whole = ipaddress.ip_network(subnet.subnet)
    try:
        found = ipaddress.ip_address(wanted)
    except ValueError:
        raise UsageError(f"address {wanted!r}: is none") from None
    edges = (whole.network_address, whole.broadcast_address) if whole.version == 4 else (whole.network_address,)
    if found not in whole or found in edges:
        raise UsageError(f"address {wanted}: is none of a host in {subnet.subnet}")
    if str(found) == subnet.gateway:
        raise UsageError(f"address {wanted}: is the gateway's")
    return str(found)


def _try(path: str, container: str) -> int:
    while True:
        fd = os.open(path, FLAGS, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        if _same(path, fd):
            os.ftruncate(fd, 0)
            os.pwrite(fd, container.encode(), 0)
            return fd
        os.close(fd)  # it was swept before it was locked


def _same(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _holder(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return f"container {file.read(64)}"
    except (OSError, ValueError):
        return "somebody else"


def held(directory: str) -> Iterator[tuple[str, str]]:
    """(address, container) of every one that is in use."""
    from hutch.kernel.locks import locked

    for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        path = f"{directory}/{name}"
        if locked(path):
            yield name, _holder(path).removeprefix("container ")


def sweep(directory: str, rest: float = REST) -> None:
    """Remove the files of addresses that nobody has had for `rest` seconds."""
    now = time.time()
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        try:
            if now - os.stat(path).st_mtime < rest:
                continue
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(path, fd):  # another may have swept it, and somebody made it anew
                os.unlink(path)
        except OSError:
            pass  # somebody has it
        finally:
            os.close(fd)
