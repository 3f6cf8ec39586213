"""
What the organisation itself has of each model class, by upstream's own list: no more than that is ever held of it. Pure.

A bucket that stands for all that the organisation has upstream (`Limit.is_upstreams`) is no larger than what upstream has,
whatever the configuration says, and never larger than the configuration says. A bucket of one model or class is held at what
its class has; one that several classes draw from, at what they have together. What is not in the list bounds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import msgspec

from headrace.budget.limit import Limit
from headrace.budget.want import Kind


class Own(msgspec.Struct, frozen=True):
    """What one model class has, a minute, by kind; and its models, as upstream names them."""

    rates: dict[Kind, int]
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lowered:
    """A limit says more than there is. *model_class*: of which class; "": of all that it matches, together."""

    limit: str
    kind: Kind
    model_class: str
    configured: int
    own: int


@dataclass(frozen=True, slots=True)
class Organisation:
    """What is known, by model class, and since when (Unix seconds)."""

    own: Mapping[str, Own] = field(default_factory=dict)
    since: float = 0.0

    def rate(self, limit: Limit, kind: Kind, model_class: str) -> int | None:
        """Return what there is of a kind for a bucket of a limit, a minute, None: not known; *model_class*: of whom it is."""
        if not limit.is_upstreams:
            return None
        names = [model_class] if limit.per else self._matched(limit)
        rates = [self.own[name].rates.get(kind) if name in self.own else None for name in names]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known and len(known) == len(rates) else None

    def lowered(self, limits: Sequence[Limit]) -> Iterator[Lowered]:
        """Yield where limits say more than there is."""
        for limit in limits:
            for kind, rate in limit.rates:
                for name in self._matched(limit) if limit.per else [""]:
                    own = self.rate(limit, kind, name)
                    if own is not None and own < rate:
                        yield Lowered(limit.name, kind, name, rate, own)

    def _matched(self, limit: Limit) -> list[str]:
        match = limit.match
        return [
            name
            for name, own in self.own.items()
            if fnmatchcase(name, match.model_class) and any(fnmatchcase(model, match.model) for model in own.models)
        ]
