"""
The network under the client: httpx's interface over aiohttp's sockets.

httpx's own transport costs six times as much a call, and more with every open connection; the aiohttp transport speaks the
same interface. This is the only module that names the library, so that its successor can be put in its place here.

The client talks to the transport itself: cookies, redirects, authentication and environment proxies, which `AsyncClient` adds
on top, are what a gateway must not do, and they add half as much again to the cost of a call.
"""

from __future__ import annotations

import base64
import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import aiohttp
import httpx
from aiohttp import AddrInfoType, http_exceptions
from httpx._decoders import SUPPORTED_DECODERS  # those for which a library is installed; nothing public says so
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import map_aiohttp_exceptions

from headrace import heads
from headrace.upstream.answer_heads import tolerant

# Everything that can come out of a transport, but for cancellation.
NETWORK_ERRORS = (httpx.RequestError, aiohttp.ClientError, http_exceptions.HttpProcessingError, OSError)

AsyncByteStream = httpx.AsyncByteStream
ByteStream = httpx.ByteStream
DecodingError = httpx.DecodingError
InvalidURL = httpx.InvalidURL
Request = httpx.Request
Response = httpx.Response
Transport = httpx.AsyncBaseTransport
URL = httpx.URL

_KEEPALIVE = ((socket.SOL_SOCKET, "SO_KEEPALIVE", 1), (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
              (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15), (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4))  # fmt: skip


# Of a status line, and of one header. What is longer is not read.
_MAX_FIELD_BYTES = 65_536
_MAX_HEADERS = 1_000
_CHUNK_BYTES = 16_384


def open_transport(max_connections: int, *, to: str, proxy: str = "") -> Transport:
    """Return a transport to the URL *to* whose connections open with the first call, through the *proxy* if there is one."""
    heads.write_as_they_are()
    way = _proxy(proxy)
    # A proxy that is asked in the clear finds its password in each request, one that connects us only in its own.
    own = dict(way.headers) if way is not None and to.startswith("http://") else {}

    def session() -> aiohttp.ClientSession:
        connector = tolerant(aiohttp.TCPConnector(limit=max_connections, ssl=transport.ssl_context, socket_factory=_socket))
        # No cookies: what upstream sets for one caller must not travel with another's call.
        # A body has the type that the caller named; without one aiohttp would call even an empty body a stream of octets.
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=own,
            skip_auto_headers=(aiohttp.hdrs.CONTENT_TYPE,),
            max_line_size=_MAX_FIELD_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
            max_headers=_MAX_HEADERS,
        )

    transport = _Transport(client=session, proxy=way)
    return transport


