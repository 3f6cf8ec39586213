"""A bound by the loop's time does what `asyncio.timeout` does, in all that anybody here asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from headrace.timeouts import LoopTimeout

pytestmark = pytest.mark.parametrize("bound", [LoopTimeout, asyncio.timeout], ids=["ours", "asyncio's"])

Make = Callable[[float | None], Any]


async def test_rings(bound: Make) -> None:
    timeout = bound(0.001)
    with pytest.raises(TimeoutError):
        async with timeout:
            await asyncio.Event().wait()
    assert timeout.expired()
    assert not current().cancelling()


async def test_a_block_that_is_done_in_time(bound: Make) -> None:
    async with bound(0.001) as timeout:
        pass
    await asyncio.sleep(0.005)
    assert not timeout.expired()


async def test_no_bound(bound: Make) -> None:
    async with bound(None) as timeout:
        await asyncio.sleep(0.001)
    assert not timeout.expired()


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_no_time_at_all_rings_at_the_first_wait(bound: Make, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        async with bound(seconds):
            await asyncio.Event().wait()


async def test_errors_of_the_block_pass(bound: Make) -> None:
    with pytest.raises(ZeroDivisionError):
        async with bound(1.0):
            raise ZeroDivisionError


async def test_a_cancellation_from_elsewhere_passes(bound: Make) -> None:
    task = asyncio.create_task(wait_under(bound(10.0)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_elsewhere_passes_though_the_bound_rings_at_the_same_moment(bound: Make) -> None:
    timeout = bound(10.0)
    task = asyncio.create_task(wait_under(timeout))
    await asyncio.sleep(0)
    task.cancel()
    timeout.reschedule(0.0)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_of_two_that_ring_the_outer_one_ends_it(bound: Make) -> None:
    outer, inner = bound(0.001), bound(0.001)
    with pytest.raises(TimeoutError):
        async with outer:
            await wait_under(inner)
    assert outer.expired()
    assert not current().cancelling()


async def test_is_set_anew_and_lifted(bound: Make) -> None:
    loop = asyncio.get_running_loop()
    async with bound(0.001) as timeout:
        timeout.reschedule(None)
        await asyncio.sleep(0.005)
        timeout.reschedule(loop.time() + 10)
        timeout.reschedule(loop.time() + 0.001)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
    assert timeout.expired()
    assert not current().cancelling()


async def test_is_not_set_anew_once_it_is_over(bound: Make) -> None:
    async with bound(1.0) as timeout:
        pass
    with pytest.raises(RuntimeError):
        timeout.reschedule(0.0)
    async with bound(0.0) as timeout:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        with pytest.raises(RuntimeError):
            timeout.reschedule(None)


async def wait_under(timeout: Any) -> None:
    async with timeout:
        await asyncio.Event().wait()


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
