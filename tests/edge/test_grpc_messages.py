"""MessagesService over a real grpc.aio server, and a flow that answers as it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from conftest import until
from grpc_fakes import MESSAGE, FakeCallers, FakeFlow, details, event, json_answer, reply, serving
from headrace import errors
from headrace.edge import translate
from headrace.errors import BrokenStream, BudgetExhausted, UpstreamError
from headrace.model import Call, Event, Lane
from headrace.v1 import messages_pb2, messages_service_pb2, messages_service_pb2_grpc, options_pb2

Stub = messages_service_pb2_grpc.MessagesServiceStub
Create = messages_service_pb2.CreateMessageRequest
Stream = messages_service_pb2.StreamMessageRequest

PARAMS = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": {"text": "hi"}}]}
EVENTS = [
    {"type": "message_start", "message": {"id": "msg_1", "content": [], "usage": {"input_tokens": 3}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
    {"type": "unheard_of", "x": None},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]


def as_json(message: Any) -> Any:
    return json.loads(translate.write(message))


async def told(events: list[dict[str, Any]], error: Exception | None = None) -> AsyncIterator[Event]:
    for data in events:
        yield event(data)
    if error:
        raise error


async def collect(responses: Any, seen: list[Any]) -> None:
    async for response in responses:
        seen.append(response)


async def test_create(tmp_path: Path) -> None:
    """A first answer comes from the flow, its repeat from kept bytes; both say so, and are the same answer."""
    flow = FakeFlow()
    async with serving(tmp_path, flow) as (_, channel):
        first = await Stub(channel).CreateMessage(Create(params=PARAMS))
        again = await Stub(channel).CreateMessage(Create(params=PARAMS))
    assert as_json(first.message) == MESSAGE
    assert first.message.content[0].text.text == "hello"
    assert again.message == first.message
    assert (first.origin.source, first.origin.attempts) == (options_pb2.ANSWER_SOURCE_UPSTREAM, 2)
    assert first.origin.request_id == again.origin.request_id == "req_1"
    assert again.origin.source == options_pb2.ANSWER_SOURCE_CACHE
    assert (again.origin.attempts, again.origin.age.ToMilliseconds()) == (0, 1500)
    assert again.origin.cache_status.startswith("headrace; hit; ttl=")
    assert len(flow.asked) == 1


async def test_what_is_asked(tmp_path: Path) -> None:
    """Params become the API's JSON; options stay with us."""
    flow = FakeFlow()
    params = {**PARAMS, "temperature": 0.5, "extra_json": b'{"unheard_of": [1e400]}'}
    options = options_pb2.CallOptions(
        cache_control={"no_store": True, "max_age": Duration(seconds=2), "stale_if_error": Duration(nanos=500_000_000)},
        lane=options_pb2.LANE_BATCH,
        idempotency_key="k",
        caller="checkout",
        anthropic_version="2026-10-21",
        anthropic_betas=["b", "a"],
        anthropic_headers={"anthropic-user-profile-id": "u"},
    )
    async with serving(tmp_path, flow) as (_, channel):
        await Stub(channel).CreateMessage(Create(params=params, options=options), timeout=20)
    call = flow.asked[0]
    expected = (
        b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"temperature":0.5,"unheard_of": [1e400]}'
    )
    assert call.body == expected
    assert (call.cache.no_store, call.cache.max_age_s, call.cache.stale_if_error_s) == (True, 2.0, 0.5)
    assert (call.lane, call.idempotency_key, call.caller.name) == (Lane.BATCH, "k", "checkout")
    assert (call.version, call.betas) == ("2026-10-21", ("b", "a"))
    assert call.headers == (("anthropic-user-profile-id", "u"),)
    assert 15 < call.deadline - time.time() < 21


async def test_no_deadline(tmp_path: Path) -> None:
    """Without a gRPC deadline the configured one holds, and the caller is the default one."""
    flow = FakeFlow()
    async with serving(tmp_path, flow) as (_, channel):
        await Stub(channel).CreateMessage(Create(params=PARAMS))
    assert 560 < flow.asked[0].deadline - time.time() < 571
    assert flow.asked[0].caller.name == "default"


async def test_stream(tmp_path: Path) -> None:
    """Live events arrive one by one, typed; the first says where they come from."""
    flow = FakeFlow()
    flow.respond = lambda call: reply(events=told(EVENTS))
    async with serving(tmp_path, flow) as (_, channel):
        responses = [response async for response in Stub(channel).StreamMessage(Stream(params=PARAMS))]
    assert [as_json(response.event) for response in responses] == EVENTS
    assert [response.event_name for response in responses] == ["", "", "", "unheard_of", "", "", ""]
    assert [response.HasField("origin") for response in responses] == [True] + [False] * 6
    assert responses[0].origin.attempts == 2
    assert responses[2].event.content_block_delta.delta.text_delta.text == "hello"
    assert json.loads(flow.asked[0].body)["stream"] is True


