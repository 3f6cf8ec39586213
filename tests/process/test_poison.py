"""A call that kills whatever process makes its attempts: it ends as a dead letter, and those beside it are answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal

import pytest

from conftest import until
from fleet import daemon_beside
from from_outside import outcome_of, submit
from scripted import MESSAGE, Line, serving

pytestmark = pytest.mark.slow

NEIGHBOURS = 6


async def test_poison(valkey_url):
    """It kills three daemons, twice with the same neighbours at upstream; these end well, and one of four daemons lives."""
    attempts: dict[str, int] = {}
    daemons = {}

    async def talk(line: Line) -> None:
        text = json.loads(line.body)["messages"][0]["content"]
        attempts[text] = attempts.get(text, 0) + 1
        if text == "poison":
            # Those beside it are at upstream, too; what has killed twice is made with no others of that kind.
            await until(lambda: len(attempts) == NEIGHBOURS + 1 and min(attempts.values()) >= min(2, attempts["poison"]))
            await until(lambda: line.headers["x-api-key"] in daemons)  # it has begun, and we know of it
            daemons[line.headers["x-api-key"]].served.process.send_signal(signal.SIGKILL)
        else:
            await asyncio.sleep(30 if attempts[text] <= 2 else 1)
            await line.answer(200, MESSAGE, "content-type: application/json")

    async with serving(talk) as server, contextlib.AsyncExitStack() as stack:

        async def start(name: str) -> None:
            one = await stack.enter_async_context(daemon_beside(server.url, valkey_url, UPSTREAM__API_KEY=name))
            daemons[name] = one

        await start("one")
        tickets = [await submit(daemons["one"], text) for text in ["poison", *(f"beside {n}" for n in range(NEIGHBOURS))]]
        for name in ("two", "three", "four"):
            await start(name)
            await until(lambda: sum(one.served.process.poll() is None for one in daemons.values()) == 1, within=30)
            print(attempts)
        alive = next(
            one for one in daemons.values() if one.served.process.poll() is None
        )  # the third victim may be the last to come
        ended = [await asyncio.wait_for(outcome_of(alive, each), 60) for each in tickets]
        assert alive.served.process.poll() is None
    assert ended == ["FAILED", *["SUCCEEDED"] * NEIGHBOURS]
    assert attempts["poison"] == 3
