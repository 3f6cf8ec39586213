"""An upstream that means harm: whatever it says, callers hear one clear error, nothing is kept, no fault logged."""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from pathlib import Path

import brotli
import pytest
import redis
from structlog.testing import capture_logs

from doors import BODY, call, grpc_server, open_door, say
from scripted import EVENTS, MESSAGE, Line

GOOD = json.loads(MESSAGE)
KEPT = ("headrace:cache:entry:*", "headrace:flight:*", "headrace:ticket:*")


def but(**changes: object) -> bytes:
    """Return a message with other members; `...` takes one out."""
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value is not ...}).encode()


def answer(payload: bytes, *headers: str, status: int = 200):
    async def talk(line: Line) -> None:
        await line.answer(status, payload, *headers)

    return talk


def raw(*lines: bytes, status: int = 200, payload: bytes = MESSAGE):
    async def talk(line: Line) -> None:
        head = b"HTTP/1.1 %d So\r\ncontent-length: %d\r\n" % (status, len(payload))
        await line.say(head + b"".join(each + b"\r\n" for each in lines) + b"\r\n" + payload)

    return talk


def events(*said: bytes):
    async def talk(line: Line) -> None:
        await line.begin_stream()
        for each in said:
            await line.chunk(each)
        await line.say(b"0\r\n\r\n")

    return talk


def error(status: int, *headers: str, **said: object):
    return answer(json.dumps({"type": "error", "error": said}).encode(), *headers, status=status)


@functools.cache
def zeros_in_gzip(megabytes: int) -> bytes:
    packer, zeros = zlib.compressobj(9, wbits=31), bytes(1 << 20)
    return b"".join([packer.compress(zeros) for _ in range(megabytes)]) + packer.flush()


async def packed_zeros(line: Line) -> None:
    await line.answer(200, zeros_in_gzip(300), "content-encoding: gzip")


# What is no answer, though its status is 200.
NONE = {
    "content of numbers": answer(but(content=[5])),
    "content of nulls": answer(but(content=[None])),
    "content of lists": answer(but(content=[[]])),
    "a number among blocks": answer(but(content=[*GOOD["content"], 5])),
    "blocks with odd types": answer(but(content=[{"type": 5}])),
    "half a character, and numbers": answer(but(content=[{"type": "text", "text": "\ud83d"}, 5])),
    "content a number": answer(but(content=5)),
    "content an object": answer(but(content={})),
    "content a text": answer(but(content="Hi")),
    "content null": answer(but(content=None)),
    "no content": answer(but(content=...)),
    "a number": answer(b"5"),
    "a list": answer(b"[]"),
    "a text": answer(b'"x"'),
    "packed unasked": answer(brotli.compress(MESSAGE), "content-encoding: br"),
    "packed twice": answer(gzip.compress(gzip.compress(MESSAGE)), "content-encoding: gzip, gzip"),
    "a gigabyte, packed": packed_zeros,
    "65 MB": answer(b'{"type":"message"' + b" " * (65 << 20) + b"}"),
    "a long head": raw(*(b"x-%d: " % n + b"y" * 8000 for n in range(40))),
}
STREAMS = {
    "a block of a number": events(EVENTS[0], b'event: content_block_start\ndata: {"index":0,"content_block":{"type":5}}\n\n'),
    "65 MB": events(EVENTS[0], *[b": " + b"x" * (1 << 20) + b"\n\n"] * 65),
    "an event of a million lines": events(EVENTS[0], b"event: x\n", *[b"data:\n" * 50_000] * 20, b"\n"),
    "a comment of a million lines": events(EVENTS[0], *[b":\r" * 50_000] * 20, b"\r"),
    "a million events": events(EVENTS[0], *[b"\n\n" * 50_000] * 20),
}

