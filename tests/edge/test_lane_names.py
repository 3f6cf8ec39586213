"""Lanes of the configuration's own over gRPC: by their names in options, as a header of what is said as HTTP, and in hits."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from conftest import until
from doors import BODY, call, open_grpc_door
from headrace.v1 import content_pb2, message_batches_pb2, messages_pb2, options_pb2
from headrace.v1 import message_batches_service_pb2 as batches_pb
from headrace.v1 import messages_service_pb2 as messages_pb
from headrace.v1 import usage_service_pb2 as usage_pb
from headrace.v1.message_batches_service_pb2_grpc import MessageBatchesServiceStub
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.usage_service_pb2_grpc import UsageServiceStub
from scripted import Server

SETTINGS = {"LANE__NIGHTLY__SHARE": "0.1"}
SAID = [messages_pb2.InputMessage(role="user", content=content_pb2.Content(text="hi"))]
PARAMS = messages_pb2.MessageParams(model="m", max_tokens=6, messages=SAID)
COUNT = messages_pb2.MessageParams(model="m", messages=SAID)
BATCH = message_batches_pb2.MessageBatchParams(requests=[message_batches_pb2.MessageBatchRequest(custom_id="c")])
NIGHTLY = options_pb2.CallOptions(lane_name="nightly")


@dataclass(frozen=True)
class Asked:
    """A daemon as a client of gRPC's sees it, and the upstream behind it."""

    channel: grpc.aio.Channel
    port: int
    server: Server

    async def create(self, options: options_pb2.CallOptions) -> None:
        await MessagesServiceStub(self.channel).CreateMessage(messages_pb.CreateMessageRequest(params=PARAMS, options=options))

    async def stream(self, options: options_pb2.CallOptions) -> None:
        request = messages_pb.StreamMessageRequest(params=PARAMS, options=options)
        async for _ in MessagesServiceStub(self.channel).StreamMessage(request):
            pass

    async def submit(self, options: options_pb2.CallOptions) -> None:
        await MessagesServiceStub(self.channel).SubmitMessage(messages_pb.SubmitMessageRequest(params=PARAMS, options=options))

    async def count(self, options: options_pb2.CallOptions) -> None:
        await MessagesServiceStub(self.channel).CountTokens(messages_pb.CountTokensRequest(params=COUNT, options=options))

    async def batch(self, options: options_pb2.CallOptions) -> None:
        request = batches_pb.CreateMessageBatchRequest(params=BATCH, options=options)
        await MessageBatchesServiceStub(self.channel).CreateMessageBatch(request)

    async def calls(self) -> dict[str, tuple[int, int]]:
        """Return how many calls of each lane upstream answered, and how many the cache."""
        told = await UsageServiceStub(self.channel).GetUsage(usage_pb.GetUsageRequest(group_by=["lane"]))
        return {row.group[0]: (row.calls.upstream, row.calls.cache) for row in told.rows}


Way = Callable[[Asked, options_pb2.CallOptions], Awaitable[None]]
WAYS = [Asked.create, Asked.stream, Asked.submit, Asked.count, Asked.batch]


@contextlib.asynccontextmanager
async def opened(url: str, path: Path, **settings: str) -> AsyncIterator[Asked]:
    async with (
        open_grpc_door(url, path, **(settings or SETTINGS)) as (door, server, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[0]}") as channel,
    ):
        yield Asked(channel, door.ports[0], server)


@pytest.mark.parametrize("way", WAYS)
async def test_every_way(valkey_url: str, tmp_path: Path, way: Way) -> None:
    """A lane's name chooses it, in any case, however the call goes on from here."""
    async with opened(valkey_url, tmp_path) as asked:
        await way(asked, options_pb2.CallOptions(lane_name="Nightly"))

        async def is_told() -> bool:
            return await asked.calls() == {"nightly": (1, 0)}

        await until(is_told)


@pytest.mark.parametrize("way", WAYS)
async def test_refused(valkey_url: str, tmp_path: Path, way: Way) -> None:
    """A name that is none is told those there are; two lanes at once are refused by the field. Upstream hears of neither."""
    async with opened(valkey_url, tmp_path) as asked:
        for wrong, said in (
            ({"lane_name": "nigthly"}, "there is no lane 'nigthly'; there are interactive, standard, batch, nightly"),
            ({"lane_name": "batch\r\nx-api-key: k"}, "there is no lane"),
            ({"lane_name": "nightly", "lane": options_pb2.LANE_BATCH}, "options.lane_name: 'nightly' is not the 'batch'"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await way(asked, options_pb2.CallOptions(**wrong))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert said in refused.value.details()
        assert asked.server.calls == 0


async def test_both(valkey_url: str, tmp_path: Path) -> None:
    """Both may be said if they say the same, and the lanes of the enum have names, too."""
    async with opened(valkey_url, tmp_path) as asked:
        await asked.create(options_pb2.CallOptions(lane_name="batch", lane=options_pb2.LANE_BATCH))
        await asked.create(options_pb2.CallOptions(lane_name="batch"))
        assert await asked.calls() == {"batch": (1, 1)}


async def test_hits(valkey_url: str, tmp_path: Path) -> None:
    """A hit by the very bytes is told in the lane that they name: one answer for all lanes, and each call in its own."""
    async with opened(valkey_url, tmp_path) as asked:
        for options in (options_pb2.CallOptions(), NIGHTLY, NIGHTLY, NIGHTLY, options_pb2.CallOptions()):
            await asked.create(options)
        headers = (("x-headrace-lane", "nightly"), ("content-type", "application/json"))
        body = json.dumps(BODY | {"max_tokens": 6}).encode()
        for _ in range(2):
            status, _, came = await call(asked.port, "POST", "/v1/messages", headers, body)
            assert status == 200, came
        assert asked.server.calls == 1
        assert await asked.calls() == {"standard": (1, 1), "nightly": (0, 5)}


BOUND = options_pb2.CallOptions(caller="night", lane=options_pb2.LANE_INTERACTIVE)


@pytest.mark.parametrize("way", WAYS)
async def test_ceiling(valkey_url: str, tmp_path: Path, way: Way) -> None:
    """A configured lane is a bound: a call that asks for a better one stays in it, by any way, and at hits, too."""
    settings = SETTINGS | {"CALLER__NIGHT__LANE": "batch"}
    async with opened(valkey_url, tmp_path, **settings) as asked:
        await way(asked, BOUND)

        async def is_told() -> bool:
            return await asked.calls() == {"batch": (1, 0)}

        await until(is_told)


async def test_ceiling_of_http(valkey_url: str, tmp_path: Path) -> None:
    """So it is with what is said as HTTP. A worse lane may be asked for, and without a lane of one's own there is no bound."""
    settings = SETTINGS | {"CALLER__NIGHT__LANE": "nightly", "CALLER__DAY__WEIGHT": "2"}
    async with opened(valkey_url, tmp_path, **settings) as asked:
        for number, (caller, lane) in enumerate(
            [("night", "interactive"), ("night", "Standard"), ("night", "batch"), ("day", "interactive")]
        ):
            headers = (("x-headrace-caller", caller), ("x-headrace-lane", lane), ("content-type", "application/json"))
            for _ in range(2):
                status, _, came = await call(
                    asked.port, "POST", "/v1/messages", headers, json.dumps(BODY | {"max_tokens": 10 + number}).encode()
                )
                assert status == 200, came
        assert await asked.calls() == {"nightly": (2, 2), "batch": (1, 1), "interactive": (1, 1)}