async def test_stream_replay(tmp_path: Path) -> None:
    """A kept answer is told as events, the second time from kept bytes; both times the same events."""
    flow = FakeFlow()
    async with serving(tmp_path, flow) as (_, channel):
        first = [response async for response in Stub(channel).StreamMessage(Stream(params=PARAMS))]
        again = [response async for response in Stub(channel).StreamMessage(Stream(params=PARAMS))]
    assert len(flow.asked) == 1
    assert [response.event for response in again] == [response.event for response in first]
    assert first[-1].event.HasField("message_stop")
    assert again[0].origin.source == options_pb2.ANSWER_SOURCE_CACHE


async def test_forms_share_an_entry(tmp_path: Path) -> None:
    """The two methods have different digests, and one fingerprint."""
    flow = FakeFlow()
    async with serving(tmp_path, flow) as (_, channel):
        await Stub(channel).CreateMessage(Create(params=PARAMS))
        await collect(Stub(channel).StreamMessage(Stream(params=PARAMS)), [])
    assert len({call.fingerprint for call in flow.asked}) == 1
    assert [call.stream for call in flow.asked] == [False, True]


async def test_stream_breaks(tmp_path: Path) -> None:
    """An error after the first events ends the stream with its status; what came before has come."""
    flow = FakeFlow()
    flow.respond = lambda call: reply(events=told(EVENTS[:3], BrokenStream("upstream broke off", status=502)))
    seen: list[Any] = []
    async with serving(tmp_path, flow) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await collect(Stub(channel).StreamMessage(Stream(params=PARAMS)), seen)
    assert len(seen) == 3
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert details(ended.value)["ErrorInfo"].reason == "BROKEN_STREAM"


async def test_stream_says_unary(tmp_path: Path) -> None:
    """params.stream may repeat what the method says, not contradict it."""
    flow = FakeFlow()
    async with serving(tmp_path, flow) as (_, channel):
        await Stub(channel).CreateMessage(Create(params={**PARAMS, "stream": False}))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).CreateMessage(Create(params={**PARAMS, "stream": True}))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).StreamMessage(Stream(params={**PARAMS, "stream": False})).read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", ["CreateMessage", "StreamMessage", "SubmitMessage"])
async def test_malformed(tmp_path: Path, method: str) -> None:
    """Bytes that are no protobuf are refused with a word that says so."""
    async with serving(tmp_path) as (_, channel):
        kind = channel.unary_stream if method == "StreamMessage" else channel.unary_unary
        call = kind(f"/headrace.v1.MessagesService/{method}")(b"\xff\xff\xffnonsense")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (call.read() if method == "StreamMessage" else call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "do not parse" in (refused.value.details() or "")
    assert "BadRequest" in details(refused.value)


@pytest.mark.parametrize("field", ["model", "max_tokens", "messages"])
async def test_missing(tmp_path: Path, field: str) -> None:
    """A missing field is named."""
    params = {name: value for name, value in PARAMS.items() if name != field}
    async with serving(tmp_path) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).CreateMessage(Create(params=params))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(refused.value)["BadRequest"].field_violations[0].field == field


@pytest.mark.parametrize(
    ("params", "options", "field"),
    [
        ({"extra_json": b"{"}, {}, "MessageParams.extra_json"),
        ({"messages": [{"content": {}}]}, {}, "Content"),
        ({}, {"anthropic_version": "2023\r\nx-api-key: stolen"}, "options.anthropic_version"),
        ({}, {"anthropic_betas": [""]}, "options.anthropic_betas"),
        ({}, {"anthropic_headers": {"x-api-key": "k"}}, "options.anthropic_headers"),
        ({}, {"anthropic_headers": {"anthropic-version": "v"}}, "options.anthropic_headers"),
        ({}, {"lane": 77}, "options.lane"),
    ],
)
async def test_bad_input(tmp_path: Path, params: dict[str, Any], options: dict[str, Any], field: str) -> None:
    """What makes no sense is refused, by its name, before anything is asked."""
    flow = FakeFlow()
    async with serving(tmp_path, flow) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).CreateMessage(Create(params={**PARAMS, **params}, options=options))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(refused.value)["BadRequest"].field_violations[0].field == field
    assert flow.asked == []


