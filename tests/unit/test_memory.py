"""Memory: what is free again is given back, whatever took it, and never collected while many wait."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys

import pytest

from conftest import until
from headrace import memory
from headrace.clock import HandClock
from headrace.memory import Pace

LOOK_S = 5.0
REST, MB = 100_000_000, 1_000_000


def tries(held_mb: list[int], *, falls_mb: int = 0) -> list[int]:
    """At which of these looks it is tried, where each try lets so much go."""
    pace, tried = Pace(REST), []
    for number, mb in enumerate(held_mb):
        if pace.is_due(held := mb * MB, number * LOOK_S):
            tried.append(number)
            pace.tried(held - falls_mb * MB, number * LOOK_S)
    return tried


@pytest.mark.parametrize(
    ("held", "tried"),
    [
        pytest.param([100, 105, 119, 100], [], id="at rest"),
        pytest.param([100, 200, 300, 300, 200, 130], [1, 2, 3, 4, 5], id="it moves"),
        pytest.param([100] + [200] * 20, [1, 2, 4, 8, 16], id="it is in use"),
        pytest.param([100] + [200] * 6 + [150, 150, 150], [1, 2, 4, 7, 8], id="something left later"),
        pytest.param([90, 115], [1], id="less than ever"),
    ],
)
def test_pace(held: list[int], tried: list[int]) -> None:
    assert tries(held) == tried


def test_what_stays_is_tried_for_ever_at_long_intervals() -> None:
    tried = tries([200] * 1000)
    assert max(late - early for early, late in itertools.pairwise(tried)) * LOOK_S == pytest.approx(300, abs=2 * LOOK_S)


@pytest.mark.parametrize(("waiting", "collects"), [(0, True), (49, True), (50, False), (8000, False)])
async def test_nothing_is_collected_while_many_wait(monkeypatch, waiting: int, collects: bool) -> None:
    """To walk through all that they hold would hold up everybody; what is free is given back all the same."""
    done: list[str] = []
    held = [REST, 2 * REST, 2 * REST]
    monkeypatch.setattr(memory, "give_back", lambda: done.append("trim"))
    monkeypatch.setattr(memory, "_collect", lambda: done.append("collect") or 0.01)
    monkeypatch.setattr(memory, "resident", lambda: held.pop(0))
    clock = HandClock()
    keeping = asyncio.create_task(memory.keep_small(clock, lambda: waiting))
    await until(lambda: "1 asleep" in repr(clock))
    await clock.advance(LOOK_S)
    await until(lambda: not held)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert done == (["collect", "trim"] if collects else ["trim"])


@pytest.mark.parametrize(
    ("held_mb", "kept_mb", "tried"),
    [
        pytest.param([100, 130, 160, 190], [0, 30, 60, 90], 0, id="a cache fills"),
        pytest.param([100, 130, 160, 190], [0, 30, 30, 30], 2, id="something else does, too"),
        pytest.param([190, 190, 190], [90, 0, 0], 2, id="it was purged"),
    ],
)
async def test_what_kept_answers_take_is_in_use(monkeypatch, held_mb: list[int], kept_mb: list[int], tried: int) -> None:
    """Nothing is looked for that is free, and nobody held up for it, because the cache fills."""
    done: list[str] = []
    held, kept = iter(held_mb), iter(kept_mb)
    now = [0, 0]

    def look() -> int:
        now[:] = next(held), next(kept)
        return 0

    monkeypatch.setattr(memory, "give_back", lambda: done.append("trim"))
    monkeypatch.setattr(memory, "_collect", lambda: 0.0)
    monkeypatch.setattr(memory, "resident", lambda: now[0] * MB)
    look()
    clock = HandClock()
    keeping = asyncio.create_task(memory.keep_small(clock, look, lambda: now[1] * MB))
    for _ in held_mb[1:]:
        await until(lambda: "1 asleep" in repr(clock))
        await clock.advance(LOOK_S)
    await until(lambda: "1 asleep" in repr(clock))
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert len(done) == tried


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
    """It is tried a few times on end, however long a collection takes: what left last leaves something in its turn."""
    done: list[str] = []
    monkeypatch.setattr(memory, "give_back", lambda: done.append("trim"))
    monkeypatch.setattr(memory, "_collect", lambda: done.append("collect") or 1.0)
    monkeypatch.setattr(memory, "resident", lambda: REST)
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


_LAID_APART = """
import ctypes
from headrace import memory

class Said(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks apart a b c d e".split()]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Said
memory.lay_apart()
for _ in range(2):
    before = library.mallinfo2().apart
    body = bytes(20_000_000)
    assert library.mallinfo2().apart - before >= 20_000_000
    del body
"""


def test_what_is_large_lies_apart_also_when_the_first_has_gone() -> None:
    subprocess.run([sys.executable, "-c", _LAID_APART], check=True)
