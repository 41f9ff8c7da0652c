"""Interfaces whose packets a program reads and writes (Documentation/networking/tuntap.rst): TUN carries IP, TAP Ethernet."""

from __future__ import annotations

import fcntl
import os
import struct

from hutch.errors import UnsupportedError

DEVICE = "/dev/net/tun"
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL = 0x1, 0x2, 0x1000, 0x4000, 0x8000
ENOENT, ENODEV, ENXIO = 2, 19, 6
IFREQ = struct.Struct("16sH22x")  # struct ifreq (netdevice(7)): a name and flags


def open_interface(name: str = "", *, tap: bool = False, offload_header: bool = False, owner: int = -1, persist: bool = False) -> tuple[int, str]:
    """Make an interface of this network namespace: (a descriptor, its name), which the kernel chooses where none is given.

    Each read and write is one packet, as it is on the line, with a struct virtio_net_hdr in front where `offload_header`. The
    interface goes with its descriptor, unless it is to `persist`; then `owner`, a user's id, may open it again. Raises OSError
    (EBUSY: the name is taken; EPERM: CAP_NET_ADMIN is needed), UnsupportedError where the kernel has none of it.
    """
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (ENOENT, ENODEV, ENXIO):
            raise UnsupportedError(f"{DEVICE}: this kernel has no TUN or TAP interfaces", "`modprobe tun`") from None
        raise
    try:
        flags = (IFF_TAP if tap else IFF_TUN) | IFF_NO_PI | IFF_TUN_EXCL | (IFF_VNET_HDR if offload_header else 0)
        raw = os.fsencode(name)
        if len(raw) > 15:
            raise ValueError(f"{name!r}: an interface's name has 15 bytes at most")
        found, _ = IFREQ.unpack(fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(raw, flags)))
        if owner >= 0:
            fcntl.ioctl(fd, TUNSETOWNER, owner)
        if persist:
            fcntl.ioctl(fd, TUNSETPERSIST, 1)
    except BaseException:
        os.close(fd)
        raise
    return fd, os.fsdecode(found.partition(b"\0")[0])
