"""The end of a drain, over the installed program: whoever still waits hears why, and when to come again, in its time."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import signal
import time

import aiohttp
import grpc
import grpc.aio
import pytest
import redis
from google.rpc import error_details_pb2, status_pb2

from conftest import until
from fleet import daemon_beside, simulated
from headrace.simulator import Options
from headrace.v1 import (
    api_service_pb2,
    api_service_pb2_grpc,
    messages_service_pb2,
    messages_service_pb2_grpc,
    options_pb2,
    tickets_service_pb2,
    tickets_service_pb2_grpc,
)

DRAIN_S = 2.0
CHANNELS, BESIDE = 8, 16
HEADERS = {"anthropic-version": "2023-06-01", "x-api-key": "any"}
OPTIONS = options_pb2.CallOptions(anthropic_version="2023-06-01")


def body(text, **more):
    return {"model": "claude-haiku-4-5", "max_tokens": 400, "messages": [{"role": "user", "content": text}]} | more


async def http(one, method, path, sent=None, **headers):
    """Ask, and return the status, the headers and all that came."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session,
        session.request(method, f"{one.http}{path}", json=sent, headers=HEADERS | headers) as response,
    ):
        return response.status, response.headers, await response.read()


def is_told(said):
    status, headers, came = said
    assert (status, headers.get("x-should-retry", "true"), headers["retry-after"]) == (503, "true", "1"), came
    assert json.loads(came)["error"]["type"] == "api_error"
    assert "leaves" in json.loads(came)["error"]["message"]


async def unary(one):
    is_told(await http(one, "POST", "/v1/messages", body("unary")))


async def keyed(one):
    is_told(await http(one, "POST", "/v1/messages", body("keyed"), **{"idempotency-key": "k"}))


async def not_begun(one):
    is_told(await http(one, "POST", "/v1/messages", body("not begun", stream=True)))


async def begun(one):
    """A stream that has begun ends in an error event."""
    status, _, came = await http(one, "POST", "/v1/messages", body("begun answer in 300 tokens", stream=True))
    assert status == 200
    last = came.rstrip().rsplit(b"event: ", 1)[1]
    assert last.startswith(b"error"), came[-300:]
    assert b"leaves" in last


async def carried(one):
    is_told(await http(one, "GET", "/v1/files", **{"anthropic-beta": "files-api-2025-04-14"}))


def status_of(error):
    assert error.code() is grpc.StatusCode.UNAVAILABLE, error
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    found = [detail.Unpack(info) or detail.Unpack(retry) for detail in status_pb2.Status.FromString(packed).details]
    assert all(found)
    assert (info.reason, retry.retry_delay.seconds) == ("DRAINING", 1)


def asked(request, text):
    request.params.model, request.params.max_tokens = "claude-haiku-4-5", 400
    request.params.messages.add(role="user").content.text = text
    request.options.CopyFrom(OPTIONS)
    return request


async def grpc_unary(one):
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateMessage(asked(messages_service_pb2.CreateMessageRequest(), "grpc unary"), timeout=60)
    status_of(caught.value)


async def grpc_stream(one):
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
        request = asked(messages_service_pb2.StreamMessageRequest(), "begun answer in 300 tokens, over grpc")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.StreamMessage(request, timeout=60):
                pass
    status_of(caught.value)


async def waiting(one):
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        request = asked(messages_service_pb2.SubmitMessageRequest(), "submitted")
        ticket = (await messages_service_pb2_grpc.MessagesServiceStub(channel).SubmitMessage(request, timeout=60)).ticket
        stub = tickets_service_pb2_grpc.TicketsServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.WaitTicket(tickets_service_pb2.WaitTicketRequest(id=ticket.id, options=OPTIONS), timeout=60)
    status_of(caught.value)


