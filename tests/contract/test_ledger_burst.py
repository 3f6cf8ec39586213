"""The burst of a bucket is shared by lanes like its rate, and nothing is lost by it."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from headrace.budget.ledger import Granted, Wait
from headrace.budget.memory import MemoryLedger
from headrace.rank import Flow
from ledger_parts import REQUESTS, now_us


async def test_burst_is_shared(kit):
    """A flood does not keep a bucket empty: it leaves what another lane, which was there lately, may ask for before it."""
    want, night, day = replace(REQUESTS, rate_per_minute=1200), Flow("n", "batch", 50_000), Flow("d", "interactive", 800_000)
    now = asyncio.get_running_loop().time
    await kit.ask("all", replace(want, cost=20), flow=night)
    due = now() + 0.9  # two go at once, and sixteen may go before n1
    for name, flow in (("n0", night), ("d0", day), ("n1", night), ("n2", night)):
        assert isinstance(await kit.ask(name, want, flow=flow), Wait)
    await asyncio.sleep(0.101)
    for name, flow in (("n0", night), ("d0", day)):
        assert isinstance(await kit.ask(name, want, flow=flow), Granted)
    waiting = await kit.ask("n1", want, flow=night)
    assert waiting.seconds == pytest.approx(due - now(), abs=0.1)
    await asyncio.sleep(0.3)
    assert isinstance(await kit.ask("n1", want, flow=night), Wait)
    assert kit.waiter("n1") not in kit.nudged
    for number in range(1, 6):
        assert isinstance(await kit.ask(f"d{number}", want, flow=day), Granted)
    waiting = await kit.ask("n1", want, flow=night)
    assert waiting.seconds == pytest.approx(due - now(), abs=0.1)  # five of the sixteen have gone
    await asyncio.sleep(waiting.seconds + 0.002)
    granted = await kit.ask("n1", want, flow=night)
    assert isinstance(granted, Granted)
    assert granted.levels[0] == pytest.approx(10 + 20 * max(0, now() - due), abs=1)


async def test_nothing_is_lost():
    """Where both lanes press, both have their shares, and all that flows in."""
    want, night, day = replace(REQUESTS, rate_per_minute=6000), Flow("n", "batch", 200_000), Flow("d", "interactive", 800_000)
    at_us = now_us()
    memory = MemoryLedger(lambda: at_us)
    await memory.reserve("all", (replace(want, cost=20),), waiter="i|all", flow=night)
    names, went = {f"{flow.caller}{number}": flow for number in range(12) for flow in (night, day)}, []
    for _ in range(1000):
        at_us += 5_000
        for name, flow in sorted(names.items(), key=lambda item: memory._standings.get(f"i|{item[0]}", (0,))[0]):
            if isinstance(await memory.reserve(name, (want,), waiter=f"i|{name}", flow=flow), Granted):
                went.append(flow.caller)
                del names[name]
                names[f"{name}."] = flow
    assert len(went) == pytest.approx(500, abs=4)
    assert went.count("n") == pytest.approx(100, abs=4)
