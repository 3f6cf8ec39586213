"""
Limits: the rules of the configuration, and the buckets that a call draws from under them.

A limit matches calls by globs and owns one bucket for each distinct value of what its `per` names, and of each kind that it
bounds; for spend, one more for each day or month. All that a call wants goes to the ledger as one list, and is granted as a
whole or not at all. What limits in the shadow want is in the same tuples, and kept apart by whoever asks (`is_shadow`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from headrace.budget.calendar import stretch, zone_of
from headrace.budget.costs import USES, Costs
from headrace.budget.draw import Draw
from headrace.budget.estimate import Estimate
from headrace.budget.limit import Limit, validate
from headrace.budget.matching import Match, Payer, facts, share
from headrace.budget.organisation import Organisation
from headrace.budget.want import Form, Kind, Want
from headrace.classes import ModelClasses
from headrace.endpoints import MESSAGES, named
from headrace.model import Usage

__all__ = ["Limit", "Limits", "Match", "Payer", "validate"]

_MEMO = 4096


class Limits:
    """
    All the limits; says which buckets a call draws from.

    Args:
        classes: of models.
        costs: what calls cost.
        organisation: what there is upstream, which no limit is held above.
    """

    def __init__(
        self,
        limits: Sequence[Limit] = (),
        *,
        classes: ModelClasses | None = None,
        costs: Costs | None = None,
        organisation: Organisation | None = None,
    ) -> None:
        for limit in limits:
            validate(limit)
        names = [limit.name for limit in limits]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"name {twice[0]!r}: two limits have it, and would share their buckets")
        self._limits = tuple(limits)
        self._classes = classes or ModelClasses()
        self._costs = costs or Costs()
        self._organisation = organisation or Organisation()
        self._memo: dict[tuple[object, ...], Draw] = {}
        self._memo_ends = math.inf  # when the first of the windows in it ends

    def __repr__(self) -> str:
        return f"<Limits [{', '.join(limit.name for limit in self._limits)}]>"

    def __bool__(self) -> bool:
        return bool(self._limits)

    def buckets(self, call: Payer, now: float) -> tuple[Want, ...]:
        """
        Return the buckets that a call draws from at this moment, each with the cost that is the same for all calls.

        Equal calls are given one and the same tuple, for as long as it holds.
        """
        return self.draw(call, now).buckets

    def draw(self, call: Payer, now: float) -> Draw:
        """Return the same with what follows from it; one and the same for equal calls, for as long as it holds."""
        caller = call.caller
        key = (call.model, caller.name, caller.team, caller.workspace, call.lane, call.endpoint, call.labels)
        found = self._memo.get(key)
        if found is None or now >= self._memo_ends:
            if len(self._memo) >= _MEMO or now >= self._memo_ends:  # model names are the callers' free text
                self._memo.clear()
                self._memo_ends = math.inf
            found = self._memo[key] = Draw(self._find(call, now))
            ends = (want.ends_us / 1e6 for want in found.buckets if want.form is Form.WINDOW)
            self._memo_ends = min([self._memo_ends, *ends])
        return found

    def _find(self, call: Payer, now: float) -> tuple[Want, ...]:
        known = facts(call, self._classes.of(call.model))
        wants = (want for limit in self._limits if limit.match.fits(known) for want in self._buckets_of(limit, known, now))
        is_metered = named(call.endpoint).is_metered
        return tuple(want for want in wants if is_metered or want.kind not in USES)

    def _buckets_of(self, limit: Limit, known: Mapping[str, str], now: float) -> Iterator[Want]:
        rates = ((kind, self._rate(limit, kind, rate, known)) for kind, rate in limit.rates)
        return _buckets_of(limit, rates, known, now)

    def _rate(self, limit: Limit, kind: Kind, rate: int, known: Mapping[str, str]) -> int:
        own = self._organisation.rate(limit, kind, known.get("class", ""))
        return rate if own is None else min(rate, own)

    def lowered_since(self, limit: Limit, kind: Kind, whose: Mapping[str, str]) -> float | None:
        """Return since when a bucket is held at the organisation's own rate, which is less than the limit's; None if not."""
        configured = dict(limit.rates).get(kind)
        own = self._organisation.rate(limit, kind, whose.get("class") or self._classes.of(whose.get("model", "")))
        return self._organisation.since if configured and own is not None and own < configured else None

    def windows(self, payer: Payer, now: float) -> tuple[Want, ...]:
        """Return the windows that count money spent outside all calls, at no cost; the endpoint need not be metered."""
        known = facts(payer, self._classes.of(payer.model))
        as_message = known | {"endpoint": MESSAGES.name}  # for limits that name no endpoint
        wants = (
            want
            for limit in self._limits
            if limit.windows and limit.match.fits(known if limit.match.endpoint else as_message)
            for want in self._buckets_of(limit, known, now)
        )
        return tuple(want.at(0) for want in wants if want.form is Form.WINDOW)

    @property
    def is_bounded(self) -> bool:
        """Whether it is known what there is upstream."""
        return bool(self._organisation.own)

    @property
    def all(self) -> tuple[Limit, ...]:
        """The limits themselves."""
        return self._limits

    def known(self, now: float) -> dict[str, Want]:
        """Return the buckets that calls drew from lately, and those that all calls share, by id."""
        wholes = (want for limit in self._limits if not limit.per for want in self._buckets_of(limit, {}, now))
        drawn = (want for draw in self._memo.values() for want in draw.buckets if not 0 < want.ends_us <= now * 1e6)
        return {want.bucket_id: want for wants in (wholes, drawn) for want in wants}

    def wants(self, call: Payer, estimate: Estimate, now: float) -> tuple[Want, ...]:
        """Return what a call wants of each bucket, as `Costs.reserved` has it."""
        return self.reserved(self.buckets(call, now), call.model, estimate)

    def reserved(self, buckets: Sequence[Want], model: str, estimate: Estimate) -> tuple[Want, ...]:
        """Return what a call wants of these buckets, as `Costs.reserved` has it."""
        reserved = self._costs.reserved
        return tuple([reserved(want, model, estimate) for want in buckets])

    def used(self, wants: Sequence[Want], model: str, usage: Usage, estimate: Estimate | None) -> dict[str, int]:
        """Return what a call used, by bucket id, as `Costs.used` has it."""
        return self._costs.used(wants, model, usage, estimate)


def _buckets_of(limit: Limit, rates: Iterable[tuple[Kind, int]], known: Mapping[str, str], now: float) -> Iterator[Want]:
    whose = share(limit.per, known)

    def want(kind: Kind, form: Form, rate: int, capacity: int) -> Want:
        return Want(
            f"{limit.name}:{kind}{whose}", limit.name, kind, form, rate, capacity, 1, limit.on_redis_loss,
            is_upstreams=limit.is_upstreams, is_shadow=limit.shadow,
            is_ceiling=limit.estimate == "ceiling", is_counted=limit.estimate == "counted",
            cache_read_weight=limit.cache_read_weight,
        )  # fmt: skip

    for kind, rate in rates:
        yield want(kind, Form.RATE, rate, max(1, limit.capacity(rate)))
    if limit.concurrency is not None:
        yield want("concurrency", Form.PERMIT, 0, limit.concurrency)
    for span, nano_usd in limit.windows:
        days = stretch(span, zone_of(limit.zone), now)
        bucket_id = f"{limit.name}:spend_per_{span}{whose}:from={days.id}"
        yield replace(want("spend", Form.WINDOW, 0, nano_usd), bucket_id=bucket_id, ends_us=days.ends * 1_000_000)
