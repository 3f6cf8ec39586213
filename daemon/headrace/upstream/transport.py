"""
The network under the client: requests written, and answers read, on the connections of aiohttp's pool.

The pool, TLS, proxies and the parser are aiohttp's. Its session and httpx's client are not on the way: what they add (cookies,
redirects, authentication, tries of their own) is what a gateway must not do, and takes four fifths of the time of a call.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import aiohttp
import httpx
from aiohttp import AddrInfoType, StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_parser import RawResponseMessage
from yarl import URL

from headrace.heads import value_bytes, value_text
from headrace.model import Headers
from headrace.upstream.answer_heads import tolerant
from headrace.upstream.masking import Mask, key_in
from headrace.upstream.unpacking import unpacked

_KEEPALIVE = ((socket.SOL_SOCKET, "SO_KEEPALIVE", 1), (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
              (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15), (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4))  # fmt: skip

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # which need not say that they have no body
# Of a status line, and of one header. What is longer is not read.
_MAX_FIELD_BYTES = 65_536
_MAX_HEADERS = 1_000
_MAX_INTERIM = 16  # answers before the answer
_BUFFER_BYTES = 16_384  # lie here at least before no more is read; hundreds of streams come faster than they are gone through
_SLICE_BYTES = 1 << 18  # TLS packs what it is given at once, and holds up the loop by that


class InvalidURL(Exception):
    """A path and query of which no URL can be made; what is wrong with it."""


@dataclass(slots=True)
class Request:
    """
    What is sent.

    Args:
        target: as `Transport.target` spells it.
        headers: their names are tokens, and no value holds a line end.
        body: whole, or as it comes; then *length* is what it will have, in bytes, or None if nobody knows.
        read_s: how long upstream may say nothing; None for as long as it likes.
    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes | AsyncIterator[bytes] = field(default=b"", repr=False)
    length: int | None = None
    read_s: float | None = None

    def head(self, always: str) -> bytes:
        """Return its head; *always* are header lines that all requests have."""
        length = len(self.body) if isinstance(self.body, bytes) else self.length
        ends = "transfer-encoding: chunked\r\n\r\n" if length is None else "\r\n"
        if length or (length is not None and self.method not in _BODILESS):
            ends = f"content-length: {length}\r\n\r\n"
        lines = [f"{self.method} {self.target} HTTP/1.1\r\n", always, *[f"{name}: {value}\r\n" for name, value in self.headers]]
        text = "".join([*lines, ends])
        return text.encode() if text.isascii() else b"".join(map(value_bytes, [*lines, ends]))


class Response:
    """
    An answer, up to its body, whose chunks it yields as they come: `async for chunk in response`. `close` must follow.

    The key that was sent is nowhere in what it says.

    `raw` are its headers as they came.
    """

    __slots__ = ("_connection", "_headers", "_key", "_mask", "_payload", "_request", "_writing", "raw", "status")

    def __init__(
        self,
        head: RawResponseMessage,
        payload: StreamReader,
        connection: Connection,
        writing: asyncio.Task[None] | None,
        request: Request,
    ) -> None:
        self.status: int = head.code
        self.raw: Sequence[tuple[bytes, bytes]] = head.raw_headers
        self._headers: Headers | None = None
        self._request = request
        self._key = key_in(request.headers)
        self._mask = Mask(self._key) if self._key else None
        self._payload, self._connection, self._writing = payload, connection, writing

    def __repr__(self) -> str:
        return f"<Response [{self.status}]>"

    @property
    def headers(self) -> Headers:
        """Its headers, lower-case names."""
        if self._headers is None:
            said = [(name.decode("latin-1").lower(), value_text(value)) for name, value in self.raw]
            if self._key and any(self._key in value for _, value in said):
                said = [(name, value.replace(self._key, "*" * len(self._key))) for name, value in said]
            self._headers = tuple(said)
        return self._headers

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> bytes:
        while not self._payload.at_eof() and (chunk := await self._payload.readany()):
            if said := chunk if self._mask is None else self._mask.feed(chunk):
                return said
        if self._mask is not None and (held := self._mask.end()):
            return held
        raise StopAsyncIteration

    def unpacked(self) -> AsyncIterator[bytes]:
        """Return the chunks of the body less its encoding; they raise `DecodingError` for one that was not asked for."""
        named = ",".join([value for name, value in self.headers if name == "content-encoding"]).strip().lower()
        if named in ("", "identity"):
            return self
        chunks = unpacked(self, named, ",".join([value for name, value in self._request.headers if name == "accept-encoding"]))
        return Mask(self._key).over(chunks) if self._key else chunks

    def close(self) -> None:
        """Give the connection back; what is not at its end by now is closed."""
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
            self._connection.close()
        elif (transport := self._connection.transport) is not None and transport.get_write_buffer_size():
            self._connection.close()  # upstream did not want to hear all of it
        else:
            self._connection.release()


