"""
A call to the API as a door hands it over, whatever the door: the same for the HTTP edge, for `ApiService.Call` and for the typed
services, which are conveniences over it.

    async with exchange.open(Request("GET", "/v1/models", caller=caller)) as response:
        ...  # response.status, response.headers, response.origin
        whole = await response.read()

What the endpoint's row in `endpoints.py` says decides the way: along the flow (cache, flights, schedule, retries, tickets), or
past it, as a stream in both directions that is still held to limits and tried again where that is safe.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from headrace.model import Caller, Source


@dataclass(slots=True)
class Request:
    """
    What is asked.

    Args:
        method, target: as HTTP has them; the target is path and query, "/v1/models?limit=2".
        headers: in their order, lower-case names; what must not travel on is left out on the way.
        body: whole, or as it comes.
        length: of a body that comes in pieces, in bytes; None if nobody knows.
        timeout_s: how long the caller will wait; None if it did not say.
        credential: "x-api-key:..." or "bearer:..." where callers' own keys go upstream.
    """

    method: str
    target: str
    caller: Caller
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | AsyncIterator[bytes] = field(default=b"", repr=False)
    length: int | None = None
    timeout_s: float | None = None
    credential: str = field(default="", repr=False)


@dataclass(slots=True)
class Response:
    """
    What comes back; good while its context is open. The status is under 400: errors are raised.

    Args:
        headers: lower-case names, ready to be sent on; ours (`x-headrace-source`, `cache-status`, ...) included.
        chunks: the body as it comes, spelled as `content-encoding` in the headers says.
    """

    status: int
    headers: list[tuple[str, str]]
    chunks: AsyncIterator[bytes]
    source: Source = Source.UPSTREAM
    attempts: int = 1
    age_s: float = 0.0
    ticket: str = ""
    cache_status: str = ""
    request_id: str = ""

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([chunk async for chunk in self.chunks])


class Exchange:
    """The way of every call that is not a hit of the very bytes."""

    @contextlib.asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Response]:
        """
        Answer a request. Leaving early gives it up.

        Raises a `Refusal` (ours, to this caller) or an `UpstreamError` with upstream's status, body and headers.
        """
        raise NotImplementedError
        yield
