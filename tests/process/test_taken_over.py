"""What a process had in hand when it died, left or stood still is taken over by others within seconds, whatever it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from pathlib import Path

import pytest

from conftest import until
from daemon_process import HEADRACE, environment
from daemon_process import serving as served
from fleet import daemon_beside
from from_outside import outcome_of, submit, whole_of
from scripted import MESSAGE, Line, serving

pytestmark = pytest.mark.slow

DEATH_S = 4.0
EXIT_S = 2.0
RETRY_AFTER_S = 1.0


class Upstream:
    """Says nothing to the first attempt of each call, and answers those after it at once."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    async def talk(self, line: Line) -> None:
        text = json.loads(line.body)["messages"][0]["content"]
        self.asked[text] = number = self.asked.get(text, 0) + 1
        if number == 1:
            await line.reader.read()
        else:
            await line.answer(200, MESSAGE, "content-type: application/json")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_taken_over(valkey_url, how):
    """
    A keyed call at upstream for the first time, one that a worker makes, and a flight that others share: of a daemon that is
    killed, leaves, or stands still. Who asks another daemon is answered soon.
    """
    upstream = Upstream()
    async with serving(upstream.talk) as server, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(daemon_beside(server.url, valkey_url, DRAIN__TIME="0.2s"))
        ticket = await submit(one, "submitted")
        begun = [
            asyncio.create_task(whole_of(one, "keyed", idempotency_key="a")),
            asyncio.create_task(whole_of(one, "shared")),
        ]
        await until(lambda: len(upstream.asked) == 3)
        two = await stack.enter_async_context(daemon_beside(server.url, valkey_url))
        waiting = {
            "keyed": asyncio.create_task(whole_of(two, "keyed", idempotency_key="a")),
            "shared": asyncio.create_task(whole_of(two, "shared")),
            "submitted": asyncio.create_task(outcome_of(two, ticket)),
        }
        await asyncio.sleep(0.5)
        one.served.process.send_signal(how)
        if how is signal.SIGTERM:
            await asyncio.to_thread(one.served.process.wait, 30)
        gone = time.monotonic()
        took: dict[str, float] = {}

        async def timed(name: str) -> object:
            said = await asyncio.wait_for(waiting[name], 30)
            took[name] = round(time.monotonic() - gone, 1)
            return said

        try:
            said = dict(zip(waiting, await asyncio.gather(*map(timed, waiting)), strict=True))
        finally:
            one.served.process.send_signal(signal.SIGCONT)
        for each in begun:
            each.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
    print(took)
    assert (said["keyed"][0], said["shared"][0], said["submitted"]) == (200, 200, "SUCCEEDED")
    assert max(took.values()) <= (EXIT_S if how is signal.SIGTERM else DEATH_S), took
    assert set(upstream.asked.values()) == {2}


class Refusing:
    """Refuses the first attempt of each call, says nothing to those of the worker, and answers all others at once."""

    def __init__(self) -> None:
        self.hung: set[str] = set()
        self.asked: dict[str, int] = {}

    async def talk(self, line: Line) -> None:
        text = json.loads(line.body)["messages"][0]["content"]
        self.asked[text] = number = self.asked.get(text, 0) + 1
        if number == 1:
            said = b'{"type":"error","error":{"type":"overloaded_error","message":"later"}}'
            await line.answer(529, said, f"retry-after: {RETRY_AFTER_S:g}", "content-type: application/json")
        elif line.headers["x-api-key"] == "worker" and number == 2:
            self.hung.add(text)
            await line.reader.read()
        else:
            await line.answer(200, MESSAGE, "content-type: application/json")


@contextlib.asynccontextmanager
async def worker_beside(upstream: str, redis_url: str, directory: Path):
    """A worker of its own, which upstream knows by its key."""
    more = {"HEADRACE_UPSTREAM__BASE_URL": upstream, "HEADRACE_UPSTREAM__API_KEY": "worker", "HEADRACE_REDIS__URL": redis_url}
    entered = served(environment(directory, **more, HEADRACE_DRAIN__TIME="0.2s"), (HEADRACE, "worker"))
    running = await asyncio.to_thread(entered.__enter__)
    try:
        yield running.process
    finally:
        running.process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(entered.__exit__, None, None, None)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, *(pytest.param(each, marks=pytest.mark.long) for each in (signal.SIGTERM, signal.SIGSTOP))]
)
async def test_worker_taken_over(valkey_url, tmp_path, how):
    """Later attempts that a worker makes, of parked calls whose RPCs wait, with a key and without."""
    upstream = Refusing()
    async with (
        serving(upstream.talk) as server,
        daemon_beside(server.url, valkey_url, UPSTREAM__OVERLOAD_GATE="off", RETRY__MAX_RUNNING="2") as one,
        worker_beside(server.url, valkey_url, tmp_path) as worker,
    ):
        answered: dict[str, float] = {}

        async def ask(text: str, **keyed: str) -> None:
            assert (await whole_of(one, text, **keyed))[0] == 200
            answered[text] = time.monotonic()

        asking: list[asyncio.Task[None]] = []
        # Not so many that the retry budget would be what they wait for.
        while len(upstream.hung) < 2 and len(asking) < 50:
            number = len(asking)
            keyed = {"idempotency_key": f"{number}"} if number % 2 else {}
            asking.append(asyncio.create_task(ask(f"call {number}", **keyed)))
            await asyncio.sleep(0.1)
        await until(lambda: len(upstream.hung) >= 2)
        worker.send_signal(how)
        if how is signal.SIGTERM:
            await asyncio.to_thread(worker.wait, 30)
        gone, in_hand = time.monotonic(), set(upstream.hung)
        await asyncio.wait_for(asyncio.gather(*asking), 30)
    bound_s = EXIT_S if how is signal.SIGTERM else DEATH_S
    took_s = max(answered[text] for text in in_hand) - gone
    all_s = max(answered.values()) - gone
    print(f"{len(asking)} asked, {len(in_hand)} taken over within {took_s:.1f} s, all answered within {all_s:.1f} s")
    assert took_s <= bound_s
    assert all_s <= bound_s + RETRY_AFTER_S + 1.0, "what it only had at hand may have become due a little later"
