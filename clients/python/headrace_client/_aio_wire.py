"""RPCs for asyncio: whoever stops waiting for one ends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
import grpc.aio

from headrace_client import _raw, errors
from headrace_client._aio import Dropped, step
from headrace_client._channel import LoopChannel
from headrace_client._requests import Defaults, Labels, Timeout
from headrace_client.v1 import api_service_pb2_grpc

T = TypeVar("T")


async def _step(call: Any, awaitable: Awaitable[T]) -> T:
    try:
        return await step(call, awaitable)
    except grpc.RpcError as error:
        raise errors.of_rpc(error) from error
    except Dropped:
        raise errors.CanceledError("the client closed the call", reason="CLOSED", code=grpc.StatusCode.CANCELLED) from None


async def parts(call: Any) -> AsyncGenerator[Any]:
    """Yield what an RPC says, part by part."""
    while (part := await _step(call, call.read())) is not grpc.aio.EOF:
        yield part


class AsyncWire:
    """Makes RPCs on the loop's channel, with what the client's calls have in common."""

    def __init__(self, channel: LoopChannel, defaults: Defaults) -> None:
        self.channel = channel
        self.defaults = defaults

    def stub(self, cls: Callable[[Any], T]) -> T:
        """Return a service's stub."""
        return cls(self.channel.get())

    def own(self, lane: str, labels: Labels | None) -> AsyncWire:
        """Return one for a call with a lane or labels of its own."""
        return AsyncWire(self.channel, self.defaults.own(lane, labels))

    async def ask(self, method: Any, request: Any, timeout: Timeout) -> Any:
        """Return the response of an RPC that has one."""
        call = self.listen(method, request, timeout)
        return await _step(call, call)

    def listen(self, method: Any, request: Any, timeout: Timeout) -> Any:
        """Return an RPC that has many; whoever asked must cancel it."""
        return method(request, timeout=self.defaults.seconds(timeout), metadata=self.defaults.metadata)

    async def raw(self, method: str, path: str, body: Any, query: Mapping[str, Any], timeout: Timeout) -> AsyncGenerator[bytes]:
        """Yield the body of any endpoint's response as it comes; raises the error that it tells."""
        said = _raw.parts(self.defaults, method, path, body, query)
        call = self.listen(self.stub(api_service_pb2_grpc.ApiServiceStub).Call, iter(said), timeout)
        try:
            first = await _step(call, call.read())
            if first is grpc.aio.EOF or not first.head.status:
                raise _raw.headless()
            if first.head.status >= 400:
                raise _raw.failure(first.head, b"".join([part.chunk async for part in parts(call)]))
            async for part in parts(call):
                yield part.chunk
        finally:
            call.cancel()

    async def json(self, method: str, path: str, body: Any, query: Mapping[str, Any], timeout: Timeout) -> Any:
        """Return the JSON that any endpoint answers."""
        return _raw.value(b"".join([chunk async for chunk in self.raw(method, path, body, query, timeout)]))

    async def pages(self, path: str, timeout: Timeout) -> AsyncGenerator[dict[str, Any]]:
        """Yield all items of a list."""
        query: dict[str, Any] = {}
        while True:
            page = await self.json("GET", path, None, query, timeout)
            for item in page["data"]:
                yield item
            if not page.get("has_more"):
                return
            query = {"after_id": page["last_id"]}
