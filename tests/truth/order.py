"""Rows about who goes first: weights between callers, and lanes."""

from __future__ import annotations

import asyncio
import time

from tests.truth import counting
from tests.truth.load import Ask, Load
from tests.truth.measured import Measured
from tests.truth.rig import fleet

_TOKENS = 120_000
_WEIGHTS = f"""
[[limit]]
name = "org"
output_tokens_per_minute = {_TOKENS}
burst = "2s"
[caller.heavy]
weight = 3
[caller.light]
weight = 1
"""
_SETTLE_S = 3.0
# What each caller's answers take is learnt from its first ones. Until then its calls are placed by what they may take at most,
# and the first second's burst goes to whoever comes; both are made up for when those who waited then have gone.
_LEARNT_S = 10.0
_PRESSING = 20  # of each caller: the lighter one's last then waits for eight seconds


async def weights(is_short: bool) -> Measured:
    """Two callers, weights 3 and 1, press on two daemons; the lighter one's answers are the longer ones, since tokens count."""
    seconds = 12.0 if is_short else 60.0
    async with fleet(2, _WEIGHTS, "--first-token", "0.1", "--tokens-per-second", "1000") as rig, Load.opened() as load:
        start = time.time()
        sizes = {"heavy": (40, 120), "light": (150, 250)}
        asks = [
            Ask(name, rig.anyone(), output_tokens=size, max_tokens=300, headers={"x-headrace-caller": name})
            for name, size in sizes.items()
        ]
        await asyncio.gather(*(load.closed(ask, _PRESSING, _LEARNT_S + seconds) for ask in asks))
        arrivals = await rig.upstream.arrivals()
    span = start + _LEARNT_S, start + _LEARNT_S + seconds
    came = counting.within(arrivals, span)
    sums = {name: sum(call.output_tokens for call in came if call.mark == name) for name in sizes}
    ratio = sums["heavy"] / max(1, sums["light"])
    share = counting.used(came, {"output_tokens": _TOKENS}, span)["output_tokens"]
    return Measured({"off": abs(ratio / 3 - 1), "used": share}, [f"token shares {ratio:.2f} : 1 ({sums})"])


_PER_MINUTE = 1200
_LANES = f"""
[[limit]]
name = "org"
requests_per_minute = {_PER_MINUTE}
burst = "1s"
"""
_INTERACTIVE_PER_S = 10.0


async def lanes(is_short: bool) -> Measured:
    """Interactive calls take half of the limit; alone, and beside a flood of batch calls."""
    seconds = 5.0 if is_short else 40.0
    async with fleet(2, _LANES, "--first-token", "0.1", "--tokens-per-second", "1000") as rig, Load.opened() as load:
        people = [Ask(mark, rig.anyone(), headers=_as("people", "interactive")) for mark in ("alone", "beside")]
        reports = {"alone": await load.open(people[0], _INTERACTIVE_PER_S, seconds)}
        flood = asyncio.create_task(
            load.closed(Ask("flood", rig.anyone(), headers=_as("jobs", "batch")), 120, _SETTLE_S + seconds)
        )
        await asyncio.sleep(_SETTLE_S)
        reports["beside"] = await load.open(people[1], _INTERACTIVE_PER_S, seconds)
        await flood
        arrivals = await rig.upstream.arrivals()
    waits = {mark: _waits(arrivals, mark, report.sent) for mark, report in reports.items()}
    alone, beside = (counting.quantile(waits[mark], 0.99) for mark in ("alone", "beside"))
    one_call = max(60 / _PER_MINUTE, counting.quantile((call.took_s for call in arrivals if call.mark == "alone"), 0.5))
    statuses = reports["beside"].statuses
    served = statuses[200] / max(1, statuses.total())
    notes = [f"p99 wait {alone:.3f} s alone, {beside:.3f} s in the flood; one call takes {one_call:.2f} s; {dict(statuses)}"]
    return Measured({"over": max(0.0, beside - 2 * alone - one_call), "served": served}, notes)


def _as(caller: str, lane: str) -> dict[str, str]:
    return {"x-headrace-caller": caller, "x-headrace-lane": lane}


def _waits(arrivals: list[counting.Arrival], mark: str, sent: dict[str, float]) -> list[float]:
    """Return how long each call was on its way to upstream."""
    return [call.at - sent[call.name] for call in arrivals if call.mark == mark and call.name in sent]
