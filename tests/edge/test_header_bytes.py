"""Header values travel as bytes, both ways, at both doors; only what would end a line is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from doors import BODY, call, open_door, open_grpc_door, say
from headrace import codec, heads
from headrace.errors import UpstreamError
from headrace.retry.ticket import decode_call, encode_call
from scripted import CALL, MESSAGE, Line

VALUES = [
    b"a\tb",
    b"caf\xc3\xa9/1",
    b"caf\xe9/1",
    b"\xe6\xb0\xb4",
    b"\x80\xff",
    b"a\xc3\xa9b\xe9c",
    b'attachment; filename="r\xc3\xa9sum\xc3\xa9.txt"',
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("target", ["/v1/things", "/v1/messages/batches", "/v1/messages"])
async def test_both_ways(valkey_url: str, tmp_path: Path, target: str, value: bytes) -> None:
    """What the caller says goes up and what upstream says comes down, byte for byte; errors, too."""

    async def talk(line: Line) -> None:
        status = b"200" if line.number == 0 else b"400"
        body = MESSAGE if line.number == 0 else b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}'
        await line.say(
            b"HTTP/1.1 %b So\r\ncontent-length: %d\r\nanthropic-note: %b\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), value, body)
        )
        line.writer.close()

    async with open_door(valkey_url, tmp_path, talk) as (door, server, _):
        for number, right in enumerate((200, 400)):
            status, came = await say(
                door,
                b"anthropic-said: " + value,
                b"user-agent: " + value,
                target=target,
                body=BODY | {"max_tokens": number + 1},
            )
            assert status == right
            assert b"\r\nanthropic-said: " + value + b"\r\n" in server.lines[number].head.replace(
                b"Anthropic-Said", b"anthropic-said"
            )
            if target != "/v1/messages":
                assert b"user-agent: " + value + b"\r\n" in server.lines[number].head.lower().replace(value.lower(), value)
            if target != "/v1/messages" or right == 400:
                assert b"\r\nanthropic-note: " + value + b"\r\n" in came


@pytest.mark.parametrize("value", VALUES)
async def test_over_grpc(valkey_url: str, tmp_path: Path, value: bytes) -> None:
    """gRPC's texts are Unicode: what is no UTF-8 is read there as Latin-1, HTTP's old alphabet, and nothing fails."""

    async def talk(line: Line) -> None:
        await line.say(b"HTTP/1.1 200 So\r\ncontent-length: 2\r\nx-note: %b\r\nrequest-id: %b\r\n\r\n{}" % (value, value))

    async with open_grpc_door(valkey_url, tmp_path, talk) as (door, server, _):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        status, headers, _ = await call(door.ports[0], "GET", "/v1/things", (("x-said", text),))
        assert (status, headers["x-note"]) == (200, text)
        assert b"x-said: " + text.encode() + b"\r\n" in server.lines[0].head


@pytest.mark.parametrize("value", ["a\r\nx-api-key: b", "a\nb", "a\rb", "a\0b"])
async def test_line_ends(valkey_url: str, tmp_path: Path, value: str) -> None:
    """What would end the line is refused at the door that lets it come so far, kept or carried."""
    async with open_grpc_door(valkey_url, tmp_path) as (door, server, _):
        for path, body in (("/v1/things", b"{}"), ("/v1/messages", json.dumps(BODY).encode())):
            assert (await call(door.ports[0], "POST", path, (("anthropic-said", value),), body))[0] == 400
        assert server.calls == 0


def test_stored() -> None:
    """Such values outlive a process: in the ticket of a call, and in an error that ends one."""
    text = heads.value_text(b"caf\xe9")
    error = UpstreamError("no", status=400, headers=(("anthropic-note", text),))
    assert codec.decode_error(codec.encode_error(error)).headers == error.headers  # type: ignore[attr-defined]
    asked = replace(CALL, headers=(("anthropic-note", text),))
    assert decode_call(encode_call(asked), b"", "").headers == asked.headers


@pytest.mark.parametrize("raw", [b"", b"plain", b"\xff\xfe", "水é".encode(), b"\xed\xa0\x80"])
def test_text(raw: bytes) -> None:
    """No byte is lost on the way through text."""
    assert heads.value_bytes(heads.value_text(raw)) == raw
    heads.readable(heads.value_text(raw)).encode()


UNTOUCHED = """
from aiohttp import http_writer, web_protocol
import headrace.heads, headrace.wiring
assert web_protocol.StreamWriter is http_writer.StreamWriter
headrace.heads.write_as_they_are()
headrace.heads.write_as_they_are()
assert web_protocol.StreamWriter is headrace.heads.HeadWriter
"""


def test_import() -> None:
    """To import us changes nothing in aiohttp; whoever opens a port says so, and may say it twice."""
    subprocess.run([sys.executable, "-c", UNTOUCHED], check=True)
