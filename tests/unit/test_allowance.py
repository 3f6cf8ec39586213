"""Slices of work share each turn of the loop, in the order of coming."""

from __future__ import annotations

import asyncio

import pytest

from headrace.allowance import Allowance


async def in_turns(allowance: Allowance, names: str, size: int) -> list[str]:
    """Return who went in each turn of the loop, when all came at once."""
    turns: list[str] = []
    here = 0

    async def go(name: str) -> None:
        await allowance.take(size)
        turns.extend([""] * (here + 1 - len(turns)))
        turns[here] += name

    tasks = [asyncio.create_task(go(name)) for name in names]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        here += 1
    return [turn for turn in turns if turn]


async def test_nobody_waits_while_there_is_little_to_do() -> None:
    """What fits goes at once."""
    assert await in_turns(Allowance(100), "abcd", 25) == ["abcd"]


@pytest.mark.parametrize("size", [25, 30])
async def test_the_others_wait_for_the_next_turn(size: int) -> None:
    """Of many who come at once each turn has as many as fit, or one more in part, in their order."""
    assert await in_turns(Allowance(100), "abcdefghij", size) == ["abcd", "efgh", "ij"]


async def test_who_is_larger_than_all_goes_alone() -> None:
    """A slice larger than the allowance takes a turn, and stops nobody."""
    assert await in_turns(Allowance(100), "abc", 1000) == ["a", "b", "c"]


async def test_who_leaves_takes_nothing() -> None:
    """A place that was given up is passed over."""
    allowance = Allowance(1)
    await allowance.take(1)
    waiting = [asyncio.create_task(allowance.take(1)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), 5)
    assert repr(allowance).endswith("0 waiting]>")
    await asyncio.sleep(0)
    assert repr(allowance) == "<Allowance [0 of 1 bytes taken, 0 waiting]>"
