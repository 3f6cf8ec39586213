"""
What a door asks of the exchange, and what it is given: a call to the API and its response, whatever the door.

    Request("GET", "/v1/models", caller=caller)
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from multidict import CIMultiDict, MultiMapping

from headrace import endpoints
from headrace.basin import Place
from headrace.endpoints import Endpoint
from headrace.errors import InvalidCall
from headrace.model import Caller, Reply
from headrace.trace import Trace
from headrace.trail import Trail
from headrace.trail import new_id as new_call_id

HeaderMap = MultiMapping[str]

# Not OPTIONS: it asks which pages may call, and of that upstream knows nothing.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


@dataclass(slots=True)
class Request:
    """
    What is asked.

    Args:
        method, target: as HTTP has them; the target is path and query, "/v1/models?limit=2".
        headers: in their order, lower-case names; what must not travel on is left out on the way.
        body: whole, or as it comes.
        length: of a body that comes in pieces, in bytes; None if nobody knows.
        timeout_s: how long the caller will wait by its RPC; None if there is no such bound.
        edge: the door, "http" or "grpc".
        credential: "x-api-key:..." or "bearer:..." where callers' own keys go upstream.
        id: of the call.
        trace: where the call is in its caller's trace, where something beside the headers says it: metadata.
        place: where the body lies in the basin; given up once it is known what it asks.
    """

    method: str
    target: str
    caller: Caller
    headers: HeaderMap = field(default_factory=CIMultiDict)
    body: bytes | AsyncIterator[bytes] = field(default=b"", repr=False)
    length: int | None = None
    timeout_s: float | None = None
    edge: str = "grpc"
    credential: str = field(default="", repr=False)
    id: str = field(default_factory=new_call_id)
    trace: Trace | None = None
    place: Place | None = field(default=None, repr=False)


@dataclass(slots=True)
class Response:
    """
    What comes back; good while its context is open. The status is under 400: errors are raised.

    Args:
        headers: lower-case names, ready to be sent on; ours (`x-headrace-source`, `cache-status`, ...) included.
        chunks: the body as it comes, spelled as `content-encoding` in the headers says.
        whole: all of it, if it is there already.
        trail: what the call went through.
        reply: where it came from.
    """

    status: int
    headers: list[tuple[str, str]]
    chunks: AsyncIterator[bytes]
    reply: Reply
    whole: bytes | None = field(default=None, repr=False)
    trail: Trail | None = field(default=None, repr=False)

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([chunk async for chunk in self.chunks])


def endpoint_of(method: str, target: str) -> Endpoint:
    """Return how a request is treated; raises `InvalidCall` for what is no path of the API, or no method."""
    if method not in _METHODS:
        raise InvalidCall(f"the method {method[:32]!r} is not carried; there are {', '.join(sorted(_METHODS))}")
    path = target.partition("?")[0]
    try:
        return endpoints.find(method, path)
    except ValueError as error:
        raise InvalidCall(f"{path[:200]!r} is no path of the API: {error}") from None


def is_events(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether a body is a stream of events in the clear, in which an error can be the last one; *headers* are its own."""
    named = dict(headers)
    return named.get("content-type", "").startswith("text/event-stream") and "content-encoding" not in named


def new_id() -> str:
    """Return a request id of ours."""
    return f"req_headrace_{os.urandom(9).hex()}"
