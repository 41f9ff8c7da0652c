"""DNS messages: as clients send them, and as nobody should."""

from __future__ import annotations

import random
import socket
import struct

import pytest
from hypothesis import given, strategies as st

from hutch.network import dns

QUERY = bytes.fromhex("abcd01000001000000000000026462046261636b0000010001")  # db.back A?, as glibc sends it
WITH_OPT = QUERY[:10] + b"\0\1" + QUERY[12:] + bytes.fromhex("00002904d0000000000000")


def query(name: str, kind: int = dns.A, identity: int = 7) -> bytes:
    return dns.HEADER.pack(identity, dns.RECURSION_DESIRED, 1, 0, 0, 0) + dns.encode_name(name) + struct.pack("!2H", kind, 1)


def test_a_question():
    asked = dns.question(QUERY)
    assert (asked.id, asked.name, asked.kind, asked.end, asked.opcode) == (0xABCD, "db.back", dns.A, len(QUERY), 0)
    assert dns.question(query("DB.Back")).name == "db.back"
    assert dns.question(query("x", dns.AAAA)).kind == dns.AAAA
    assert dns.limit_of(QUERY) == 512 and dns.limit_of(WITH_OPT) == 1232


def test_an_answer():
    """Golden: the name by a pointer to the question, as RFC 1035 4.1.4 has it."""
    asked = dns.question(QUERY)
    found = dns.answer(QUERY, asked, [(dns.A, socket.inet_aton("172.18.0.2"))])
    assert found.hex() == "abcd85800001000100000000026462046261636b0000010001c00c0001000100000258" + "0004ac120002"
    assert dns.answers(found, asked) and not dns.answers(QUERY, asked) and not dns.answers(found, dns.question(query("other")))
    assert list(dns.addresses(found)) == [("172.18.0.2", 600)]
    six = dns.answer(QUERY, asked, [(dns.AAAA, socket.inet_pton(socket.AF_INET6, "fd00::1")), (dns.PTR, dns.encode_name("a.b"))])
    assert list(dns.addresses(six)) == [("fd00::1", 600)]
    assert dns.answer(QUERY, asked, error=dns.NAME_ERROR)[3] & 0x0F == 3


def test_a_long_answer_is_cut_to_its_head():
    asked = dns.question(QUERY)
    found = dns.answer(QUERY, asked, [(dns.A, bytes([10, 0, 0, n])) for n in range(60)], limit=512)
    assert len(found) == len(QUERY) and found[2] & 0x02 and struct.unpack_from("!H", found, 6) == (0,)
    assert len(list(dns.addresses(dns.answer(QUERY, asked, [(dns.A, bytes([10, 0, 0, n])) for n in range(60)])))) == 60


def test_reverse_names():
    assert dns.reverse_name("172.18.0.2") == "2.0.18.172.in-addr.arpa"
    assert dns.reverse_name("fd00::1").endswith(".0.0.d.f.ip6.arpa")


@pytest.mark.parametrize(
    "message",
    [
        b"", QUERY[:11], QUERY[:-1], QUERY[:-5], QUERY[:15], b"\0" * 12, QUERY[:2] + b"\x81\x80" + QUERY[4:], QUERY[:5] + b"\2" + QUERY[6:],
        QUERY[:12] + b"\xc0\x0c\0\1\0\1", QUERY[:12] + b"\xc0\xff\0\1\0\1", QUERY[:12] + b"\x40a\0\0\1\0\1", QUERY[:-1] + b"\3",
        QUERY[:12] + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\0\0\1\0\1",
    ],
)  # fmt: skip
def test_what_is_no_question(message):
    with pytest.raises(ValueError):
        dns.question(message)


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64, ".".join(["a" * 60] * 5)])
def test_what_is_no_name(name):
    with pytest.raises(ValueError):
        dns.encode_name(name)


@given(st.binary(max_size=80))
def test_anything_is_read_or_refused(message):
    for reader in (dns.question, lambda data: list(dns.addresses(data)), lambda data: dns.answer(data, dns.question(data))):
        try:
            reader(message)
        except ValueError:
            continue


def test_damaged_messages_are_read_or_refused():
    chance = random.Random(5)
    good = dns.answer(WITH_OPT, dns.question(WITH_OPT), [(dns.A, b"\1\2\3\4")])
    for _ in range(3000):
        damaged = bytearray(chance.choice((QUERY, WITH_OPT, good)))
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        for reader in (dns.question, dns.limit_of, lambda data: list(dns.addresses(data))):
            try:
                reader(bytes(damaged))
            except ValueError:
                continue


@given(st.lists(st.text(st.sampled_from("abcXYZ019-_"), min_size=1, max_size=63), min_size=1, max_size=3))
def test_names_come_back(labels):
    name = ".".join(labels)
    assert dns.question(query(name)).name == name.lower()
