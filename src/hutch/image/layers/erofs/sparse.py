"""How the pieces of a sparse file become chunks of an EROFS index."""

from __future__ import annotations

from hutch.image.layers.erofs.format import BLOCK, BLOCK_BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.image.layers.tree import Node

MAX_CHUNKS = 1 << 22  # of one sparse file; the chunks grow where that is too few


def joined(pieces: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Pieces that touch each other as one: they lie one behind the other in the archive, too."""
    out: list[tuple[int, int]] = []
    for offset, length in pieces:
        if out and sum(out[-1]) == offset:
            out[-1] = (out[-1][0], out[-1][1] + length)
        else:
            out.append((offset, length))
    return out


def chunk_bits(node: Node, pieces: list[tuple[int, int]]) -> tuple[int, bool]:
    """The size of a sparse file's chunks as a power of two of blocks, and whether they can lie in the tar."""
    bits = 31
    stored = node.offset
    aligned = True
    for offset, length in pieces:
        # a chunk is read up to its end: a piece may end inside one only where the file ends
        for value in (offset, length if offset + length < node.size else 0):
            if value % BLOCK:
                aligned = False
            elif value:
                bits = min(bits, (value & -value).bit_length() - 1 - BLOCK_BITS)
        aligned = aligned and stored % BLOCK == 0
        stored += length
    least = max((node.size // MAX_CHUNKS).bit_length() - BLOCK_BITS, 0)
    if not aligned or bits < least:
        return max(least, 3), False
    return min(bits, max((node.size - 1).bit_length() - BLOCK_BITS, 0)), True