class _Transport(AiohttpTransport):
    """The library's transport with less of what it makes anew for every call: proxy, time-outs, contexts, URLs as text."""

    def __init__(self, client: Callable[[], aiohttp.ClientSession], proxy: httpx.Proxy | None) -> None:
        super().__init__(client=client, proxy=proxy)
        self._by_way: dict[str, Any] = {"proxy": str(proxy.url), "proxy_headers": proxy.headers} if proxy is not None else {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        said = request.extensions["timeout"]
        try:
            answer = await self.client.request(
                request.method,
                str(request.url),
                headers=request.headers,
                data=_data(request),
                allow_redirects=False,
                auto_decompress=False,
                compress=False,
                timeout=_time_outs(said["connect"], said["read"], said["pool"]),
                **self._by_way,
            )
        except Exception:
            with map_aiohttp_exceptions():
                raise
        reason = {"reason_phrase": answer.reason.encode()} if answer.reason else {}
        extensions = {"http_version": b"HTTP/1.1", **reason}
        return httpx.Response(
            answer.status, headers=answer.raw_headers, stream=_Body(answer), request=request, extensions=extensions
        )


@functools.lru_cache(64)
def _time_outs(connect_s: float | None, read_s: float | None, pool_s: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(sock_connect=connect_s, sock_read=read_s, connect=pool_s)


def _data(request: httpx.Request) -> bytes | httpx.AsyncByteStream | None:
    if isinstance(request.stream, httpx.ByteStream):
        return b"".join(request.stream) or None  # the very bytes, since there is one piece
    request.headers.pop("transfer-encoding", None)  # which aiohttp says by itself
    return cast("httpx.AsyncByteStream", request.stream)


class _Body(httpx.AsyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._answer.content.read(_CHUNK_BYTES)
        except Exception:
            with map_aiohttp_exceptions():
                raise
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        try:
            await self._answer.__aexit__(None, None, None)
        except Exception:
            with map_aiohttp_exceptions():
                raise


def _socket(address: AddrInfoType) -> socket.socket:
    # An answer may take minutes without a byte: keepalive finds a peer that is gone, and keeps middle boxes from forgetting us.
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _KEEPALIVE:
        if hasattr(socket, option):
            made.setsockopt(level, getattr(socket, option), value)
    made.setblocking(False)
    return made


def _proxy(url: str) -> httpx.Proxy | None:
    if not url:
        return None
    parts = urlsplit(url)
    if parts.username is None:
        return httpx.Proxy(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return httpx.Proxy(bare, headers={"proxy-authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"})


def decoded(response: Response) -> Response:
    """
    Return the response with its encodings by the names that the library knows: "x-gzip" is "gzip" (RFC 9110, 8.4.1.3).

    Raises `DecodingError` for an encoding that it does not know: the library would take the packed bytes for the answer.
    """
    named = response.headers.get("content-encoding", "").lower()
    if "x-gzip" in named:
        response.headers["content-encoding"] = named.replace("x-gzip", "gzip")
    unknown = {part.strip().removeprefix("x-") for part in named.split(",")} - {"", *SUPPORTED_DECODERS}
    if unknown:
        raise DecodingError("the answer is packed in a way that is not known here")
    return response


def was_sent(error: BaseException) -> bool:
    """
    Whether a call that failed with *error* may have reached upstream.

    The aiohttp transport turns every loss of a connection into a `ConnectTimeout`, so its cause is what counts.
    """
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError):
        return not isinstance(
            cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.ClientHttpProxyError
        )
    return not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol)


def is_silence(error: BaseException) -> bool:
    """Whether *error* means that a connected upstream said nothing for too long."""
    return isinstance(error, httpx.TimeoutException) and was_sent(error) and not isinstance(error, httpx.ConnectTimeout)


def is_unreadable(error: BaseException) -> bool:
    """
    Whether upstream answered in HTTP, but in a way that is not read here: a header without end, two lengths that differ.

    The same would come again. What is no HTTP at all, or breaks off, is none of these.
    """
    causes = list(_causes(error))
    is_parsers = any(isinstance(cause, http_exceptions.HttpProcessingError) for cause in causes)
    return is_parsers and not any(isinstance(cause, _NO_ANSWER) for cause in causes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def is_proxys_no(error: BaseException) -> bool:
    """Whether the proxy on the way refuses to connect us, and would again."""
    cause = error.__cause__
    return isinstance(cause, aiohttp.ClientHttpProxyError) and 400 <= cause.status < 500


_NO_ANSWER = (
    http_exceptions.BadStatusLine,
    http_exceptions.PayloadEncodingError,
)

# What the network's errors mean, in words for people: never their own text, which may hold addresses and headers.
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
    (aiohttp.ClientResponseError, "what it said is not HTTP"),
    (ConnectionError, "it hung up"),
    (httpx.TimeoutException, "nothing came in time"),
    (httpx.DecodingError, "its answer cannot be unpacked"),
)


def describe(error: BaseException) -> str:
    """Say what went wrong in the network, in words for people."""
    cause = error.__cause__ or error
    return next((words for kind, words in _WORDS if isinstance(cause, kind) or isinstance(error, kind)), "the network failed")
