"""Input that upstream is asked to count: once a flight, at both doors, and never at the cost of a call."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
import redis

from conftest import until
from doors import BODY, call, cancel_at_every_step, open_door, open_grpc_door, say, taken
from flow_parts import in_turn, overloaded
from headrace import keys, observe
from scripted import MESSAGE, Line, hang, say_events, say_message

COUNTED = json.dumps([{"name": "org", "input_tokens_per_minute": 1000, "estimate": "counted"}])
CHAT = {"choices": [{"message": {"role": "assistant", "content": "hi"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}


class Upstream:
    """Says how many tokens a call has, then answers it, and looks meanwhile at what is reserved."""

    def __init__(self, url: str, *, tokens: object = 700, count=None, talk=None) -> None:
        self.url, self.tokens, self.count, self.talk = url, tokens, count, talk
        self.asked: list[tuple[str, dict[str, str], dict[str, object]]] = []
        self.reserved: list[int] = []

    async def __call__(self, line: Line) -> None:
        target = line.head.split()[1].decode()
        if "count_tokens" in target:
            self.asked.append((target, line.headers, json.loads(line.body)))
            await (self.count or self.say_count)(line)
        else:
            self.reserved.append(self.used())
            await (self.talk or self.answer)(line)

    async def say_count(self, line: Line) -> None:
        await line.answer(200, json.dumps({"input_tokens": self.tokens}).encode())

    async def answer(self, line: Line) -> None:
        if b"/chat/" in line.head:
            await line.answer(200, json.dumps(CHAT).encode())
        else:
            await (say_events if json.loads(line.body).get("stream") else say_message)(line)

    def used(self) -> int:
        with redis.Redis.from_url(self.url) as client:
            level = client.hget(keys.bucket("org:input_tokens"), "level")
        return 1000 - (int(level) // 60_000_000 if level is not None else 1000)


def error(type: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": type, "message": "no"}}).encode()


def outcomes() -> dict[str, int]:
    return {values[0]: cell.count for values, cell in observe.COUNTS._counts.items()}


@pytest.fixture(autouse=True)
def _fresh_counts() -> None:
    observe.COUNTS._counts.clear()


async def test_http(valkey_url: str, tmp_path: Path) -> None:
    """What upstream counted is reserved; it is asked by the call's own key, for its input alone; hits ask nothing."""
    upstream = Upstream(valkey_url)
    settings = {"LIMIT": COUNTED, "UPSTREAM__CREDENTIALS": "caller"}
    body = BODY | {"system": "be 1.0", "temperature": 0.5, "metadata": {"user_id": "u"}}
    async with open_door(valkey_url, tmp_path, upstream, **settings) as (door, _, one):
        for _ in range(2):
            said = "x-api-key: ann's", "anthropic-beta: a-1"
            status, came = await say(door, *said, body=body, target="/v1/messages?beta=true")
            assert status == 200, came
        assert upstream.reserved == [pytest.approx(700, abs=5)]
        [(target, headers, asked)] = upstream.asked
        assert target == "/v1/messages/count_tokens?beta=true"
        assert (headers["x-api-key"], headers["anthropic-beta"]) == ("ann's", "a-1")
        assert asked == {"model": "m", "messages": BODY["messages"], "system": "be 1.0"}
        assert outcomes() == {"counted": 1}
        await until(lambda: not one.held(), what=one.held())
        assert upstream.used() <= 5  # the count itself costs nothing, and the truth is settled


