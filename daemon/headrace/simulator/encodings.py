"""
Content encodings of answers: gzip, Brotli and Zstandard, where the options offer them and the caller takes them.

Each part of a stream is flushed, so that an event reaches its reader at once and not when a block is full.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli  # type: ignore[import-untyped]  # it has no stubs
import zstandard
from aiohttp import web


class Encoder(Protocol):
    """One answer's encoding."""

    def encode(self, part: bytes) -> bytes:
        """Return what the reader needs to have this part."""

    def finish(self) -> bytes:
        """Return the end."""


class _Gzip:
    def __init__(self) -> None:
        self._packer = zlib.compressobj(wbits=31)

    def encode(self, part: bytes) -> bytes:
        return self._packer.compress(part) + self._packer.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._packer.flush()


class _Brotli:
    def __init__(self) -> None:
        self._packer = brotli.Compressor(quality=4)

    def encode(self, part: bytes) -> bytes:
        packed: bytes = self._packer.process(part) + self._packer.flush()
        return packed

    def finish(self) -> bytes:
        end: bytes = self._packer.finish()
        return end


class _Zstandard:
    def __init__(self) -> None:
        self._packer = zstandard.ZstdCompressor().compressobj()

    def encode(self, part: bytes) -> bytes:
        return self._packer.compress(part) + self._packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._packer.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


_ENCODERS: dict[str, type[_Gzip | _Brotli | _Zstandard]] = {"gzip": _Gzip, "br": _Brotli, "zstd": _Zstandard}


def encoder(name: str) -> Encoder | None:
    """Return a new encoder; None for the empty name."""
    return _ENCODERS[name]() if name else None


def agreed(offered: tuple[str, ...], accept_encoding: str) -> str:
    """Return the first encoding offered that the caller takes; empty if there is none."""
    if not offered or not accept_encoding:
        return ""
    items = (item.strip().partition(";") for item in accept_encoding.lower().split(","))
    taken = {name: _weight(rest) for name, _, rest in items}
    return next((name for name in offered if taken.get(name, taken.get("*", 0.0)) > 0), "")


def packed(response: web.StreamResponse, encoding: str) -> web.StreamResponse:
    """Return an answer that is ready, encoded; those under way were encoded part by part."""
    if not encoding or response.prepared or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    if not response.body or "content-encoding" in response.headers:
        return response
    packer = _ENCODERS[encoding]()
    response.body = packer.encode(response.body) + packer.finish()
    response.headers["content-encoding"] = encoding
    response.headers["vary"] = "accept-encoding"
    return response


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
