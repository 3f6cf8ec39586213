"""Dead letters: made where a ticket fails, kept by age and count, looked at, queued again, dropped."""

from __future__ import annotations

import asyncio
import time

import pytest

from conftest import until
from headrace import keys
from headrace.errors import Canceled, InvalidCall, QueueFull, TicketNotFound
from headrace.owner import Owner
from headrace.retry.ticket import Claimed, Keep, Same, State
from ticket_parts import ANSWER, ERROR, Process, a_call


async def failed(process: Process, **changes) -> str:
    """Have a submitted call fail, and return its ticket."""
    ticket_id = (await process.tickets.submit(a_call(**changes))).ticket
    await process.tickets.start(ticket_id, 1)
    await process.tickets.finish(ticket_id, error=ERROR)
    return ticket_id


async def ids(process: Process, *args, **options) -> list[str]:
    return [letter.ticket.id for letter in (await process.letters.page(*args, **options))[0]]


async def test_made(here):
    """A ticket that stood for itself and failed is a dead letter; one that ended otherwise is none, nor is a parked call's."""
    first, second = await failed(here), await failed(here)
    ended = (await here.tickets.submit(a_call())).ticket
    await here.tickets.start(ended, 1)
    await here.tickets.finish(ended, answer=ANSWER)
    canceled = (await here.tickets.submit(a_call())).ticket
    await here.tickets.finish(canceled, error=Canceled("no"))
    parked = await here.tickets.park(a_call(), attempts=1, broken=0, due=1.0)
    await here.tickets.finish(parked, error=ERROR)
    assert await ids(here) == [second, first]
    letter = await here.letters.get(first)
    assert letter.ticket.call.body == a_call().body
    assert vars(letter.ticket.error) == vars(ERROR)
    assert abs(letter.failed - time.time()) < 60
    for other in (ended, canceled, parked, "tkt_x"):
        with pytest.raises(TicketNotFound):
            await here.letters.get(other)


async def test_owners(here):
    """Through an owner only that one's are seen, and only those can be handled."""
    mine = await failed(here)
    assert await ids(here, "checkout") == [mine]
    assert await ids(here, "other") == []
    for handle in (here.letters.get, here.letters.requeue, here.letters.drop):
        with pytest.raises(TicketNotFound):
            await handle(mine, "other")
    assert await ids(here) == [mine]


async def test_pages(here):
    """Pages tell each letter once, whatever comes and goes between them; models are picked by a pattern."""
    made = [await failed(here, model=f"m{n % 2}") for n in range(7)]
    page, token = await here.letters.page(page_size=3)
    assert [letter.ticket.id for letter in page] == made[:3:-1]
    await here.letters.drop(page[-1].ticket.id)
    late = await failed(here)
    rest, token = await here.letters.page(page_size=10, page_token=token)
    assert ([letter.ticket.id for letter in rest], token) == (made[3::-1], "")
    assert await ids(here, model="m1") == [made[5], made[3], made[1]]
    assert late in await ids(here)
    with pytest.raises(InvalidCall):
        await here.letters.page(page_token="rubbish")


async def test_requeued(here):
    """A letter that is queued again is a ticket with all its attempts and all its time before it, and ends once more."""
    ticket_id = await failed(here, deadline=time.time() + 100)
    ticket = await here.letters.requeue(ticket_id, "checkout")
    assert (ticket.state, ticket.attempts, ticket.broken, ticket.error) == (State.QUEUED, 0, 0, None)
    assert 95 < ticket.deadline - time.time() < 105
    assert ticket.call.deadline == ticket.deadline
    assert await here.link.do("TTL", keys.ticket(ticket_id)) == -1
    assert here.alarms.set[-1][:2] == (ticket_id, 1)
    assert await ids(here) == []
    with pytest.raises(TicketNotFound):
        await here.letters.requeue(ticket_id)

    started = await here.tickets.start(ticket_id, 1)
    assert started.call.body == a_call().body
    await here.tickets.finish(ticket_id, answer=ANSWER, attempts=1)
    ended = await here.tickets.get(ticket_id, Owner("checkout"))
    assert (ended.state, ended.answer, ended.error) == (State.SUCCEEDED, ANSWER, None)
    assert await here.link.do("ZCARD", keys.live_tickets_of("checkout")) == 0
    assert int(await here.link.do("HGET", keys.live_bytes_of("checkout"), "sum")) == 0


