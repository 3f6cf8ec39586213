"""
HTTP requests carried by `ApiService.Call`: what both of httpx's generations, and both of its styles, have in common.

A request's body goes out in parts as it is made; the response's comes in as it is said, so that events arrive one by one.
Closing a response cancels the RPC, which hangs up at the daemon.

A read timeout is, as with httpx's own transports, how long one wait for bytes may last. It cannot be the RPC's deadline, which
would cut a long stream off in the middle: it is watched here. Where the answer comes whole, so that the first wait is all the
waiting, the daemon hears of it in `x-headrace-timeout-ms` and refuses at once what would come too late.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import grpc
import grpc.aio

from headrace_client._aio import Dropped, Silent, step
from headrace_client._alarms import WATCH, Alarm
from headrace_client._channel import Credentials, LoopChannel, open_channel
from headrace_client.v1.api_service_pb2 import CallRequest, CallRequestHead, CallResponse, Header
from headrace_client.v1.api_service_pb2_grpc import ApiServiceStub

_PART = 1024 * 1024  # bytes of a body in one message
_TIMEOUT_HEADER = "x-headrace-timeout-ms"
_STREAM = re.compile(rb'"stream"\s*:\s*true')  # at worst it is found in a text, and the daemon does not hear of the timeout
# How gRPC says that nothing was sent, since there was nobody to send it to.
_UNREACHED = ("failed to connect", "connections to all backends failing", "dns resolution failed", "name resolution failure")
_UNSENT = "Internal error from Core"  # and how grpc.aio says that a part could not be sent: the other side's status is lost

Headers = list[tuple[bytes, bytes]]


class Head(NamedTuple):
    """A response up to its body."""

    status: int
    headers: Headers


def request_head(request: Any, body: bytes | None) -> CallRequest:
    """Return the first part of a request of httpx's; *body* is the whole of it, None if that is still to be made."""
    path, _, query = request.url.raw_path.partition(b"?")
    headers = [Header(name=name.decode("latin-1"), value=value.decode("latin-1")) for name, value in request.headers.raw]
    if "x-forwarded-proto" not in request.headers:
        headers.append(Header(name="x-forwarded-proto", value=request.url.scheme))
    patience_s = read_timeout(request)
    if patience_s is not None and body and not _STREAM.search(body) and _TIMEOUT_HEADER not in request.headers:
        headers.append(Header(name=_TIMEOUT_HEADER, value=str(max(1, math.ceil(patience_s * 1000)))))
    head = CallRequestHead(
        method=request.method,
        path=path.decode("ascii"),
        query=query.decode("ascii"),
        headers=headers,
        body=(body or b"")[:_PART],
    )
    return CallRequest(head=head)


def read_timeout(request: Any) -> float | None:
    """Return how many seconds one wait may last; None for ever."""
    timeout: Mapping[str, float | None] = request.extensions.get("timeout", {})
    return timeout.get("read")


def _cut(data: bytes) -> Iterator[bytes]:
    return (data[at : at + _PART] for at in range(0, len(data), _PART))


def _head_of(part: CallResponse) -> Head:
    headers = [(header.name.encode("latin-1"), header.value.encode("latin-1")) for header in part.head.headers]
    return Head(part.head.status, headers)


class Failures:
    """Says in the exceptions of one library what went wrong with an RPC."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library

    def silent(self, request: Any) -> Exception:
        """Return the error for a wait that was too long."""
        return self._error("ReadTimeout", f"nothing came for {read_timeout(request)} s")

    def broken(self, error: grpc.RpcError) -> Exception:
        """Return the error for an RPC that failed."""
        code, details = error.code(), error.details() or ""
        text = f"{code.name}: {details}"
        match code:
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return self._error("ReadTimeout", text)
            case grpc.StatusCode.INVALID_ARGUMENT:
                return self._error("LocalProtocolError", text)
            case grpc.StatusCode.CANCELLED:
                return self._error("ReadError", text)
            case grpc.StatusCode.INTERNAL if details == _UNSENT:
                return self._error("WriteError", "the daemon ended the call while the body was being sent")
            case grpc.StatusCode.UNAVAILABLE if any(words in details.lower() for words in _UNREACHED):
                return self._error("ConnectError", text)
        return self._error("RemoteProtocolError", text)

    def closed(self) -> Exception:
        """Return the error for a response that was closed while it was read."""
        return self._error("ReadError", "the call was cancelled")

    def headless(self) -> Exception:
        """Return the error for a response without a beginning."""
        return self._error("RemoteProtocolError", "the daemon ended the call without a response")

    def _error(self, name: str, text: str) -> Exception:
        kind: type[Exception] = getattr(self._library, name)
        return kind(text)


# One thread, one call.


class Calls:
    """Sends requests to one daemon. Threads may share it."""

    def __init__(self, address: str, library: ModuleType, credentials: Credentials | None = None) -> None:
        self._channel = open_channel(address, credentials)
        self._stub = ApiServiceStub(self._channel)
        self._failures = Failures(library)

    def send(self, request: Any, body: bytes | Iterable[bytes]) -> tuple[Head, Body]:
        """Return a response, as soon as its head is there; raises the library's exceptions, and what *body* raises."""
        parts = _Parts(request, body)
        call = self._stub.Call(iter(parts))
        reading = Body(call, request, parts, self._failures)
        try:
            return _head_of(reading.first()), reading
        except BaseException:
            reading.close()
            raise

    def close(self) -> None:
        """Close the channel; what still runs on it is cancelled."""
        self._channel.close()


