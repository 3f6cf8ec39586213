"""The promise of the limits over processes: two daemons on one limit, and processes of which one is killed."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from fleet import daemon, simulated
from headrace.simulator import Options
from pressing import BURST_S, REQUESTS, TOKENS, grants
from windows import used_share, worst_window

PRESSING = Path(__file__).parent.parent / "pressing.py"
CAPACITY = int(REQUESTS * BURST_S / 60)


def start(url: str, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, PRESSING, url, str(seconds), "40"], stdout=subprocess.PIPE, text=True)


def lasting(granted: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Leave out the end, when whoever stops gives back what it was just granted, and another takes it: the audit has both."""
    return [grant for grant in granted if grant[0] <= granted[0][0] + 13_000_000]


@pytest.mark.slow
def test_killed(valkey_url):
    """Three processes press on one limit, one is killed: no window is over the bound, and the others use what is left."""
    doomed, *others = [start(valkey_url, 15.0) for _ in range(3)]
    time.sleep(3)
    doomed.kill()
    doomed.communicate()
    turns = [int(other.communicate(timeout=30)[0]) for other in others]
    requests, tokens = lasting(grants(valkey_url, "requests")), lasting(grants(valkey_url, "input_tokens"))
    worst = worst_window(requests, rate_per_minute=REQUESTS, capacity=CAPACITY)
    seconds = (requests[-1][0] - requests[0][0]) / 1e6
    used = used_share(requests, rate_per_minute=REQUESTS, capacity=CAPACITY, seconds=seconds)
    print(f"turns of those that live {turns}, worst {worst}, used {used:.4f} of {seconds:.1f} s")
    assert all(turns)
    assert worst.is_kept
    assert worst_window(tokens, rate_per_minute=TOKENS, capacity=int(TOKENS * BURST_S / 60)).is_kept
    # If the dead one was the very first in line, it holds the others up until its place lapses, five seconds; what flows in
    # meanwhile stays in the bucket, as far as that holds: two seconds' worth.
    assert used >= 0.6


LIMIT = f"""[{{name = "org", requests_per_minute = {REQUESTS}, input_tokens_per_minute = {TOKENS}, burst = "{BURST_S:g}s"}}]"""


async def test_two_daemons(valkey_url, long):
    """Two daemons hold one limit under over-demand: no window over the bound, at most one call over at upstream's door."""
    seconds = 180.0 if long else 12.0
    async with simulated(Options.instant(journal=100_000)) as simulator:
        with daemon(simulator.url, valkey_url, LIMIT=LIMIT) as one, daemon(simulator.url, valkey_url, LIMIT=LIMIT) as two:
            refused = await over_demand([one.http, two.http], seconds)
        door = [(int(visit.at_unix * 1e6), 1) for visit in simulator.journal.visits]

    requests, tokens = grants(valkey_url, "requests"), grants(valkey_url, "input_tokens")
    spell_s = (requests[-1][0] - requests[0][0]) / 1e6
    worst = worst_window(requests, rate_per_minute=REQUESTS, capacity=CAPACITY)
    at_the_door = worst_window(door, rate_per_minute=REQUESTS, capacity=CAPACITY)
    used = used_share(requests, rate_per_minute=REQUESTS, capacity=CAPACITY, seconds=spell_s)
    print(
        f"{len(requests)} grants in {spell_s:.1f} s, {refused} refusals; fullest window {worst.excess_tokens:+.3f} requests "
        f"from the bound, at the door {at_the_door.excess_tokens:+.3f}; {100 * used:.2f} % of capacity + rate x time used"
    )
    assert worst.is_kept
    assert worst_window(tokens, rate_per_minute=TOKENS, capacity=int(TOKENS * BURST_S / 60)).is_kept
    # What was granted in time may come to the door late, by as much as the machine is busy.
    late_s = [(came - granted) / 1e6 for (granted, _), (came, _) in zip(requests, door, strict=False)]
    assert at_the_door.excess_tokens <= 1 + REQUESTS / 60 * (max(late_s) - min(late_s))
    assert used >= 0.98


async def over_demand(urls, seconds):
    """Press on all daemons with more than the limit, each call another, and return how many were refused."""
    numbers, refusals = itertools.count(), itertools.count()
    until = time.monotonic() + seconds

    async def caller(session, url):
        while time.monotonic() < until:
            text = f"call {next(numbers)}"
            body = {"model": "claude-x", "max_tokens": 8, "messages": [{"role": "user", "content": text}]}
            headers = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": "5000"}
            async with session.post(f"{url}/v1/messages", json=body, headers=headers) as response:
                await response.read()
                if response.status != 200:
                    next(refusals)
                    await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(caller(session, url) for url in urls for _ in range(20)))
    return next(refusals)
