"""Fuzz by coverage: ``python -m tests.fuzz TARGET [libFuzzer's options]``, e.g. ``-max_total_time=60``. Needs atheris."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
import zlib

import atheris

with atheris.instrument_imports(include=["hutch.image"]):
    from tests.fuzz.targets import TARGETS, _index

NAMES = ["etc/passwd", "etc/.wh.old", "srv/.wh..wh..opq", "a" * 80 + "/deep", "link", "etc/again", "dev/null", "link/../../in/it"]


def seeds(count: int = len(NAMES)) -> list[bytes]:
    """Archives to begin with, in each format, with members of each type; the last of `NAMES` are hostile."""
    found = []
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=format) as archive:
            for number, name in enumerate(NAMES[:count]):
                info = tarfile.TarInfo(name)
                info.type = (
                    tarfile.REGTYPE,
                    tarfile.REGTYPE,
                    tarfile.REGTYPE,
                    tarfile.DIRTYPE,
                    tarfile.SYMTYPE,
                    tarfile.LNKTYPE,
                    tarfile.CHRTYPE,
                    tarfile.FIFOTYPE,
                )[number]
                info.linkname = "../outside" if info.type == tarfile.SYMTYPE else "etc/passwd" if info.type == tarfile.LNKTYPE else ""
                if info.type == tarfile.REGTYPE:
                    info.size = 3
                if format == tarfile.PAX_FORMAT:
                    info.pax_headers = {"SCHILY.xattr.user.a": "b", "mtime": "1.5"}
                archive.addfile(info, io.BytesIO(b"abc"))
        found.append(out.getvalue())
    return found


def main() -> None:
    target = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="hutch-fuzz-") as corpus:
        archives = seeds()
        begin = {
            "erofs": [index for raw in seeds(7) if isinstance(index := _index(raw, 1 << 20), bytes)],
            "inflate": [zlib.compress(raw, wbits=31) for raw in archives],
            "documents": [b'{"schemaVersion":2,"mediaType":"x","config":{},"layers":[{}]}', b"localhost:5000/a/b:c@sha256:" + b"0" * 64],
        }.get(target, archives)
        assert begin, "nothing to begin with"
        for number, data in enumerate(begin):
            with open(os.path.join(corpus, str(number)), "wb") as file:
                file.write(data)
        # what it finds goes where it is looked for, and its corpus goes with it
        atheris.Setup(["fuzz", "-max_len=16384", "-timeout=20", "-print_final_stats=1", *sys.argv[2:], corpus], TARGETS[target])
        atheris.Fuzz()


main()
