"""The promise of the limits over processes: two daemons on one limit, and processes of which one is killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

import audit
from fleet import daemon, simulated
from headrace.simulator import Options
from headrace.simulator.journal import Visit
from pressing import BURST_S, REQUESTS, TOKENS
from windows import used_share, worst_window

PRESSING = Path(__file__).parent.parent / "pressing.py"
CAPACITY = int(REQUESTS * BURST_S / 60)
FICKLE = 0.2  # the share of the calls that leave when it is their turn


def start(url: str, seconds: float) -> subprocess.Popen[str]:
    asked = [sys.executable, PRESSING, url, str(seconds), "40", str(FICKLE)]
    return subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed(valkey_url):
    """
    Three processes press on one limit, one is killed: no window is over the bound, and the others use what is left.

    Some callers leave at their turn, and at the end all do: what they were granted comes back, and others are granted it.
    """
    doomed, *others = [start(valkey_url, 15.0) for _ in range(3)]
    time.sleep(3)
    doomed.kill()
    doomed.communicate()
    turns = [other.communicate(timeout=30)[0].split() for other in others]
    requests, tokens = audit.read(valkey_url, "requests"), audit.read(valkey_url, "input_tokens")
    worst = worst_window(requests.net, rate_per_minute=REQUESTS, capacity=CAPACITY)
    used = used_share(requests.until_last_grant, rate_per_minute=REQUESTS, capacity=CAPACITY, seconds=requests.seconds)
    print(f"turns of those that live {turns}, worst {worst}, used {used:.4f} of {requests.seconds:.1f} s")
    assert not requests.unsound() + tokens.unsound()
    assert len(requests.kept) < len(requests.grants), "nothing came back"
    assert worst.is_kept
    assert worst_window(tokens.net, rate_per_minute=TOKENS, capacity=int(TOKENS * BURST_S / 60)).is_kept
    for instance, sent in turns:
        assert 0 < int(sent) <= sum(grant.hold.startswith(f"{instance}-") for grant in requests.kept)
    # If the dead one was the very first in line, it holds the others up until its place lapses, two seconds; what flows in
    # meanwhile stays in the bucket, as far as that holds: two seconds' worth.
    assert used >= 0.8


LIMIT = f"""[{{name = "org", requests_per_minute = {REQUESTS}, input_tokens_per_minute = {TOKENS}, burst = "{BURST_S:g}s"}}]"""


# Asks Redis for the time, and goes to upstream's door with the answer at once: what a call does from its grant on, less the
# daemon. How late it comes there is how late the machine is.
_RUNNER = """
import http.client, redis, sys, time
client = redis.Redis.from_url(sys.argv[1])
door = http.client.HTTPConnection(sys.argv[2].removeprefix("http://"))
while True:
    seconds, us = client.time()
    door.request("GET", f"/v1/models?{seconds * 1_000_000 + us}")
    door.getresponse().read()
    time.sleep(0.005)
"""


@contextlib.contextmanager
def runner(valkey_url: str, upstream: str) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", _RUNNER, valkey_url, upstream]) as process:
        try:
            yield
        finally:
            process.kill()


def came_us(visit: Visit) -> int:
    return int(visit.at_unix * 1e6)


async def test_two_daemons(valkey_url, long):
    """Two daemons hold one limit under over-demand: no window over the bound, at most one call over at upstream's door."""
    seconds = 180.0 if long else 12.0
    async with simulated(Options.instant(journal=200_000)) as simulator:
        with (
            daemon(simulator.url, valkey_url, LIMIT=LIMIT) as one,
            daemon(simulator.url, valkey_url, LIMIT=LIMIT) as two,
            runner(valkey_url, simulator.url),
        ):
            refused = await over_demand([one.http, two.http], seconds)
        visits = simulator.journal.visits
    door = [came_us(visit) for visit in visits if visit.method == "POST"]
    late_us = [came_us(visit) - int(visit.target.partition("?")[2]) for visit in visits if visit.method == "GET"]

    requests, tokens = audit.read(valkey_url, "requests"), audit.read(valkey_url, "input_tokens")
    worst = worst_window(requests.net, rate_per_minute=REQUESTS, capacity=CAPACITY)
    at_the_door = worst_window([(us, 1) for us in door], rate_per_minute=REQUESTS, capacity=CAPACITY)
    used = used_share(requests.until_last_grant, rate_per_minute=REQUESTS, capacity=CAPACITY, seconds=requests.seconds)
    machine_s = (max(late_us) - min(late_us)) / 1e6
    print(
        f"{len(requests.grants)} grants in {requests.seconds:.1f} s, {refused} refusals; fullest window "
        f"{worst.excess_tokens:+.3f} requests from the bound, at the door {at_the_door.excess_tokens:+.3f}, the machine up to "
        f"{1e3 * machine_s:.0f} ms late ({len(late_us)} looks); {100 * used:.2f} % of capacity + rate x time used"
    )
    assert not requests.unsound() + tokens.unsound()
    assert worst.is_kept
    assert worst_window(tokens.net, rate_per_minute=TOKENS, capacity=int(TOKENS * BURST_S / 60)).is_kept
    # Whoever came to the door had been granted it by then, and whoever kept a grant came: by the audit's clock, whatever the
    # machine does. Both clocks are the machine's.
    assert len(door) == len(requests.kept)
    assert all(grant.at_us <= came for grant, came in zip(requests.kept, door, strict=True))
    # Then all that can crowd the door is that some came later than others. The daemons may do so by one call's time, and the
    # machine by as much as it held up the runner meanwhile.
    assert at_the_door.excess_tokens <= 1 + REQUESTS / 60 * machine_s
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
