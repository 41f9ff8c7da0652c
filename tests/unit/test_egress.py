"""What --egress means."""

from __future__ import annotations

import pytest

from hutch.errors import UsageError
from hutch.network import egress
from hutch.network.egress import Allowed, Policy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", Allowed(subnet="10.0.0.1/32")),
        ("10.0.0.0/8", Allowed(subnet="10.0.0.0/8")),
        ("10.0.0.0/8:443", Allowed(subnet="10.0.0.0/8", first=443, last=443)),
        ("10.0.0.1:53/udp", Allowed(subnet="10.0.0.1/32", first=53, last=53, protocol="udp")),
        ("fd00::1", Allowed(subnet="fd00::1/128")),
        ("[fd00::/8]:80-90/tcp", Allowed(subnet="fd00::/8", first=80, last=90, protocol="tcp")),
        ("PyPI.org:443", Allowed(name="pypi.org", first=443, last=443)),
        ("pypi.org.", Allowed(name="pypi.org")),
        ("*.example.org:443/tcp", Allowed(name="*.example.org", first=443, last=443, protocol="tcp")),
    ],
)
def test_parse(text, expected):
    assert egress.parse([text]) == Policy(allowed=(expected,))
    assert egress.parse([str(expected)]) == Policy(allowed=(expected,))


def test_words():
    assert egress.parse([]) == egress.parse(["all"]) == Policy() and egress.parse(["none"]) == Policy(allowed=())
    both = egress.parse(["a.org:1,10.0.0.1", "a.org:1", "a.org:2"])
    assert [str(item) for item in both.allowed] == ["a.org:1", "10.0.0.1/32", "a.org:2"] and both.names == ("a.org",)


@pytest.mark.parametrize(
    "text",
    ["none,a.org", "all,a.org", "a.org:", "a.org:0", "a.org:70000", "a.org:2-1", "a.org:x", "a.org/tcp", "a.org:1/icmp", "[fd00::1", "[fd00::1]x", "a..org",
     "-*.org", "*", "*.*.org", "10.0.0.256", "a b", "a.org:１", "10.0.0.0/33"],
)  # fmt: skip
def test_parse_refuses(text):
    with pytest.raises(UsageError, match="egress"):
        egress.parse([text])


def test_matching():
    policy = egress.parse(["a.org:443", "*.a.org", "10.0.0.1"])
    assert [str(item) for item in egress.matching(policy, ("a", "org"))] == ["a.org:443"]
    assert [str(item) for item in egress.matching(policy, ("x", "y", "a", "org"))] == ["*.a.org"]
    for labels in (("ba", "org"), ("a", "orgx"), ("x.a.org",), ("x.a", "org"), ("x", "a.org"), ("10", "0", "0", "1"), ()):
        assert not egress.matching(policy, labels)
    assert [str(item) for item in egress.matching(policy, ("x.y", "a", "org"))] == ["*.a.org"]
    assert not egress.matching(Policy(), ("a", "org"))
