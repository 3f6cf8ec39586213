"""
The long row: eight daemons of which one dies and one stands still again and again, a Redis that restarts, and five times more
demand than there is budget, on three buckets at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from tests.truth import counting
from tests.truth.counting import KINDS, Arrival, Span
from tests.truth.load import Ask, Load, Report
from tests.truth.measured import Measured
from tests.truth.rig import Fleet, fleet, takes

import audit
from audit import Audit
from windows import worst_window

_RATES = {"requests": 600, "input_tokens": 300_000, "output_tokens": 120_000}
_BURST_S = 5
_SIZES = {"input_tokens": (300, 700), "output_tokens": (20, 380), "max_tokens": 400}
_TIMES_OVER = 5
_HOSTS = 8
_PATIENCE_S = 10.0
# By how much a call may come to the door after it was granted, on a machine that all of this keeps busy.
_LATE_S = 0.25


async def long(is_short: bool) -> Measured:
    """With ceilings where the daemon knows them, and in the long form with learned estimates, too."""
    kinds = ["ceiling", "learned"] if takes(_limit("ceiling")) else [""]
    runs = {kind: await _run(kind, is_short) for kind in (kinds[:1] if is_short else kinds)}
    return Measured(
        {
            "reserved_over": sum(run.figures["reserved_over"] or 0 for run in runs.values()),
            "unsound": sum(run.figures["unsound"] or 0 for run in runs.values()),
            "ceiling_over": runs["ceiling"].figures["over"] if "ceiling" in runs else None,
            "used": min(run.figures["used"] or 0 for run in runs.values()),
        },
        [note for run in runs.values() for note in run.notes],
    )


def _limit(estimate: str) -> str:
    rates = [f"{kind}_per_minute = {rate}" for kind, rate in _RATES.items()]
    more = [f'estimate = "{estimate}"'] if estimate else []
    return "\n".join(["[[limit]]", 'name = "org"', f'burst = "{_BURST_S}s"', *rates, *more])


async def _run(estimate: str, is_short: bool) -> Measured:
    seconds, period_s = (30.0, 10.0) if is_short else (300.0, 20.0)
    async with fleet(_HOSTS, _limit(estimate), "--first-token", "0.1", "--tokens-per-second", "1000") as rig:
        async with Load.opened() as load:
            start = time.time()
            ask = Ask("ours", rig.anyone(), timeout_s=_PATIENCE_S, **_SIZES)
            pressing = asyncio.create_task(load.open(ask, _TIMES_OVER * _RATES["requests"] / 60, seconds))
            troubles = asyncio.create_task(_trouble(rig, seconds, period_s))
            report, down = await pressing, await troubles
        arrivals = await rig.upstream.arrivals()
        audits = {kind: await asyncio.to_thread(audit.read, rig.valkey.url, kind) for kind in KINDS}
    span = start + _BURST_S, start + seconds
    return _judge(estimate or "learned", arrivals, audits, span, down, report)


async def _trouble(rig: Fleet, seconds: float, period_s: float) -> Span:
    """Kill one daemon and stop one in each period, and restart Redis in the middle; return when it was down."""
    periods = int(seconds / period_s)
    down = 0.0, 0.0
    async with asyncio.TaskGroup() as group:
        for number in range(periods):
            begun = time.monotonic()
            group.create_task(_die(rig, number % _HOSTS, 0.1 * period_s))
            group.create_task(_stand_still(rig, (number + _HOSTS // 2) % _HOSTS, 0.4 * period_s))
            if number == periods // 2:
                down_from = time.time()
                await rig.valkey.restart()
                down = down_from, time.time()
            await asyncio.sleep(max(0.0, begun + period_s - time.monotonic()))
    return down


async def _die(rig: Fleet, number: int, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await rig.hosts[number].kill()
    await asyncio.sleep(after_s)
    await rig.hosts[number].start()


async def _stand_still(rig: Fleet, number: int, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await rig.hosts[number].pause(after_s)


def _judge(
    estimate: str,
    arrivals: Sequence[Arrival],
    audits: Mapping[str, Audit],
    span: Span,
    down: Span,
    report: Report,
) -> Measured:
    reserved_over, over, notes = 0, 0, []
    for kind, rate in _RATES.items():
        capacity = rate * _BURST_S // 60
        spent = [(round(call.at * 1e6), call.cost(kind)) for call in arrivals]
        exact = worst_window(spent, rate_per_minute=rate, capacity=capacity)
        late = worst_window(spent, rate_per_minute=rate, capacity=capacity + int(rate * _LATE_S / 60))
        reserved = worst_window(audits[kind].net, rate_per_minute=rate, capacity=capacity)
        over, reserved_over = over + late.over, reserved_over + reserved.over
        notes.append(
            f"{estimate}, {kind}: fullest window {exact.excess_tokens:+,.0f} from the bound, "
            f"{exact.excess_tokens / capacity:+.1%} of the bucket ({late.excess_tokens:+,.0f} if calls may be {_LATE_S:g} s "
            f"late); reserved {reserved.excess_tokens:+,.2f}"
        )
    unsound = [wrong for kind in KINDS for wrong in audits[kind].unsound()]
    shares = counting.used(arrivals, _RATES, span, [down])
    notes.append(f"used {', '.join(f'{kind} {share:.1%}' for kind, share in shares.items())}; {dict(report.statuses)}")
    notes += unsound[:3]
    figures = {"reserved_over": reserved_over, "unsound": len(unsound), "over": over, "used": max(shares.values())}
    return Measured(figures, notes)
