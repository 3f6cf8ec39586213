"""
What a call wants of one bucket: the word that limits, schedule and ledger share. Pure.

A bucket has one of four forms, and everything that it does follows from it:

- rate: flows in at so much a minute, up to the capacity;
- permit: is lent for as long as a call runs, and comes back;
- window: the whole capacity is there when a calendar window begins, and nothing comes until it ends. Its bucket's id carries
  its beginning, so the next window has another bucket;
- gate: is not there, which lets everybody pass, until upstream is overloaded; then see gate.py.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from headrace.budget.bucket import UNITS

Kind = Literal["requests", "input_tokens", "output_tokens", "total_tokens", "concurrency", "spend", "overload"]
OnRedisLoss = Literal["closed", "open", "share"]

NANO_USD = 1_000_000_000  # spend is counted in these
GATE_US = 1000.0  # of one call at a gate: enough to tell weights apart, and less than its buckets take


class Form(StrEnum):
    """How a bucket fills; the value is what the scripts call it."""

    RATE = "r"
    PERMIT = "p"
    WINDOW = "w"
    GATE = "g"


class Want(msgspec.Struct, frozen=True, gc=False):
    """
    What a call wants of one bucket. A cost over the capacity is never granted.

    A struct, since several are made a call, and a frozen dataclass takes ten times as long.

    Args:
        limit: the name of the limit that the bucket belongs to.
        kind: what is counted in it.
        rate_per_minute: how much flows in; 0 unless the form is RATE.
        capacity, cost: in tokens, requests, permits, nano-USD.
        ends_us: when a window ends (Unix microseconds); 0 unless the form is WINDOW.
        is_shadow: decided and counted, but not enforced.
        is_ceiling: what is reserved is surely not too little.
        is_counted: upstream is asked how much input there is, before it is reserved.
        cache_read_weight: what a token that upstream's prompt cache had counts as, of one token of input.
        is_upstreams: the bucket stands for all that the organisation has of a kind upstream, so upstream's word lowers it.
    """

    bucket_id: str
    limit: str
    kind: Kind
    form: Form
    rate_per_minute: int
    capacity: int
    cost: int
    on_redis_loss: OnRedisLoss = "closed"
    ends_us: int = 0
    is_shadow: bool = False
    is_ceiling: bool = False
    cache_read_weight: float = 0.0
    is_upstreams: bool = False
    is_counted: bool = False

    @property
    def span_us(self) -> float:
        """
        How long the bucket takes to give the cost.

        Of permits and windows nobody knows; all of them may come in a second, which is as good as any other guess between calls
        that wait for the same ones. A gate stands before every call, and seldom in its way: what it takes is to tell calls
        apart only where no bucket does.
        """
        if self.form is Form.RATE:
            return self.cost * UNITS / self.rate_per_minute
        if self.form is Form.GATE:
            return GATE_US
        return self.cost / self.capacity * 1e6

    @property
    def figure(self) -> int:
        """The one number by which its form tells how it fills, for the scripts."""
        return self.ends_us if self.form is Form.WINDOW else self.rate_per_minute

    def at(self, cost: int) -> Want:
        """Return the same at another cost."""
        return msgspec.structs.replace(self, cost=cost)

    def worded(self, amount: int) -> str:
        """Return an amount of what is counted here, in words."""
        return f"${amount / NANO_USD:.4f}" if self.kind == "spend" else f"{amount} {self.kind}"
