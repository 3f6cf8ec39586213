"""
Transports for httpx2 that carry every request over gRPC to a Headrace daemon: SDKs that are built on httpx2 need nothing else.

    transport = HeadraceTransport("unix:/run/headrace/headrace.sock")
    client = anthropic.Anthropic(api_key="unused", http_client=httpx2.Client(transport=transport))

The host of a URL does not choose the daemon, the transport's address does: so the SDK's own base URL may stay, and addresses in
answers begin with it. Exceptions are those of httpx2's own transports. For httpx there is `headrace_client.httpx_transport`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2

from headrace_client._channel import Credentials
from headrace_client._http_over_grpc import AsyncBody, AsyncCalls, Body, Calls


class HeadraceTransport(httpx2.BaseTransport):
    """
    Carries requests of a `httpx2.Client`. Threads may share it.

    Args:
        address: the daemon's, `unix:PATH` or `HOST:PORT`.
        credentials: for a daemon that speaks TLS, made by `grpc.ssl_channel_credentials`.
    """

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        self._calls = Calls(address, httpx2, credentials)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response as soon as its head is there."""
        stream = request.stream
        if not isinstance(stream, httpx2.SyncByteStream):
            raise TypeError("a synchronous client needs a synchronous body")
        # A body that is in memory goes with the head.
        head, body = self._calls.send(request, b"".join(stream) if isinstance(stream, httpx2.ByteStream) else stream)
        return httpx2.Response(head.status, headers=head.headers, stream=_Stream(body))

    def close(self) -> None:
        """Close the channel; what still runs on it is cancelled."""
        self._calls.close()


class AsyncHeadraceTransport(httpx2.AsyncBaseTransport):
    """
    Carries requests of a `httpx2.AsyncClient`, under asyncio.

    Args:
        address: the daemon's, `unix:PATH` or `HOST:PORT`.
        credentials: for a daemon that speaks TLS, made by `grpc.ssl_channel_credentials`.
    """

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        self._calls = AsyncCalls(address, httpx2, credentials)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response as soon as its head is there."""
        stream = request.stream
        if not isinstance(stream, httpx2.AsyncByteStream):
            raise TypeError("an asynchronous client needs an asynchronous body")
        head, body = await self._calls.send(request, b"".join(stream) if isinstance(stream, httpx2.ByteStream) else stream)
        return httpx2.Response(head.status, headers=head.headers, stream=_AsyncStream(body))

    async def aclose(self) -> None:
        """Close the channel; what still runs on it is cancelled."""
        await self._calls.close()


class _Stream(httpx2.SyncByteStream):
    def __init__(self, body: Body) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        self._body.close()


class _AsyncStream(httpx2.AsyncByteStream):
    def __init__(self, body: AsyncBody) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body.__aiter__()

    async def aclose(self) -> None:
        self._body.close()