class Transport:
    """
    The way to one upstream; its connections open with the first call.

    Args:
        to: its URL; a path in it comes before those of all requests.
        most: the most connections there may be.
        connect_s: how long making one may take; looking its name up, and TLS, may take as long again.
        proxy: the URL of the proxy on the way; "" for none.
    """

    def __init__(self, to: str, *, most: int, connect_s: float, proxy: str = "") -> None:
        self._to, self._most = to, most
        self._timeout = aiohttp.ClientTimeout(sock_connect=connect_s, connect=2 * connect_s)
        self._tls = httpx.create_ssl_context()
        self._proxy, self._proxy_headers = _proxy(proxy)
        # A proxy that is asked in the clear finds its password in each request, one that connects us only in its own.
        self._is_asked = self._proxy is not None and to.startswith("http://")
        self._pool: aiohttp.TCPConnector | None = None
        self._address: _Address
        self._always = ""

    def __repr__(self) -> str:
        return f"<Transport to {URL(self._to).host}>"

    def target(self, path: str) -> str:
        """Return path and query as a request names them; raises `InvalidURL`."""
        try:
            url = URL(str(httpx.URL(self._to + path))).with_fragment(None).with_user(None)
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidURL(str(error)) from error
        return str(url) if self._is_asked else url.raw_path_qs

    async def send(self, request: Request) -> Response:
        """Send a request and return its answer, once its head is here; raises `NETWORK_ERRORS`."""
        pool = self._pool or self._open()
        try:
            connection = await pool.connect(self._address, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from error
        writing = None
        try:
            answers = cast("ResponseHandler", connection.protocol)
            answers.set_response_params(
                skip_payload=request.method == "HEAD",
                read_until_eof=True,
                auto_decompress=False,
                read_timeout=request.read_s,
                read_bufsize=_BUFFER_BYTES,
                max_line_size=_MAX_FIELD_BYTES,
                max_field_size=_MAX_FIELD_BYTES,
                max_headers=_MAX_HEADERS,
            )
            writing = _write(answers, request, request.head(self._always))
            head, payload = await answers.read()
            for _ in range(_MAX_INTERIM):
                if head.code >= 200 or head.code == 101:
                    break
                head, payload = await answers.read()
        except BaseException:
            if writing is not None:
                writing.cancel()
            connection.close()
            raise
        return Response(head, payload, connection, writing, request)

    def _open(self) -> aiohttp.TCPConnector:
        self._pool = tolerant(aiohttp.TCPConnector(limit=self._most, ssl=self._tls, socket_factory=_socket))
        self._address = address = _Address(URL(self._to), self._proxy, self._proxy_headers)
        always = {name: address.headers[name] for name in ("host", "authorization") if name in address.headers}
        if self._is_asked:
            always |= self._proxy_headers
        self._always = "".join([f"{name}: {value}\r\n" for name, value in always.items()])
        return self._pool

    async def aclose(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            await self._pool.close()


class _Address(aiohttp.ClientRequest):
    """What the pool has to know of a request: where it goes, and by which way. It is the same for all, so one is made."""

    def __init__(self, url: URL, proxy: URL | None, proxy_headers: dict[str, str]) -> None:
        super().__init__("GET", url, proxy=proxy, proxy_headers=proxy_headers or None)
        self._key = super().connection_key

    @property
    def connection_key(self) -> ConnectionKey:
        return self._key


def _write(answers: ResponseHandler, request: Request, head: bytes) -> asyncio.Task[None] | None:
    """Write a request; return the task that goes on with it, if its body is still to come."""
    transport, body = answers.transport, request.body
    if transport is None:
        raise aiohttp.ClientConnectionResetError("Connection lost")
    if not isinstance(body, bytes) or len(body) > _SLICE_BYTES:
        transport.write(head)
        chunks, is_chunked = (_slices(body), False) if isinstance(body, bytes) else (body, request.length is None)
        return asyncio.create_task(_pour(answers, transport, chunks, is_chunked=is_chunked))
    transport.writelines((head, body) if body else (head,))
    if not answers.writing_paused:  # else its silence is measured from when it has heard us: see `Answers`
        answers.start_timeout()
    return None


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(body), _SLICE_BYTES):
        yield body[begin : begin + _SLICE_BYTES]


async def _pour(answers: ResponseHandler, transport: Any, body: AsyncIterator[bytes], *, is_chunked: bool) -> None:
    try:
        async for chunk in body:
            if chunk:
                transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n") if is_chunked else (chunk,))
                await answers._drain_helper()
        if is_chunked:
            transport.write(b"0\r\n\r\n")
        answers.start_timeout()
    except Exception as error:
        answers.set_exception(aiohttp.ClientConnectionError("the body broke off"), error)
        answers.force_close()


def _socket(address: AddrInfoType) -> socket.socket:
    # An answer may take minutes without a byte: keepalive finds a peer that is gone, and keeps middle boxes from forgetting us.
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _KEEPALIVE:
        if hasattr(socket, option):
            made.setsockopt(level, getattr(socket, option), value)
    made.setblocking(False)
    return made


def _proxy(url: str) -> tuple[URL | None, dict[str, str]]:
    """Return the URL of a proxy, and the headers by which we say who we are there."""
    if not url:
        return None, {}
    parts = urlsplit(url)
    if parts.username is None:
        return URL(url), {}
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return URL(bare), {"proxy-authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
