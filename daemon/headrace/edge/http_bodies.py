"""
Reading the body of a request whole: what has arrived of it counts among all that waits, until it is all here.

A body of up to 64 KiB is not counted: so much the server holds for every connection anyway, and most bodies are that small.
"""

from __future__ import annotations

from aiohttp import web

from headrace.aside import joined
from headrace.crowd import Crowd
from headrace.errors import InvalidCall, TooLarge

_BUFFERED_BYTES = 65_536
_UNPACKED = frozenset({"gzip", "deflate", "br", "zstd"})


def is_unpacked(request: web.BaseRequest) -> bool:
    """Whether the server undoes an encoding on the way in; then neither the header nor the length holds any longer."""
    return request.headers.get("content-encoding", "").lower() in _UNPACKED


async def read(request: web.BaseRequest, crowd: Crowd, caller: str, *, most_bytes: int) -> bytes:
    """Return a request's body; raises `TooLarge`, `InvalidCall` if it breaks off, `QueueFull` if too much waits already."""
    content = request.content
    if content.is_eof() and content.exception() is None:
        return content.read_nowait()  # all of it has come with the head, as most bodies do
    try:
        return await (_read(request) if _is_small(request) else _read_counted(request, crowd, caller))
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge(f"the body is over {most_bytes:,} bytes, the most that upstream takes") from error
    except web.RequestPayloadError as error:
        raise InvalidCall("the body ended before it was whole") from error


def _is_small(request: web.BaseRequest) -> bool:
    length = request.content_length
    return length is not None and length <= _BUFFERED_BYTES and not is_unpacked(request)


async def _read(request: web.BaseRequest) -> bytes:
    # Not by `request.read`, which would hold on to the body as long as the request lasts.
    return await request.content.read()


async def _read_counted(request: web.BaseRequest, crowd: Crowd, caller: str) -> bytes:
    # Joined once: the library's own way copies what has come several times over, and holds up the loop by that.
    chunks, size = [], 0
    with crowd.waiting("reading", caller=caller) as place:
        while chunk := await request.content.readany():
            place.add(len(chunk))
            chunks.append(chunk)
            size += len(chunk)
            if size > request.client_max_size:
                raise web.HTTPRequestEntityTooLarge(max_size=request.client_max_size, actual_size=size)
        return await joined(chunks)
