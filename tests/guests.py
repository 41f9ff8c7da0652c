"""Guests for virtual machines, assembled when a test wants them."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def assemble(source: str, bits: int = 64) -> bytes:
    """Instructions (GNU as, AT&T syntax), statements apart by newlines or semicolons, that begin at address 0."""
    with tempfile.TemporaryDirectory() as place:
        text, code, flat = (Path(place) / name for name in ("guest.s", "guest.o", "guest.bin"))
        text.write_text(f".code{bits}\n.text\n.globl _start\n_start:\n{source}\n")
        subprocess.run(["as", "--64" if bits == 64 else "--32", "-o", code, text], check=True)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", code, flat], check=True)
        return flat.read_bytes()
