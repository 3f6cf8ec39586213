"""
What came of a rehearsal, while it goes on: waits and refusals by caller and lane, and by slices of time what each bucket gave.

Everything is a number in a list: a million calls are some megabytes. Moments are in microseconds.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict

from headrace.budget.want import Want
from headrace.rehearse.lines import Line

SLICES = 120
_SHORTEST_US = 100_000

Key = tuple[str, str]  # caller and lane


class Flows:
    """What came of the calls of one caller in one lane."""

    __slots__ = ("input_tokens", "output_tokens", "refused", "waits_us")

    def __init__(self) -> None:
        self.waits_us = array("q")
        self.refused: Counter[str] = Counter()
        self.input_tokens = self.output_tokens = 0


class Series:
    """
    What one bucket gave, slice by slice: tokens (below zero: more came back than was taken), or permits times microseconds.
    """

    __slots__ = ("_at_us", "_in_use", "slices", "want")

    def __init__(self, want: Want) -> None:
        self.want = want
        self.slices: list[int] = []
        self._at_us = self._in_use = 0

    def add(self, index: int, amount: int) -> None:
        """Add to a slice."""
        slices = self.slices
        while len(slices) <= index:
            slices.append(0)
        slices[index] += amount

    def lend(self, permits: int, since_us: int, slice_us: int) -> None:
        """So many permits more are in use from a moment on (us since the beginning); below zero: less."""
        at_us = self._at_us
        while at_us < since_us:
            until_us = min(since_us, (at_us // slice_us + 1) * slice_us)
            self.add(at_us // slice_us, self._in_use * (until_us - at_us))
            at_us = until_us
        self._at_us, self._in_use = since_us, self._in_use + permits


class Tally:
    """All of it. *begins_us* and *ends_us* are the first and the last arrival; what comes later has slices, too."""

    def __init__(self, begins_us: int, ends_us: int) -> None:
        self.begins_us = begins_us
        self.slice_us = max(_SHORTEST_US, -(-(ends_us - begins_us) // SLICES))
        self.flows: dict[Key, Flows] = defaultdict(Flows)
        self.series: dict[str, Series] = {}
        self.waiting: dict[str, list[int]] = defaultdict(list)  # the most that waited in each slice, by lane
        self.shadows: Counter[tuple[str, str]] = Counter()  # limit and decision
        self._now_waiting: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Tally [{sum(len(flow.waits_us) for flow in self.flows.values())} granted, {len(self.series)} buckets]>"

    def slice(self, now_us: int) -> int:
        """Return the number of the slice that a moment is in."""
        return (now_us - self.begins_us) // self.slice_us

    def began(self, key: Key, wait_us: int) -> None:
        """A call goes upstream."""
        self.flows[key].waits_us.append(wait_us)

    def used(self, key: Key, input_tokens: int, output_tokens: int) -> None:
        """A call has ended."""
        flow = self.flows[key]
        flow.input_tokens += input_tokens
        flow.output_tokens += output_tokens

    def refused(self, key: Key, why: str) -> None:
        """A call is refused."""
        self.flows[key].refused[why] += 1

    def waits(self, lane: str, more: int, now_us: int) -> None:
        """So many calls more wait in a lane."""
        most, index = self.waiting[lane], self.slice(now_us)
        while len(most) <= index:
            most.append(self._now_waiting[lane])
        self._now_waiting[lane] += more
        most[index] = max(most[index], self._now_waiting[lane])

    def took(self, line: Line, tokens: int, now_us: int) -> None:
        """A bucket gave so much; below zero: had it back."""
        want = line.want
        series = self.series.get(want.bucket_id)
        if series is None:
            series = self.series[want.bucket_id] = Series(want)
        if line.bucket is None:
            series.lend(tokens, now_us - self.begins_us, self.slice_us)
        else:
            series.add((now_us - self.begins_us) // self.slice_us, tokens)
