"""Single-flight in one process."""

import asyncio
from dataclasses import replace

import pytest

from headrace.errors import BrokenStream, BudgetExhausted, UpstreamError
from headrace.flight.flight import Flight, Landing, Member
from headrace.flight.flights import Flights
from headrace.flight.succession import pass_on
from headrace.flight.untaken import Untaken
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


# Who leads, and who is woken.


def members(count, **options):
    flight = Flight("k")
    made = [Member(flight, CALL, is_live=False, **options) for _ in range(count)]
    for member in made:
        flight.enter(member)
    return flight, made


def is_woken(member):
    return member._has_news


def test_lead_passes_to_one():
    """A refusal is told to the leader alone; the next leads, and nobody else is woken."""
    flight, (first, second, third) = members(3)
    flight.refuse(first, BudgetExhausted("spent"))
    assert isinstance(first.error(), BudgetExhausted)
    assert flight.lead() is second
    assert [is_woken(member) for member in (first, second, third)] == [True, False, False]


def test_last_refusal_is_raised():
    """With nobody left to lead, the refusal ends the flight."""
    flight, (only,) = members(1)
    no = BudgetExhausted("spent")
    with pytest.raises(BudgetExhausted) as caught:
        flight.refuse(only, no)
    assert caught.value is not no


def test_leader_that_left():
    """The flight goes by the call of one who left until the next decision; then the eldest of those who are there leads."""
    flight, (first, second) = members(2)
    flight.leave(first)
    assert flight.leader is first
    assert flight.lead() is second
    flight.leave(second)
    assert flight.lead() is second, "without members, it is whoever led last"


def test_unary_members_sleep():
    """Events wake those who want them as they come; all others are woken by the landing."""
    flight = Flight("k")
    live, unary = (Member(flight, CALL, is_live=is_live) for is_live in (True, False))
    for member in (live, unary):
        flight.enter(member)
    flight.begin("one")
    flight.append(Event("content_block_delta", b"{}", b"1"), is_content=True)
    assert (is_woken(live), is_woken(unary)) == (True, False)
    flight.land(Landing(ANSWER))
    assert is_woken(unary)


def test_own_errors():
    """Each member gets an error of its own, that says the same: a traceback and its frames are nobody else's."""
    flight, made = members(3)
    flight.land(Landing(error=UpstreamError("gone", status=404, body=b"{}", headers=(("a", "b"),), retry_after_s=1.0)))
    errors = [member.error() for member in made]
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert (error.status, error.body, error.message, error.retry_after_s) == (404, b"{}", "gone", 1.0)
        assert error.__traceback__ is None


def test_one_source_only():
    """Once callers have had some of one attempt, no other attempt may go on; before that, it takes the place of the first."""
    flight = Flight("k")
    flight.begin("one")
    flight.append(Event("message_start", b"{}", b"1"), is_content=False)
    flight.begin("two")
    assert flight.events == []
    flight.append(Event("content_block_delta", b"{}", b"2"), is_content=True)
    flight.begin("two")
    with pytest.raises(BrokenStream):
        flight.begin("three")
    assert [event.raw for event in flight.events] == [b"2"]


def test_said_by_somebody():
    """Nobody appends without saying whose events they are."""
    with pytest.raises(RuntimeError):
        Flight("k").append(Event("message_start", b"{}", b"1"), is_content=False)


async def test_untaken_in_the_air():
    """Who takes nothing of a stream is ended when too much lies here, though upstream still speaks; and then it need not."""
    looks, goes_on = [], asyncio.Event()
    flights = Flights(Untaken(1000, call_later=lambda _, look: looks.append(look)))

    async def fly(flight):
        flight.begin("upstream")
        for number in range(200):
            flight.append(Event("content_block_delta", b"{}", b"%d" % number), is_content=True)
        await goes_on.wait()

    async def deaf():
        with flights.join("deaf", CALL, fly, is_live=True) as member:
            async for _ in member.replay():
                await asyncio.Event().wait()

    ending = asyncio.create_task(deaf())
    while not ending.done():
        await let_tasks_run()
        for look in [looks.pop() for _ in looks]:
            look()
    await let_tasks_run()
    assert ending.cancelled()
    assert len(flights) == 0
    assert repr(flights._untaken) == "<Untaken [0 answers, 0 of 1000 bytes]>"


async def test_untaken():
    """Who takes nothing of a stream that has landed is ended when too much lies here; who takes it slowly has all of it."""
    looks, landed, deaf_hears = [], asyncio.Event(), asyncio.Event()
    flights = Flights(Untaken(1000, call_later=lambda _, look: looks.append(look)))

    async def fly(flight):
        flight.begin("upstream")
        for number in range(200):
            flight.append(Event("content_block_delta", b"{}", b"%d" % number), is_content=True)
        await landed.wait()
        return Landing(ANSWER)

    async def deaf():
        with flights.join("deaf", CALL, fly, is_live=True) as member:
            async for _ in member.replay():
                await deaf_hears.wait()

    async def slow(heard):
        with flights.join("slow", CALL, fly, is_live=True) as member:
            async for event in member.replay():
                heard.append(event.raw)
                for _ in range(10):
                    await asyncio.sleep(0)

    heard = []
    ending, reading = asyncio.create_task(deaf()), asyncio.create_task(slow(heard))
    await let_tasks_run()
    landed.set()
    while not ending.done():
        for _ in range(5):  # in which the slow one takes a few
            await let_tasks_run()
        for look in [looks.pop() for _ in looks]:
            look()
    assert ending.cancelled()
    await reading
    assert heard == [b"%d" % number for number in range(200)]
    assert repr(flights._untaken) == "<Untaken [0 answers, 0 of 1000 bytes]>"


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


def test_passed_on():
    """The ticket of a leader that was refused is not told of to the next one."""
    flight = Flight("k")
    members = [Member(flight, replace(CALL, scope=""), is_live=False) for _ in range(2)]
    for member in members:
        flight.enter(member)
    flight.ticket = "t-1"
    assert members[0].ticket == "t-1"
    flight.is_ticket_anothers = True
    assert members[0].ticket == ""
    flight.is_ticket_anothers = False
    pass_on(flight, members[0], BudgetExhausted("spent", retry_after_s=0.0), 0.0)
    assert flight.lead().ticket == ""


def test_counted_anew():
    """What an attempt said that failed lies here no longer."""
    untaken = Untaken()
    flight = Flight("k", untaken=untaken)
    flight.enter(Member(flight, CALL, is_live=True))
    for again in (lambda: flight.rewind(UpstreamError("busy", status=529)), lambda: flight.begin("two")):
        flight.begin("one")
        for _ in range(100):
            flight.append(Event("ping", b"{}", b"x" * 1000), is_content=False)
        flight._count()
        assert untaken._bytes > 1000
        again()
        assert untaken._bytes < 1000
