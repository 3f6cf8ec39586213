"""
What a call costs, bucket by bucket: what it will probably use, and what it did use. Pure.

Tokens count as upstream's limits count them: input is fresh input and what its prompt cache took in, and what the cache had
counts by a weight, mostly none. Spend is what the tokens are worth by a table of prices, in nano-USD; a model without a price
spends nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from headrace.budget.estimate import Estimate
from headrace.budget.want import Want
from headrace.model import Usage

Price = Callable[[str, Usage], int | None]
"""What a model's usage costs in nano-USD; None: nobody knows."""

USES = ("input_tokens", "output_tokens", "total_tokens", "spend")
"""The kinds that depend on what a call uses; the others cost every call the same."""


def no_price(model: str, usage: Usage) -> int | None:
    """Know no prices."""
    return None


class Costs:
    """Says what calls cost by this table of prices."""

    def __init__(self, price: Price = no_price) -> None:
        self._price = price

    def reserved(self, want: Want, model: str, estimate: Estimate) -> Want:
        """
        Return the want with what is to be reserved.

        An estimate over a bucket's capacity is cut to it: such a call waits for a full bucket and leaves debt. But an input
        that is surely over the capacity stays as it is, and is refused for good.
        """
        if want.kind not in USES:
            return want
        if want.kind == "spend":
            likely = self._spend(model, _most(estimate) if want.is_ceiling else _likely(estimate))
            floor = self._spend(model, Usage(estimate.input_floor))
        else:
            likely, floor = _tokens(want, estimate)
        return want.at(max(min(likely, want.capacity), floor))

    def _spend(self, model: str, usage: Usage) -> int:
        return self._price(model, usage) or 0

    def used(self, wants: Sequence[Want], model: str, usage: Usage, estimate: Estimate | None = None) -> dict[str, int]:
        """
        Return what a call used, by bucket id; nothing of what upstream never said.

        A stream that goes on, or broke off, has said what its input comes to, and of its output only what there is so far: then
        it is what was estimated, unless there is more already.
        """
        if usage.known:
            return {want.bucket_id: self._of(want, model, usage) for want in wants if want.kind in USES}
        if estimate is None or not _has_input(usage):
            return {}
        return {want.bucket_id: self._so_far(want, model, usage, estimate) for want in wants if want.kind in USES}

    def _so_far(self, want: Want, model: str, usage: Usage, estimate: Estimate) -> int:
        # What was reserved was cut to the capacity, and so is what is only likely.
        likely = min(self._of(want, model, _completed(usage, want, estimate)), want.capacity)
        return max(likely, self._of(want, model, usage))

    def _of(self, want: Want, model: str, usage: Usage) -> int:
        if want.kind == "spend":
            return self._spend(model, usage)
        tokens = 0
        if want.kind != "output_tokens":
            tokens += usage.metered_input_tokens + math.ceil(want.cache_read_weight * usage.cache_read_input_tokens)
        if want.kind != "input_tokens":
            tokens += usage.output_tokens
        return tokens


def _tokens(want: Want, estimate: Estimate) -> tuple[int, int]:
    """Return how many tokens are to be reserved, and what their sum surely comes to."""
    is_ceiling = want.is_ceiling
    output = estimate.most_output_tokens if is_ceiling else estimate.output_tokens
    if want.kind == "output_tokens":
        return output, 0
    fresh = estimate.most_input_tokens if is_ceiling else estimate.input_tokens
    if want.cache_read_weight and not is_ceiling:
        fresh += math.ceil(want.cache_read_weight * estimate.read_tokens)
    return fresh if want.kind == "input_tokens" else fresh + output, estimate.input_floor


def _likely(estimate: Estimate) -> Usage:
    return Usage(estimate.input_tokens, estimate.output_tokens, cache_read_input_tokens=estimate.read_tokens)


def _has_input(usage: Usage) -> bool:
    return usage.metered_input_tokens + usage.cache_read_input_tokens > 0


def _completed(usage: Usage, want: Want, estimate: Estimate) -> Usage:
    output = estimate.most_output_tokens if want.is_ceiling else estimate.output_tokens
    return replace(usage, output_tokens=max(usage.output_tokens, output))


def _most(estimate: Estimate) -> Usage:
    # At the dearest that input can be: written into the cache.
    return Usage(output_tokens=estimate.most_output_tokens, cache_creation_input_tokens=estimate.most_input_tokens)
