"""What a process had in hand when it died, left or stood still is taken over by others within seconds, whatever it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time

import pytest

from conftest import until
from fleet import daemon_beside
from from_outside import outcome_of, submit, whole_of
from scripted import MESSAGE, Line, serving

pytestmark = pytest.mark.slow

DEATH_S = 4.0
EXIT_S = 2.0


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
