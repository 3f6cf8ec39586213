"""
Pressing on a limit: more calls than it lets through, each taking its turn and settling. As a program, one process of many:

    python pressing.py REDIS_URL SECONDS CALLERS FICKLE

It says its instance, with which the names of its holds begin, and how many calls it sent.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from audit import AUDIT
from headrace.budget.borrowing import Borrowing
from headrace.budget.estimate import Estimator
from headrace.budget.limits import Limit, Limits
from headrace.budget.redis import RedisLedger
from headrace.clock import SystemClock
from headrace.link import Link
from headrace.model import Call, Caller, Lane, Usage
from headrace.schedule import Schedule
from headrace.tuning.tuner import Tuner

REQUESTS, TOKENS, BURST_S = 600, 60_000, 2.0
LIMIT = Limit("org", requests_per_minute=REQUESTS, input_tokens_per_minute=TOKENS, burst_s=BURST_S)


def call(number: int, *, within: float = 60.0) -> Call:
    now = time.time()
    return Call(
        caller=Caller("ann"), body=b"x" * 200, model="m", max_tokens=100, stream=False, version="", betas=(), headers=(),
        lane=Lane.STANDARD, fingerprint=str(number), scope="", arrival=now, deadline=now + within,
    )  # fmt: skip


async def press(link: Link, seconds: float, callers: int, fickle: float = 0.0) -> int:
    """
    Let so many callers ask without a pause, one call after the other; return how many calls were sent.

    A share of the calls is *fickle*: they leave when it is their turn, and have used nothing.
    """
    tuner = Tuner(link, SystemClock())
    ledger = Borrowing(RedisLedger(link, audit=AUDIT), link, audit=AUDIT, is_open=tuner.gates.is_open)
    borrowing = asyncio.create_task(ledger.keep())
    schedule = Schedule(Limits([LIMIT]), ledger, Estimator(), link, SystemClock(), tuner=tuner)
    stop = time.monotonic() + seconds
    turns = 0

    async def ask(name: int) -> None:
        nonlocal turns
        number = 0
        while time.monotonic() < stop:
            number += 1
            async with schedule.turn(call(number), f"{link.instance}-{name}-{number}") as turn:
                if time.monotonic() >= stop or random.random() < fickle:
                    return
                turn.sent()
                turns += 1
                await asyncio.sleep(random.uniform(0.005, 0.05))
                await turn.settle(Usage(random.randint(20, 90), 50))

    keeping = asyncio.create_task(schedule.keep())
    tasks = [asyncio.create_task(ask(name)) for name in range(callers)]
    await asyncio.sleep(seconds)
    for task in (*tasks, keeping):
        task.cancel()
    await asyncio.gather(*tasks, keeping, return_exceptions=True)
    borrowing.cancel()
    await asyncio.gather(borrowing, return_exceptions=True)
    await schedule.close()
    await ledger.close()
    return turns


async def main(url: str, seconds: float, callers: int, fickle: float) -> None:
    link = Link(url)
    listening = asyncio.create_task(link.listen())
    await link.listening()
    print(link.instance, await press(link, seconds, callers, fickle))
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await link.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
