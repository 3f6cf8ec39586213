"""How many tickets of a caller may live at once, and how long their answers stay."""

from __future__ import annotations

import contextlib

import pytest

from headrace import keys
from headrace.errors import Canceled, DeadlinePassed, QueueFull
from headrace.model import Caller
from headrace.owner import Owner
from headrace.retry.ticket import Claimed, Conflict, Same
from ticket_parts import ANSWER, ERROR, Process, a_call


@pytest.fixture
async def here(valkey_url):
    async with contextlib.AsyncExitStack() as stack:
        process = await Process(valkey_url).start()
        stack.push_async_callback(process.aclose)
        process.tickets._making._max_tickets = 2
        yield process


async def live(here: Process, caller: str = "checkout") -> int:
    return await here.link.do("ZCARD", keys.live_tickets_of(caller))


def idempotent(key: str, **changes):
    return a_call(idempotency_key=key, **changes)


async def test_too_many(here):
    """Submitted and idempotent tickets of one caller are bounded together; the refusal says so, and others go on."""
    await here.tickets.submit(a_call())
    assert isinstance(await here.tickets.claim(idempotent("k")), Claimed)
    for refused in (here.tickets.submit(a_call()), here.tickets.submit(idempotent("j")), here.tickets.claim(idempotent("i"))):
        with pytest.raises(QueueFull) as error:
            await refused
        assert error.value.metadata == {"limit": "retry.max_tickets", "tickets": "2"}
        assert error.value.retry_after_s == 1.0
    assert await live(here) == 2
    assert isinstance(await here.tickets.submit(a_call(caller=Caller("other"))), Claimed)


async def test_too_large(here):
    """The bodies of one caller's tickets are bounded together, until they end; one alone may be larger, and others go on."""
    here.tickets._making._max_tickets, here.tickets._making._max_bytes = 10, 100
    first = await here.tickets.submit(a_call(body=b"x" * 60))
    second = await here.tickets.submit(a_call(body=b"x" * 40))
    for refused in (here.tickets.submit(a_call(body=b"x")), here.tickets.claim(idempotent("k", body=b"x"))):
        with pytest.raises(QueueFull) as error:
            await refused
        assert error.value.metadata == {"limit": "retry.max_ticket_bytes", "bytes": "100"}
        assert error.value.retry_after_s == 1.0
    assert isinstance(await here.tickets.submit(a_call(caller=Caller("other"), body=b"x" * 101)), Claimed)
    await here.tickets.finish(first.ticket, error=ERROR)
    await here.tickets.finish(first.ticket, error=ERROR)
    third = await here.tickets.submit(a_call(body=b"x" * 60))
    for ticket in (second, third):
        await here.tickets.finish(ticket.ticket, answer=ANSWER)
    assert await here.link.do("HGETALL", keys.live_bytes_of("checkout")) == {b"sum": b"0"}


async def test_lapsed_bytes(here):
    """What has surely ended counts no longer, though nobody said so."""
    here.tickets._making._max_bytes = 100
    past = (await here.tickets.submit(a_call(body=b"x" * 100))).ticket
    await here.link.do("ZADD", keys.live_tickets_of("checkout"), 1, past)
    await here.tickets.submit(a_call(body=b"x" * 90))
    assert await here.link.do("HGET", keys.live_bytes_of("checkout"), "sum") == b"90"


async def test_known_keys_pass(here):
    """A key that stands for a ticket already needs none; nor does a conflict become a refusal for being full."""
    first = await here.tickets.claim(idempotent("k"))
    await here.tickets.submit(a_call())
    assert await here.tickets.claim(idempotent("k")) == Same(first.ticket)
    assert await here.tickets.submit(idempotent("k")) == Same(first.ticket)
    assert await here.tickets.claim(idempotent("k", fingerprint="e" * 64)) == Conflict()


async def test_refused_leaves_nothing(here):
    """A refused call leaves neither a ticket nor a claim on its key."""
    await here.tickets.submit(a_call())
    second = (await here.tickets.submit(a_call())).ticket
    before = await here.link.do("DBSIZE")
    with pytest.raises(QueueFull):
        await here.tickets.submit(idempotent("k"))
    assert await here.link.do("DBSIZE") == before
    await here.tickets.cancel(second, Owner("checkout"))
    assert isinstance(await here.tickets.claim(idempotent("k", fingerprint="e" * 64)), Claimed)


@pytest.mark.parametrize(
    "end",
    [{"answer": ANSWER}, {"error": ERROR}, {"error": Canceled("gone")}, {"error": DeadlinePassed("late")}],
    ids=["answered", "failed", "canceled", "expired"],
)
@pytest.mark.parametrize("is_idempotent", [False, True])
async def test_ended(here, end, is_idempotent):
    """However a ticket ends, its caller may have another one; ended twice, only one."""
    await here.tickets.submit(a_call())
    if is_idempotent:
        ticket = (await here.tickets.claim(idempotent("k"))).ticket
    else:
        ticket = (await here.tickets.submit(a_call())).ticket
        await here.tickets.start(ticket, 1)
    for _ in range(2):
        await here.tickets.finish(ticket, **end)
    assert await live(here) == 1
    await here.tickets.submit(a_call())
    with pytest.raises(QueueFull):
        await here.tickets.submit(a_call())


async def test_parked_does_not_count(here):
    """A call that is parked goes with its RPC, and is no ticket that stands for itself; one of its own is counted once."""
    for _ in range(3):
        await here.tickets.park(a_call(), attempts=1, broken=0, due=1.0)
    assert await live(here) == 0
    own = (await here.tickets.claim(idempotent("k"))).ticket
    await here.tickets.park(a_call(ticket=own), attempts=1, broken=0, due=1.0)
    await here.tickets.start(own, 2)
    assert await live(here) == 1


async def test_long_past(here):
    """A ticket that is long past its deadline does not count, even if nobody is left to end it."""
    for _ in range(2):
        await here.tickets.submit(a_call(deadline=1000.0))
    assert isinstance(await here.tickets.submit(a_call()), Claimed)
    assert await live(here) == 1


async def keep_ms(here: Process, ticket: str) -> int:
    return await here.link.do("PTTL", keys.ticket(ticket))


async def test_handed_over(here):
    """The answer of a parked call, which its RPC takes at once, is kept for a minute."""
    ticket = await here.tickets.park(a_call(), attempts=1, broken=0, due=1.0)
    await here.tickets.start(ticket, 2)
    await here.tickets.finish(ticket, answer=ANSWER)
    assert 50_000 < await keep_ms(here, ticket) <= 60_000
    assert (await here.tickets.get(ticket, Owner("checkout"))).answer == ANSWER


async def test_stands_for_itself(here):
    """That of a submitted call, or of one with a key, is kept for a day; and so it is if that was parked meanwhile."""
    submitted = (await here.tickets.submit(a_call())).ticket
    claimed = (await here.tickets.claim(idempotent("k"))).ticket
    await here.tickets.park(a_call(ticket=claimed), attempts=1, broken=0, due=1.0)
    for ticket in (submitted, claimed):
        await here.tickets.finish(ticket, answer=ANSWER)
        assert 86_000_000 < await keep_ms(here, ticket) <= 86_400_000


async def test_parked_failed(here):
    """A parked call that failed is no dead letter, since its caller has heard why: it stays for a day."""
    ticket = await here.tickets.park(a_call(), attempts=1, broken=0, due=1.0)
    await here.tickets.finish(ticket, error=ERROR)
    assert 86_000_000 < await keep_ms(here, ticket) <= 86_400_000
    assert not await here.link.do("EXISTS", keys.LETTERS)
