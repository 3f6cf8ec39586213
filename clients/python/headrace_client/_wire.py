"""RPCs for threads: made, waited for, and cancelled on the way out, however that way is taken."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

import grpc

from headrace_client import _raw, errors
from headrace_client._requests import Defaults, Labels, Timeout
from headrace_client.v1 import api_service_pb2, api_service_pb2_grpc


class Wire:
    """Makes RPCs on a channel, with what the client's calls have in common."""

    def __init__(self, channel: Any, defaults: Defaults) -> None:
        self.channel = channel
        self.defaults = defaults

    def own(self, lane: str, labels: Labels | None) -> Wire:
        """Return one for a call with a lane or labels of its own."""
        return Wire(self.channel, self.defaults.own(lane, labels))

    def ask(self, method: Any, request: Any, timeout: Timeout) -> Any:
        """Return the response of an RPC that has one."""
        call = method.future(request, timeout=self.defaults.seconds(timeout), metadata=self.defaults.metadata)
        try:
            return call.result()
        except grpc.RpcError as error:
            raise errors.of_rpc(error) from error
        finally:
            call.cancel()

    def listen(self, method: Any, request: Any, timeout: Timeout) -> Any:
        """Return an RPC that has many; whoever asked must cancel it."""
        return method(request, timeout=self.defaults.seconds(timeout), metadata=self.defaults.metadata)

    def raw(self, method: str, path: str, body: Any, query: Mapping[str, Any], timeout: Timeout) -> Generator[bytes]:
        """Yield the body of any endpoint's response as it comes; raises the error that it tells."""
        stub = api_service_pb2_grpc.ApiServiceStub(self.channel)
        call = self.listen(stub.Call, iter(_raw.parts(self.defaults, method, path, body, query)), timeout)
        try:
            head = next(call, api_service_pb2.CallResponse()).head
            if not head.status:
                raise _raw.headless()
            if head.status >= 400:
                raise _raw.failure(head, b"".join(part.chunk for part in call))
            yield from (part.chunk for part in call)
        except grpc.RpcError as error:
            raise errors.of_rpc(error) from error
        finally:
            call.cancel()

    def json(self, method: str, path: str, body: Any, query: Mapping[str, Any], timeout: Timeout) -> Any:
        """Return the JSON that any endpoint answers."""
        return _raw.value(b"".join(self.raw(method, path, body, query, timeout)))

    def pages(self, path: str, timeout: Timeout) -> Iterator[dict[str, Any]]:
        """Yield all items of a list."""
        query: dict[str, Any] = {}
        while True:
            page = self.json("GET", path, None, query, timeout)
            yield from page["data"]
            if not page.get("has_more"):
                return
            query = {"after_id": page["last_id"]}
