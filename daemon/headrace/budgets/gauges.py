"""
Limits as gauges: what this process last saw of their buckets, and who waits in it for them. No I/O.

A limit may have a bucket for each of thousands of callers. So what is shown of it, by kind and model class, is its fullest
bucket, and of those who wait all together, and the eldest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace import observe
from headrace.budget.matching import shared_by
from headrace.budget.want import Form, Want
from headrace.clock import Clock
from headrace.few import Few
from headrace.schedule import Schedule

_FRESH_S = 0.5  # the gauges of one page are read one after the other
_MOST_CLASSES = 50

Key = tuple[str, str, str]  # limit, kind, model class


@dataclass(slots=True)
class Figures:
    """Of a limit's fullest bucket what it holds and has; and of all its buckets who waits."""

    capacity: int
    level: int
    waiting: int = 0
    oldest_s: float = 0.0

    @property
    def used(self) -> float:
        """The share that is used; more than 1 in debt."""
        return 1 - self.level / self.capacity if self.capacity else 1.0


class LimitGauges:
    """Reads them."""

    def __init__(self, schedule: Schedule, clock: Clock) -> None:
        self._schedule = schedule
        self._clock = clock
        self._classes = Few(_MOST_CLASSES)
        self._made: dict[Key, Figures] = {}
        self._made_at = -_FRESH_S

    def __repr__(self) -> str:
        return f"<LimitGauges [{len(self._made)} limits]>"

    def measure(self) -> None:
        """Let the metrics of limits read from here."""
        observe.LIMIT_CAPACITY.read = self._each(lambda figures: figures.capacity)
        observe.LIMIT_LEVEL.read = self._each(lambda figures: max(0, figures.level))
        observe.LIMIT_DEBT.read = self._each(lambda figures: max(0, -figures.level))
        observe.LIMIT_USED.read = self._each(lambda figures: figures.used)
        observe.LIMIT_WAITING.read = self._each(lambda figures: figures.waiting)
        observe.LIMIT_OLDEST.read = self._each(lambda figures: figures.oldest_s)

    def _each(self, figure: Callable[[Figures], float]) -> Callable[[], Mapping[tuple[str, ...], float]]:
        return lambda: {key: figure(figures) for key, figures in self.figures().items()}

    def figures(self) -> dict[Key, Figures]:
        """Return them all, as they are or were a moment ago."""
        if not 0 <= time.monotonic() - self._made_at < _FRESH_S:
            self._made, self._made_at = self._make(), time.monotonic()
        return self._made

    def _make(self) -> dict[Key, Figures]:
        now, schedule, made = self._clock.now(), self._schedule, dict[Key, Figures]()
        for want in schedule.limits.known(now).values():
            level = schedule.known.left(want, now)
            figures = Figures(want.capacity, want.capacity if level is None else level)
            known = made.setdefault(self._key(want), figures)
            if figures.used > known.used:
                made[self._key(want)] = figures
        for line in schedule.lines():
            places = list(line.places()) if line.is_held_up else []
            if not places:
                continue
            held_by = places[0].wants[line.binding(now)]
            if held_by.form is not Form.GATE and (here := made.get(self._key(held_by))) is not None:
                here.waiting += len(places)
                here.oldest_s = max(here.oldest_s, now - min(place.entered for place in places))
        return made

    def _key(self, want: Want) -> Key:
        whose = shared_by(want.bucket_id)
        model_class = whose.get("class") or self._schedule.tuner.classes.of(whose.get("model", ""))
        return want.limit, want.kind, self._classes.of(model_class)
