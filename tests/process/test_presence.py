"""What a dead process held is soon free, and a stopped one that wakes takes nobody's place: use of a limit on concurrency."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time

import aiohttp
import pytest

from fleet import daemon, simulated
from headrace.simulator import Options

CONCURRENCY = 60
LIMIT = f'[{{ name = "org", concurrency = {CONCURRENCY} }}]'
TICK_S = 0.1
HEADERS = {"anthropic-version": "2023-06-01"}


async def press(session, url, numbers):
    """Ask without a pause; a daemon that dies takes its callers with it."""
    with contextlib.suppress(aiohttp.ClientError):
        while True:
            said = [{"role": "user", "content": f"call {next(numbers)}"}]
            body = {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": said}
            async with session.post(f"{url}/v1/messages", json=body, headers=HEADERS) as response:
                assert response.status == 200, await response.read()
                await response.read()


def in_the_air(visits, moments):
    """How many calls were at upstream, moment by moment."""
    return [sum(visit.at_monotonic <= moment < visit.at_monotonic + visit.took_s for visit in visits) for moment in moments]


@pytest.mark.long  # its short form is a row of `make truth-short`
async def test_killed_and_stopped(valkey_url, long):
    """One of four is killed and one stopped for six seconds: the limit is used by the others, two seconds later at the most."""
    measured_s = 45.0 if long else 22.0
    options = Options(first_token_s=1.0, tokens_per_s=0, jitter=0.2, answer_tokens=(1, 5), journal=200_000)
    async with simulated(options) as simulator, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        with contextlib.ExitStack() as stack:
            fleet = [stack.enter_context(daemon(simulator.url, valkey_url, LIMIT=LIMIT)) for _ in range(4)]
            numbers = itertools.count()
            callers = [asyncio.create_task(press(session, each.http, numbers)) for each in fleet for _ in range(60)]
            await asyncio.sleep(3)
            began = time.monotonic()
            fleet[0].served.process.kill()
            await asyncio.sleep(4)
            fleet[1].served.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(6)
            fleet[1].served.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(began + measured_s - time.monotonic())
            ended = time.monotonic() - 1.5  # what began by then has ended
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        visits = [visit for visit in simulator.journal.visits if visit.method == "POST"]
    moments = [began + TICK_S * tick for tick in range(int((ended - began) / TICK_S))]
    air = in_the_air(visits, moments)
    used = sum(air) / len(air) / CONCURRENCY
    slow = max(len(list(run)) if is_slow else 0 for is_slow, run in itertools.groupby(air, lambda now: now < CONCURRENCY / 2))
    print(f"used {used:.3f}, at most {max(air)} at once, {slow * TICK_S:.1f} s in a row under half; {air[::5]}")
    assert used >= (0.95 if long else 0.9)
    assert slow * TICK_S <= 2.0
    # The stopped one's calls had ended at upstream by the time their permits were another's: they last less than a lease.
    assert max(air) <= CONCURRENCY + 3
