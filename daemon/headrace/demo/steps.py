"""
What the demo shows. A step is a name, what is expected, and a function that does it, checks it, and returns what was seen.

A step that sees something else raises `Unexpected`; the others are shown all the same.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from headrace.demo.calls import Got, Refused, Scene, text_of

_STEP_TIMEOUT_S = 20.0
_FIRST = "In one sentence: what is a headrace?"
_REPEATS = 20
_CROWD = 100
_PER_SECOND, _AT_ONCE = 0.5, 3  # the limit of the caller "metered", as the stage configures it
_PATIENT = 6
_HURRY_S, _EASY_S = 1.0, 10.0  # deadlines: one that no place in line can meet, and one that the first can
_STORM_CALLS, _STORM_FAULTS, _ROOM = 20, 30, 6


class Unexpected(Exception):
    """What was seen is not what was expected."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to show."""

    name: str
    expected: str
    run: Callable[[Scene], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went."""

    step: Step
    seen: str
    is_ok: bool
    took_s: float


async def perform(step: Step, scene: Scene) -> Outcome:
    """Show one thing; never fails."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_STEP_TIMEOUT_S):
            seen, is_ok = await step.run(scene), True
    except TimeoutError:
        seen, is_ok = f"nothing within {_STEP_TIMEOUT_S:.0f} s", False
    except (Unexpected, Refused, aiohttp.ClientError) as error:
        seen, is_ok = str(error) or type(error).__name__, False
    return Outcome(step, seen, is_ok, time.perf_counter() - began)


def _expect(holds: bool, seen: str) -> None:
    if not holds:
        raise Unexpected(seen)


# Cache and flights.


async def _answer_first(scene: Scene) -> str:
    got = scene.first = await scene.http.ask(_FIRST)
    _expect(got.source == "upstream" and got.attempts >= 1, f"it came from {got.source}, after {got.attempts} attempts")
    return f'upstream, in {got.took_s:.2f} s: "{" ".join(got.text.split())[:40]}..."'


async def _repeat(scene: Scene) -> str:
    if scene.first is None:
        raise Unexpected("there was no first answer to repeat")
    http = [_check_kept(await scene.http.ask(_FIRST), scene.first) for _ in range(_REPEATS)]
    grpc = [_check_kept(await scene.grpc.ask(_FIRST), scene.first) for _ in range(_REPEATS)]
    return (
        f"cache, the same answer in {_ms(http)} over HTTP and {_ms(grpc)} over gRPC (the first took {scene.first.took_s:.2f} s)"
    )


def _check_kept(got: Got, first: Got) -> Got:
    _expect(got.source == "cache" and got.attempts == 0, f"it came from {got.source}, after {got.attempts} attempts")
    _expect((got.id, got.text) == (first.id, first.text), "the answer differs from the first")
    return got


def _ms(got: list[Got]) -> str:
    return f"{1000 * statistics.median(one.took_s for one in got):.1f} ms"


async def _ask_in_a_crowd(scene: Scene) -> str:
    before = await scene.control.asked()
    prompt = "In one sentence: why does a mill need a headrace?"
    began = time.perf_counter()
    crowd = await asyncio.gather(*(_either(scene, number, prompt) for number in range(_CROWD)))
    took_s = time.perf_counter() - began
    asked = await scene.control.asked() - before
    different = len({(got.id, got.text) for got in crowd})
    _expect(asked == 1 and different == 1, f"{asked} upstream calls, {different} different answers")
    sources = ", ".join(f"{count} {source}" for source, count in Counter(got.source for got in crowd).most_common())
    return f"{asked} upstream call, {len(crowd)} equal answers ({sources}) in {took_s:.2f} s"


def _either(scene: Scene, number: int, prompt: str) -> Awaitable[Got]:
    return (scene.grpc if number % 2 else scene.http).ask(prompt)


# Budget.


async def _hold_to_budget(scene: Scene) -> str:
    patient = [
        asyncio.create_task(scene.http.ask(f"metered {number}: one word about water", caller="metered"))
        for number in range(_PATIENT)
    ]
    try:
        while len(await scene.control.visits("metered")) < _AT_ONCE:  # noqa: ASYNC110  it happens elsewhere
            await asyncio.sleep(0.02)
        refusal = await _be_impatient(scene)
        await asyncio.gather(*patient)
    finally:
        for task in patient:
            task.cancel()
    moments = [visit["at_monotonic"] for visit in await scene.control.visits("metered")]
    _expect(_keeps_budget(moments), f"upstream was asked at {_since_first(moments)}")
    return f"asked at {_since_first(moments)}; {refusal}"


async def _be_impatient(scene: Scene) -> str:
    prompt = "metered, in a hurry: one word about water"
    began = time.perf_counter()
    try:
        got = await scene.grpc.ask(prompt, caller="metered", timeout_s=_HURRY_S)
    except Refused as refused:
        took_s, word, wait_s = time.perf_counter() - began, refused.word, refused.retry_after_s
    else:
        raise Unexpected(f"a call that could not make its deadline was answered after {got.took_s:.1f} s")
    _expect(word == "RESOURCE_EXHAUSTED" and wait_s is not None and took_s < _HURRY_S, f"{word} after {took_s:.1f} s")
    await asyncio.sleep(wait_s or 0)
    again = await scene.grpc.ask(prompt, caller="metered", timeout_s=_EASY_S)  # the earliest deadline goes next
    return f"{word} after {1000 * took_s:.0f} ms, retry in {wait_s:.1f} s: then answered in {again.took_s:.1f} s"


def _keeps_budget(moments: list[float]) -> bool:
    # In any window: what the bucket holds and what flows in; half a call of slack for the way to the simulator.
    return all(
        last - first + 1 <= _AT_ONCE + _PER_SECOND * (moments[last] - moments[first]) + 0.5
        for first in range(len(moments))
        for last in range(first, len(moments))
    )


def _since_first(moments: list[float]) -> str:
    return f"{' '.join(f'{moment - moments[0]:.1f}' for moment in moments)} s"


# Storms.


async def _ride_out(scene: Scene, *, kind: str, **rule: Any) -> str:
    name = f"{kind} storm"
    await scene.control.fail(kind=kind, count=_STORM_FAULTS, text=name, **rule)
    prompts = [f"{name}, call {number}" for number in range(_STORM_CALLS)]
    crowd = await asyncio.gather(*(_either(scene, number, prompt) for number, prompt in enumerate(prompts)))
    visits = await scene.control.visits(name)
    failed = sum(visit["outcome"] == kind for visit in visits)
    attempts = sum(got.attempts for got in crowd)
    seen = f"{len(crowd)} answered, {failed} times {_status(visits)}, {attempts} attempts for {len(visits)} upstream calls"
    _expect(failed == _STORM_FAULTS and attempts == len(visits) == _STORM_CALLS + _STORM_FAULTS, seen)
    early = _undercut(visits)
    _expect(not early, f"{early} attempts came before their retry-after")
    most = max(got.attempts for got in crowd)
    return f"{len(crowd)} answered after {failed} times {_status(visits)}: {attempts} attempts, at most {most} for one call"


async def _ease_off(scene: Scene) -> str:
    name = "overload"
    await scene.control.fail(kind="overloaded", above=_ROOM, text=name)
    prompts = [f"{name}, call {number}" for number in range(_STORM_CALLS)]
    crowd = await asyncio.gather(*(_either(scene, number, prompt) for number, prompt in enumerate(prompts)))
    visits = await scene.control.visits(name)
    failed = sum(visit["outcome"] == "overloaded" for visit in visits)
    _expect(0 < failed <= _STORM_CALLS, f"{failed} times {_status(visits)} for {len(crowd)} calls")
    return f"{len(crowd)} answered after {failed} times {_status(visits)}: one state for all, a probe, then a window that grows"


def _status(visits: list[dict[str, Any]]) -> int:
    return max(int(visit["status"]) for visit in visits)


def _undercut(visits: list[dict[str, Any]]) -> int:
    early = 0
    due: dict[str, float] = {}
    for visit in visits:
        early += visit["at_unix"] < due.get(visit["text"], 0.0)
        due[visit["text"]] = visit["at_unix"] + (visit["retry_after_s"] or 0.0)
    return early


# Streams.


async def _replay(scene: Scene) -> str:
    prompt = "In two sentences: how does water reach the wheel?"
    live = await scene.http.stream(prompt)
    again = await scene.http.stream(prompt)
    names, text = await scene.grpc.stream(prompt)
    _expect((live.source, again.source) == ("upstream", "cache"), f"they came from {live.source} and {again.source}")
    _expect(again.events == live.events, f"{len(live.events)} events live, {len(again.events)} in the replay, or others")
    _expect((len(names), text) == (len(live.events), text_of(live.events)), "the replay over gRPC says something else")
    return (
        f"{len(live.events)} events live (first {live.first_s:.2f} s, last {live.took_s:.2f} s), "
        f"the same {len(again.events)} again in {1000 * again.took_s:.1f} ms, and over gRPC"
    )


_FIRST_ANSWER = Step("a first answer", "asked of upstream", _answer_first)
_SAME_AGAIN = Step("the same again", "from the cache, over HTTP and gRPC", _repeat)
_STREAM = Step("a stream and its replay", "the same events, byte for byte", _replay)

REAL = (_FIRST_ANSWER, _SAME_AGAIN, _STREAM)
SIMULATED = (
    _FIRST_ANSWER,
    _SAME_AGAIN,
    Step(f"{_CROWD} identical calls in the air", "one upstream call, equal answers (half HTTP, half gRPC)", _ask_in_a_crowd),
    Step(
        "a caller held to its budget",
        f"{_AT_ONCE} calls at once, then one in two seconds; a call that cannot make it refused with the time that works",
        _hold_to_budget,
    ),
    Step(
        "a storm of 429",
        f"{_STORM_CALLS} calls, {_STORM_FAULTS} rate-limit errors: every call answered, no retry-after undercut",
        partial(_ride_out, kind="rate_limit", retry_after_s=(1, 2)),
    ),
    Step(
        "a storm of 529",
        f"{_STORM_CALLS} calls, upstream overloaded above {_ROOM} at once: every call answered, with less than an error each",
        _ease_off,
    ),
    _STREAM,
)