class _Parts:
    """
    The parts of a request. gRPC takes them in a thread of its own, where an exception would be lost: it is kept.

    `stop` ends them early: a request that was refused already need not be sent to its end.
    """

    def __init__(self, request: Any, body: bytes | Iterable[bytes]) -> None:
        self._request = request
        self._body = body
        self._is_stopped = False
        self.error: Exception | None = None

    def stop(self) -> None:
        """Make no more parts."""
        self._is_stopped = True

    def __iter__(self) -> Iterator[CallRequest]:
        try:
            yield from self._parts()
        except Exception as error:
            self.error = error
            raise

    def _parts(self) -> Iterator[CallRequest]:
        if isinstance(self._body, bytes):
            yield request_head(self._request, self._body)
            more: Iterable[bytes] = (self._body[_PART:],)
        else:
            yield request_head(self._request, None)
            more = self._body
        for data in more:
            for chunk in _cut(data):
                if self._is_stopped:
                    return
                yield CallRequest(chunk=chunk)


class Body:
    """A response's body as it comes. Ends the RPC when it is closed; grpcio does when nobody holds the call any more."""

    def __init__(self, call: Any, request: Any, parts: _Parts, failures: Failures) -> None:
        self._call = call
        self._request = request
        self._parts = parts
        self._failures = failures
        self._timeout_s = read_timeout(request)
        self._alarm = Alarm(WATCH, call.cancel)

    def first(self) -> CallResponse:
        """Return the part with the head."""
        part = self._next()
        if part is None or not part.HasField("head"):
            raise self._failures.headless()
        if part.head.status >= 400:
            self._parts.stop()
        return part

    def __iter__(self) -> Iterator[bytes]:
        while (part := self._next()) is not None:
            if part.chunk:
                yield part.chunk

    def _next(self) -> CallResponse | None:
        with self._said():
            if self._timeout_s is not None:
                self._alarm.set(self._timeout_s)
            try:
                part: CallResponse | None = next(self._call, None)
            finally:
                self._alarm.stop()
            return part

    @contextlib.contextmanager
    def _said(self) -> Generator[None]:
        try:
            yield
        except grpc.RpcError as error:
            if self._parts.error is not None:
                raise self._parts.error from None
            if self._alarm.has_rung:
                raise self._failures.silent(self._request) from None
            raise self._failures.broken(error) from error

    def close(self) -> None:
        """End the RPC, if it has not ended."""
        self._alarm.stop()
        self._call.cancel()


# One loop, many calls.


class AsyncCalls:
    """The same for asyncio."""

    def __init__(self, address: str, library: ModuleType, credentials: Credentials | None = None) -> None:
        self._channel = LoopChannel(address, credentials)
        self._failures = Failures(library)

    async def send(self, request: Any, body: bytes | AsyncIterable[bytes]) -> tuple[Head, AsyncBody]:
        """Return a response, as soon as its head is there; raises the library's exceptions, and what *body* raises."""
        parts = _AsyncParts(request, body)
        call = ApiServiceStub(self._channel.get()).Call(parts.parts())
        reading = AsyncBody(call, request, parts, self._failures)
        try:
            return _head_of(await reading.first()), reading
        except BaseException:
            reading.close()
            raise

    async def close(self) -> None:
        """Close the channel; what still runs on it is cancelled."""
        await self._channel.close()


class _AsyncParts:
    """The same for asyncio, where gRPC takes the parts in a task of its own."""

    def __init__(self, request: Any, body: bytes | AsyncIterable[bytes]) -> None:
        self._request = request
        self._body = body
        self._is_stopped = False
        self.error: Exception | None = None

    def stop(self) -> None:
        """Make no more parts."""
        self._is_stopped = True

    async def parts(self) -> AsyncGenerator[CallRequest]:
        try:
            if isinstance(self._body, bytes):
                for part in _Parts(self._request, self._body):
                    if not self._is_stopped:
                        yield part
                return
            yield request_head(self._request, None)
            async for data in self._body:
                for chunk in _cut(data):
                    if self._is_stopped:
                        return
                    yield CallRequest(chunk=chunk)
        except Exception as error:
            self.error = error
            raise


class AsyncBody:
    """The same for asyncio. Ends the RPC when it is closed, and at the latest when nobody holds it any more."""

    def __init__(self, call: Any, request: Any, parts: _AsyncParts, failures: Failures) -> None:
        self._call = call
        self._request = request
        self._parts = parts
        self._failures = failures
        self._timeout_s = read_timeout(request)
        self._loop = asyncio.get_running_loop()

    async def first(self) -> CallResponse:
        """Return the part with the head."""
        part = await self._next()
        if part is None or not part.HasField("head"):
            raise self._failures.headless()
        if part.head.status >= 400:
            self._parts.stop()
        return part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (part := await self._next()) is not None:
            if part.chunk:
                yield part.chunk

    async def _next(self) -> CallResponse | None:
        try:
            part = await step(self._call, self._call.read(), self._timeout_s)
        except Silent:
            raise self._failures.silent(self._request) from None
        except Dropped:
            raise self._parts.error or self._failures.closed() from None
        except grpc.RpcError as error:
            if self._parts.error is not None:
                raise self._parts.error from None
            raise self._failures.broken(error) from error
        return None if part is grpc.aio.EOF else part

    def close(self) -> None:
        """End the RPC, if it has not ended."""
        self._call.cancel()

    def __del__(self) -> None:
        # grpc.aio lets a call that nobody holds run on. Who collects us may be another thread than the loop's.
        if not self._call.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._call.cancel)
