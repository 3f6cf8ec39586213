"""
Reading the body of a request: what has arrived of it counts among all that waits, until it is all here.

A body of up to 64 KiB is not counted: so much the server holds for every connection anyway, and most bodies are that small.
One that comes packed counts as it is unpacked, which begins when somebody reads it: so only for callers who are known by then.
It is unpacked by us, and not by the HTTP parser, which would do it before; and by one thread for all, so that a hundred packed
bodies at once hold up no more than one does.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from headrace.basin import LIGHT_BYTES, Place
from headrace.crowd import Crowd
from headrace.errors import InvalidCall, TooLarge
from headrace.unpacking import ENCODINGS, Mispacked, unpacked

_THREAD = ThreadPoolExecutor(1, "unpack")


class Stalled(web.RequestPayloadError):
    """A body of which nothing more came in time."""


def packing(request: web.BaseRequest) -> str:
    """Return how a body is packed that is unpacked here, or "". Neither the header nor the length holds any longer then."""
    if (named := request.headers.get("content-encoding")) is None:
        return ""
    return encoding if (encoding := named.lower()) in ENCODINGS else ""


def come(request: web.BaseRequest) -> bytes | None:
    """Return a body that has come with the head, as most do; None if it is to be `read`."""
    content = request.content
    if content.is_eof() and content.exception() is None and not packing(request):
        return content.read_nowait()
    return None


async def read(request: web.BaseRequest, crowd: Crowd, place: Place, *, most_bytes: int) -> bytes:
    """
    Return a request's body; raises `TooLarge`, `InvalidCall` if it breaks off, `QueueFull` if too much waits already.

    *place* is where it lies from then on.
    """
    if _is_small(request) and not packing(request):
        return b"".join([chunk async for chunk in _raw(request)])
    return await _read_counted(request, crowd, place, most_bytes)


def chunks(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """Return a request's body as it comes, in the clear; raises `InvalidCall` if it breaks off."""
    encoding = packing(request)
    return _unpacked(_raw(request), encoding) if encoding else _raw(request)


async def _unpacked(packed: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    try:
        async for piece in unpacked(packed, encoding, _THREAD):
            yield piece
    except Mispacked as error:
        raise InvalidCall(f"the body {error} (content-encoding: {encoding})") from error


def _is_small(request: web.BaseRequest) -> bool:
    length = request.content_length
    return length is not None and length <= LIGHT_BYTES


async def _raw(request: web.BaseRequest) -> AsyncIterator[bytes]:
    # Not by `request.read`, which would hold on to the body as long as the request lasts.
    try:
        while chunk := await request.content.readany():
            yield chunk
    except Stalled as error:
        raise InvalidCall("the body fell silent before it was whole") from error
    except web.RequestPayloadError as error:
        raise InvalidCall("the body ended before it was whole") from error


async def _read_counted(request: web.BaseRequest, crowd: Crowd, place: Place, most_bytes: int) -> bytes:
    # Written where it stays: to join pieces takes as much memory once more, and the library's own way copies what has come
    # several times over. Nothing is read while `add` waits, so the server stops reading the socket, too.
    whole, size = io.BytesIO(), 0
    with crowd.waiting("reading", caller=place.caller) as waiting:
        async for piece in chunks(request):
            size += len(piece)
            if size > most_bytes:
                raise TooLarge(f"the body is over {most_bytes:,} bytes, the most that upstream takes")
            waiting.add(len(piece))
            whole.write(piece)
            await place.add(len(piece))
        place.fill()
        return whole.getvalue()
