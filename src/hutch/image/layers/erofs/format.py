"""The parts of the on-disk format that an index uses (fs/erofs/erofs_fs.h)."""

from __future__ import annotations

import struct

MAGIC = 0xE0F5E1E2
BLOCK_BITS = 9
BLOCK = 1 << BLOCK_BITS

SUPER_OFFSET = 1024
# magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid, inos, build_time, build_time_nsec, blocks, meta_blkaddr,
# xattr_blkaddr, uuid, volume_name, feature_incompat, compression, extra_devices, devt_slotoff, dirblkbits, …
SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHH38x")
DEVICE_OFFSET = 1152  # in slots of 128 bytes: the ninth
DEVICE = struct.Struct("<64sIII52x")
META = 1536

COMPAT_MTIME = 0x2
INCOMPAT_CHUNKED = 0x4
INCOMPAT_DEVICES = 0x8

# the inode with 64 bytes: format, xattr count, mode, 0, size, the union, number, uid, gid, mtime, its nanoseconds, links
INODE = struct.Struct("<HHHHQIIIIQII16x")
INODE_SIZE = 64
SLOT = 32  # inodes are numbered by their place in these units
PLAIN, INLINE, CHUNKED = 0, 2, 4  # data layouts
EXTENDED = 1


def inode_format(layout: int) -> int:
    """The first field of an inode of 64 bytes."""
    return layout << 1 | EXTENDED


CHUNK_BITS_MASK = 0x1F
CHUNK_INDEXES = 0x20
CHUNK = struct.Struct("<HHI")  # 0, device, block
HOLE = 0xFFFFFFFF
TAR_DEVICE, OWN_DEVICE = 1, 0

DIRENT = struct.Struct("<QHBx")
DIRENT_SIZE = 12

XATTR_HEADER = 12
XATTR = struct.Struct("<BBH")
XATTR_PREFIXES = ((1, b"user."), (4, b"trusted."), (6, b"security."))


def device_number(major: int, minor: int) -> int:
    """A device's number as inodes have it (the kernel's new_encode_dev)."""
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & ~0xFF & 0xFFFFF) << 12


def device_pair(number: int) -> tuple[int, int]:
    """(major, minor) of an inode's device number."""
    return (number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00)
