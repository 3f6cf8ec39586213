"""The end of a drain for who has not said all that it asks, and for RPCs that are no calls: they hear why and when, too."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import grpc
import grpc.aio
import pytest
import redis
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from conftest import until
from fleet import daemon_beside, simulated
from headrace.v1 import (
    api_service_pb2,
    api_service_pb2_grpc,
    letters_service_pb2,
    letters_service_pb2_grpc,
    messages_service_pb2,
    messages_service_pb2_grpc,
    tickets_service_pb2,
    tickets_service_pb2_grpc,
)

pytestmark = pytest.mark.slow

DRAIN_S = 2.0
HEAD = "POST {} HTTP/1.1\r\nhost: localhost\r\nanthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n{}\r\n\r\n"


def is_told(error: grpc.aio.AioRpcError) -> None:
    """It is UNAVAILABLE, since the daemon leaves, and worth a repeat in a second."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    packed = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    assert packed is not None, error.details()
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert all(detail.Unpack(info) or detail.Unpack(retry) for detail in status_pb2.Status.FromString(packed).details)
    assert (info.reason, retry.retry_delay.seconds) == ("DRAINING", 1)


async def over_http(one, path: str, length: str, begun: bytes) -> None:
    """A request with a part of its body."""
    host, port = one.http.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(HEAD.format(path, length).encode() + begun)
    head, _, body = (await reader.read(100_000)).partition(b"\r\n\r\n")
    writer.close()
    assert b" 503 " in head.splitlines()[0], head
    assert b"retry-after: 1" in head
    assert "leaves" in json.loads(body)["error"]["message"]


async def api_body(one) -> None:
    """A request through `ApiService.Call` with a part of its body: told as HTTP tells it."""
    headers = [api_service_pb2.Header(name="anthropic-version", value="2023-06-01")]
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        call = api_service_pb2_grpc.ApiServiceStub(channel).Call()
        head = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", headers=headers)
        await call.write(api_service_pb2.CallRequest(head=head))
        await call.write(api_service_pb2.CallRequest(chunk=b'{"model":'))
        replies = [reply async for reply in call]
    assert replies[0].head.status == 503
    assert b"leaves" in replies[1].chunk


async def api_nothing(one) -> None:
    """A call of which nothing was said."""
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api_service_pb2_grpc.ApiServiceStub(channel).Call().read()
    is_told(caught.value)


async def reflection(one, begun: list[str]) -> None:
    """A tool that learned our services, and may ask for more."""
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await call.read()
        begun.append("reflection")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    is_told(caught.value)


async def health(one, heard: list[int]) -> None:
    """Who watches health hears NOT_SERVING first."""
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        heard.append((await call.read()).status)
        heard.append((await call.read()).status)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert heard == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    is_told(caught.value)


async def over_grpc(one, stub, method: str, asked) -> None:
    """An RPC that waits for Redis."""
    async with grpc.aio.insecure_channel(one.grpc) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub(channel), method)(asked, timeout=60)
    is_told(caught.value)


def submitted() -> messages_service_pb2.SubmitMessageRequest:
    asked = messages_service_pb2.SubmitMessageRequest()
    asked.params.model, asked.params.max_tokens = "claude-haiku-4-5", 9
    asked.params.messages.add(role="user").content.text = "submitted"
    asked.options.anthropic_version = "2023-06-01"
    return asked


def unsaid(one, begun: list[str], heard: list[int]) -> list:
    return [
        over_http(one, "/v1/messages", "content-length: 100", b'{"model":'),
        over_http(one, "/v1/messages", "transfer-encoding: chunked", b'5\r\n{"mod\r\n'),
        over_http(one, "/v1/files", "content-length: 100", b"abc"),
        api_body(one),
        api_nothing(one),
        reflection(one, begun),
        health(one, heard),
    ]


def waiting_for_redis(one) -> list:
    tickets, letters = tickets_service_pb2_grpc.TicketsServiceStub, letters_service_pb2_grpc.LettersServiceStub
    return [
        over_grpc(one, messages_service_pb2_grpc.MessagesServiceStub, "SubmitMessage", submitted()),
        over_grpc(one, tickets, "GetTicket", tickets_service_pb2.GetTicketRequest(id="tkt_any")),
        over_grpc(one, tickets, "ListTickets", tickets_service_pb2.ListTicketsRequest()),
        over_grpc(one, letters, "ListLetters", letters_service_pb2.ListLettersRequest()),
    ]


async def test_told(valkey_url) -> None:
    """Half a request at either door, questions that go on, health; and what waits for a Redis that is silent."""
    async with simulated() as upstream, daemon_beside(upstream.url, valkey_url, DRAIN__TIME=f"{DRAIN_S:g}s") as one:
        begun, heard = list[str](), list[int]()
        asking = [asyncio.create_task(ask) for ask in unsaid(one, begun, heard)]
        await until(lambda: begun and heard)
        await asyncio.sleep(0.5)  # and of the others all has come that comes
        with redis.Redis.from_url(valkey_url) as client:
            client.client_pause(round(1000 * (DRAIN_S + 1)))
        asking += [asyncio.create_task(ask) for ask in waiting_for_redis(one)]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in asking), [task for task in asking if task.done()]
        began = time.monotonic()
        one.served.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*asking), 30)
        assert time.monotonic() - began < DRAIN_S + 0.5
        await until(lambda: one.served.process.poll() is not None, within=30)
        assert one.served.process.returncode == 0
    assert "Traceback" not in one.served.log
