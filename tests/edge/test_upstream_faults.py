"""An upstream that breaks, lies, drips or falls silent, and callers who leave: every attempt ends, and hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import time
from dataclasses import replace

import pytest

from conftest import until
from headrace import observe
from headrace.clock import HandClock
from headrace.errors import Failure
from headrace.model import Caller, Errand
from headrace.upstream import Upstream
from headrace.upstream.carrying import Body
from scripted import (
    CALL,
    EVENTS,
    MESSAGE,
    STREAM,
    Line,
    Talk,
    asking,
    everything,
    failed_stream,
    failure_of,
    hang,
    say_events,
    say_message,
    serving,
)

ERRAND = Errand(
    caller=Caller("a"), lane="standard", arrival=time.time(), deadline=time.time() + 86_400
)  # also for the last test

# Upstream that breaks.


async def reset(line: Line) -> None:
    line.reset()


async def close(line: Line) -> None:
    line.writer.close()


async def nonsense(line: Line) -> None:
    await line.say(b"SSH-2.0-OpenSSH\r\n\r\n")
    line.writer.close()


def saying(head: bytes, *parts: bytes, after: Talk = close) -> Talk:
    async def talk(line: Line) -> None:
        await line.say(head + b"\r\n\r\n")
        for part in parts:
            await line.say(part)
        await after(line)

    return talk


OPEN_ENDED = b"HTTP/1.1 200 OK\r\nconnection: close"
COUNTED = b"HTTP/1.1 200 OK\r\ncontent-length: 400"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"

WRONG = {
    "reset": reset,
    "closed": close,
    "nonsense": nonsense,
    "half, counted": saying(COUNTED, MESSAGE[:50]),
    "half, chunked": saying(CHUNKED, b"32\r\n" + MESSAGE[:50]),
    "half, open-ended": saying(OPEN_ENDED, MESSAGE[:50]),
    "half, then reset": saying(COUNTED, MESSAGE[:50], after=reset),
    "empty": saying(OPEN_ENDED),
    "half, packed": saying(OPEN_ENDED + b"\r\ncontent-encoding: gzip", gzip.compress(MESSAGE)[:60]),
    "a page": saying(OPEN_ENDED, b"<html>"),
}


@pytest.mark.parametrize("talk", WRONG.values(), ids=WRONG.keys())
async def test_broken_answer(talk: Talk) -> None:
    """Whatever is less than a whole answer is a broken attempt whose use nobody knows, and is not repeated here."""
    async with asking(talk) as (upstream, server):
        failed = await failure_of(upstream.ask(CALL))
        assert (failed.failure, failed.error.status, failed.sent) == (Failure.BROKEN, 502, True)
        assert server.calls == 1


HALF = b"".join(EVENTS[:4])
WRONG_STREAMS = {
    "reset": reset,
    "half": saying(OPEN_ENDED, HALF),
    "half an event": saying(OPEN_ENDED, HALF, EVENTS[4][:-1]),
    "half, chunked": saying(CHUNKED, b"%x\r\n%b\r\n" % (len(HALF), HALF)),
    "ended in order": saying(CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(HALF), HALF)),
    "half, then reset": saying(OPEN_ENDED, HALF, after=reset),
    "half a body": saying(OPEN_ENDED, MESSAGE[:50]),
    "bad JSON": saying(OPEN_ENDED, HALF, b"event: content_block_delta\ndata: {\n\n", EVENTS[-1]),
}


@pytest.mark.parametrize("talk", WRONG_STREAMS.values(), ids=WRONG_STREAMS.keys())
async def test_broken_stream(talk: Talk) -> None:
    """A stream without its end, or one that cannot be read, is a broken attempt."""
    async with asking(talk) as (upstream, server):
        failed = await failure_of(everything(upstream))
        assert (failed.failure, failed.error.status, failed.sent) == (Failure.BROKEN, 502, True)
        assert server.calls == 1


async def test_unknown_events() -> None:
    """Comments and events of no known kind pass through, whatever they hold."""
    stream = [b": hello\r\n\r\n", *EVENTS[:2], b"event: new\ndata: <odd>\n\n", *EVENTS[2:]]
    async with asking(saying(OPEN_ENDED, *stream, b"event: late\ndata: {}\n\n")) as (upstream, _):
        assert [event.raw for event in await everything(upstream)] == stream


async def test_tried_once() -> None:
    """
    Nothing below us tries again, not even what HTTP calls idempotent: the attempt is one request, and fails if upstream hangs
    up on it.
    """
    errand = replace(ERRAND, method="GET", path="/v1/things")
    async with asking(close, connect_s=60) as (upstream, server):
        async with contextlib.AsyncExitStack() as held:
            failed = await failure_of(held.enter_async_context(upstream.carry(errand, (), Body(b""))))
        assert server.calls == 1, failed


async def test_unreachable() -> None:
    """Where nobody listens, surely nothing was sent; neither where there is no such host."""
    async with serving(say_message) as server:
        url = server.url
    for gone in (url, "http://no-such-host.invalid"):
        upstream = Upstream(gone, lambda: "k", connect_s=1.0)
        failed = await failure_of(upstream.ask(CALL))
        assert (failed.failure, failed.error.status, failed.sent) == (Failure.BROKEN, 502, False)
        await upstream.aclose()


async def test_no_connection_in_time() -> None:
    """A host that lets nobody in is given up in time, with nothing sent."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        with socket.create_connection(full.getsockname()), contextlib.ExitStack() as stack:
            for _ in range(3):  # fill the backlog, which takes more than it was told
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            upstream = Upstream(url, lambda: "k", connect_s=0.2)
            failed = await failure_of(upstream.ask(CALL))
            assert (failed.failure, failed.sent) == (Failure.BROKEN, False)
            await upstream.aclose()


