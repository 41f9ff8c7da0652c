"""The tar reader: what other programs write, what nobody should, in pieces of any size."""

from __future__ import annotations

import functools
import io
import os
import random
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hutch.errors import ImageError
from hutch.image.layers.erofs import writer
from hutch.image.layers.tree import Tree
from hutch.image.tar.header import MAX_DEPTH, MAX_NAME, MAX_PATH, Member, moment, number, path_of, pax_records
from hutch.image.tar.reader import MAX_HEADER, Reader
from tests.images import BLOCK, END, GNU, SPARSE, base256, bounded, content, entry, extended, header, index_of, members, padded, parse, pieces, record, summed

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
needs_tar = pytest.mark.skipif(
    not shutil.which("tar") or b"GNU" not in subprocess.run(["tar", "--version"], capture_output=True).stdout, reason="needs GNU tar"
)


def by_python(*found: tuple[tarfile.TarInfo, bytes], form: str = "pax", **options: object) -> bytes:
    """An archive that Python's module writes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMS[form], **options) as archive:
        for info, data in found:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def info(name: str | bytes, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member for it."""
    made = tarfile.TarInfo(os.fsdecode(name))
    made.type, made.size = kind, len(data)
    for key, value in fields.items():
        setattr(made, key, value)
    return made, data


def refused(raw: bytes, why: str | None = None) -> None:
    with pytest.raises(ImageError, match=why):
        parse(raw)


# Headers


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_file(form):
    raw = by_python(
        info("d", tarfile.DIRTYPE, mode=0o1777, uid=1, gid=2, mtime=3),
        info("d/f", data=b"x" * 700, mode=0o4755),
        info("d/empty"),
        info("d/l", tarfile.SYMTYPE, linkname="../elsewhere"),
        info("d/h", tarfile.LNKTYPE, linkname="d/f"),
        info("d/c", tarfile.CHRTYPE, devmajor=1, devminor=3),
        info("d/b", tarfile.BLKTYPE, devmajor=254, devminor=0o1777777),
        info("d/p", tarfile.FIFOTYPE),
        info("d/contiguous", tarfile.CONTTYPE, data=b"y"),
        form=form,
    )
    found = parse(raw)
    assert [(m.kind, m.name.rstrip(b"/")) for m in found.members] == [
        ("d", b"d"), ("-", b"d/f"), ("-", b"d/empty"), ("l", b"d/l"), ("h", b"d/h"), ("c", b"d/c"), ("b", b"d/b"), ("p", b"d/p"), ("-", b"d/contiguous"),
    ]  # fmt: skip
    directory, file = found.members[:2]
    assert (directory.mode, directory.uid, directory.gid, directory.mtime) == (0o1777, 1, 2, 3_000_000_000)
    assert (file.mode, file.size, file.stored, file.offset % BLOCK, content(raw, file)) == (0o4755, 700, 700, 0, b"x" * 700)
    assert [bytes(c) for c in found.content] == [b"", b"x" * 700, *[b""] * 6, b"y"]
    assert [m.link for m in found.members[3:5]] == [b"../elsewhere", b"d/f"]
    assert [m.rdev for m in found.members[5:7]] == [(1, 3), (254, 0o1777777)]


NAMES = {
    "plain": b"a/b", "100": b"n" * 100, "101 in two fields": b"d/" + b"n" * 99, "255 in two fields": b"p" * 155 + b"/" + b"n" * 100, "no slash": b"n" * 180,
    "deep": b"/".join([b"part"] * 300), "too long for two": b"p" * 160 + b"/" + b"n" * 120, "not UTF-8": b"\xff\xfe/\x80", "UTF-8": "grün/ß".encode(),
    "long and not UTF-8": b"\xff" * 200, "newline": b"a\nb/\n", "blanks": b" a = b ", "records": b"12 path=x\n", "controls": bytes(range(1, 32)).replace(b"/", b""),
    "cut behind a slash": b"a" * 99 + b"/" + b"b" * 160 + b"/" + b"c" * 120, "backslash": b"a\\n\\134", "dots": b"./a/./b", "absolute": b"/etc/passwd",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_names_and_targets_are_bytes(form, name):
    name = NAMES[name]
    try:
        raw = by_python(
            info(name, data=b"12"), info(name, tarfile.DIRTYPE), info(b"l", tarfile.SYMTYPE, linkname=os.fsdecode(name)),
            info(b"h", tarfile.LNKTYPE, linkname=os.fsdecode(name)), info(b"after"), form=form,
        )  # fmt: skip
    except ValueError:
        assert form == "ustar"
        return  # there is no room for it
    file, directory, link, hard, after = parse(raw).members
    assert (file.kind, file.name, file.size, content(raw, file)) == ("-", name, 2, b"12")
    assert (directory.kind, directory.name.rstrip(b"/")) == ("d", name)
    assert (link.kind, link.link, hard.kind, hard.link, after.name) == ("l", name, "h", name, b"after")


def test_the_name_that_counts_decides_what_a_slash_at_its_end_says():
    """Before ustar, a slash made a directory; a name cut to fit its field may end in one although the file's does not."""
    for before in (extended({b"path": b"a/file"}), header(b"long", b"L", 7) + padded(b"a/file\0")):
        raw = before + header(b"a/", size=2) + padded(b"12") + END
        [file] = parse(raw).members
        assert (file.kind, file.name, content(raw, file)) == ("-", b"a/file", b"12")
    [directory] = parse(extended({b"path": b"a/directory/"}) + header(b"a") + END).members
    assert (directory.kind, directory.name.rstrip(b"/")) == ("d", b"a/directory")
    for kind in (b"0", b"\0"):
        assert [m.kind for m in parse(header(b"old/", kind) + END).members] == ["d"]


def test_a_link_or_a_device_may_end_in_a_slash():
    assert [m.kind for m in parse(header(b"l/", b"2", link=b"x") + header(b"p/", b"6") + END).members] == ["l", "p"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [0, 1, 0o7777777, 0o7777777 + 1, 2**31, 2**32 - 2])
def test_owners(form, value):
    try:
        raw = by_python(info("f", uid=value, gid=value), form=form)
    except ValueError:
        return  # there is no room for it
    assert [(m.uid, m.gid) for m in parse(raw).members] == [(value, value)]


@pytest.mark.parametrize("value", [-1, -2, 2**32 - 1, 2**32, 2**50])
def test_nobody_is_the_user_minus_one(value):
    refused(header(uid=base256(value, 8)) + END, "no user")
    refused(header(gid=base256(value, 8)) + END, "no user")
    refused(extended({b"uid": b"%d" % value}) + header() + END)


@pytest.mark.parametrize(
    ("form", "written", "nanoseconds"),
    [
        ("ustar", 1_700_000_000, 1_700_000_000_000_000_000),
        ("gnu", -1, -1_000_000_000),
        ("gnu", -(10**10), -(10**19)),
        ("gnu", 2**36, 2**36 * 10**9),
        ("pax", 1.5, 1_500_000_000),
        ("pax", -1.5, -1_500_000_000),
        ("pax", -0.25, -250_000_000),
        ("pax", 2**36, 2**36 * 10**9),
    ],
)
def test_times(form, written, nanoseconds):
    assert [m.mtime for m in parse(by_python(info("f", mtime=written), form=form)).members] == [nanoseconds]


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"1700000000.123456789", 1700000000123456789),
        (b"1.", 10**9),
        (b"1.1234567891", 1123456789),
        (b"-0.000000001", -1),
        (b"-2.000000001", -2000000001),
    ],
)
def test_moments(text, nanoseconds):
    assert moment(text) == nanoseconds


