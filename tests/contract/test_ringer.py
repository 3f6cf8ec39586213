"""Due tickets are rung from our own set: in time and never early, once each, in batches, over deaths and lost alarms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from conftest import until
from headrace import keys
from headrace.clock import SystemClock
from headrace.errors import RedisAway
from headrace.owner import Owner
from headrace.retry import ringer as module
from headrace.retry.ringer import Ringer
from headrace.retry.ticket import State
from ticket_parts import ANSWER, Process, a_call


class Clockwork:
    """Remembers which alarms were set."""

    def __init__(self) -> None:
        self.set: list[tuple[str, int, float]] = []

    async def schedule(self, ticket_id: str, attempt: int, due: float) -> None:
        self.set.append((ticket_id, attempt, due))


class Bench:
    """A process with a ringer, whose attempts are remembered, and made when they are let go."""

    def __init__(self, process: Process, *, most: int = 1000, is_open: bool = True) -> None:
        self.process, self.clockwork = process, Clockwork()
        self.rung: list[tuple[str, int, float]] = []
        self.go = asyncio.Event()
        if is_open:
            self.go.set()
        self.ringer = Ringer(process.link, SystemClock(), self.clockwork, self._run, most=most)
        process.tickets._alarms = self.ringer
        self.task = asyncio.create_task(self.ringer.keep())

    async def _run(self, ticket_id: str, attempt: int) -> None:
        self.rung.append((ticket_id, attempt, time.time()))
        await self.go.wait()
        await self.process.tickets.start(ticket_id, attempt)

    async def aclose(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.ringer.stop()

    def ids(self) -> list[str]:
        return [ticket_id for ticket_id, _, _ in self.rung]


@pytest.fixture
async def bench(processes) -> AsyncIterator[Callable[..., Bench]]:
    made: list[Bench] = []

    async def make(**options) -> Bench:
        made.append(Bench(await processes(), **options))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


async def test_at_once(bench) -> None:
    """What is submitted rings at once, without a job of the queue, and is due no more once it is started."""
    one = await bench()
    ids = [(await one.process.tickets.submit(a_call())).ticket for _ in range(250)]
    await until(lambda: len(one.rung) == 250)
    assert sorted(one.ids()) == sorted(ids)
    assert one.clockwork.set == []
    await until(lambda: one.ringer.stats().at_hand == 0)
    assert await one.process.link.do("ZCARD", keys.DUE) == 0


async def test_never_early(bench) -> None:
    """What is due soon rings at its time and not before, though it is taken earlier."""
    one = await bench()
    dues = {}
    for n in range(10):
        due = time.time() + 0.05 + 0.1 * n
        dues[await one.process.tickets.park(a_call(), attempts=1, broken=0, due=due)] = due
    await until(lambda: len(one.rung) == 10)
    late = [when - dues[ticket_id] for ticket_id, _, when in one.rung]
    assert min(late) >= 0
    assert sorted(late)[7] < 0.3
    assert {attempt for _, attempt, _ in one.rung} == {2}


async def test_one_alarm_a_second(bench) -> None:
    """All that is due in one second has one job of the queue, set once, which rings early enough and finds them all."""
    one = await bench()
    due = float(int(time.time()) + 60)
    for n in range(50):
        await one.process.tickets.park(a_call(), attempts=1, broken=0, due=due + 0.01 * n)
    assert len(one.clockwork.set) == 1
    name, number, at = one.clockwork.set[0]
    assert due - module._AHEAD_S < at <= due
    assert one.rung == []
    for _, ticket_id in enumerate(await one.process.link.do("ZRANGE", keys.DUE, 0, -1)):
        await one.process.link.do("ZADD", keys.DUE, round((time.time() + 0.2) * 1e6), ticket_id)
    await one.ringer.ring(name, number)
    await until(lambda: len(one.rung) == 50)


async def test_older_alarms(bench) -> None:
    """A job of an earlier version names its ticket and attempt, and that is made."""
    one = await bench()
    await one.ringer.ring("tkt_1", 2)
    assert one.rung[0][:2] == ("tkt_1", 2)


async def test_shared(bench) -> None:
    """Several processes take different tickets; one that has no room leaves the rest to the others."""
    one, two = await bench(most=5, is_open=False), await bench()
    ids = [(await one.process.tickets.submit(a_call())).ticket for _ in range(40)]
    await until(lambda: len(one.rung) == 5)
    two.ringer.wake()
    await until(lambda: len(two.rung) == 35)
    assert sorted(one.ids() + two.ids()) == sorted(ids)


async def test_taken_and_never_started(bench, monkeypatch) -> None:
    """What a process has at hand and does not start, since it died, or has no hand free, is told to another a little later."""
    monkeypatch.setattr(module, "_HOLD_S", 0.3)
    dead, other = await bench(is_open=False), await bench()
    ticket_id = (await dead.process.tickets.submit(a_call())).ticket
    await until(lambda: dead.rung)

    async def woken() -> bool:
        other.ringer.wake()
        return bool(other.rung)

    await until(woken)
    assert other.ids() == [ticket_id]
    await until(lambda: other.ringer.stats().at_hand == 0)
    dead.go.set()  # it comes too late
    await until(lambda: dead.ringer.stats().at_hand == 0)
    ticket = await other.process.tickets.get(ticket_id, Owner("checkout"))
    assert (ticket.state, ticket.attempts) == (State.RUNNING, 1)


@pytest.mark.parametrize("in_s", [0.0, 1.0])
async def test_at_hand_of_the_dead(bench, in_s: float) -> None:
    """What a process has at hand when it dies is rung by another soon after its time, and not a look ahead later."""
    dead, other = await bench(is_open=False), await bench()
    call = a_call()
    due = call.arrival + in_s
    ticket_id = await dead.process.tickets.park(call, attempts=1, broken=0, due=due)
    await until(lambda: dead.ringer.stats().at_hand)
    dead.task.cancel()

    async def woken() -> bool:
        other.ringer.wake()
        return bool(other.rung)

    await until(woken)
    [(which, attempt, rung)] = other.rung
    assert (which, attempt) == (ticket_id, 2)
    assert module._HOLD_S - 0.1 <= rung - due <= module._HOLD_S + 1.0


async def test_given_back(bench) -> None:
    """A process that leaves gives back what it has at hand: another has it at once."""
    leaving, other = await bench(is_open=False), await bench()
    ids = [(await leaving.process.tickets.submit(a_call())).ticket for _ in range(3)]
    await until(lambda: len(leaving.rung) == 3)
    await leaving.ringer.stop()
    other.ringer.wake()
    await until(lambda: len(other.rung) == 3, within=module._HOLD_S / 2)
    assert sorted(other.ids()) == sorted(ids)


async def test_next_attempt_is_not_given_back(bench) -> None:
    """What another process has made meanwhile is not given back: its next attempt is due in its own time."""
    leaving, other = await bench(is_open=False), await bench(most=0)
    ticket_id = (await leaving.process.tickets.submit(a_call())).ticket
    await until(lambda: leaving.rung)
    ticket = await other.process.tickets.start(ticket_id, 1)
    due = time.time() + 60
    await other.process.tickets.park(ticket.call, attempts=1, broken=0, due=due)
    await leaving.ringer.stop()
    await leaving.process.link.ping()
    assert float(await other.process.link.do("ZSCORE", keys.DUE, ticket_id)) > (due - 1) * 1e6


async def test_ends_and_rubbish(bench) -> None:
    """What has ended is due no more; what others put there is put away, whatever it is."""
    one = await bench()
    link = one.process.link
    ended = (await one.process.tickets.submit(a_call())).ticket
    await one.process.tickets.finish(ended, answer=ANSWER)
    assert await link.do("ZSCORE", keys.DUE, ended) is None
    await link.do("SET", keys.ticket("text"), "x")
    for name in ("text", "nothing", b"\xff", ended):
        await link.do("ZADD", keys.DUE, 1, name)
    one.ringer.wake()

    async def is_clean() -> bool:
        return await link.do("ZCARD", keys.DUE) == 0

    await until(is_clean)
    assert set(one.ids()) <= {ended}


async def test_redis_away(bench) -> None:
    """An attempt that could not be started since Redis was away is told again."""
    one = await bench()
    run, calls = one.ringer._run, []

    async def away(ticket_id: str, attempt: int) -> None:
        calls.append(ticket_id)
        if len(calls) == 1:
            raise RedisAway("away")
        await run(ticket_id, attempt)

    one.ringer._run = away
    ticket_id = (await one.process.tickets.submit(a_call())).ticket
    await until(lambda: calls)
    await one.process.link.do("ZADD", keys.DUE, "XX", 1, ticket_id)  # as if the seconds were over
    await until(lambda: one.ringer.stats().at_hand == 0)
    one.ringer.wake()
    await until(lambda: one.rung)


async def test_next_attempt_of_what_is_at_hand(bench) -> None:
    """A ticket that is at hand here for an attempt that another process made is rung for its next one, too, at its time."""
    slow, other = await bench(is_open=False), await bench(most=0)
    ticket_id = (await slow.process.tickets.submit(a_call())).ticket
    await until(lambda: slow.rung)
    ticket = await other.process.tickets.start(ticket_id, 1)
    await other.process.tickets.park(ticket.call, attempts=1, broken=0, due=time.time() + 0.2)
    slow.ringer.wake()
    await until(lambda: (ticket_id, 2) in [each[:2] for each in slow.rung], within=2)


async def test_at_hand_is_told_to_nobody_else(bench) -> None:
    """What one process has at hand is told to no other at once, though all take what will be due in a moment."""
    one, two = await bench(is_open=False), await bench()
    await one.process.tickets.submit(a_call())
    await until(lambda: one.rung)
    for _ in range(10):
        two.ringer.wake()
        await asyncio.sleep(0.02)
    assert two.ringer.stats().at_hand == 0
