"""A window, in every ledger: it gives its amount once, and nothing anew until it ends."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from conftest import until
from headrace.budget import ledger as rules
from headrace.budget.ledger import Wait
from ledger_parts import BUDGET, REQUESTS, SLOW

ENDED = replace(BUDGET, bucket_id="org:spend@0", ends_us=1_000_000)


async def test_window(kit):
    """A window gives its capacity and not a token more until it ends; what comes back is there again, and debt stays."""
    assert (await kit.ask("a", BUDGET)).levels == (600,)
    assert (await kit.ask("b", BUDGET)).levels == (200,)
    waiting = await kit.ask("c", BUDGET)
    assert (waiting.bucket_id, waiting.levels) == (BUDGET.bucket_id, (200,))
    assert waiting.seconds == pytest.approx((BUDGET.ends_us - waiting.at_us) / 1e6, abs=1e-6)
    await kit.ledger.settle("a", (BUDGET,), {BUDGET.bucket_id: 100})
    await until(lambda: kit.nudged, within=2)
    assert (await kit.ask("c", BUDGET)).levels == (100,)
    await kit.ledger.settle("c", (BUDGET,), {BUDGET.bucket_id: 700})
    assert (await kit.ask("d", BUDGET)).levels == (-200,)


async def test_window_is_changed(kit):
    """A window knows what is used, so another capacity holds at once, up and down."""
    await kit.ask("a", BUDGET)
    assert (await kit.ask("b", replace(BUDGET, capacity=2000))).levels == (1200,)
    assert (await kit.ask("c", replace(BUDGET, capacity=500))).levels == (-300,)


async def test_window_has_ended(kit):
    """Past its end a window gives what is left of it, for hosts whose clocks are behind, and nothing anew."""
    granted = [await kit.ask(name, ENDED) for name in "ab"]
    assert [grant.levels for grant in granted] == [(600,), (200,)]
    assert (await kit.ask("c", ENDED)).seconds == pytest.approx(rules.BEHIND_US / 1e6)


async def test_window_is_all_or_nothing(kit):
    """A window that has no room keeps the other buckets whole, and they it."""
    await kit.ask("a", replace(BUDGET, cost=900))
    assert isinstance(await kit.ask("b", REQUESTS, BUDGET), Wait)
    assert (await kit.ask("c", REQUESTS)).levels == (19,)
    await kit.ledger.release("b", (REQUESTS, BUDGET), waiter=kit.waiter("b"))
    await kit.ask("d", SLOW)
    assert isinstance(await kit.ask("e", SLOW, replace(BUDGET, cost=100)), Wait)
    assert (await kit.ask("f", replace(BUDGET, cost=100))).levels == (0,)
