"""Idempotency keys: a key seen again is the first one's ticket, until that has failed; of many who come at once, one has it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace import keys
from headrace.errors import Canceled, DeadlinePassed
from headrace.model import Caller
from headrace.owner import Owner
from headrace.retry.ticket import Claimed, Conflict, Keep, Same
from ticket_parts import ANSWER, ERROR, a_call


async def test_idempotency(processes):
    """The same call with the same key gets the first one's ticket, another call a conflict; another caller's key is its own."""
    one, two = await processes(), await processes()
    call = a_call(idempotency_key="k")
    first = await one.tickets.claim(call)
    assert isinstance(first, Claimed)
    assert await two.tickets.claim(call) == Same(first.ticket)
    assert await two.tickets.submit(call) == Same(first.ticket)
    assert await two.tickets.claim(replace(call, fingerprint="0" * 64)) == Conflict()
    assert isinstance(await two.tickets.claim(replace(call, caller=Caller("other"))), Claimed)

    await one.tickets.finish(first.ticket, answer=ANSWER)
    assert await two.tickets.claim(call) == Same(first.ticket), "kept for a day"
    ticket = await one.tickets.get(first.ticket, Owner("checkout"))
    assert (ticket.attempts, ticket.answer) == (1, ANSWER)


async def test_one_claims(processes):
    """Of many who claim a key at once, one has it."""
    fleet = [await processes() for _ in range(3)]
    call = a_call(idempotency_key="k")
    outcomes = await asyncio.gather(*(process.tickets.claim(call) for process in fleet for _ in range(5)))
    assert sum(isinstance(outcome, Claimed) for outcome in outcomes) == 1
    assert len({outcome.ticket for outcome in outcomes}) == 1


@pytest.mark.parametrize("error", [ERROR, Canceled("c"), DeadlinePassed("d")])
async def test_key_freed(here, error):
    """After a failed first, its key is free again."""
    call = a_call(idempotency_key="k")
    first = await here.tickets.claim(call)
    await here.tickets.finish(first.ticket, error=error)
    assert isinstance(await here.tickets.claim(replace(call, fingerprint="0" * 64)), Claimed)


@pytest.mark.parametrize("fingerprint", [a_call().fingerprint, "0" * 64], ids=["same", "other"])
async def test_key_of_what_is_gone(here, fingerprint):
    """A key whose ticket is not there any more, since its time was over or Redis lost it, is free: nobody could be answered."""
    call = a_call(idempotency_key="k")
    first = await here.tickets.claim(call)
    await here.tickets.finish(first.ticket, answer=ANSWER)
    await here.link.do("DEL", keys.ticket(first.ticket))
    second = await here.tickets.claim(replace(call, fingerprint=fingerprint))
    assert isinstance(second, Claimed)
    assert await here.tickets.claim(replace(call, fingerprint=fingerprint)) == Same(second.ticket)


async def test_late_failure_frees_no_other(here):
    """A first that fails after its key went to another leaves that one's claim alone."""
    call = a_call(idempotency_key="k")
    first = await here.tickets.claim(call)
    await here.link.do("DEL", keys.idempotency("checkout", "k"))
    second = await here.tickets.claim(call)
    await here.tickets.finish(first.ticket, error=ERROR)
    assert await here.tickets.claim(call) == Same(second.ticket)


async def test_answer_lasts_as_long_as_its_key(processes):
    """However short other results are kept, a repeat finds the answer that its key stands for; without a key it goes sooner."""
    process = await processes(keep=Keep(results_s=0.2))
    call = a_call(idempotency_key="k")
    for asked in (call, a_call()):
        claim = await process.tickets.claim(asked)
        await process.tickets.finish(claim.ticket, answer=ANSWER)
        left = await process.link.do("PTTL", keys.ticket(claim.ticket))
        assert (left > 80_000_000) == bool(asked.idempotency_key)
        assert (left <= 200) == (not asked.idempotency_key)


@pytest.mark.parametrize("is_same", [True, False], ids=["same", "another"])
async def test_ticket_gone(here, is_same):
    """A key whose ticket is there no more (Redis lost it) is free: who comes with it would wait in vain for a day."""
    call = a_call(idempotency_key="k")
    first = await here.tickets.claim(call)
    await here.tickets.finish(first.ticket, answer=ANSWER)
    await here.link.do("DEL", keys.ticket(first.ticket))
    again = call if is_same else replace(call, fingerprint="0" * 64)
    second = await here.tickets.claim(again)
    assert isinstance(second, Claimed)
    assert await here.tickets.claim(again) == Same(second.ticket)
