"""Flights whose readers take nothing: those are ended when too much lies here, and nobody else is."""

import asyncio

from headrace.errors import UpstreamError
from headrace.flight.flight import Flight, Landing, Member
from headrace.flight.flights import Flights
from headrace.flight.untaken import Untaken
from headrace.model import Answer, Event, Form
from scripted import CALL

EVENTS = 200


async def let_tasks_run():
    for _ in range(10):
        await asyncio.sleep(0)


def counted():
    """Return flights that bound what lies here, and a function that looks at it as often as it wants to be looked at."""
    looks = []
    flights = Flights(Untaken(1000, call_later=lambda _, look: looks.append(look)))

    def look():
        for due in [looks.pop() for _ in looks]:
            due()

    return flights, look


def saying(ends):
    """Return what says a stream at once, which lands when *ends* is set."""

    async def fly(flight):
        flight.begin("upstream")
        for number in range(EVENTS):
            flight.append(Event("content_block_delta", b"{}", b"%d" % number), is_content=True)
        await ends.wait()
        return Landing(Answer(Form.JSON, b"{}", created=1.0))

    return fly


async def deaf(flights, fly):
    with flights.join("deaf", CALL, fly, is_live=True) as member:
        async for _ in member.replay():
            await asyncio.Event().wait()


async def test_in_the_air():
    """Who takes nothing of a stream is ended when too much lies here, though upstream still speaks; and then it need not."""
    flights, look = counted()
    ending = asyncio.create_task(deaf(flights, saying(asyncio.Event())))
    while not ending.done():
        await let_tasks_run()
        look()
    await let_tasks_run()
    assert ending.cancelled()
    assert len(flights) == 0
    assert repr(flights._untaken) == "<Untaken [0 answers, 0 of 1000 bytes]>"


async def test_landed():
    """Who takes nothing of a stream that has landed is ended when too much lies here; who takes it slowly has all of it."""
    (flights, look), landed, heard = counted(), asyncio.Event(), []

    async def slow():
        with flights.join("slow", CALL, saying(landed), is_live=True) as member:
            async for event in member.replay():
                heard.append(event.raw)
                await let_tasks_run()

    ending, reading = asyncio.create_task(deaf(flights, saying(landed))), asyncio.create_task(slow())
    await let_tasks_run()
    landed.set()
    while not ending.done():
        for _ in range(5):  # in which the slow one takes a few
            await let_tasks_run()
        look()
    assert ending.cancelled()
    await reading
    assert heard == [b"%d" % number for number in range(EVENTS)]
    assert repr(flights._untaken) == "<Untaken [0 answers, 0 of 1000 bytes]>"


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