@pytest.mark.parametrize("kind", ["unary", "stream", "chat"])
async def test_grpc(kind: str, valkey_url: str, tmp_path: Path) -> None:
    """The same at the other door, for streams and chats, too."""
    upstream = Upstream(valkey_url)
    async with open_grpc_door(valkey_url, tmp_path, upstream, LIMIT=COUNTED) as (door, _, _):
        path = "/v1/chat/completions" if kind == "chat" else "/v1/messages"
        messages = [{"role": "system", "content": "be kind"}, *BODY["messages"]] if kind == "chat" else BODY["messages"]
        body = BODY | {"messages": messages, "stream": kind == "stream"}
        status, _, came = await call(door.ports[0], "POST", path, (), json.dumps(body).encode())
        assert status == 200, came
    assert upstream.reserved == [pytest.approx(700, abs=5)]
    [(target, headers, asked)] = upstream.asked
    assert (target, headers["x-api-key"]) == ("/v1/messages/count_tokens", "own-key")
    assert set(asked) == {"model", "messages"} | ({"system"} if kind == "chat" else set())


async def test_once_a_flight(valkey_url: str, tmp_path: Path) -> None:
    """Followers share the count, and so do the attempts that come after a failure, parked ones among them."""
    upstream = Upstream(valkey_url, talk=in_turn(overloaded, overloaded, say_message))
    async with open_door(valkey_url, tmp_path, upstream, LIMIT=COUNTED, UPSTREAM__OVERLOAD_GATE="off") as (door, _, _):
        answers = await asyncio.gather(*(say(door) for _ in range(5)))
        assert {status for status, _ in answers} == {200}
    assert (len(upstream.asked), upstream.reserved) == (1, [pytest.approx(700, abs=20)] * 3)
    assert outcomes() == {"counted": 3}


async def test_asked_in_vain(valkey_url: str, tmp_path: Path) -> None:
    """A flight whose question went unanswered, here or in another process, does not ask again."""
    upstream = Upstream(valkey_url, count=overloaded, talk=in_turn(overloaded, say_message))
    async with open_door(valkey_url, tmp_path, upstream, LIMIT=COUNTED, UPSTREAM__OVERLOAD_GATE="off") as (door, _, one):
        one.parts.schedule._counting._rest = lambda *_: None  # it would be asked again at once, if it could be
        assert (await say(door))[0] == 200
    assert len(upstream.asked) == 1
    assert outcomes() == {"overloaded": 1, "asked": 1}


@pytest.mark.parametrize(
    ("why", "count", "rests"),
    [
        ("rate_limited", lambda line: line.answer(429, error("rate_limit_error"), "retry-after: 9"), True),
        ("broken", lambda line: line.answer(500, b"no"), True),
        ("final", lambda line: line.answer(400, error("invalid_request_error")), False),
        ("final", lambda line: line.answer(404, b"not here"), False),
        ("unreadable", lambda line: line.answer(200, b'{"input_tokens":"many"}'), False),
        ("broken", lambda line: line.answer(200, b'{"input_tok'), True),
    ],
)  # fmt: skip
async def test_failure(why: str, count, rests: bool, valkey_url: str, tmp_path: Path) -> None:
    """If upstream does not count, calls go by what such calls used before; it is left alone if it has enough, or is broken."""
    upstream = Upstream(valkey_url, count=count)
    async with open_door(valkey_url, tmp_path, upstream, LIMIT=COUNTED) as (door, _, _):
        for text in ("one", "two"):
            status, came = await say(door, body=BODY | {"messages": [{"role": "user", "content": text}]})
            assert status == 200, came
    assert outcomes() == ({why: 1, "resting": 1} if rests else {why: 2})
    assert upstream.reserved[0] in range(10, 60)


async def test_slow(valkey_url: str, tmp_path: Path) -> None:
    """A count that takes its time is waited for a second, by those who came together; the next do not wait at all."""
    upstream = Upstream(valkey_url, count=hang)
    async with open_door(valkey_url, tmp_path, upstream, LIMIT=COUNTED) as (door, _, one):
        began = time.monotonic()
        asked = [BODY | {"messages": [{"role": "user", "content": f"{n}"}]} for n in range(5)]
        answers = await asyncio.gather(*(say(door, body=body) for body in asked))
        assert ({status for status, _ in answers}, time.monotonic() - began) == ({200}, pytest.approx(1.2, abs=0.5))
        began = time.monotonic()
        assert (await say(door, body=BODY | {"max_tokens": 9}))[0] == 200
        assert time.monotonic() - began < 0.5
        assert outcomes() == {"slow": 5, "resting": 1}
        await until(lambda: not one.held(), what=one.held())
        assert "1 resting" in repr(one.parts.schedule._counting)


