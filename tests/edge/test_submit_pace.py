"""A flood of submitted calls that cannot all be worked in time: what is taken in is answered, the rest refused with a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import BY_THE_CLOCK, until
from flow_parts import running, say
from headrace.errors import QueueFull
from headrace.retry.ticket import State
from scripted import Line

pytestmark = BY_THE_CLOCK

LIMIT = '[{"name": "org", "concurrency": 4}]'


@pytest.mark.parametrize(
    ("left_s", "flood_s", "least"), [(5.0, 9.0, 0.5), pytest.param(30.0, 90.0, 0.95, marks=pytest.mark.long)]
)
async def test_flood(valkey_url: str, tmp_path: Path, left_s: float, flood_s: float, least: float) -> None:
    """
    Three times as many are submitted as can be worked: few of those that are taken in run out of time.

    A third could be worked if all were taken. In the short form much came before a pace was known, and a busy machine has less.
    """

    async def slow(line: Line) -> None:
        await asyncio.sleep(0.1)
        await say(line)

    taken, refused, waits, limits = Counter[str](), 0, list[float](), set[str]()
    async with running(valkey_url, tmp_path, slow, LIMIT=LIMIT) as (one, _):
        tickets, began, number = [], time.monotonic(), 0
        while time.monotonic() - began < flood_s:
            number += 1
            try:
                tickets.append((await one.parts.pursuits.submit(one.call({"n": number}, timeout_s=left_s))).id)
            except QueueFull as full:
                refused += 1
                waits.append(full.retry_after_s or 0.0)
                limits.add(full.metadata["limit"])
            await asyncio.sleep(1 / 120)

        async def ended() -> bool:
            return await one.parts.link.do("ZCARD", "headrace:tickets") == 0

        await until(ended, within=left_s + 20)
        for ticket in tickets:
            taken[await one.parts.link.do("HGET", f"headrace:ticket:{ticket}", "state")] += 1
    print(taken, refused)
    assert refused > number / 8
    assert limits == {"deadline"}
    assert min(waits) >= 1.0
    assert taken[State.SUCCEEDED.encode()] >= least * len(tickets)
