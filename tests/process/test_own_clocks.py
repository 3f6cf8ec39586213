"""
An SDK with a clock of its own hears why a call failed, not that it took too long, while upstream says no throughout.

All calls of this file are in the air at once; each test looks at one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable
from functools import partial

import aiohttp
import anthropic
import httpx2
import openai
import pytest
from anthropic._exceptions import OverloadedError

from fleet import daemon, simulated
from listening import DOORS, body_of, over_http

pytestmark = pytest.mark.slow

KINDS = {"overloaded": (529, "overloaded_error"), "rate_limit": (429, "rate_limit_error"), "api_error": (500, "api_error")}
RAISED = {"overloaded": OverloadedError, "rate_limit": anthropic.RateLimitError, "api_error": anthropic.InternalServerError}
# openai's SDK has no class for 529.
RAISED_BY_OPENAI = {
    "overloaded": openai.InternalServerError, "rate_limit": openai.RateLimitError, "api_error": openai.InternalServerError,
}  # fmt: skip
TIMEOUTS = {"4": 4, "4.0": 4.0, "3.5": 3.5, "parts": httpx2.Timeout(4, connect=2)}
FORMS = ("whole", "stream")
SAID = ("4", "4.0", "3")
GRACE_S = 0.3  # on the way to upstream's door, beside what is measured; what a whole number may mean more is a second


LAST: dict[str, float] = {}  # when each prompt was last asked for upstream
ROUNDS: list[float] = []  # how long each /healthz took meanwhile, from this loop through the daemon's and back (s)
# The daemon speaks half a second before an SDK's clock rings, and a call is late on its way five times: connecting, asking, at
# the gate (which is in Redis), waking up, and answering. Where a request that asks nothing takes a fifth of that half second,
# a clock that rang says nothing of the daemon: what rang then is asked again, with less beside it.
LATE_S = 0.1
AGAIN = 8  # times at most

RANG = (anthropic.APITimeoutError, openai.APITimeoutError)


def prompt(*parts: object) -> str:
    return " ".join(map(str, parts))


async def by_anthropic(client, kind, form, timeout):
    asked = body_of(prompt(kind, form, timeout, "anthropic"), stream=form == "stream")
    return [event async for event in await client.messages.create(**asked, timeout=timeout)]


async def by_openai(client, kind, form, timeout):
    asked = body_of(prompt(kind, form, timeout, "openai"), stream=form == "stream")
    return [event async for event in await client.chat.completions.create(**asked, timeout=timeout)]


async def ask_all() -> dict[tuple[str, ...], object]:
    async with simulated() as simulator, contextlib.AsyncExitStack() as stack:
        # Each call is tried for itself: overloaded together, most would wait at the gate of their model class, and for nothing.
        settings = {"RETRY__MAX_ATTEMPTS": "1000", "UPSTREAM__OVERLOAD_GATE": "off"}
        running = stack.enter_context(daemon(simulator.url, **settings))
        client = await stack.enter_async_context(anthropic.AsyncAnthropic(api_key="k", base_url=running.http, max_retries=0))
        chat = await stack.enter_async_context(openai.AsyncOpenAI(api_key="k", base_url=f"{running.http}/v1", max_retries=0))
        # Both SDKs build their models at the first answer, which takes them longer than any answer after it.
        await client.messages.create(**body_of("first"))
        await chat.chat.completions.create(**body_of("first"))
        for kind in KINDS:
            simulator.faults.add(kind, path="/v1/*", text=kind, retry_after_s=0.6)
        simulator.faults.add("hang", text="hang")
        heard = await ask_again(calls(running, client, chat), running.http)
        for visit in simulator.journal.visits:
            LAST[visit.text] = max(LAST.get(visit.text, 0), visit.at_monotonic)
    return heard


def calls(running, client, chat) -> dict[tuple[str, ...], Callable[[], Awaitable[object]]]:
    asked = {}
    for kind, form in itertools.product(KINDS, FORMS):
        for name, timeout in TIMEOUTS.items():
            asked["anthropic", kind, form, name] = partial(by_anthropic, client, kind, form, timeout)
        asked["openai", kind, form, "4"] = partial(by_openai, chat, kind, form, 4)
    for kind, door, said in itertools.product(KINDS, ("http", "http chat", "ApiService.Call"), SAID):
        text = prompt(kind, "plain", door, said)
        asked["plain", kind, door, said] = partial(DOORS[door], running, text, x_stainless_timeout=said)
    asked[("hang",)] = partial(over_http, running, "hang", x_stainless_timeout="3.5")
    return asked


async def ask_again(asked, url) -> dict[tuple[str, ...], object]:
    """What each heard, where the clocks that rang while the machine was late are wound up again."""
    heard, late_s = await ask(asked, url)
    for _ in range(AGAIN):
        rang = {name: asked[name] for name, one in heard.items() if isinstance(one, RANG)}
        if not rang or late_s < LATE_S:
            break
        again, late_s = await ask(rang, url)
        heard |= again
    return heard


async def ask(asked, url) -> tuple[dict[tuple[str, ...], object], float]:
    """Make these calls at once: what each heard, and the longest that a request which asks nothing took meanwhile (s)."""
    before = len(ROUNDS)
    rounds = asyncio.create_task(go_round(url))
    said = await asyncio.gather(*(asyncio.wait_for(each(), 60) for each in asked.values()), return_exceptions=True)
    rounds.cancel()
    return dict(zip(asked, said, strict=True)), max(ROUNDS[before:])


async def go_round(url):
    async with aiohttp.ClientSession() as session:
        while True:
            began = time.monotonic()
            async with session.get(f"{url}/healthz") as response:
                assert response.status == 200
            ROUNDS.append(time.monotonic() - began)
            await asyncio.sleep(0.03)


@pytest.fixture(scope="module")
def heard():
    """All of it, once."""
    return asyncio.run(ask_all())


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_anthropic(heard, kind, form, timeout):
    """Anthropic's SDK raises what upstream said, whatever spelling its timeout has."""
    assert type(heard["anthropic", kind, form, timeout]) is RAISED[kind]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_openai(heard, kind, form):
    """So does OpenAI's."""
    assert type(heard["openai", kind, form, "4"]) is RAISED_BY_OPENAI[kind]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("door", ["http", "http chat", "ApiService.Call"])
