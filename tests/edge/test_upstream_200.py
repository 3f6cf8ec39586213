"""What comes with status 200 and is no plain answer: errors that are what their type says, and answers not to be read."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from doors import BODY, open_door, say
from headrace import forms
from headrace.errors import Failure
from scripted import CALL, EVENTS, MESSAGE, STREAM, Line, asking, everything, failed_stream, failure_of

CHAT = replace(CALL, endpoint="chat", path="/v1/chat/completions")
COUNT = replace(CALL, endpoint="count_tokens", path="/v1/messages/count_tokens")
CHAT_ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"error":null}'


def error(kind: str, *, bare: bool = False, **more: object) -> bytes:
    said = {"error": {"type": kind, "message": "upstream's words", **more}}
    return json.dumps(said if bare else {"type": "error", **said}).encode()


def body(payload: bytes, *headers: str):
    async def talk(line: Line) -> None:
        await line.answer(200, payload, "content-type: application/json", *headers)

    return talk


def events(*raw: bytes, end: bytes = b"0\r\n\r\n"):
    async def talk(line: Line) -> None:
        await line.begin_stream()
        for data in raw:
            await line.chunk(data)
        await line.say(end)

    return talk


# Errors.

TYPES = [
    ("invalid_request_error", 400, Failure.FINAL),
    ("authentication_error", 401, Failure.FINAL),
    ("billing_error", 402, Failure.FINAL),
    ("not_found_error", 404, Failure.FINAL),
    ("request_too_large", 413, Failure.FINAL),
    ("rate_limit_error", 429, Failure.RATE_LIMITED),
    ("api_error", 500, Failure.BROKEN),
    ("timeout_error", 504, Failure.BROKEN),
    ("overloaded_error", 529, Failure.OVERLOADED),
    ("an_error_of_tomorrow", 500, Failure.BROKEN),
]


@pytest.mark.parametrize(("kind", "status", "failure"), TYPES)
@pytest.mark.parametrize("call", [CALL, CHAT, COUNT], ids=["messages", "chat", "count"])
async def test_error_as_body(kind: str, status: int, failure: Failure, call) -> None:
    """A whole body that is an error is an error of its type, in upstream's words, whatever the endpoint."""
    said = error(kind, bare=call is CHAT)
    async with asking(body(said, "retry-after: 7", "x-request: no")) as (upstream, server):
        failed = await failure_of(upstream.ask(call))
        assert (failed.failure, failed.error.status, failed.error.body) == (failure, status, said)
        assert failed.error.message == "upstream's words"
        assert failed.retry_after_s == 7
        assert server.calls == 1


@pytest.mark.parametrize(("kind", "status", "failure"), TYPES)
@pytest.mark.parametrize("how", ["body", "spaced", "first", "nameless", "middle"])
async def test_error_for_a_stream(kind: str, status: int, failure: Failure, how: str) -> None:
    """The same where a stream was asked for: of JSON in its place, and of an event, named or not, wherever it comes."""
    said = error(kind)
    talk = {
        "body": body(said),
        "spaced": body(json.dumps(json.loads(said), indent=2).replace("\n", "\n\n").encode()),
        "first": events(b"event: error\ndata: " + said + b"\n\n"),
        "nameless": events(b"data: " + said + b"\n\n"),
        "middle": events(*EVENTS[:2], b"event: error\ndata: " + said + b"\n\n", *EVENTS[2:]),
    }[how]
    async with asking(talk) as (upstream, _):
        came, failed = await failed_stream(upstream)
        assert came == (EVENTS[:2] if how == "middle" else [])
        assert (failed.failure, failed.error.status, failed.error.message) == (failure, status, "upstream's words")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (error("rate_limit_error", bare=True), 429),
        (b'{"error":{"message":"slow down","code":429}}', 429),
        (b'{"error":{"message":"slow down","type":null,"code":"rate_limit_exceeded"}}', 429),
        (b'{"error":{"message":"oh","code":503},"choices":[]}', 503),
        (b'{"error":"out of order"}', 500),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_error_of_a_chat(said: bytes, status: int, stream: bool) -> None:
    """A chat's errors have no type of their own: they say it inside, by a type or by a status, or in words only."""
    async with asking(events(b"data: " + said + b"\n\n") if stream else body(said)) as (upstream, _):
        call = replace(CHAT, stream=stream)
        failed = await failure_of(everything(upstream, call) if stream else upstream.ask(call))
        assert (failed.error.status, failed.error.body) == (status, said)


