"""
Rate limits as upstream enforces them: token buckets for each model class, and the headers that report them.

Input is charged at the start, output while it is produced, so an answer can overdraw the output bucket; the debt delays those
who come next. A call is taken by all buckets or by none. The arithmetic is in whole numbers: a part is 1/60,000,000,000 of a
token, so a bucket of r tokens a minute gains exactly r parts a nanosecond, and a wait is exactly long enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil

from headrace.simulator.classes import model_class
from headrace.simulator.options import Options
from headrace.simulator.refusals import Refused

_PARTS = 60_000_000_000
_SECOND_NS = 1_000_000_000


class Bucket:
    """A token bucket that starts full. Time is handed in, in nanoseconds of any steady clock."""

    def __init__(self, rate_per_minute: int, burst_s: float, now_ns: int) -> None:
        self.rate = rate_per_minute
        self.capacity = max(1, int(rate_per_minute * burst_s / 60))
        self._full = self.capacity * _PARTS
        self._level = self._full
        self._at_ns = now_ns

    def __repr__(self) -> str:
        return f"<Bucket [{self._level / _PARTS:.1f} of {self.capacity}, {self.rate} a minute]>"

    def wait_ns(self, cost: int, now_ns: int) -> int:
        """Return how long until *cost* fits, 0 if it does now. More than the capacity never fits: the wait is until full."""
        self._refill(now_ns)
        missing = min(cost * _PARTS, self._full) - self._level
        if cost > self.capacity:
            missing = max(missing, self.rate * _SECOND_NS)
        return max(0, -(-missing // self.rate))

    def take(self, cost: int, now_ns: int) -> None:
        """Take *cost*, into debt if need be."""
        self._refill(now_ns)
        self._level -= cost * _PARTS

    def left(self, now_ns: int) -> int:
        self._refill(now_ns)
        return max(0, self._level // _PARTS)

    def full_in_s(self, now_ns: int) -> float:
        self._refill(now_ns)
        return (self._full - self._level) / self.rate / _SECOND_NS

    def _refill(self, now_ns: int) -> None:
        self._level = min(self._full, self._level + (now_ns - self._at_ns) * self.rate)
        self._at_ns = now_ns


@dataclass(slots=True)
class _Class:
    """The buckets of one model class, by kind, and its calls in the air."""

    buckets: dict[str, Bucket] = field(default_factory=dict)
    running: int = 0


class Limits:
    """The limits of all model classes."""

    def __init__(self, options: Options, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        rates = {
            "requests": options.requests_per_minute,
            "input-tokens": options.input_tokens_per_minute,
            "output-tokens": options.output_tokens_per_minute,
        }
        self._rates = {kind: rate for kind, rate in rates.items() if rate}
        self._burst_s = options.burst_s
        self._concurrency = options.concurrency
        self._clock_ns = clock_ns
        self._classes: dict[str, _Class] = {}

    def __repr__(self) -> str:
        return f"<Limits [{len(self._classes)} classes, {sum(state.running for state in self._classes.values())} calls]>"

    def reset(self) -> None:
        """Fill all buckets; calls in the air still count against the concurrency."""
        for state in self._classes.values():
            state.buckets = self._full_buckets()

    def enter(self, model: str, input_tokens: int) -> None:
        """Charge a call's request and input, and count it as running until `leave`; or raise the 429 it gets."""
        state, now_ns = self._state(model), self._clock_ns()
        # Output is charged as it comes: all that can be asked beforehand is that the bucket is not empty.
        costs = {"requests": 1, "input-tokens": input_tokens, "output-tokens": 1}
        waits = {kind: bucket.wait_ns(costs[kind], now_ns) for kind, bucket in state.buckets.items()}
        if any(waits.values()):
            kind = max(waits, key=lambda kind: waits[kind])
            limit = f"{self._rates[kind]:,} {kind.replace('-', ' ')} per minute (model: {model})"
            raise _limited(f"This request would exceed your organization's rate limit of {limit}.", waits[kind] / _SECOND_NS)
        if self._concurrency and state.running >= self._concurrency:
            raise _limited("Number of concurrent connections has exceeded your rate limit.", 1)
        for kind in state.buckets.keys() - {"output-tokens"}:
            state.buckets[kind].take(costs[kind], now_ns)
        state.running += 1

    def produced(self, model: str, output_tokens: int) -> None:
        """Charge output that has just been produced."""
        if bucket := self._state(model).buckets.get("output-tokens"):
            bucket.take(output_tokens, self._clock_ns())

    def running(self, model: str) -> int:
        """Return how many calls of its class are in the air."""
        return self._state(model).running

    def leave(self, model: str) -> None:
        self._state(model).running -= 1

    def headers(self, model: str) -> dict[str, str]:
        """
        Report what is left, as `anthropic-ratelimit-*`.

        Tokens are rounded to thousands, and `tokens` is the sum of input and output, as upstream documents it.
        """
        if not self._rates:
            return {}
        buckets, now_ns = self._state(model).buckets, self._clock_ns()
        said: dict[str, str] = {}
        for kind, bucket in buckets.items():
            left = bucket.left(now_ns)
            _say(said, kind, bucket.rate, left if kind == "requests" else round(left, -3), bucket.full_in_s(now_ns))
        both = [buckets[kind] for kind in ("input-tokens", "output-tokens") if kind in buckets]
        if both:
            left = round(sum(bucket.left(now_ns) for bucket in both), -3)
            _say(said, "tokens", sum(b.rate for b in both), left, max(b.full_in_s(now_ns) for b in both))
        return said

    def _state(self, model: str) -> _Class:
        name = model_class(model)
        state = self._classes.get(name)
        if state is None:
            state = self._classes[name] = _Class(self._full_buckets())
        return state

    def _full_buckets(self) -> dict[str, Bucket]:
        now_ns = self._clock_ns()
        return {kind: Bucket(rate, self._burst_s, now_ns) for kind, rate in self._rates.items()}


def _limited(message: str, wait_s: float) -> Refused:
    # Whole seconds, as upstream sends them; rounded up, so that waiting is always enough.
    return Refused(429, "rate_limit_error", message, outcome="limited", headers={"retry-after": str(max(1, ceil(wait_s)))})


def _say(said: dict[str, str], kind: str, limit: int, left: int, full_in_s: float) -> None:
    reset = datetime.fromtimestamp(ceil(time.time() + full_in_s), UTC)
    said[f"anthropic-ratelimit-{kind}-limit"] = str(limit)
    said[f"anthropic-ratelimit-{kind}-remaining"] = str(left)
    said[f"anthropic-ratelimit-{kind}-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
