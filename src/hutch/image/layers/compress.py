"""Layers' compressions: gzip, zstd, xz, bzip2, found by their first bytes; inflated piece by piece, in bounded memory."""

from __future__ import annotations

from hutch.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

PIECE = 1 << 20
MAX_WINDOW = 128 << 20  # what zstd itself takes without being asked for more


def kind(head: bytes) -> str:
    """By the first bytes: "gzip", "zstd", "xz", "bzip2", or "" for none of them."""
    for name, magic in (("gzip", b"\x1f\x8b"), ("zstd", b"\x28\xb5\x2f\xfd"), ("xz", b"\xfd7zXZ\0"), ("bzip2", b"BZh")):
        if head.startswith(magic):
            return name
    return "zstd" if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50 else ""


class Source:
    """A stream with a look at its beginning: `read(n)` gives at most n bytes, b"" at the end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._kept = b""

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay."""
        while len(self._kept) < size:
            more = self._read(PIECE)
            if not more:
                break
            self._kept += more
        return self._kept[:size]

    def read(self, size: int = PIECE) -> bytes:
        """The next bytes."""
        if self._kept:
            out, self._kept = self._kept[:size], self._kept[size:]
            return out
        return self._read(size)


def plain(read: Callable[[int], bytes], what: str) -> Iterator[bytes]:
    """The plain bytes of a stream, in pieces of a megabyte at most. Raises ImageError for broken data."""
    source = Source(read)
    found = kind(source.peek(6))
    if not found:
        while piece := source.read(PIECE):
            yield piece
        return
    inflate = {"gzip": _gzip, "zstd": _zstd, "xz": _lzma, "bzip2": _bz2}[found]
    try:
        yield from inflate(source, what)
    except (EOFError, ValueError) as error:
        raise broken(what, error) from None
    except Exception as error:
        # the libraries' own types, which need not be imported to be known; what the disk says is not theirs
        if type(error).__name__ not in ("error", "IsalError", "ZstdError", "LZMAError", "BadGzipFile") and not (isinstance(error, OSError) and not error.errno):
            raise
        raise broken(what, error) from None


def broken(what: str, error: object) -> ImageError:
    """The error for compressed data that is damaged."""
    return ImageError(f"{what}: the compressed data is broken: {error}")


def _gzip(source: Source, what: str) -> Iterator[bytes]:
    try:
        from isal import igzip_lib
    except ImportError:  # no build of it for this machine
        yield from _standard(source, what, _Zlib, b"\x1f\x8b")
    else:
        yield from _standard(source, what, lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), b"\x1f\x8b")


class _Zlib:
    """The standard library's gzip, three times as slow, with the interface of the other decompressors."""

    def __init__(self) -> None:
        import zlib

        self._machine = zlib.decompressobj(31)
        self._rest = b""

    @property
    def eof(self) -> bool:
        return self._machine.eof

    @property
    def unused_data(self) -> bytes:
        return self._machine.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._rest and not self.eof

    def decompress(self, data: bytes, size: int) -> bytes:
        """At most `size` bytes of what the data gives."""
        out = self._machine.decompress(self._rest + data, size)
        self._rest = self._machine.unconsumed_tail
        return out


def _anything(source: Source) -> bool:
    """Whether something else than zeros follows."""
    while piece := source.read(PIECE):
        if piece.strip(b"\0"):
            return True
    return False


def _zstd(source: Source, what: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise ImageError(f"{what}: is zstd-compressed, and the zstandard package is missing", "pip install zstandard") from None
    frames = _Frames(source.read)
    reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(frames, read_size=PIECE, read_across_frames=True)  # type: ignore[arg-type]
    while piece := reader.read(PIECE):
        yield piece
    if not frames.whole:
        raise broken(what, "it ends too early")


class _Frames:
    """Where zstd's frames end (RFC 8878, section 3.1): its library does not say whether the last one was whole."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._held = b""
        self._skip = 0
        self._in_frame = self._last = self._checksum = False

    @property
    def whole(self) -> bool:
        """Whether what was read so far ends where a frame does."""
        return not (self._held or self._skip or self._in_frame)

    def read(self, size: int) -> bytes:
        """The next bytes, looked at on the way."""
        data = self._read(size)
        self._look(data)
        return data

    def _look(self, data: bytes) -> None:
        data = self._held + data
        at = 0
        while True:
            step = min(self._skip, len(data) - at)
            at, self._skip = at + step, self._skip - step
            need = 3 if self._in_frame else 8 if data[at + 1 : at + 4] == b"\x2a\x4d\x18" else 5
            if self._skip or len(data) - at < need:
                break
            if self._in_frame:
                header = int.from_bytes(data[at : at + 3], "little")
                size = 1 if header >> 1 & 3 == 1 else header >> 3  # a run is stored as one byte
                self._in_frame = not header & 1
                self._skip = 3 + size + (4 if header & 1 and self._checksum else 0)
            elif data[at + 1 : at + 4] == b"\x2a\x4d\x18":  # one that is to be skipped
                self._skip = 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            else:
                flags = data[at + 4]
                single = bool(flags & 0x20)
                size = (1 if single else 0, 2, 4, 8)[flags >> 6] + (0, 1, 2, 4)[flags & 3] + (0 if single else 1)
                self._in_frame, self._checksum = True, bool(flags & 4)
                self._skip = 5 + size
        self._held = data[at:]


def _lzma(source: Source, what: str) -> Iterator[bytes]:
    import lzma

    yield from _standard(source, what, lambda: lzma.LZMADecompressor(memlimit=256 << 20), b"\xfd7zXZ\0")


def _bz2(source: Source, what: str) -> Iterator[bytes]:
    import bz2

    yield from _standard(source, what, bz2.BZ2Decompressor, b"BZh")


def _standard(source: Source, what: str, new: Callable[[], Any], magic: bytes = b"") -> Iterator[bytes]:
    """Decompressors with the standard library's interface; files may be several streams, one behind the other."""
    machine = new()
    data = b""
    while True:
        if machine.eof:
            rest = machine.unused_data or source.read(PIECE)
            if not rest.strip(b"\0") and not _anything(source):
                return
            if not rest.startswith(magic[: len(rest)]):
                raise broken(what, "something else follows the compressed data")
            machine, data = new(), rest
        elif machine.needs_input:
            data = source.read(PIECE)
            if not data:
                raise broken(what, "it ends too early")
        piece = machine.decompress(data, PIECE)
        data = b""
        if piece:
            yield piece


def gzip_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """gzip of a stream: the same bytes for the same content, without a name or a time (RFC 1952)."""
    import zlib

    machine = zlib.compressobj(6, zlib.DEFLATED, 31)
    for piece in pieces:
        data = machine.compress(piece)
        if data:
            yield data
    yield machine.flush()
