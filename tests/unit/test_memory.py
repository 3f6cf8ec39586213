"""Memory: once a crowd has left, what Python keeps to use again is let go of, a few times, and never while many wait."""

from __future__ import annotations

import asyncio
import gc

import pytest

from conftest import until
from headrace import memory
from headrace.clock import HandClock

LOOK_S = 5.0


@pytest.mark.parametrize(
    ("waiting", "trims", "collects"),
    [
        pytest.param([400, 0, 0, 0], 0, 0, id="no crowd"),
        pytest.param([8000, 8000, 8000], 0, 0, id="it waits"),
        pytest.param([8000, 3000, 3000, 3000], 3, 0, id="most have left"),
        pytest.param([8000, 10, 0, 0, 0, 0, 0], 4, 4, id="all have left"),
        pytest.param([8000, 3000, 10, 10], 3, 2, id="in two halves"),
    ],
)
async def test_after_a_crowd(monkeypatch, waiting: list[int], trims: int, collects: int) -> None:
    """Nothing is collected while thousands wait: to walk through all that they hold would hold up everybody."""
    done: list[str] = []
    monkeypatch.setattr(memory, "give_back", lambda: done.append("trim"))
    monkeypatch.setattr(gc, "collect", lambda: done.append("collect"))
    clock, left = HandClock(), list(waiting)
    keeping = asyncio.create_task(memory.keep_small(clock, lambda: left.pop(0)))
    for number in range(len(waiting)):
        await until(lambda: "1 asleep" in repr(clock))
        await clock.advance(LOOK_S)
        await until(lambda number=number: len(left) == len(waiting) - number - 1)
    await until(lambda: "1 asleep" in repr(clock))
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert (done.count("trim"), done.count("collect")) == (trims, collects)
