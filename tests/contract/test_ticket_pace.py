"""Submitting has back-pressure: a call whose deadline its caller's own queue cannot meet is refused, with a time."""

from __future__ import annotations

import time

import pytest

from headrace import keys
from headrace.errors import QueueFull
from headrace.model import Caller
from headrace.retry.ticket import Claimed
from ticket_parts import ANSWER, Process, a_call

ENOUGH = 12  # ends by which a pace is known


async def worked(process: Process, count: int, *, waited_s: float, over_s: float, name: str = "checkout") -> None:
    """Have so many calls submitted and answered, which had waited so long each, as if they had ended over so many seconds."""
    made = [(await process.tickets.submit(call(60, name))).ticket for _ in range(count)]
    for number, ticket_id in enumerate(made):
        await process.tickets.start(ticket_id, 1)
        hold = process.tickets.hold(ticket_id)
        if number == count - 1:  # the books say that the spell began so long ago
            began = round((time.time() - over_s) * 1e6)
            await process.link.do("HSET", keys.live_bytes_of(name), "since", began)
        await process.tickets.finish(ticket_id, by=hold, answer=ANSWER, waited_s=waited_s)


def call(left_s: float, name: str = "checkout", **more):
    return a_call(caller=Caller(name), deadline=time.time() + left_s, **more)


async def flooded(process: Process, count: int, name: str = "checkout") -> None:
    for _ in range(count):
        await process.tickets.submit(call(3600, name))


async def test_behind(here) -> None:
    """At four a second forty that wait are not done within 5 s, but within 15; the refusal says by how much it is late."""
    await flooded(here, 40)
    await worked(here, ENOUGH, waited_s=5.0, over_s=3.0)
    with pytest.raises(QueueFull) as refused:
        await here.tickets.submit(call(5))
    assert refused.value.metadata["limit"] == "deadline"
    assert 4 < refused.value.retry_after_s < 6
    assert isinstance(await here.tickets.submit(call(15)), Claimed)
    assert isinstance(await here.tickets.submit(call(5, "other")), Claimed), "another caller has a queue of its own"
    assert isinstance(await here.tickets.claim(call(5, idempotency_key="k")), Claimed), "it waits in its RPC"


async def test_slow_and_not_held_up(here) -> None:
    """Calls that take long and wait for nothing say nothing of one more: it would be made beside them."""
    await flooded(here, 40)
    await worked(here, ENOUGH, waited_s=0.1, over_s=30.0)
    assert isinstance(await here.tickets.submit(call(5)), Claimed)


async def test_few_say_nothing(here) -> None:
    """A pace is known by some ends, and not by the first."""
    await flooded(here, 40)
    await worked(here, 5, waited_s=5.0, over_s=30.0)
    assert isinstance(await here.tickets.submit(call(1)), Claimed)


async def test_an_empty_queue_forgets(here) -> None:
    """What a queue did before it was empty says nothing of the next flood."""
    await worked(here, ENOUGH, waited_s=5.0, over_s=3.0)
    assert await here.link.do("HGET", keys.live_bytes_of("checkout"), "pace")
    await flooded(here, 40)
    assert isinstance(await here.tickets.submit(call(5)), Claimed)


async def test_all_callers(processes) -> None:
    """The bodies of all callers' tickets are bounded together, until they end."""
    process = await processes(bounds=(100, 1000, 150))
    first = await process.tickets.submit(call(60, "a", body=b"x" * 100))
    await process.tickets.submit(call(60, "b", body=b"x" * 50))
    for refused in (
        process.tickets.submit(call(60, "c", body=b"x")),
        process.tickets.claim(call(60, "c", idempotency_key="k", body=b"x")),
    ):
        with pytest.raises(QueueFull) as error:
            await refused
        assert error.value.metadata == {"limit": "retry.max_all_ticket_bytes", "bytes": "150"}
    await process.tickets.finish(first.ticket, answer=ANSWER)
    assert isinstance(await process.tickets.submit(call(60, "c", body=b"x" * 100)), Claimed)
    assert await process.link.do("TTL", keys.LIVE_BYTES) > 0


async def test_sum_mends_itself(here) -> None:
    """A sum that nobody can account for is none, once no ticket lives; nor is rubbish one."""
    for rubbish in ("5000000000", "x", "-7"):
        await here.link.do("HSET", keys.LIVE_BYTES, "sum", rubbish)
        ticket = await here.tickets.submit(call(60, body=b"x" * 10))
        assert await here.link.do("HGET", keys.LIVE_BYTES, "sum") == b"10"
        await here.tickets.finish(ticket.ticket, answer=ANSWER)
        assert await here.link.do("HGET", keys.LIVE_BYTES, "sum") == b"0"
