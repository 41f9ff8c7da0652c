"""Who has which address: a file each, locked for as long as its container lives.

Nothing is given back: a lock goes with the last process that has the file open, however that ends, so an address can be
neither lost nor given twice, and no lock is held but those. Files that nobody holds are removed on the way. Who loses an address while it
lives (`hutch network disconnect`) may go on to lock a file, which is no longer there.
"""

from __future__ import annotations

import os
import time
import zlib

from hutch.errors import HutchError, UsageError
from hutch.kernel.locks import locked, take as take_lock
from hutch.network import spec
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from hutch.network.spec import Subnet

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
ROUNDS = 5
REST = 60.0  # seconds before the file of an address that nobody has is removed


class Tenant(Record):
    """Who has an address: a container, by its id, for its `number`-th interface, of the MAC `mac` where it asked for one. `aliases` are its
    further names on the network; `holder` is the process that holds the address, where that is not the container's own executor. A line
    of text in the file."""

    container: str
    number: int = 0
    holder: int = 0
    mac: str = ""
    aliases: tuple[str, ...] = ()

    def to_text(self) -> str:
        """As it is written."""
        return f"{self.container} {self.number} {self.holder} {self.mac} {','.join(self.aliases)}\n"

    @classmethod
    def of_text(cls, text: str) -> Tenant:
        """As it was written. Raises ValueError for something else."""
        container, number, holder, mac, aliases = text.partition("\n")[0].split(" ")
        return cls(container=container, number=int(number), holder=int(holder), mac=mac, aliases=tuple(filter(None, aliases.split(","))))


class Lease:
    """An address of a container's: `fd` is to be handed to whoever lives as long as the container."""

    def __init__(self, address: str, fd: int) -> None:
        self.address, self.fd = address, fd

    def sign(self, tenant: Tenant) -> None:
        """Say whose it is."""
        text = tenant.to_text().encode()
        os.pwrite(self.fd, text, 0)  # at once, for those who read it at any time
        os.ftruncate(self.fd, len(text))

    def close(self) -> None:
        """Let go of it, here. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def take(directory: str, subnet: Subnet, tenant: Tenant, wanted: str = "") -> Lease:
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
            fd = _try(f"{directory}/{address}")
            if fd >= 0:
                break
            time.sleep(0.001)  # another one may hold it for a moment, to remove the file
        else:
            raise UsageError(f"address {address}: is {_holder(f'{directory}/{address}')}'s already")
        return _signed(address, fd, tenant)
    # everybody begins elsewhere, so that two who start at once rarely try the same
    start = zlib.crc32(tenant.container.encode())
    for _ in range(ROUNDS):
        for count, address in enumerate(spec.hosts(subnet, start)):
            fd = _try(f"{directory}/{address}")
            if fd >= 0:
                if count % 8 == 7 or not start % 16:
                    sweep(directory)
                return _signed(address, fd, tenant)
        time.sleep(0.005)  # another one may hold it for a moment, to remove the file
    raise HutchError(f"every address of {subnet.range or subnet.subnet} is in use", "a larger --subnet, or fewer containers")


def _signed(address: str, fd: int, tenant: Tenant) -> Lease:
    lease = Lease(address, fd)
    lease.sign(tenant)
    return lease


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


def _try(path: str) -> int:
    while True:
        fd = os.open(path, FLAGS, 0o600)
        if not take_lock(fd):
            os.close(fd)
            return -1
        if _same(path, fd):
            return fd
        os.close(fd)  # it was swept before it was locked


def _same(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _tenant(path: str) -> Tenant | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return Tenant.of_text(file.read(65536))
    except (OSError, ValueError):
        return None


def _holder(path: str) -> str:
    tenant = _tenant(path)
    return f"container {tenant.container}" if tenant is not None else "somebody else"


def held(directory: str) -> Iterator[tuple[str, Tenant]]:
    """(address, whose it is) of every one that is in use."""
    for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        path = f"{directory}/{name}"
        if locked(path):
            tenant = _tenant(path)
            if tenant is not None:  # or it is just being taken
                yield name, tenant


def drop(directory: str, address: str, container: str) -> None:
    """Take an address away from a container that may go on to hold it: whoever takes it next has a file of its own."""
    path = f"{directory}/{address}"
    tenant = _tenant(path)
    if tenant is not None and tenant.container == container:
        os.unlink(path)


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
            if take_lock(fd) and _same(path, fd):  # another may have swept it, and somebody made it anew
                os.unlink(path)
        except OSError:
            pass  # somebody removed it
        finally:
            os.close(fd)
