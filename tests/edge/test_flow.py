"""The whole line, from a call to its answer: kept, shared, followed across hosts, whoever leaves, callers or the daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from conftest import until
from flow_parts import LIMIT, Held, SlowStream, asking, in_turn, joined, later, overloaded, raws, read, running, say
from headrace import forms, keys
from headrace.errors import BrokenStream, Draining, NotCached
from headrace.flight import items
from headrace.flight.flight import Flight
from headrace.model import Event, Source
from headrace.retry.ticket import State
from scripted import EVENTS, Line, hang

# One answer, kept and shared.


async def test_kept(valkey_url: str, tmp_path: Path) -> None:
    """A repeat costs nothing, in whatever form it asks."""
    async with running(valkey_url, tmp_path) as (one, server):
        first, again = await one.ask(one.call()), await one.ask(one.call({"stream": True}))
        assert (first.source, again.source, server.calls) == (Source.UPSTREAM, Source.CACHE, 1)


@pytest.mark.parametrize("leads", ["unary", "stream"])
async def test_shared(valkey_url: str, tmp_path: Path, leads: str) -> None:
    """Identical calls in the air are one call upstream, whatever their form and whoever leads."""
    talk = Held()
    async with running(valkey_url, tmp_path, talk) as (one, server):
        forms_asked = [leads == "stream", *[True, False] * 5]
        calls = [asking(one, one.call({"stream": stream})) for stream in forms_asked]
        await joined(one, len(calls))
        talk.go.set()
        replies = await asyncio.gather(*calls)
        assert server.calls == 1
        assert [reply.source for reply in replies] == [Source.UPSTREAM, *[Source.SHARED] * 10]
        messages = [forms.message(reply.answer) for reply in replies if reply.answer]
        assert all(message == messages[0] for message in messages)


async def test_no_store(valkey_url: str, tmp_path: Path) -> None:
    """no-store neither joins nor leads, and leaves nothing behind."""
    async with running(valkey_url, tmp_path) as (one, server):
        await asyncio.gather(*(one.ask(one.call(cache="no-store")) for _ in range(3)))
        assert server.calls == 3
        with pytest.raises(NotCached):
            await one.ask(one.call(cache="only-if-cached"))


async def test_scope(valkey_url: str, tmp_path: Path) -> None:
    """Callers share neither answers nor flights, unless they are told to."""
    talk = Held()
    async with running(valkey_url, tmp_path, talk) as (one, server):
        calls = [asking(one, one.call(caller=name)) for name in ("ann", "bob")]
        await until(lambda: server.calls == 2)
        talk.go.set()
        await asyncio.gather(*calls)


async def test_credentials(valkey_url: str, tmp_path: Path) -> None:
    """With callers' own keys, another key gets another answer, and upstream sees each."""
    async with running(valkey_url, tmp_path, CACHE__SCOPE="shared") as (one, server):
        for key in ("x-api-key:a", "x-api-key:b", "bearer:a"):
            assert (await one.ask(one.call(credential=key))).source is Source.UPSTREAM
        assert server.calls == 3


async def test_only_if_cached(valkey_url: str, tmp_path: Path) -> None:
    """only-if-cached is answered by what another host keeps in the shared tier; else it is 504, and nothing is asked."""
    async with running(valkey_url, tmp_path / "a") as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        with pytest.raises(NotCached):
            await one.ask(one.call(cache="only-if-cached"))
        await one.ask(one.call())
        assert (await other.ask(other.call(cache="only-if-cached"))).source is Source.CACHE
        assert server.calls == 1


@pytest.mark.parametrize("cache", ["no-cache", "max-age=0"])
async def test_joins_a_recall(valkey_url: str, tmp_path: Path, cache: str) -> None:
    """Who wants no kept answer and joins a flight that finds one, asks again."""
    async with running(valkey_url, tmp_path / "a") as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        await one.ask(one.call())
        await asyncio.sleep(0.01)
        plain, wary = await asyncio.gather(other.ask(other.call()), other.ask(other.call(cache=cache)))
        assert (plain.source, wary.source, server.calls) == (Source.CACHE, Source.UPSTREAM, 2)


