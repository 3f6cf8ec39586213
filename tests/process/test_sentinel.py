"""Redis behind Sentinels: it is found, another primary is found, and what is acknowledged is there afterwards."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.chaos.rows import ROWS
from tests.chaos.run import LONG, SHORT_PLAN, run

from headrace.errors import RedisAway
from headrace.link import Link, Script
from sentinels import Group

SURE = Script("headrace.budget", "hosts.lua", is_sure=True)


@pytest.mark.slow
async def test_fails_over(long: bool) -> None:
    """Planned, and by kill -9, under load of whole daemons: every call is answered, once."""
    measured = await run("sentinel", ROWS["sentinel"], LONG if long else SHORT_PLAN, random.Random(1))
    said = "\n".join(measured.notes)
    broken = {name: measured.figures[name] for name in ("lost", "twice", "spliced", "hung") if measured.figures[name]}
    assert not broken, said
    assert measured.figures["answered"] == measured.figures["asked"] > 50, said


async def test_waits_for_replicas(tmp_path) -> None:
    """What is to be sure is acknowledged when a replica has it; without one it is not, and goes on when there is one again."""
    with await asyncio.to_thread(Group, tmp_path) as group:
        link = Link(group.url, replicas=2)
        try:
            ask = lambda: link.run(SURE, ["headrace:hosts"], ["me", 1_000_000])  # noqa: E731
            await ask()
            with group.without_a_replica(), pytest.raises(RedisAway, match="1 of 2 replicas"):
                await ask()
            while True:
                try:
                    await ask()
                except RedisAway:
                    continue
                break
        finally:
            await link.aclose()
