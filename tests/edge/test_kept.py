"""The other endpoints whose answers are kept: chats, counts and models, over a real edge with a scripted upstream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doors import open_door, say
from headrace.edge.grpc_tickets import ticket_message
from headrace.owner import Owner
from scripted import Line

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CHOICE = {"index": 0, "message": {"content": "ho"}, "finish_reason": "stop"}
CHAT = {"id": "c", "object": "chat.completion", "choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}
LIMIT = json.dumps([{"name": "tokens", "output_tokens_per_minute": 60_000}])


def chunk(delta: dict, finish: str | None = None, **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: %b\n\n" % json.dumps({"object": "chat.completion.chunk", "choices": choices, **more}).encode()


CHUNKS = [chunk({"role": "assistant", "content": ""}), chunk({"content": "ho"}), chunk({}, "stop"),
          b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":7}}\n\n', b"data: [DONE]\n\n"]  # fmt: skip


def streaming(chunks: list[bytes]):
    async def talk(line: Line) -> None:
        await line.begin_stream()
        for raw in chunks:
            await line.chunk(raw)
        await line.say(b"0\r\n\r\n")

    return talk


def answering(body: object):
    async def talk(line: Line) -> None:
        await line.answer(200, json.dumps(body).encode(), "content-type: application/json")

    return talk


@pytest.mark.parametrize(
    ("target", "ask", "answer"),
    [
        ("/v1/chat/completions", ASK, CHAT),
        ("/v1/messages/count_tokens", ASK, {"input_tokens": 3}),
    ],
)
async def test_whole(valkey_url: str, tmp_path: Path, target: str, ask: object, answer: object) -> None:
    """A repeat is answered from the cache, with the same bytes."""
    async with open_door(valkey_url, tmp_path, answering(answer)) as (door, server, _):
        first = await say(door, body=ask, target=target)
        again = await say(door, body=ask, target=target)
        assert server.calls == 1
        assert first[0] == again[0] == 200
        assert json.loads(first[1].partition(b"\r\n\r\n")[2]) == answer
        assert first[1].partition(b"\r\n\r\n")[2] == again[1].partition(b"\r\n\r\n")[2]
        assert b"x-headrace-source: cache" in again[1].lower()


async def test_chat_key(valkey_url: str, tmp_path: Path) -> None:
    """The compatible endpoint is asked the way OpenAI's is: with a bearer token."""
    async with open_door(valkey_url, tmp_path, answering(CHAT)) as (door, server, _):
        await say(door, body=ASK, target="/v1/chat/completions")
        assert server.lines[0].headers["authorization"] == "Bearer own-key"
        assert "x-api-key" not in server.lines[0].headers


async def test_chat_stream(valkey_url: str, tmp_path: Path) -> None:
    """A chat's stream is passed on chunk by chunk and replayed as it was; its whole is another answer."""
    async with open_door(valkey_url, tmp_path, streaming(CHUNKS), LIMIT=LIMIT) as (door, server, _):
        for _ in range(2):
            status, came = await say(door, body=ASK | {"stream": True}, target="/v1/chat/completions")
            assert status == 200
            assert all(raw in came for raw in CHUNKS)
        assert server.calls == 1
        await say(door, "x-headrace-timeout-ms: 300", body=ASK, target="/v1/chat/completions")
        assert server.calls > 1


@pytest.mark.parametrize(
    ("chunks", "is_kept"),
    [
        (CHUNKS, True),
        ([chunk({"tool_calls": [{"index": 0}]}), chunk({}, "tool_calls"), b"data: [DONE]\n\n"], True),
        ([chunk({"content": "x"}), chunk({}, "content_filter"), b"data: [DONE]\n\n"], False),
        ([chunk({"content": "x"}), b"data: [DONE]\n\n"], False),
    ],
)
async def test_chat_kept(valkey_url: str, tmp_path: Path, chunks: list[bytes], is_kept: bool) -> None:
    """A chat that ended by itself is kept; one that was cut by a filter, or that says no end, is not."""
    async with open_door(valkey_url, tmp_path, streaming(chunks)) as (door, server, _):
        for _ in range(2):
            await say(door, body=ASK | {"stream": True}, target="/v1/chat/completions")
        assert server.calls == (1 if is_kept else 2)


@pytest.mark.parametrize(
    "broken",
    [
        CHUNKS[:1],
        [CHUNKS[0], b'data: {"error":{"type":"overloaded_error","message":"oh"}}\n\n'],
        [CHUNKS[0], b"data: {half\n\n"],
    ],
)
async def test_chat_again(valkey_url: str, tmp_path: Path, broken: list[bytes]) -> None:
    """A stream that fails before its first content is tried again, unseen."""
    talks = [streaming(broken), streaming(CHUNKS)]

    async def talk(line: Line) -> None:
        await (talks.pop(0) if len(talks) > 1 else talks[0])(line)

    async with open_door(valkey_url, tmp_path, talk) as (door, server, _):
        status, came = await say(door, body=ASK | {"stream": True}, target="/v1/chat/completions")
        assert (status, server.calls) == (200, 2)
        assert came.count(b"[DONE]") == 1
        assert b"x-headrace-attempts: 2" in came.lower()


async def test_chat_breaks(valkey_url: str, tmp_path: Path) -> None:
    """After its first content a failure is the stream's last event."""
    async with open_door(valkey_url, tmp_path, streaming(CHUNKS[:2])) as (door, server, _):
        _, came = await say(door, body=ASK | {"stream": True}, target="/v1/chat/completions")
        assert server.calls == 1
        assert b"event: error" in came
        assert b"[DONE]" not in came


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/chat/completions", {"messages": ASK["messages"]}),
        ("/v1/chat/completions", {"model": "m"}),
        ("/v1/chat/completions", ASK | {"stream": "yes"}),
        ("/v1/messages/count_tokens", {"model": "m", "messages": []}),
        ("/v1/messages/count_tokens", b"[]"),
    ],
)
async def test_wrong(valkey_url: str, tmp_path: Path, target: str, body: object) -> None:
    """A call without what the daemon needs is 400, and upstream is not asked."""
    async with open_door(valkey_url, tmp_path, answering({})) as (door, server, _):
        status, came = await say(door, body=body, target=target)
        assert (status, server.calls) == (400, 0)
        assert b"invalid_request_error" in came


async def test_half_an_answer(valkey_url: str, tmp_path: Path) -> None:
    """What is no answer of the endpoint is neither kept nor given."""
    async with open_door(valkey_url, tmp_path, answering({"odd": 1})) as (door, _, _):
        status, _ = await say(door, "x-headrace-timeout-ms: 700", body=ASK, target="/v1/chat/completions")
        assert status in (502, 504)


async def test_ticket(valkey_url: str, tmp_path: Path) -> None:
    """A chat with an idempotency key has a ticket, which holds its answer as HTTP said it."""
    async with open_door(valkey_url, tmp_path, streaming(CHUNKS)) as (door, server, one):
        for _ in range(2):
            await say(door, "idempotency-key: k", body=ASK | {"stream": True}, target="/v1/chat/completions")
        assert server.calls == 1
        (ticket,), _ = await one.parts.tickets.listing.page("default")
        said = ticket_message(await one.parts.tickets.get(ticket.id, Owner("default")))
        assert said.other_answer == b"".join(CHUNKS)
        assert not said.HasField("message")
