"""
Pressing on a limit: more calls than it lets through, each taking its turn and settling. As a program, one process of many:

    python pressing.py REDIS_URL SECONDS CALLERS
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import redis

from headrace import keys
from headrace.budget.estimate import Estimator
from headrace.budget.limits import Limit, Limits
from headrace.budget.redis import RedisLedger
from headrace.clock import SystemClock
from headrace.link import Link
from headrace.model import Call, Caller, Lane, Usage
from headrace.schedule import Schedule

AUDIT = "audit"
REQUESTS, TOKENS, BURST_S = 600, 60_000, 2.0
LIMIT = Limit("org", requests_per_minute=REQUESTS, input_tokens_per_minute=TOKENS, burst_s=BURST_S)


def call(number: int, *, within: float = 60.0) -> Call:
    now = time.time()
    return Call(
        caller=Caller("ann"), body=b"x" * 200, model="m", max_tokens=100, stream=False, version="", betas=(), headers=(),
        lane=Lane.STANDARD, fingerprint=str(number), scope="", arrival=now, deadline=now + within,
    )  # fmt: skip


async def press(link: Link, seconds: float, callers: int) -> int:
    """Let so many callers ask without a pause, one call after the other; return how many got their turn."""
    ledger = RedisLedger(link, audit=AUDIT)
    schedule = Schedule(Limits([LIMIT]), ledger, Estimator(), link, SystemClock())
    stop = time.monotonic() + seconds
    turns = 0

    async def ask(name: int) -> None:
        nonlocal turns
        number = 0
        while time.monotonic() < stop:
            number += 1
            async with schedule.turn(call(number), f"{link.instance}-{name}-{number}") as turn:
                if time.monotonic() >= stop:
                    return
                turn.sent()
                turns += 1
                await asyncio.sleep(random.uniform(0.005, 0.05))
                await turn.settle(Usage(random.randint(20, 90), 50))

    tasks = [asyncio.create_task(ask(name)) for name in range(callers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return turns


def grants(url: str, kind: str) -> list[tuple[int, int]]:
    """Return what the audit stream says was granted of this kind: time (us) and tokens."""
    bucket = keys.bucket(f"org:{kind}").encode()
    with redis.Redis.from_url(url) as client:
        entries = [entry for _, entry in client.xrange(AUDIT)]
    return [(int(entry[b"at_us"]), int(entry[b"cost"])) for entry in entries if entry[b"bucket"] == bucket]


async def main(url: str, seconds: float, callers: int) -> None:
    link = Link(url)
    listening = asyncio.create_task(link.listen())
    await link.listening()
    print(await press(link, seconds, callers))
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await link.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
