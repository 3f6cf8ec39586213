"""After failures: what a wait can mend is waited for, in this process or by a ticket, within everybody's own deadline."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import redis

from conftest import start_valkey, until
from flow_parts import LIMIT, Held, asking, in_turn, joined, overloaded, running, say
from headrace import keys
from headrace.errors import DeadlinePassed, UpstreamError
from headrace.model import Source
from headrace.retry.ticket import State
from scripted import OVERLOADED, Line, hang


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

        # Put in the way of the real one, to stop right there.
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
            await one.parts.tickets._renewals._renew(ticket, hold)
            await until(lambda: one.parts.upstream.in_the_air == 0)
            await asyncio.sleep(0.05)
            assert client.hget(keys.ticket(ticket), "state") == b"RUNNING"
            asked.cancel()
            await until(lambda: client.zcard(keys.TICKETS) == 0)
