"""A call that a full limit holds past its deadline is refused by the limit's name, first and last in line, at every door."""

from __future__ import annotations

import asyncio
import functools
import json

import aiohttp
import grpc
import grpc.aio
import pytest

from conftest import until
from fleet import daemon_beside, simulated
from headrace.simulator import Options
from headrace.v1 import api_service_pb2, content_pb2, messages_pb2, messages_service_pb2, options_pb2
from headrace.v1.api_service_pb2_grpc import ApiServiceStub
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub

pytestmark = pytest.mark.slow

LIMIT = '[{name = "wide", requests_per_minute = 60000}, {name = "narrow", concurrency = 1, match = {caller = "reports"}}]'
LONG_S, SHORT_S = 12.0, 4.0
WAITING = 4
HEADERS = {"anthropic-version": "2023-06-01", "x-headrace-caller": "reports"}


def body(text, **more):
    return {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": text}], **more}


async def by_http(web, at, text, *, stream=False, ms=4000, name="x-headrace-timeout-ms"):
    headers = HEADERS | ({name: str(ms)} if ms else {})
    async with web.post(f"{at.http}/v1/messages", json=body(text, stream=stream), headers=headers) as response:
        return response.status, await response.text()


@pytest.fixture
async def held():
    """A daemon whose one place for reports is taken for longer than anybody waits."""
    async with simulated(Options.instant()) as simulator:
        simulator.faults.add("hang", count=1)
        async with (
            daemon_beside(simulator.url, LIMIT=LIMIT, DRAIN__TIME="1s", CALLER="{reports = {timeout = '5s'}}") as at,
            aiohttp.ClientSession() as web,
        ):
            first = asyncio.create_task(by_http(web, at, "holds it", ms=round(LONG_S * 1000)))
            await until(lambda: simulator.counts.total > 0)
            yield at, web, simulator
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)


WAYS = [(False, "x-headrace-timeout-ms"), (True, "x-headrace-timeout-ms"), (False, "x-stainless-timeout"), (False, "")]


async def test_http(held):
    """429, the limit's name, a time; first and last in line, also of a caller who said nothing and has a configured time."""
    at, web, _ = held
    spans = {"x-headrace-timeout-ms": round(SHORT_S * 1000), "x-stainless-timeout": round(SHORT_S), "": 0}
    asked = [
        by_http(web, at, f"{name} {stream} {number}", stream=stream, ms=spans[name], name=name)
        for stream, name in WAYS
        for number in range(WAITING)
    ]
    for status, said in await asyncio.gather(*asked):
        assert status == 429, said
        assert "limit narrow" in json.loads(said)["error"]["message"]


def asked(kind, text):
    said = messages_pb2.InputMessage(role="user", content=content_pb2.Content(text=text))
    params = messages_pb2.MessageParams(model="claude-haiku-4-5", max_tokens=9, messages=[said])
    return kind(params=params, options=options_pb2.CallOptions(caller="reports"))  # the typed services heed no metadata for it


async def unary(channel, text, **how):
    return await MessagesServiceStub(channel).CreateMessage(asked(messages_service_pb2.CreateMessageRequest, text), **how)


async def stream(channel, text, **how):
    call = MessagesServiceStub(channel).StreamMessage(asked(messages_service_pb2.StreamMessageRequest, text), **how)
    return [reply async for reply in call]


async def by_api(channel, text, *, is_stream, **how):
    head = api_service_pb2.CallRequestHead(
        method="POST",
        path="/v1/messages",
        body=json.dumps(body(text, stream=is_stream)).encode(),
        headers=[api_service_pb2.Header(name=name, value=value) for name, value in HEADERS.items()],
    )
    first, *rest = [part async for part in ApiServiceStub(channel).Call(iter([api_service_pb2.CallRequest(head=head)]), **how)]
    return first.head.status, b"".join(part.chunk for part in rest).decode()


TYPED = (unary, stream)
BY_API = (functools.partial(by_api, is_stream=False), functools.partial(by_api, is_stream=True))
TIMES = (SHORT_S, None)


async def test_grpc(held):
    """RESOURCE_EXHAUSTED before the caller's own clock rings, or a 429 where HTTP is said by gRPC; unsaid times, too."""
    at, *_ = held
    async with grpc.aio.insecure_channel(at.grpc) as channel:

        async def waiting(ask, timeout):
            name = f"{TYPED.index(ask) if ask in TYPED else 2 + BY_API.index(ask)} {timeout}"
            calls = (ask(channel, f"{name} {number}", timeout=timeout) for number in range(WAITING))
            return await asyncio.gather(*calls, return_exceptions=True)

        ways = [(ask, timeout) for ask in (*TYPED, *BY_API) for timeout in TIMES]
        for (ask, _), came in zip(ways, await asyncio.gather(*(waiting(*way) for way in ways)), strict=True):
            for said in came:
                if ask in TYPED:
                    assert isinstance(said, grpc.aio.AioRpcError), said
                    assert said.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, said.details()
                    text = said.details()
                else:
                    status, text = said
                    assert status == 429, said
                assert "limit narrow" in text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_follower(held, stream):
    """Who shares the call of somebody who waits longer is told the same when its own time is over, and stands in no line."""
    at, web, _ = held
    leads = asyncio.create_task(by_http(web, at, "shared", stream=stream, ms=round(SHORT_S * 1000)))
    asked = [by_http(web, at, "shared", stream=stream, ms=1500) for _ in range(WAITING)]
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        asked += [by_api(channel, "shared", is_stream=stream, timeout=1.5) for _ in range(WAITING)]
        for status, said in await asyncio.gather(*asked):
            assert status == 429, said
            assert "limit narrow" in said
    assert not leads.done()
    leads.cancel()
    await asyncio.gather(leads, return_exceptions=True)


async def test_slow_upstream_is_none(held):
    """A call that is at upstream when its time is over is late by upstream, and no limit is named."""
    at, web, simulator = held
    simulator.faults.add("hang", text="late")
    headers = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": "1500", "x-headrace-caller": "others"}
    async with web.post(f"{at.http}/v1/messages", json=body("late"), headers=headers) as response:
        said = await response.text()
        assert response.status == 504, said
        assert "limit" not in said
