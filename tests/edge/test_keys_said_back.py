"""An upstream, or a gateway before it, that says our own key back: nobody is told it, and nothing keeps it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from headrace.link import Link
from lent import CALL, MESSAGE, opened
from scripted import EVENTS, Line

DOORS = pytest.mark.parametrize("door", ["http", "grpc"])
JSON = "content-type: application/json"


def error(said: str, kind: str = "invalid_request_error") -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": said}}).encode()


async def say_back(line: Line, key: str) -> None:
    head, text = f"x-echo: {key}", line.body.decode()
    if "stream" in text:
        body = b"".join(EVENTS[:2]) + b"event: error\ndata: " + error(key) + b"\n\n"
        await line.answer(200, body, "content-type: text/event-stream", head)
    elif "packed" in text:
        await line.answer(400, gzip.compress(error(key)), JSON, "content-encoding: gzip", head)
    elif "page" in text:
        await line.answer(500, f"<html>{key}".encode(), "content-type: text/html", "x-should-retry: false", head)
    elif "busy" in text:
        await line.answer(529, error(key, "overloaded_error"), JSON, head)
    elif "fine" in text:
        answer = MESSAGE | {"content": [{"type": "text", "text": key}]}
        await line.answer(200, json.dumps(answer).encode(), JSON, head, f"anthropic-organization-id: {key}")
    else:
        await line.answer(401, error(f"invalid x-api-key: {key}", "authentication_error"), JSON, head)


@DOORS
async def test_said_back(valkey_url: str, tmp_path: Path, door: str) -> None:
    """In errors of every kind, headers, events and answers stars stand in its place."""
    key = "sk-ant-marker-of-upstream-0123456789"
    async with opened(valkey_url, tmp_path, door) as house:
        house.one.parts.upstream._requests._api_key = lambda: key
        heard: list[str] = []

        async def talk(line: Line) -> None:
            heard.append(line.headers["x-api-key"])
            await say_back(line, heard[-1])

        house.server.talk = talk
        told = b""
        for path in ("/v1/messages", "/v1/sessions"):
            for how in ("packed", "page", "fine", "else", "busy"):
                call = CALL | {"messages": [{"role": "user", "content": how}]}
                status, came = await house.ask_raw("ann", "POST", path, call, x_headrace_timeout_ms="1500")
                assert status
                told += came
        if door == "http":
            told += (await house.ask_raw("ann", "POST", "/v1/messages", CALL | {"stream": True}))[1]
        assert set(heard) == {key}
        assert key.encode() not in told
        assert b"*" * len(key) in told
        assert await _kept(house.one.parts.link, key) == []


async def _kept(link: Link, key: str) -> list[bytes]:
    found = []
    for name in await link.do("KEYS", "*"):
        if key.encode() in (await link.do("DUMP", name) or b""):
            found.append(name)
    return found
