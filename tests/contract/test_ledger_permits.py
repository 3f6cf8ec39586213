"""Permits go with their lease: a dead holder's come back, and who lives and renews its own keeps it."""

from __future__ import annotations

import asyncio

import redis

from conftest import BY_THE_CLOCK
from headrace import keys
from headrace.budget.ledger import Granted, Wait
from headrace.budget.redis import RedisLedger
from ledger_parts import PERMITS, SLOW, beaten

pytestmark = BY_THE_CLOCK


async def test_permits_lapse(kit, short_lease):
    """The permit of a holder that died comes back with its lease, and whoever waits is told when; a renewed one stays."""
    await beaten(kit, 0.2)
    await kit.ask("a", PERMITS)
    await kit.ask("b", PERMITS)
    assert 0 < (await kit.ask("c", PERMITS)).seconds < 0.13
    await beaten(kit, 0.16, "b")
    assert (await kit.ask("c", PERMITS)).levels == (0,)
    assert isinstance(await kit.ask("d", PERMITS), Wait)


async def test_asked_again_too_late(kit, short_lease):
    """Whose answer was lost, and whose permit lapsed before it could ask again, waits for another; what else it had is back."""
    await beaten(kit, 0.2)
    await kit.ask("lost", SLOW, PERMITS)
    await kit.ask("b", PERMITS)
    await beaten(kit, 0.16, "b")
    assert (await kit.ask("c", PERMITS)).levels == (0,)
    assert isinstance(await kit.ask("lost", SLOW, PERMITS), Wait)
    assert (await kit.ask("d", SLOW)).levels == (0,)
    await kit.ledger.release("d", (SLOW,))
    await kit.ledger.release("c", (PERMITS,))
    assert isinstance(await kit.ask("lost", SLOW, PERMITS), Granted)
    await kit.ledger.release("lost", (SLOW, PERMITS))
    assert (await kit.ask("e", SLOW, PERMITS)).levels == (0, 0)


async def test_asking_again_renews(kit, short_lease):
    """Whose answer was lost and who asks again in time has its permit for another lease."""
    await beaten(kit, 0.2)
    await kit.ask("lost", PERMITS)
    await kit.ask("b", PERMITS)
    await beaten(kit, 0.08, "b")
    assert isinstance(await kit.ask("lost", PERMITS), Granted)
    await beaten(kit, 0.08, "b")
    assert isinstance(await kit.ask("c", PERMITS), Wait)


async def test_lapse_needs_a_pulse(kit, short_lease):
    """Where nobody was heard for a while it was the ledger that was away: nothing lapses until those who live could renew."""
    await beaten(kit, 0.2)
    await kit.ask("a", PERMITS)
    await kit.ask("b", PERMITS)
    await asyncio.sleep(0.2)
    assert isinstance(await kit.ask("c", PERMITS), Wait)
    await kit.ledger.renew({})
    assert isinstance(await kit.ask("c", PERMITS), Wait)
    await beaten(kit, 0.08, "b")
    assert isinstance(await kit.ask("c", PERMITS), Wait)
    await beaten(kit, 0.08, "b")
    assert (await kit.ask("c", PERMITS)).levels == (0,)


async def test_renew_takes_anew(kit):
    """A permit that was lost while its holder stood still is counted again, above the capacity; so the next one is kept out."""
    await kit.ask("a", PERMITS)
    await kit.ask("b", PERMITS)
    await kit.ledger.renew({"lost": (PERMITS,)})
    assert (await kit.ask("c", PERMITS)).levels == (-1,)
    await kit.ledger.release("a", (PERMITS,))
    assert (await kit.ask("c", PERMITS)).levels == (0,)
    await kit.ledger.settle("lost", (PERMITS,), {})
    assert isinstance(await kit.ask("c", PERMITS), Granted)


async def test_renewed_too_late(kit):
    """A renewal that is done after the settlement, said again or held up, takes nothing: nobody would give it back."""
    await kit.ask("settled", PERMITS)
    await kit.ask("released", PERMITS)
    await kit.ledger.settle("settled", (PERMITS,), {})
    await kit.ledger.release("released", (PERMITS,))
    await kit.ledger.renew({"settled": (PERMITS,), "released": (PERMITS,)})
    assert (await kit.ask("a", PERMITS)).levels == (1,)
    assert (await kit.ask("b", PERMITS)).levels == (0,)


async def test_renew_many(link, valkey_url):
    """However many a process holds, one command renews them."""
    many = {f"h{number}": (PERMITS,) for number in range(2500)}
    await RedisLedger(link).renew(many)
    with redis.Redis.from_url(valkey_url) as client:
        assert client.zcard(keys.permits(PERMITS.bucket_id)) == 2500
