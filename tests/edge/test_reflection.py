"""Server reflection: whatever a tool asks for by name is found, in both versions of the protocol."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf import descriptor_database, descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from grpc_fakes import serving
from headrace.edge.reflection import V1, _Pool

Ask = reflection_pb2.ServerReflectionRequest
VERSIONS = ("v1", "v1alpha")
OURS = "headrace.v1."
SYMBOLS = {
    "MessagesService": "messages_service",
    "MessagesService.CreateMessage": "messages_service",
    "MessagesService.CountTokens": "messages_service",
    "ApiService.Call": "api_service",
    "TicketsService.WaitTicket": "tickets_service",
    "MessageParams": "messages",
    "MessageParams.model": "messages",
    "Content.text": "content",
    "CallRequest.part": "api_service",
    "Lane": "options",
    "LANE_BATCH": "options",
}


async def told(channel: grpc.aio.Channel, version: str, *requests: Ask) -> list[Any]:
    """Return the responses to requests, by raw messages: v1's look the same as v1alpha's."""
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=Ask.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [response async for response in call(iter(requests))]


def files(response: Any) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    parsed = [
        descriptor_pb2.FileDescriptorProto.FromString(raw) for raw in response.file_descriptor_response.file_descriptor_proto
    ]
    return {file.name: file for file in parsed}


@pytest.mark.parametrize("version", VERSIONS)
async def test_symbols(tmp_path: Path, version: str) -> None:
    """Services, methods, messages, fields, oneofs, enums and their values lead to their file, its imports with it."""
    async with serving(tmp_path) as (_, channel):
        found = await told(channel, version, *(Ask(file_containing_symbol=OURS + name) for name in SYMBOLS))
    for name, response in zip(SYMBOLS, found, strict=True):
        came = files(response)
        assert next(iter(came)) == f"headrace/v1/{SYMBOLS[name]}.proto", name
        assert all(imported in came for file in came.values() for imported in file.dependency)


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_is_described(tmp_path: Path, version: str) -> None:
    """Each service of the list is there in full, with every method by its name, health and reflection itself included."""
    async with serving(tmp_path) as (_, channel):
        listed = (await told(channel, version, Ask(list_services="*")))[0].list_services_response.service
        names = [service.name for service in listed]
        assert {"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"} < set(names)
        assert {"grpc.health.v1.Health", "headrace.v1.MessagesService"} < set(names)
        for name in names:
            (response,) = await told(channel, version, Ask(file_containing_symbol=name))
            known = descriptor_database.DescriptorDatabase()
            for file in files(response).values():
                known.Add(file)
            service = descriptor_pool.DescriptorPool(known).FindServiceByName(name)
            methods = [method.full_name for method in service.methods]
            found = await told(channel, version, *(Ask(file_containing_symbol=method) for method in methods))
            assert methods
            assert all(files(one).keys() == files(response).keys() for one in found)


@pytest.mark.parametrize("version", VERSIONS)
async def test_files(tmp_path: Path, version: str) -> None:
    """Files are found by their names."""
    names = ("headrace/v1/chat.proto", "grpc/reflection/v1/reflection.proto", "google/protobuf/duration.proto")
    async with serving(tmp_path) as (_, channel):
        found = await told(channel, version, *(Ask(file_by_filename=name) for name in names))
    assert [next(iter(files(one))) for one in found] == list(names)


@pytest.mark.parametrize("version", VERSIONS)
async def test_unknown(tmp_path: Path, version: str) -> None:
    """What is not there is NOT_FOUND, what is no question INVALID_ARGUMENT, and the stream goes on."""
    names = ("", ".", "headrace.v1", "x.Y", OURS + "MessagesService.No", OURS + "No.CreateMessage", OURS + "MessageParams.no")
    asked = [*(Ask(file_containing_symbol=name) for name in names), Ask(file_by_filename="no.proto"), Ask()]
    async with serving(tmp_path) as (_, channel):
        *lost, odd, good = await told(channel, version, *asked, Ask(file_containing_symbol=OURS + "MessagesService"))
    assert [one.error_response.error_code for one in lost] == [grpc.StatusCode.NOT_FOUND.value[0]] * (len(names) + 1)
    assert odd.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert files(good)


@pytest.mark.parametrize("version", VERSIONS)
async def test_extensions(tmp_path: Path, version: str) -> None:
    """There are no extensions, and asking for them is no fault."""
    number = reflection_pb2.ExtensionRequest(containing_type=OURS + "MessageParams", extension_number=5000)
    async with serving(tmp_path) as (_, channel):
        none, known = await told(
            channel,
            version,
            Ask(file_containing_extension=number),
            Ask(all_extension_numbers_of_type=OURS + "MessageParams"),
        )
    assert none.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert list(known.all_extension_numbers_response.extension_number) == []


def test_nothing_there_costs_nothing() -> None:
    """To find that there is no such name takes a moment: strangers may ask for as many as they like."""
    pool, began = _Pool((V1,)), time.process_time()
    for number in range(2000):
        for ask in (pool.FindFileContainingSymbol, pool.FindFileByName, pool.FindMessageTypeByName):
            with pytest.raises(KeyError):
                ask(f"headrace.v1.Nothing{number}")
    assert time.process_time() - began < 1.0