@pytest.mark.parametrize(
    ("error", "code", "names"),
    [
        (BudgetExhausted("not now", retry_after_s=3), grpc.StatusCode.RESOURCE_EXHAUSTED, {"QuotaFailure", "RetryInfo"}),
        (errors.IdempotencyConflict("taken"), grpc.StatusCode.ALREADY_EXISTS, {"ResourceInfo"}),
        (errors.Draining("leaving", retry_after_s=1), grpc.StatusCode.UNAVAILABLE, {"RetryInfo"}),
        (UpstreamError("überlastet", status=529), grpc.StatusCode.UNAVAILABLE, {"RetryInfo"}),
    ],
)
async def test_refusals(tmp_path: Path, error: Exception, code: grpc.StatusCode, names: set[str]) -> None:
    """Errors of the flow arrive with code, message and details, unary and streaming."""
    flow = FakeFlow()
    flow.respond = lambda call: error
    async with serving(tmp_path, flow) as (_, channel):
        for call in (
            Stub(channel).CreateMessage(Create(params=PARAMS)),
            Stub(channel).StreamMessage(Stream(params=PARAMS)).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is code
            assert refused.value.details() == str(error)
            assert set(details(refused.value)) == {"ErrorInfo"} | names


async def test_surprise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody foresaw is INTERNAL, logged with a traceback, and says nothing to the caller."""
    flow = FakeFlow()
    flow.respond = lambda call: ZeroDivisionError("whatever it was")
    async with serving(tmp_path, flow) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).CreateMessage(Create(params=PARAMS))
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    said = capsys.readouterr()
    assert "ZeroDivisionError" in said.out + said.err


async def hangs(call: Call) -> AsyncIterator[Event]:
    yield event(EVENTS[0])
    await asyncio.Event().wait()


async def test_cancelled(tmp_path: Path) -> None:
    """A caller that goes away takes its part of the flow with it."""
    flow = FakeFlow()
    flow.respond = lambda call: reply(events=hangs(call))
    async with serving(tmp_path, flow) as (_, channel):
        call = Stub(channel).StreamMessage(Stream(params=PARAMS))
        await call.read()
        assert flow.left == 0
        call.cancel()
        await until(lambda: flow.left == 1)


async def test_deadline(tmp_path: Path) -> None:
    """So does a deadline."""
    flow = FakeFlow()
    flow.respond = lambda call: reply(events=hangs(call))
    async with serving(tmp_path, flow) as (_, channel):
        call = Stub(channel).StreamMessage(Stream(params=PARAMS), timeout=0.3)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await collect(call, [])
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: flow.left == 1)


KEYS = (("x-api-key", "key-a"),), (("authorization", "Bearer key-b"),)


async def test_keys(tmp_path: Path) -> None:
    """Where keys are required: none or a wrong one is refused; and one caller's bytes are not another's, be they the same."""
    flow = FakeFlow()
    callers = FakeCallers({"key-a": "a", "key-b": "b"})
    async with serving(tmp_path, flow, callers=callers) as (_, channel):
        for metadata in ((), (("x-api-key", "key-c"),)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await Stub(channel).CreateMessage(Create(params=PARAMS), metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for metadata in KEYS * 2:
            await Stub(channel).CreateMessage(Create(params=PARAMS, options={"caller": "ignored"}), metadata=metadata)
    assert [call.caller.name for call in flow.asked] == ["a", "b"]
    assert len({call.fingerprint for call in flow.asked}) == 2


async def test_credentials(tmp_path: Path) -> None:
    """Callers' own keys go upstream, as they were presented, and only the same key shares an answer."""
    flow = FakeFlow()
    async with serving(tmp_path, flow, passes_credentials=True) as (_, channel):
        for metadata in KEYS * 2:
            await Stub(channel).CreateMessage(Create(params=PARAMS), metadata=metadata)
    assert [call.credential for call in flow.asked] == ["x-api-key:key-a", "bearer:key-b"]
    assert len({call.fingerprint for call in flow.asked}) == 2


async def test_keys_unread(tmp_path: Path) -> None:
    """Where keys are not required, one that is presented changes nothing."""
    flow = FakeFlow()
    async with serving(tmp_path, flow) as (_, channel):
        for metadata in ((), *KEYS):
            await Stub(channel).CreateMessage(Create(params=PARAMS), metadata=metadata)
    assert [call.credential for call in flow.asked] == [""]


async def test_big(tmp_path: Path) -> None:
    """Bodies as large as upstream takes pass both ways; larger ones are refused for their size."""
    flow = FakeFlow()
    big = {**MESSAGE, "content": [{"type": "text", "text": "x" * 20_000_000}]}
    flow.respond = lambda call: reply(json_answer(big))
    async with serving(tmp_path, flow) as (_, channel):
        params = messages_pb2.MessageParams(model="m", max_tokens=1)
        params.messages.add(role="user").content.text = "y" * 20_000_000
        response = await Stub(channel).CreateMessage(Create(params=params))
        assert len(response.message.content[0].text.text) == 20_000_000
        params.messages[0].content.text = "y" * 33_000_000
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).CreateMessage(Create(params=params))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(refused.value)["ErrorInfo"].reason == "TOO_LARGE"


async def test_odd_event(tmp_path: Path) -> None:
    """An event whose data is no JSON, or whose name is not its type, is passed on as it is."""
    flow = FakeFlow()

    async def odd() -> AsyncIterator[Event]:
        yield Event("noise", b"not json", b"")
        yield event({"type": "ping"}, name="pong")

    flow.respond = lambda call: reply(events=odd())
    async with serving(tmp_path, flow) as (_, channel):
        first, second = [response async for response in Stub(channel).StreamMessage(Stream(params=PARAMS))]
    assert (first.event.other_json, first.event_name) == (b"not json", "noise")
    assert (second.event.WhichOneof("event"), second.event_name) == ("ping", "pong")
