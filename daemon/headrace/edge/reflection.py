"""
Server reflection, by which tools learn our services at run time: `grpc.reflection.v1`, and `v1alpha` for older ones.

The library speaks v1alpha alone. Both are the same messages under another name, so one servicer answers both. Its descriptor
pool finds no method and no oneof by its name, though the protocol asks for methods; they are looked up in what owns them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

from headrace.edge import status
from headrace.edge.grpc_calls import parse
from headrace.edge.grpc_intake import Intake
from headrace.errors import HeadraceError

_ALPHA = reflection.SERVICE_NAME
V1 = _ALPHA.replace("v1alpha", "v1")


def handlers(services: Iterable[str], intake: Intake) -> dict[str, grpc.RpcMethodHandler]:
    """Return the handlers of both versions, by path; *services* are those that are listed beside them."""
    servicer = reflection.aio.ReflectionServicer((*services, _ALPHA, V1), pool=_Pool())

    async def explain(parts: AsyncIterator[bytes], context: Any) -> None:
        try:
            async for said in servicer.ServerReflectionInfo(_requests(parts), context):
                await context.write(said.SerializeToString())
        except HeadraceError as error:
            await status.abort(context, error)

    return {f"/{name}/ServerReflectionInfo": intake.both_ways(explain) for name in (_ALPHA, V1)}


async def _requests(parts: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for raw in parts:
        yield parse(reflection_pb2.ServerReflectionRequest, raw)


class _Pool:
    """What the servicer asks of a descriptor pool; KeyError for what is not there."""

    def __init__(self) -> None:
        self._default: Any = descriptor_pool.Default()
        self._v1: Any = descriptor_pool.DescriptorPool()
        self._v1.AddSerializedFile(_v1_file())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._default, name)  # extensions: there are none of ours

    # gRPC's servicer calls them by these names, which are protobuf's.

    def FindFileByName(self, name: str) -> Any:  # noqa: N802  # the name is gRPC's
        return self._first("FindFileByName", name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802  # the name is gRPC's
        try:
            return self._first("FindFileContainingSymbol", symbol)
        except KeyError:
            owner, _, member = symbol.rpartition(".")
            if not self._has(owner, member):
                raise
            return self._first("FindFileContainingSymbol", owner)

    def _has(self, owner: str, member: str) -> bool:
        for find, members in (("FindServiceByName", "methods_by_name"), ("FindMessageTypeByName", "oneofs_by_name")):
            try:
                return member in getattr(self._first(find, owner), members)
            except KeyError:
                continue
        return False

    def _first(self, find: str, name: str) -> Any:
        try:
            return getattr(self._default, find)(name)
        except KeyError:
            return getattr(self._v1, find)(name)


def _v1_file() -> bytes:
    # The file of v1 is that of v1alpha under another name.
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    text = text_format.MessageToString(alpha).replace("grpc_reflection/v1alpha", "grpc/reflection/v1").replace("v1alpha", "v1")
    said: bytes = text_format.Parse(text, descriptor_pb2.FileDescriptorProto()).SerializeToString()
    return said
