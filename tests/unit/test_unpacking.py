"""What comes packed, unpacked: the same, however it was cut, a piece at a time, and no more than somebody takes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import brotli
import pytest
import zstandard

from headrace.unpacking import CutOff, Mispacked, taken, unpacked, unpacker

PLAIN = bytes(range(256)) * 20_000
MOST_BYTES = 2 << 20  # of a piece: what Zstandard may make of what it is given


def bare(plain: bytes) -> bytes:
    return zlib.compress(plain)[2:-4]


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip, twice": ("gzip", lambda plain: gzip.compress(plain[:1000]) + gzip.compress(plain[1000:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without a head": ("deflate", bare),
    "br": ("br", lambda plain: brotli.compress(plain, quality=1)),
    "zstd": ("zstd", zstandard.compress),
}


async def parts(packed: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(packed), size):
        yield packed[begin : begin + size]


@pytest.mark.parametrize(("encoding", "pack"), PACKERS.values(), ids=PACKERS.keys())
@pytest.mark.parametrize("size", [997, 1 << 20])
async def test_whole(encoding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    """What was packed comes out, in whatever parts it came in."""
    assert b"".join([piece async for piece in unpacked(parts(pack(PLAIN), size), encoding)]) == PLAIN


@pytest.mark.parametrize(("encoding", "pack"), PACKERS.values(), ids=PACKERS.keys())
def test_pieces(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """However much it is, it is unpacked a piece at a time, and only as far as somebody takes it."""
    pieces = unpacker(encoding).pieces(pack(bytes(64 << 20)))
    assert all(0 < len(next(pieces)) <= MOST_BYTES for _ in range(8))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_wrong(encoding: str) -> None:
    """What is not packed as it says is said to be so."""
    with pytest.raises(Mispacked, match="is not packed as it says"):
        _ = [piece async for piece in unpacked(parts(b"x" + b"\xff" * 100, 1000), encoding)]


def test_unknown() -> None:
    """So is what is packed in a way that nobody knows here."""
    with pytest.raises(Mispacked, match="not known"):
        unpacker("compress")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_cut_off(encoding: str) -> None:
    """Half of it is not taken for all of it."""
    packed = PACKERS[encoding][1](PLAIN)[:-10]
    with pytest.raises(CutOff, match="breaks off"):
        _ = [piece async for piece in unpacked(parts(packed, 1000), encoding)]


async def test_nothing() -> None:
    """No bytes at all are nothing, however they are said to be packed."""
    for encoding, _ in PACKERS.values():
        assert [piece async for piece in unpacked(parts(b"", 1), encoding)] == []


def test_taken() -> None:
    """What an accept-encoding takes, by any spelling."""
    assert taken("x-gzip, BR ;q=0.5,deflate; q=0.000, zstd;q=0") == {"gzip", "br"}