# Errors that say too much, or too little.
ERRORS = {
    "a type of 20 KB": (error(400, type="x" * 20_000, message="m"), 400),
    "a type of control characters": (error(400, type="a\r\nb\0", message="m\0\x1b[2J"), 400),
    "a type that is none": (error(400, type=5, message=[]), 400),
    "an error that is none": (answer(b'{"type":"error","error":5}', status=400), 400),
    "a list": (answer(b"[[[]]]", status=400), 400),
    "nothing": (answer(b"", status=400), 400),
    "half of one": (answer(b'{"type":"error","error":{"ty', status=400), 400),
    "2 MB": (error(400, type="invalid_request_error", message="x" * (2 << 20)), 400),
    "a wait of 1e300 s": (error(429, "retry-after: 1e300", type="rate_limit_error", message="m"), 429),
    "a wait of 1e300 ms": (error(529, "retry-after-ms: 1e300", type="overloaded_error", message="m"), 529),
    "a wait of a number without end": (error(429, "retry-after: 1" + "0" * 400, type="rate_limit_error", message="m"), 429),
    "a wait to the year 9999": (
        error(429, "retry-after: Fri, 31 Dec 9999 23:59:59 GMT", type="rate_limit_error", message="m"), 429,
    ),
    "no time, finally": (
        error(429, "retry-after: nan", "retry-after-ms: -inf", "x-should-retry: false", type="rate_limit_error"), 429,
    ),
    "limits without end": (
        error(
            400, *(f"anthropic-ratelimit-requests-{each}: {'9' * 300}" for each in ("limit", "remaining", "reset")),
            type="invalid_request_error", message="m",
        ), 400,
    ),
    "control bytes in an id": (raw(b"request-id: a\x01\x7f\xff b", status=400, payload=b"{}"), 400),
    "control bytes in a header": (raw(b"anthropic-thing: a\x01\x0b\x7f", b"x-y: \x02", status=404, payload=b"{}"), 404),
    "an id of 60 KB": (raw(b"request-id: " + b"r" * 60_000, status=400, payload=b"{}"), 400),
}  # fmt: skip


def kept(url: str) -> list[bytes]:
    with redis.Redis.from_url(url) as client:
        return [key for pattern in KEPT for key in client.keys(pattern)]


def faults(logs: list) -> list:
    return [each for each in logs if each["log_level"] in ("error", "critical") or "exc_info" in each]


@pytest.mark.parametrize(
    ("talk", "stream"),
    [
        *(pytest.param(talk, stream, id=f"{name}-{stream}") for name, talk in NONE.items() for stream in (False, True)),
        *(pytest.param(talk, True, id=name) for name, talk in STREAMS.items()),
    ],
)
async def test_no_answer(valkey_url: str, tmp_path: Path, talk, stream: bool) -> None:
    """What is no answer is asked for once, and is upstream's fault; nobody is given it, now or later."""
    with capture_logs() as logs:
        async with open_door(valkey_url, tmp_path, talk) as (door, server, one), grpc_server(one, tmp_path) as other:
            status, came = await say(door, body=BODY | {"stream": stream})
            assert (status, server.calls) == (502, 1), came[-300:]
            assert b'"api_error"' in came
            assert b"x-should-retry: false" in came.lower()
            body = json.dumps(BODY | {"stream": stream, "max_tokens": 77}).encode()
            status, headers, came = await call(other.ports[0], "POST", "/v1/messages", (), body)
            assert (status, headers["x-should-retry"], server.calls) == (502, "false", 2), came[-300:]
    assert not kept(valkey_url)
    assert not faults(logs)


@pytest.mark.parametrize("target", ["/v1/messages", "/v1/things"], ids=["kept", "carried"])
@pytest.mark.parametrize(("talk", "expected"), ERRORS.values(), ids=ERRORS.keys())
async def test_errors(valkey_url: str, tmp_path: Path, talk, expected: int, target: str) -> None:
    """An error keeps its status at both doors, and fits."""
    with capture_logs() as logs:
        async with (
            open_door(valkey_url, tmp_path, talk, UPSTREAM__OVERLOAD_GATE="off") as (door, server, one),
            grpc_server(one, tmp_path) as other,
        ):
            status, came = await say(door, target=target)
            assert (status, server.calls) == (expected, 1), came[-300:]
            waits = [line for line in came.partition(b"\r\n\r\n")[0].lower().split(b"\r\n") if line.startswith(b"retry-after")]
            assert all(line.partition(b": ")[2].isdigit() for line in waits), waits
            status, _, came = await call(other.ports[0], "POST", target, (), json.dumps(BODY | {"max_tokens": 7}).encode())
            assert status == expected, came[-300:]
    assert not kept(valkey_url)
    assert not faults(logs)
    assert all(len(str(each)) < 1000 for each in logs)


USAGES = [
    5, [], {"input_tokens": -1}, {"input_tokens": 10**400, "output_tokens": 10**30}, {"output_tokens": "1"},
    {"output_tokens": 1e300},
]  # fmt: skip


@pytest.mark.parametrize("usage", USAGES, ids=range(len(USAGES)))
async def test_usage_of_no_sense(valkey_url: str, tmp_path: Path, usage: object) -> None:
    """An answer whose usage makes no sense is an answer; its figures go nowhere."""
    with capture_logs() as logs:
        async with open_door(valkey_url, tmp_path, answer(but(usage=usage))) as (door, _, one):
            for stream in (False, True):
                status, _ = await say(door, body=BODY | {"stream": stream})
                assert status == 200
            await one.parts.usage.post()
    assert not faults(logs)
    with redis.Redis.from_url(valkey_url) as client:
        for key in client.keys("headrace:{usage}:minute:*"):
            for figures in client.hvals(key):
                assert all(0 <= int(figure) < 2**50 for figure in figures.split())