@pytest.mark.parametrize("text", [b"", b"-", b"x", b".5", b"1.x", b"1.-5", b"1e9", b"1" * 16, b"1,5", b" 1", b"+1", "١".encode()])
def test_moments_that_are_none(text):
    with pytest.raises(ImageError):
        moment(text)


def test_times_beyond_the_clock_are_refused():
    """A field of twelve bytes holds more than any clock: what does not fit must not become another time."""
    for seconds in (2**63, 2**80, -(2**63) - 1, -(2**80)):
        with pytest.raises(ImageError):
            index_of(header(mtime=base256(seconds, 12)) + END)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644), (b"   644 \0", 0o644), (b"644\0\0\0\0\0", 0o644), (b"00000644", 0o644), (b"12\0junk\0", 0o12), (b"0\0      ", 0), (bytes(8), 0),
        (b" " * 8, 0), (b" " * 7 + b"\0", 0), (b"\x80" + b"\0" * 6 + b"7", 0x37), (b"\x80" + b"\0" * 6 + b" ", 32), (b"\x80\0\0\0\0\0\0\0", 0), (b"\xff" * 8, -1),
        (b"\xff" * 7 + b"\0", -256), (b"\x80\0\0\x01\0\0\0\0", 2**32),
    ],
)  # fmt: skip
def test_numbers(field, value):
    assert number(field) == value


@pytest.mark.parametrize(
    "field",
    [
        b"0000648\0",
        b"0000649\0",
        b"-000644\0",
        b"0x1ff\0\0\0",
        b"12a\0\0\0\0\0",
        b"+1\0\0\0\0\0\0",
        b"1_0\0\0\0\0\0",
        b"\x7f\0\0\0\0\0\0\0",
    ],
)
def test_numbers_that_are_none(field):
    with pytest.raises(ImageError, match="octal"):
        number(field)


@given(value=st.integers(-(2**62), 2**62 - 1))
def test_base_256(value):
    assert number(base256(value, 12)) == value


def test_the_prefix_is_ustars_alone():
    """GNU tar keeps times there, star only 131 bytes of name."""
    times = b"00000000001\x0000000000002\0"
    raw = (
        header(b"f", prefix=b"p" * 155) + header(b"f", magic=GNU, prefix=times) + header(b"f", magic=bytes(8), prefix=b"junk")
        + header(b"f", prefix=b"star", at={345 + 131: times, 508: b"tar\0"}) + header(b"f", magic=b"ustar\0\0\0", prefix=b"p") + END
    )  # fmt: skip
    assert [m.name for m in parse(raw).members] == [b"p" * 155 + b"/f", b"f", b"f", b"star/f", b"p/f"]


def test_what_carries_no_content_takes_none_whatever_its_size_says():
    """GNU tar reads the next header behind a link, a device, a fifo and a directory."""
    for kind in b"123456":
        raw = header(b"x", bytes([kind]), 5000, link=b"y") + entry(b"after", b"content") + END
        first, after = parse(raw).members
        assert (first.size, first.stored, after.name, content(raw, after)) == (0, 0, b"after", b"content")


def test_what_nothing_is_made_of_is_passed_over():
    """A volume's label and a directory of an incremental dump have content that is nobody's."""
    raw = header(b"label", b"V") + header(b"d", b"D", 600) + padded(b"Yfile\0" * 100) + header(b"old", b"N", 3) + padded(b"xyz") + entry(b"f", b"1") + END
    assert [(m.kind, m.name) for m in parse(raw).members] == [("d", b"d"), ("-", b"f")]


@pytest.mark.parametrize("kind", [b"M", b"A", b"Z", b"8", b"9", b"\xff", b" "])
def test_unknown_kinds_are_refused(kind):
    refused(header(b"odd", kind) + END, "'odd' is of an unknown type")


def test_old_checksums_were_signed():
    raw = summed(header(b"\xfc\xfd"), signed=True) + END
    assert [m.name for m in parse(raw).members] == [b"\xfc\xfd"]


