"""The simulator's control endpoints: faults are set, and whatever arrived is told, counted and noted."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import msgspec

from headrace.simulator import Options, Simulator, fingerprint, start
from simulator_parts import call, control, post


async def test_control_faults(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """Rules can be added, seen and cleared over HTTP; a wrong one says what is wrong with it."""
    rules = [{"kind": "overloaded", "count": 1, "text": "storm"}, {"kind": "api_error", "model": "sim-*", "probability": 0.5}]
    assert len((await control(web, simulator, "POST", "faults", rules))["faults"]) == 2
    assert (await post(web, simulator, call("no")))[0] == 200
    assert (await post(web, simulator, call("a storm")))[0] == 529
    assert [rule["kind"] for rule in (await control(web, simulator, "GET", "faults"))["faults"]] == ["api_error"]
    assert (await control(web, simulator, "DELETE", "faults"))["faults"] == []
    refused = await control(web, simulator, "POST", "faults", {"kind": "hang", "probability": 7})
    assert refused["status"] == 400
    assert "probability is 7" in refused["error"]["message"]
    assert (await control(web, simulator, "GET", "nothing"))["status"] == 404


async def test_control_arrivals(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """Each arrival is told with what it cost: an answer its tokens, a refusal nothing."""
    simulator.faults.add("overloaded", count=1, text="storm")
    _, said, *_ = await post(web, simulator, call("calm, answer in 20 tokens"))
    await post(web, simulator, call("storm"))
    calm, storm = (await control(web, simulator, "GET", "arrivals"))["arrivals"]
    assert {kind: calm[kind] for kind in said["usage"] if kind in calm} == {
        "input_tokens": said["usage"]["input_tokens"],
        "output_tokens": said["usage"]["output_tokens"],
    }
    assert (calm["status"], storm["status"]) == (200, 529)
    assert storm["input_tokens"] == storm["output_tokens"] == 0


async def test_overloaded_above(web: aiohttp.ClientSession) -> None:
    """An upstream that is overloaded above two calls of a class takes two at once, whichever model; other classes are free."""
    async with await start(Options(first_token_s=0.3, tokens_per_s=0, seed=1)) as simulator:
        simulator.faults.add("overloaded", model="claude-opus-4*", above=2)
        models = ("claude-opus-4-1", "claude-opus-4-5", "claude-opus-4-1", "claude-sonnet-5")
        met = await asyncio.gather(*(post(web, simulator, call("x") | {"model": model}) for model in models))
        assert sorted(status for status, *_ in met) == [200, 200, 200, 529]
        assert met[3][0] == 200
        assert (await post(web, simulator, call("x") | {"model": "claude-opus-4-1"}))[0] == 200


async def test_control_counts_and_journal(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """Every call is counted and noted, by outcome, model and body; control calls are not."""
    simulator.faults.add("rate_limit", count=1, retry_after_s=0.25, text="second")
    began = time.time()
    for prompt in ("first", "second", "first"):
        await post(web, simulator, call(prompt))
    counts = await control(web, simulator, "GET", "counts")
    assert counts["total"] == 3
    assert counts["outcomes"] == {"answered": 2, "rate_limit": 1}
    assert counts["models"] == {"claude-sonnet-5": 3}
    assert counts["fingerprints"][fingerprint(msgspec.json.encode(call("first")))] == 2
    assert simulator.asked("first") == 2
    [visit] = (await control(web, simulator, "GET", "journal?text=second"))["visits"]
    assert (visit["outcome"], visit["status"], visit["retry_after_s"], visit["text"]) == ("rate_limit", 429, 0.25, "second")
    assert began <= visit["at_unix"] <= time.time()
    assert "sk-test" not in str(visit)
    assert [v["number"] for v in (await control(web, simulator, "GET", "journal?newest=2"))["visits"]] == [2, 3]
    assert (await control(web, simulator, "GET", "journal?newest=x"))["status"] == 400
    await control(web, simulator, "POST", "reset")
    assert simulator.counts.total == 0
