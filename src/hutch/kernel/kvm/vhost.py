"""vhost: a virtio device's data path in the kernel (include/uapi/linux/vhost.h; virtio 1.2, section 2.7 "Split Virtqueues").

A guest and its device share rings of buffers in the guest's memory. With vhost a thread of the kernel's reads and fills them: it is
given the memory's layout, where the rings lie, an eventfd by which the guest knocks (see `Machine.eventfd_by_write`), one by which
it is called back (`Machine.interrupt_by_eventfd`), and what is at the other end: for vhost-net, a tap interface. Neither the guest
nor the process that owns it comes back for a packet.
"""

from __future__ import annotations

import os
import struct

from hutch.errors import UnsupportedError
from hutch.kernel.kvm.abi import IO, READ, WRITE, request
from hutch.kernel.kvm.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hutch.kernel.kvm.machine import Memory

NET = "/dev/vhost-net"
RECEIVE, TRANSMIT = 0, 1  # a network device's rings
KIND = 0xAF  # of ioctls, where KVM's is 0xAE
STATE, FILE, ADDRESSES = struct.Struct("=II"), struct.Struct("=Ii"), struct.Struct("=IIQQQQ")
REGION = struct.Struct("=QQQQ")  # struct vhost_memory_region: where the guest has it, its size, where we have it, 0


def _vhost(direction: int, number: int, size: int = 0) -> int:
    return request(direction, number, size) & ~0xFF00 | KIND << 8


GET_FEATURES, SET_FEATURES = _vhost(READ, 0x00, 8), _vhost(WRITE, 0x00, 8)
SET_OWNER, SET_MEM_TABLE = _vhost(IO, 0x01), _vhost(WRITE, 0x03, 8)
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = _vhost(WRITE, 0x10, 8), _vhost(WRITE, 0x11, 40), _vhost(WRITE, 0x12, 8)
SET_VRING_KICK, SET_VRING_CALL = _vhost(WRITE, 0x20, 8), _vhost(WRITE, 0x21, 8)
NET_SET_BACKEND = _vhost(WRITE, 0x30, 8)

DESCRIPTOR, NEXT, DEVICE_WRITES = struct.Struct("<QIHH"), 1, 2  # struct virtq_desc: address, length, flags, next
INDEX, USED = struct.Struct("<H"), struct.Struct("<II")


class Ring:
    """A split virtqueue of `size` entries (a power of two) in a machine's memory, at `address` of the guest's: the driver's side of it,
    which in a machine is the guest's."""

    def __init__(self, memory: Memory, address: int, size: int = 16) -> None:
        if size & (size - 1) or not 0 < size <= 32768:
            raise ValueError(f"a ring has a power of two of entries, 32,768 at most, and not {size}")
        self.memory, self.size = memory, size
        self.descriptors, self.available = address, address + 16 * size
        self.used = (self.available + 6 + 2 * size + 3) // 4 * 4
        self.end = self.used + 6 + 8 * size
        memory.write(address, bytes(self.end - address))
        self._next = self._seen = self._offered = 0

    def offer(self, pieces: Sequence[tuple[int, int, bool]]) -> int:
        """Offer a buffer, of pieces: (address of the guest's, length, whether the device writes there). The number of its first descriptor."""
        head = self._next
        for number, (address, length, writes) in enumerate(pieces):
            last = number == len(pieces) - 1
            here, self._next = self._next, (self._next + 1) % self.size
            flags = (0 if last else NEXT) | (DEVICE_WRITES if writes else 0)
            self.memory.write(self.descriptors + 16 * here, DESCRIPTOR.pack(address, length, flags, 0 if last else self._next))
        self.memory.write(self.available + 4 + 2 * (self._offered % self.size), INDEX.pack(head))
        self._offered = (self._offered + 1) & 0xFFFF
        self.memory.write(self.available + 2, INDEX.pack(self._offered))  # after what it counts
        return head

    def done(self) -> list[tuple[int, int]]:
        """The buffers that the device has done with since the last time: (first descriptor, bytes that it wrote)."""
        found = []
        (index,) = INDEX.unpack(self.memory.read(self.used + 2, 2))
        while self._seen != index:
            head, length = USED.unpack(self.memory.read(self.used + 4 + 8 * (self._seen % self.size), 8))
            found.append((head, length))
            self._seen = (self._seen + 1) & 0xFFFF
        return found


class Vhost(Device):
    """A device of the kernel's, which is this process's from now on. Raises UnsupportedError where there is none, PermissionError."""

    def __init__(self, path: str = NET) -> None:
        try:
            super().__init__(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except (FileNotFoundError, OSError) as error:
            if isinstance(error, PermissionError):
                raise
            raise UnsupportedError(f"{path}: this host has no such device ({error.strerror})", f"modprobe {os.path.basename(path).replace('-', '_')}") from None
        try:
            self._ioctl(SET_OWNER)
        except BaseException:
            self.close()
            raise

    @property
    def features(self) -> int:
        """What it can do, as bits (virtio 1.2, section 6, and vhost.h's own)."""
        return int.from_bytes(self._get(GET_FEATURES, 8), "little")

    def accept(self, features: int) -> None:
        """What of it is used. Raises OSError for more than there is."""
        self._give(SET_FEATURES, struct.pack("=Q", features))

    def set_memory(self, parts: Iterable[Memory]) -> None:
        """The guest's memory, whose addresses are in the rings. Raises OSError."""
        regions = [REGION.pack(part.address, part.size, part.host_address, 0) for part in parts]
        self._give(SET_MEM_TABLE, struct.pack("=II", len(regions), 0) + b"".join(regions))

    def set_ring(self, index: int, ring: Ring, kick: int, call: int) -> None:
        """A ring: where it lies, the eventfd by which the driver knocks, and that by which it is called. Raises OSError."""
        here = ring.memory.host_address - ring.memory.address
        self._give(SET_VRING_NUM, STATE.pack(index, ring.size))
        self._give(SET_VRING_BASE, STATE.pack(index, 0))
        self._give(SET_VRING_ADDR, ADDRESSES.pack(index, 0, here + ring.descriptors, here + ring.used, here + ring.available, 0))
        self._give(SET_VRING_KICK, FILE.pack(index, kick))
        self._give(SET_VRING_CALL, FILE.pack(index, call))

    def set_backend(self, index: int, fd: int) -> None:
        """What is at the other end of a ring of vhost-net's: a tap interface (-1: nothing). From here on it works. Raises OSError."""
        self._give(NET_SET_BACKEND, FILE.pack(index, fd))