def test_after_the_end_nothing_matters():
    assert [m.name for m in parse(header(b"f") + bytes(BLOCK) + b"garbage" * 999).members] == [b"f"]
    assert parse(END).members == [] and parse(b"").members == []


def test_an_end_of_nothing_but_the_content_is_one():
    assert len(parse(entry(b"f", b"x" * 513)).members) == 1


# Extended headers


def test_pax_overrides_the_fields():
    raw = extended(
        {b"path": b"p" * 300, b"uid": b"4000000000", b"gid": b"7", b"mtime": b"1.5", b"size": b"3", b"atime": b"x", b"comment": b"\xff", b"VENDOR.x": b"=y"}
    )
    raw += header(b"short", uid=1, mtime=9, size=999) + padded(b"abc") + header(b"after") + END
    file, after = parse(raw).members
    assert (file.name, file.uid, file.gid, file.mtime, file.size, content(raw, file)) == (b"p" * 300, 4000000000, 7, 1_500_000_000, 3, b"abc")
    assert (after.name, after.uid, after.xattrs) == (b"after", 0, {})


def test_pax_sizes_beyond_the_field():
    raw = extended({b"size": b"%d" % (1 << 40)}) + header(b"big") + END
    refused(raw, "too early")
    sink = parse_open(raw)
    assert [m.size for m in sink.members] == [1 << 40]


def parse_open(raw: bytes):
    """What is found in the beginning of an archive."""
    from tests.images import Sink

    sink = Sink()
    Reader(sink).feed(raw)
    return sink


def test_an_empty_value_takes_an_override_back():
    """POSIX pax: a keyword without a value deletes it, so that the field counts."""
    raw = extended({b"path": b"", b"linkpath": b"", b"size": b"", b"mtime": b"", b"uid": b"", b"gid": b""})
    raw += header(b"f", b"2", link=b"target", mtime=5, uid=6, gid=7) + END
    assert [(m.name, m.link, m.mtime, m.uid, m.gid) for m in parse(raw).members] == [(b"f", b"target", 5_000_000_000, 6, 7)]


def test_global_headers_are_for_all_that_follow():
    raw = (
        header(b"before") + extended({b"uid": b"7", b"mtime": b"1", b"comment": b"x"}, b"g") + header(b"one", uid=1) + extended({b"uid": b"8"}) + header(b"two")
    )
    raw += extended({b"gid": b"9", b"mtime": b"2"}, b"g") + header(b"three") + END
    assert [(m.name, m.uid, m.gid, m.mtime // 10**9) for m in parse(raw).members] == [
        (b"before", 0, 0, 0), (b"one", 7, 0, 1), (b"two", 8, 0, 1), (b"three", 7, 9, 2),
    ]  # fmt: skip


def test_pythons_global_headers():
    raw = by_python(info("f"), info("g", pax_headers={"SCHILY.xattr.user.own": "2"}), pax_headers={"SCHILY.xattr.user.all": "1", "comment": "ß"})
    assert [m.xattrs for m in parse(raw).members] == [{b"user.all": b"1"}, {b"user.all": b"1", b"user.own": b"2"}]


def test_attributes_are_bytes():
    value = bytes(range(256)) * 3
    raw = (
        extended({b"SCHILY.xattr.user.a": value, b"SCHILY.xattr.user.empty": b"", b"SCHILY.xattr.user.line": b"a\nb=c\n", b"LIBARCHIVE.xattr.user.a": b"eA"})
        + header()
        + END
    )
    assert parse(raw).members[0].xattrs == {b"user.a": value, b"user.empty": b"", b"user.line": b"a\nb=c\n"}


def test_an_attributes_name_may_have_an_equals_sign():
    """GNU tar writes ``=`` and ``%`` as URLs do, so that the record keeps its key."""
    raw = extended({b"SCHILY.xattr.user.a%3Db%25c%3d": b"1", b"SCHILY.xattr.user.%zz%2": b"2"}) + header() + END
    assert parse(raw).members[0].xattrs == {b"user.a=b%c%3d": b"1", b"user.%zz%2": b"2"}


def test_the_last_record_counts_and_suns_header_is_the_same():
    raw = extended(record(b"path", b"one") + record(b"path", b"two")) + header() + extended({b"path": b"sun"}, b"X") + header() + END
    assert [m.name for m in parse(raw).members] == [b"two", b"sun"]


def test_long_names_and_records_together():
    raw = (
        header(b"l", b"L", 5)
        + padded(b"long\0")
        + extended({b"path": b"pax"})
        + header(b"k", b"K", 5)
        + padded(b"link\0")
        + header(b"f", b"2", link=b"x")
        + END
    )
    assert [(m.name, m.link) for m in parse(raw + header() + END).members] == [(b"pax", b"link")]


def test_records():
    assert pax_records(b"") == [] and pax_records(bytes(40)) == []
    assert pax_records(b"6 a=b\n" + record(b"k", b"=\n=") + bytes(7)) == [(b"a", b"b"), (b"k", b"=\n=")]
    assert pax_records(b"5 a=\n") == [(b"a", b"")]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=12).filter(lambda k: b"=" not in k), st.binary(max_size=1100)), max_size=5))
def test_records_of_every_content(found):
    assert pax_records(b"".join(record(key, value) for key, value in found)) == found


