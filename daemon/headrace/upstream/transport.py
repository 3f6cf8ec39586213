"""
The network under the client: httpx's interface over aiohttp's sockets.

httpx's own transport costs six times as much a call, and more with every open connection; the aiohttp transport speaks the
same interface. This is the only module that names the library, so that its successor can be put in its place here.

The client talks to the transport itself: cookies, redirects, authentication and environment proxies, which `AsyncClient` adds
on top, are what a gateway must not do, and they add half as much again to the cost of a call.
"""

from __future__ import annotations

import socket

import aiohttp
import httpx
from aiohttp import AddrInfoType
from httpx_aiohttp import AiohttpTransport

# Everything that can come out of a transport, but for cancellation.
NETWORK_ERRORS = (httpx.RequestError, aiohttp.ClientError, OSError)

AsyncByteStream = httpx.AsyncByteStream
ByteStream = httpx.ByteStream
InvalidURL = httpx.InvalidURL
Request = httpx.Request
Response = httpx.Response
Transport = httpx.AsyncBaseTransport
URL = httpx.URL

_KEEPALIVE = ((socket.SOL_SOCKET, "SO_KEEPALIVE", 1), (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
              (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15), (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4))  # fmt: skip


def open_transport(max_connections: int) -> Transport:
    """Return a transport whose connections open with the first call."""

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=max_connections, ssl=transport.ssl_context, socket_factory=_socket)
        # No cookies: what upstream sets for one caller must not travel with another's call.
        # A body has the type that the caller named; without one aiohttp would call even an empty body a stream of octets.
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=(aiohttp.hdrs.CONTENT_TYPE,)
        )

    transport = AiohttpTransport(client=session)
    return transport


def _socket(address: AddrInfoType) -> socket.socket:
    # An answer may take minutes without a byte: keepalive finds a peer that is gone, and keeps middle boxes from forgetting us.
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _KEEPALIVE:
        if hasattr(socket, option):
            made.setsockopt(level, getattr(socket, option), value)
    made.setblocking(False)
    return made


def was_sent(error: BaseException) -> bool:
    """
    Whether a call that failed with *error* may have reached upstream.

    The aiohttp transport turns every loss of a connection into a `ConnectTimeout`, so its cause is what counts.
    """
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError):
        return not isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    return not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol)


def is_silence(error: BaseException) -> bool:
    """Whether *error* means that a connected upstream said nothing for too long."""
    return isinstance(error, httpx.TimeoutException) and was_sent(error) and not isinstance(error, httpx.ConnectTimeout)


def describe(error: BaseException) -> str:
    """Name an error by its cause's type: its text may hold addresses and headers."""
    return type(error.__cause__ or error).__name__