@pytest.mark.parametrize("kind", KINDS)
def test_plain(heard, kind, door, said):
    """Upstream's last word is said, by whichever door; nothing is asked past the lower bound of what the header may mean."""
    one = heard["plain", kind, door, said]
    assert (one.status, one.ending) == KINDS[kind]
    last_s = LAST[prompt(kind, "plain", door, said)[:40]] - one.began
    # What the daemon begins in time comes to the door as late as these two loops are: as anything else that goes that way.
    assert 0 < last_s < float(said) + GRACE_S + max(ROUNDS)


async def test_at_the_gate():
    """Who waits there until its SDK's clock is about to ring hears that upstream is overloaded; and upstream is left alone."""
    async with simulated() as simulator:
        with daemon(simulator.url) as running:
            async with anthropic.AsyncAnthropic(api_key="k", base_url=running.http, max_retries=0) as client:
                await client.messages.create(**body_of("first"))
                simulator.faults.add("overloaded")
                asked = {
                    name: partial(by_anthropic, client, *name[:2], TIMEOUTS[name[2]])
                    for name in itertools.product(("gate", "gates"), FORMS, TIMEOUTS)
                }
                said = await ask_again(asked, running.http)
        rang = {name: repr(one)[:200] for name, one in said.items() if type(one) is not OverloadedError}
        assert not rang
        assert simulator.counts.outcomes["overloaded"] < 2 * len(asked)


def test_hang(heard):
    """Where upstream says nothing there is nothing to say before the time is over: 504, at the upper bound."""
    assert (heard[("hang",)].status, heard[("hang",)].ending) == (504, "timeout_error")
