"""Messages that came together are taken in turn, if they are large; and each that came is taken, whoever leaves."""

from __future__ import annotations

import asyncio

import pytest

from headrace.allowance import Allowance
from headrace.basin import LIGHT_BYTES
from headrace.edge.grpc_turns import TURN_BYTES, in_turn

LARGE = bytes(TURN_BYTES)


class Read:
    """Readings as grpcio has them: each waits once, and takes its message when it goes on; `turns` counts them by turn."""

    def __init__(self) -> None:
        self.coming: list[asyncio.Future[None]] = []
        self.turns: list[int] = []
        self.allowance = Allowance(TURN_BYTES)
        self._turn = 0

    async def _read(self, raw: bytes) -> bytes:
        self.coming.append(came := asyncio.get_running_loop().create_future())
        await came
        self.turns.extend([0] * (self._turn + 1 - len(self.turns)))
        self.turns[self._turn] += 1
        return raw

    async def read(self, raw: bytes) -> bytes:
        return await in_turn(self._read(raw), self.allowance)

    async def _pass(self) -> None:
        await asyncio.sleep(0)
        self._turn += 1

    async def all(self, *tasks: asyncio.Task[bytes], leaves: asyncio.Task[bytes] | None = None, after: int = 0) -> list[int]:
        """Have all messages come, and return how many were taken in each turn of the loop that took any; one *leaves* then."""
        await asyncio.sleep(0)
        for came in self.coming:
            came.set_result(None)
        if leaves is not None:
            for _ in range(after):
                await self._pass()
            leaves.cancel()
        while not all(task.done() for task in tasks):
            await self._pass()
        return [count for count in self.turns if count]


async def test_large_ones_have_a_turn_each() -> None:
    read = Read()
    tasks = [asyncio.create_task(read.read(LARGE)) for _ in range(12)]
    assert await read.all(*tasks) == [1] * 12
    assert {task.result() for task in tasks} == {LARGE}


async def test_light_ones_are_all_taken_at_once() -> None:
    read = Read()
    assert await read.all(*(asyncio.create_task(read.read(bytes(LIGHT_BYTES))) for _ in range(200))) == [200]


async def test_those_between_share_a_turn() -> None:
    read = Read()
    assert (await read.all(*(asyncio.create_task(read.read(bytes(TURN_BYTES // 4))) for _ in range(4)))) == [4]


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_who_leaves_when_its_message_is_there_takes_it_all_the_same(after: int) -> None:
    read = Read()
    tasks = [asyncio.create_task(read.read(LARGE)) for _ in range(3)]
    turns = await read.all(*tasks, leaves=tasks[2], after=after)
    assert sum(turns) == 3
    assert max(turns) <= 2
    assert tasks[2].cancelled()


async def _left() -> Read:
    read = Read()
    task = asyncio.create_task(read.read(LARGE))
    await asyncio.sleep(0)
    task.cancel()
    task.cancel()  # as somebody else may, too
    await asyncio.wait([task])
    assert task.cancelled()
    assert read.turns == []
    return read


async def test_what_comes_for_one_who_has_left_is_taken_in_its_turn() -> None:
    read = await _left()
    tasks = [asyncio.create_task(read.read(LARGE)) for _ in range(2)]
    assert await read.all(*tasks) == [1, 1, 1]


async def test_that_nothing_comes_for_one_who_has_left_is_nothing() -> None:
    (coming,) = (await _left()).coming
    coming.set_exception(RuntimeError("its call is over"))
    for _ in range(2):
        await asyncio.sleep(0)
    coming.exception()  # or the loop tells of one that nobody heard of


async def test_a_time_for_a_reading_ends_the_waiting_alone() -> None:
    read = Read()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await read.read(LARGE)
    assert await read.all() == []
    await asyncio.sleep(0)
    assert read.turns == [1]
