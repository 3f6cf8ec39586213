"""The book of calls that somebody may ask about, on a real Valkey: written by the batch, bounded, sealed, read anywhere."""

from __future__ import annotations

import msgspec
import pytest

from headrace import keys
from headrace.clock import SystemClock
from headrace.errors import CallNotFound, RedisAway
from headrace.explain import Book, Stories
from headrace.link import Link
from headrace.outcome import Outcome
from headrace.seal import UNSEALED, Mac
from headrace.trail import Try
from headrace.trails import Trails
from ticket_parts import Process, a_call

SLOW = Outcome("http", "messages", "ann", "standard", "m", source="upstream", took_s=40.0)


def outcome(id: str, began: float = 0.0, **changes) -> Outcome:
    return msgspec.structs.replace(SLOW, id=id, began=began or SystemClock().now(), **changes)


@pytest.fixture
async def link(valkey_url):
    made = Link(valkey_url)
    yield made
    await made.aclose()


def book_on(link: Link, **options) -> Book:
    return Book(link, SystemClock(), **({"slow_s": 30.0, "most": 100} | options))


async def test_kept(link, valkey_url) -> None:
    """What one process noted another finds, by the call's id and by its ticket; a smooth call is not there."""
    book, other = book_on(link), book_on(Link(valkey_url))
    sent = link.round_trips
    book.heed(outcome("hr_1", ticket="tkt_1"))
    book.heed(outcome("hr_2", took_s=1.0))
    assert link.round_trips == sent
    await book.post()
    for name in ("hr_1", "tkt_1"):
        [told] = await other.find(name)
        assert (told.id, told.caller, told.host, told.took_s) == ("hr_1", "ann", link.instance, 40.0)
        assert 0 < await link.do("TTL", keys.call(name)) <= 86_400
    assert await other.find("hr_2") == []
    assert 0 < await link.do("TTL", keys.CALLS) <= 86_400
    await other._link.aclose()


async def test_one_id_many_calls(link) -> None:
    """A caller's own id may name several calls: the last twenty of them."""
    book = book_on(link)
    for number in range(25):
        book.heed(outcome("mine", began=1.7e9 + number))
    await book.post()
    assert [told.began - 1.7e9 for told in await book.find("mine")] == list(range(5, 25))


async def test_bounded(link) -> None:
    """Beyond the bound the eldest go, lists and all; beyond a second's share calls are left out, and counted."""
    book = book_on(link, most=10)
    now = SystemClock().now()
    for number in range(30):
        book.heed(outcome(f"hr_{number}", began=now + number / 1000))
    await book.post()
    assert [told.id for told in await book.latest(50)] == [f"hr_{number}" for number in range(29, 19, -1)]
    assert await link.do("EXISTS", keys.call("hr_19")) == 0
    for number in range(300):
        book.heed(outcome(f"more_{number}"))
    assert (book.stats().waiting, book.stats().left_out) == (200, 100)
    book_off = book_on(link, most=0)
    book_off.heed(outcome("off"))
    assert book_off.stats().waiting == 0


async def test_sealed(link) -> None:
    """What others write there is not taken for ours; a value of another type is replaced."""
    book = book_on(link, seal=Mac(b"k" * 32))
    await link.do("SET", keys.call("hr_1"), "mine")
    book.heed(outcome("hr_1"))
    await book.post()
    await link.do("RPUSH", keys.call("hr_1"), b"{}")
    assert [told.id for told in await book.find("hr_1")] == ["hr_1"]
    assert await book_on(link, seal=Mac(b"x" * 32)).find("hr_1") == []


async def test_kept_while_redis_is_away() -> None:
    """What Redis did not take waits for the next time."""
    link = Link("redis://127.0.0.1:1")
    book = book_on(link)
    book.heed(outcome("hr_1"))
    with pytest.raises(RedisAway):
        await book.post()
    assert book.stats().waiting == 1
    await link.aclose()


async def test_story(here: Process) -> None:
    """A ticket that has not ended has a story by its tries, made on whichever host; to other callers it is not there."""
    book, trails = book_on(here.link), Trails(here.link, UNSEALED)
    stories = Stories(book, here.tickets.looks, trails)
    claim = await here.tickets.submit(a_call())
    trails.tell(claim.ticket, (Try(1, 529, "overloaded", 101.0, 0.5, 1.0, "org", "req", "one-7"),))
    story = await stories.of(claim.ticket)
    assert story.ticket is not None
    assert (story.calls, story.ticket.owner, [made.host for made in story.tries]) == ([], "checkout", ["one-7"])
    book.heed(outcome("hr_1", caller="checkout", ticket=claim.ticket))
    story = await stories.of("hr_1", "checkout")
    assert story.ticket is not None
    assert ([told.id for told in story.calls], story.ticket.id) == (["hr_1"], claim.ticket)
    for name, owner in ((claim.ticket, "ann"), ("hr_1", "ann"), ("hr_9", ""), ("tkt_9", "")):
        with pytest.raises(CallNotFound):
            await stories.of(name, owner)