async def test_no_error() -> None:
    """What only speaks of errors is an answer."""
    async with asking(body(CHAT_ANSWER)) as (upstream, _):
        assert (await upstream.ask(CHAT)).payload == CHAT_ANSWER
    told = MESSAGE.replace(b'"Hi"', b'"{\\"type\\":\\"error\\",\\"error\\":{}}"')
    async with asking(body(told)) as (upstream, _):
        assert (await upstream.ask(CALL)).payload == told


# What is odd, and read.


@pytest.mark.parametrize("payload", [MESSAGE, b"\n" + MESSAGE, b"\xef\xbb\xbf" + MESSAGE])
async def test_whole_for_a_stream(payload: bytes) -> None:
    """A whole message in place of its events says the same."""
    async with asking(body(payload)) as (upstream, _):
        told = await everything(upstream)
        assert forms.message_of_events(told) == json.loads(MESSAGE)


async def test_marks() -> None:
    """A byte order mark says nothing, before JSON or before events."""
    async with asking(body(b"\xef\xbb\xbf" + MESSAGE)) as (upstream, _):
        assert (await upstream.ask(CALL)).payload == MESSAGE
    for cut in (1, 2, 3, 4):
        marked = b"\xef\xbb\xbf" + EVENTS[0]
        async with asking(events(marked[:cut], marked[cut:], *EVENTS[1:])) as (upstream, _):
            assert [event.raw for event in await everything(upstream)] == EVENTS


@pytest.mark.parametrize("line_end", [b"\r", b"\r\n"])
async def test_line_ends(line_end: bytes) -> None:
    """CR alone ends a line, too; the last event does not wait for what may follow."""
    said = [raw.replace(b"\n", line_end) for raw in EVENTS]
    async with asking(events(*said)) as (upstream, _):
        assert [event.name for event in await everything(upstream)][-1] == "message_stop"


async def test_no_last_blank_line() -> None:
    """Of the last event only the blank line may be missing."""
    async with asking(events(*EVENTS[:-1], EVENTS[-1].rstrip())) as (upstream, _):
        assert forms.message_of_events(await everything(upstream)) == json.loads(MESSAGE)


# What is whole, and not read.

WHOLE = {
    "NaN": MESSAGE.replace(b'"input_tokens":3', b'"input_tokens":NaN'),
    "Infinity": MESSAGE.replace(b'"usage":', b'"x":-Infinity,"usage":'),
    "no text": MESSAGE.replace(b"Hi", b"\xff"),
    "another object": b'{"type":"completion"}',
    "a list": b"[1]",
    "null": b"null",
}