BAD_RECORDS = {
    "no length": b"path=x\n", "too short": b"3 a=b\n", "too long": b"99 a=b\n", "no newline": b"6 a=bX", "zero": b"0 a=b\n", "negative": b"-6 a=b\n", "only digits": b"6",
    "no key": b"5 =b\n", "no equals": b"5 ab\n", "no blank": b"6\ta=b\n", "hexadecimal": b"0x6 a=b\n", "huge length": b"9" * 19 + b" a=b\n", "longer length": b"0" * 30 + b"6 a=b\n",
    "a second that is none": b"6 a=b\nx", "a length of one": b"1 a=b\n", "only a blank": b" ", "only a line": b"\n", "an end in the key": b"4 a=b\n",
    "length of other digits": "٦ a=b\n".encode(),
}  # fmt: skip


@pytest.mark.parametrize("body", BAD_RECORDS.values(), ids=BAD_RECORDS)
@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_broken_records(body, kind):
    refused(extended(body, kind) + header() + END, "extended header")


@pytest.mark.parametrize(
    "found",
    [
        {b"size": b"-1"}, {b"size": b"x"}, {b"size": b"1.5"}, {b"size": b"9" * 19}, {b"size": b"9" * 5000}, {b"uid": b"-1"}, {b"gid": b"0x1"}, {b"mtime": b"now"},
        {b"mtime": b"9" * 400}, {b"uid": b"9" * 5000}, {b"GNU.sparse.map": b"1"}, {b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": b"5"}, {b"GNU.sparse.major": b"1"},
        {b"GNU.sparse.size": b"x"}, {b"GNU.sparse.offset": b"5"}, {b"GNU.sparse.size": b"9", b"GNU.sparse.offset": b"5"}, {b"GNU.sparse.map": b"a,b", b"GNU.sparse.size": b"5"},
        {b"GNU.sparse.size": b"%d" % (1 << 63)}, {b"path": b"a\0b"},
    ],
)  # fmt: skip
def test_records_that_say_nothing_that_can_be(found):
    with pytest.raises(ImageError):
        index_of(extended(found) + entry(b"f", b"abc") + END)


@pytest.mark.parametrize("kind", [b"1", b"2"])
@pytest.mark.parametrize("target", [b"", b"x" * 4096, b"a\0b"])
def test_links_to_what_no_path_can_be(kind, target):
    refused(extended({b"linkpath": target}) + header(b"l", kind) + END, "is a link to")


# Sparse files


MAPS = {
    "a hole": (10_000, []), "only its end": (10_000, [(10_000, b"")]), "nothing": (0, []), "all": (3, [(0, b"abc")]), "middle": (9000, [(4096, b"x" * 512)]), "end": (5000, [(4995, b"abcde")]),
    "marks the end": (9000, [(0, b"x" * 512), (9000, b"")]), "odd": (3000, [(1, b"a"), (3, b"bc"), (1500, b"d" * 700)]), "touching": (1024, [(0, b"a" * 512), (512, b"b" * 512)]),
    "four": (4096 * 9, [(4096 * i, b"%d" % i * 512) for i in range(4)]), "five": (4096 * 9, [(4096 * i, b"%d" % i * 512) for i in range(5)]),
    "twenty-five": (4096 * 99, [(4096 * i, b"y") for i in range(25)]), "many": (4096 * 999, [(4096 * i, bytes([i % 255 + 1])) for i in range(999)]),
}  # fmt: skip


@pytest.mark.parametrize("form", SPARSE)
@pytest.mark.parametrize("case", MAPS)
def test_sparse_files(form, case):
    size, found = MAPS[case]
    raw = entry(b"before", b"1") + SPARSE[form](b"s", size, found) + entry(b"after", b"2") + END
    whole = bytearray(size)
    for offset, data in found:
        whole[offset : offset + len(data)] = data
    sink = parse(raw)
    assert [m.name for m in sink.members] == [b"before", b"s", b"after"]
    member = sink.members[1]
    assert (member.size, member.sparse, content(raw, member)) == (size, tuple((o, len(d)) for o, d in found if d), bytes(whole))
    assert bytes(sink.content[1]) == b"".join(d for _, d in found)
    assert content(raw, sink.members[2]) == b"2"


@pytest.mark.parametrize("form", SPARSE)
@pytest.mark.parametrize(
    "found",
    [[(10, b"abc"), (5, b"x")], [(0, b"abc"), (2, b"x")], [(5, b"abc"), (5, b"abc")], [(98, b"abc")], [(101, b"")], [(1 << 40, b"x")], [(8**11 - 1, b"x")]],
    ids=["disordered", "overlapping", "twice", "over the end", "behind the end", "far", "farther"],
)
def test_maps_that_are_none(form, found):
    if form == "old" and found[0][0] >= 8**11:
        return  # there is no room for it
    refused(SPARSE[form](b"s", 100, found) + END, "pieces of a sparse file")


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"x\n", b"-1\n", b"1\n", b"1\n0\n", b"1\n0\nx\n", b"1\n-1\n3\n", b"99999999\n", b"999999999\n", b"1000000\n0\n0\n", b"1\n0 \n1\n", b" 1\n0\n1\n", b"1.0\n", b"2\n0\n1\n", b"9" * 5000, "١\n0\n1\n".encode()],
)  # fmt: skip
def test_maps_before_the_content_that_are_none(text):
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"s", b"GNU.sparse.realsize": b"10"}
    refused(extended(records) + entry(b"x", text + (b"" if b"9" * 99 in text else bytes(600))) + END)


def test_a_map_that_is_not_padded_is_longer_than_its_file():
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"0"}
    refused(extended(records) + entry(b"x", b"0\n") + END)


@pytest.mark.parametrize("kind", [b"1", b"2", b"5", b"6"])
def test_only_a_regular_file_is_sparse(kind):
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"}
    refused(extended(records) + header(b"x", kind, link=b"y") + END)


# Fed in any way


