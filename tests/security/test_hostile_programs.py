"""Programs of an image that the executor looks into: ELF headers and first lines, by hand and at random."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import time
from pathlib import Path

import pytest

import hutch
from hutch.errors import HutchError
from tests.conformance import runtime as rt
from tests.conftest import HUTCH
from tests.security import attack, test_oci_tools as tools

pytestmark = pytest.mark.root
place, boxes = tools.place, tools.boxes
ALL = 2**64


def elf(
    *,
    offset: int = 64,
    size: int = 56,
    count: int = 1,
    interpreter: bytes = b"/no/linker.so",
    where: int = 120,
    kind: int = 3,
) -> bytes:
    """A program with one header, of an interpreter."""
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        62,
        1,
        0x400000,
        offset,
        0,
        0,
        64,
        size,
        count,
        0,
        0,
        0,
    )
    length = len(interpreter) + 1
    return head + struct.pack("<IIQQQQQQ", kind, 4, where, 0x400000, 0, length, length, 1) + interpreter


PROGRAMS = {
    **{f"headers at {ALL - n:#x}": elf(offset=ALL - n) for n in (1, 8, 16, 24, 32, 39, 40, 41, 56, 4096)},
    **{
        f"headers from {ALL - back:#x} on, of {size} bytes": elf(offset=ALL - back, size=size, count=65535)
        for back, size in ((40, 1), (1 << 16, 40), (100, 100))
    },
    "headers behind the end": elf(offset=4096),
    "headers at the end": elf(offset=132),
    "headers of no size": elf(size=0, count=65535),
    "the largest headers": elf(size=65535, count=65535),
    "an interpreter behind the end": elf(where=10_000),
    "an interpreter far away": elf(where=ALL - 1),
    "an interpreter without an end": elf(interpreter=b"/" + b"x" * 8000),
    "an interpreter of control characters": elf(interpreter=b"/\x1b]0;gotcha\x07\x1b[2J\r\nhutch: fine"),
    "an interpreter that is empty": elf(interpreter=b""),
    "the head alone": elf()[:64],
    "half a head": elf()[:40],
    "32 bits": b"\x7fELF\x01" + elf()[5:],
    "another byte order": b"\x7fELF\x02\x02" + elf()[6:],
    "a first line without an end": b"#!" + b"/" + b"y" * 8000,
    "a first line of blanks": b"#!" + b" \t" * 4000,
    "a first line of nothing": b"#!\n",
    "a first line of control characters": b"#!/\x1b]0;gotcha\x07\x1b[31m\x9b2J\n",
    "a first line in other words": "#!/\u202egnp.exe\n".encode() + b"\xff\xfe\n",
    "a script of itself": b"#!/program\n",
    "a script of a directory": b"#!/etc\n",
    "a script of a device": b"#!/dev/null\n",
    "a script of a descriptor": b"#!/proc/self/fd/3\n",
    "nothing": b"",
    "two bytes": b"#!",
    "three bytes": b"\x7fEL",
}


def put(root: Path, content: bytes) -> None:
    path = root / "program"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)


def plain(text: str) -> bool:
    """No character that a terminal would act upon."""
    codes = [ord(c) for c in text if c not in "\n\t"]
    return not any(code < 32 or 127 <= code < 160 or 0x202A <= code <= 0x202E for code in codes)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_made_to_be_looked_into(boxes, busybox_root, name):
    """The error names the program, in words that a terminal can show; what runs the program is not hurt."""
    box = boxes(rt.shell("sleep 100"))
    for root in (busybox_root, box.rootfs):
        put(root, PROGRAMS[name])
    done = subprocess.run(
        [*HUTCH, "run", str(busybox_root), "/program"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=30,
    )
    said = [done.stderr.decode(errors="surrogateescape")]
    assert done.returncode not in (0, -11)
    said.append(box.up().exec("/program").failed().err)
    box.delete("--force").ok()
    box.data["process"]["args"] = ["/program"]
    box.write(box.data)
    said.append(box.run().failed().err)
    for text in said:
        assert "/program" in text and len(text) < 6000, text
        assert "Traceback" not in text and plain(text), repr(text)


def changed(generator: random.Random, content: bytes) -> bytes:
    """A program with some bytes that are others, and another length."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 8, 32))):
        at = generator.randrange(min(len(data), 128) if generator.random() < 0.8 else len(data))
        width = generator.choice((1, 2, 4, 8))
        value = generator.choice(
            (
                0,
                1,
                0x7F,
                0xFF,
                2 ** (8 * width) - 1,
                2 ** (8 * width - 1),
                generator.getrandbits(8 * width),
                len(data),
            )
        )
        data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    if generator.random() < 0.2:
        del data[generator.randrange(len(data)) :]
    return bytes(data)


@pytest.mark.parametrize("kind", ["elf", "true program", "first line"])
def test_programs_at_random(busybox_root, kind):
    """A hundred of each: every one starts, or fails to with a sentence; and the next container starts."""
    rounds = int(os.environ.get("HUTCH_TEST_PROGRAMS", "0"))
    generator = random.Random(time.time_ns() if rounds else kind)
    origin = {
        "elf": elf(interpreter=b"/bin/sh"),
        "true program": Path(tools.program("true")).read_bytes(),
        "first line": b"#!/bin/echo -n\nexit 3\n",
    }[kind]
    for attempt in range(rounds or 100):
        content = changed(generator, origin)
        put(busybox_root, content)
        try:
            result = hutch.run(str(busybox_root), ["/program"], timeout=3, pids=16, memory="64m")
        except HutchError as error:
            raise AssertionError((attempt, content[:160], error)) from error
        assert result.outcome in ("exited", "signalled", "failed-to-start", "timeout", "out-of-memory"), (
            attempt,
            content[:160],
            result,
        )
        if result.outcome == "failed-to-start":
            text = str(result.error)
            assert "/program" in text and plain(text) and "executor" not in text, (
                attempt,
                content[:160],
                text,
            )
    put(busybox_root, b"#!/bin/sh\nexit 7\n")
    assert hutch.run(str(busybox_root), ["/program"]).exit_code == 7
    assert attack.until(lambda: hutch.run(str(busybox_root), ["ps"]).ok, 5)


NAMES = {
    "escape": "/\x1b]0;gotcha\x07\x1b[2J",
    "c1": "/\x9b2J",
    "newline": "/a\nhutch: fine",
    "direction": "/\u202egnp.exe",
    "bytes": "/\udcff\udcfe",
}


@pytest.mark.parametrize("name", NAMES)
def test_programs_whose_names_a_terminal_would_obey(boxes, busybox_root, name):
    """The name is a bundle's or an image's word, and comes into the error: as text that can be shown."""
    box = boxes(rt.config(NAMES[name]))
    said = [box.run().failed().err]
    box.data["process"]["args"] = ["sleep", "100"]
    box.write(box.data)
    said.append(box.up().exec(NAMES[name]).failed().err)
    line = [*HUTCH, "run", str(busybox_root), NAMES[name]]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30)
    said.append(done.stderr.decode(errors="surrogateescape"))
    assert all("Traceback" not in text and plain(text) for text in said), said
