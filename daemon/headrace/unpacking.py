"""
Bodies that come packed, from whoever it may be, unpacked in bounded pieces: three kilobytes may be packed gigabytes.

A piece is made only when the one before it has been taken, so a reader that has had enough stops the rest, and others have
their turn between two pieces. The first piece is most often all there is, and is made at once; whatever comes after it is made
in a thread, and so is the first where one may take long (Brotli fills its window first): the libraries let go of the
interpreter while they work.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]  # it has no stubs
import zstandard

_PIECE_BYTES = 1 << 18
# Given to the library at once. Zstandard's has no bound for what it makes of it: four bytes are a block of 128 KB at most.
_TAKEN_BYTES = 1 << 14
_ZSTD_TAKEN_BYTES = 32


class Mispacked(ValueError):
    """What is not packed as it is said to be."""


class CutOff(Mispacked):
    """What breaks off, as far as the encoding tells."""


class Unpacker(Protocol):
    """Unpacks one body; `is_slow` says whether one piece may take long."""

    is_slow: bool

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next packed bytes hold, a piece at a time; raises `Mispacked`."""

    def end(self) -> None:
        """Raise `CutOff` if this cannot be all."""


def name_of(encoding: str) -> str:
    """Return an encoding as it is called here: "x-gzip" is "gzip" (RFC 9110, 8.4.1.3)."""
    return encoding.strip().lower().removeprefix("x-")


def taken(accept_encoding: str) -> frozenset[str]:
    """Return the encodings that an `accept-encoding` takes: RFC 9110, 12.5.3, less its star, which no library of ours says."""
    parts = (part.replace(" ", "").partition(";") for part in accept_encoding.lower().split(","))
    return frozenset(name_of(name) for name, _, weight in parts if weight.removeprefix("q=").strip("0.") or not weight)


def unpacker(encoding: str) -> Unpacker:
    """Return what unpacks one of the `ENCODINGS`; `Mispacked` for any other."""
    if encoding not in ENCODINGS:
        raise Mispacked("is packed in a way that is not known here")
    if encoding == "br":
        return _Brotli()
    return _Zstandard() if encoding == "zstd" else _Zlib(_WBITS[encoding])


async def unpacked(packed: AsyncIterator[bytes], encoding: str, thread: Executor | None = None) -> AsyncIterator[bytes]:
    """
    Yield the pieces of a body less its encoding; raises `Mispacked`.

    Args:
        thread: what runs the threads; None for the loop's own.
    """
    library, loop = unpacker(encoding), asyncio.get_running_loop()
    is_at_once = not library.is_slow
    async for chunk in packed:
        pieces = library.pieces(chunk)
        while piece := next(pieces, b"") if is_at_once else await loop.run_in_executor(thread, next, pieces, b""):
            is_at_once = False
            yield piece
    library.end()


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
            try:
                piece = self._library.decompress(part, _PIECE_BYTES)
            except zlib.error as error:
                raise _wrong() from error
            part = self._library.unconsumed_tail or self._library.unused_data
            if piece:
                yield piece

    def end(self) -> None:
        if self._began and not self._library.eof:
            raise CutOff("breaks off")


class _Brotli:
    is_slow = True

    def __init__(self) -> None:
        self._library = brotli.Decompressor()

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        while True:
            try:
                piece = self._library.process(chunk, output_buffer_limit=_PIECE_BYTES)
            except brotli.error as error:
                raise _wrong() from error
            chunk = b""
            if piece:
                yield piece
            if len(piece) < _PIECE_BYTES:  # `can_accept_more_data` and `is_finished` are true too early
                return

    def end(self) -> None:
        """It does not tell."""


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
                try:
                    piece = self._library.decompress(part)
                except (zstandard.ZstdError, EOFError) as error:
                    raise _wrong() from error
                if piece:
                    yield piece
                part = self._library.unused_data if self._library.eof else b""

    def end(self) -> None:
        """It does not tell."""


def _wrong() -> Mispacked:
    return Mispacked("is not packed as it says")


_WBITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS: Final = frozenset({*_WBITS, "br", "zstd"})
