"""A crowd that comes at once: some are let in at a turn of the loop, in the order in which they came."""

from __future__ import annotations

import asyncio

from headrace.admission import _AT_ONCE
from headrace.allowance import Allowance


async def test_by_turns() -> None:
    """What comes meanwhile waits for no more than the turns of those before it."""
    arrivals, let_in = Allowance(_AT_ONCE), list[int]()

    async def come(number: int) -> None:
        await arrivals.take(1)
        let_in.append(number)

    coming = [asyncio.create_task(come(number)) for number in range(100)]
    seen = []
    while len(let_in) < 100:
        before = len(let_in)
        await asyncio.sleep(0)
        seen.append(len(let_in) - before)
    assert max(seen) <= _AT_ONCE
    assert let_in == list(range(100))
    await asyncio.gather(*coming)
