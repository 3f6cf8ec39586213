"""What upstream says beside an answer goes to whoever is given it, whichever way; and so does whether it was kept."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from conftest import until
from doors import BODY, open_door
from doors import say as say_http
from flow_parts import asking, in_turn, joined, later, overloaded, running
from headrace.model import Reply, Source
from headrace.owner import Owner
from headrace.retry.ticket import State
from scripted import EVENTS, MESSAGE, Line

CHAT = {
    "id": "c",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"content": "ho"}, "finish_reason": "stop"}],
}
CHUNKS = [
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"ho"},"finish_reason":null}]}\n\n',
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]

KEPT = [
    ("anthropic-organization-id", "org-1"),
    ("anthropic-priority-input-tokens-remaining", "7"),
    ("x-request-cost", "7"),
    ("x-twice", "1"),
    ("x-twice", "2"),
]
LEFT_OUT = [
    ("anthropic-ratelimit-requests-limit", "9"),
    ("x-ratelimit-limit-requests", "9"),
    ("set-cookie", "a=b"),
    ("x-headrace-source", "liar"),
    ("x-headrace-odd", "liar"),
    ("cache-status", "liar; hit"),
    ("cache-control", "private, max-age=76543"),
    ("age", "76543"),
    ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("etag", '"liar"'),
    ("access-control-allow-origin", "*"),
    ("retry-after", "76543"),
    ("connection", "keep-alive, x-hop"),
    ("x-hop", "liar"),
]
SAID = "".join(f"{name}: {value}\r\n" for name, value in KEPT + LEFT_OUT).encode("latin-1")


async def say(line: Line) -> None:
    """Answer in the form and the dialect that were asked for, with all those headers."""
    streams, chat = json.loads(line.body).get("stream"), b"/chat/" in line.head.split(b"\r\n")[0]
    common = b"HTTP/1.1 200 OK\r\nrequest-id: req_1\r\n" + SAID
    if not streams:
        body = json.dumps(CHAT).encode() if chat else MESSAGE
        await line.say(common + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        return
    await line.say(common + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for raw in CHUNKS if chat else EVENTS:
        await line.chunk(raw)
        await asyncio.sleep(0.02)
    await line.say(b"0\r\n\r\n")


def check(reply: Reply) -> None:
    assert list(reply.headers) == KEPT


# Along the flow.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("repeats", [False, True])
async def test_led_and_kept(valkey_url: str, tmp_path: Path, stream: bool, repeats: bool) -> None:
    """Who led has them, and who is answered from the cache, near or far, in either form."""
    async with running(valkey_url, tmp_path / "a", say) as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        check(await one.ask(one.call({"stream": stream})))
        for host in (one, other, other):
            hit = await host.ask(host.call({"stream": repeats}))
            assert hit.source is Source.CACHE
            check(hit)
        assert server.calls == 1


@pytest.mark.parametrize("led", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_followed(valkey_url: str, tmp_path: Path, led: bool, stream: bool) -> None:
    """Who follows has them, in this process and on another host, in whatever form."""
    go = asyncio.Event()

    async def talk(line: Line) -> None:
        await go.wait()
        await say(line)

    async with running(valkey_url, tmp_path / "a", talk) as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        asked = [asking(one, one.call({"stream": led}))]
        await until(lambda: server.calls == 1)
        asked += [asking(host, host.call({"stream": stream})) for host in (one, other)]
        await joined(one, 2)
        await joined(other, 1)
        go.set()
        replies = await asyncio.wait_for(asyncio.gather(*asked), 10)
        assert [reply.source for reply in replies] == [Source.UPSTREAM, Source.SHARED, Source.SHARED]
        for reply in replies:
            check(reply)
        assert server.calls == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_late_follower(valkey_url: str, tmp_path: Path, stream: bool) -> None:
    """Who comes when some of a stream is said has them, too."""
    async with running(valkey_url, tmp_path / "a", say) as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        leading = asking(one, one.call({"stream": True}))
        await until(lambda: (flight := one.parts.flights.get(one.call().fingerprint)) is not None and flight.is_open)
        check(await other.ask(other.call({"stream": stream})))
        check(await leading)
        assert server.calls == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_parked(valkey_url: str, tmp_path: Path, stream: bool) -> None:
    """Who waited on a ticket has them, and hears that the answer was kept; so do its repeats."""
    async with running(valkey_url, tmp_path, in_turn(overloaded, say)) as (one, _):
        reply = await one.ask(one.call({"stream": stream}))
        assert reply.attempts == 2
        check(reply)
        assert stream or "; stored;" in reply.cache_status
        check(await one.ask(one.call()))


@pytest.mark.parametrize("talk", [say, in_turn(overloaded, say)], ids=["at once", "parked"])
@pytest.mark.parametrize("stream", [False, True])
async def test_idempotent(valkey_url: str, tmp_path: Path, talk, stream: bool) -> None:
    """Who repeats a call by its idempotency key is given what the first one was given."""
    async with running(valkey_url, tmp_path, talk) as (one, _):
        for _ in range(2):
            check(await one.ask(one.call({"stream": stream}, idempotency_key="k")))


async def test_submitted(valkey_url: str, tmp_path: Path) -> None:
    """A ticket holds them."""
    async with running(valkey_url, tmp_path, say) as (one, _):
        ticket = await one.parts.pursuits.submit(one.call())

        async def done() -> bool:
            return (await one.parts.tickets.get(ticket.id, Owner("ann"))).state is State.SUCCEEDED

        await until(done)
        answer = (await one.parts.tickets.get(ticket.id, Owner("ann"))).answer
        assert answer is not None
        assert list(answer.headers) == KEPT
        assert answer.is_kept


# Through the doors.


def told(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    names = {name for name, _ in KEPT}
    return [pair for pair in pairs if pair[0] in names]


def has_no_liar(pairs: list[tuple[str, str]]) -> bool:
    named = dict(pairs)
    gone = {name for name, _ in LEFT_OUT} - {"x-headrace-source", "cache-status", "cache-control", "age", "date", "connection"}
    return not gone & named.keys() and not any("liar" in value or "76543" in value for value in named.values())


@pytest.mark.parametrize("target", ["/v1/messages", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_http(valkey_url: str, tmp_path: Path, target: str, stream: bool) -> None:
    """By HTTP they come with a new answer, with a kept one, and with one that is found by its bytes."""
    async with open_door(valkey_url, tmp_path, say) as (door, server, _):
        for _ in range(3):
            status, came = await say_http(door, body=BODY | {"stream": stream}, target=target)
            lines = came.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
            pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            assert status == 200
            assert told(pairs) == KEPT
            assert has_no_liar(pairs)
        assert server.calls == 1


# Whether it was kept.


@pytest.mark.parametrize("talk", [say, in_turn(overloaded, say)], ids=["at once", "parked"])
@pytest.mark.parametrize(
    ("cache", "settings", "ends"),
    [
        ("", {}, "stored"),
        ("no-cache", {}, "stored"),
        ("", {"CACHE__MAX_ENTRY": "10B"}, "too-large"),
        ("", {"CACHE__ENABLED": "false"}, "cache-off"),
        ("no-store", {}, ""),
    ],
    ids=["kept", "anew", "large", "off", "no-store"],
)
async def test_told_whether_kept(
    valkey_url: str, tmp_path: Path, talk, cache: str, settings: dict[str, str], ends: str
) -> None:
    """`stored` is said where it is so, of answers that waited on a ticket, too; else the reason."""
    async with running(valkey_url, tmp_path, talk, **settings) as (one, server):
        call = one.call(cache=cache)
        said = (await one.ask(call)).cache_status
        assert ("; stored" in said) == (ends == "stored")
        assert said.endswith(f"; detail={ends}") == (ends not in ("", "stored"))
        before = server.calls
        assert (await one.ask(one.call())).source is (Source.CACHE if ends == "stored" else Source.UPSTREAM)
        assert server.calls - before == (0 if ends == "stored" else 1)


async def test_shared_told(valkey_url: str, tmp_path: Path) -> None:
    """A follower on another host hears it, too, and so does who comes with the same idempotency key."""
    go = asyncio.Event()

    async def talk(line: Line) -> None:
        await go.wait()
        await say(line)

    async with running(valkey_url, tmp_path / "a", talk) as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        asked = [asking(one, one.call(idempotency_key="k"))]
        await until(lambda: server.calls == 1)
        asked += [asking(other, other.call()), asking(other, other.call(idempotency_key="k"))]
        await joined(other, 2)
        go.set()
        for reply in await asyncio.wait_for(asyncio.gather(*asked), 10):
            assert "; stored;" in reply.cache_status
