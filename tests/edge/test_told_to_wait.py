"""How long upstream asks to wait: not at all, for three days, in no sense; kept, streamed and carried calls, at both doors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from doors import BODY, Response, call, open_door, open_grpc_door
from flow_parts import say
from scripted import Line, Server

Ask = Callable[[str, str, bytes], Awaitable[Response]]

THREE_DAYS = "259200"
RUBBISH = ("soon", "-1", "NaN", "1e400", "", "0x10", "three days")
HEADERS = {"anthropic-version": "2023-06-01", "content-type": "application/json"}
REFUSALS = {429: "rate_limit_error", 529: "overloaded_error"}
# Else a 529 to one call would hold up the next one, and answers would be late for another reason.
SETTINGS = {"UPSTREAM__OVERLOAD_GATE": "off"}


def question(way: str, number: int) -> tuple[str, str, bytes]:
    """Return method, path and body of a call that no other is like."""
    if way == "carried":
        return "GET", f"/v1/things/{number}", b""
    body = BODY | {"stream": way == "streamed", "messages": [{"role": "user", "content": f"number {number}"}]}
    return "POST", "/v1/messages", json.dumps(body).encode()


def first_no(status: int, waits: dict[int, str]):
    """Return an upstream that says no to each call once, with the `retry-after` of its number, and answers it then."""
    told: set[int] = set()

    async def talk(line: Line) -> None:
        asked = line.body.decode() or line.head.split()[1].decode()
        number = next(number for number in waits if f"/things/{number}" in asked or f'"number {number}"' in asked)
        if number not in told:
            told.add(number)
            said = {"type": "error", "error": {"type": REFUSALS[status], "message": "not now"}}
            await line.answer(status, json.dumps(said).encode(), f"retry-after: {waits[number]}")
        elif line.body:
            await say(line)
        else:
            await line.answer(200, b"{}", "content-type: application/json")

    return talk


@contextlib.asynccontextmanager
async def asked_over_http(url: str, path: Path, talk) -> AsyncIterator[tuple[Ask, Server]]:
    async with open_door(url, path, talk, **SETTINGS) as (door, server, _), aiohttp.ClientSession() as session:

        async def ask(method: str, target: str, body: bytes) -> Response:
            where = f"http://127.0.0.1:{door.port}{target}"
            async with session.request(method, where, data=body or None, headers=HEADERS) as response:
                return response.status, {name.lower(): value for name, value in response.headers.items()}, await response.read()

        yield ask, server


@contextlib.asynccontextmanager
async def asked_over_grpc(url: str, path: Path, talk) -> AsyncIterator[tuple[Ask, Server]]:
    async with open_grpc_door(url, path, talk, **SETTINGS) as (door, server, _):

        async def ask(method: str, target: str, body: bytes) -> Response:
            return await call(door.ports[0], method, target, tuple(HEADERS.items()), body)

        yield ask, server


every_way = pytest.mark.parametrize("way", ["kept", "streamed", "carried"])
both_doors = pytest.mark.parametrize("door", [asked_over_http, asked_over_grpc], ids=["http", "grpc"])
both_noes = pytest.mark.parametrize("status", [429, 529])


@both_noes
@both_doors
@every_way
async def test_no_time(valkey_url: str, tmp_path: Path, way: str, door, status: int) -> None:
    """Nothing, and what is no time, is no word on when: it is tried again as if upstream had said none."""
    waits = dict(enumerate(("0", *RUBBISH)))
    async with door(valkey_url, tmp_path, first_no(status, waits)) as (ask, server):
        for number, text in waits.items():
            said, headers, body = await ask(*question(way, number))
            assert said == 200, (text, body)
            assert "retry-after" not in headers, text
    assert server.calls == 2 * len(waits)


@both_noes
@both_doors
@every_way
async def test_three_days(valkey_url: str, tmp_path: Path, way: str, door, status: int) -> None:
    """Who is told to wait longer than anybody does hears so at once, in upstream's words, and upstream is left alone."""
    async with door(valkey_url, tmp_path, first_no(status, {1: THREE_DAYS})) as (ask, server):
        said, headers, body = await ask(*question(way, 1))
        assert (said, headers["retry-after"]) == (status, THREE_DAYS)
        assert json.loads(body)["error"]["type"] == REFUSALS[status]
        assert server.calls == 1
