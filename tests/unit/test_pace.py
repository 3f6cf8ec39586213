"""Pace: a byte a second is no progress, and what is fast enough may pause."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import TooSlow
from headrace.pace import Going, Pace, coming

QUICK = (1_000_000, 0.05)


def test_trickles():
    """A byte a second uses the patience up nearly as fast as silence does."""
    pace, seconds = Pace(1000, 30.0), 0
    while pace.left() > 1:
        pace.moved(1, 1.0)
        seconds += 1
    assert seconds == 30
    assert repr(pace) == "<Pace [0.0 s left]>"


def test_fast_enough():
    """At the least pace it goes on for ever; a piece that goes has its own time on top."""
    pace = Pace(1000, 30.0)
    for _ in range(1000):
        pace.moved(1000, 1.0)
    assert pace.left() == 30.0
    assert pace.left(64_000) == 94.0


def test_any():
    """No least pace: any."""
    pace = Pace(0, 30.0)
    pace.moved(1, 1e6)
    assert pace.left() == math.inf


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 40))))
def test_bound(pieces):
    """Whatever comes, what passes over any span is at least its pace less the patience, or the patience is over."""
    pace, total, seconds = Pace(1000, 30.0), 0, 0.0
    for size, waited_s in pieces:
        pace.moved(size, waited_s)
        total, seconds = total + size, seconds + waited_s
        if pace.left() < 0:
            return
        assert total >= (seconds - 30.0) * 1000 - 1e-3


async def pieces(*sizes: int, every_s: float = 0.0) -> AsyncIterator[bytes]:
    for size in sizes:
        await asyncio.sleep(every_s)
        yield b"x" * size


async def test_silent_sender():
    """A sender that says nothing for longer than the patience is told; one that is done in time is not."""
    with pytest.raises(TooSlow, match="comes at less than the least pace"):
        await anext(coming(pieces(1, every_s=0.2), Pace(*QUICK)))
    assert [len(piece) async for piece in coming(pieces(1, 2, 3), Pace(*QUICK))] == [1, 2, 3]


async def test_stalled_taker():
    """A taker that does not come back is broken off where it is."""

    async def take() -> None:
        async with Going(Pace(*QUICK)) as going:
            async for _ in going.passing(pieces(1, 1)):
                await asyncio.Event().wait()

    with pytest.raises(TooSlow, match="taken in at less than the least pace"):
        await take()


async def test_slow_giver():
    """While the next piece is waited for, nothing counts against the taker; large ones are cut."""
    async with Going(Pace(*QUICK)) as going:
        assert [len(piece) async for piece in going.passing(pieces(1, 100_000, every_s=0.1))] == [1, 65_536, 34_464]


async def test_taker_leaves():
    """Who is cancelled is cancelled, and not too slow; and so is what fails for a reason of its own."""

    async def take() -> None:
        async with Going(Pace(*QUICK)) as going:
            async for _ in going.passing(pieces(1)):
                await asyncio.sleep(10)

    task = asyncio.ensure_future(take())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ZeroDivisionError):
        async with Going(Pace(*QUICK)):
            raise ZeroDivisionError


async def test_after_the_block():
    """What is passed on when the block is over is nobody's to hurry."""
    async with Going(Pace(*QUICK)) as going:
        pass
    async for _ in going.passing(pieces(1, 1)):
        await asyncio.sleep(0.1)
