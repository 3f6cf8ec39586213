"""
Bodies that come packed, unpacked: by us and not by the HTTP parser, which would do it before anybody knows who asks.

Three kilobytes may be packed gigabytes. So nothing is unpacked before the caller is known, never more at once than a slice,
and never in the loop: the libraries let go of the interpreter while they work, so a thread does it, and there is one thread for
all, so that a hundred packed bodies at once hold up no more than one does. What the slices come to in all is the reader's to
bound: a slice is made only when the one before it has been taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

from aiohttp import compression_utils

from headrace.errors import InvalidCall

ENCODINGS = frozenset({"gzip", "deflate", "br", "zstd"})

_SLICE_BYTES = 1 << 20  # unpacked at once
_PACKED_BYTES = 1 << 16  # given to the library at once: it copies what it leaves, again and again
_THREAD = ThreadPoolExecutor(1, "unpack")


async def unpacked(packed: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Yield a body in the clear; raises `InvalidCall` for what is not packed so, or breaks off."""
    unpacker, loop = Unpacker(encoding), asyncio.get_running_loop()
    async for chunk in packed:
        slices = unpacker.slices(chunk)
        while piece := await loop.run_in_executor(_THREAD, next, slices, b""):
            yield piece
    unpacker.end()


class Unpacker:
    """
    Unpacks one body.

    Args:
        encoding: one of `ENCODINGS`; raises `InvalidCall` where its library is not installed.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._began = False
        self._library = _library(encoding)

    def __repr__(self) -> str:
        return f"<Unpacker {self._encoding} [{'begun' if self._began else 'new'}]>"

    def slices(self, packed: bytes) -> Iterator[bytes]:
        """Yield what the next packed bytes hold, a slice at a time; raises `InvalidCall`."""
        if not self._began and packed:
            self._began = True
            if self._encoding == "deflate" and packed[0] & 0xF != 8:  # without zlib's head, as many send it
                self._library = compression_utils.ZLibDecompressor("deflate", suppress_deflate_header=True)
        for begin in range(0, len(packed), _PACKED_BYTES):
            yield from self._slices(packed[begin : begin + _PACKED_BYTES])

    def _slices(self, packed: bytes) -> Iterator[bytes]:
        while packed or self._library.data_available:
            try:
                piece = self._library.decompress_sync(packed, _SLICE_BYTES)
            except Exception as error:  # each library has its own
                raise self._wrong("is not packed as its content-encoding says") from error
            packed = b""
            if not piece:
                return
            yield piece

    def end(self) -> None:
        """Raise `InvalidCall` if the body breaks off, as far as the encoding tells."""
        if self._began and self._encoding == "deflate" and not getattr(self._library, "eof", True):
            raise self._wrong("breaks off")

    def _wrong(self, what: str) -> InvalidCall:
        return InvalidCall(f"the body {what} ({self._encoding})")


def _library(encoding: str) -> compression_utils.DecompressionBaseHandler:
    try:
        if encoding == "br":
            return compression_utils.BrotliDecompressor()
        return compression_utils.ZSTDDecompressor() if encoding == "zstd" else compression_utils.ZLibDecompressor(encoding)
    except RuntimeError as error:
        raise InvalidCall(
            f"the body is packed in a way that is not known here ({encoding}): send it in another, or plain"
        ) from error
