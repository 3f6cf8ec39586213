"""The HTTP edge's promises at its door: what a header may be, and what a stream that ends badly looks like on the wire."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from conftest import until
from doors import BODY, open_door, say
from headrace import observe
from headrace.clock import SystemClock
from scripted import EVENTS, Line, say_message

LIMIT = json.dumps([
    {"name": "ann", "match": {"caller": "ann"}, "requests_per_minute": 60},
    {"name": "bob", "match": {"caller": "bob"}, "requests_per_minute": 6000},
])  # fmt: skip


@pytest.mark.parametrize(
    "header",
    [
        "x-headrace-timeout-ms: " + "9" * 400,
        "x-headrace-timeout-ms: -1",
        "x-headrace-timeout-ms: soon",
        b"idempotency-key: \xff",
        "idempotency-key: " + "k" * 256,
        "x-headrace-lane: fast",
        "x-headrace-caller: a b",
        b"x-headrace-caller: \xff",
    ],
)
async def test_bad_header(valkey_url: str, tmp_path: Path, header: str | bytes) -> None:
    """A header that makes no sense is 400, never 500."""
    async with open_door(valkey_url, tmp_path) as (door, server, _):
        status, came = await say(door, header)
        assert status == 400, came
        assert b"invalid_request_error" in came
        assert server.calls == 0


@pytest.mark.parametrize(
    "header",
    [
        "x-stainless-timeout: " + "9" * 400,
        "x-stainless-timeout: NOT_GIVEN",
        "x-headrace-timeout-ms: 999999999999",
        b"x-api-key: \xff",
    ],
)
async def test_odd_header(valkey_url: str, tmp_path: Path, header: str | bytes) -> None:
    """What says nothing that counts is passed over."""
    async with open_door(valkey_url, tmp_path) as (door, _, _):
        assert (await say(door, header))[0] == 200


async def test_odd_credential(valkey_url: str, tmp_path: Path) -> None:
    """A caller's own key goes upstream as it is: whether it is one, upstream says."""
    async with open_door(valkey_url, tmp_path, UPSTREAM__CREDENTIALS="caller") as (door, server, _):
        assert (await say(door, b"x-api-key: \xff"))[0] == 200
        assert b"x-api-key: \xff\r\n" in server.lines[0].head


@pytest.mark.parametrize("target", ["/%ff", "/v1", "/v2/messages"])
async def test_odd_path(valkey_url: str, tmp_path: Path, target: str) -> None:
    """Whatever is not there is 404."""
    async with open_door(valkey_url, tmp_path) as (door, _, _):
        assert (await say(door, target=target))[0] == 404


@pytest.mark.parametrize("target", ["/v1/x/../organizations/users", "/v1/%2e%2e/x", "/v1//x", "/v1/files%2fx", "/v1/%00"])
async def test_misleading_path(valkey_url: str, tmp_path: Path, target: str) -> None:
    """A path that another reader could take for another one is 400, and goes nowhere."""
    async with open_door(valkey_url, tmp_path) as (door, server, _):
        assert (await say(door, target=target))[0] == 400
        assert server.calls == 0


async def test_cache_control_twice(valkey_url: str, tmp_path: Path) -> None:
    """Several Cache-Control headers are one list (RFC 9110, 5.3)."""
    async with open_door(valkey_url, tmp_path) as (door, server, _):
        for _ in range(2):
            await say(door, "cache-control: max-age=60", "cache-control: no-store")
        assert server.calls == 2


async def test_own_budget(valkey_url: str, tmp_path: Path) -> None:
    """Where callers share answers, a hit still shows its caller's own budget."""
    async with open_door(valkey_url, tmp_path, CACHE__SCOPE="shared", LIMIT=LIMIT) as (door, server, _):
        for name, is_shown in (("ann", True), ("ann", True), ("bob", False)):  # bob's is not known before his first turn
            came = (await say(door, f"x-headrace-caller: {name}"))[1].lower()
            assert (b"anthropic-ratelimit-requests-limit: 60\r" in came) is is_shown
        assert server.calls == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}],"model":"n"}',
        b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi","content":"ho"}]}',
        b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}],"mod\\u0065l":"n"}',
        b'{"model":"m","model":"m","max_tokens":5,"messages":[{"role":"user","content":"\\ud800"}]}',
    ],
)
async def test_doubles(valkey_url: str, tmp_path: Path, body: bytes) -> None:
    """A body of which two readers could make two calls is refused."""
    async with open_door(valkey_url, tmp_path) as (door, server, _):
        status, came = await say(door, body=body)
        assert (status, server.calls) == (400, 0)
        assert b"twice" in came


