"""The whole line, from a call to its answer: real parts, a real Valkey, an upstream that says what a test wants."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import redis

from conftest import start_valkey, until
from flow_parts import LIMIT, Daemon, asking, in_turn, joined, later, overloaded, running, say
from headrace import forms, keys
from headrace.errors import (
    BrokenStream,
    DeadlinePassed,
    Draining,
    IdempotencyConflict,
    NotCached,
    UpstreamError,
)
from headrace.flight import items
from headrace.flight.flights import Flight
from headrace.model import Call, Event, Source
from headrace.retry.ticket import State
from scripted import EVENTS, OVERLOADED, Line, Talk, hang


class Held:
    """An upstream that answers when it is let go."""

    def __init__(self, then: Talk = say) -> None:
        self.go = asyncio.Event()
        self._then = then

    async def __call__(self, line: Line) -> None:
        await self.go.wait()
        await self._then(line)


class SlowStream:
    """A stream that stops after its first content until it is let go; then it goes on, or breaks off."""

    def __init__(self, *, breaks: bool = False, events: list[bytes] = EVENTS) -> None:
        self.go = asyncio.Event()
        self._breaks, self._events = breaks, events

    async def __call__(self, line: Line) -> None:
        await line.begin_stream()
        await line.chunk(b"".join(self._events[:3]))
        await self.go.wait()
        if self._breaks:
            line.reset()
            return
        for raw in self._events[3:]:
            await line.chunk(raw)
        await asyncio.sleep(0.01)
        await line.say(b"0\r\n\r\n")


async def read(one: Daemon, call: Call) -> tuple[list[Event], Exception | None]:
    """Return the events that a streaming call is given, and the error they end in."""
    events: list[Event] = []
    try:
        async with one.answer(call) as reply:
            if reply.events is None:
                assert reply.answer is not None
                return forms.event_list(reply.answer), None
            async for event in reply.events:
                events.append(event)
    except Exception as error:
        return events, error
    return events, None


def raws(events: list[Event]) -> list[bytes]:
    return [event.raw for event in events]


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


# After failures.


async def test_parked(valkey_url: str, tmp_path: Path) -> None:
    """What a wait can mend is waited for, never less than upstream asked for; attempts and ticket are told."""
    asked: list[float] = []

    async def busy(line: Line) -> None:
        asked.append(time.monotonic())
        await line.answer(429, b'{"type":"error","error":{"type":"rate_limit_error","message":"m"}}', "retry-after: 0.3")

    async def then(line: Line) -> None:
        asked.append(time.monotonic())
        await say(line)

    async with running(valkey_url, tmp_path, in_turn(busy, then), LIMIT=LIMIT) as (one, _):
        for stream in (False, True):
            reply = await one.ask(one.call({"stream": stream, "n": int(stream)}))
            if not stream:
                assert (reply.attempts, reply.source) == (2, Source.UPSTREAM)
                assert reply.ticket.startswith("tkt_")
                assert asked[1] - asked[0] >= 0.3


async def test_no_time_for_another(valkey_url: str, tmp_path: Path) -> None:
    """A leader without time for another attempt is told upstream's word; a follower with more time is not bound by it."""

    async def busy(line: Line) -> None:
        await held.go.wait()
        await line.answer(529, OVERLOADED, "retry-after: 0.5")

    held = Held()
    async with running(valkey_url, tmp_path, in_turn(busy, say)) as (one, server):
        hasty, patient = asking(one, one.call(timeout_s=0.4)), asking(one, one.call())
        await joined(one, 2)
        began = time.monotonic()
        held.go.set()
        with pytest.raises(UpstreamError) as raised:
            await hasty
        assert (raised.value.status, raised.value.retry_after_s) == (529, 0.5)
        assert (await patient).source is Source.UPSTREAM
        assert time.monotonic() - began >= 0.5
        assert server.calls == 2