async def test_short_of_time(valkey_url: str, tmp_path: Path) -> None:
    """A call that has half a second is not made late by a count."""
    upstream = Upstream(valkey_url, count=hang)
    async with open_door(valkey_url, tmp_path, upstream, LIMIT=COUNTED) as (door, _, _):
        assert (await say(door, "x-headrace-timeout-ms: 500"))[0] == 200


@pytest.mark.parametrize(
    "limit",
    [
        {"input_tokens_per_minute": 1000},
        {"input_tokens_per_minute": 1000, "estimate": "ceiling"},
        {"input_tokens_per_minute": 1000, "estimate": "counted", "shadow": True},
        {"input_tokens_per_minute": 1000, "estimate": "counted", "match": {"caller": "somebody-else"}},
    ],
)
async def test_nobody_asks(limit: dict[str, object], valkey_url: str, tmp_path: Path) -> None:
    """Without the setting, in the shadow, or for calls that no such limit matches, nothing is counted."""
    upstream = Upstream(valkey_url)
    async with open_door(valkey_url, tmp_path, upstream, LIMIT=json.dumps([{"name": "org", **limit}])) as (door, _, _):
        assert (await say(door))[0] == 200
    assert (upstream.asked, outcomes()) == ([], {})


async def test_own_limit(valkey_url: str, tmp_path: Path) -> None:
    """Questions draw on what is configured for the endpoint that counts, and wait for nothing."""
    counts = {"name": "counts", "match": {"endpoint": "count_tokens"}, "requests_per_minute": 1, "concurrency": 1}
    upstream = Upstream(valkey_url)
    async with open_door(valkey_url, tmp_path, upstream, LIMIT=json.dumps([*json.loads(COUNTED), counts])) as (door, _, _):
        for text in ("one", "two"):
            assert (await say(door, body=BODY | {"messages": [{"role": "user", "content": text}]}))[0] == 200
        await until(lambda: not taken(valkey_url), what=taken(valkey_url))
    assert (len(upstream.asked), outcomes()) == (1, {"counted": 1, "held": 1})


async def test_over_the_capacity(valkey_url: str, tmp_path: Path) -> None:
    """A count of more than the bucket holds waits for a full bucket, and is not refused for it."""
    upstream = Upstream(valkey_url, tokens=5000, talk=lambda line: line.answer(200, MESSAGE))
    async with open_door(valkey_url, tmp_path, upstream, LIMIT=COUNTED) as (door, _, _):
        assert (await say(door))[0] == 200
    assert upstream.reserved == [pytest.approx(1000, abs=5)]


async def test_leaving(valkey_url: str, tmp_path: Path) -> None:
    """Whenever a caller leaves, all is given back: the slot of its question, what that drew on, and its place."""
    counts = {"name": "counts", "match": {"endpoint": "count_tokens"}, "concurrency": 5}
    upstream = Upstream(valkey_url)
    async with open_door(valkey_url, tmp_path, upstream, LIMIT=json.dumps([*json.loads(COUNTED), counts])) as (_, _, one):

        def begin(step: int) -> asyncio.Task[object]:
            body = {"messages": [{"role": "user", "content": f"{step}"}]}
            return asyncio.create_task(one.ask(one.call(body)))

        upstream.tokens = 3
        await cancel_at_every_step(one, valkey_url, begin, every=3)
        await until(lambda: one.parts.schedule.stats().slots.in_use == 0, what=repr(one.parts.schedule.slots))
