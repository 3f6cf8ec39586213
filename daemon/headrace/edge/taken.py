"""Bodies of requests as they are taken in, each no longer than its endpoint allows."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

from headrace.admission import check_size
from headrace.basin import Place
from headrace.endpoints import Endpoint


async def whole_body(body: bytes | AsyncIterator[bytes], endpoint: Endpoint, place: Place | None = None) -> bytes:
    """Return all of a body, which lies at a *place*; `TooLarge` as soon as it is more than upstream takes."""
    if isinstance(body, bytes):
        return body
    whole = io.BytesIO()  # written where it stays: to join it would take as much memory once more
    async for chunk in _counted(body, endpoint):
        whole.write(chunk)
        if place is not None:
            await place.add(len(chunk))
    return whole.getvalue()


def bounded(body: bytes | AsyncIterator[bytes], endpoint: Endpoint) -> bytes | AsyncIterator[bytes]:
    """Return the body, refused as soon as it is more than upstream takes."""
    return body if isinstance(body, bytes) else _counted(body, endpoint)


async def _counted(body: AsyncIterator[bytes], endpoint: Endpoint) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in body:
        size += len(chunk)
        check_size(endpoint, size)
        yield chunk
