"""A call that several hosts have to do with is one trace, whichever of them tells of what; a receiver that hangs stops none."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
from pathlib import Path

import aiohttp
import pytest

from conftest import until
from fleet import simulated
from otlp import Receiver, outline, receiving, tree
from traced import SETTINGS, Stage, daemon_with, named, new

ROOT = Path(__file__).parents[2]
PARKED = """\
headrace call
  admission
  cache
  flight
  attempt 1
  parked
  attempt 2"""


async def test_over_two_hosts(valkey_url: str) -> None:
    """A call that is parked on one host and answered from another is one tree, as docs/traces.md shows it."""
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        receiver, simulator = await enter(receiving()), await enter(simulated())
        simulator.faults.add("overloaded", path="/v1/*", text="prompt", count=1, retry_after_s=5)
        one = await enter(daemon_with(receiver, simulator.url, valkey_url, host="one", **SETTINGS))
        two = await enter(daemon_with(receiver, simulator.url, valkey_url, host="two", **SETTINGS))
        session = await enter(aiohttp.ClientSession())
        stage, asked = Stage(simulator, one, receiver, session, None), new()
        asking = asyncio.create_task(stage.http("prompt", asked))
        await until(lambda: "call.parked" in one.served.log)
        # The next attempt is due in some seconds: the host that has parked it stands still meanwhile.
        one.served.process.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: len(simulator.journal.visits) == 2, within=30)
        finally:
            one.served.process.send_signal(signal.SIGCONT)
        assert await asking == "upstream"
        spans = await stage.told(asked, "headrace call", "attempt 1", "attempt 2")
        await _followed_elsewhere(stage, Stage(simulator, two, receiver, session, None))
    print(tree(spans))
    assert outline(spans) == PARKED
    assert named(spans, "headrace call").resource["host.name"] == "one"
    assert named(spans, "attempt 2").resource["host.name"] == "two"
    assert [visit.headers["traceparent"].split("-")[2] for visit in list(simulator.journal.visits)[:2]] == [
        named(spans, "attempt 1").span_id, named(spans, "attempt 2").span_id,
    ]  # fmt: skip
    example = re.search(r"```\n(headrace call .*?)\n```", (ROOT / "docs/traces.md").read_text(), re.S)
    assert example is not None
    assert "\n".join(re.split(r"(?<=\S)  +", line)[0] for line in example[1].splitlines()) == PARKED


async def _followed_elsewhere(*stages: Stage) -> None:
    """Who follows a flight on another host has a link to the call that leads it there."""
    simulator = stages[0].simulator
    simulator.faults.clear()
    simulator.faults.add("slow", path="/v1/*", text="slowly", delay_s=1.5)
    for stream in (False, True):
        asked = [new() for _ in stages]
        asks = zip(stages, asked, strict=True)
        await asyncio.gather(*(stage.http(f"slowly {stream}", each, stream=stream) for stage, each in asks))
        spans = [await stage.told(each) for stage, each in zip(stages, asked, strict=True)]
        by_part = {named(each, "flight").attributes["headrace.flight.part"]: each for each in spans}
        assert set(by_part) == {"led", "followed"}
        assert named(by_part["followed"], "flight").links == (named(by_part["led"], "headrace call").span_id,)
        assert [span.name for span in by_part["followed"] if span.name.startswith("attempt")] == []


@pytest.mark.long
async def test_receiver_hangs() -> None:
    """A receiver that takes connections and says nothing costs no call anything, and holds up the end by seconds at most."""
    async with contextlib.AsyncExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        receiver = Receiver("http://{}:{}".format(*deaf.getsockname()))
        simulator = await stack.enter_async_context(simulated())
        daemon = await stack.enter_async_context(daemon_with(receiver, simulator.url, **SETTINGS))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        stage = Stage(simulator, daemon, receiver, session, None)
        for number in range(5):
            assert await stage.http(f"prompt {number}", new()) == "upstream"
        assert await asyncio.to_thread(daemon.served.stop) == 0
