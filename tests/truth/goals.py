"""
What is promised of each row, how far it is kept today, and what is checked.

A figure counts from when its part has landed: then `reached` is what it must not fall behind any more. Until then it is printed
with "not yet", and never fails; where it meets what is wanted all the same, that is said, so that its goal is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a figure comes to."""

    KEPT = "kept"
    HELD = "as far as reached, not yet as wanted"
    BROKEN = "BROKEN"
    NOT_YET = "not yet"
    RAISE = "met: raise its goal"
    ABSENT = "not measured"


@dataclass(frozen=True, slots=True)
class Goal:
    """
    What one figure should be.

    Args:
        wanted: the promise; at most this, or with *at_least* no less than it.
        today: as measured before any of it was built; None is unknown.
        reached: what is checked; None while its part has not landed.
        short: what is checked in the short form, where that is too short for *reached*.
    """

    what: str
    wanted: float
    unit: str = ""
    at_least: bool = False
    today: float | None = None
    reached: float | None = None
    short: float | None = None

    def is_met(self, figure: float, bound: float) -> bool:
        return figure >= bound if self.at_least else figure <= bound

    def judge(self, figure: float | None, *, is_short: bool) -> Verdict:
        """Say what a figure comes to; one that is promised and absent is broken."""
        bound = self.short if is_short and self.short is not None else self.reached
        if figure is None:
            return Verdict.ABSENT if bound is None else Verdict.BROKEN
        is_there = self.is_met(figure, self.wanted)
        if bound is None:
            return Verdict.RAISE if is_there else Verdict.NOT_YET
        if not self.is_met(figure, bound):
            return Verdict.BROKEN
        return Verdict.KEPT if is_there or bound == self.short else Verdict.HELD

    def line(self, row: str, figure: float | None, verdict: Verdict) -> str:
        """Return its line of the table."""
        sign = ">=" if self.at_least else "<="
        said = "-" if figure is None else f"**{self._say(figure)}**"
        today = "-" if self.today is None else self._say(self.today)
        return f"| {row} | {self.what} | {today} | {sign} {self._say(self.wanted)} | {said} | {verdict} |"

    def _say(self, figure: float) -> str:
        if self.unit == "%":
            return f"{100 * figure:.1f} %"
        return f"{figure:.3g} {self.unit}".rstrip() if figure < 1000 else f"{figure:,.0f} {self.unit}".rstrip()


Goals = Mapping[str, Goal]

GOALS: Mapping[str, Goals] = {
    "no-limit": {
        "refused": Goal("attempts that meet a 429", 0.02, "%", today=0.70, reached=0.02, short=0.1),
        "used": Goal("upstream's limit used", 0.95, "%", at_least=True, reached=0.95, short=0.9),
    },
    "others": {
        "refused": Goal("our attempts that meet a 429, others taking 30 %", 0.01, "%", today=0.05, reached=0.01, short=0.1),
        "used": Goal("upstream's limit used by all", 0.95, "%", at_least=True, reached=0.95, short=0.85),
    },
    "weights": {
        "off": Goal("distance of the token shares from 3:1", 0.02, "%", today=abs(1.65 / 3 - 1), reached=0.02, short=0.1),
        "used": Goal("the limit used", 0.95, "%", at_least=True, reached=0.95, short=0.85),
    },
    "lanes": {
        "over": Goal(
            "interactive p99 wait in a flood, over 2 x alone + one call", 0.0, "s", today=4.1 - 2 * 0.23, reached=0.0, short=1.0
        ),
        "served": Goal("interactive calls answered in the flood", 1.0, "%", at_least=True, reached=1.0, short=0.95),
    },
    "lost-hosts": {
        "lost_s": Goal("seconds of the limit lost, of 45", 0.05 * 45, "s", today=0.14 * 45, reached=0.05 * 45, short=6.0),
        "slow_s": Goal("seconds on end under half speed", 2.0, "s", reached=2.0, short=3.0),
    },
    "redis": {
        "failed": Goal("calls failed", 0, today=2, reached=0),
    },
    "commands": {
        "metering": Goal("Redis commands for metering, a call", 0.05, today=2, reached=0.05, short=0.2),
    },
    "tickets": {
        "in": Goal("tickets durable, a second", 500, at_least=True, today=500, reached=400, short=60),
        "out": Goal("tickets worked, a second, meanwhile", 500, at_least=True, today=120, reached=400, short=60),
        "bytes": Goal("Redis's bytes for a ticket of 430, waiting or ended", 3072, today=9000, reached=3072, short=3300),
        "unanswered": Goal("accepted tickets without an answer", 0, reached=0),
        "twice": Goal("attempts more than tickets", 0, reached=0, short=5),
    },
    "long": {
        "reserved_over": Goal("windows of reserved use over the bound", 0, reached=0),
        "unsound": Goal("holds that gave back what they had not", 0, reached=0),
        "ceiling_over": Goal("windows of actual use over the bound, with ceilings", 0, reached=0, short=3),
        "used": Goal("binding bucket used while Redis was up", 0.98, "%", at_least=True, reached=0.98, short=0.8),
    },
}