async def raw(one):
    """ApiService.Call says it as HTTP does."""
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        headers = [api_service_pb2.Header(name=name, value=value) for name, value in HEADERS.items()]
        head = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", headers=headers)
        parts = [api_service_pb2.CallRequest(head=head), api_service_pb2.CallRequest(chunk=json.dumps(body("raw")).encode())]
        replies = [reply async for reply in api_service_pb2_grpc.ApiServiceStub(channel).Call(iter(parts), timeout=60)]
    said = {header.name: header.value for header in replies[0].head.headers}
    is_told((replies[0].head.status, said, b"".join(reply.chunk for reply in replies)))


ASKS = (unary, keyed, not_begun, begun, carried, grpc_unary, grpc_stream, waiting, raw)


async def test_told() -> None:
    """
    Unary and stream, kept and carried, waited for and raw, at both doors: UNAVAILABLE with a reason and a time, in time.

    Who waits for a ticket hears it at once, for that can be waited for elsewhere; all others have some time.
    """
    slowly = Options(first_token_s=0.2, tokens_per_s=10, jitter=0, answer_tokens=(300, 300))
    async with simulated(slowly) as upstream, daemon_beside(upstream.url, DRAIN__TIME=f"{DRAIN_S:g}s") as one:
        for text in ("unary", "keyed", "not begun", "submitted", "raw"):
            upstream.faults.add("hang", text=text)
        upstream.faults.add("hang", path="/v1/files")
        told_at = []

        async def told(ask):
            await ask(one)
            if ask is not waiting:
                told_at.append(time.monotonic())

        asking = [asyncio.create_task(told(ask)) for ask in ASKS]
        await until(lambda: upstream.counts.running == len(ASKS) or any(task.done() for task in asking), within=20)
        await asyncio.sleep(0.5)  # streams have begun
        began = time.monotonic()
        one.served.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*asking), 30)
        assert max(told_at) - began < DRAIN_S + 0.5
        assert min(told_at) - began > DRAIN_S / 3, "they had some time"
        await asyncio.to_thread(one.served.process.wait, 30)
        assert one.served.process.returncode == 0
    assert "Traceback" not in one.served.log


async def test_no_time_at_all() -> None:
    """Where a drain has no time, callers hear it all the same."""
    async with simulated() as upstream, daemon_beside(upstream.url, DRAIN__TIME="0s") as one:
        upstream.faults.add("hang", count=9)
        asking = [asyncio.create_task(ask(one)) for ask in (unary, grpc_unary)]
        await until(lambda: upstream.counts.running == len(asking))
        one.served.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*asking), 30)


# Where else they may wait: in the queue, in line, for another host's answer.

FEW = '[{name = "few", match = {caller = "few"}, concurrency = 1}]'


async def over_http(one, text, **headers):
    is_told(await http(one, "POST", "/v1/messages", body(text), **headers))


async def over_grpc(one, text, caller=""):
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        request = asked(messages_service_pb2.CreateMessageRequest(), text)
        request.options.caller = caller
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await messages_service_pb2_grpc.MessagesServiceStub(channel).CreateMessage(request, timeout=60)
    status_of(caught.value)


async def test_told_wherever_they_wait(valkey_url) -> None:
    """Parked, parked with a key, in line for a limit, and following what another daemon leads: the same, at both doors."""
    more = {"DRAIN__TIME": f"{DRAIN_S:g}s", "UPSTREAM__OVERLOAD_GATE": "off"}
    async with (
        simulated() as upstream,
        daemon_beside(upstream.url, valkey_url, LIMIT=FEW, **more) as one,
        daemon_beside(upstream.url, valkey_url) as two,
    ):
        for text in ("followed", "few first"):
            upstream.faults.add("hang", text=text)
        upstream.faults.add("overloaded", text="parked", retry_after_s=30)
        led = [asyncio.create_task(http(two, "POST", "/v1/messages", body("followed")))]
        first = asyncio.create_task(over_grpc(one, "few first", caller="few"))
        await until(lambda: upstream.counts.running == 2)
        asking = [
            over_http(one, "parked"),
            over_grpc(one, "parked"),
            over_http(one, "parked, keyed", **{"idempotency-key": "k"}),
            over_http(one, "in line", **{"x-headrace-caller": "few"}),
            over_grpc(one, "in line, too", caller="few"),
            over_http(one, "followed"),
            over_grpc(one, "followed"),
        ]
        tasks = [first, *map(asyncio.create_task, asking)]
        await until(lambda: upstream.counts.total >= 4)
        await asyncio.sleep(0.5)  # they have all come to where they wait
        assert not any(task.done() for task in tasks)
        began = time.monotonic()
        one.served.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        assert time.monotonic() - began < DRAIN_S + 0.5
        await asyncio.to_thread(one.served.process.wait, 30)
        assert one.served.process.returncode == 0
        for task in led:
            task.cancel()
        await asyncio.gather(*led, return_exceptions=True)
    assert "Traceback" not in one.served.log


