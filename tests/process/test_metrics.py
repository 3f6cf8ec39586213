"""Metrics name who, what and why; what may come is there at 0 from the start; and no caller can make them grow."""

from __future__ import annotations

import asyncio
import json
import re
import signal

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import until
from fleet import daemon_beside, simulated

MODEL, CLASS = "claude-sonnet-4-5", "sonnet-4"
LIMIT = json.dumps([
    {"name": "closed", "match": {"caller": "closed"}, "requests_per_minute": 2, "burst": "60s"},
    {"name": "wide", "requests_per_minute": 60000, "per": ["model"]},
])  # fmt: skip
SETTINGS = {
    "LIMIT": LIMIT, "CALLER": "{ann = {lane = 'interactive'}, closed = {}}", "METRICS__MAX_CALLERS": "2",
    "UPSTREAM__OVERLOAD_GATE": "off", "RETRY__BACKOFF": "50ms..100ms", "RETRY__MAX_AGE": "20m",
}  # fmt: skip


class Page:
    """The page for Prometheus of one daemon."""

    def __init__(self, session, at) -> None:
        self.session, self.at = session, at
        self.families = {}

    async def read(self) -> Page:
        async with self.session.get(f"{self.at.http}/metrics") as response:
            text = await response.text()
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        return self

    def value(self, name: str, **labels: str) -> float | None:
        """Return a series' value; None if it is not there."""
        for family in self.families.values():
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return None

    def labels(self, name: str, label: str) -> set[str]:
        return {s.labels[label] for family in self.families.values() for s in family.samples if s.name == name}

    async def has(self, name: str, value: float, **labels: str) -> None:
        async def is_there() -> bool:
            return (await self.read()).value(name, **labels) == value

        await until(is_there, what=f"{name}{labels} is {self.value(name, **labels)} and not {value}")


async def ask(session, at, text: str, caller: str = "ann", *, stream: bool = False, within_ms: int = 20_000) -> int:
    body = {"model": MODEL, "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": text}]}
    headers = {"anthropic-version": "2023-06-01", "x-headrace-caller": caller, "x-headrace-timeout-ms": str(within_ms)}
    async with session.post(f"{at.http}/v1/messages", json=body, headers=headers) as response:
        await response.read()
        return response.status


