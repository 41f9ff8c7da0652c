"""Frames as an attacker writes them, and containers' network namespaces, to send and to see them there."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import time
from types import SimpleNamespace
from typing import Any

from tests.hosts import Host
from tests.namespaces import Namespace

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
REQUEST, REPLY = 1, 2
UDP, ICMP6 = 17, 58
ROUTER_ADVERT, SOLICIT, ADVERT, REDIRECT = 134, 135, 136, 137
EVERYBODY, ALL_NODES, ALL_NODES_MAC = "ff:ff:ff:ff:ff:ff", "ff02::1", "33:33:00:00:00:01"
Q, AD = 0x8100, 0x88A8  # 802.1Q, 802.1ad
Tags = tuple[tuple[int, int], ...]
# sends each frame, in hexadecimal, that its standard input names
SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
    for line in sys.stdin:
        raw.sendto(bytes.fromhex(line.split()[1]), (line.split()[0], 0))
"""


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def ethernet(source: str, kind: int, body: bytes, target: str = EVERYBODY, tags: Tags = ()) -> bytes:
    """A frame; `tags` are (ethertype, VID) pairs, the outer one first."""
    head = mac(target) + mac(source)
    for tag, vid in tags:
        head += struct.pack("!HH", tag, vid)
    return head + struct.pack("!H", kind) + body


def arp(
    sender_mac: str,
    sender: str,
    target: str,
    operation: int = REPLY,
    target_mac: str = EVERYBODY,
    hardware: int = 1,
) -> bytes:
    head = struct.pack("!HHBBH", hardware, IPV4, 6, 4, operation)
    return head + mac(sender_mac) + address(sender) + mac(target_mac) + address(target)


def marked(kind: int, body: bytes, number: int) -> tuple[bytes, bytes]:
    """What follows an ethertype, with a number by which it is known again, and the bytes to look for."""
    if kind == IPV4:  # what is behind the packet is trimmed on its way: the identification, the flow label
        head = body[:4] + struct.pack("!H", number) + body[6:10] + b"\0\0" + body[12:20]
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        return head + body[20:], head
    if kind == IPV6:
        head = struct.pack("!I", 6 << 28 | number) + body[4:40]
        return head + body[40:], head
    mark = b"\xa5mark" + struct.pack("!I", number) + b"kram\xa5"
    return body.ljust(46, b"\0") + mark, mark


def udp(source: str, target: str, source_port: int, target_port: int, text: bytes = b"") -> bytes:
    body = struct.pack("!HHHH", source_port, target_port, 8 + len(text), 0) + text
    pseudo = address(source) + address(target) + struct.pack("!II", len(body), UDP)
    return body[:6] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[8:]


def ipv4(source: str, target: str, body: bytes, protocol: int = UDP) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0)
    head += address(source) + address(target)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ipv6(source: str, target: str, body: bytes, header: int = ICMP6, length: int = -1) -> bytes:
    size = len(body) if length < 0 else length
    return struct.pack("!IHBB", 6 << 28, size, header, 255) + address(source) + address(target) + body


def icmp6(source: str, target: str, kind: int, body: bytes) -> bytes:
    text = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = address(source) + address(target) + struct.pack("!II", len(text), ICMP6)
    return text[:2] + struct.pack("!H", checksum(pseudo + text)) + text[4:]


NONCE = b"\x0e\x01nonce!"  # an option (RFC 3971 5.3.2), which the kernel's own claims have (RFC 7527)


def discovery(kind: int, source: str, about: str, layer2: str = "", before: bytes = b"") -> bytes:
    """A neighbour solicitation or advertisement about an address, with a link-layer address in its option."""
    flags = 0x20000000 if kind == ADVERT else 0  # override
    option = struct.pack("!BB", 2 if kind == ADVERT else 1, 1) + mac(layer2) if layer2 else b""
    body = struct.pack("!I", flags) + address(about) + before + option
    return ipv6(source, ALL_NODES, icmp6(source, ALL_NODES, kind, body))


def router(source: str, layer2: str) -> bytes:
    """An advertisement of a default router, as ICMPv6."""
    option = b"\x01\x01" + mac(layer2)
    return icmp6(source, ALL_NODES, ROUTER_ADVERT, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + option)


class Inside(Namespace):
    """The network namespace of a process that is there."""

    def __init__(self, pid: int) -> None:
        self.process: Any = SimpleNamespace(pid=pid)
        self.fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.fd)


class Box(Inside):
    """A container that runs: its network namespace, and an interface of its there."""

    def __init__(self, host: Host, name: str, interface: str = "eth0") -> None:
        running = map(json.loads, host("ps", "--json").splitlines())
        (found,) = [item for item in running if item["name"] == name]
        super().__init__(found["pid"])
        self.host, self.name, self.interface = host, name, interface
        (link,) = self.ip("addr", "show", interface)
        self.mac = link["address"]
        self.addresses = [item["local"] for item in link["addr_info"]]
        self.four = next(item for item in self.addresses if ":" not in item)
        self.six = next((item for item in self.addresses if ":" in item and not item.startswith("fe80")), "")
        self.local = link_local(self.mac)

    def send(self, *frames: bytes) -> None:
        """Send frames from a program in the container, three times each."""
        text = "".join(f"{self.interface} {frame.hex()}\n" for frame in frames * 3)
        words = self.host.command("exec", "-i", self.name, "python3", "-c", SEND)
        done = subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=self.host.environment,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


def link_local(layer2: str) -> str:
    """The link-local address of a MAC (RFC 4291, appendix A)."""
    raw = mac(layer2)
    identity = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + identity)


class Listener:
    """Sees what arrives at an interface of a namespace."""

    def __init__(self, where: Namespace, interface: str) -> None:
        def listen() -> socket.socket:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            raw.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
            raw.bind((interface, 3))
            return raw

        self.socket = where.inside(listen)

    def heard(self, marks: dict[str, bytes], last: bytes) -> set[str]:
        """Which frames have arrived, by their marks, until one with the mark `last` has."""
        self.socket.settimeout(5)
        found: set[str] = set()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            frame = self.socket.recv(4096)
            found |= {name for name, mark in marks.items() if mark in frame}
            if last in frame:
                return found
        raise AssertionError("the last frame does not arrive")

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
