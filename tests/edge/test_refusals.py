"""What is no request: the caller hears one error in the API's shape, the log its kind, and nobody what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path

import grpc
import pytest
import structlog
from structlog.testing import LogCapture

from conftest import until
from doors import BODY, open_door
from headrace.clock import HandClock
from headrace.edge.http2_hint import PREFACE, Hint
from headrace.edge.http_refusals import TOO_LONG, Refusals
from headrace.v1.messages_service_pb2 import CreateMessageRequest
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub

MARK = "sk-ant-MARKER"
LINE = b"POST /v1/messages HTTP/1.1\r\n"
HOST = b"host: localhost\r\n"


async def ask(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            return await reader.read()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Everything that is logged, by whichever library."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.reset_defaults()
    structlog.configure(processors=[capture], cache_logger_on_first_use=False)
    caplog.set_level(logging.DEBUG)
    yield lambda: [*capture.entries, *(record.getMessage() + str(record.exc_info) for record in caplog.records)]
    structlog.configure(**before)


SECRET = MARK.encode()
NO_REQUESTS = {
    "CR in a header": (400, LINE + HOST + b"x-api-key: " + SECRET + b"\r\r\n\r\n"),
    "NUL in a header": (400, LINE + HOST + b"x-api-key: " + SECRET + b"\0\r\n\r\n"),
    "no colon": (400, LINE + HOST + SECRET + b"\r\n\r\n"),
    "name with a blank": (400, LINE + HOST + SECRET + b" x: y\r\n\r\n"),
    "folded": (400, LINE + HOST + b"x: y\r\n " + SECRET + b"\r\n\r\n"),
    "bad chunk size": (400, LINE + HOST + b"transfer-encoding: chunked\r\n\r\n" + SECRET + b"\r\n{}\r\n0\r\n\r\n"),
    "chunk too long": (400, LINE + HOST + b"transfer-encoding: chunked\r\n\r\n5\r\n{" + SECRET + b"}\r\n0\r\n\r\n"),
    "no host": (400, LINE + b"x-api-key: " + SECRET + b"\r\n\r\n"),
    "two hosts": (400, LINE + HOST + b"host: " + SECRET + b"\r\n\r\n"),
    "no length": (400, LINE + HOST + b"content-length: " + SECRET + b"\r\n\r\n"),
    "two lengths": (400, LINE + HOST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}" + SECRET),
    "length and chunks": (400, LINE + HOST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}" + SECRET),
    "TLS": (400, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + SECRET + bytes(100)),
    "nonsense": (400, SECRET + b" and so on\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /" + SECRET + b"\r\n\r\n"),
    "HTTP/3.7": (400, b"GET /" + SECRET + b" HTTP/3.7\r\nhost: localhost\r\n\r\n"),
    "long header": (431, LINE + HOST + b"x: " + SECRET + b"y" * 70_000 + b"\r\n\r\n"),
    "long name": (431, LINE + HOST + SECRET + b"y" * 70_000 + b": x\r\n\r\n"),
    "long line": (431, b"GET /v1/" + SECRET + b"y" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "many headers": (431, LINE + HOST + b"".join(b"x-%d: " % n + SECRET + b"\r\n" for n in range(1_100)) + b"\r\n"),
    "endless head": (431, LINE + HOST + b"".join(b"x-%d: " % n + SECRET * 100 + b"\r\n" for n in range(500))),
}


@pytest.mark.parametrize(("status", "sent"), NO_REQUESTS.values(), ids=NO_REQUESTS.keys())
async def test_no_request(valkey_url: str, tmp_path: Path, logged, status: int, sent: bytes) -> None:
    """Whatever cannot be read is 400 or 431 as the API says it, over HTTP/1.1; nothing of it is said again, anywhere."""
    async with open_door(valkey_url, tmp_path) as (door, server, _):
        came = await ask(door.port, sent)
        head, _, body = came.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), came
        assert b"content-type: application/json" in head.lower()
        said = json.loads(body)
        assert (said["type"], said["error"]["type"]) == ("error", "invalid_request_error")
        assert said["request_id"].startswith("req_headrace_")
        assert SECRET not in came
        lines = logged()
        assert MARK not in str(lines)
        events = [line["event"] for line in lines if isinstance(line, dict)]  # a busy machine's listener may be lost meanwhile
        assert [event for event in events if not event.startswith("listener.")] == ["request.refused"]
        assert [line for line in lines if isinstance(line, str) and "asyncio" not in line and "Using" not in line] == []
        assert server.calls == 0


@pytest.mark.parametrize("target", [b"/v1/messages", b"/v1/files"])
async def test_bad_chunk_later(valkey_url: str, tmp_path: Path, logged, target: bytes) -> None:
    """A body that turns out to be none ends its request at once, though its head was read long ago."""
    async with open_door(valkey_url, tmp_path) as (door, _, one):
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        with contextlib.closing(writer):
            writer.write(b"POST " + target + b" HTTP/1.1\r\n" + HOST + b'transfer-encoding: chunked\r\n\r\n5\r\n{"mes')
            await until(lambda: door._listener.requests_count == 1)
            writer.write(b"\r\n" + SECRET + b"\r\n")
            async with asyncio.timeout(10):
                came = await reader.read()
        assert came.startswith(b"HTTP/1.1 400 ")
        assert b'"invalid_request_error"' in came
        assert SECRET not in came
        assert MARK not in str(logged())
        await until(lambda: not one.held(), what=one.held())


async def test_long_is_fine(valkey_url: str, tmp_path: Path) -> None:
    """Headers up to 64 KB, and hundreds of them, are read."""
    async with open_door(valkey_url, tmp_path) as (door, server, _):
        body = json.dumps(BODY).encode()
        for more in (b"cookie: a=" + b"x" * 64_000 + b"\r\n", b"".join(b"x-%d: y\r\n" % n for n in range(500))):
            sent = LINE + HOST + more + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            assert (await ask(door.port, sent)).startswith(b"HTTP/1.1 200 ")
        assert server.calls == 1


async def test_flood() -> None:
    """However much nonsense comes, each kind has one line in fifteen seconds, which says how much there was."""
    structlog.reset_defaults()
    clock = HandClock()
    refusals = Refusals(clock)
    with structlog.testing.capture_logs() as lines:
        for _ in range(100):
            refusals.note(TOO_LONG)
        await clock.advance(15.0)
        refusals.note(TOO_LONG)
    assert [(line["kind"], line["count"]) for line in lines] == [("too_long", 1), ("too_long", 100)]
    assert refusals.stats().counts == {"too_long": 101}


@pytest.mark.parametrize("wait_for_ready", [False, True])
async def test_wrong_port(valkey_url: str, tmp_path: Path, wait_for_ready: bool) -> None:
    """A gRPC client that comes to the HTTP port hears so at once."""
    async with open_door(valkey_url, tmp_path) as (door, _, _), grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        stub = MessagesServiceStub(channel)
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CreateMessage(CreateMessageRequest(), timeout=20, wait_for_ready=wait_for_ready)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "wrong port" in caught.value.details()


@pytest.mark.parametrize("spelled", [b"application/grpc", b"application/grpc+proto", bytes.fromhex("1d75d0620d263d4c4d6564")])
def test_hint_to_grpc(spelled: bytes) -> None:
    """Who asks for gRPC, in whichever of HPACK's two spellings, is answered by gRPC's status."""
    hint = Hint(b"{}")
    said = hint.hear(PREFACE + len(spelled).to_bytes(3, "big") + bytes((1, 4, 0, 0, 0, 1)) + spelled)
    assert b"grpc-status" in said
    assert b"wrong port" in said


def test_hint_in_pieces() -> None:
    """The hint understands a client whatever the pieces in which it is heard, and ends at what is no HTTP/2."""
    settings = (6).to_bytes(3, "big") + bytes((4, 0, 0, 0, 0, 0)) + bytes(6)
    ping = (8).to_bytes(3, "big") + bytes((6, 0, 0, 0, 0, 0)) + b"12345678"
    headers = (3).to_bytes(3, "big") + bytes((1, 4, 0, 0, 0, 1)) + b"abc"
    said_json = b'{"type":"error"}'
    sent = PREFACE + settings + ping + headers
    whole, dripped = Hint(said_json), Hint(said_json)
    said = whole.hear(sent)
    assert b"".join(dripped.hear(sent[n : n + 1]) for n in range(len(sent))) == said
    assert whole.is_over
    assert dripped.is_over
    assert b"12345678" in said
    assert said_json in said
    assert b"grpc-status" not in said
    odd = Hint(said_json)
    odd.hear(PREFACE + b"\xff" * 9)
    assert odd.is_over
