"""
Answers that come packed, unpacked in bounded pieces: three kilobytes may be packed gigabytes.

What was asked for is what is unpacked, in one layer. Whoever packs in another way, or twice, was not asked to, and is
refused. A piece is made only when the one before it has been taken, so a reader that has had enough stops the rest, and others
have their turn between two pieces. Those that may take long for one (Brotli fills its window first) do it in a thread, and let
go of the interpreter.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator

import brotli  # type: ignore[import-untyped]  # it has no stubs
import zstandard

from headrace.upstream.network import DecodingError

_PIECE_BYTES = 1 << 18
# Given to the library at once. Zstandard's has no bound for what it makes of it: four bytes are a block of 128 KB at most.
_TAKEN_BYTES = 1 << 14
_ZSTD_TAKEN_BYTES = 32


async def unpacked(packed: AsyncIterator[bytes], encoding: str, asked: str) -> AsyncIterator[bytes]:
    """
    Yield the pieces of a body less its encoding.

    Args:
        encoding: as the answer names it, lower-case.
        asked: the `accept-encoding` of the request.

    Raises `DecodingError` for an encoding that was not asked for, and for what is not packed so, or breaks off.
    """
    name = encoding.strip().removeprefix("x-")  # "x-gzip" is "gzip": RFC 9110, 8.4.1.3
    if name not in _UNPACKERS or name not in _asked(asked):
        raise DecodingError("the answer is packed in a way that was not asked for")
    unpacker = _UNPACKERS[name]()
    is_first = True  # most answers are one piece
    async for chunk in packed:
        try:
            pieces = unpacker.pieces(chunk)
            while piece := await _next(pieces, in_thread=unpacker.is_slow or not is_first):
                is_first = False
                yield piece
        except (zlib.error, brotli.error, zstandard.ZstdError, EOFError) as error:
            raise DecodingError("the answer is not packed as it says") from error


async def _next(pieces: Iterator[bytes], *, in_thread: bool) -> bytes:
    return await asyncio.to_thread(next, pieces, b"") if in_thread else next(pieces, b"")


def _asked(accept_encoding: str) -> frozenset[str]:
    # RFC 9110, 12.5.3, without its star, which no library of ours says.
    parts = (part.replace(" ", "").partition(";") for part in accept_encoding.lower().split(","))
    return frozenset(
        name.removeprefix("x-") for name, _, weight in parts if weight.removeprefix("q=").strip("0.") or not weight
    )


class _Zlib:
    # gzip, and deflate with zlib's head or without it, as many send it.
    is_slow = False

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._library = zlib.decompressobj(wbits)
        self._began = False

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        if not self._began and chunk:
            self._began = True
            if self._wbits == zlib.MAX_WBITS and chunk[0] & 0xF != 8:
                self._library = zlib.decompressobj(-zlib.MAX_WBITS)
        for begin in range(0, len(chunk), _TAKEN_BYTES):
            yield from self._pieces(chunk[begin : begin + _TAKEN_BYTES])

    def _pieces(self, part: bytes) -> Iterator[bytes]:
        # A full piece may leave more inside the library, of which nothing but the next call tells.
        piece = b""
        while part or len(piece) == _PIECE_BYTES:
            if self._library.eof:
                if self._wbits <= zlib.MAX_WBITS or not part.strip(b"\0"):
                    return
                self._library = zlib.decompressobj(self._wbits)  # gzip: one after the other are one body
            piece = self._library.decompress(part, _PIECE_BYTES)
            part = self._library.unconsumed_tail or self._library.unused_data
            if piece:
                yield piece


class _Brotli:
    is_slow = True

    def __init__(self) -> None:
        self._library = brotli.Decompressor()

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        while True:
            piece = self._library.process(chunk, output_buffer_limit=_PIECE_BYTES)
            chunk = b""
            if piece:
                yield piece
            if len(piece) < _PIECE_BYTES:  # `can_accept_more_data` and `is_finished` are true too early
                return


class _Zstandard:
    is_slow = True

    def __init__(self) -> None:
        self._make = zstandard.ZstdDecompressor(max_window_size=1 << 23).decompressobj
        self._library = self._make()

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        for begin in range(0, len(chunk), _ZSTD_TAKEN_BYTES):
            part = chunk[begin : begin + _ZSTD_TAKEN_BYTES]
            while part:
                if self._library.eof:
                    self._library = self._make()
                if piece := self._library.decompress(part):
                    yield piece
                part = self._library.unused_data if self._library.eof else b""


_UNPACKERS: dict[str, Callable[[], _Zlib | _Brotli | _Zstandard]] = {
    "gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
    "br": _Brotli,
    "zstd": _Zstandard,
}
