"""Published ports: a real server in a container, asked from the host, from outside, and from other containers."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from hutch.kernel.netlink import route
from tests.hosts import Host, host, joined, refused, until
from tests.namespaces import namespaces

__all__ = ["host"]
pytestmark = pytest.mark.root

# an HTTP server, and one of datagrams that says whom it answers
SERVER = """
import http.server, socket, threading
def datagrams():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 53))
    while True:
        data, client = s.recvfrom(65536); s.sendto(data.upper(), client)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello " + self.path.encode())
    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"])); self.send_response(200); self.end_headers(); self.wfile.write(data[::-1])
    def log_message(self, *a): pass
threading.Thread(target=datagrams, daemon=True).start()
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # with Python's five, a crowd gets SYN cookies, and who then says all at once gets a reset
Server(("", 80), Handler).serve_forever()
"""


def serve(host: Host, *flags: str) -> str:
    found = host("run", "-d", "--name", "web", *flags, "host", "python3", "-c", SERVER).strip()
    until(lambda: host.try_("exec", "web", "python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 80), 1)").returncode == 0)
    return found


def fetch(host: Host, address: str, port: int, path: str = "/") -> bytes:
    def get() -> bytes:
        with socket.create_connection((address, port), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            found = b""
            while data := connection.recv(65536):
                found += data
            return found

    return host.inside(get)


def echo(host: Host, address: str, port: int, text: bytes) -> tuple[bytes, str]:
    def get() -> tuple[bytes, str]:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.settimeout(5)
            channel.sendto(text, (address, port))  # not connected: an answer from anywhere would be taken
            data, sender = channel.recvfrom(65536)
            return data, sender[0]

    return host.inside(get)


def test_a_server_is_reached(host):
    with namespaces(1) as (outside,):
        joined(host, outside)
        with host.route() as here, outside.route() as far:
            for link_socket, number in ((here, 11), (far, 12)):
                link_socket.do(route.new_address(link_socket.link("uplink").index, f"192.0.2.{number}", 24))
        host("network", "create", "shop")
        serve(host, "--network", "shop", "-p", "8080:80", "-p", "5353:53/udp")
        for address in ("127.0.0.1", "::1", "192.0.2.1"):
            assert fetch(host, address, 8080, "/x").endswith(b"hello /x")
            assert echo(host, address, 5353, b"abc") == (b"ABC", address)
        assert fetch(outside, "192.0.2.1", 8080).endswith(b"hello /")
        # the answer comes from the address that was asked, which is not the first one
        assert echo(outside, "192.0.2.11", 5353, b"far") == (b"FAR", "192.0.2.11")
        other = host("run", "--network", "bridge", "--add-host", "up:host-gateway", "host", "python3", "-c",
                     "import urllib.request; print(urllib.request.urlopen('http://up:8080/y', timeout=5).read().decode())")  # fmt: skip
        assert other == "hello /y\n"
        # the container's own port is not reached from outside, whatever the route
        (container,) = json.loads(host("network", "inspect", "shop"))[0]["Containers"].values()
        outside.run("ip", "route", "add", container["IPv4Address"].partition("/")[0], "via", "192.0.2.1")
        with pytest.raises(OSError, match="timed out"):
            outside.inside(lambda: socket.create_connection((container["IPv4Address"], 80), timeout=1))
        assert host("port", "web").splitlines() == [
            "80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080", "53/udp -> 0.0.0.0:5353", "53/udp -> [::]:5353",
        ]  # fmt: skip
        assert host("port", "web", "53/udp") == "0.0.0.0:5353\n[::]:5353\n"
        refused(host.try_("port", "web", "9"), "port 9/tcp is not published")
        host("rm", "-f", "web")
        with pytest.raises(ConnectionRefusedError):
            fetch(host, "127.0.0.1", 8080)


def test_the_hosts_own_rules_hold(host):
    """Docker's oldest complaint: what the host's firewall closes stays closed."""
    with namespaces(1) as (outside,):
        joined(host, outside)
        host.run(
            "nft",
            "add table inet mine; add chain inet mine input { type filter hook input priority 0; policy accept; }; add rule inet mine input iifname uplink drop",
        )
        try:
            serve(host, "-p", "8080:80")
            assert fetch(host, "127.0.0.1", 8080).endswith(b"hello /")
            with pytest.raises(OSError, match="timed out"):
                outside.inside(lambda: socket.create_connection(("192.0.2.1", 8080), timeout=1))
            host("rm", "-f", "web")
        finally:
            host.run("nft", "delete", "table", "inet", "mine")


def test_a_port_in_use_is_reported_before_anything_starts(host):
    taken = host.inside(lambda: socket.create_server(("", 8080)))
    with taken:
        refused(host.try_("run", "--name", "late", "-p", "8080:80", "host", "true"), "port 8080/tcp: is in use", "ss -lnpt")
        assert host.empty() and host("ps", "-a").count("\n") == 1
        assert host("run", "-p", "8080-8090:80", "host", "echo", "started") == "started\n"
    assert host("run", "-p", "8080:80", "host", "echo", "again") == "again\n"
    refused(host.try_("run", "-p", "192.0.2.77:80:80", "host", "true"), "192.0.2.77", "no address of this host")
    refused(host.try_("run", "--network", "host", "-p", "80:80", "host", "true"), "every port is the host's")
    refused(host.try_("run", "-p", "80:80/sctp", "host", "true"), "SCTP")
    host("network", "create", "--internal", "closed")
    refused(host.try_("run", "--network", "closed", "-p", "80:80", "host", "true"), "closed is internal")


def test_free_ports(host):
    serve(host, "-P", "--expose", "80", "--expose", "53/udp")
    lines = host("port", "web").splitlines()
    assert [line.split(" ")[0] for line in lines] == ["80/tcp", "80/tcp", "53/udp", "53/udp"]
    numbers = [int(line.rpartition(":")[2]) for line in lines]
    assert numbers[0] == numbers[1] and numbers[2] == numbers[3] and fetch(host, "::1", numbers[0]).endswith(b"hello /")
    assert echo(host, "127.0.0.1", numbers[2], b"x")[0] == b"X"


def _children(pid: int) -> list[int]:
    found = []
    for name in Path("/proc").iterdir():
        if name.name.isdigit():
            try:
                if int((name / "stat").read_text().rpartition(")")[2].split()[1]) == pid and (name / "comm").read_text() == "hutch-ports\n":
                    found.append(int(name.name))
            except (OSError, IndexError):
                continue
    return found


def test_who_passes_it_on(host):
    """A process without privileges, which holds nothing but its sockets, and is gone with the container."""
    serve(host, "-p", "8080:80")
    (record,) = [json.loads(line) for line in host("ps", "--json").splitlines()]
    (proxy,) = _children(record["executor"])
    status = Path(f"/proc/{proxy}/status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534" in status and "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
    assert "Groups:\t \n" in status

    held = sorted(os.readlink(f"/proc/{proxy}/fd/{name}").partition(":")[0] for name in os.listdir(f"/proc/{proxy}/fd"))
    assert held == ["anon_inode", "socket", "socket"]
    os.kill(record["executor"], 9)
    until(lambda: not Path(f"/proc/{proxy}").exists() or "Z" in Path(f"/proc/{proxy}/stat").read_text().rpartition(")")[2])
    with pytest.raises(ConnectionRefusedError):
        fetch(host, "127.0.0.1", 8080)
    host("network", "prune")


def test_much_at_once(host):
    """Many connections, large bodies both ways, halves closed early, clients that read nothing or vanish."""
    serve(host, "-p", "8080:80")
    body = bytes(range(256)) * 16384  # 4 MiB

    def post() -> bool:
        with socket.create_connection(("127.0.0.1", 8080), timeout=30) as connection:
            sender = threading.Thread(target=lambda: connection.sendall(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
            sender.start()
            found = bytearray()
            while data := connection.recv(1 << 20):
                found += data
            sender.join()
            return bytes(found).endswith(body[::-1])

    def crowd() -> int:
        idle = [socket.create_connection(("127.0.0.1", 8080), timeout=30) for _ in range(100)]
        good: list[bool] = []
        threads = [threading.Thread(target=lambda: good.append(post())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for one in idle[:50]:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.close()  # a reset
        for thread in threads:
            thread.join()
        for one in idle[50:]:
            one.sendall(b"GET /late HTTP/1.0\r\n\r\n")
            one.shutdown(socket.SHUT_WR)  # who has said all still gets the answer
            found = b""
            while data := one.recv(65536):
                found += data
            good.append(found.endswith(b"hello /late"))
            one.close()
        return sum(good)

    assert host.inside(crowd) == 58
    (record,) = [json.loads(line) for line in host("ps", "--json").splitlines()]
    (proxy,) = _children(record["executor"])
    until(lambda: len(list(Path(f"/proc/{proxy}/fd").iterdir())) <= 3 + 2 * 8)  # its sockets, and at most eight spare pipes
    # it waits when there is nothing to do
    first = Path(f"/proc/{proxy}/stat").read_text().rpartition(")")[2].split()[11:13]
    time.sleep(0.5)
    assert Path(f"/proc/{proxy}/stat").read_text().rpartition(")")[2].split()[11:13] == first


def test_nobody_listens_in_the_container(host):
    host("run", "-d", "--name", "web", "-p", "8080:80", "-p", "5353:53/udp", "host", "sleep", "1000")
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        for _ in range(100):
            fetch(host, "127.0.0.1", 8080)
            raise ConnectionResetError if fetch(host, "127.0.0.1", 8080) == b"" else AssertionError
    host.inside(lambda: [socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 5353)) for _ in range(50)])
    assert host("exec", "web", "true") == ""
