"""What -p means, and the sockets that it opens (on loopback)."""

from __future__ import annotations

import socket

import pytest

from hutch.errors import HutchError, UnsupportedError, UsageError
from hutch.network import ports
from hutch.network.ports import Port


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", (Port(container=80),)),
        ("80/", (Port(container=80),)),  # as Docker takes it
        ("80/udp", (Port(container=80, protocol="udp"),)),
        ("8080:80", (Port(container=80, first=8080, last=8080),)),
        ("8080:80/udp", (Port(container=80, protocol="udp", first=8080, last=8080),)),
        ("127.0.0.1:8080:80", (Port(container=80, address="127.0.0.1", first=8080, last=8080),)),
        ("127.0.0.1::80", (Port(container=80, address="127.0.0.1"),)),
        ("[::1]:8080:80", (Port(container=80, address="::1", first=8080, last=8080),)),
        ("[::1]::80", (Port(container=80, address="::1"),)),
        ("8000-8010:80", (Port(container=80, first=8000, last=8010),)),
        ("8000-8001:80-81", (Port(container=80, first=8000, last=8000), Port(container=81, first=8001, last=8001))),
        ("80-81", (Port(container=80), Port(container=81))),
    ],
)
def test_parse(text, expected):
    assert ports.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", "a", "80:", "0", "65536", "8080:0", "81-80", "1-2:1-3", "80/icmp", "host:80:80", "1.2.3:80:80", "x:80", "80-", "-1", "８０", "1:2:3:4"],
)
def test_parse_refuses(text):
    with pytest.raises(UsageError, match="publish"):
        ports.parse(text)


def test_exposed():
    assert ports.exposed(["80", "80/tcp", "53/udp", "90-91"]) == (
        Port(container=80),
        Port(container=53, protocol="udp"),
        Port(container=90),
        Port(container=91),
    )


def test_check():
    with pytest.raises(UsageError, match="asked for twice"):
        ports.check([*ports.parse("80:80"), *ports.parse("80:81")])
    ports.check([*ports.parse("80:80"), *ports.parse("80:80/udp"), *ports.parse("127.0.0.1:80:80")])
    with pytest.raises(UnsupportedError, match="SCTP"):
        ports.check(ports.parse("80:80/sctp"))
    with pytest.raises(UsageError, match="more than the 256"):
        ports.check(ports.parse("1000-1256:1000-1256"))


def test_sockets_are_there_before_anybody_listens():
    sockets = ports.Sockets([*ports.parse("127.0.0.1::80"), *ports.parse("127.0.0.1::53/udp")], ipv6=True)
    try:
        first = sockets.published[0]
        assert (first.container, first.protocol, first.address) == (80, "tcp", "127.0.0.1") and str(first) == f"127.0.0.1:{first.port}->80/tcp"
        socket.create_connection(("127.0.0.1", first.port), timeout=1).close()
        with pytest.raises(HutchError, match=f"port {first.port}/tcp: is in use"):
            ports.Sockets(ports.parse(f"127.0.0.1:{first.port}:80"), ipv6=True)
        with pytest.raises(HutchError, match="is in use"):
            ports.Sockets(ports.parse(f"127.0.0.1:{sockets.published[1].port}:80/udp"), ipv6=True)
        # a range goes on to the next
        again = ports.Sockets(ports.parse(f"127.0.0.1:{first.port}-{first.port + 20}:80"), ipv6=True)
        assert again.published[0].port > first.port
        again.close()
    finally:
        sockets.close()
        sockets.close()


def test_an_address_of_somebody_else():
    with pytest.raises(UsageError, match="is no address of this host"):
        ports.Sockets(ports.parse("192.0.2.1:8080:80"), ipv6=True)


def test_what_was_bound_goes_with_what_could_not_be():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        free = number - 1 if number > 2000 else number + 1
        with pytest.raises(HutchError):
            ports.Sockets([*ports.parse(f"127.0.0.1:{free}:1"), *ports.parse(f"127.0.0.1:{number}:2")], ipv6=True)
        ports.Sockets(ports.parse(f"127.0.0.1:{free}:1"), ipv6=True).close()


def test_describe():
    assert ports.describe(ports.parse("8080:80")[0], True) == "0.0.0.0:8080, [::]:8080 -> 80/tcp"
    assert ports.describe(ports.parse("8080-8090:80")[0], False) == "0.0.0.0:8080-8090 -> 80/tcp"
    assert ports.describe(ports.parse("[::1]::80")[0], True) == "[::1]:any -> 80/tcp"