@functools.cache
def corpus() -> dict[str, bytes]:
    """Archives with everything that takes more than one block to read, whole, without blocks behind their end."""
    found: dict[str, bytes] = {}
    for form in FORMS:
        raw = by_python(
            info("d", tarfile.DIRTYPE), info("d/f", data=b"content" * 200, uid=5), info("d/" + "n" * 98, data=b"x" * 512), info("p" * 120 + "/" + "q" * 90),
            info("l", tarfile.SYMTYPE, linkname="t" * 90), info("h", tarfile.LNKTYPE, linkname="d/f"), info("c", tarfile.CHRTYPE, devmajor=1, devminor=3),
            info("big", data=bytes(range(256)) * 20, mtime=1234), form=form,
        )  # fmt: skip
        found[form] = raw
    found["gnu long"] = by_python(
        info("n" * 600, tarfile.SYMTYPE, linkname="t" * 700), info("m" * 3 + "/" + "m" * 200, data=b"1"), info("e", uid=2**31), form="gnu"
    )
    found["pax long"] = by_python(
        info("n" * 600, data=b"ab", mtime=1.5, pax_headers={"SCHILY.xattr.user.a": "v" * 600}),
        info(b"\xff\n", tarfile.SYMTYPE, linkname="t" * 700),
        pax_headers={"comment": "c" * 600},
    )
    for form, make in SPARSE.items():
        found[f"sparse {form}"] = (
            entry(b"a", b"1")
            + b"".join(make(b"s" + name.encode(), *MAPS[name]) for name in ("middle", "odd", "five", "twenty-five", "only its end"))
            + entry(b"z", b"2")
            + END
        )
    found["layer"] = (
        header(b"d/.wh..wh..opq") + header(b".wh.gone") + entry(b"d/f", b"1") + header(b"s", b"2", link=b"d") + entry(b"s/g", b"22") + header(b"h", b"1", link=b"s/g")
        + header(b"d", b"5", mode=0o700) + header(b"label", b"V") + entry(b"s", b"3") + END
    )  # fmt: skip
    return found


def everything(raw: bytes, cuts: list[int], wants: bool = True) -> list[tuple[object, ...]]:
    sink = parse(raw, cuts, wants)
    return [tuple(getattr(member, name) for name in Member.__slots__) + (bytes(data),) for member, data in zip(sink.members, sink.content, strict=True)]


@pytest.mark.parametrize("name", corpus())
def test_fed_byte_by_byte_and_block_by_block(name):
    raw = corpus()[name]
    whole = everything(raw, [])
    assert whole
    for step in (1, 7, 511, 512, 513, 1024, 4096):
        assert everything(raw, list(range(0, len(raw), step))) == whole
    assert [found[:-1] for found in everything(raw, [700, 900], wants=False)] == [found[:-1] for found in whole]


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(corpus())), data=st.data())
def test_fed_in_pieces_of_any_size(name, data):
    raw = corpus()[name]
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=20))
    assert everything(raw, cuts) == everything(raw, [])


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_fed_with_what_is_like_bytes(kind):
    raw = corpus()["pax long"]
    sink = parse_open(b"")
    reader = Reader(sink)
    for piece in pieces(raw, range(0, len(raw), 700)):
        reader.feed(kind(piece))
    reader.close()
    assert [m.name for m in sink.members] == [m.name for m in parse(raw).members] and all(type(m.name) is bytes for m in sink.members)


# Broken in every way


def boundaries(raw: bytes) -> tuple[set[int], int]:
    """Where an archive may end, as Python's module sees it: before a member and all that describes it; and where its end begins."""
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        return {0, *(member.offset for member in archive)}, archive.offset


@pytest.mark.parametrize("name", corpus())
def test_truncated_archives_are_refused(name):
    """Everywhere but between two members, and what is found until then is the same."""
    raw = corpus()[name]
    ends, last = boundaries(raw)
    whole = [m.name for m in parse(raw).members]
    places = {place + n for place in range(0, len(raw), BLOCK) for n in (-1, 0, 1, 156, 300) if 0 <= place + n <= len(raw)}
    for place in sorted(places):
        try:
            found = [m.name for m in parse(raw[:place]).members]
        except ImageError:
            assert place not in ends and (place < last or place % BLOCK), f"{place} is a member's beginning"
        else:
            assert (place in ends or place >= last) and found == whole[: len(found)], f"silent at {place}"


@pytest.mark.parametrize(
    "before",
    [header(b"l", b"L", 5) + padded(b"name\0"), header(b"k", b"K", 5) + padded(b"link\0"), extended({b"path": b"x"}), extended({b"comment": b""})],
    ids="LKxx",
)
def test_what_describes_a_member_that_does_not_come(before):
    refused(entry(b"f", b"1") + before, "too early")


def test_every_bit_of_a_header_is_under_its_checksum():
    good = header(b"name", b"2", link=b"target", prefix=b"prefix", mtime=5)
    for place in [*range(148), *range(156, BLOCK)]:
        for bit in (0x01, 0x80):
            refused(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :] + END, "checksum")


@pytest.mark.parametrize("field", [bytes(8), b" " * 8, b"notoctal", b"\xff" * 8, b"0000000\0", b"7777777\0"])
def test_checksums_that_are_none(field):
    refused(header()[:148] + field + header()[156:] + END)


@pytest.mark.parametrize("size", [-1, -(2**62), 2**62, 2**63, 2**80, -(2**94)])
def test_sizes_that_no_file_has(size):
    for kind in b"05xLKVS":
        refused(header(b"f", bytes([kind]), base256(size, 12)) + END, "a size of")


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
def test_giant_headers_are_refused_before_they_are_read(kind):
    reader = Reader(parse_open(b""))
    with pytest.raises(ImageError, match="a header of"):
        reader.feed(header(b"x", kind, MAX_HEADER + 1))


def test_giant_global_headers_are_refused():
    refused(b"".join(extended({b"comment%d" % i: b"x" * 60_000}, b"g") for i in range(20)) + header() + END, "global headers")


