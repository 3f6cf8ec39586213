"""The retry budget over the whole line: load is bounded, whatever fails, and beside the gate it costs nobody anything."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from conftest import until
from flow_parts import Daemon, overloaded, running, say
from headrace.errors import HeadraceError
from headrace.retry.budget import Bounds, RetryBudget
from scripted import OVERLOADED, Line

SHARE = 0.2


def bounded(one: Daemon, bounds: Bounds) -> RetryBudget:
    """Give a daemon a budget of other bounds."""
    parts = one.parts
    parts.retries = parts.attempts._retries = parts.carrier._retries = RetryBudget(parts.link, parts.clock, bounds)
    return parts.retries


class Storm:
    """An upstream that is overloaded for a while."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    async def __call__(self, line: Line) -> None:
        await (overloaded if time.monotonic() < self._until else say)(line)


async def outcome(one: Daemon, number: int, timeout_s: float) -> bool:
    try:
        return (await one.ask(one.call({"n": number}, timeout_s=timeout_s))).answer is not None
    except HeadraceError:
        return False


async def test_load_is_bounded(valkey_url: str, tmp_path: Path) -> None:
    """Without the gate, and with upstream refusing every attempt, there are 1 + share of them for a call, and no more."""
    async with running(valkey_url, tmp_path, overloaded, UPSTREAM__OVERLOAD_GATE="off") as (one, server):
        budget = bounded(one, Bounds(SHARE, least=3))
        # How long first attempts take is the machine's affair: their calls have time, and leave when the budget has said no.
        calls = [asyncio.create_task(outcome(one, number, 60.0)) for number in range(100)]
        await until(lambda: server.calls >= 100 * (1 + SHARE), within=50)
        refusals = said_no(budget)
        await until(lambda: len(refusals) >= 3, within=20)
        assert budget.stats().waiting > 0
        assert not any(call.done() for call in calls)
        assert server.calls <= 100 * (1 + SHARE)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await until(lambda: budget.stats().waiting == 0)
        await budget.close()


def said_no(budget: RetryBudget) -> list[float]:
    """Return a list that grows with each time that the budget is asked from now on and lets nobody go."""
    refusals: list[float] = []
    grant, waiting = budget._grant, budget.stats

    async def watched() -> float:
        before = waiting().waiting
        left_s = await grant()
        if waiting().waiting == before:
            refusals.append(left_s)
        return left_s

    budget._grant = watched  # type: ignore[method-assign]
    return refusals


async def test_nobody_waits_who_need_not(valkey_url: str, tmp_path: Path) -> None:
    """While few fail, their retries go at once."""
    failed = set()

    async def now_and_then(line: Line) -> None:
        if line.body.endswith(b"0}") and line.body not in failed:
            failed.add(line.body)
            await line.answer(529, OVERLOADED)
        else:
            await say(line)

    async with running(valkey_url, tmp_path, now_and_then, UPSTREAM__OVERLOAD_GATE="off") as (one, server):
        budget = bounded(one, Bounds(SHARE, least=3))
        assert all(await asyncio.gather(*(outcome(one, number, 5.0) for number in range(100))))
        assert 100 < server.calls <= 120
        await budget.close()


@pytest.mark.parametrize("storm_s", [2.5, pytest.param(60.0, marks=pytest.mark.long)])
async def test_beside_the_gate(valkey_url: str, tmp_path: Path, storm_s: float) -> None:
    """A storm that the gate holds up: with the budget calls end as soon as without, 1 + share upstream calls each."""
    took, cost = {}, {}
    every_s = 0.02
    for share in (1.0, SHARE):
        async with running(valkey_url, tmp_path / str(share), Storm(storm_s), LIMIT="[]") as (one, server):
            budget = bounded(one, Bounds(share, least=60 if share == 1.0 else 10))
            began, calls = time.monotonic(), []
            for number in range(round(storm_s / every_s)):
                calls.append(asyncio.create_task(outcome(one, number + round(10_000 * share), 300.0)))
                await asyncio.sleep(every_s)
            assert all(await asyncio.gather(*calls))
            took[share], cost[share] = time.monotonic() - began, server.calls / len(calls)
            await budget.close()
    print(f"{took=} {cost=}")
    assert cost[SHARE] <= 1 + SHARE
    assert took[SHARE] <= took[1.0] + max(2.0, 0.3 * storm_s)