# Silence and deadlines.


async def test_silent() -> None:
    """A unary answer that does not come is given up at the longest silence."""
    async with asking(hang, attempt_s=0.2) as (upstream, server):
        failed = await failure_of(upstream.ask(CALL))
        assert (failed.failure, failed.error.status, failed.error.type) == (Failure.BROKEN, 504, "timeout_error")
        assert failed.sent
        await asyncio.wait_for(server.hung_up.wait(), 5)


async def drip(line: Line) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        await line.say(b" ")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("talk", [hang, drip])
async def test_deadline(talk: Talk) -> None:
    """At the call's deadline a unary answer is given up, though it still drips."""
    async with asking(talk) as (upstream, server):
        failed = await failure_of(upstream.ask(replace(CALL, deadline=time.time() + 0.3)))
        assert (failed.failure, failed.error.status, failed.sent) == (Failure.BROKEN, 504, True)
        await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_deadline_passed() -> None:
    """After its deadline a call is not sent."""
    async with serving(say_message) as server:
        clock = HandClock()
        upstream = Upstream(server.url, lambda: "k", clock=clock)
        for asked in (
            upstream.ask(replace(CALL, deadline=clock.now())),
            everything(upstream, replace(STREAM, deadline=clock.now())),
        ):
            failed = await failure_of(asked)
            assert (failed.error.status, failed.sent, server.calls) == (504, False, 0)
        await upstream.aclose()


async def test_stream_gap() -> None:
    """A stream may last, but not pause for longer than the gap."""

    async def talk(line: Line) -> None:
        await line.begin_stream()
        for raw in EVENTS[:-1]:
            await line.chunk(raw)
            await asyncio.sleep(0.15)
        await hang(line)

    async with asking(talk, gap_s=0.5) as (upstream, _):
        came, failed = await failed_stream(upstream)
        assert came == EVENTS[:-1]
        assert failed.error.status == 504


async def test_stream_past_deadline() -> None:
    """A stream that goes on is not cut at its leader's deadline: others may follow it for longer."""

    async def talk(line: Line) -> None:
        await asyncio.sleep(0.3)
        await say_events(line)

    async with asking(talk) as (upstream, _):
        assert len(await everything(upstream, replace(STREAM, deadline=time.time() + 0.1))) == len(EVENTS)


async def test_lingering() -> None:
    """A stream is over with its last event, though upstream does not close; that connection is not used again."""

    async def talk(line: Line) -> None:
        await line.begin_stream()
        await line.chunk(b"".join(EVENTS))
        await hang(line)

    async with asking(talk) as (upstream, server):
        assert len(await everything(upstream)) == len(EVENTS)
        await asyncio.wait_for(server.hung_up.wait(), 5)


# Hanging up.


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled(stream: bool) -> None:
    """A caller who is cancelled while upstream thinks hangs up, and leaves nothing behind."""
    async with asking(hang) as (upstream, server):
        asked = asyncio.create_task(everything(upstream) if stream else upstream.ask(CALL))  # type: ignore[arg-type]
        await until(lambda: server.calls == 1)
        assert upstream.in_the_air == 1
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.wait_for(server.hung_up.wait(), 5)


@pytest.mark.parametrize("how", ["cancelled", "left"])
async def test_leaves_stream(how: str) -> None:
    """Whoever is cancelled amid the events, or simply leaves, hangs up."""
    begun = asyncio.Event()

    async def talk(line: Line) -> None:
        await line.begin_stream()
        await line.chunk(EVENTS[0])
        await hang(line)

    async def follow() -> None:
        async with upstream.stream(STREAM) as events:
            async for _ in events:
                begun.set()
                if how == "left":
                    return

    async with asking(talk) as (upstream, server):
        before = observe.ATTEMPTS.value("abandoned")
        following = asyncio.create_task(follow())
        await asyncio.wait_for(begun.wait(), 5)
        if how == "cancelled":
            following.cancel()
        await asyncio.wait([following], timeout=5)
        await asyncio.wait_for(server.hung_up.wait(), 5)
        assert observe.ATTEMPTS.value("abandoned") == before + 1


async def test_followers_timeout() -> None:
    """The flow's own time-out inside a stream is its own, not upstream's silence."""

    async def talk(line: Line) -> None:
        await line.begin_stream()
        await hang(line)

    async with asking(talk) as (upstream, _):
        with pytest.raises(TimeoutError):
            async with upstream.stream(STREAM) as events, asyncio.timeout(0.05):
                await anext(events)


async def test_churn() -> None:
    """Calls that are cancelled at any moment leave no place and no connection taken."""

    async def talk(line: Line) -> None:
        await asyncio.sleep(0.005 * (line.number % 3))
        await say_message(line)

    async with asking(talk, max_in_flight=4) as (upstream, _):
        for moment in range(60):
            asked = [asyncio.create_task(upstream.ask(CALL)) for _ in range(6)]
            await asyncio.sleep(0.0002 * (moment % 30))
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            assert upstream.in_the_air == 0
        answers = await asyncio.gather(*(upstream.ask(CALL) for _ in range(12)))
        assert len(answers) == 12