def test_names_that_no_disk_holds():
    for name in (b"n" * (MAX_NAME + 1), b"a/" + b"n" * (MAX_NAME + 1), b"n/" * (MAX_DEPTH + 1), b"/".join([b"n" * 200] * (MAX_PATH // 200 + 1)), b"a\0b"):
        with pytest.raises(ImageError):
            path_of(name)
    assert len(path_of(b"n/" * MAX_DEPTH)) == MAX_DEPTH and path_of(b"n" * MAX_NAME) == (b"n" * MAX_NAME,)
    assert path_of(b"//a/./b//") == (b"a", b"b") and path_of(b"./") == path_of(b"/") == path_of(b"") == ()
    for name in (b"..", b"a/..", b"../a", b"a/../b", b"/.."):
        with pytest.raises(ImageError, match="leads out"):
            path_of(name)


def test_messages_are_one_short_line():
    for name in (b"a\nb\x1b[2J" * 50, b"\xff" * 300, "é".encode() * 200):
        with pytest.raises(ImageError) as caught:
            parse(extended({b"path": name}) + header(b"f", b"9") + END)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def pipeline(raw: bytes, cuts: list[int]) -> None:
    """All that a layer goes through; nothing but an ImageError may come out, and that soon."""
    begun = time.process_time()
    tree = Tree()
    reader = Reader(tree)
    try:
        for piece in pieces(raw, cuts):
            reader.feed(piece)
        reader.close()
        image = writer.index(tree.root, len(raw), lambda offset, length: raw[offset : offset + length])
        assert len(image) < 300 << 20
    except ImageError as error:
        assert str(error).isprintable()
    assert time.process_time() - begun < 5


def with_checksums(raw: bytes, places: set[int]) -> bytes:
    for place in sorted(places):
        raw = raw[:place] + summed(raw[place : place + BLOCK]) + raw[place + BLOCK :]
    return raw


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(corpus())), data=st.data())
def test_fuzz_of_changed_archives(name, data):
    """Bytes changed, blocks swapped, dropped and repeated; checksums made good again, so that what is behind them is reached."""
    raw = bytearray(corpus()[name])
    for _ in range(data.draw(st.integers(1, 6))):
        block = data.draw(st.integers(0, len(raw) // BLOCK - 1)) * BLOCK
        change = data.draw(st.sampled_from(["byte", "byte", "byte", "field", "swap", "drop", "repeat"]))
        if change == "byte":
            raw[block + data.draw(st.integers(0, BLOCK - 1))] = data.draw(st.integers(0, 255))
        elif change == "field":
            place = data.draw(st.sampled_from([100, 108, 116, 124, 136, 156, 329, 337, 386, 398, 482, 483]))
            value = data.draw(
                st.one_of(st.integers(0, 8**11).map(lambda n: b"%o\0" % n), st.integers(-(2**70), 2**70).map(lambda n: base256(n, 12)), st.binary(max_size=12))
            )
            raw[block + place : block + place + len(value)] = value
        elif change == "swap":
            other = data.draw(st.integers(0, len(raw) // BLOCK - 1)) * BLOCK
            raw[block : block + BLOCK], raw[other : other + BLOCK] = raw[other : other + BLOCK], raw[block : block + BLOCK]
        elif change == "drop" and len(raw) > 2 * BLOCK:
            del raw[block : block + BLOCK]
        else:
            raw[block:block] = raw[block : block + BLOCK]
    headers = {place for place in range(0, len(raw), BLOCK) if raw[place + 257 : place + 262] == b"ustar"}
    pipeline(with_checksums(bytes(raw), headers), data.draw(st.lists(st.integers(0, len(raw)), max_size=3)))


RANDOM_KINDS = st.sampled_from(b"0123456579xgLKSVDX\0").map(lambda kind: bytes([kind]))
SOME_NAMES = st.sampled_from(
    [b"a", b"a/b", b"a/b/c", b"b", b"./", b"/", b"a/.wh.b", b"a/.wh..wh..opq", b".wh.a", b".wh..", b"..", b"a/..", b"a/", b"b/a", b".wh..wh.x", b"", b"\xff"]
)


@settings(max_examples=300, deadline=None)
@given(
    blocks=st.lists(
        st.one_of(
            st.builds(header, SOME_NAMES, RANDOM_KINDS, st.one_of(st.integers(0, 3000), st.binary(max_size=12)), link=SOME_NAMES, uid=st.binary(max_size=8), mtime=st.binary(max_size=12),
                      major=st.binary(max_size=8), prefix=st.binary(max_size=155), at=st.dictionaries(st.just(386), st.binary(max_size=120))),
            st.builds(lambda name, kind, link: header(name, kind, link=link), SOME_NAMES, RANDOM_KINDS, SOME_NAMES),
            st.builds(extended, st.dictionaries(
                st.sampled_from([b"path", b"linkpath", b"size", b"mtime", b"uid", b"GNU.sparse.major", b"GNU.sparse.size", b"GNU.sparse.realsize", b"GNU.sparse.map", b"GNU.sparse.name",
                                 b"SCHILY.xattr.user.a", b"SCHILY.xattr.security.capability", b"SCHILY.xattr.trusted.x"]),
                st.one_of(SOME_NAMES, st.integers(0, 2**64).map(lambda n: b"%d" % n), st.binary(max_size=300), st.just(b"0,1,5,9"))), st.sampled_from([b"x", b"g"])),
            st.binary(min_size=BLOCK, max_size=BLOCK), st.just(padded(b"1\n0\n5\n")), st.builds(entry, SOME_NAMES, st.binary(max_size=900)),
        ), max_size=8,
    ), cuts=st.lists(st.integers(0, 5000), max_size=3),
)  # fmt: skip
def test_fuzz_of_blocks_that_are_nobodys_archive(blocks, cuts):
    raw = b"".join(blocks)
    pipeline(raw, [cut for cut in cuts if cut <= len(raw)])


@given(raw=st.binary(max_size=3000))
def test_garbage(raw):
    pipeline(raw, [])


# Bombs


def test_global_headers_do_not_make_every_member_slow():
    """A hundred thousand records before ten thousand members: a megabyte of zeros and ones, once compressed a kilobyte."""
    code = """
raw = extended(b"6 a=b\\n" * 170_000, b"g") + b"".join(header(b"%d" % i) for i in range(10_000)) + END
try:
    print(len(parse(raw).members))
except ImageError:
    print("ImageError")
"""
    assert bounded(code) in ("10000", "ImageError")


def test_global_attributes_do_not_fill_the_memory():
    code = """
raw = extended({b"SCHILY.xattr.user.%d" % i: b"" for i in range(9000)}, b"g") + b"".join(header(b"%d" % i) for i in range(20_000)) + END
try:
    print(bool(index_of(raw)))
except ImageError:
    print("ImageError")
"""
    assert bounded(code) in ("True", "ImageError")


@pytest.mark.parametrize("form", ["1.0", "old"])
def test_maps_of_many_pieces_are_read_once(form):
    """In pieces as they come from a decompressor: what is still incomplete is not read again with every one of them."""
    code = f"""
raw = SPARSE[{form!r}](b"s", 8**10, [(4096 * i, b"") for i in range(1, 200_000)]) + END
print(len(parse(raw, range(0, len(raw), 1 << 14)).members))
"""
    assert bounded(code, 10) == "1"


def test_a_long_header_in_small_pieces():
    code = """
raw = extended(record(b"comment", b"x" * 1_040_000)) + header() + END
print(len(parse(raw, range(0, len(raw), 512)).members))
"""
    assert bounded(code) == "1"


STREAM = """
tree = Tree()
reader = Reader(tree)
try:
    for i in range({count}):
        reader.feed({make})
    print("fits")
except ImageError:
    print("ImageError")
"""


def test_maps_of_many_sparse_files_do_not_fill_the_memory():
    """Thousands of pieces of a byte each are less than a megabyte of an archive, and more of the memory."""
    code = "one = SPARSE['1.0'](b'one-name', 1 << 30, [(4096 * i, b'x') for i in range(1 << 16)])\n" + STREAM.format(
        count=32, make="one.replace(b'one-name', b'%08d' % i, 1)"
    )
    assert bounded(code, memory=256 << 20) in ("fits", "ImageError")


def test_attributes_of_many_files_do_not_fill_the_memory():
    code = "one = extended({b'SCHILY.xattr.user.%d' % i: b'v' * 50_000 for i in range(4)})\n" + STREAM.format(count=4000, make="one + header(b'%d' % i)")
    assert bounded(code) in ("fits", "ImageError")


def test_directories_that_nobody_describes_do_not_fill_the_memory():
    """A path of a kilobyte makes five hundred of them."""
    code = STREAM.format(count=5000, make="extended({b'path': b'%06d/' % i + b'a/' * 510}) + header(b'x')")
    assert bounded(code, memory=768 << 20) in ("fits", "ImageError")


# GNU tar


def packed(directory: Path, *options: str, names: tuple[str, ...] = (".",)) -> bytes:
    options = tuple(option.replace("SNAPSHOT", f"{directory}.snapshot") for option in options)
    words = ["tar", "-c", "-f", "-", "-C", str(directory), "--sort=name", *options, *names]
    return subprocess.run(words, check=True, capture_output=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C"}).stdout


@pytest.fixture(scope="module")
def nasty(tmp_path_factory) -> Path:
    """A directory of what an ordinary user can make."""
    top = tmp_path_factory.mktemp("nasty")
    names = [b"plain", b"\xff\xfe", b"new\nline", b"n" * 255, b"d" * 120 + b"/" + b"f" * 130, b"a\\b", b"deep/" * 40 + b"end", b"x" * 99 + b"/y" * 80]
    for place, name in enumerate(names):
        path = os.path.join(os.fsencode(top), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"%d" % place * place * 300)
        os.chmod(path, [0o644, 0o4755, 0o000, 0o2711][place % 4] | 0o400)
        os.utime(path, ns=(0, 1_700_000_000_123_456_789 + place))
    os.symlink(b"t" * 300, top / "long-link")
    os.symlink("plain", top / "link")
    os.link(top / "plain", top / "plain-too")
    os.mkfifo(top / "fifo")
    with open(top / "sparse", "wb") as file:
        for where in (0, 65536, 65536 * 3, 65536 * 5, 65536 * 7 + 4096, 65536 * 9):
            file.seek(where)
            file.write(b"data" * 1024)
        file.truncate(65536 * 20 + 17)
    with open(top / "hole", "wb") as file:
        file.truncate(1 << 20)
    os.utime(top / "link", ns=(0, -1_500_000_000), follow_symlinks=False)
    return top


def expect(top: Path, raw: bytes, nanoseconds: bool) -> None:
    """That an archive holds a directory as it is."""
    found = {member.name.removeprefix(b"./").rstrip(b"/"): member for member in parse(raw).members}
    paths = {os.path.relpath(os.path.join(here, name), os.fsencode(top)) for here, below, files in os.walk(os.fsencode(top)) for name in [*below, *files]}
    assert paths == set(found) - {b"", b"."}
    links = 0
    for path in paths:
        member, real = found[path], os.path.join(os.fsencode(top), path)
        wanted = os.lstat(real)
        if member.kind == "h":
            links += 1
            assert os.path.samefile(real, os.path.join(os.fsencode(top), member.link))
            continue
        kind = {"-": 0o10, "d": 0o04, "l": 0o12, "p": 0o01}[member.kind] << 12
        assert (member.mode | kind, member.uid, member.gid) == (wanted.st_mode, wanted.st_uid, wanted.st_gid)
        assert member.mtime == (wanted.st_mtime_ns if nanoseconds else wanted.st_mtime_ns // 10**9 * 10**9)
        if member.kind == "l":
            assert member.link == os.readlink(real)
        if member.kind == "-":
            assert content(raw, member) == Path(os.fsdecode(real)).read_bytes()
    assert links == 1


SPARSE_OPTIONS = {
    "gnu": ["--format=gnu"], "pax": ["--format=pax"], "gnu sparse": ["--format=gnu", "--sparse"], "oldgnu": ["--format=oldgnu", "--sparse"],
    **{f"pax sparse {v}": ["--format=pax", "--sparse", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")},
    "raw holes": ["--format=pax", "--sparse", "--hole-detection=raw"], "label": ["--format=gnu", "--label=x"], "incremental": ["--format=gnu", "--listed-incremental=SNAPSHOT"],
    "multiple": ["--format=pax", "-b", "1"],
}  # fmt: skip


@needs_tar
@pytest.mark.parametrize("options", SPARSE_OPTIONS)
def test_gnu_tars_archives(nasty, options):
    expect(nasty, packed(nasty, *SPARSE_OPTIONS[options]), nanoseconds="pax" in SPARSE_OPTIONS[options][0])


@needs_tar
def test_gnu_tars_sparse_files_are_sparse(nasty):
    for options in SPARSE_OPTIONS.values():
        if "--sparse" in options:
            member = members(packed(nasty, *options, names=("sparse",)))[b"sparse"]
            assert member.sparse is not None and len(member.sparse) >= 6 and member.stored < 65536 < member.size
            assert members(packed(nasty, *options, names=("hole",)))[b"hole"].stored == 0


@needs_tar
@pytest.mark.parametrize("form", ["v7", "ustar"])
def test_gnu_tars_oldest_formats(tmp_path, form):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"x" * 600)
    (tmp_path / "l").symlink_to("d/f")
    os.link(tmp_path / "d/f", tmp_path / "h")
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.utime(path, (5, 5), follow_symlinks=False)
    expect(tmp_path, packed(tmp_path, f"--format={form}"), nanoseconds=True)


@needs_tar
@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_gnu_tars_owners_and_times(tmp_path, form):
    (tmp_path / "f").touch()
    for owner in (0, 2097151, 2097152, 2**31, 2**32 - 2):
        [member] = parse(packed(tmp_path, f"--format={form}", f"--owner=:{owner}", f"--group=:{owner}", "--mtime=@-86400", names=("f",))).members
        assert (member.uid, member.gid, member.mtime) == (owner, owner, -86400 * 10**9)


@needs_tar
def test_gnu_tars_attributes(tmp_path):
    path = tmp_path / "f"
    path.touch()
    wanted = {"user.plain": b"1", "user.binary": bytes(range(256)), "user.empty": b"", "user.a=b%3D": b"\n", "user.ü": b"x"}
    try:
        for name, value in wanted.items():
            os.setxattr(path, name, value)
    except OSError:
        pytest.skip("no attributes in this file system")
    [member] = parse(packed(tmp_path, "--format=pax", "--xattrs", "--xattrs-include=user.*", names=("f",))).members
    assert member.xattrs == {os.fsencode(name): value for name, value in wanted.items()}


@needs_tar
def test_gnu_tar_appends_and_concatenates(tmp_path):
    """A name that comes twice comes twice; an archive in an archive's end is read as GNU tar's ``-A`` leaves it."""
    (tmp_path / "a").write_bytes(b"1")
    archive = tmp_path / "x.tar"
    archive.write_bytes(packed(tmp_path, "--format=gnu", names=("a",)))
    (tmp_path / "a").write_bytes(b"22")
    subprocess.run(["tar", "-r", "-f", str(archive), "-C", str(tmp_path), "a"], check=True)
    other = tmp_path / "y.tar"
    other.write_bytes(packed(tmp_path, "--format=pax", names=("a",)))
    subprocess.run(["tar", "-A", "-f", str(archive), str(other)], check=True)
    raw = archive.read_bytes()
    assert [(m.name, content(raw, m)) for m in parse(raw).members] == [(b"a", b"1"), (b"a", b"22"), (b"a", b"22")]


@needs_tar
@pytest.mark.parametrize("name", corpus())
def test_gnu_tar_reads_the_same_names(name):
    """The archives of these tests are no invention: GNU tar lists the same members."""
    done = subprocess.run(
        ["tar", "-t", "-f", "-", "--quoting-style=escape"],
        input=corpus()[name],
        capture_output=True,
        check=True,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )
    ours = [m.name.rstrip(b"/") for m in parse(corpus()[name]).members]
    theirs = [line.rstrip(b"/") for line in done.stdout.split(b"\n")[:-1] if not line.startswith(b"label")]
    assert theirs == [name.replace(b"\n", b"\\n").replace(b"\xff", b"\\377") for name in ours]


def test_random_bytes_in_every_place_of_a_header():
    """A seed for what the fuzzers above may miss: every place, many values."""
    noise = random.Random(1)
    for name in ("sparse old", "pax long"):
        raw = corpus()[name]
        for place in range(min(len(raw), 4 * BLOCK)):
            changed = raw[:place] + bytes([noise.choice([0, 0x20, 0x2F, 0x30, 0x37, 0x39, 0x80, 0xFF, noise.randrange(256)])]) + raw[place + 1 :]
            begin = place // BLOCK * BLOCK
            pipeline(with_checksums(changed, {begin} if changed[begin + 257 : begin + 262] == b"ustar" else set()), [])
