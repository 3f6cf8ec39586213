"""
Server reflection, by which tools learn our services at run time: `grpc.reflection.v1`, and `v1alpha` for older ones.

The library speaks v1alpha alone. Both are the same messages under another name, so one servicer answers both. A descriptor pool
finds no method and no oneof by its name, though the protocol asks for methods; so the names are in a table of our own.
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
    named = (*services, _ALPHA, V1)
    servicer = reflection.aio.ReflectionServicer(named, pool=_Pool(named))

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
    """
    What the servicer asks of a descriptor pool; KeyError for what is not there.

    All names are in a table: a pool takes some milliseconds to find that it has none, and strangers may ask.
    """

    def __init__(self, services: Iterable[str] = ()) -> None:
        default, v1 = descriptor_pool.Default(), descriptor_pool.DescriptorPool()
        v1.AddSerializedFile(_v1_file())
        self._pool: Any = default
        self._files: dict[str, Any] = {}
        self._symbols: dict[str, Any] = {}
        self._messages: dict[str, Any] = {}
        for name in services:
            self._add((v1 if name == V1 else default).FindServiceByName(name).file)

    def _add(self, file: Any) -> None:
        if file.name in self._files:
            return
        self._files[file.name] = file
        for message in file.message_types_by_name.values():
            self._add_message(message, file)
        self._add_enums(file.enum_types_by_name.values(), file)
        for service in file.services_by_name.values():
            self._symbols.update({name.full_name: file for name in (service, *service.methods)})
        for each in file.dependencies:
            self._add(each)

    def _add_message(self, message: Any, file: Any) -> None:
        self._messages[message.full_name] = message
        for named in (message, *message.fields, *message.oneofs):
            self._symbols[named.full_name] = file
        self._add_enums(message.enum_types, file)
        for inner in message.nested_types:
            self._add_message(inner, file)

    def _add_enums(self, enums: Iterable[Any], file: Any) -> None:
        for enum in enums:
            scope = enum.full_name.rpartition(".")[0]
            self._symbols |= dict.fromkeys((enum.full_name, *(f"{scope}.{value.name}" for value in enum.values)), file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)  # extensions: there are none of ours

    # gRPC's servicer calls them by these names, which are protobuf's.

    def FindFileByName(self, name: str) -> Any:  # noqa: N802  # the name is gRPC's
        return self._files[name]

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802  # the name is gRPC's
        return self._symbols[symbol]

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802  # the name is gRPC's
        return self._messages[name]


def _v1_file() -> bytes:
    # The file of v1 is that of v1alpha under another name.
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    text = text_format.MessageToString(alpha).replace("grpc_reflection/v1alpha", "grpc/reflection/v1").replace("v1alpha", "v1")
    said: bytes = text_format.Parse(text, descriptor_pb2.FileDescriptorProto()).SerializeToString()
    return said