@pytest.mark.parametrize(
    "text", [b'say \\"a\\": 1, \\"a\\": 2', b"\\u0022a\\u0022:", b"\\ud800 \\u00e9", "é".encode(), b'{\\"a\\":{\\"a\\":1}}']
)
async def test_no_doubles(valkey_url: str, tmp_path: Path, text: bytes) -> None:
    """What only looks like names said twice is let through."""
    body = (
        b'{"model": "m", "max_tokens": 5,\n "messages": [{"role": "user", "content": "%b"}, {"role": "user", "content": "hi"}]}'
    )
    async with open_door(valkey_url, tmp_path) as (door, _, _):
        assert (await say(door, body=body % text))[0] == 200


async def test_deadline_in_mid_stream(valkey_url: str, tmp_path: Path) -> None:
    """A stream whose deadline passes ends with an error event, inside the one response that was begun."""

    async def talk(line: Line) -> None:
        await line.begin_stream()
        await line.chunk(b"".join(EVENTS[:3]))
        await line.reader.read()

    async with open_door(valkey_url, tmp_path, talk) as (door, _, one):
        status, came = await say(door, "x-headrace-timeout-ms: 500", body=BODY | {"stream": True})
        assert status == 200
        assert came.count(b"HTTP/1.1") == 1
        assert b"event: error" in came
        assert b"timeout_error" in came
        assert came.endswith(b"0\r\n\r\n")
        await until(lambda: not one.held(), what=one.held())


class Moments(SystemClock):
    """A clock that counts who sleeps by it, and wakes them when it is told to."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.wake = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.wake.wait()


async def _silent(line: Line) -> None:
    await line.reader.read()


@pytest.mark.parametrize("target", ["/v1/messages", "/v1/things"])
async def test_deadline_and_own_clock(valkey_url: str, tmp_path: Path, target: str) -> None:
    """The official SDKs' own clocks ring before they hear of the deadline; who only asked to be told in time is."""
    async with open_door(valkey_url, tmp_path, _silent) as (door, _, one):
        for headers, is_kept_back in (
            (["x-stainless-timeout: 0.2"], True),
            (["x-headrace-timeout-ms: 200"], False),
            (["x-headrace-timeout-ms: 200", "x-stainless-timeout: 600"], False),
        ):
            one.parts.exchange._clock = clock = Moments()
            clock.wake.set()
            status, came = await say(door, *headers, target=target)
            assert (status, b"timeout_error" in came, bool(clock.slept)) == (504, True, is_kept_back)
            await until(lambda: not one.held(), what=one.held())


async def test_own_clock_rings(valkey_url: str, tmp_path: Path) -> None:
    """Who hangs up when its own clock rings counts as a deadline that passed, all the same; by then nothing is held."""
    passed = observe.ERRORS.value("http", "DEADLINE_PASSED")
    async with open_door(valkey_url, tmp_path, _silent) as (door, _, one):
        one.parts.exchange._clock = clock = Moments()
        asking = asyncio.create_task(say(door, "x-stainless-timeout: 0.2"))
        await until(lambda: len(clock.slept) == 1)
        assert observe.ERRORS.value("http", "DEADLINE_PASSED") == passed + 1
        await until(lambda: not one.held(), what=one.held())
        assert not asking.done()
        asking.cancel()


async def test_whole_seconds(valkey_url: str, tmp_path: Path) -> None:
    """SDKs that round what they wait down to whole seconds are not cut short: 0 is a part of one."""

    async def talk(line: Line) -> None:
        await asyncio.sleep(0.3)
        await say_message(line)

    async with open_door(valkey_url, tmp_path, talk) as (door, _, _):
        assert (await say(door, "x-stainless-timeout: 0"))[0] == 200


async def test_query(valkey_url: str, tmp_path: Path) -> None:
    """A query does not hide a call from its own repeat."""
    async with open_door(valkey_url, tmp_path) as (door, server, _):
        for _ in range(2):
            assert (await say(door, target="/v1/messages?beta=true"))[0] == 200
        assert server.calls == 1
