"""The installed program under saturation: new limits for those who wait, upstream's slots in order, and what refusals say."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from dataclasses import replace

import aiohttp
import pytest

from conftest import until
from daemon_process import HEADRACE, environment, serving
from fleet import simulated
from headrace.simulator import Options

MODEL = "claude-x"
LIMIT = "[[limit]]\nname = 'org'\nrequests_per_minute = {}\nburst = '1s'\n"


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


class Busy:
    """A daemon whose configuration is written anew under way."""

    def __init__(self, http, served, config, start: str) -> None:
        self.http, self.served, self._config, self._start = http, served, config, start
        started = next(line for line in served.log.splitlines() if "daemon.started" in line)
        self.url = json.loads(started)["addresses"][-1]
        self._reloads = 0

    async def ask(self, text: str, within_ms: int = 60_000) -> tuple[int, bytes]:
        body = {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
        headers = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": str(within_ms)}
        data = io.BytesIO(json.dumps(body).encode())
        async with self.http.post(f"{self.url}/v1/messages", data=data, headers=headers) as response:
            return response.status, await response.read()

    async def metric(self, name: str) -> float:
        async with self.http.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    async def waiting(self, count: int, name: str = "headrace_waiting_calls") -> None:
        async def look() -> bool:
            return await self.metric(name) == count

        await until(look)

    async def reload(self, limits: str) -> None:
        self._config.write_text(self._start + limits)
        self._reloads += 1
        self.served.process.send_signal(signal.SIGHUP)
        await until(lambda: self.served.log.count("config.reloaded") == self._reloads)


def busy(simulator, http, tmp_path, limits: str = "", upstream: str = ""):
    config = tmp_path / "config.toml"
    start = f'[upstream]\nbase_url = "{simulator.url}"\napi_key = "k"\n{upstream}\n[listen]\ngrpc = []\n'
    config.write_text(start + limits)
    return config, start


async def test_reload_up(http, tmp_path):
    """Raised while thirty wait, the new limit lets all go; who comes then is not told of the old one."""
    async with simulated() as simulator:
        config, start = busy(simulator, http, tmp_path, LIMIT.format(6).replace("1s", "10s"))
        with serving(environment(tmp_path), (HEADRACE, "serve", "--config", str(config))) as served:
            one = Busy(http, served, config, start)
            asked = [asyncio.create_task(one.ask(f"{number}", within_ms=500_000)) for number in range(30)]
            await until(lambda: any(task.done() for task in asked))
            # Its deadline is the earliest of its caller, so it would be next; but the next goes in ten seconds.
            status, refused = await one.ask("late", within_ms=5_000)
            assert (status, b"org" in refused) == (429, True)
            await one.reload(LIMIT.format(60_000))
            assert (await one.ask("later", within_ms=15_000))[0] == 200
            answers = await asyncio.wait_for(asyncio.gather(*asked), 15)
            assert {status for status, _ in answers} == {200}
            await one.waiting(0)


async def test_reload_away(http, tmp_path):
    """When all limits are taken away, nobody waits any more."""
    async with simulated() as simulator:
        config, start = busy(simulator, http, tmp_path, LIMIT.format(1).replace("1s", "60s"))
        with serving(environment(tmp_path), (HEADRACE, "serve", "--config", str(config))) as served:
            one = Busy(http, served, config, start)
            asked = [asyncio.create_task(one.ask(f"{number}", within_ms=500_000)) for number in range(8)]
            await one.waiting(7)
            await one.reload("")
            answers = await asyncio.wait_for(asyncio.gather(*asked), 15)
            assert {status for status, _ in answers} == {200}


async def test_slots(http, tmp_path):
    """Two slots: two at upstream, the others wait, as the metrics say; who hangs up there has used nothing of the budget."""
    limits = "[[limit]]\nname = 'org'\nrequests_per_minute = 1\nburst = '6m'\n"
    async with simulated(replace(Options.instant(), first_token_s=3.0)) as simulator:
        config, start = busy(simulator, http, tmp_path, limits, "max_in_flight = 2")
        with serving(environment(tmp_path), (HEADRACE, "serve", "--config", str(config))) as served:
            one = Busy(http, served, config, start)
            asked = [asyncio.create_task(one.ask(f"{number}")) for number in range(2)]
            await one.waiting(2, "headrace_upstream_slots_in_use")
            leaving = [asyncio.create_task(one.ask(f"leaves {number}")) for number in range(4)]
            await one.waiting(4, "headrace_upstream_slots_waiting")
            assert await one.metric("headrace_upstream_slots") == 2
            assert await one.metric("headrace_waiting_calls") == 4
            for task in leaving:
                task.cancel()
            await one.waiting(0, "headrace_upstream_slots_waiting")
            assert {status for status, _ in await asyncio.gather(*asked)} == {200}
            # Of six requests two are used, and a minute brings one: four more go at once, if those who left gave theirs back.
            answers = await asyncio.gather(*(one.ask(f"next {number}", within_ms=30_000) for number in range(4)))
            assert {status for status, _ in answers} == {200}
            await one.waiting(0, "headrace_upstream_slots_in_use")
