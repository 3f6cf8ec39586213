"""A call that a full limit holds past its deadline is refused by the limit's name, first and last in line; over HTTP."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from conftest import until
from fleet import daemon_beside, simulated
from headrace.simulator import Options

pytestmark = pytest.mark.slow

LIMIT = '[{name = "wide", requests_per_minute = 60000}, {name = "narrow", concurrency = 1, match = {caller = "reports"}}]'
LONG_S, SHORT_S = 12.0, 4.0
WAITING = 4


def body(text, **more):
    return {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": text}], **more}


async def by_http(web, at, text, *, stream=False, ms=4000, name="x-headrace-timeout-ms"):
    headers = {"anthropic-version": "2023-06-01", "x-headrace-caller": "reports"} | ({name: str(ms)} if ms else {})
    async with web.post(f"{at.http}/v1/messages", json=body(text, stream=stream), headers=headers) as response:
        return response.status, await response.text()


@pytest.fixture
async def held():
    """A daemon whose one place for reports is taken for longer than anybody waits."""
    async with simulated(Options.instant()) as simulator:
        simulator.faults.add("hang", count=1)
        async with (
            daemon_beside(simulator.url, LIMIT=LIMIT, DRAIN__TIME="1s", CALLER="{reports = {timeout = '5s'}}") as at,
            aiohttp.ClientSession() as web,
        ):
            first = asyncio.create_task(by_http(web, at, "holds it", ms=round(LONG_S * 1000)))
            await until(lambda: simulator.counts.total > 0)
            yield at, web
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize(
    ("stream", "name"), [(False, "x-headrace-timeout-ms"), (True, "x-headrace-timeout-ms"), (False, "x-stainless-timeout")]
)
async def test_http(held, stream, name):
    """429, the limit's name, a time; the front of the line and those behind it."""
    at, web = held
    ms = round(SHORT_S) if name == "x-stainless-timeout" else round(SHORT_S * 1000)
    asked = [by_http(web, at, f"{name} {stream} {number}", stream=stream, ms=ms, name=name) for number in range(WAITING)]
    for status, said in await asyncio.gather(*asked):
        assert status == 429, said
        assert "limit narrow" in json.loads(said)["error"]["message"]


async def test_implied(held):
    """So is a call whose caller said nothing, when its configured time is over."""
    at, web = held
    for status, said in await asyncio.gather(*(by_http(web, at, f"silent {number}", ms=0) for number in range(WAITING))):
        assert status == 429, said
        assert "limit narrow" in said


async def test_slow_upstream_is_none(held):
    """A call that is at upstream when its time is over is late by upstream, and named so."""
    at, _ = held
    async with aiohttp.ClientSession() as other:
        headers = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": "700", "x-headrace-caller": "others"}
        async with other.post(f"{at.http}/v1/messages", json=body("quick"), headers=headers) as response:
            assert response.status == 200
