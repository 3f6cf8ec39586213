"""Redis stops, wakes, is killed and comes back on the same data, under load: callers notice nothing but time."""

from __future__ import annotations

import asyncio
import collections
import signal
import time

import aiohttp
import grpc.aio
import pytest

from conftest import start_valkey, until
from fleet import daemon, simulated
from headrace.model import Usage
from headrace.prices import Prices
from headrace.simulator import Options
from headrace.v1.budgets_service_pb2 import GetBudgetRequest
from headrace.v1.budgets_service_pb2_grpc import BudgetsServiceStub

HEADERS = {"anthropic-version": "2023-06-01"}
LIMITED = '[{ name = "org", requests_per_minute = 60000, input_tokens_per_minute = 6000000, concurrency = 60 }]'
ON_DISK = ("--appendonly", "yes", "--appendfsync", "always")


class Load:
    """Callers who ask one after the other; what failed is in `failures`."""

    def __init__(self, http, urls):
        self._http, self._urls = http, urls
        self._is_over = False
        self.done = 0
        self.failures = collections.Counter()

    async def run(self, callers):
        await asyncio.gather(*(self._ask(number) for number in range(callers)))

    def stop(self):
        self._is_over = True

    async def _ask(self, caller):
        turn = 0
        while not self._is_over:
            turn += 1
            # Some streams, some with a key of their own, and some that two daemons are asked for at the same time.
            text = f"shared {turn}" if caller % 4 == 3 else f"{caller}.{turn}"
            body = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
            headers = dict(HEADERS)
            if caller % 4 == 1:
                headers["idempotency-key"] = f"{caller}.{turn}"
            if caller % 4 == 2:
                body["stream"] = True
            url = self._urls[caller // 4 % len(self._urls)]
            began = time.monotonic()
            try:
                async with self._http.post(f"{url}/v1/messages", json=body, headers=headers) as response:
                    said = await response.text()
                    good = response.status == 200 and "error" not in said
                    what = (response.status, said[:300])
            except aiohttp.ClientError as error:
                good, what = False, (0, repr(error))
            self.done += 1
            if not good:
                self.failures[(caller % 4, round(time.monotonic() - began, 1), *what)] += 1


PLAIN = pytest.param(False, id="plain", marks=pytest.mark.long)  # its short form is a row of `make truth-short`


@pytest.mark.parametrize("faults", [PLAIN, pytest.param(True, id="parked")])
async def test_paused_then_killed(tmp_path, faults):
    """Redis stands still for two seconds, is killed a while later and started again on its data: no call fails."""
    process, url = start_valkey(tmp_path, *ON_DISK)
    async with simulated(Options.instant()) as simulator, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
        try:
            with daemon(simulator.url, url, LIMIT=LIMITED) as one, daemon(simulator.url, url, LIMIT=LIMITED) as two:
                load = Load(http, [one.http, two.http])
                running = asyncio.create_task(load.run(24))
                if faults:
                    simulator.faults.add("rate_limit", probability=0.05, retry_after_s=0.5)
                await asyncio.sleep(2)
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(2)
                process.send_signal(signal.SIGCONT)
                await asyncio.sleep(2)
                process.kill()
                process.wait()
                await asyncio.sleep(0.5)
                process, _ = await asyncio.to_thread(start_valkey, tmp_path, *ON_DISK)
                await asyncio.sleep(4)
                load.stop()
                await asyncio.wait_for(running, 60)
            assert load.done > 300
            assert not load.failures, "\n".join(map(str, load.failures.items()))
        finally:
            process.kill()
            process.wait()


async def spend(http: aiohttp.ClientSession, url: str, text: str) -> int:
    """Make a call of its own; return what it cost, in nano-USD, 0 if it was refused."""
    body = {"model": "claude-haiku-4-5", "max_tokens": 99, "messages": [{"role": "user", "content": text}]}
    headers = HEADERS | {"x-headrace-timeout-ms": "20000"}
    async with http.post(f"{url}/v1/messages", json=body, headers=headers) as response:
        answer = await response.json()
        if response.status != 200:
            return 0
        usage = answer["usage"]
        return Prices().cost(body["model"], Usage(usage["input_tokens"], usage["output_tokens"])) or 0


async def is_ready(http: aiohttp.ClientSession, url: str) -> bool:
    async with http.get(f"{url}/readyz") as response:
        return response.status == 200


async def left(address: str) -> int:
    """Return what is left of the day's money, in nano-USD."""
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await BudgetsServiceStub(channel).GetBudget(GetBudgetRequest(limit="money"), timeout=10)
    return reply.limit.budgets[0].level


@pytest.mark.parametrize("word", ["share", "open", "closed"])
async def test_money(tmp_path, word):
    """
    Money of a day, Redis killed and started again on its data: `share` owes to the cent what was spent meanwhile, `open` counts
    nothing of it, `closed` spends nothing.
    """
    process, url = start_valkey(tmp_path, *ON_DISK)
    limit = f'[{{name = "money", spend_per_day = 1.0, on_redis_loss = "{word}"}}]'
    async with simulated(Options.instant()) as simulator, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
        try:
            with daemon(simulator.url, url, LIMIT=limit, SCHEDULE__BORROW="off") as one:
                before = [await spend(http, one.http, f"before {turn}") for turn in range(5)]
                process.kill()
                process.wait()
                meanwhile = [await spend(http, one.http, f"meanwhile {turn}") for turn in range(1 if word == "closed" else 5)]
                process, _ = await asyncio.to_thread(start_valkey, tmp_path, *ON_DISK)
                await until(lambda: is_ready(http, one.http))
                counted = sum(before) + (sum(meanwhile) if word == "share" else 0)
                expected = 1_000_000_000 - counted - await spend(http, one.http, "the last")

                async def agrees() -> bool:
                    return await left(one.grpc) == expected

                await until(agrees)
            assert all(before)
            assert all(meanwhile) == (word != "closed")
        finally:
            process.kill()
            process.wait()
