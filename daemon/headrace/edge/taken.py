"""Bodies of requests as they are taken in, each no longer than its endpoint allows."""

from __future__ import annotations

from collections.abc import AsyncIterator

from headrace.admission import check_size
from headrace.aside import joined
from headrace.endpoints import Endpoint


async def whole_body(body: bytes | AsyncIterator[bytes], endpoint: Endpoint) -> bytes:
    """Return all of a body; `TooLarge` as soon as it is more than upstream takes."""
    if isinstance(body, bytes):
        return body
    return await joined([chunk async for chunk in _counted(body, endpoint)])


def bounded(body: bytes | AsyncIterator[bytes], endpoint: Endpoint) -> bytes | AsyncIterator[bytes]:
    """Return the body, refused as soon as it is more than upstream takes."""
    return body if isinstance(body, bytes) else _counted(body, endpoint)


async def _counted(body: AsyncIterator[bytes], endpoint: Endpoint) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in body:
        size += len(chunk)
        check_size(endpoint, size)
        yield chunk
