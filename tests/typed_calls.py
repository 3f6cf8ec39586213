"""A client of the typed services of a daemon, by the names of their methods."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from doors import grpc_door
from flow_parts import Daemon, daemon
from headrace.edge.grpc_routes import ROUTES

BY_NAME = {route.name: route for route in ROUTES}
ADMIN = {"AUTH__DEFAULT_ROLE": "admin"}
PARAMS = {"model": "sim-1", "messages": [{"role": "user", "content": {"text": "hi"}}]}


class Caller:
    """A client of a daemon's gRPC port, and the daemon's parts."""

    def __init__(self, channel: grpc.aio.Channel, one: Daemon) -> None:
        self._channel = channel
        self.daemon = one

    def begin(self, name: str, *, metadata: Any = None, timeout: float = 20, **fields: Any) -> Any:
        route = BY_NAME[name]
        path = f"/headrace.v1.{route.service}/{name}"
        multi = self._channel.unary_stream if route.is_streaming else self._channel.unary_unary
        call = multi(path, route.request.SerializeToString, route.response.FromString)
        return call(route.request(**fields), timeout=timeout, metadata=metadata)

    async def ask(self, name: str, **fields: Any) -> Any:
        return await self.begin(name, **fields)

    async def all(self, name: str, **fields: Any) -> list[Any]:
        return [response async for response in self.begin(name, **fields)]

    async def failure(self, name: str, **fields: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (self.all if BY_NAME[name].is_streaming else self.ask)(name, **fields)
        return caught.value


@contextlib.asynccontextmanager
async def calling(valkey: str, path: Path, upstream: str, **settings: str) -> AsyncIterator[Caller]:
    async with daemon(valkey, upstream, path, **settings) as one, grpc_door(one, path, **settings) as channel:
        yield Caller(channel, one)
