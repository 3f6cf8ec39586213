"""
One limit: a rule of the configuration, and whether it can be kept.

It bounds any of the kinds: requests and tokens by the minute, calls in the air, and spend by the day or the month.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from headrace.budget.bucket import MAX_UNITS, UNITS
from headrace.budget.calendar import Span, zone_of
from headrace.budget.matching import ANY, DIMENSIONS, LABEL, Match
from headrace.budget.want import NANO_USD, Kind, OnRedisLoss

Estimates = Literal["learned", "counted", "ceiling"]

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_BOUNDS = (
    "requests_per_minute, input_tokens_per_minute, output_tokens_per_minute, total_tokens_per_minute, concurrency, "
    "spend_per_day or spend_per_month"
)


@dataclass(frozen=True, slots=True)
class Limit:
    """
    One `[[limit]]` of the configuration.

    Args:
        per: one bucket for each distinct value of these; none: one bucket for all.
        spend_per_day, spend_per_month: in USD.
        zone: in which days and months begin at midnight.
        burst_s: a rate bucket holds what flows in during so long.
        cache_read_weight: what input that upstream's prompt cache had counts as, from 0 to 1; upstream's own limits: 0.
        estimate: what is reserved: what such calls used before; the same, but input as upstream counts it; or what this one
            cannot use more than.
        shadow: decide and count, but enforce nothing.
        on_redis_loss: wait for Redis and refuse (closed), let calls pass (open), or spend this host's part (share).
    """

    name: str
    match: Match = ANY
    per: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    concurrency: int | None = None
    total_tokens_per_minute: int | None = None
    spend_per_day: float | None = None
    spend_per_month: float | None = None
    zone: str = "UTC"
    burst_s: float = 60.0
    cache_read_weight: float = 0.0
    estimate: Estimates = "learned"
    shadow: bool = False
    on_redis_loss: OnRedisLoss = "closed"

    @property
    def rates(self) -> tuple[tuple[Kind, int], ...]:
        """The rates that it bounds, per minute."""
        rates: tuple[tuple[Kind, int | None], ...] = (
            ("requests", self.requests_per_minute),
            ("input_tokens", self.input_tokens_per_minute),
            ("output_tokens", self.output_tokens_per_minute),
            ("total_tokens", self.total_tokens_per_minute),
        )
        return tuple((kind, rate) for kind, rate in rates if rate is not None)

    @property
    def windows(self) -> tuple[tuple[Span, int], ...]:
        """The windows that it bounds spend in, with what may be spent in each, in nano-USD."""
        amounts: tuple[tuple[Span, float | None], ...] = (("day", self.spend_per_day), ("month", self.spend_per_month))
        return tuple((span, round(amount * NANO_USD)) for span, amount in amounts if amount is not None)

    @property
    def is_upstreams(self) -> bool:
        """
        Whether its buckets stand for all that the organisation has upstream, so that upstream's word lowers them.

        That is so if it tells calls apart by nothing but their models, and counts as upstream does.
        """
        is_whole = self.match == Match(model=self.match.model, model_class=self.match.model_class)
        return is_whole and set(self.per) <= {"model", "class"} and not self.shadow and not self.cache_read_weight

    def capacity(self, rate_per_minute: int) -> int:
        """Return how many whole tokens a bucket of this rate holds."""
        # The small addition undoes what binary fractions lose: 0.1 s of 600 a minute is 1, not 0.
        return math.floor(rate_per_minute * self.burst_s / 60 + 1e-9)


def validate(limit: Limit) -> None:
    """Raise ValueError, with what would be right, unless the limit can be kept."""
    for problem in _problems(limit):
        raise ValueError(problem)


def _problems(limit: Limit) -> Iterator[str]:
    if not _PLAIN.match(limit.name):
        yield f"name {limit.name!r}: use 1 to 64 letters, digits, dots, dashes or underscores"
    if limit.on_redis_loss not in ("closed", "open", "share"):
        yield f"on_redis_loss {limit.on_redis_loss!r}: use closed, open or share"
    yield from _problems_of_estimate(limit)
    for name in sorted(set(limit.per) - set(DIMENSIONS)):
        if not name.startswith(LABEL):
            yield f"per {name!r}: use any of {', '.join(DIMENSIONS)}, {LABEL}NAME"
    if not limit.rates and not limit.windows and limit.concurrency is None:
        yield f"bounds nothing: set {_BOUNDS}"
    if limit.concurrency is not None and limit.concurrency < 1:
        yield f"concurrency {limit.concurrency}: at least 1, or no call could ever run"
    if not 0 < limit.burst_s < math.inf:
        yield f"burst {limit.burst_s:g}s: more than 0"
    if not 0 <= limit.cache_read_weight <= 1:
        yield f"cache_read_weight {limit.cache_read_weight:g}: from 0 to 1"
    for kind, rate in limit.rates:
        yield from _problems_of_rate(limit, kind, rate)
    yield from _problems_of_windows(limit)


def _problems_of_estimate(limit: Limit) -> Iterator[str]:
    if limit.estimate not in get_args(Estimates):
        yield f"estimate {limit.estimate!r}: use learned, counted or ceiling"
    bounds_input = limit.windows or {"input_tokens", "total_tokens"} & {kind for kind, _ in limit.rates}
    if limit.estimate == "counted" and not bounds_input:
        yield (
            "estimate 'counted': it is input that upstream counts, and this limit bounds none; use learned, or set "
            "input_tokens_per_minute, total_tokens_per_minute, spend_per_day or spend_per_month"
        )


def _problems_of_rate(limit: Limit, kind: Kind, rate: int) -> Iterator[str]:
    key = f"{kind}_per_minute"
    if rate < 1:
        yield f"{key} {rate}: at least 1, or no call could ever run"
    largest_burst_s = MAX_UNITS // UNITS * 60 // rate
    if largest_burst_s < 1:
        yield f"{key} {rate}: at most {MAX_UNITS // UNITS * 60}, past which tokens could not be counted exactly"
    capacity = limit.capacity(rate)
    if capacity * UNITS > MAX_UNITS:
        yield (
            f"{key} {rate} with burst {limit.burst_s:g}s: more than can be counted exactly; "
            f"use a burst of at most {largest_burst_s}s"
        )
    if capacity < 1:
        smallest_burst_s = math.ceil(60_000 / rate) / 1000
        yield (
            f"{key} {rate} with burst {limit.burst_s:g}s: a bucket that holds less than 1 grants nothing; "
            f"use a burst of at least {smallest_burst_s:g}s"
        )


def _problems_of_windows(limit: Limit) -> Iterator[str]:
    for span, amount in (("day", limit.spend_per_day), ("month", limit.spend_per_month)):
        if amount is not None and not 1 <= amount * NANO_USD <= MAX_UNITS:
            yield f"spend_per_{span} {amount:g}: more than 0 and at most {MAX_UNITS // NANO_USD} USD"
    try:
        zone_of(limit.zone)
    except ValueError:
        yield f'zone {limit.zone!r}: use a name of the tz database that this machine knows, such as "UTC" or "Europe/Berlin"'
