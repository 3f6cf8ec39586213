"""Tickets from before there was a seal are sealed where nobody else can write, and go on; nothing else is."""

from __future__ import annotations

import pytest

from headrace import keys
from headrace.cipher import Cipher
from headrace.clock import SystemClock
from headrace.errors import TicketNotFound
from headrace.link import Link
from headrace.owner import Owner
from headrace.retry.adopting import adopt
from headrace.retry.tickets import Tickets
from headrace.seal import UNSEALED, Mac
from ticket_parts import ANSWER, ERROR, Alarms, a_call

OURS = Mac(b"k" * 32)
WHO = Owner("checkout")


@pytest.fixture
async def tickets(valkey_url):
    """A maker of tickets under a seal."""
    links = []

    def make(seal):
        links.append(Link(valkey_url))
        return Tickets(links[-1], SystemClock(), Alarms(), seal=seal)

    yield make
    for link in links:
        await link.aclose()


async def before(tickets) -> dict[str, str]:
    """Leave tickets of a version that knew no seals, one in every state that matters."""
    old, made = tickets(UNSEALED), {}
    for number, name in enumerate(("queued", "answered", "failed")):
        made[name] = (await old.submit(a_call(fingerprint=f"{number}" * 64))).ticket
    await old.finish(made["answered"], answer=ANSWER)
    await old.finish(made["failed"], error=ERROR)
    return made


def names(*ids: str) -> list[str]:
    return [keys.ticket(each) for each in ids]


@pytest.mark.parametrize("seal", [OURS, Cipher([b"e" * 32], OURS)], ids=repr)
async def test_go_on(link, tickets, seal):
    """What was queued is made, and what has ended is shown, as if it had been sealed from the beginning; once is enough."""
    made = await before(tickets)
    now = tickets(seal)
    for each in made.values():
        with pytest.raises(TicketNotFound):
            await now.get(each, WHO)
    assert await adopt(link, seal, names(*made.values())) == 3
    assert await adopt(link, seal, names(*made.values())) == 0
    assert (await now.get(made["answered"], WHO)).answer == ANSWER
    assert str((await now.get(made["failed"], WHO)).error) == str(ERROR)
    assert (await now.start(made["queued"], 1)).call.body == a_call().body
    assert len((await now.listing.page(WHO.text))[0]) == 3


async def test_times(link, tickets):
    """A ticket that was about to go still goes, and one that has gone does not come back."""
    made = await before(tickets)
    await link.do("PEXPIRE", keys.ticket(made["answered"]), 50_000)
    await link.do("DEL", keys.ticket(made["failed"]))
    assert await adopt(link, OURS, names(*made.values())) == 2
    assert 0 < await link.do("PTTL", keys.ticket(made["answered"])) <= 50_000
    assert not await link.do("EXISTS", keys.ticket(made["failed"]))


async def test_nothing_else(link, tickets):
    """What another has sealed, and what is no ticket, stays as it is."""
    theirs = (await tickets(Mac(b"o" * 32)).submit(a_call())).ticket
    odd = [keys.ticket("odd"), keys.ticket("empty"), keys.ticket("none")]
    await link.do("SET", odd[0], "x")
    await link.do("HSET", odd[1], "x", "y")
    assert await adopt(link, OURS, [*names(theirs), *odd]) == 0
    with pytest.raises(TicketNotFound):
        await tickets(OURS).get(theirs, WHO)
