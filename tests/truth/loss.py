"""Rows about what breaks: daemons that die or stand still, and a Redis that does."""

from __future__ import annotations

import asyncio
import time

from tests.truth import counting
from tests.truth.load import Ask, Load
from tests.truth.measured import Measured
from tests.truth.rig import fleet

_PLACES = 60
_CONCURRENCY = f"""
[[limit]]
name = "org"
concurrency = {_PLACES}
"""
_STOPPED_S = 6.0


async def lost_hosts(is_short: bool) -> Measured:
    """Of three daemons one is killed and one stopped for six seconds; places at upstream are what all wait for."""
    warm_s, spell_s = (3.0, 4.0) if is_short else (5.0, 17.0)
    async with fleet(3, _CONCURRENCY, "--first-token", "1", "--tokens-per-second", "40") as rig, Load.opened() as load:
        start, whole = time.time(), warm_s + 2 * spell_s + _STOPPED_S
        pressing = asyncio.create_task(load.closed(Ask("ours", rig.anyone(), timeout_s=60), 240, whole))
        await asyncio.sleep(warm_s)
        await rig.hosts[0].kill()
        await asyncio.sleep(spell_s)
        await rig.hosts[1].pause(_STOPPED_S)
        report = await pressing
        arrivals = await rig.upstream.arrivals()
    levels = counting.running(arrivals, (start + warm_s, start + whole))
    step_s = levels[1][0] - levels[0][0]
    lost_s = sum((1 - min(level, _PLACES) / _PLACES) * step_s for _, level in levels)
    under_s = sum(step_s for _, level in levels if level < _PLACES / 2)
    notes = [
        f"{len(levels) * step_s:.0f} s, {1 - lost_s / (len(levels) * step_s):.2f} of the limit used, {under_s:.1f} s of them "
        f"under half speed, at most {max(level for _, level in levels)} at upstream; {dict(report.statuses)}"
    ]
    return Measured({"lost_s": lost_s, "slow_s": counting.longest_under(levels, _PLACES / 2)}, notes)


_METERED = """
[[limit]]
name = "org"
requests_per_minute = 1800
output_tokens_per_minute = 10000000
burst = "2s"
"""


async def redis(is_short: bool) -> Measured:
    """Redis stands still for two seconds, then dies and comes back, while calls come all the time."""
    spell_s = 3.0 if is_short else 9.0
    async with fleet(2, _METERED, "--first-token", "0.1", "--tokens-per-second", "1000") as rig, Load.opened() as load:
        pressing = asyncio.create_task(load.closed(Ask("ours", rig.anyone()), 30, 3 * spell_s + 2))
        await asyncio.sleep(spell_s)
        await rig.valkey.pause(2.0)
        await asyncio.sleep(spell_s)
        await rig.valkey.restart()
        report = await pressing
        reached = len(await rig.upstream.arrivals())
    statuses = report.statuses
    notes = [f"{statuses.total()} calls, {dict(statuses)}, {reached} attempts at upstream", *sorted(set(report.failures))[:3]]
    return Measured({"failed": statuses.total() - statuses[200]}, notes)
