"""
What the network's errors mean: whether a call may have reached upstream, and whether the same would come again.

Said in words for people: never in the errors' own text, which may hold addresses and headers.
"""

from __future__ import annotations

from collections.abc import Iterator

import aiohttp
import httpx
from aiohttp import http_exceptions

from headrace.errors import AttemptFailed
from headrace.upstream.failures import barred, broken, silent, unreadable

DecodingError = httpx.DecodingError

# Everything that can come out of the transport, but for cancellation.
NETWORK_ERRORS = (aiohttp.ClientError, http_exceptions.HttpProcessingError, DecodingError, OSError)

_UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
_NO_HTTP = (http_exceptions.BadStatusLine, http_exceptions.PayloadEncodingError)

_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (aiohttp.ClientHttpProxyError, "the proxy on the way refuses"),
    (aiohttp.ClientProxyConnectionError, "the proxy on the way does not answer"),
    (aiohttp.ClientConnectorDNSError, "its name is not known"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not trusted"),
    (aiohttp.ClientConnectorSSLError, "TLS cannot be agreed on"),
    (aiohttp.ConnectionTimeoutError, "no connection came about in time"),
    (aiohttp.ServerTimeoutError, "nothing came in time"),
    (aiohttp.ClientConnectorError, "no connection came about"),
    (aiohttp.ServerDisconnectedError, "it hung up before it answered"),
    (aiohttp.ClientPayloadError, "it broke off in the middle of its answer"),
    (http_exceptions.HttpProcessingError, "what it said is not HTTP"),
    (ConnectionError, "it hung up"),
    (aiohttp.ClientOSError, "it hung up"),
)


def words_of(error: BaseException) -> str:
    """Return what one of the `NETWORK_ERRORS` means, in words."""
    return next((words for kind, words in _WORDS if isinstance(error, kind)), "the network failed")


def failure_of(error: BaseException, request_id: str = "") -> AttemptFailed:
    """Return what one of the `NETWORK_ERRORS` means; *request_id* is of the answer that it befell."""
    if isinstance(error, DecodingError):
        return unreadable("upstream's answer cannot be unpacked", request_id=request_id)
    if _is_unreadable(error):
        return unreadable("upstream's answer is not HTTP as it can be read here", request_id=request_id)
    words = words_of(error)
    if isinstance(error, aiohttp.ClientHttpProxyError) and 400 <= error.status < 500:  # and would again
        return barred(f"upstream cannot be reached: {words}")
    if isinstance(error, _UNSENT):
        return broken(f"upstream cannot be reached: {words}", sent=False, request_id=request_id)
    if isinstance(error, aiohttp.ServerTimeoutError):
        return silent("upstream fell silent", request_id=request_id)
    return broken(f"the connection to upstream broke: {words}", request_id=request_id)


def _is_unreadable(error: BaseException) -> bool:
    """
    Whether upstream answered in HTTP, but in a way that is not read here: a header without end, two lengths that differ.

    The same would come again. What is no HTTP at all, or breaks off, is none of these.
    """
    causes = list(_causes(error))
    is_parsers = any(isinstance(cause, http_exceptions.HttpProcessingError) for cause in causes)
    return is_parsers and not any(isinstance(cause, _NO_HTTP) for cause in causes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
