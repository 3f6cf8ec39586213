"""No answer of any shape holds up the loop, measured inside the daemon: judged, kept, and told in both forms at both doors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import aiohttp
import grpc
import pytest
from aiohttp import web

from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2, tickets_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub
from scripted import MESSAGE
from stalling import CHAT, SEEN_AGAIN, Watched, house

pytestmark = [pytest.mark.slow, SEEN_AGAIN]

UNBOUND = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
USAGE = {"input_tokens": 1, "output_tokens": 5}


def message(content: object = (), **more: object) -> bytes:
    return json.dumps(json.loads(MESSAGE) | {"content": content} | more, separators=(",", ":")).encode()


def events(*said: dict[str, object]) -> Iterable[bytes]:
    for each in said:
        yield b"event: %b\ndata: %b\n\n" % (str(each["type"]).encode(), json.dumps(each).encode())


def stream(deltas: int, text: str = "t") -> bytes:
    begun = json.loads(MESSAGE) | {"content": [], "stop_reason": None}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    first = events(
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    )
    last = events(
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE},
        {"type": "message_stop"},
    )
    return b"".join([*first, *list(events(delta)) * deltas, *last])


def chat(chunks: int) -> bytes:
    last = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    return b'data: {"choices":[]}\n\n' * chunks + last + b"data: [DONE]\n\n"


TEXT = {"type": "text", "text": "t"}
ERROR = {"type": "api_error", "message": "x"}
SSE = "text/event-stream"
SAID = {
    "small": lambda: message([TEXT]),
    "one text": lambda: message([{"type": "text", "text": "The quick brown fox. " * 2_900_000}]),
    "many blocks": lambda: message([TEXT] * 1_000_000),
    "kept blocks": lambda: message([TEXT] * 120_000),
    "some blocks": lambda: message([TEXT] * 3_100),
    "integers": lambda: message([TEXT], x=[1] * 15_000_000),
    "cut off": lambda: message([TEXT] * 500_000)[:-3],
    "no answer": lambda: b"[%b1]" % (b"1," * 15_000_000),
    "an error": lambda: json.dumps({"type": "error", "error": ERROR, "x": [1] * 9_000_000}).encode(),
}  # fmt: skip
STREAMS = {
    "kept stream": lambda: stream(30_000),
    "some events": lambda: stream(2_500),
    "long stream": lambda: stream(250_000),
    "one delta": lambda: stream(1, "x" * 15_000_000),
    "told often": lambda: stream(0).replace(
        b"event: content_block_stop",
        b"".join(events({"type": "message_delta", "delta": {}, "usage": USAGE})) * 100_000 + b"event: content_block_stop",
    ),
}
LONG = {
    "one text",
    "some blocks",
    "cut off",
    "no answer",
    "an error",
    "integers",
    "some events",
    "long stream",
    "one delta",
    "told often",
    "long chat",
    "choices",
}  # run with --long alone
CHATS = {"kept chat": lambda: chat(170_000), "long chat": lambda: chat(450_000)}
CHOICE = json.loads(CHAT)["choices"][0]


def some(names: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in names]


async def talk(request: web.BaseRequest) -> web.StreamResponse:
    """Say what the model's name asks for."""
    asked = json.loads(await request.read())
    name = asked["model"]
    made = (SAID | STREAMS | CHATS | {"choices": choices})[name]
    kind = SSE if name in STREAMS or name in CHATS else "application/json"
    return web.Response(body=await asyncio.to_thread(made), content_type=kind)


def choices() -> bytes:
    return json.dumps(json.loads(CHAT) | {"choices": [CHOICE] * 200_000}).encode()


async def ask(here: Watched, model: str, path: str = "/v1/messages", **more: object) -> int:
    body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]} | more
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=200)) as session,
        session.post(here.http + path, json=body) as answer,
    ):
        async for _ in answer.content.iter_any():
            pass
        return answer.status


@pytest.fixture
async def here():
    async with house(talk, RETRY__MAX_ATTEMPTS="1") as made:
        for warm in ("small", "kept blocks"):
            await ask(made, warm)  # what is found out at the first call is no answer's fault
        yield made


@pytest.mark.parametrize("name", some(SAID))
async def test_whole(here, name):
    """Whole answers, good and bad, once and twice, and in the other form."""
    async with here.at_ease(name):
        await ask(here, name)
        await ask(here, name)
    async with here.at_ease(f"{name}, as events"):
        await ask(here, name, stream=True)


@pytest.mark.parametrize("name", some(STREAMS))
async def test_streams(here, name):
    """Streams, and in the other form what was kept of them."""
    async with here.at_ease(name):
        assert await ask(here, name, stream=True) == 200
        assert await ask(here, name, stream=True) == 200
    async with here.at_ease(f"{name}, as a message"):
        await ask(here, name)
        await ask(here, name)


@pytest.mark.parametrize("name", some([*CHATS, "choices"]))
async def test_chats(here, name):
    """Chats, which have no other form."""
    async with here.at_ease(name):
        for _ in range(2):
            assert await ask(here, name, "/v1/chat/completions", stream=name in CHATS) == 200


def typed(model: str) -> messages_pb2.MessageParams:
    asked = messages_pb2.InputMessage(role="user", content=content_pb2.Content(text="x"))
    return messages_pb2.MessageParams(model=model, max_tokens=5, messages=[asked])


WAYS = {"some blocks": [False, True], "one text": [False], "some events": [True, False]}  # no event is as large as that text


@pytest.mark.parametrize("name", some(WAYS))
async def test_typed(here, name):
    """Over gRPC, typed, in both forms, new and kept."""
    async with grpc.aio.insecure_channel(here.grpc, options=UNBOUND) as channel:
        stub = MessagesServiceStub(channel)
        for is_stream in WAYS[name] * 2:
            async with here.at_ease(f"{name}, {'events' if is_stream else 'whole'}"):
                if is_stream:
                    asked = messages_service_pb2.StreamMessageRequest(params=typed(name))
                    assert len([said async for said in stub.StreamMessage(asked, timeout=120)]) > 5
                else:
                    said = await stub.CreateMessage(messages_service_pb2.CreateMessageRequest(params=typed(name)), timeout=120)
                    assert said.message.content


@pytest.mark.parametrize("name", some(["many blocks", "one text"]))
async def test_tickets(here, name):
    """Of a submitted call, whose answer is written down, read again and shown."""
    async with grpc.aio.insecure_channel(here.grpc, options=UNBOUND) as channel, here.at_ease(name):
        asked = messages_service_pb2.SubmitMessageRequest(params=typed(name))
        ticket = (await MessagesServiceStub(channel).SubmitMessage(asked, timeout=60)).ticket
        said = await TicketsServiceStub(channel).WaitTicket(tickets_service_pb2.WaitTicketRequest(id=ticket.id), timeout=120)
        assert said.ticket.message.content
