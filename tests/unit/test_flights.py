"""Single-flight in one process."""

import asyncio

import pytest

from headrace.errors import BudgetExhausted, UpstreamError
from headrace.flight.flight import Landing
from headrace.flight.flights import Flights
from headrace.model import Answer, Event, Form
from scripted import CALL

ANSWER = Answer(Form.JSON, b"{}", created=1.0)


class Upstream:
    """Answers when told to, and counts."""

    def __init__(self):
        self.calls = 0
        self.cancelled = 0
        self.answer = asyncio.Event()
        self.error = None

    async def fly(self, flight):
        self.calls += 1
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return Landing(ANSWER)


@pytest.fixture
async def upstream():
    return Upstream()


@pytest.fixture
async def flights():
    return Flights()


async def let_tasks_run():
    for _ in range(10):
        await asyncio.sleep(0)


async def landing_of(member):
    while member.flight.landing is None:
        await member.changed()
    return member.flight.landing


async def follow(flights, fly, **options):
    with flights.join("k", CALL, fly, **options) as member:
        leads = member.leads
        return await landing_of(member), leads


async def ask(flights, upstream):
    return await follow(flights, upstream.fly)


async def depart(flights, upstream, n):
    callers = [asyncio.create_task(ask(flights, upstream)) for _ in range(n)]
    await let_tasks_run()
    return callers


async def test_one_call(flights, upstream):
    """Callers who ask for one key at the same time share one call; one of them leads."""
    callers = await depart(flights, upstream, 3)
    assert repr(flights) == "<Flights [1 in the air, 3 waiting]>"

    upstream.answer.set()
    landings = await asyncio.gather(*callers)

    assert [leads for _, leads in landings] == [True, False, False]
    assert {id(landing.answer) for landing, _ in landings} == {id(ANSWER)}
    assert upstream.calls == 1
    assert repr(flights) == "<Flights [0 in the air, 0 waiting]>"


async def test_leader_gives_up(flights, upstream):
    """The caller who started the call may leave; the others still get their answer."""
    leader, follower = await depart(flights, upstream, 2)
    leader.cancel()
    await let_tasks_run()
    upstream.answer.set()

    landing, _ = await follower
    assert landing.answer is ANSWER
    assert upstream.cancelled == 0


async def test_everyone_gives_up(flights, upstream):
    """When the last caller leaves, the call is cancelled, and the next caller starts anew."""
    for caller in await depart(flights, upstream, 2):
        caller.cancel()
    await let_tasks_run()
    assert upstream.cancelled == 1
    assert len(flights) == 0

    upstream.answer.set()
    landing, leads = await ask(flights, upstream)
    assert (landing.answer, leads, upstream.calls) == (ANSWER, True, 2)


async def test_followed_from_outside(flights, upstream):
    """A flight that another host follows goes on without callers here."""

    async def fly(flight):
        async def followed():
            return True

        flight.outside = followed
        return await upstream.fly(flight)

    caller = asyncio.create_task(follow(flights, fly))
    await let_tasks_run()
    caller.cancel()
    await let_tasks_run()
    assert (len(flights), upstream.cancelled) == (1, 0)

    upstream.answer.set()
    await let_tasks_run()
    assert len(flights) == 0


async def test_late_caller_keeps_the_call(flights, upstream):
    """A caller who joins in the very moment in which the others leave keeps the call in the air."""
    callers = await depart(flights, upstream, 2)
    for caller in callers:
        caller.cancel()
    late = asyncio.create_task(ask(flights, upstream))
    await let_tasks_run()
    upstream.answer.set()

    landing, _ = await late
    assert landing.answer is ANSWER


async def test_failures_are_landings(flights, upstream):
    """An error of upstream's and a refusal both land; which of them is shared, the flow decides."""
    for error in (UpstreamError("gone", status=500), BudgetExhausted("spent")):
        upstream.error = error
        callers = await depart(flights, upstream, 2)
        upstream.answer.set()
        assert [landing.error for landing, _ in await asyncio.gather(*callers)] == [error, error]
        upstream.answer.clear()


async def test_a_bug_hangs_nobody(flights, upstream):
    """An exception that nobody foresaw still lands the flight, and says nothing of its cause."""
    upstream.error = ZeroDivisionError("secret")
    (caller,) = await depart(flights, upstream, 1)
    upstream.answer.set()

    landing, _ = await caller
    assert landing.error.message == "internal error"


async def test_late_follower_replays(flights):
    """A late follower gets the events so far and then the rest, in order, each once."""
    go_on = asyncio.Event()
    events = [Event("content_block_delta", b"%d" % n, b"%d\n" % n) for n in range(4)]

    async def fly(flight):
        flight.begin("one")
        for event in events[:2]:
            flight.append(event, is_content=True)
        await go_on.wait()
        for event in events[2:]:
            flight.append(event, is_content=True)
        return Landing(ANSWER)

    async def listen():
        with flights.join("k", CALL, fly, is_live=True) as member:
            return [event async for event in member.replay()]

    early = asyncio.create_task(listen())
    await let_tasks_run()
    late = asyncio.create_task(listen())
    await let_tasks_run()
    go_on.set()

    assert await early == await late == events


async def test_landed_and_not_over(flights, monkeypatch):
    """Who comes when the answer is out, and only Redis has yet to hear of it, asks anew; both flights end in good order."""
    monkeypatch.setattr("headrace.flight.flight._ENOUGH_S", 0.01)
    answers = [ANSWER, Answer(Form.JSON, b"[]", created=2.0)]

    async def fly(flight):
        flight.land_soon(Landing(answers.pop(0)))
        await asyncio.Event().wait()

    first, _ = await follow(flights, fly)
    flown = [flights.get("k").task]
    flights.get("k").is_asking = True
    second, leads = await follow(flights, fly)
    assert (first.answer.payload, second.answer.payload, leads) == (b"{}", b"[]", True)
    flown.append(flights.get("k").task)
    finishing = asyncio.create_task(flights.finish())
    await let_tasks_run()
    assert not finishing.done()
    await flights.aclose()
    assert all(task.cancelled() for task in flown)
    await finishing
    assert len(flights) == 0
