"""vhost-net by its own interface: rings as virtio has them, and packets that a thread of the kernel's carries. The second part runs where
the host has the device (`modprobe vhost_net`)."""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct

import pytest

from hutch.errors import UnsupportedError
from hutch.kernel import syscalls, tun
from hutch.kernel.kvm.machine import Memory
from hutch.kernel.kvm.vhost import NET, RECEIVE, TRANSMIT, Ring, Vhost
from hutch.kernel.netlink import route

HEADER = 10  # struct virtio_net_hdr, without virtio 1.0's count of buffers
FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5") + b"knock, knock".ljust(50, b".")


def memory(size: int = 1 << 20, address: int = 0x10000) -> Memory:
    return Memory(0, address, mmap.mmap(-1, size))


def test_a_ring_is_laid_out_as_virtio_says():
    part = memory()
    ring = Ring(part, 0x10000, 8)
    assert (ring.descriptors, ring.available, ring.used) == (0x10000, 0x10080, 0x10098)
    assert ring.offer([(0x20000, 10, False), (0x20100, 64, True)]) == 0 and ring.offer([(0x20200, 5, True)]) == 2
    assert struct.unpack("<QIHH", part.read(0x10000, 16)) == (0x20000, 10, 1, 1)
    assert struct.unpack("<QIHH", part.read(0x10010, 16)) == (0x20100, 64, 2, 0)
    assert struct.unpack("<HHHH", part.read(ring.available, 8)) == (0, 2, 0, 2)
    assert ring.done() == []
    part.write(ring.used + 4, struct.pack("<II", 2, 5))
    part.write(ring.used + 2, struct.pack("<H", 1))
    assert ring.done() == [(2, 5)] and ring.done() == []
    part.close()


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_a_ring_of_another_size_is_none(size):
    with pytest.raises(ValueError, match="power of two"):
        Ring(memory(), 0x10000, size)


def test_where_there_is_none(tmp_path):
    with pytest.raises(UnsupportedError, match="this host has no such device"):
        Vhost(str(tmp_path / "vhost-net"))


def packets() -> None:
    """A frame from the driver's side out of a tap interface, and one into it, in a network namespace of this process's own."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    tap, name = tun.open_interface("tap0", tap=True, offload_header=True)
    with route.Route() as here:
        link = here.link(name)
        assert link is not None
        here.do(route.set_link(link.index, up=True))
    host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    host.bind((name, 0x88B5))
    host.settimeout(5)
    part = memory()
    outwards, inwards = Ring(part, 0x10000), Ring(part, 0x12000)
    kicks, calls = [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(2)], [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(2)]
    with Vhost() as card:
        assert card.features >> 32 & 1  # virtio 1.0
        card.accept(0)
        card.set_memory([part])
        for index, ring in ((RECEIVE, inwards), (TRANSMIT, outwards)):
            card.set_ring(index, ring, kicks[index], calls[index])
        part.write(0x20000, bytes(HEADER) + FRAME)
        for number in range(8):  # the host has packets of its own to send there: IPv6 looks for its neighbours
            inwards.offer([(0x30000 + 2048 * number, 2048, True)])
        for index in (RECEIVE, TRANSMIT):
            card.set_backend(index, tap)
        head = outwards.offer([(0x20000, HEADER, False), (0x20000 + HEADER, len(FRAME), False)])
        os.eventfd_write(kicks[TRANSMIT], 1)
        assert host.recv(2000) == FRAME
        poll = select.poll()
        poll.register(calls[TRANSMIT], select.POLLIN)
        poll.register(calls[RECEIVE], select.POLLIN)
        assert poll.poll(5000)
        assert [number for number, _ in outwards.done()] == [head]
        os.eventfd_write(kicks[RECEIVE], 1)
        host.send(FRAME)
        for _ in range(100):
            if any(part.read(0x30000 + 2048 * number + HEADER, len(FRAME)) == FRAME for number, _ in inwards.done()):
                break
            poll.poll(100)
        else:
            raise AssertionError("the frame did not come in")
    os.close(tap)


@pytest.mark.root
def test_packets_in_the_kernel():
    if not os.path.exists(NET):
        pytest.skip(f"this host has no {NET}")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            packets()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