async def test_requeued_for(here):
    """Its new time can be given."""
    ticket = await here.letters.requeue(await failed(here), lasts_s=1000.0)
    assert 990 < ticket.deadline - time.time() < 1010


async def test_old_end_again(here):
    """An end that comes late, or once more, from before it was queued again, does not end it."""
    ticket_id = (await here.tickets.submit(a_call())).ticket
    await here.tickets.start(ticket_id, 1)
    hold = here.tickets.hold(ticket_id)
    await here.tickets.finish(ticket_id, error=ERROR, by=hold)
    await here.letters.requeue(ticket_id)
    assert not await here.tickets.finish(ticket_id, error=ERROR, by=hold)
    assert await here.state(ticket_id) is State.QUEUED


async def test_its_key(here):
    """Its idempotency key stands for it again, unless another call has taken it meanwhile."""
    call = a_call(idempotency_key="k")
    for is_taken in (False, True):
        first = (await here.tickets.claim(call)).ticket
        await here.tickets.finish(first, error=ERROR)
        if is_taken:
            second = await here.tickets.claim(call)
            assert isinstance(second, Claimed)
        await here.letters.requeue(first)
        assert await here.tickets.claim(call) == Same(second.ticket if is_taken else first)
        for ticket in (first, *([second.ticket] if is_taken else [])):
            await here.tickets.finish(ticket, error=Canceled("over"))


async def test_bounds(processes):
    """Who has as many tickets as it may have gets none back."""
    process = await processes(bounds=(1, 10_000, 10_000))
    letter = await failed(process)
    await process.tickets.submit(a_call())
    with pytest.raises(QueueFull):
        await process.letters.requeue(letter)
    assert await ids(process) == [letter]


async def test_bound(here):
    """What needs its caller's own key cannot be made again."""
    call = a_call(idempotency_key="k", credential="x-api-key:sk")
    ticket_id = (await here.tickets.claim(call)).ticket
    await here.tickets.finish(ticket_id, error=ERROR)
    with pytest.raises(InvalidCall):
        await here.letters.requeue(ticket_id)


async def test_dropped(here):
    """What is dropped is gone, and cannot be dropped again."""
    ticket_id = await failed(here)
    await here.letters.drop(ticket_id)
    assert await ids(here) == []
    assert (await here.tickets.listing.page("checkout"))[0] == []
    with pytest.raises(TicketNotFound):
        await here.tickets.get(ticket_id, Owner("checkout"))
    with pytest.raises(TicketNotFound):
        await here.letters.drop(ticket_id)


async def test_kept_by_count(processes):
    """Of more than may be kept the eldest go, their tickets with them."""
    process = await processes(keep=Keep(letters=3))
    made = [await failed(process) for _ in range(5)]
    assert await ids(process) == made[:1:-1]
    there = await asyncio.gather(*(process.link.do("EXISTS", keys.ticket(each)) for each in made))
    assert there == [0, 0, 1, 1, 1]


async def test_kept_by_age(processes):
    """They go when their time is over, and then the list that held them goes, too."""
    process = await processes(keep=Keep(letters_s=0.3))
    first = await failed(process)
    assert 0 < await process.link.do("PTTL", keys.ticket(first)) <= 300
    assert 0 < await process.link.do("PTTL", keys.LETTERS) <= 300
    await asyncio.sleep(0.35)
    assert await process.letters.count() == 0
    second = await failed(process)
    assert await process.link.do("ZCARD", keys.LETTERS) == 1
    assert await ids(process) == [second]


async def test_counted(processes):
    """Those whose time is over are not counted, though no other has failed since, and the list is there for younger ones."""
    quick, slow = await processes(keep=Keep(letters_s=0.3)), await processes()
    first = await failed(quick)
    second = await failed(slow)
    assert await slow.letters.count() == 2
    await until(lambda: gone(slow, first))
    assert await slow.letters.count() == 1
    assert await ids(slow) == [second]


async def gone(process: Process, ticket_id: str) -> bool:
    return not await process.link.do("EXISTS", keys.ticket(ticket_id))