async def test_final(valkey_url: str, tmp_path: Path) -> None:
    """What upstream says for good is said to all who share the flight."""
    held = Held(lambda line: line.answer(400, b'{"type":"error","error":{"type":"invalid_request_error","message":"m"}}'))
    async with running(valkey_url, tmp_path, held) as (one, server):
        calls = [asking(one, one.call()) for _ in range(3)]
        await joined(one, 3)
        held.go.set()
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, UpstreamError)
            assert error.status == 400
        assert server.calls == 1


async def test_deadline(valkey_url: str, tmp_path: Path) -> None:
    """A leader's deadline is its own; the next one leads."""
    async with running(valkey_url, tmp_path, in_turn(hang, say)) as (one, server):
        hasty, patient = asking(one, one.call(timeout_s=0.3)), asking(one, one.call())
        with pytest.raises(DeadlinePassed):
            await hasty
        assert (await asyncio.wait_for(patient, 10)).answer is not None
        assert server.calls == 2


async def test_leaves_while_parked(valkey_url: str, tmp_path: Path) -> None:
    """A parked call whose caller leaves is cancelled: upstream is not asked again."""
    talk = in_turn(lambda line: line.answer(529, OVERLOADED, "retry-after: 1"), say)
    async with running(valkey_url, tmp_path, talk) as (one, server):
        asked = asking(one, one.call())
        await until(lambda: "1 waited for" in repr(one.parts.tickets))
        asked.cancel()
        with redis.Redis.from_url(valkey_url) as client:
            await until(lambda: client.zcard(keys.TICKETS) == 0)
        await asyncio.sleep(1.1)
        assert server.calls == 1


async def test_cancelled_while_parking(valkey_url: str, tmp_path: Path) -> None:
    """A caller who leaves just as its call is being parked leaves no attempt behind."""
    async with running(valkey_url, tmp_path, overloaded) as (one, server):
        parking = asyncio.Event()

        async def setting(*_, **__):
            parking.set()
            await asyncio.sleep(10)

        one.parts.tickets._set_alarm = setting  # type: ignore[method-assign]
        asked = asking(one, one.call())
        await asyncio.wait_for(parking.wait(), 5)
        asked.cancel()
        with redis.Redis.from_url(valkey_url) as client:
            await until(lambda: client.zcard(keys.TICKETS) == 0, what="the ticket is still there")
        assert server.calls == 1


async def test_waited_for_twice(valkey_url: str, tmp_path: Path) -> None:
    """A parked call whose RPC ends goes on for somebody who waits for its ticket in this very process."""
    talk = in_turn(lambda line: line.answer(529, OVERLOADED, "retry-after: 0.5"), say)
    async with running(valkey_url, tmp_path, talk) as (one, _):
        asked = asking(one, one.call())
        await until(lambda: len(one.parts.tickets._waits))
        ticket = next(iter(one.parts.tickets._waits._nudges._by_name))
        waiting = asyncio.create_task(one.parts.tickets.wait(ticket))
        await asyncio.sleep(0)
        asked.cancel()
        assert (await waiting).state is State.SUCCEEDED


# Idempotency keys.


async def test_idempotent(valkey_url: str, tmp_path: Path) -> None:
    """A key seen again gets the first one's answer, on any host and for no-store calls too; with another call, a no."""
    async with running(valkey_url, tmp_path / "a") as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        key = {"idempotency_key": "k", "cache": "no-store"}
        first = await one.ask(one.call(**key))
        again = [await one.ask(one.call(**key)), await other.ask(other.call(**key))]
        assert server.calls == 1
        assert {reply.ticket for reply in [first, *again]} == {first.ticket}
        with pytest.raises(IdempotencyConflict):
            await one.ask(one.call({"n": 1}, **key))
        assert (await one.ask(one.call(caller="bob", **key))).source is Source.UPSTREAM


async def test_idempotent_outlives(valkey_url: str, tmp_path: Path) -> None:
    """A call with an idempotency key goes on without its caller; who comes with the key again joins it."""
    held = Held()
    async with running(valkey_url, tmp_path, held) as (one, server):
        first = asking(one, one.call(idempotency_key="k"))
        await until(lambda: server.calls == 1)
        first.cancel()
        again = asking(one, one.call(idempotency_key="k"))
        await asyncio.sleep(0.02)
        held.go.set()
        assert (await again).answer is not None
        assert server.calls == 1


