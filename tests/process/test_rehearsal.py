"""What `headrace rehearse` predicts is what happens: an installed daemon before the simulator, and the same rehearsed."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

import aiohttp
import pytest

from daemon_process import environment, headrace
from fleet import daemon_beside, simulated
from headrace.rehearse.findings import quantile
from headrace.simulator import Options

pytestmark = pytest.mark.slow

CONFIG = """
[usage]
traffic = "on"
[[limit]]
name = "org"
output_tokens_per_minute = 60_000
burst = "1s"
[caller.ann]
weight = 3
"""
MODEL = "claude-sonnet-5"
SECONDS = 8.0
TOOK_S = 0.2  # at upstream, each call
# Caller, lane, calls a second, tokens of an answer: 1.6 times what the limit lets through, which is 1,000 a second.
ASKS = (("ann", "standard", 8, 80), ("bob", "standard", 8, 80), ("day", "interactive", 4, 50), ("night", "batch", 4, 30))
# How far a prediction may be off: busy machines are late, and learnt estimates begin as guesses.
WAIT_OFF = 0.15
P50_OFF_S, P99_OFF_S = 0.35, 1.0  # the latter is the slowest call of a caller, and one hiccup
USE_OFF = 0.04


class Run:
    """Calls as they are asked for by the clock; how long each took, by caller."""

    def __init__(self, session: aiohttp.ClientSession, door: str) -> None:
        self.session, self.door = session, door
        self.took_s: dict[str, list[float]] = defaultdict(list)
        self.refused: dict[str, int] = defaultdict(int)

    async def ask(self, caller: str, lane: str, number: int, tokens: int, after_s: float) -> None:
        await asyncio.sleep(after_s)
        text = f"{caller} {number}: answer in {tokens} tokens"
        body = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": text}]}
        headers = {
            "anthropic-version": "2023-06-01", "x-headrace-caller": caller, "x-headrace-lane": lane,
            "x-headrace-timeout-ms": "6000",
        }  # fmt: skip
        began = asyncio.get_running_loop().time()
        async with self.session.post(f"{self.door}/v1/messages", json=body, headers=headers) as response:
            await response.read()
        if response.status == 200:
            self.took_s[caller].append(asyncio.get_running_loop().time() - began)
        else:
            self.refused[caller] += 1

    async def press(self) -> None:
        await asyncio.gather(
            *(
                self.ask(caller, lane, number, tokens, number / pace)
                for caller, lane, pace, tokens in ASKS
                for number in range(int(pace * SECONDS))
            )
        )


async def test_a_run_and_its_rehearsal(valkey_url, tmp_path):
    """The traffic that a daemon has kept of a run, rehearsed: the same waits and refusals, and the same use of the limit."""
    config, calls = tmp_path / "config.toml", tmp_path / "calls.jsonl"
    config.write_text(CONFIG)
    # All of an answer comes at once, so that each takes the same time.
    async with simulated(Options(first_token_s=TOOK_S, tokens_per_s=0, jitter=0)) as simulator:
        async with (
            daemon_beside(simulator.url, valkey_url, CONFIG=str(config)) as daemon,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            run = Run(session, daemon.http)
            await run.press()
        spent = simulator.counts.told[MODEL]["output_tokens"]
    environ = environment(tmp_path, HEADRACE_REDIS__URL=valkey_url)
    exported = await asyncio.to_thread(headrace, "usage", "--export-traffic", str(calls), environ=environ)
    assert exported.returncode == 0, exported.stderr
    rehearsed = await asyncio.to_thread(headrace, "rehearse", str(config), "--traffic", str(calls), "--json", environ=environ)
    assert rehearsed.returncode == 0, rehearsed.stderr
    told = json.loads(rehearsed.stdout)

    assert told["calls"] == sum(int(pace * SECONDS) for _, _, pace, _ in ASKS)
    for waits in told["waits"]:
        took_s, caller = sorted(run.took_s[waits["caller"]]), waits["caller"]
        p50, p99 = quantile(took_s, 0.5) - TOOK_S, quantile(took_s, 0.99) - TOOK_S
        print(f"{caller}: waits {p50:.2f} and {p99:.2f} s, rehearsed {waits['wait_p50_s']:.2f} and {waits['wait_p99_s']:.2f} s")
        print(f"{caller}: {run.refused[caller]} refused, rehearsed {waits['refused']}")
        assert waits["wait_p50_s"] == pytest.approx(p50, rel=WAIT_OFF, abs=P50_OFF_S)
        assert waits["wait_p99_s"] == pytest.approx(p99, rel=WAIT_OFF, abs=P99_OFF_S)
        assert sum(waits["refused"].values()) == pytest.approx(run.refused[caller], abs=4)
    predicted = sum(waits["output_tokens"] for waits in told["waits"])
    print(f"{spent} tokens used, rehearsed {predicted}")
    assert predicted == pytest.approx(spent, rel=USE_OFF)
