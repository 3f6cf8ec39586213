"""
What borrowing spares: Redis commands and CPU a call, at a steady pace through the schedule; for `python -m tests.figures`.

The calls ask for requests, input and output tokens, none of them scarce, and run for a fraction of a second.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import start_valkey
from headrace.budget.borrowing import Borrowing
from headrace.budget.estimate import Estimator
from headrace.budget.ledger import Ledger
from headrace.budget.limits import Limit, Limits
from headrace.budget.redis import RedisLedger
from headrace.clock import SystemClock
from headrace.link import Link
from headrace.model import Usage
from headrace.schedule import Schedule
from headrace.tuning.tuner import Tuner
from pressing import call

LIMIT = Limit("org", requests_per_minute=240_000, input_tokens_per_minute=60_000_000, output_tokens_per_minute=60_000_000)
TICK_S = 0.005


@dataclass(frozen=True)
class Spared:
    """
    What one call took: commands of Redis, and microseconds of CPU here; and how many there were a second.

    Args:
        late_s: the longest that the pace stood still. What was due then came at once: a crowd, no pace.
    """

    commands: float
    cpu_us: float
    calls_a_second: float
    late_s: float


async def steady(calls_a_second: int, seconds: float, *, borrows: bool) -> Spared:
    """Measure so many calls a second for so many seconds, once the pace is steady."""
    with tempfile.TemporaryDirectory(prefix="v") as directory:
        process, url = start_valkey(Path(directory))
        try:
            return await _measured(url, calls_a_second, seconds, borrows)
        finally:
            process.terminate()
            process.wait(10)


async def _measured(url: str, calls_a_second: int, seconds: float, borrows: bool) -> Spared:
    link = Link(url)
    ledger: Ledger = RedisLedger(link)
    tasks = [asyncio.create_task(link.listen())]
    await link.listening()
    tuner = Tuner(link, SystemClock())
    if borrows:
        ledger = borrowing = Borrowing(ledger, link, is_open=tuner.gates.is_open)
        tasks.append(asyncio.create_task(borrowing.keep()))
    schedule = Schedule(Limits([LIMIT]), ledger, Estimator(), link, SystemClock(), max_in_flight=4096, tuner=tuner)
    await _press(schedule, "warm", calls_a_second, 2.0)
    before, cpu_before, began = await _commands(link), time.process_time(), time.monotonic()
    count, late_s = await _press(schedule, "h", calls_a_second, seconds)
    took, cpu, after = time.monotonic() - began, time.process_time() - cpu_before, await _commands(link)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await link.aclose()
    return Spared((after - before) / count, cpu / count * 1e6, count / took, late_s)


async def _press(schedule: Schedule, name: str, calls_a_second: int, seconds: float) -> tuple[int, float]:
    began, count, running = time.monotonic(), 0, set()
    before = late_s = 0.0
    while (passed := time.monotonic() - began) < seconds:
        before, late_s = passed, max(late_s, passed - before)
        while count < passed * calls_a_second:
            count += 1
            task = asyncio.create_task(_go(schedule, f"{name}{count}", count))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*running)
    return count, late_s


async def _go(schedule: Schedule, hold_id: str, number: int) -> None:
    async with schedule.turn(call(number), hold_id) as turn:
        turn.sent()
        await asyncio.sleep(0.1 + number % 7 * 0.02)
        await turn.settle(Usage(50 + number % 40, 80))


async def _commands(link: Link) -> int:
    # Scripts only: what they call within is not sent by anybody.
    text = await link.do("INFO", "commandstats")
    lines = [line for line in text.decode().splitlines() if line.startswith(("cmdstat_evalsha", "cmdstat_eval:"))]
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines)
