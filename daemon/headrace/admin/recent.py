"""
What a process remembers for who looks: levels and marks (bins.py), waits by caller, the calls that ended last.

It listens where metrics listen, to all outcomes but those of kept answers, so a hit costs nothing here. All of it is bounded,
and gone with the process; of calls it has what the log has, and never a word of what was asked or answered.
"""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headrace.admin.bins import LIMITED, MOST_BUCKETS, REFUSED, UNKNOWN, Bins
from headrace.clock import Clock
from headrace.errors import AttemptFailed
from headrace.few import Few
from headrace.model import Errand
from headrace.outcome import LEFT, Outcome
from headrace.owner import name_in
from headrace.schedule import Schedule

SAMPLE_S = 2.0
MOST_CALLERS = 200
MOST_CALLS, MOST_NOTABLE = 200, 100

WAIT_BOUNDS: tuple[float, ...] = tuple(0.001 * float(1 << power) for power in range(21))
"""Upper bounds (s) of what waits are counted by: a millisecond to a quarter of an hour, and one for all above."""

_SLICE_S, _SLICES = 50.0, 6
_SLOW_S = 2.0  # from here on a call is kept longer than those that went well
_LIMITED = frozenset({429, 529})


@dataclass(slots=True)
class _Slice:
    begins: float
    waits: dict[str, list[int]]
    limited: dict[str, int]


@dataclass(frozen=True, slots=True)
class RecentStats:
    """How many calls are remembered, and of how many callers it is known how they waited."""

    calls: int
    callers: int


class Recent:
    """
    Remembers. Run `keep` as a task.

    Args:
        class_of: returns the class of a model.
    """

    def __init__(self, clock: Clock, schedule: Schedule, class_of: Callable[[str], str]) -> None:
        self.bins = Bins()
        self._clock = clock
        self._schedule = schedule
        self._class_of = class_of
        self._slices: deque[_Slice] = deque(maxlen=_SLICES)
        self._callers, self._classes = Few(MOST_CALLERS), Few(MOST_CALLERS)
        self._calls: deque[Outcome] = deque(maxlen=MOST_CALLS)
        self._notable: deque[Outcome] = deque(maxlen=MOST_NOTABLE)

    def __repr__(self) -> str:
        return f"<Recent [{self.stats().calls} calls]>"

    def stats(self) -> RecentStats:
        """Return how much is remembered."""
        return RecentStats(len(self._calls) + len(self._notable), len({name for each in self._slices for name in each.waits}))

    async def keep(self) -> None:
        """Look at the levels every other second, until cancelled."""
        while True:
            self.bins.sample(self._clock.now(), self._levels())
            await self._clock.sleep(SAMPLE_S)

    def _levels(self) -> dict[str, int]:
        now, known = self._clock.now(), self._schedule.known
        wants = itertools.islice(self._schedule.limits.known(now).values(), MOST_BUCKETS)
        levels = {want.bucket_id: (known.left(want, now), want.capacity) for want in wants}
        return {bucket: percent(capacity - left, capacity) for bucket, (left, capacity) in levels.items() if left is not None}

    def heed(self, outcome: Outcome) -> None:
        """Take in what came of a call that was answered by no kept answer."""
        now, caller = self._clock.now(), self._callers.of(name_in(outcome.caller))
        if outcome.reason not in ("", LEFT) and outcome.limit and not outcome.status:
            self.bins.mark(now, REFUSED, limit=outcome.limit, caller=caller, model_class=self._class(outcome.model))
        if not outcome.endpoint:
            return
        if outcome.attempts or outcome.waited_s:
            waits = self._slice(now).waits.setdefault(caller, [0] * (len(WAIT_BOUNDS) + 1))
            waits[bisect.bisect_left(WAIT_BOUNDS, outcome.waited_s)] += 1
        is_notable = outcome.took_s >= _SLOW_S or outcome.attempts > 1 or outcome.reason not in ("", LEFT)
        (self._notable if is_notable else self._calls).append(outcome)

    def failed(self, call: Errand, failed: AttemptFailed) -> None:
        """Take in a failed attempt."""
        if failed.error.status not in _LIMITED:
            return
        now, caller = self._clock.now(), self._callers.of(call.caller.name)
        limited = self._slice(now).limited
        limited[caller] = limited.get(caller, 0) + 1
        if failed.error.status == 429:
            self.bins.mark(now, LIMITED, caller=caller, model_class=self._class(call.model))

    def _class(self, model: str) -> str:
        return self._classes.of(self._class_of(model))

    def _slice(self, now: float) -> _Slice:
        if not self._slices or now - self._slices[-1].begins >= _SLICE_S:
            self._slices.append(_Slice(now, {}, {}))
        return self._slices[-1]

    def _live(self) -> Iterator[_Slice]:
        oldest = self._clock.now() - _SLICE_S * _SLICES
        return (each for each in self._slices if each.begins >= oldest)

    def waits(self) -> dict[str, list[int]]:
        """Return how callers waited in the last five minutes: counts by `WAIT_BOUNDS`."""
        sums: dict[str, list[int]] = {}
        for each in self._live():
            for caller, counts in each.waits.items():
                sums[caller] = [one + two for one, two in zip(sums.get(caller, [0] * len(counts)), counts, strict=True)]
        return sums

    def limited(self) -> dict[str, int]:
        """Return how often upstream said 429 or 529 to callers in the last five minutes."""
        sums: dict[str, int] = {}
        for each in self._live():
            for caller, count in each.limited.items():
                sums[caller] = sums.get(caller, 0) + count
        return sums

    def calls(self) -> list[Outcome]:
        """Return the calls that ended last, and those before them that were slow, tried again or refused; the latest first."""
        return sorted((*self._calls, *self._notable), key=lambda each: each.began + each.took_s, reverse=True)

    def named(self, name: str) -> list[Outcome]:
        """Return the calls that are known by this id: ours, upstream's, or a ticket's."""
        return [each for each in self.calls() if name in (each.id, each.request_id, each.ticket)]


def percent(part: int, whole: int) -> int:
    """Return a share in percent, within bounds that a picture can show."""
    return max(0, min(999, round(100 * part / whole))) if whole else UNKNOWN


def quantile(counts: list[int], share: float) -> float | None:
    """Return the wait (s) that so large a share of calls did not exceed, by counts as `Recent.waits` has them; None of none."""
    wanted: float = sum(counts) * share
    bounds: tuple[float, ...] = (*WAIT_BOUNDS, WAIT_BOUNDS[-1] * 2)
    if not wanted:
        return None
    seen = 0
    for at, count in enumerate(counts):
        if seen + count >= wanted:
            low = bounds[at - 1] if at else 0.0
            return low + (bounds[at] - low) * (wanted - seen) / count
        seen += count
    return bounds[-1]
