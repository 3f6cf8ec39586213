"""
Whose a ticket is: a name's, and where callers' own keys go upstream, a name's and its key's.
"""

import pytest

from headrace import keys
from headrace.errors import TicketNotFound
from headrace.owner import Owner
from headrace.retry.ticket import Claimed, Same, State
from ticket_parts import a_call


async def test_owners(here):
    """Where callers' own keys go upstream, a name is not enough: another's key finds neither ticket nor idempotency key."""
    mine, yours = (a_call(idempotency_key="k", credential=f"bearer:{whose}") for whose in ("mine", "yours"))
    first = await here.tickets.claim(mine)
    assert await here.tickets.claim(mine) == Same(first.ticket)
    second = await here.tickets.claim(yours)
    assert isinstance(second, Claimed)
    for owner in (yours.owner, Owner("checkout"), Owner("checkout", "mine"), Owner.of("checkout", "x-api-key:mine")):
        for attempt in (here.tickets.get(first.ticket, owner), here.tickets.cancel(first.ticket, owner)):
            with pytest.raises(TicketNotFound):
                await attempt
    assert [ticket.id for ticket in (await here.tickets.listing.page(mine.owner.text))[0]] == [first.ticket]
    assert [ticket.id for ticket in (await here.tickets.listing.page(yours.owner.text))[0]] == [second.ticket]
    assert (await here.tickets.cancel(first.ticket, mine.owner)).state is State.CANCELED
    stored = [*await here.link.do("KEYS", "*"), *await here.link.do("HVALS", keys.ticket(second.ticket))]
    assert not any(b"yours" in value for value in stored)
