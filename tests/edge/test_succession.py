"""Who leads next: what one caller's own no, or its time, means for the others that share its flight."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from conftest import until
from flow_parts import asking, in_turn, joined, later, overloaded, running, say
from headrace.errors import BudgetExhausted, CallerOnHold, DeadlinePassed, OutOfTime, QueueFull
from headrace.schedule import Halt
from scripted import OVERLOADED, Line, hang

ONE_A_MINUTE = json.dumps([{"name": "org", "requests_per_minute": 1}])


class Held:
    """An upstream that answers when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, line: Line) -> None:
        await self.go.wait()
        await say(line)


def counted(one) -> list[str]:
    """Count what is asked of the ledger from now on."""
    asked: list[str] = []
    reserve = one.parts.schedule._ledger.reserve

    def reserving(hold_id, *arguments, **options):
        asked.append(hold_id)
        return reserve(hold_id, *arguments, **options)

    one.parts.schedule._ledger.reserve = reserving
    return asked


def counted_flights(one) -> list[str]:
    """Count the attempts that are begun from now on."""
    begun: list[str] = []
    turn = one.parts.schedule.turn

    def turning(call, hold_id, **options):
        begun.append(hold_id)
        return turn(call, hold_id, **options)

    one.parts.schedule.turn = turning
    return begun


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("key", ["", "k"])
async def test_refused_together(valkey_url: str, tmp_path: Path, stream: bool, key: str) -> None:
    """Equal calls over budget are refused by what the first one heard; each hears it by an error of its own."""
    async with running(valkey_url, tmp_path, LIMIT=ONE_A_MINUTE) as (one, server):
        await one.ask(one.call({"n": 0}))
        asked = counted(one)
        calls = [asking(one, one.call({"stream": stream}, timeout_s=5, idempotency_key=key)) for _ in range(200)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {BudgetExhausted}
        assert len({id(error) for error in errors}) == len(errors)
        assert server.calls == 1
        assert len(asked) <= 2


@pytest.mark.parametrize("key", ["", "k"])
async def test_held_together(valkey_url: str, tmp_path: Path, key: str) -> None:
    """Equal calls of a caller whose calls are refused are so together; each hears why by an error of its own."""
    async with running(valkey_url, tmp_path) as (one, server):
        one.parts.schedule.hold_callers({"ann": Halt(refuses=True, reason="loops")})
        asked = counted_flights(one)
        calls = [asking(one, one.call(timeout_s=5, idempotency_key=key)) for _ in range(200)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {CallerOnHold}
        assert len({id(error) for error in errors}) == len(errors)
        assert (server.calls, len(asked) <= 2) == (0, True)


async def test_longer_time_leads(valkey_url: str, tmp_path: Path) -> None:
    """Of those who wait for a budget, only who has the time for it leads in the end."""
    limit = json.dumps([{"name": "org", "requests_per_minute": 20, "burst": "3s"}])
    async with running(valkey_url, tmp_path, LIMIT=limit) as (one, server):
        await one.ask(one.call({"n": 0}))
        hasty = [asking(one, one.call(timeout_s=1)) for _ in range(20)]
        patient = asking(one, one.call(timeout_s=20))
        for error in await asyncio.gather(*hasty, return_exceptions=True):
            assert isinstance(error, BudgetExhausted)
        assert (await patient).answer is not None
        assert server.calls == 2


@pytest.mark.parametrize("hosts", [1, 2])
async def test_last_word_is_ones_own(valkey_url: str, tmp_path: Path, hosts: int) -> None:
    """Who has no time for another attempt hears upstream's last word at once; who has, waits as long as upstream asked."""

    both = asyncio.Event()

    async def busy(line: Line) -> None:
        await both.wait()
        await line.answer(529, OVERLOADED, "retry-after: 4")

    async with (
        running(valkey_url, tmp_path / "a", in_turn(busy, say)) as (one, server),
        later(valkey_url, tmp_path / "b", one) as two,
    ):
        hasty = asking(one, one.call(timeout_s=3.5))
        await until(lambda: server.calls == 1)
        patient = asking(two if hosts == 2 else one, two.call(timeout_s=30))
        led = one.parts.leases._led.values()
        await until(lambda: any(lease.is_followed for lease in led) if hosts == 2 else "2 waiting" in repr(one.parts.flights))
        both.set()
        with pytest.raises(OutOfTime):
            await hasty
        reply = await asyncio.wait_for(patient, 10)
        assert reply.answer is not None
        assert server.calls == 2


async def test_attempts_are_counted_on(valkey_url: str, tmp_path: Path) -> None:
    """Another leader's attempt is the next one of the same call."""

    async with running(valkey_url, tmp_path, in_turn(hang, overloaded, say)) as (one, _):
        hasty = asking(one, one.call(timeout_s=0.4))
        await joined(one, 1)
        patient = asking(one, one.call(timeout_s=30))
        with pytest.raises(DeadlinePassed):
            await hasty
        assert (await asyncio.wait_for(patient, 10)).attempts == 3


async def test_followers_share_a_body(valkey_url: str, tmp_path: Path) -> None:
    """Equal calls in the air hold one body between them; a follower counts as a call, and not by bytes."""
    held, text = Held(), "x" * 200_000
    async with running(valkey_url, tmp_path, held) as (one, server):
        calls = [one.flow.sharing(one.call({"text": text}))]
        tasks = [asking(one, calls[0])]
        await until(lambda: server.calls == 1)
        for _ in range(5):
            calls.append(one.flow.sharing(one.call({"text": text})))
            tasks.append(asking(one, calls[-1]))
        await joined(one, 6)
        assert len({id(call.body) for call in calls}) == 1
        await until(lambda: one.parts.crowd.stats().by_kind["following"].calls == 5)
        assert one.parts.crowd.stats().bytes == 0
        held.go.set()
        await asyncio.gather(*tasks)
        assert one.parts.crowd.stats().calls == 0


async def test_too_many_followers(valkey_url: str, tmp_path: Path) -> None:
    """Followers are bounded as all that waits: one too many is refused, and the others are answered."""
    held = Held()
    async with running(valkey_url, tmp_path, held, SCHEDULE__MAX_WAITING="3") as (one, server):
        tasks = [asking(one, one.call())]
        await until(lambda: server.calls == 1)
        tasks += [asking(one, one.call()) for _ in range(3)]
        await joined(one, 4)
        with pytest.raises(QueueFull):
            await one.ask(one.call())
        held.go.set()
        assert [reply.answer for reply in await asyncio.gather(*tasks)].count(None) == 0


async def test_parked_calls_count(valkey_url: str, tmp_path: Path) -> None:
    """A call that waits in the queue while its caller waits counts, with its body."""

    async def busy(line: Line) -> None:
        await line.answer(529, OVERLOADED, "retry-after: 1")

    async with running(valkey_url, tmp_path, in_turn(busy, say)) as (one, _):
        call = one.call()
        asked = asking(one, call)
        await until(lambda: one.parts.crowd.stats().by_kind["parked"].calls == 1)
        assert one.parts.crowd.stats().bytes == len(call.body)
        assert (await asked).attempts == 2
        assert one.parts.crowd.stats().calls == 0
