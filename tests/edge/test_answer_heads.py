"""What upstream may say in HTTP is read; what cannot be read is asked for once and said once, in words for people."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import ssl
from pathlib import Path

import pytest

from doors import BODY, call, open_door, open_grpc_door, say
from headrace.errors import Failure
from headrace.upstream import Upstream
from headrace.upstream.answer_heads import without_copies
from scripted import CALL, MESSAGE, Line, asking, failed_stream, failure_of

SIZE = b"content-length: %d" % len(MESSAGE)
PACKED = gzip.compress(MESSAGE)


def saying(*lines: bytes, body: bytes = MESSAGE, status: bytes = b"HTTP/1.1 200 OK", end: bytes = b"\r\n"):
    async def talk(line: Line) -> None:
        await line.say(end.join([status, *lines, b"", b""]) + body)

    return talk


READABLE = {
    "long header": saying(SIZE, b"x-long: " + b"a" * 60_000),
    "many headers": saying(SIZE, *(b"x-%d: y" % n for n in range(900))),
    "long reason": saying(SIZE, status=b"HTTP/1.1 200 " + b"a" * 60_000),
    "two equal lengths": saying(SIZE, SIZE),
    "three equal lengths": saying(SIZE, b"x: y", SIZE.title(), b"y: z", SIZE),
    "equal lengths in one": saying(SIZE + b", %d" % len(MESSAGE)),
    "x-gzip": saying(b"content-length: %d" % len(PACKED), b"content-encoding: x-gzip", body=PACKED),
    "X-GZip": saying(b"content-length: %d" % len(PACKED), b"Content-Encoding: X-GZip", body=PACKED),
    "bare line ends": saying(SIZE, end=b"\n"),
    "an early hint": saying(SIZE, status=b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK"),
    "bytes in a value": saying(SIZE, b"x-note: caf\xe9 \xe6\xb0\xb4\t."),
    "lengths and chunks": saying(b"transfer-encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(MESSAGE), MESSAGE)),
}
UNREADABLE = {
    "longer header": saying(SIZE, b"x-long: " + b"a" * 70_000),
    "too many headers": saying(SIZE, *(b"x-%d: y" % n for n in range(1_100))),
    "two lengths": saying(SIZE, b"content-length: 5"),
    "no length": saying(b"content-length: many"),
    "negative length": saying(b"content-length: -1"),
    "length and chunks": saying(SIZE, b"transfer-encoding: chunked"),
    "no name": saying(SIZE, b": x"),
    "no chunks": saying(b"transfer-encoding: chunked", body=b"zz\r\n" + MESSAGE),
}


@pytest.mark.parametrize("talk", READABLE.values(), ids=READABLE.keys())
async def test_readable(talk) -> None:
    """HTTP allows it, so it is read, also when it comes byte by byte, and the connection serves again."""

    async def dripping(line: Line) -> None:
        said: list[bytes] = []
        real, line.say = line.say, lambda data: asyncio.sleep(0, said.append(data))  # type: ignore[method-assign]
        await talk(line)
        line.say = real  # type: ignore[method-assign]
        whole = b"".join(said)
        for begin in range(0, len(whole), max(1, len(whole) // 300)):
            await line.say(whole[begin : begin + max(1, len(whole) // 300)])

    for way in (talk, dripping):
        async with asking(way) as (upstream, server):
            for _ in range(2):
                assert (await upstream.ask(CALL)).payload == MESSAGE
            assert server.calls == 2
            assert len(server.lines) == 1


@pytest.mark.parametrize("talk", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_unreadable(talk) -> None:
    """What is there and cannot be read is final: it would be the same again, and paid again."""
    async with asking(talk) as (upstream, server):
        failed = await failure_of(upstream.ask(CALL))
        assert (failed.failure, failed.error.status, failed.sent, server.calls) == (Failure.UNREADABLE, 502, True, 1)
        _, failed = await failed_stream(upstream)
        assert failed.failure is Failure.UNREADABLE


@pytest.mark.parametrize("target", ["/v1/messages", "/v1/models", "/v1/files", "/v1/messages/batches"])
@pytest.mark.parametrize("stream", [False, True])
async def test_asked_once(valkey_url: str, tmp_path: Path, target: str, stream: bool) -> None:
    """At both doors, kept or carried, it is asked for once, and said in the API's shape."""
    talk = UNREADABLE["longer header"]
    async with open_door(valkey_url, tmp_path, talk) as (door, server, _):
        status, came = await say(
            door, body=BODY | {"stream": stream}, target=target if target != "/v1/models" else "/v1/messages/count_tokens"
        )
        assert (status, server.calls) == (502, 1)
        assert b'"api_error"' in came
        assert b"x-should-retry: false" in came.lower()
    async with open_grpc_door(valkey_url, tmp_path, talk) as (grpc_door, server, _):
        method, body = ("GET", b"") if target != "/v1/messages" else ("POST", json.dumps(BODY | {"stream": stream}).encode())
        status, headers, said = await call(grpc_door.ports[0], method, target, (), body)
        assert (status, headers["x-should-retry"], server.calls) == (502, "false", 1)
        assert b'"api_error"' in said


