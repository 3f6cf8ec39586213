"""One row of a chaos run: a house, callers, faults one after the other, and what it all comes to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from tests.chaos.books import End
from tests.chaos.callers import Callers, Patience, ways
from tests.chaos.faults import Fault, Form
from tests.chaos.house import CannotMount, House, descriptors, house, memory_mb
from tests.chaos.others import spoken
from tests.chaos.rows import Row
from tests.truth.counting import quantile

_RECOVERS_WITHIN_S = 60.0
_WARM_S = 1.0
_SETTLE_S = 1.0
_AFTERMATH_S = 3.0  # so long after a fault its log lines still count as its own
_LOUD = frozenset(("warning", "error", "critical"))


@dataclass(frozen=True, slots=True)
class Plan:
    """
    How long things take, how patient callers are, and how long the audit may take for each call.

    Args:
        most_faults, most_callers: of a row; 0 is as many as it has.
        rows_at_once: each of which has a house of its own.
    """

    form: Form
    patience: Patience
    audit_s: float
    is_short: bool = False
    most_faults: int = 0
    most_callers: int = 0
    rows_at_once: int = 1


LONG = Plan(Form(calm_s=2.0, spell_s=(1.0, 12.0), still_s=30.0, storm_s=60.0), Patience(20.0, 120.0), audit_s=90.0)
SHORT_PLAN = Plan(
    Form(calm_s=0.4, spell_s=(0.5, 1.2), still_s=1.5, storm_s=1.5), Patience(10.0, 40.0), audit_s=30.0, is_short=True
)


QUICK_PLAN = replace(SHORT_PLAN, most_faults=10, most_callers=12, rows_at_once=2)


@dataclass(slots=True)
class Measured:
    """What came of a row: figures by the names that goals.py has for them, and words that explain them."""

    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spell:
    """A fault: from when until when (Unix seconds), and how long it then took until all was well."""

    name: str
    begin: float
    end: float
    recovery_s: float


async def run(name: str, row: Row, plan: Plan, dice: random.Random) -> Measured:
    """Run one row."""
    try:
        daemons = 1 if row.is_own else 2
        kind = {"own_valkey": row.is_own, "is_group": row.is_group}
        made = house(daemons, **kind, upstream=row.upstream, disk_mb=row.disk_mb, **row.settings)
        async with made as at:
            callers, spells = await _play(at, row, plan, dice)
            return await _measured(at, callers, spells)
    except CannotMount as error:
        return Measured(notes=[f"not measured, since nothing can be mounted here: {error}"])


async def _play(at: House, row: Row, plan: Plan, dice: random.Random) -> tuple[Callers, list[Spell]]:
    """Let callers ask while the faults are done, and look at all they were told once more in the end."""
    async with ways(row.ways) as known, spoken(row.short_others if plan.is_short else row.others) as more:
        callers = Callers(at, {**known, **more}, dice, plan.patience)
        asking = asyncio.create_task(callers.run(min(row.callers, plan.most_callers or row.callers)))
        try:
            await asyncio.sleep(_WARM_S)
            spells = [await _spell(at, what, fault, plan.form, dice) for what, fault in _drawn(row, plan, dice)]
        finally:
            callers.stop()
        await asking
        await callers.audit(plan.audit_s)
    return callers, spells


def _drawn(row: Row, plan: Plan, dice: random.Random) -> list[tuple[str, Fault]]:
    if plan.is_short:
        count = row.short or len(row.faults)
        return dice.sample(list(row.faults.items()), min(count, plan.most_faults or count))
    drawn = list(row.faults.items()) * row.rounds
    dice.shuffle(drawn)
    return drawn


async def _spell(at: House, name: str, fault: Fault, form: Form, dice: random.Random) -> Spell:
    began = time.time()
    await fault(at, dice, form)
    ended = time.time()
    recovery_s = await at.recovered(_RECOVERS_WITHIN_S)
    await asyncio.sleep(form.calm_s)
    return Spell(name, began, ended, recovery_s)


async def _measured(at: House, callers: Callers, spells: list[Spell]) -> Measured:
    told = callers.books
    arrivals = [call for call in await at.upstream.arrivals() if call.mark == "chaos"]
    answered = [call for call in told.calls if call.end is End.ANSWERED]
    await asyncio.sleep(_SETTLE_S)
    figures = {
        "asked": float(len(told.calls)),
        "accepted": float(told.accepted),
        "answered": float(len(answered)),
        "kills": float(at.kills),
        "attempts": len(arrivals) / max(1, len(answered)),
        "slowest": max((call.took_s for call in answered), default=0.0),
        "lost": float(len(told.lost())),
        "twice": float(len(told.twice())),
        "spliced": float(len(told.spliced())),
        "hung": float(len(told.hung())),
        "recover": max((spell.recovery_s for spell in spells), default=0.0),
        "log": max((_loudness(host.log, spells) for host in at.hosts), default=0.0),
        "memory": max(memory_mb(host.pid) - host.fresh_mb for host in at.hosts),
        "descriptors": float(max(descriptors(host.pid) - host.fresh_fds for host in at.hosts)),
    }
    took = quantile((call.took_s for call in answered), 0.99)
    slow = max(spells, key=lambda spell: spell.recovery_s, default=None)
    notes = [
        f"{dict(told.ends())}, 99 % answered within {took:.1f} s; faults {_counts(spells)}",
        f"slowest recovery after {slow.name}: {slow.recovery_s:.1f} s" if slow else "no fault",
        ", ".join(f"{time.strftime('%X', time.localtime(spell.begin))} {spell.name}" for spell in spells),
        f"heard in place of answers: {told.words().most_common(8)}",
        *([f"the Sentinels changed the primary {at.group.failovers()} times in all"] if at.group else []),
        *told.slowest(3),
        *told.refused()[:6],
        *told.troubles()[:12],
        *(_fate(at, call.ticket) for call in told.lost()[:6] if call.ticket and at.valkey),
    ]
    return Measured(figures, notes)


def _fate(at: House, ticket: str) -> str:
    """Return what Redis has of a ticket that was lost."""
    with at.redis() as client:
        names = ("state", "attempts", "broken", "crashes", "due", "holder", "lease_us", "deadline", "error")
        said = dict(zip(names, client.hmget(f"headrace:ticket:{ticket}", names), strict=True))
        rung, looked_at = (client.zscore(name, ticket) for name in ("headrace:due", "headrace:tickets"))
    known = {name: value for name, value in said.items() if value is not None}
    return f"{ticket}: {known}, rung at {rung}, looked at {looked_at}, now {time.time():.1f}"


def _counts(spells: list[Spell]) -> dict[str, int]:
    return {name: sum(spell.name == name for spell in spells) for name in sorted({spell.name for spell in spells})}


def _loudness(log: str, spells: list[Spell]) -> float:
    """Return the bytes that one process complained in, for each second of the fault in which it complained most."""
    lines = [(at, len(line)) for line in log.splitlines() if (at := _complains(line))]
    inside: Callable[[Spell], float] = lambda spell: sum(size for at, size in lines if spell.begin <= at < _over(spell))  # noqa: E731
    return max((inside(spell) / (_over(spell) - spell.begin) for spell in spells), default=0.0)


def _over(spell: Spell) -> float:
    return spell.end + spell.recovery_s + _AFTERMATH_S


def _complains(line: str) -> float:
    """Return when a line was said, in Unix seconds, if it is a complaint; else 0."""
    with contextlib.suppress(ValueError, KeyError):
        said = json.loads(line)
        if said["level"] in _LOUD:
            return datetime.fromisoformat(said["timestamp"]).timestamp()
    return 0.0
