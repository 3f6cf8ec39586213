"""
Measures the live page: an event to the screen with 10,000 calls that wait, and what five open pages cost a daemon and a hit.

    python -m tests.screenshots.cost [hits]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from browsing import browser, looking
from conftest import start_valkey, until
from fleet import Daemon, simulated
from headrace.simulator import Options
from looking import House, admin_url, house

WAITING = 10_000
LIMITS = json.dumps([{"name": "slow", "match": {"caller": "crowd*"}, "concurrency": 1}])
ROOM = {
    "LIMIT": LIMITS,
    "SCHEDULE__MAX_WAITING": "30000",
    "LISTEN__MAX_CONNECTIONS": "30000",
    "LISTEN__MAX_CONNECTIONS_PER_PEER": "30000",
}
_SPAN_S = 8.0
_WAVE = 100
_VIEWS = ("budgets", "line", "callers", "tickets", "hosts")
_HITS, _TURNS = 4_000, 5
_LONG_MS = 900_000


def cpu_s(daemon: Daemon) -> float:
    """Return the CPU time (s) that a daemon has used."""
    fields = Path(f"/proc/{daemon.served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def share(daemon: Daemon) -> float:
    """Return the share of a core that it uses over a while."""
    before, began = cpu_s(daemon), time.monotonic()
    await asyncio.sleep(_SPAN_S)
    return (cpu_s(daemon) - before) / (time.monotonic() - began)


@contextlib.asynccontextmanager
async def open_pages(pair: House, running: object, count: int) -> AsyncIterator[None]:
    """Have so many pages open, each on another view."""
    async with contextlib.AsyncExitStack() as stack:
        for view in _VIEWS[:count]:
            looker = await stack.enter_async_context(looking(running, admin_url(pair.two)))
            await looker.go(view)
        yield


async def with_pages(pair: House, running: object, count: int) -> float:
    """Return the share of a core that the daemon uses with so many pages open."""
    async with open_pages(pair, running, count):
        return await share(pair.two)


async def hit_us(pair: House, pages: float) -> float:
    """Return the CPU time (us) of a hit, with *pages* (the share of a core that open pages take) left out."""
    before, began = cpu_s(pair.two), time.monotonic()
    for _ in range(_HITS // _WAVE):
        assert {*await asyncio.gather(*(pair.call(pair.two, text="again") for _ in range(_WAVE)))} == {200}
    used = cpu_s(pair.two) - before - pages * (time.monotonic() - began)
    return 1e6 * used / _HITS


async def hits(pair: House, running: object) -> None:
    """Print what a hit costs, by turns with nobody looking and with five pages open."""
    assert await pair.call(pair.two, text="again") == 200
    costs: dict[int, list[float]] = {0: [], len(_VIEWS): []}
    for count in tuple(costs) * _TURNS:
        async with open_pages(pair, running, count):
            costs[count].append(await hit_us(pair, await share(pair.two)))
    for count, took in costs.items():
        print(
            f"a hit over HTTP, {count} pages open: {statistics.median(took):.0f} us of CPU ({min(took):.0f} to {max(took):.0f})"
        )


async def to_screen(pair: House, running: object) -> float:
    """Return how long it takes (s) from a new call that waits to its name on the screen."""
    async with looking(running, admin_url(pair.two)) as looker:
        await looker.go("callers")
        await looker.sees("crowd", within_s=30)
        name = f"crowd-new-{time.monotonic_ns() % 1_000_000}"
        began = time.monotonic()
        waiting = asyncio.create_task(pair.call(pair.two, name, within_ms=_LONG_MS))
        await looker.sees(name, within_s=30)
        took = time.monotonic() - began
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return took


@contextlib.asynccontextmanager
async def crowd(pair: House, count: int) -> AsyncIterator[None]:
    """
    Keep so many calls waiting, of twenty callers, half of them at each daemon.

    One alone takes as many connections as half its file descriptors, which on many machines is fewer.
    """
    calls: list[asyncio.Task[int]] = []

    def alive() -> int:
        return sum(not call.done() for call in calls)

    async def all_wait() -> bool:
        await asyncio.sleep(0.1)
        _, said = await pair.view(pair.one, "line")
        # Of a crowd one is at upstream, and a few that upstream was silent to are about to come back.
        return bool(said["summary"]["waiting"] >= 0.995 * alive() - 1)

    try:
        # They come by waves: a system drops connections beyond the 128 that wait to be accepted.
        while alive() < count:
            for at, number in itertools.product((pair.one, pair.two), range(_WAVE)):
                calls.append(asyncio.create_task(pair.call(at, f"crowd{number % 20}", within_ms=_LONG_MS)))
            await until(all_wait, within=60)
        yield
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def measure(pair: House, running: object) -> None:
    """Print what looking costs, and how soon a change is seen, before and while a crowd waits."""
    print(f"nobody looks, nobody waits: {await share(pair.two):.1%} of a core", flush=True)
    print(f"five pages, nobody waits: {await with_pages(pair, running, 5):.1%} of a core", flush=True)
    async with crowd(pair, WAITING):
        for count, words in ((0, "nobody looks"), (1, "one page"), (5, "five pages")):
            print(f"{words}, {WAITING:,} wait: {await with_pages(pair, running, count):.1%} of a core", flush=True)
        took = [await to_screen(pair, running) for _ in range(10)]
    print(f"an event to the screen, {WAITING:,} wait: median {statistics.median(took):.2f} s, most {max(took):.2f} s")


async def main() -> None:
    """Run, and print."""
    work, first_token_s = (hits, 0.01) if sys.argv[1:] == ["hits"] else (measure, 900.0)
    with tempfile.TemporaryDirectory(prefix="s") as directory:
        valkey, url = start_valkey(Path(directory))
        try:
            async with (
                simulated(Options(first_token_s=first_token_s)) as simulator,
                house(simulator.url, url, **ROOM) as pair,
                browser() as running,
            ):
                await work(pair, running)
        finally:
            valkey.terminate()
            valkey.wait(10)


if __name__ == "__main__":
    asyncio.run(main())
