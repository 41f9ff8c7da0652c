"""The one part of the name server that has a privilege: it puts the addresses that were answered into the sets of egress policies.

A process of its own with CAP_NET_ADMIN and nothing else, which takes records of one size from the server. The server reads what
containers send; if one of them took it over, it could let containers out to more than they may, and that is all.
"""

from __future__ import annotations

import os
import socket
import struct

from hutch.helpers import resident
from hutch.kernel import capabilities, syscalls
from hutch.kernel.netlink import netfilter
from hutch.kernel.netlink.socket import Socket
from hutch.network import egress

RECORD = struct.Struct("!48sHBI16s")  # a policy's table, the number of what is allowed, whether IPv6, seconds, the address
MOST_SECONDS = 86400
NETFILTER = 12
NOBODY = 65534
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 1, 8, 38
SIGKILL = 9
LETTERS = frozenset("0123456789abcdef-")


def start() -> socket.socket:
    """Start it; a socket that takes records and answers each with a byte, y or n. It ends with this process."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        there.close()
        return here
    status = 1
    try:
        here.close()
        with Socket(NETFILTER) as kernel:  # opened with the right that it is asked for (netlink(7))
            _confine(there, kernel)
            while record := there.recv(256):
                there.send(b"y" if _fill(kernel, record) else b"n")
        status = 0
    finally:
        os._exit(status)


def _confine(channel: socket.socket, kernel: Socket) -> None:
    resident.name_process("hutch-egress")
    for number in map(int, os.listdir("/proc/self/fd")):  # the lock among them
        if number > 2 and number not in (channel.fileno(), kernel.fileno()):
            try:
                os.close(number)
            except OSError:
                continue  # the listing's own
    syscalls.prctl(PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
        pass  # in a user namespace of one id
    own = 1 << capabilities.NUMBERS["CAP_NET_ADMIN"]
    syscalls.capset(own, own, 0)
    syscalls.prctl(PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(PR_SET_PDEATHSIG, SIGKILL)


def _fill(kernel: Socket, record: bytes) -> bool:
    if len(record) != RECORD.size:
        return False
    name, number, six, seconds, address = RECORD.unpack(record)
    table = name.rstrip(b"\0").decode("ascii", "replace")
    if not table.startswith(egress.TABLE) or set(table.removeprefix(egress.TABLE)) - LETTERS or six > 1 or not 0 < seconds <= MOST_SECONDS:
        return False
    key = address if six else address[:4]
    answers = kernel.batch(netfilter.add_element("inet", table, egress.set_name(number, bool(six)), key, seconds), 3)
    return not any(answers)


def record(table: str, number: int, address: str, seconds: int) -> bytes:
    """What is sent for an address that was answered for the `number`-th thing allowed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return RECORD.pack(table.encode(), number, int(":" in address), seconds, socket.inet_pton(family, address).ljust(16, b"\0"))