@pytest.mark.parametrize("hosts", [1, 2])
async def test_idempotent_refusal(valkey_url: str, tmp_path: Path, hosts: int) -> None:
    """The first one's own no (its deadline) is not the no of the others who came: one of them is the first then."""
    async with (
        running(valkey_url, tmp_path / "a", in_turn(hang, say)) as (one, server),
        later(valkey_url, tmp_path / "b", one) as two,
    ):
        hasty = asking(one, one.call(idempotency_key="k", timeout_s=0.4))
        await until(lambda: server.calls == 1)
        patient = asking(two if hosts == 2 else one, two.call(idempotency_key="k", timeout_s=30))
        with pytest.raises(DeadlinePassed):
            await hasty
        assert (await asyncio.wait_for(patient, 10)).answer is not None
        assert server.calls == 2


async def test_idempotent_half_a_stream(valkey_url: str, tmp_path: Path) -> None:
    """A unary call that joins a stream that breaks off asks once more, and not for ever."""
    slow = SlowStream(breaks=True)
    async with running(valkey_url, tmp_path, in_turn(slow, say)) as (one, server):
        streaming = asyncio.create_task(read(one, one.call({"stream": True}, idempotency_key="k")))
        await until(lambda: server.calls == 1)
        unary = asking(one, one.call(idempotency_key="k"))
        await joined(one, 3)  # the one that answers for all has a flight of its own
        slow.go.set()
        assert isinstance((await streaming)[1], BrokenStream)
        assert (await asyncio.wait_for(unary, 5)).answer is not None
        assert server.calls == 2


# Redis.


async def test_redis_away_at_parking(tmp_path: Path) -> None:
    """An attempt that fails while Redis is away is parked once it is back."""
    process, url = start_valkey(tmp_path)
    held = Held(overloaded)
    try:
        async with running(url, tmp_path / "d", in_turn(overloaded, held, say)) as (one, server):
            asked = asking(one, one.call())
            await until(lambda: server.calls == 2)
            with redis.Redis.from_url(url) as client:
                client.execute_command("CLIENT", "PAUSE", 4_500, "ALL")  # longer than a batch tries
            held.go.set()
            reply = await asyncio.wait_for(asked, 20)
            assert reply.attempts == 3
    finally:
        process.kill()
        process.wait(5)


async def test_crashed_attempt(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in a parked attempt ends its ticket, and its caller is told."""
    async with running(valkey_url, tmp_path, in_turn(overloaded, say)) as (one, _):
        make = one.parts.attempts.make

        async def crash(*args, number: int, **options):
            if number > 1:
                raise ZeroDivisionError
            return await make(*args, number=number, **options)

        monkeypatch.setattr(one.parts.attempts, "make", crash)
        with pytest.raises(Exception, match="internal error"):
            await asyncio.wait_for(one.ask(one.call()), 5)


async def test_lost_lease(valkey_url: str, tmp_path: Path) -> None:
    """A process that lost a ticket to another one stops its own attempt, and leaves the ticket alone."""
    async with running(valkey_url, tmp_path / "a", in_turn(overloaded, hang, say)) as (one, server):
        asked = asking(one, one.call())
        await until(lambda: server.calls == 2)
        [(ticket, hold)] = one.parts.tickets._held.items()
        with redis.Redis.from_url(valkey_url) as client:
            client.hset(keys.ticket(ticket), "holder", "headrace:inbox:another|1")
            await one.parts.tickets._renew(ticket, hold)
            await until(lambda: one.parts.upstream.in_the_air == 0)
            await asyncio.sleep(0.05)
            assert client.hget(keys.ticket(ticket), "state") == b"RUNNING"
            asked.cancel()
            await until(lambda: client.zcard(keys.TICKETS) == 0)


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
