"""
Adds up what attempts spent and what calls came to, in cells: one for each minute and each `Who`. Pure, and of bounded memory.

Tokens and cost come from attempts (`Spent`), each told once, whoever it served; calls, waits and savings come from outcomes.
What a kept or a shared answer saved is what it would have cost to ask again: the usage that stands beside the answer.

A hit costs one addition in a dict: hits of one answer are counted by the answer, and become figures when somebody takes them.
What is more than the bound goes under `OTHER`, and what nobody takes for an hour runs together in fewer minutes: figures may
lose their names and their minute, but none is ever lost.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from headrace import codec
from headrace.model import Usage
from headrace.outcome import LEFT, Outcome, Spent
from headrace.prices import Prices

FIELDS = (
    "calls_upstream", "calls_shared", "calls_cache", "calls_stale", "calls_refused", "calls_failed", "calls_left",
    "attempts", "attempts_failed", "attempts_untold",
    "input", "cache_write_5m", "cache_write_1h", "cache_read", "output", "cost", "unpriced",
    "kept_input", "kept_output", "kept_cost", "shared_input", "shared_output", "shared_cost",
    "waited_ms", "took_ms",
)  # fmt: skip
"""The figures of a cell, in the order in which they are written. New ones go to the end: what is kept has the older ones."""

AT = {name: index for index, name in enumerate(FIELDS)}
_ATTEMPTS, _FAILED, _UNTOLD, _INPUT, _COST = (
    AT[name] for name in ("attempts", "attempts_failed", "attempts_untold", "input", "cost")
)
MINUTE_S = 60

_LONGEST = 100
_MOST = 2**53  # of one figure
_CELLS = 500
_MINUTES = 60
_ANSWERS = 1024  # so that making figures of them is soon done


class Who(NamedTuple):
    """Whom and what figures are of. `labels` as "env=prod,feature=search", by name."""

    caller: str
    team: str = ""
    model: str = ""
    lane: str = ""
    labels: str = ""


OTHER = Who("(other)", model="(other)")  # no caller can be called so

Cell = tuple[int, Who, Sequence[int]]
"""The minute (since 1970), whose, and the figures by `FIELDS`."""


@dataclass(frozen=True, slots=True)
class TallyStats:
    """How many cells wait to be taken, of how many minutes."""

    cells: int
    minutes: int


class Tally:
    """
    The figures that nobody has taken yet.

    Args:
        cells: of a minute; what is beyond goes under `OTHER`.
        minutes: before the oldest two become one.
    """

    def __init__(self, prices: Prices, *, cells: int = _CELLS, minutes: int = _MINUTES) -> None:
        self.prices = prices
        self._most_cells = cells
        self._most_minutes = minutes
        self._minutes: dict[int, dict[Who, list[int]]] = {}
        self._hits: dict[tuple[str, str, str, str, int], list[object]] = {}

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Tally [{stats.cells} cells, {stats.minutes} minutes]>"

    def stats(self) -> TallyStats:
        """Return how much waits to be taken."""
        return TallyStats(sum(map(len, self._minutes.values())), len(self._minutes))

    # In.

    def heed(self, outcome: Outcome) -> None:
        """Take in what came of a call."""
        if outcome.source == "cache" and not outcome.reason:
            # By the answer's usage, which its entry holds on to, as the outcome here does until it is counted.
            key = (outcome.caller, outcome.lane, outcome.model, outcome.labels, id(outcome.usage))
            if (hits := self._hits.get(key)) is not None:
                hits[0] += 1  # type: ignore[operator]  # a pair that changes
                return
            if len(self._hits) >= _ANSWERS:
                self._count_hits()
            self._hits[key] = [1, outcome]
        else:
            self._count(outcome, 1)

    def spend(self, spent: Spent) -> None:
        """Take in what an attempt came to."""
        cell = self._cell(spent.at, _who(spent))
        cell[_ATTEMPTS] += spent.requests
        cell[_FAILED] += spent.requests * (not spent.is_whole)
        cell[_UNTOLD] += spent.requests * spent.is_untold
        for at, tokens in enumerate(classes(spent.usage), _INPUT):
            cell[at] += tokens
        cost = self.prices.cost(spent.model, spent.usage, requests=spent.requests)
        if cost is None:
            cell[AT["unpriced"]] += total(spent.usage)
        else:
            cell[_COST] += cost

    def _count_hits(self) -> None:
        hits, self._hits = self._hits, {}
        for count, outcome in hits.values():
            self._count(outcome, count)  # type: ignore[arg-type]  # the same pair

    def _count(self, outcome: Outcome, count: int) -> None:
        cell = self._cell(outcome.began + outcome.took_s, _who(outcome))
        cell[AT[f"calls_{_end(outcome)}"]] += count
        cell[AT["waited_ms"]] += round(1000 * outcome.waited_s) * count
        cell[AT["took_ms"]] += round(1000 * outcome.took_s) * count
        if outcome.cost_class in ("kept", "shared"):
            usage, how = outcome.usage, outcome.cost_class
            cell[AT[f"{how}_input"]] += (total(usage) - usage.output_tokens) * count
            cell[AT[f"{how}_output"]] += usage.output_tokens * count
            cell[AT[f"{how}_cost"]] += (self.prices.cost(outcome.model, usage) or 0) * count

    def _cell(self, at: float, who: Who) -> list[int]:
        minute = int(at // MINUTE_S)
        cell = self._minutes[minute].get(who) if minute in self._minutes else None
        return self._new_cell(minute, who) if cell is None else cell

    def _new_cell(self, minute: int, who: Who) -> list[int]:
        cells = self._minutes.setdefault(minute, {})
        if len(cells) >= self._most_cells:
            who = OTHER
        return cells.setdefault(who, [0] * len(FIELDS))

    # Out.

    def take(self, most: int) -> list[Cell]:
        """Return the figures of the oldest minute, so many cells at most, and forget them; [] if there are none."""
        if not self._minutes:
            return []
        minute = min(self._minutes)
        cells = self._minutes[minute]
        taken: list[Cell] = [(minute, who, cells.pop(who)) for who in list(itertools.islice(cells, most))]
        if not cells:
            del self._minutes[minute]
        return taken

    def settle(self) -> None:
        """Make figures of the hits, and keep to the bound of minutes: once a second, whether they can be taken or not."""
        self._count_hits()
        while len(self._minutes) > self._most_minutes:
            first, second, *_ = sorted(self._minutes)
            for who, cell in self._minutes.pop(first).items():
                add(self._cell(second * MINUTE_S, who), cell)


def add(into: list[int], figures: Iterable[int]) -> None:
    """Add figures to others, one by one; those of an older writer are fewer."""
    for index, figure in enumerate(figures):
        into[index] += figure


def classes(usage: Usage) -> tuple[int, int, int, int, int]:
    """Return tokens by their class, each counted in one of them, in the order of FIELDS from "input" to "output"."""
    for_an_hour = min(usage.cache_creation_1h_input_tokens, usage.cache_creation_input_tokens)
    for_five_minutes = usage.cache_creation_input_tokens - for_an_hour
    return usage.input_tokens, for_five_minutes, for_an_hour, usage.cache_read_input_tokens, usage.output_tokens


def total(usage: Usage) -> int:
    """Return the tokens of all classes."""
    return usage.metered_input_tokens + usage.cache_read_input_tokens + usage.output_tokens


def _end(outcome: Outcome) -> str:
    if outcome.reason == LEFT:
        return "left"
    if outcome.reason:
        return "failed" if outcome.status else "refused"  # upstream's own error, or a no of ours
    return outcome.source or "left"


def _who(told: Outcome | Spent) -> Who:
    return _bounded_who(told.caller, told.team, told.model, told.lane, told.labels)


@functools.lru_cache(1024)
def _bounded_who(caller: str, team: str, model: str, lane: str, labels: str) -> Who:
    # The same few come with every call.
    return Who(caller, team, _bounded(model), str(lane), labels)


def _bounded(text: str) -> str:
    # A model's name is the caller's free text: of any length, and JSON lets half a character through.
    if len(text) <= _LONGEST and text.isascii():
        return text
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode()


def spelled(who: Who) -> bytes:
    """Return a cell's name, as Redis has it."""
    return msgspec.json.encode(who)


def read_figures(text: bytes) -> list[int]:
    """Return the figures of a cell as Redis has them; ValueError if they are none."""
    return [codec.count(figure, _MOST) for figure in text.split()[: len(FIELDS)]]


def read(name: bytes) -> Who:
    """Return the cell that `spelled` made this name of; ValueError if it did not."""
    return codec.decode(name, Who)
