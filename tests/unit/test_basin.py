"""The basin: bodies that come in at once are bounded, and everybody gets on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from headrace.basin import HEAVY_BYTES, LIGHT_BYTES, Basin, BasinStats, Place
from headrace.errors import QueueFull

MB = 1_000_000
PIECE = MB // 4


@contextlib.asynccontextmanager
async def sending(basin: Basin, caller: str, size: int, ended: list[str]) -> AsyncIterator[asyncio.Task[None]]:
    """A body that comes in pieces as fast as it may, is read in a few turns of the loop, and goes."""

    async def send() -> None:
        with basin.place(caller) as place:
            for _ in range(size // PIECE):
                await place.add(PIECE)
            place.fill()
            for _ in range(3):
                await asyncio.sleep(0)
        ended.append(caller)

    task = asyncio.create_task(send())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def basin_of(most: int, patience_s: float = 30.0, **held: int) -> Basin:
    return Basin(most, patience_s=patience_s, now=asyncio.get_running_loop().time, **held)


async def settled() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


async def test_a_flood_is_never_more_than_the_bound_and_one_body_and_all_of_it_gets_through() -> None:
    basin, ended, most = basin_of(48 * MB), list[str](), 0
    async with contextlib.AsyncExitStack() as stack:
        tasks = [await stack.enter_async_context(sending(basin, "flood", 31 * MB, ended)) for _ in range(24)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            most = max(most, basin.stats().bytes)
    assert len(ended) == 24
    assert most <= (48 * 3 // 4 + 31) * MB + 24 * PIECE
    assert basin.stats() == BasinStats(0, 0, 0, 0)


async def test_who_comes_while_somebody_floods_is_next() -> None:
    basin, ended = basin_of(8 * MB), list[str]()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(24):
            await stack.enter_async_context(sending(basin, "flood", 31 * MB, ended))
        await settled()
        other = await stack.enter_async_context(sending(basin, "other", 31 * MB, ended))
        await other
        assert len(ended) <= 12, "the others' body had to wait for nearly all of the flood"


async def test_one_caller_leaves_room_for_small_bodies_of_others() -> None:
    basin = basin_of(8 * MB)
    with basin.place("flood") as one, basin.place("flood") as two:
        await one.add(6 * MB)
        await one.add(PIECE)  # its turn: it goes on
        waits = asyncio.create_task(two.add(PIECE))
        await settled()
        assert not waits.done()
        with basin.place("other") as other:
            async with asyncio.timeout(1):
                await other.add(MB)
        one.release()
        await waits


async def test_whose_turn_it_is_and_sends_nothing_loses_it() -> None:
    basin = basin_of(MB)
    with basin.place("slow") as slow, basin.place("quick") as quick:
        await slow.add(MB + 1)
        async with asyncio.timeout(10):
            await quick.add(MB)  # a second later


async def test_what_is_all_here_keeps_its_turn_until_it_has_been_read() -> None:
    basin = basin_of(MB, patience_s=2.5)
    with basin.place("read") as read, basin.place("next") as other:
        await read.add(MB + 1)
        read.fill()
        with pytest.raises(QueueFull) as refused:
            await other.add(MB)
        assert refused.value.retry_after_s
        assert basin.stats().waiting == 0
    assert basin.stats() == BasinStats(0, 0, 0, 0)


async def test_what_came_at_one_go_is_refused_at_once_where_far_too_much_is_here() -> None:
    basin = basin_of(10 * MB)
    with contextlib.ExitStack() as stack:
        places: list[Place] = [stack.enter_context(basin.place(f"{number}")) for number in range(8)]
        waits = [asyncio.create_task(place.came(5 * MB)) for place in places]
        await settled()
        refused = [task for task in waits if task.done() and isinstance(task.exception(), QueueFull)]
        assert len(refused) == 2
        for place in places:
            place.release()
            await settled()
        assert all(task.done() for task in waits)


async def test_a_light_body_is_not_counted() -> None:
    basin = basin_of(MB)
    with basin.place("somebody") as place:
        await place.came(LIGHT_BYTES)
        assert basin.stats() == BasinStats(0, 0, 0, 0)


async def test_who_leaves_while_it_waits_leaves_nothing_behind() -> None:
    basin, ended = basin_of(MB), list[str]()
    async with contextlib.AsyncExitStack() as stack:
        tasks = [await stack.enter_async_context(sending(basin, "leaves", 8 * MB, ended)) for _ in range(5)]
        with basin.place("stays") as place:
            await place.add(MB)
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert basin.stats() == BasinStats(MB, 1, 1, 0)


# What calls hold.


async def test_whose_calls_hold_much_sends_no_more_and_is_not_refused() -> None:
    basin, ended = basin_of(32 * MB, patience_s=0.05, most_held_bytes=64 * MB, most_held_of_one=16 * MB), list[str]()
    async with contextlib.AsyncExitStack() as stack:
        with basin.place("one") as first:
            await first.add(12 * MB)
            first.hold(12 * MB)
            assert basin.stats() == BasinStats(0, 0, 0, 0, 12 * MB)
            second = await stack.enter_async_context(sending(basin, "one", 12 * MB, ended))
            other = await stack.enter_async_context(sending(basin, "other", 20 * MB, ended))
            async with asyncio.timeout(10):
                await other
            await asyncio.sleep(0.2)  # several times as long as it would wait for room in the basin
            assert not second.done()
            assert basin.stats().bytes <= 5 * MB
        async with asyncio.timeout(10):
            await second
    assert basin.stats() == BasinStats(0, 0, 0, 0)


async def test_one_body_always_passes() -> None:
    basin = basin_of(MB, most_held_bytes=MB)
    with basin.place("one") as first:
        await first.add(31 * MB)
        first.fill()
        first.hold(31 * MB)
        assert basin.stats().held_bytes == 31 * MB


async def test_small_bodies_are_not_held_up() -> None:
    basin = basin_of(32 * MB, most_held_bytes=MB)
    with basin.place("one") as first, basin.place("one") as second:
        first.hold(8 * MB)
        async with asyncio.timeout(1):
            await second.add(HEAVY_BYTES)
        second.hold(HEAVY_BYTES)
        assert basin.stats().held_bytes == 8 * MB


async def test_what_came_at_one_go_is_refused_where_much_of_its_callers_is_here() -> None:
    basin = basin_of(32 * MB, most_held_bytes=256 * MB, most_held_of_one=64 * MB)
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(basin.place("one")) for _ in range(6)]
        places[0].hold(31 * MB)
        places[1].hold(31 * MB)
        waits = asyncio.create_task(places[2].came(31 * MB))
        await settled()
        assert not waits.done()
        with pytest.raises(QueueFull):
            await places[3].came(31 * MB)
        places[3].release()
        places[0].release()
        async with asyncio.timeout(1):
            await waits
