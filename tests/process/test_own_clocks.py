"""
An SDK with a clock of its own hears why a call failed, not that it took too long, while upstream says no throughout.

All calls of this file are in the air at once; each test looks at one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time

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


def prompt(*parts: object) -> str:
    return " ".join(map(str, parts))


async def by_anthropic(client, kind, form, timeout):
    asked = body_of(prompt(kind, form, timeout, "anthropic"), stream=form == "stream")
    return [event async for event in await client.messages.create(**asked, timeout=timeout)]


async def by_openai(client, kind, form, timeout):
    asked = body_of(prompt(kind, form, timeout, "openai"), stream=form == "stream")
    return [event async for event in await client.chat.completions.create(**asked, timeout=timeout)]


async def ask_all() -> dict[tuple[str, ...], object]:
    async with simulated() as simulator:
        for kind in KINDS:
            simulator.faults.add(kind, path="/v1/*", text=kind, retry_after_s=0.6)
        async with contextlib.AsyncExitStack() as stack:
            running = stack.enter_context(daemon(simulator.url, RETRY__MAX_ATTEMPTS="1000"))
            client = await stack.enter_async_context(
                anthropic.AsyncAnthropic(api_key="k", base_url=running.http, max_retries=0)
            )
            chat = await stack.enter_async_context(
                openai.AsyncOpenAI(api_key="k", base_url=f"{running.http}/v1", max_retries=0)
            )
            asked = {}
            for kind, form in itertools.product(KINDS, FORMS):
                for name, timeout in TIMEOUTS.items():
                    asked["anthropic", kind, form, name] = by_anthropic(client, kind, form, timeout)
                asked["openai", kind, form, "4"] = by_openai(chat, kind, form, 4)
            for kind, door, said in itertools.product(KINDS, ("http", "http chat", "ApiService.Call"), SAID):
                text = prompt(kind, "plain", door, said)
                asked["plain", kind, door, said] = DOORS[door](running, text, x_stainless_timeout=said)
            asked["hang"] = hang(simulator, running)
            rounds = asyncio.create_task(go_round(running.http))
            heard = await asyncio.gather(*(asyncio.wait_for(each, 60) for each in asked.values()), return_exceptions=True)
            rounds.cancel()
        for visit in simulator.journal.visits:
            last = LAST.setdefault(visit.text, visit.at_monotonic)
            LAST[visit.text] = max(last, visit.at_monotonic)
    return dict(zip(asked, heard, strict=True))


async def go_round(url):
    async with aiohttp.ClientSession() as session:
        while True:
            began = time.monotonic()
            async with session.get(f"{url}/healthz") as response:
                assert response.status == 200
            ROUNDS.append(time.monotonic() - began)
            await asyncio.sleep(0.01)


async def hang(simulator, at):
    simulator.faults.add("hang", text="hang")
    return await over_http(at, "hang", x_stainless_timeout="3.5")


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


def test_hang(heard):
    """Where upstream says nothing there is nothing to say before the time is over: 504, at the upper bound."""
    assert (heard["hang"].status, heard["hang"].ending) == (504, "timeout_error")
