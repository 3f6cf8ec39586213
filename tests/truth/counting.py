"""
What the simulator's log of arrivals says. Pure: from calls to figures, and nothing that a daemon says of itself.

Times are in seconds since the epoch, as the simulator took them. A call counts when it comes, with all that it cost: what it
takes later was decided then.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call at the simulator; `mark` is the first word of its prompt, `name` the second: who asks, and which call it is."""

    at: float
    took_s: float
    status: int
    mark: str
    name: str
    key: str
    input_tokens: int
    output_tokens: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Arrival:
        mark, name, *_ = (*told["text"].split(" ", 2), "", "")
        return cls(told["at_unix"], told["took_s"], told["status"], mark, name, told["key"], told["input_tokens"],
                   told["output_tokens"])  # fmt: skip

    def cost(self, kind: str) -> int:
        """Return what it took of a kind: requests, input_tokens or output_tokens; nothing if it was refused."""
        if not self.input_tokens:
            return 0
        return 1 if kind == "requests" else int(getattr(self, kind))


Span = tuple[float, float]
KINDS = ("requests", "input_tokens", "output_tokens")


def within(arrivals: Iterable[Arrival], span: Span) -> list[Arrival]:
    return [arrival for arrival in arrivals if span[0] <= arrival.at < span[1]]


def refused(arrivals: Sequence[Arrival]) -> float:
    """Return the share of attempts that met a 429."""
    return sum(arrival.status == 429 for arrival in arrivals) / max(1, len(arrivals))


def used(arrivals: Iterable[Arrival], rates: Mapping[str, int], span: Span, without: Sequence[Span] = ()) -> dict[str, float]:
    """Return for each kind what share of its rate (a minute) was used in a span, less the time (and use) of some."""
    minutes = (span[1] - span[0] - sum(end - start for start, end in without)) / 60
    counted = [call for call in within(arrivals, span) if not any(start <= call.at < end for start, end in without)]
    return {kind: sum(call.cost(kind) for call in counted) / (rate * minutes) for kind, rate in rates.items()}


def tokens_by_mark(arrivals: Iterable[Arrival]) -> dict[str, int]:
    """Return what each caller's calls cost in tokens, in and out."""
    sums: dict[str, int] = {}
    for arrival in arrivals:
        sums[arrival.mark] = sums.get(arrival.mark, 0) + arrival.cost("input_tokens") + arrival.cost("output_tokens")
    return sums


def running(arrivals: Iterable[Arrival], span: Span, step_s: float = 0.05) -> list[tuple[float, int]]:
    """Return how many calls were in the air at the simulator, moment by moment."""
    calls = [call for call in arrivals if call.input_tokens]
    starts, ends = sorted(call.at for call in calls), sorted(call.at + call.took_s for call in calls)
    moments = [span[0] + step_s * number for number in range(int((span[1] - span[0]) / step_s))]
    return [(at, bisect.bisect_right(starts, at) - bisect.bisect_right(ends, at)) for at in moments]


def longest_under(levels: Sequence[tuple[float, int]], least: float) -> float:
    """Return for how long on end levels were under *least*, in seconds."""
    longest = spell = 0.0
    for (at, level), (later, _) in pairwise(levels):
        spell = spell + later - at if level < least else 0.0
        longest = max(longest, spell)
    return longest


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value that this share of them stay at or under; infinity if there are none."""
    ordered = sorted(values) or [float("inf")]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