@pytest.mark.parametrize("payload", WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize(
    "call", [CALL, STREAM, CHAT, replace(CHAT, stream=True)], ids=["whole", "stream", "chat", "chat's stream"]
)
async def test_unreadable(payload: bytes, call) -> None:
    """What is whole, and not to be read here, is final: a repeat would be the same. What it used nobody knows."""
    async with asking(body(payload)) as (upstream, _):
        failed = await failure_of(everything(upstream, call) if call.stream else upstream.ask(call))
        if payload == b"null" and call.stream:
            assert failed.failure is Failure.BROKEN  # a line of a stream of events, by the standard
            return
        assert (failed.failure, failed.error.status) == (Failure.UNREADABLE, 502)
        assert (failed.failure.is_final, failed.failure.has_used, failed.failure.counts) == (True, True, False)


@pytest.mark.parametrize(
    "data",
    [b'{"index":0,"delta":{"x":NaN}}', b'{"index":0,"delta":{"x":"\xff"}}', b'{"delta":7,"index":0}', b"[]"],
)
async def test_unreadable_event(data: bytes) -> None:
    """The same for an event that is whole; one that is cut off may be whole the next time."""
    async with asking(events(*EVENTS[:2], b"event: content_block_delta\ndata: " + data + b"\n\n")) as (upstream, _):
        _, failed = await failed_stream(upstream)
        assert failed.failure is Failure.UNREADABLE
    async with asking(events(*EVENTS[:2], b"event: content_block_delta\ndata: " + data[:-1] + b"\n\n")) as (upstream, _):
        _, failed = await failed_stream(upstream)
        assert failed.failure is Failure.BROKEN


PACKED = gzip.compress(MESSAGE)
PACKINGS = {
    "gzip": (PACKED, True),
    "x-gzip": (PACKED, True),
    "GZip": (PACKED, True),
    "identity": (MESSAGE, True),
    "gzip, x-gzip": (gzip.compress(PACKED), False),
    "deflate": (zlib.compress(MESSAGE), False),
    "compress": (PACKED, False),
    "gzip, of-tomorrow": (PACKED, False),
}


@pytest.mark.parametrize("name", PACKINGS)
@pytest.mark.parametrize("call", [CALL, STREAM], ids=["whole", "stream"])
async def test_packings(name: str, call) -> None:
    """A whole answer is unpacked by every name of the packing that was asked for; else it is not, and no stream is."""
    payload, is_known = PACKINGS[name]
    async with asking(body(payload, f"content-encoding: {name}")) as (upstream, _):
        asked = everything(upstream, call) if call.stream else upstream.ask(call)
        if is_known and (name == "identity" or not call.stream):
            said = await asked
            assert (forms.message_of_events(said) if call.stream else json.loads(said.payload)) == json.loads(MESSAGE)
        else:
            assert (await failure_of(asked)).failure is Failure.UNREADABLE


@pytest.mark.parametrize("call", [CALL, STREAM], ids=["whole", "stream"])
async def test_not_as_packed_as_it_says(call) -> None:
    """What is not packed as it says would not be so the next time, either."""
    async with asking(body(MESSAGE, "content-encoding: gzip")) as (upstream, _):
        failed = await failure_of(everything(upstream, call) if call.stream else upstream.ask(call))
        assert (failed.failure, failed.error.message) == (Failure.UNREADABLE, "upstream's answer cannot be unpacked")


# The whole daemon.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(("payload", "status"), [(error("invalid_request_error"), 400), (b'{"a":NaN}', 502)])
async def test_said_once(valkey_url: str, tmp_path: Path, payload: bytes, status: int, stream: bool, chat: bool) -> None:
    """Upstream is asked once, and the caller told what it said."""
    target = "/v1/chat/completions" if chat else "/v1/messages"
    async with open_door(valkey_url, tmp_path, body(payload)) as (door, server, _):
        told, came = await say(door, body=BODY | {"stream": stream}, target=target)
        assert (told, server.calls) == (status, 1)
        assert b"x-should-retry: false" in came.lower()
        assert (b"upstream's words" in came) == (status == 400)


@pytest.mark.parametrize("stream", [False, True])
async def test_tried_again(valkey_url: str, tmp_path: Path, stream: bool) -> None:
    """An overload with status 200 is waited out."""
    left = [error("overloaded_error"), error("rate_limit_error")]

    async def talk(line: Line) -> None:
        await body(left.pop() if left else MESSAGE)(line)

    async with open_door(valkey_url, tmp_path, talk) as (door, server, _):
        told, came = await say(door, body=BODY | {"stream": stream})
        assert (told, server.calls) == (200, 3)
        assert (b"message_stop" in came) == stream


async def test_never_kept(valkey_url: str, tmp_path: Path) -> None:
    """Neither a count nor a list that is an error is kept as an answer."""
    async with open_door(valkey_url, tmp_path, body(error("not_found_error"))) as (door, server, _):
        for asked in (1, 2):
            told, _ = await say(door, target="/v1/messages/count_tokens")
            assert (told, server.calls) == (404, asked)


async def test_carried(valkey_url: str, tmp_path: Path) -> None:
    """What is only carried passes untouched: its body is not ours to read."""
    said = error("overloaded_error")
    async with open_door(valkey_url, tmp_path, body(said)) as (door, server, _):
        told, came = await say(door, target="/v1/things")
        assert (told, server.calls) == (200, 1)
        assert came.endswith(said)


async def test_packed_error(valkey_url: str, tmp_path: Path) -> None:
    """An error that comes compressed is read like any other."""
    packed = gzip.compress(error("invalid_request_error"))
    async with open_door(valkey_url, tmp_path, body(packed, "content-encoding: gzip")) as (door, server, _):
        told, came = await say(door)
        assert (told, server.calls) == (400, 1)
        assert b"upstream's words" in came