@pytest.mark.parametrize("silent_s", [DRAIN_S / 2, 3 * DRAIN_S], ids=["and comes back", "for longer"])
async def test_told_while_redis_is_silent(valkey_url, silent_s) -> None:
    """Redis stands still as the drain begins: who waits for an answer hears the same, and as soon, whatever Redis owes."""
    slowly = Options(first_token_s=0.2, tokens_per_s=10, jitter=0, answer_tokens=(300, 300))
    more = {"DRAIN__TIME": f"{DRAIN_S:g}s", "LIMIT": '[{name = "org", requests_per_minute = 6000, concurrency = 50}]'}
    asks = [ask for ask in ASKS if ask is not waiting]
    async with simulated(slowly) as upstream, daemon_beside(upstream.url, valkey_url, **more) as one:
        for text in ("unary", "keyed", "not begun", "raw"):
            upstream.faults.add("hang", text=text)
        upstream.faults.add("hang", path="/v1/files")
        asking = [asyncio.create_task(ask(one)) for ask in asks]
        await until(lambda: upstream.counts.running == len(asks) or any(task.done() for task in asking), within=20)
        await asyncio.sleep(0.5)  # streams have begun
        with redis.Redis.from_url(valkey_url) as client:
            client.client_pause(round(silent_s * 1000))
        began = time.monotonic()
        one.served.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*asking), 30)
        assert time.monotonic() - began < DRAIN_S + 1.0
        await asyncio.to_thread(one.served.process.wait, 60)
        assert one.served.process.returncode == 0
        print(f"left after {time.monotonic() - began:.1f} s")
    assert "Traceback" not in one.served.log


async def test_told_in_mid_load() -> None:
    """gRPC calls that come just as the drain begins, many at once: each is answered, or told UNAVAILABLE and no CANCELLED."""
    async with simulated() as upstream, daemon_beside(upstream.url, DRAIN__TIME=f"{DRAIN_S:g}s") as one:
        codes: collections.Counter[str] = collections.Counter()

        async def ask_on(number: int) -> None:
            async with grpc.aio.insecure_channel(one.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
                await asyncio.gather(*(ask(stub, f"{number}.{which}") for which in range(BESIDE)))

        async def ask(stub: messages_service_pb2_grpc.MessagesServiceStub, text: str) -> None:
            for turn in itertools.count():
                try:
                    await stub.CreateMessage(asked(messages_service_pb2.CreateMessageRequest(), f"{text}.{turn}"), timeout=30)
                except grpc.aio.AioRpcError as error:
                    codes[f"{error.code().name} {error.details()[:40]}"] += 1
                    if "connect" in (error.details() or ""):
                        return
                    await asyncio.sleep(1.0)  # as it was told
                else:
                    codes["OK"] += 1

        asking = [asyncio.create_task(ask_on(number)) for number in range(CHANNELS)]
        await until(lambda: codes["OK"] > 100)
        one.served.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*asking), 60)
    print(codes)
    assert {code.partition(" ")[0] for code in codes} <= {"OK", "UNAVAILABLE"}, codes
