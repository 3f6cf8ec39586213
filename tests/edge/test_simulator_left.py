"""Who leaves the simulator in mid-answer is no trouble of its: it says nothing of it, and goes on."""

from __future__ import annotations

import logging

import aiohttp
import pytest

from headrace.simulator import Options, start
from simulator_parts import KEY, call


async def test_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    options = Options(first_token_s=0.01, tokens_per_s=2000.0, answer_tokens=(400, 500))
    async with await start(options) as simulator, aiohttp.ClientSession() as web:
        body = call(stream=True, max_tokens=500)
        for _ in range(10):
            async with web.post(f"{simulator.url}/v1/messages", json=body, headers=KEY) as answer:
                await answer.content.readany()
                answer.close()
        # It takes as long as theirs, which began before it.
        async with web.post(f"{simulator.url}/v1/messages", json=body, headers=KEY) as answer:
            assert (await answer.read()).endswith(b"\n\n")
    assert not caplog.records
