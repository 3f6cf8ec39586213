"""
What bounds a stream: how long it may take to begin, and never how long it goes on, unless its caller said so.

All calls of this file are in the air at once, on two daemons that share one Redis; each test looks at some of them.
"""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from conftest import start_valkey
from fleet import daemon, simulated
from headrace.simulator import Options
from listening import DOORS, WHOLE, Heard, body_of, over_http

pytestmark = pytest.mark.slow

MAX_AGE_S = 2
BOUND_S = 3  # within an answer, and late enough for some of it to be heard on a busy machine
# Ten tokens a second: an answer of 40 goes on for twice as long as it might take to begin.
SLOW = Options(first_token_s=0.2, tokens_per_s=10, jitter=0, answer_tokens=(40, 40), delta_tokens=1)
IMPLIED = {"nothing": {}, "x-stainless-timeout": {"x_stainless_timeout": "1"}, "both": {"x_stainless_timeout": "600"}}


async def ask_all(valkey_url: str) -> dict[str, list[Heard]]:
    """Ask everything there is to ask, and return what was heard, by a name."""
    async with simulated(SLOW) as simulator:
        with (
            daemon(simulator.url, valkey_url, RETRY__MAX_AGE=f"{MAX_AGE_S}s") as one,
            daemon(simulator.url, valkey_url, RETRY__MAX_AGE=f"{MAX_AGE_S}s") as two,
        ):
            asked = {}
            for name, door in DOORS.items():
                for implied, headers in IMPLIED.items():
                    asked[f"alone, {name}, {implied}"] = [door(one, f"alone {name} {implied}", **headers)]
                keyed = {"idempotency_key": f"key {name}"}
                asked[f"idempotent, {name}"] = [door(one, f"keyed {name}", **keyed)]
                asked[f"idempotent twice, {name}"] = [
                    door(one, f"keyed twice {name}", idempotency_key=f"twice {name}"),
                    later(door, one, f"keyed twice {name}", idempotency_key=f"twice {name}"),
                ]
                asked[f"followed, {name}"] = [
                    door(one, f"followed {name}"),
                    later(door, one, f"followed {name}"),
                    later(door, two, f"followed {name}", x_stainless_timeout="1"),
                ]
                asked[f"stated, {name}"] = [door(one, f"stated {name}", timeout_s=BOUND_S)]
                asked[f"left behind, {name}"] = [
                    door(one, f"left {name}", timeout_s=BOUND_S),
                    later(door, one, f"left {name}"),
                    later(door, two, f"left {name}"),
                ]
            stated = {"x_headrace_timeout_ms": str(int(BOUND_S * 1000))}
            asked["stated in a header"] = [DOORS["ApiService.Call"](one, "stated in a header", **stated)]
            asked["unary"] = [over_http(one, "unary followed"), unary(one, "unary followed")]
            heard = await asyncio.wait_for(asyncio.gather(*(asyncio.gather(*calls) for calls in asked.values())), 60)
    return dict(zip(asked, heard, strict=True))


async def later(door, *asked, **headers) -> Heard:
    """Ask a moment after others have begun to hear."""
    await asyncio.sleep(1)
    return await door(*asked, **headers)


async def unary(at, text: str) -> Heard:
    """Ask for the same, whole."""
    await asyncio.sleep(0.5)
    heard = Heard("http, whole")
    async with aiohttp.ClientSession() as session, session.post(at.http + "/v1/messages", json=body_of(text)) as response:
        heard.status, said = response.status, await response.json()
    heard.ending = said["error"]["type"] if "error" in said else WHOLE
    return heard


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """All of it, once."""
    valkey, url = start_valkey(tmp_path_factory.mktemp("v"))
    yield asyncio.run(ask_all(url))
    valkey.terminate()
    valkey.wait(10)


def is_whole(heard: Heard) -> bool:
    return heard.ending == WHOLE and heard.text.startswith("You said") and len(heard.text) > 120 and len(heard.ids) == 1


@pytest.mark.parametrize("implied", IMPLIED)
@pytest.mark.parametrize("door", DOORS)
def test_alone(heard, door, implied):
    """Neither retry.max_age nor an SDK's timeout ends a stream that has begun."""
    [one] = heard[f"alone, {door}, {implied}"]
    assert is_whole(one), one
    assert one.took_s > MAX_AGE_S


@pytest.mark.parametrize("door", DOORS)
def test_idempotent(heard, door):
    """Nor one that came with an idempotency key, the first of its key and one that came later with it."""
    assert heard[f"idempotent, {door}"]
    assert heard[f"idempotent twice, {door}"]
    for one in (*heard[f"idempotent, {door}"], *heard[f"idempotent twice, {door}"]):
        assert is_whole(one), one


@pytest.mark.parametrize("door", DOORS)
def test_followed(heard, door):
    """Nor one that others follow, here and at another daemon."""
    for one in heard[f"followed, {door}"]:
        assert is_whole(one), one
    assert len({one.ids[0] for one in heard[f"followed, {door}"]}) == 1


@pytest.mark.parametrize("door", DOORS)
def test_stated(heard, door):
    """What a caller states, by x-headrace-timeout-ms or as gRPC's deadline, bounds the whole of it."""
    assert heard[f"stated, {door}"]
    for one in heard[f"stated, {door}"]:
        assert one.ending in ("timeout_error", "DEADLINE_EXCEEDED"), one
        assert one.text.startswith("You")


def test_stated_in_a_header(heard):
    """The header counts in ApiService.Call, too."""
    [one] = heard["stated in a header"]
    assert one.ending in ("timeout_error", "DEADLINE_EXCEEDED"), one


@pytest.mark.parametrize("door", DOORS)
def test_left_behind(heard, door):
    """Whoever follows a stream whose leader's time is over hears it to its end, here and at another daemon."""
    _, *followers = heard[f"left behind, {door}"]
    assert followers
    for one in followers:
        assert is_whole(one), one


def test_unary(heard):
    """For a whole answer the time to begin is the time to be there: nothing has changed."""
    stream, whole = heard["unary"]
    assert is_whole(stream), stream
    assert (whole.status, whole.ending) == (504, "timeout_error")
