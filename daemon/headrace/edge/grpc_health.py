"""Health, as gRPC has it: what anybody may ask, overall and for each service of ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from headrace.edge import status
from headrace.edge.grpc_calls import ending, parse
from headrace.edge.grpc_intake import Intake
from headrace.edge.last_word import LastWord
from headrace.errors import InvalidCall

SERVICE_NAME: str = health.SERVICE_NAME

_Words = health_pb2.HealthCheckResponse


class Health:
    """Says SERVING or NOT_SERVING for some services, and for "", which is all."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = ("", *services)
        self._servicer = health.aio.HealthServicer()
        self._is_serving = False

    def __repr__(self) -> str:
        return f"<Health [{'serving' if self._is_serving else 'not serving'}]>"

    async def set_serving(self, is_serving: bool) -> None:
        """Say so from now on."""
        self._is_serving = is_serving
        for service in self._services:
            await self._servicer.set(service, _Words.SERVING if is_serving else _Words.NOT_SERVING)

    async def leave(self) -> None:
        """Say NOT_SERVING for good."""
        self._is_serving = False
        await self._servicer.enter_graceful_shutdown()

    def handlers(self, intake: Intake, last_word: LastWord) -> dict[str, grpc.RpcMethodHandler]:
        """Return its methods by path."""
        unary = {"Check": self._check, "List": self._list}
        own = {name: intake.unary(run) for name, run in unary.items()} | {
            "Watch": intake.streaming(ending(last_word, self._watch))
        }
        return {f"/{SERVICE_NAME}/{name}": handler for name, handler in own.items()}

    async def _check(self, raw: bytes, context: Any) -> bytes:
        said = await self._servicer.Check(await _request(health_pb2.HealthCheckRequest, raw, context), context)
        return said.SerializeToString()  # type: ignore[no-any-return]  # theirs has no types

    async def _list(self, raw: bytes, context: Any) -> bytes:
        said = await self._servicer.List(await _request(health_pb2.HealthListRequest, raw, context), context)
        return said.SerializeToString()  # type: ignore[no-any-return]  # theirs has no types

    async def _watch(self, raw: bytes, context: Any) -> None:
        await self._servicer.Watch(await _request(health_pb2.HealthCheckRequest, raw, context), _Serialized(context))


class _Serialized:
    """A context to which messages are written."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def write(self, message: Any) -> None:
        await self._context.write(message.SerializeToString())


async def _request(cls: Any, raw: bytes, context: Any) -> Any:
    try:
        return parse(cls, raw)
    except InvalidCall as error:
        await status.abort(context, error)
