"""Fairness over processes: callers share by weight, and who asks for little is not held up by a flood."""

from __future__ import annotations

import asyncio
import collections
import json
import time

import aiohttp
import pytest

from fleet import daemon, simulated
from headrace.simulator import Options

LIMIT = '[{name = "org", output_tokens_per_minute = 120_000, burst = "1s", estimate = "ceiling"}]'
CALLERS = '{ann = {weight = 3}, bob = {}, night = {lane = "batch"}, day = {lane = "interactive"}}'
SETTINGS = {"LIMIT": LIMIT, "CALLER": CALLERS}
TOKENS = 100  # of each answer, which is what it reserves: 20 calls a second


async def ask(session: aiohttp.ClientSession, url: str, caller: str, text: str) -> None:
    body = {"model": "claude-sonnet-4-5", "max_tokens": TOKENS, "messages": [{"role": "user", "content": text}]}
    headers = {"anthropic-version": "2023-06-01", "x-headrace-caller": caller}
    async with session.post(f"{url}/v1/messages", data=json.dumps(body), headers=headers) as response:
        assert response.status == 200, await response.text()
        await response.read()


class Pressing:
    """Callers that ask without a pause, over so many connections each at each daemon; counts the answers."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str]) -> None:
        self.session = session
        self.urls = urls
        self.tokens: collections.Counter[str] = collections.Counter()
        self.tasks: list[asyncio.Task[None]] = []

    def press(self, caller: str, many: int) -> None:
        self.tasks += [
            asyncio.create_task(self._ask(url, caller, number)) for url in self.urls for number in range(many)
        ]  # fmt: skip

    async def _ask(self, url: str, caller: str, name: int) -> None:
        for number in range(10**9):
            await ask(self.session, url, caller, f"{caller} {url} {name} {number}")
            self.tokens[caller] += TOKENS

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self.tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome


@pytest.mark.long  # its short form is a row of `make truth-short`
async def test_weights(valkey_url, long):
    """Two callers of weights 3 and 1, each at both daemons, have tokens three to one."""
    async with simulated(Options.instant(answer_tokens=(TOKENS, TOKENS))) as simulator:
        with daemon(simulator.url, valkey_url, **SETTINGS) as one, daemon(simulator.url, valkey_url, **SETTINGS) as two:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                pressing = Pressing(session, [one.http, two.http])
                pressing.press("ann", 15)
                pressing.press("bob", 15)
                await asyncio.sleep(3)
                before = dict(pressing.tokens)
                await asyncio.sleep(60 if long else 12)
                tokens = {caller: pressing.tokens[caller] - before.get(caller, 0) for caller in ("ann", "bob")}
                await pressing.stop()
    share = tokens["ann"] / sum(tokens.values())
    print(f"{tokens}, {tokens['ann'] / tokens['bob']:.3f} to 1")
    assert share == pytest.approx(0.75, rel=0.05)


@pytest.mark.long  # its short form is a row of `make truth-short`
async def test_flood(valkey_url):
    """While one caller floods the batch lane at both daemons, another's calls in the interactive lane hardly wait."""
    async with simulated(Options.instant(answer_tokens=(TOKENS, TOKENS))) as simulator:
        with daemon(simulator.url, valkey_url, **SETTINGS) as one, daemon(simulator.url, valkey_url, **SETTINGS) as two:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                pressing = Pressing(session, [one.http, two.http])
                pressing.press("night", 50)
                await asyncio.sleep(2)
                waits = []
                for number in range(30):
                    began = time.monotonic()
                    await ask(session, (one.http, two.http)[number % 2], "day", f"day {number}")
                    waits.append(time.monotonic() - began)
                    await asyncio.sleep(0.1)
                await pressing.stop()
    waits.sort()
    print(f"flood {pressing.tokens['night']} tokens; median {waits[15]:.3f} s, slowest {waits[-1]:.3f} s")
    # A hundred of the flood are there before it, which take five seconds.
    assert waits[15] < 0.3
    assert waits[-3] < 1.0  # now and then the machine is busy
