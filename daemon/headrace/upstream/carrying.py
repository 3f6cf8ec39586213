"""
What travels on and what does not, when a request is carried as it is: RFC 9110, section 7.6, and a gateway's own manners.

Headers of one hop end here, those that `Connection` names included. Keys are ours to send, and so is the place in a trace
(trace.py); cookies are nobody's: what upstream sets for one caller must not travel with another's call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from headrace.errors import InvalidCall
from headrace.model import Headers
from headrace.trace import PARENT_HEADER, STATE_HEADER
from headrace.upstream.failures import silent
from headrace.upstream.network import NETWORK_ERRORS, failure_of
from headrace.upstream.remarks import ONE_HOP

_NOT_ONWARD = ONE_HOP | {
    "authorization", "content-length", "cookie", "expect", "forwarded", "host", "origin", "referer", "via", "x-api-key",
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", PARENT_HEADER, STATE_HEADER,
}  # fmt: skip
_NOT_BACK = ONE_HOP | {"set-cookie"}
# Of ours, and what pages and browsers say to each other: which pages may read our answers is not upstream's to say.
_OURS = ("x-headrace-", "access-control-", "sec-fetch-")


def onward(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the headers of a request that go upstream, lower-case names."""
    return _less(headers, _NOT_ONWARD)


def back(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the headers of a response that go to the caller, lower-case names."""
    return _less(headers, _NOT_BACK)


def _less(headers: Iterable[tuple[str, str]], without: frozenset[str] | set[str]) -> Headers:
    named = [(name.lower(), value) for name, value in headers]
    listed = {part.strip().lower() for name, value in named if name == "connection" for part in value.split(",")}
    return tuple(
        (name, value) for name, value in named if name not in without and name not in listed and not name.startswith(_OURS)
    )


class Body:
    """
    A request's body: whole, so that it can be sent again, or a stream that goes by once.

    Args:
        length: of a stream, in bytes; None if nobody knows.
    """

    def __init__(self, content: bytes | AsyncIterator[bytes], length: int | None = None) -> None:
        self.content = content
        self.length = len(content) if isinstance(content, bytes) else length
        self.has_gone_by = False
        self.error: Exception | None = None

    def __repr__(self) -> str:
        kind = "whole" if isinstance(self.content, bytes) else "gone by" if self.has_gone_by else "stream"
        return f"<Body [{kind}, {self.length} bytes]>"

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the stream. What goes wrong in it is the caller's, so it is kept apart from upstream's troubles."""
        self.has_gone_by = True
        sent = 0
        try:
            async for chunk in self.content:  # type: ignore[union-attr]  # no bytes: whoever has those asks for no chunks
                sent += len(chunk)
                self._check(sent, whole=False)
                yield chunk
            self._check(sent, whole=True)
        except Exception as error:
            self.error = error
            raise

    def _check(self, sent: int, *, whole: bool) -> None:
        # Upstream would wait for what is missing, and take the next call for what is too much.
        if self.length is not None and (sent > self.length or (whole and sent < self.length)):
            raise InvalidCall(
                f"the body has {'not all' if whole else 'more than'} the {self.length:,} bytes that were announced"
            )


async def incoming(chunks: AsyncIterator[bytes], gap_s: float, request_id: str) -> AsyncIterator[bytes]:
    """Yield the chunks of an answer; an upstream that says nothing for *gap_s* is given up."""
    while True:
        try:
            async with asyncio.timeout(gap_s) as gap:  # a socket's silence: by the loop
                chunk = await anext(chunks, None)
        except NETWORK_ERRORS as error:  # a TimeoutError is one, too
            if gap.expired():
                raise silent("upstream fell silent", request_id=request_id) from error
            raise failure_of(error, request_id) from error
        if chunk is None:
            return
        yield chunk