async def test_stale_if_error(valkey_url: str, tmp_path: Path) -> None:
    """An answer past its time stands in for upstream's trouble, if the caller says so."""
    async with running(valkey_url, tmp_path, in_turn(say, overloaded), CACHE__TTL="0.05s") as (one, _):
        await one.ask(one.call())
        await asyncio.sleep(0.06)
        assert (await one.ask(one.call(cache="stale-if-error=60"))).source is Source.STALE


async def test_looks_for_stale(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flight that lands while a caller looks for a stale answer is not missed."""
    async with running(valkey_url, tmp_path, in_turn(overloaded, say)) as (one, _):
        looking, look = asyncio.Event(), asyncio.Event()

        async def lapsed(fingerprint: str) -> None:
            looking.set()
            await look.wait()

        monkeypatch.setattr(one.parts.cache, "lapsed", lapsed)
        asked = asking(one, one.call(cache="stale-if-error=60"))
        await looking.wait()
        await until(lambda: len(one.parts.flights) == 0)
        look.set()
        assert (await asyncio.wait_for(asked, 5)).attempts == 2


# Leaving.


async def test_leader_leaves(valkey_url: str, tmp_path: Path) -> None:
    """Whoever leaves harms nobody; when the last one leaves, upstream is hung up on."""
    talk = in_turn(held := Held(), hang)
    async with running(valkey_url, tmp_path, talk) as (one, server):
        leader, follower = asking(one, one.call()), asking(one, one.call())
        await until(lambda: server.calls == 1)
        leader.cancel()
        held.go.set()
        assert (await follower).source is Source.SHARED

        alone = asking(one, one.call({"n": 2}))
        await until(lambda: server.calls == 2)
        alone.cancel()
        await asyncio.wait_for(server.hung_up.wait(), 5)


@pytest.mark.parametrize("ticks", range(12))
@pytest.mark.parametrize("stream", [False, True])
async def test_leaves_as_another_comes(valkey_url: str, tmp_path: Path, ticks: int, stream: bool) -> None:
    """Whenever a caller comes, be it as the last one leaves, it gets a whole answer."""
    slow = SlowStream() if stream else Held()
    async with running(valkey_url, tmp_path, in_turn(slow, say)) as (one, server):
        call = one.call({"stream": stream})
        first = asking(one, call)
        await until(lambda: server.calls == 1)
        if stream:
            await until(lambda: "open" in repr(one.parts.flights._by_key.get(call.fingerprint)))
        first.cancel()
        for _ in range(ticks):
            await asyncio.sleep(0)
        second = asyncio.create_task(read(one, one.call({"stream": True})))
        for _ in range(20):
            await asyncio.sleep(0)
        slow.go.set()
        events, error = await asyncio.wait_for(second, 10)
        assert error is None
        assert raws(events) == EVENTS


# Across hosts.


@pytest.mark.parametrize("lease_ms", [300, 15_000])
async def test_follows_a_stream(valkey_url: str, tmp_path: Path, lease_ms: int) -> None:
    """A follower on another host gets every event and the end, however long the stream lasts."""

    async def talk(line: Line) -> None:
        await line.begin_stream()
        for raw in EVENTS:
            await line.chunk(raw)
            await asyncio.sleep(0.2)
        await line.say(b"0\r\n\r\n")

    async with (
        running(valkey_url, tmp_path / "a", talk, lease_ms=lease_ms) as (one, server),
        later(valkey_url, tmp_path / "b", one, lease_ms=lease_ms) as other,
    ):
        leading = asyncio.create_task(read(one, one.call({"stream": True})))
        await until(lambda: server.calls == 1)
        following = asyncio.create_task(read(other, other.call({"stream": True})))
        for events, error in await asyncio.gather(leading, following):
            assert error is None
            assert raws(events) == EVENTS
        assert server.calls == 1


async def test_steady_stream(valkey_url: str, tmp_path: Path) -> None:
    """A follower whose leader never pauses stays one that follows: it does not lapse while it is busy listening."""
    delta = EVENTS[2]
    events = [*EVENTS[:2], *[delta] * 60, *EVENTS[3:]]

    async def talk(line: Line) -> None:
        await line.begin_stream()
        for raw in events:
            await line.chunk(raw)
            await asyncio.sleep(0.02)
        await line.say(b"0\r\n\r\n")

    async with (
        running(valkey_url, tmp_path / "a", talk, lease_ms=300) as (one, server),
        later(valkey_url, tmp_path / "b", one, lease_ms=300) as other,
    ):
        leading = asyncio.create_task(read(one, one.call({"stream": True})))
        await until(lambda: server.calls == 1)
        followed, error = await read(other, other.call({"stream": True}))
        assert error is None
        assert raws(followed) == events
        await leading


async def test_no_splice(valkey_url: str, tmp_path: Path) -> None:
    """Who has had some of a stream whose leader died never gets the rest of another one, nor a kept one."""
    first, second = SlowStream(), SlowStream()
    async with (
        running(valkey_url, tmp_path / "a", in_turn(first, second)) as (one, server),
        later(valkey_url, tmp_path / "b", one) as other,
    ):
        call = other.call({"stream": True})
        leading = asyncio.create_task(read(one, one.call({"stream": True})))
        await until(lambda: server.calls == 1)
        following = asyncio.create_task(read(other, call))
        await until(lambda: "open" in repr(other.parts.flights._by_key.get(call.fingerprint)))
        # Somebody else leads now, as after a leader's death; its log has more than the follower has had.
        with redis.Redis.from_url(valkey_url) as client:
            client.hset(keys.flight(call.fingerprint), "token", "another")
            name = f"flight:{call.fingerprint}:another"
            for n in range(1, 6):
                event = Event("content_block_delta", b"{}", b"other%d\n\n" % n)
                client.xadd(keys.log(name), {"i": items.encode_event(event, Flight("other"))}, f"1-{n}")
        other.parts.handover._nudges.nudge(f"flight:{call.fingerprint}")
        other.parts.leases._lease_ms = 100
        events, error = await asyncio.wait_for(following, 10)
        assert isinstance(error, BrokenStream)
        assert raws(events) == EVENTS[:3]
        first.go.set()
        await leading


# Draining.


async def test_draining(valkey_url: str, tmp_path: Path) -> None:
    """Who drains takes no new calls, kept answers included, and ends what runs."""
    held = Held()
    async with running(valkey_url, tmp_path, held) as (one, server):
        runs = asking(one, one.call())
        await until(lambda: server.calls == 1)
        one.flow.is_draining = True
        with pytest.raises(Draining):
            await one.ask(one.call())
        with pytest.raises(Draining):
            await one.parts.pursuits.submit(one.call())
        held.go.set()
        assert (await runs).source is Source.UPSTREAM


async def test_submitted(valkey_url: str, tmp_path: Path) -> None:
    """A submitted call is pursued by a worker, through its retries, and ends with its answer."""
    async with running(valkey_url, tmp_path, in_turn(overloaded, overloaded, say), LIMIT=LIMIT) as (one, _):
        ticket = await one.parts.pursuits.submit(one.call())
        ended = await asyncio.wait_for(one.parts.tickets.wait(ticket.id), 10)
        assert (ended.state, ended.attempts) == (State.SUCCEEDED, 3)


async def test_shared_scope_ticket(valkey_url: str, tmp_path: Path) -> None:
    """Where callers share answers, one never hears of another's ticket."""
    async with running(valkey_url, tmp_path, in_turn(overloaded, say), CACHE__SCOPE="shared") as (one, _):
        first = asking(one, one.call(caller="ann"))
        await joined(one, 1)
        second = asking(one, one.call(caller="bob"))
        assert (await first).ticket
        assert (await second).source is Source.SHARED
        assert not (await second).ticket