@pytest.fixture
async def stage():
    async with (
        simulated() as simulator,
        daemon_beside(simulator.url, **SETTINGS) as at,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield simulator, session, at


async def test_at_first(stage) -> None:
    """Before the first call each series that an alert may wait for is there, at 0."""
    _, session, at = stage
    page = await Page(session, at).read()
    assert page.value("headrace_tickets_total", state="FAILED") == 0
    assert page.value("headrace_errors_total", edge="grpc", reason="BUDGET_EXHAUSTED") == 0
    assert page.value("headrace_caller_errors_total", caller="ann", reason="UPSTREAM_ERROR") == 0
    assert page.value("headrace_caller_calls_total", caller="ann", lane="interactive", result="refused") == 0
    assert page.value("headrace_limit_refusals_total", limit="closed", reason="BUDGET_EXHAUSTED") == 0
    assert page.value("headrace_upstream_trouble", trouble="key_refused") == 0
    assert page.value("headrace_limit_capacity", limit="closed", kind="requests", model_class="") == 2
    assert page.value("headrace_limit_used_ratio", limit="closed", kind="requests", model_class="") == 0
    assert page.value("headrace_config_last_reload_successful") == 1
    [version] = page.labels("headrace_build_info", "version")
    assert re.match(r"\d+\.\d+", version)
    bounds = {float(bound) for bound in page.labels("headrace_turn_wait_seconds_bucket", "le")}
    assert max(bounds - {float("inf")}) >= 1200


async def test_who_what_why(stage) -> None:
    """Callers, lanes, classes, limits and reasons, of what is answered, kept, refused and failed, unary and as a stream."""
    simulator, session, at = stage
    page = Page(session, at)
    for number in range(3):
        assert await ask(session, at, "again") == 200
        assert await ask(session, at, f"{number}", stream=True) == 200
    simulator.faults.add("spend_limit", path="/v1/*", text="no more")
    assert await ask(session, at, "no more") == 429
    simulator.faults.add("overloaded", path="/v1/*", text="twice", count=1)
    assert await ask(session, at, "twice") == 200
    for number in range(2):
        assert await ask(session, at, f"c{number}", "closed") == 200
    assert await ask(session, at, "c2", "closed", within_ms=2000) == 429
    for stranger in ("x", "y", "z", "w"):
        assert await ask(session, at, stranger, stranger) == 200
    await page.has("headrace_caller_calls_total", 2, caller="ann", lane="interactive", result="cache")
    await page.has("headrace_caller_calls_total", 5, caller="ann", lane="interactive", result="upstream")
    await page.has("headrace_caller_calls_total", 1, caller="ann", lane="interactive", result="failed")
    await page.has("headrace_caller_calls_total", 1, caller="closed", lane="standard", result="refused")
    await page.has("headrace_caller_calls_total", 2, caller="other", lane="standard", result="upstream")
    assert page.labels("headrace_caller_calls_total", "caller") == {"ann", "closed", "x", "y", "other"}
    assert page.value("headrace_caller_errors_total", caller="closed", reason="BUDGET_EXHAUSTED") == 1
    assert page.value("headrace_limit_refusals_total", limit="closed", reason="BUDGET_EXHAUSTED") == 1
    assert page.value("headrace_caller_errors_total", caller="ann", reason="UPSTREAM_ERROR") == 1
    assert page.value("headrace_caller_tokens_total", caller="ann", model_class=CLASS, kind="output") > 0
    assert page.value("headrace_upstream_answers_total", model_class=CLASS, status="529") == 1
    assert page.value("headrace_upstream_answers_total", model_class=CLASS, status="429") == 1
    assert page.value("headrace_upstream_seconds_count", form="json", outcome="overloaded") == 1
    timed = {"model_class": CLASS, "lane": "interactive"}
    assert page.value("headrace_call_seconds_count", **timed, result="upstream") == 5
    assert page.value("headrace_call_seconds_count", **timed, result="failed") == 1
    assert page.value("headrace_first_content_seconds_count", **timed) == 5
    assert page.value("headrace_limit_used_ratio", limit="closed", kind="requests", model_class="") > 0.9
    assert page.value("headrace_limit_capacity", limit="wide", kind="requests", model_class=CLASS) == 60000


async def test_who_waits(stage) -> None:
    """Who waits for a limit, and how long the eldest has; and after that how long it was."""
    _, session, at = stage
    page = Page(session, at)
    for number in range(2):
        assert await ask(session, at, f"c{number}", "closed") == 200
    waiting = [asyncio.create_task(ask(session, at, f"w{n}", "closed", within_ms=120_000)) for n in range(2)]
    await page.has("headrace_limit_waiting_calls", 2, limit="closed", kind="requests", model_class="")

    async def has_waited() -> bool:
        oldest = (await page.read()).value(
            "headrace_limit_oldest_wait_seconds", limit="closed", kind="requests", model_class=""
        )
        return (oldest or 0) > 1

    await until(has_waited)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await page.has("headrace_limit_waiting_calls", 0, limit="closed", kind="requests", model_class="")
    assert page.value("headrace_caller_wait_seconds_total", caller="closed", held_by="closed") > 1
    assert page.value("headrace_wait_seconds_count", held_by="closed", lane="standard") == 2


async def test_config() -> None:
    """Hosts that agree have one hash, those that do not have another; a refused reload is seen."""
    async with (
        simulated() as simulator,
        daemon_beside(simulator.url, **SETTINGS) as one,
        daemon_beside(simulator.url, **SETTINGS) as same,
        daemon_beside(simulator.url, **(SETTINGS | {"LIMIT": LIMIT.replace("60000", "6000")})) as other,
        aiohttp.ClientSession() as session,
    ):
        hashes = [(await Page(session, at).read()).labels("headrace_config_info", "hash") for at in (one, same, other)]
        assert hashes[0] == hashes[1] != hashes[2]
        one.served.process.send_signal(signal.SIGHUP)
        await until(lambda: "config.reloaded" in one.served.log)
        await Page(session, one).has("headrace_config_last_reload_successful", 1)
