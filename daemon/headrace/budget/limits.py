"""
Limits: the rules of the configuration, and the buckets that a call draws from under them.

A limit matches calls by globs and owns one bucket for each distinct value of what its `per` names, and of each kind that it
bounds: requests, input tokens, output tokens, concurrency. All that a call wants goes to the ledger as one list, and is
granted as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from headrace.budget.bucket import MAX_UNITS, UNITS
from headrace.budget.estimate import Estimate
from headrace.budget.want import Form, Kind, OnRedisLoss, Want
from headrace.endpoints import named
from headrace.model import Caller, Lane

_DIMENSIONS = ("caller", "model", "lane")
_TOKENS = ("input_tokens", "output_tokens")
_MEMO = 4096
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class Payer(Protocol):
    """What decides which buckets a call draws from."""

    @property
    def caller(self) -> Caller: ...
    @property
    def model(self) -> str: ...
    @property
    def lane(self) -> Lane: ...
    @property
    def endpoint(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Match:
    """Globs; a limit holds for the calls that match all of them."""

    model: str = "*"
    caller: str = "*"
    lane: str = "*"
    endpoint: str = ""  # "": those that use a model's tokens

    def fits(self, model: str, caller: str, lane: str, endpoint: str) -> bool:
        return (
            fnmatchcase(model, self.model)
            and fnmatchcase(caller, self.caller)
            and fnmatchcase(lane, self.lane)
            and (fnmatchcase(endpoint, self.endpoint) if self.endpoint else named(endpoint).is_metered)
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """
    One `[[limit]]` of the configuration.

    Args:
        per: one bucket for each distinct value of these (caller, model, lane); none: one bucket for all.
        burst_s: a rate bucket holds what flows in during so long.
        on_redis_loss: wait for Redis and refuse (closed), let calls pass (open), or spend this host's part (share).
    """

    name: str
    match: Match = Match()
    per: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    concurrency: int | None = None
    burst_s: float = 60.0
    on_redis_loss: OnRedisLoss = "closed"

    @property
    def rates(self) -> tuple[tuple[Kind, int], ...]:
        """The rates that it bounds, per minute."""
        rates: tuple[tuple[Kind, int | None], ...] = (
            ("requests", self.requests_per_minute),
            ("input_tokens", self.input_tokens_per_minute),
            ("output_tokens", self.output_tokens_per_minute),
        )
        return tuple((kind, rate) for kind, rate in rates if rate is not None)

    def capacity(self, rate_per_minute: int) -> int:
        """Return how many whole tokens a bucket of this rate holds."""
        # The small addition undoes what binary fractions lose: 0.1 s of 600 a minute is 1, not 0.
        return math.floor(rate_per_minute * self.burst_s / 60 + 1e-9)


def validate(limit: Limit) -> None:
    """Raise ValueError, with what would be right, unless the limit can be kept."""
    if not _PLAIN.match(limit.name):
        raise ValueError(f"name {limit.name!r}: use 1 to 64 letters, digits, dots, dashes or underscores")
    if limit.on_redis_loss not in ("closed", "open", "share"):
        raise ValueError(f"on_redis_loss {limit.on_redis_loss!r}: use closed, open or share")
    if unknown := set(limit.per) - set(_DIMENSIONS):
        raise ValueError(f"per {sorted(unknown)[0]!r}: use any of {', '.join(_DIMENSIONS)}")
    if not limit.rates and limit.concurrency is None:
        raise ValueError(
            "bounds nothing: set requests_per_minute, input_tokens_per_minute, output_tokens_per_minute or concurrency"
        )
    if limit.concurrency is not None and limit.concurrency < 1:
        raise ValueError(f"concurrency {limit.concurrency}: at least 1, or no call could ever run")
    if not 0 < limit.burst_s < math.inf:
        raise ValueError(f"burst {limit.burst_s:g}s: more than 0")
    for kind, rate in limit.rates:
        _validate_rate(limit, kind, rate)


def _validate_rate(limit: Limit, kind: Kind, rate: int) -> None:
    key = f"{kind}_per_minute"
    if rate < 1:
        raise ValueError(f"{key} {rate}: at least 1, or no call could ever run")
    largest_burst_s = MAX_UNITS // UNITS * 60 // rate
    if largest_burst_s < 1:
        raise ValueError(f"{key} {rate}: at most {MAX_UNITS // UNITS * 60}, past which tokens could not be counted exactly")
    capacity = limit.capacity(rate)
    if capacity * UNITS > MAX_UNITS:
        raise ValueError(
            f"{key} {rate} with burst {limit.burst_s:g}s: more than can be counted exactly; "
            f"use a burst of at most {largest_burst_s}s"
        )
    if capacity < 1:
        smallest_burst_s = math.ceil(60_000 / rate) / 1000
        raise ValueError(
            f"{key} {rate} with burst {limit.burst_s:g}s: a bucket that holds less than 1 grants nothing; "
            f"use a burst of at least {smallest_burst_s:g}s"
        )


class Limits:
    """All the limits; says which buckets a call draws from."""

    def __init__(self, limits: Sequence[Limit] = ()) -> None:
        for limit in limits:
            validate(limit)
        names = [limit.name for limit in limits]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"name {twice[0]!r}: two limits have it, and would share their buckets")
        self._limits = tuple(limits)
        self._memo: dict[tuple[str, str, str, str], tuple[Want, ...]] = {}

    def __repr__(self) -> str:
        return f"<Limits [{', '.join(limit.name for limit in self._limits)}]>"

    def __bool__(self) -> bool:
        return bool(self._limits)

    def buckets(self, call: Payer, now: float) -> tuple[Want, ...]:
        """
        Return the buckets that a call draws from at this moment, each with the cost that is the same for all calls.

        Equal calls are given one and the same tuple, for as long as it holds.
        """
        key = (call.model, call.caller.name, call.lane.value, call.endpoint)
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) >= _MEMO:  # model names are the callers' free text
                self._memo.clear()
            found = self._memo[key] = tuple(
                want
                for limit in self._limits
                if limit.match.fits(*key)
                for want in _buckets_of(limit, *key[:3])
                if want.kind not in _TOKENS or named(call.endpoint).is_metered
            )
        return found

    def wants(self, call: Payer, estimate: Estimate, now: float) -> tuple[Want, ...]:
        """
        Return what a call wants of each bucket.

        An estimate over a bucket's capacity is cut to it: such a call waits for a full bucket and leaves debt. But an input
        that is surely over the capacity stays as it is, and is refused for good.
        """
        return tuple(_with_cost(want, estimate) for want in self.buckets(call, now))


def _with_cost(want: Want, estimate: Estimate) -> Want:
    if want.kind == "input_tokens":
        return want.at(max(min(estimate.input_tokens, want.capacity), estimate.input_floor))
    if want.kind == "output_tokens":
        return want.at(min(estimate.output_tokens, want.capacity))
    return want


def _buckets_of(limit: Limit, model: str, caller: str, lane: str) -> list[Want]:
    values = {"caller": caller, "model": model, "lane": lane}
    # In one fixed order, so that turning `per` round in the file keeps the buckets.
    who = "".join(f":{name}={_safe(values[name])}" for name in _DIMENSIONS if name in limit.per)
    wants = [
        Want(f"{limit.name}:{kind}{who}", limit.name, kind, Form.RATE, rate, limit.capacity(rate), 1, limit.on_redis_loss)
        for kind, rate in limit.rates
    ]
    if limit.concurrency is not None:
        bucket_id = f"{limit.name}:concurrency{who}"
        wants.append(Want(bucket_id, limit.name, "concurrency", Form.PERMIT, 0, limit.concurrency, 1, limit.on_redis_loss))
    return wants


def _safe(value: str) -> str:
    # A key of bounded length without odd characters; the tilde keeps hashes apart from plain values.
    if _PLAIN.match(value):
        return value
    return "~" + hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:24]
