"""Packed bodies: whatever they are packed in, a slice at a time, and no more than somebody takes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import brotli
import pytest

from headrace.bodies.unpack import Unpacker, unpacked
from headrace.errors import InvalidCall

PLAIN = bytes(range(256)) * 20_000
MOST_BYTES = 4 << 20  # of a slice: what the libraries give for a mebibyte that was asked for


def bare(plain: bytes) -> bytes:
    return zlib.compress(plain)[2:-4]


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip, twice": ("gzip", lambda plain: gzip.compress(plain[:1000]) + gzip.compress(plain[1000:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without a head": ("deflate", bare),
    "br": ("br", lambda plain: brotli.compress(plain, quality=1)),
}


async def pieces(packed: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(packed), size):
        yield packed[begin : begin + size]


@pytest.mark.parametrize(("encoding", "pack"), PACKERS.values(), ids=PACKERS.keys())
@pytest.mark.parametrize("size", [997, 1 << 20])
async def test_whole(encoding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    """What was packed comes out, in whatever pieces it came in."""
    assert b"".join([piece async for piece in unpacked(pieces(pack(PLAIN), size), encoding)]) == PLAIN


@pytest.mark.parametrize(("encoding", "pack"), PACKERS.values(), ids=PACKERS.keys())
def test_slices(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """However much it is, it is unpacked a slice at a time, and only as far as somebody takes it."""
    unpacker = Unpacker(encoding)
    slices = unpacker.slices(pack(bytes(64 << 20)))
    assert all(0 < len(next(slices)) <= MOST_BYTES for _ in range(8))
    assert repr(unpacker) == f"<Unpacker {encoding} [begun]>"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
async def test_wrong(encoding: str) -> None:
    """What is not packed as it says is the caller's mistake."""
    with pytest.raises(InvalidCall, match="is not packed as its content-encoding says"):
        _ = [piece async for piece in unpacked(pieces(b"x" + b"\xff" * 100, 1000), encoding)]


async def test_cut_off() -> None:
    """Half of it is not taken for all of it."""
    with pytest.raises(InvalidCall, match="breaks off"):
        _ = [piece async for piece in unpacked(pieces(zlib.compress(PLAIN)[:-10], 1000), "deflate")]
