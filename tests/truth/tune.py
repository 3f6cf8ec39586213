"""Rows about upstream's own limits: none configured here, and others who use the same organisation."""

from __future__ import annotations

import asyncio
import time

from tests.truth import counting
from tests.truth.load import Ask, Load
from tests.truth.measured import Measured
from tests.truth.rig import Fleet, fleet

RATES = {"requests": 1200, "input_tokens": 660_000, "output_tokens": 264_000}
BURST_S = 5
LIMITED = (
    "--requests-per-minute", str(RATES["requests"]), "--input-tokens-per-minute", str(RATES["input_tokens"]),
    "--output-tokens-per-minute", str(RATES["output_tokens"]), "--burst", str(BURST_S),
    "--first-token", "0.2", "--tokens-per-second", "1000",
)  # fmt: skip
LIMIT = "\n".join(
    [
        "[[limit]]",
        'name = "org"',
        'per = ["model"]',
        f'burst = "{BURST_S}s"',
        *(f"{k}_per_minute = {v}" for k, v in RATES.items()),
    ]
)
SIZES = {"input_tokens": (400, 600), "output_tokens": (100, 300), "max_tokens": 400}
_LEARNING_S = 10.0
_OTHERS = 0.3


async def no_limit(is_short: bool) -> Measured:
    """Nothing is configured: what upstream's headers say has to be enough."""
    async with fleet(2, "", *LIMITED) as rig:
        return await _measure(rig, others=0.0, seconds=8.0 if is_short else 30.0)


async def others(is_short: bool) -> Measured:
    """The limit is configured as upstream has it, but somebody else takes 30 % of it."""
    async with fleet(2, LIMIT, *LIMITED) as rig:
        return await _measure(rig, others=_OTHERS, seconds=8.0 if is_short else 30.0)


async def _measure(rig: Fleet, *, others: float, seconds: float) -> Measured:
    start, whole = time.time(), _LEARNING_S + seconds
    async with Load.opened() as load:
        ours = load.closed(Ask("ours", rig.anyone(), **SIZES), 100, whole)
        foreign = Ask("theirs", lambda: rig.upstream.url, **SIZES)
        theirs = load.open(foreign, RATES["requests"] / 60 * others, whole, is_even=True) if others else asyncio.sleep(0)
        await asyncio.gather(ours, theirs)
    span = start + _LEARNING_S, start + whole
    came = counting.within(await rig.upstream.arrivals(), span)
    mine = [arrival for arrival in came if arrival.mark == "ours"]
    shares = counting.used(came, RATES, span)
    said = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in shares.items())
    notes = [f"{len(mine)} attempts of ours in {seconds:.0f} s; used: {said}"]
    return Measured({"refused": counting.refused(mine), "used": max(shares.values())}, notes)
