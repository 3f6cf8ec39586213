"""
Silence is bounded: a stream's head goes out after `listen.stream_opens`, and a sign of life follows until it begins.

All calls of this file are in the air at once, and for as long as one sign of life needs; each test looks at some of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import aiohttp
import anthropic
import openai
import pytest

from fleet import daemon, simulated
from headrace.simulator import Options
from listening import WHOLE, body_of, over_chat, over_http

pytestmark = pytest.mark.slow

OPENS_S = 1.0
SIGN_S = 10.0
WAIT_S = 12.0  # one sign comes within it
GRACE_S = 0.9
HTTP = {"messages": over_http, "chat": over_chat}
BOUND = {
    "x-stainless-lang": {"x_stainless_lang": "js", "x_stainless_timeout": "600"},
    "node": {"user_agent": "node"},
    "undici": {"user_agent": "undici"},
    "node-fetch": {"user_agent": "node-fetch/1.0 (+https://github.com/bitinn/node-fetch)"},
    "no time": {"user_agent": "curl/8.1"},
}


async def ask_all():
    options = Options.instant(answer_tokens=(40, 40))
    async with simulated(options) as simulator, contextlib.AsyncExitStack() as stack:
        order = simulator.faults.add
        for name in (*HTTP, "keyed messages", "keyed chat", "anthropic", "openai"):
            order("rate_limit", path="/v1/*", text=f"once {name}", count=1, retry_after_s=WAIT_S)
        order("slow", path="/v1/*", text="slow", delay_s=3.0)
        for name in (*HTTP, "anthropic", "openai"):
            order("rate_limit", path="/v1/*", text=f"spent {name}", count=1, retry_after_s=3.0)
        order("spend_limit", path="/v1/*", text="spent")
        order("rate_limit", path="/v1/*", text="unary", retry_after_s=330.0)
        # All are of one model class: the spend limit of some would be that of all.
        settings = {"LISTEN__STREAM_OPENS": f"{OPENS_S:g}s", "UPSTREAM__OVERLOAD_GATE": "off"}
        at = stack.enter_context(daemon(simulator.url, **settings))
        client = await stack.enter_async_context(anthropic.AsyncAnthropic(api_key="k", base_url=at.http, max_retries=0))
        chat = await stack.enter_async_context(openai.AsyncOpenAI(api_key="k", base_url=f"{at.http}/v1", max_retries=0))
        assert await answer_of(at, "first", x_stainless_timeout="600") == 200  # while limits are learnt, others wait for it
        asked = {}
        for name, door in HTTP.items():
            asked["once", name] = door(at, f"once {name}")
            asked["slow", name] = door(at, f"slow {name}")
            asked["spent", name] = door(at, f"spent {name}")
            asked["at once", name] = door(at, f"at once {name}")
            asked["idempotent", name] = door(at, f"once keyed {name}", idempotency_key=name)
            asked["followed", name] = after(0.2, door(at, f"once {name}"))
        asked["once", "anthropic"] = events_of(client.messages.create, "once anthropic")
        asked["once", "openai"] = events_of(chat.chat.completions.create, "once openai")
        asked["spent", "anthropic"] = events_of(client.messages.create, "spent anthropic")
        asked["spent", "openai"] = events_of(chat.chat.completions.create, "spent openai")
        for name, headers in BOUND.items():
            asked["unary", name] = answer_of(at, f"unary {name}", **headers)
        asked["unary", "python"] = answer_of(at, "unary python", x_stainless_timeout="600")
        asked["unary", "stated"] = answer_of(at, "unary stated", user_agent="curl/8.1", x_headrace_timeout_ms="600000")
        bounded = [asyncio.wait_for(each, 60) for each in asked.values()]
        heard = await asyncio.gather(*bounded, return_exceptions=True)
    return dict(zip(asked, heard, strict=True))


async def after(seconds, ask):
    await asyncio.sleep(seconds)
    return await ask


async def events_of(create, text):
    return [event async for event in await create(**body_of(text, stream=True))]


async def answer_of(at, text, **headers):
    """Return what a plain caller of a whole answer is told within a few seconds, "waits" if that is nothing."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"anthropic-version": "2023-06-01"}
    async with aiohttp.ClientSession() as session:
        try:
            async with asyncio.timeout(5), session.post(at.http + "/v1/messages", json=body_of(text), headers=sent) as response:
                return response.status
        except TimeoutError:
            return "waits"


@pytest.fixture(scope="module")
def heard():
    """All of it, once."""
    return asyncio.run(ask_all())


@pytest.mark.parametrize("form", HTTP)
@pytest.mark.parametrize("case", ["once", "idempotent", "followed"])
def test_signs(heard, case, form):
    """The head comes after `stream_opens`, then signs of life at most ten seconds apart; of the retries nothing is seen."""
    one = heard[case, form]
    assert (one.status, one.ending, len(one.ids)) == (200, WHOLE, 1)
    assert OPENS_S - 0.3 < one.headed_s < OPENS_S + GRACE_S + 1
    moments = [one.headed_s, *one.signs_s, one.took_s]
    assert one.signs_s
    assert max(later - earlier for earlier, later in itertools.pairwise(moments)) < SIGN_S + GRACE_S


@pytest.mark.parametrize("form", HTTP)
def test_slow(heard, form):
    """So it is with an answer that takes long to begin."""
    one = heard["slow", form]
    assert (one.status, one.ending) == (200, WHOLE)
    assert one.headed_s < 2.8


@pytest.mark.parametrize("form", HTTP)
def test_at_once(heard, form):
    """Where an answer begins earlier, there is no sign, and the attempts are told in the head."""
    one = heard["at once", form]
    assert (one.ending, one.signs_s) == (WHOLE, [])
    assert one.headers["x-headrace-attempts"] == "1"


@pytest.mark.parametrize("form", HTTP)
def test_failure(heard, form):
    """A failure after the head is an error event of its type, and the last thing said."""
    one = heard["spent", form]
    assert (one.status, one.ending, one.text) == (200, "rate_limit_error", "")


def test_sdks(heard):
    """The SDKs skip the signs, and get the answer."""
    assert [event.type for event in heard["once", "anthropic"]][-1] == "message_stop"
    assert heard["once", "openai"][-1].choices[0].finish_reason


def test_sdks_raise(heard):
    """A failure after the head is for the SDKs an error with upstream's type and words."""
    error = heard["spent", "anthropic"]
    assert isinstance(error, anthropic.APIError)
    assert error.body["error"]["type"] == "rate_limit_error"
    error = heard["spent", "openai"]
    assert isinstance(error, openai.APIError)
    assert error.type == "rate_limit_error"


@pytest.mark.parametrize("caller", BOUND)
def test_unary_bound(heard, caller):
    """Who is known to give up after 300 s, or names no time, is not kept waiting for longer: upstream's no at once."""
    assert heard["unary", caller] == 429


@pytest.mark.parametrize("caller", ["python", "stated"])
def test_unary_waits(heard, caller):
    """Who names a time waits for as long as that, unless it is known to give up before."""
    assert heard["unary", caller] == "waits"