async def test_advice(valkey_url: str, tmp_path: Path) -> None:
    """A 409, which is not repeated here, keeps upstream's word that a repeat helps; what was repeated here does not."""

    async def talk(line: Line) -> None:
        status = 409 if b"conflict" in line.head + line.body else 400
        await line.answer(
            status, b'{"type":"error","error":{"type":"conflict_error","message":"no"}}', f"x-should-retry: {advice}"
        )

    async with open_door(valkey_url, tmp_path, talk) as (door, server, _):
        for advice in ("true", "false"):
            for target in ("/v1/messages", "/v1/things"):
                status, came = await say(door, target=target, body=BODY | {"model": "conflict"})
                assert status == 409
                assert f"x-should-retry: {advice}".encode() in came.lower()
        assert server.calls == 4


async def test_waits(valkey_url: str, tmp_path: Path) -> None:
    """Of several waits the longest holds, and is the one that the caller is told."""

    async def talk(line: Line) -> None:
        await line.answer(429, b"{}", "retry-after: 2", "retry-after-ms: 100", "retry-after: 3000", "x-should-retry: false")

    async with open_door(valkey_url, tmp_path, talk) as (door, _, _):
        for target in ("/v1/messages", "/v1/things"):
            status, came = await say(door, target=target)
            assert status == 429
            assert re.findall(rb"retry-after[^\r]*", came.lower()) == [b"retry-after: 3000"]


async def hang_up(line: Line) -> None:
    line.writer.close()


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        (hang_up, "it hung up before it answered"),
        (saying(b"content-length: 4000"), "it broke off in the middle of its answer"),
        (saying(SIZE, b"content-encoding: gzip"), "upstream's answer cannot be unpacked"),
        (saying(status=b"SSH-2.0-OpenSSH"), "what it said is not HTTP"),
    ],
)
async def test_words(talk, words: str) -> None:
    """What broke is said in words for people, and not in the names of the program's insides."""

    async def once(line: Line) -> None:
        await talk(line)
        line.writer.close()

    async with asking(once) as (upstream, _):
        failed = await failure_of(upstream.ask(CALL))
        whole = words if words.startswith("upstream") else f"the connection to upstream broke: {words}"
        assert failed.error.message == whole


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "no connection came about"),
        ("http://no-such-host.invalid", "its name is not known"),
    ],
)
async def test_words_unreachable(url: str, words: str) -> None:
    """So is what kept a call from being sent."""
    upstream = Upstream(url, lambda: "k")
    failed = await failure_of(upstream.ask(CALL))
    assert failed.error.message == f"upstream cannot be reached: {words}"
    await upstream.aclose()


async def test_words_tls() -> None:
    """And TLS that cannot be agreed on."""
    async with asking(hang_up) as (plain, server):
        upstream = Upstream(server.url.replace("http", "https"), lambda: "k")
        failed = await failure_of(upstream.ask(CALL))
        assert re.fullmatch("upstream cannot be reached: [a-zA-Z ]+", failed.error.message)
        assert "Error" not in failed.error.message
        await upstream.aclose()
        del plain
    assert ssl.OPENSSL_VERSION


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
        b"HTTP/1.1 200 OK\r\nx-content-length: 5\r\ncontent-length: 5\r\n",
    ],
)
def test_left_alone(head: bytes) -> None:
    """A head that says its length once, not at all, or in two ways stays as it is."""
    assert without_copies(head) == head
