"""What upstream packs, unpacked: the same, however it is cut; no piece beyond the bound; nothing that was not asked for."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
import zlib

import brotli
import pytest
import zstandard

from headrace.upstream.network import DecodingError
from headrace.upstream.unpacking import unpacked

ALL = "gzip, deflate, br, zstd"
SAID = random.Random(1).randbytes(300_000) + b"\0" * 700_000 + b"the end"


def raw_deflate(said: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(said) + packer.flush()


PACKED = {
    "gzip": gzip.compress,
    "x-gzip": lambda said: gzip.compress(said[:1000]) + gzip.compress(said[1000:]) + b"\0" * 20,
    "deflate": zlib.compress,
    " deflate": raw_deflate,
    "br": lambda said: brotli.compress(said, quality=3),
    "zstd": lambda said: zstandard.compress(said[:1000]) + zstandard.compress(said[1000:]),
}


async def parts(body: bytes, size: int):
    for begin in range(0, len(body), size):
        yield body[begin : begin + size]


@pytest.mark.parametrize("size", [37, 4096, 10**9])
@pytest.mark.parametrize("name", PACKED)
async def test_the_same(name: str, size: int) -> None:
    pieces = [piece async for piece in unpacked(parts(PACKED[name](SAID), size), name, ALL)]
    assert b"".join(pieces) == SAID
    assert max(map(len, pieces)) <= 2 << 20


def bomb_of(packer, flush, gigabytes: float) -> bytes:
    zeros = bytes(1 << 20)
    return b"".join([packer(zeros) for _ in range(int(gigabytes * 1024))]) + flush()


def bombs() -> dict[str, bytes]:
    of_gzip, of_brotli = zlib.compressobj(9, wbits=31), brotli.Compressor(quality=5, lgwin=24)
    of_zstd = zstandard.ZstdCompressor().compressobj()
    return {
        "gzip": bomb_of(of_gzip.compress, of_gzip.flush, 0.3),
        "br": bomb_of(of_brotli.process, of_brotli.finish, 2),
        "zstd": bomb_of(of_zstd.compress, of_zstd.flush, 0.5),
    }


class Stalls:
    """How long the loop stood still at most."""

    longest_s = 0.0

    async def __aenter__(self):
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()

    async def _look(self):
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest_s = max(self.longest_s, time.perf_counter() - began - 0.001)


async def test_a_bomb() -> None:
    """Of gigabytes that are packed in kilobytes a reader has small pieces, each soon, and may stop at any of them."""
    for name, bomb in bombs().items():
        stream, had = unpacked(parts(bomb, 1 << 16), name, ALL), 0
        async with Stalls() as stalls:
            while had < 64 << 20:
                piece = await anext(stream)
                assert len(piece) <= 4 << 20, name
                had += len(piece)
        await stream.aclose()
        assert stalls.longest_s < 0.05, name


@pytest.mark.parametrize(
    ("encoding", "asked"),
    [
        ("br", "gzip"), ("gzip", "identity"), ("gzip", ""), ("gzip", "gzip;q=0"), ("gzip", "br, gzip;q=0.0"),
        ("gzip, gzip", "gzip"), ("compress", "compress"), ("of-tomorrow", "of-tomorrow"), ("br", "brr"), ("", "gzip"),
    ],
)  # fmt: skip
async def test_not_asked_for(encoding: str, asked: str) -> None:
    with pytest.raises(DecodingError):
        await anext(unpacked(parts(b"x", 1), encoding, asked))


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("body", [b"\xff" * 100, b"\x1f\x8b" + b"\xff" * 400])
async def test_not_packed_so(name: str, body: bytes) -> None:
    with pytest.raises(DecodingError):
        async for _ in unpacked(parts(body, 100), name, ALL):
            pass


async def test_asked_so() -> None:
    for asked in ("gzip", "x-gzip", "br;q=1.0, GZIP;q=0.5", "br, gzip ; q=1"):
        assert [piece async for piece in unpacked(parts(gzip.compress(b"x"), 99), "gzip", asked)] == [b"x"]


async def test_cut_off() -> None:
    """What breaks off is as much as came of it: whoever reads it sees that it is not whole."""
    packed = gzip.compress(SAID)[:-20]
    assert SAID.startswith(b"".join([piece async for piece in unpacked(parts(packed, 99), "gzip", "gzip")]))
